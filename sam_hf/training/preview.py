"""A picture of what a model in training predicts: per object one row of image + click, ground truth, prediction."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from sam_hf.training.scene_dataset import denormalise

TRUTH, PREDICTED = (40, 200, 90), (60, 120, 255)


def contact_sheet(
    pixel_values: torch.Tensor, masks: torch.Tensor, points: torch.Tensor, logits: torch.Tensor, tile: int = 192
) -> Image.Image:
    """Draws B * P rows of three tiles.

    Args:
        pixel_values: (B, 3, S, S) normalised images.
        masks: (B, P, H, W) ground truth.
        points: (B, P, 2) the click, resized pixels.
        logits: (B, P, 4h, 4w) prediction.
        tile: side of a tile in the picture, px.

    Returns:
        RGB picture, `3 * tile` wide.
    """
    batch, prompts = points.shape[:2]
    size = pixel_values.shape[-1]
    sheet = Image.new("RGB", (3 * tile, batch * prompts * tile))
    truth = F.interpolate(masks.float(), (size, size)) > 0.5
    predicted = F.interpolate(logits.float(), (size, size), mode="bilinear") > 0
    for image in range(batch):
        pixels = denormalise(pixel_values[image])
        for prompt in range(prompts):
            top = (image * prompts + prompt) * tile
            clicked = Image.fromarray(pixels).resize((tile, tile))
            x, y = ((points[image, prompt].cpu() + 0.5) * (tile / size)).tolist()
            ImageDraw.Draw(clicked).ellipse((x - 4, y - 4, x + 4, y + 4), fill=(255, 40, 40), outline="white")
            sheet.paste(clicked, (0, top))
            for column, (mask, colour) in enumerate(((truth, TRUTH), (predicted, PREDICTED)), start=1):
                shown = _tint(pixels, mask[image, prompt].cpu().numpy(), colour)
                sheet.paste(Image.fromarray(shown).resize((tile, tile)), (column * tile, top))
    return sheet


def _tint(pixels: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    shown = pixels.astype(np.float32) * 0.6
    shown[mask] = 0.4 * pixels[mask] + 0.6 * np.array(colour, dtype=np.float32)
    return shown.clip(0, 255).astype(np.uint8)
