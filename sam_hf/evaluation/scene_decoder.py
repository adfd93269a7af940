"""What the protocols need of a model: encode pictures once, answer many prompts given in original pixels.

The protocols only know the `Decode` callable, so a rule-based decoder, a peer's model or an oracle can be measured by
the same code. `SceneEncoder` makes such callables from a `SamModel` and its processor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F

__all__ = ["Decode", "Decoded", "SceneEncoder", "mask_prompt_logits"]

# Certainty of a binary mask handed over as a prompt; previous-round logits, which the prompt encoder knows from
# training, are of this size where the model is confident.
CERTAIN_LOGIT = 8.0


@dataclass(frozen=True)
class Decoded:
    """Answer to P prompts on one picture.

    Args:
        masks: Boolean (P, M, H, W), original pixels.
        scores: Predicted IoU, float (P, M).
        logits: Low-resolution mask logits, float (P, M, 4h, 4w), to be fed back as `previous`.
    """

    masks: np.ndarray
    scores: np.ndarray
    logits: np.ndarray


class Decode(Protocol):
    """Answers P prompts on one picture; every argument is per prompt and in original pixels."""

    def __call__(
        self,
        *,
        points: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        boxes: np.ndarray | None = None,
        masks: np.ndarray | None = None,
        previous: np.ndarray | None = None,
        text: Sequence[str] | None = None,
        multimask: bool = True,
    ) -> Decoded:
        """Decode.

        Args:
            points: (P, N, 2), xy.
            labels: (P, N), 1 foreground, 0 background.
            boxes: (P, 4), xyxy.
            masks: Rough masks, boolean (P, H, W).
            previous: Logits of an earlier answer, (P, 4h, 4w); excludes `masks`.
            text: One phrase per prompt.
            multimask: True -> three masks per prompt, False -> one.
        """
        ...


def mask_prompt_logits(masks: np.ndarray, resized: tuple[int, int], image_size: int, side: int) -> torch.Tensor:
    """Binary masks as the logits that the prompt encoder takes.

    Args:
        masks: Boolean (P, H, W), original pixels.
        resized: (height, width) of the picture inside the padded model image.
        image_size: Side S of the padded model image.
        side: Side 4h of the mask prompt.

    Returns:
        float32 (P, 1, 4h, 4w): each cell's covered share, mapped linearly to +-`CERTAIN_LOGIT`; padding is background.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(masks)).float().unsqueeze(1)  # (P, 1, H, W)
    pixels = F.interpolate(pixels, size=resized, mode="bilinear", align_corners=False, antialias=True)
    pixels = F.pad(pixels, (0, image_size - resized[1], 0, image_size - resized[0]))  # (P, 1, S, S)
    covered = F.interpolate(pixels, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
    return (2 * covered - 1) * CERTAIN_LOGIT


class SceneEncoder:
    """Encodes pictures with a `SamModel` and hands out one `Decode` per picture.

    Args:
        model: A `SamModel`; device and dtype are its own. Put it in eval mode first.
        processor: Its `SamProcessor`.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model
        self.processor = processor
        self.device = next(model.parameters()).device
        self.dtype = next(model.parameters()).dtype
        self.image_size = int(model.config.vision_config.image_size)
        self.mask_side = 4 * int(model.config.prompt_encoder_config.image_embedding_size)

    @property
    def understands_text(self) -> bool:
        """Whether the checkpoint has a text branch."""
        return getattr(self.model.config, "text_config", None) is not None

    @torch.inference_mode()
    def encode(self, images: Sequence[np.ndarray]) -> list[Decode]:
        """Run the image encoder once over a batch.

        Args:
            images: uint8 (H, W, 3) each; sizes may differ.

        Returns:
            One `Decode` per image.
        """
        inputs = self.processor(images=list(images), return_tensors="pt")
        pixels = inputs["pixel_values"].to(self.device, self.dtype)
        embeddings = self.model.get_image_embeddings(pixels)  # (B, C, h, w)
        originals = torch.as_tensor(inputs["original_sizes"]).tolist()
        resizeds = torch.as_tensor(inputs["reshaped_input_sizes"]).tolist()
        return [
            partial(self._decode, embeddings[index : index + 1], tuple(originals[index]), tuple(resizeds[index]))
            for index in range(len(images))
        ]

    @torch.inference_mode()
    def _decode(
        self,
        embedding: torch.Tensor,
        original: tuple[int, int],
        resized: tuple[int, int],
        *,
        points: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        boxes: np.ndarray | None = None,
        masks: np.ndarray | None = None,
        previous: np.ndarray | None = None,
        text: Sequence[str] | None = None,
        multimask: bool = True,
    ) -> Decoded:
        if masks is not None and previous is not None:
            raise ValueError("masks: expected either rough masks or `previous` logits, got both")
        scale = np.array([resized[1] / original[1], resized[0] / original[0]])
        prompts: dict[str, torch.Tensor] = {}
        if points is not None:
            if labels is None:
                raise ValueError("labels: expected one label per point, got None")
            prompts["input_points"] = self._tensor(np.asarray(points) * scale).unsqueeze(0)  # (1, P, N, 2)
            prompts["input_labels"] = torch.as_tensor(np.asarray(labels), device=self.device).long().unsqueeze(0)
        if boxes is not None:
            prompts["input_boxes"] = self._tensor(np.asarray(boxes) * np.tile(scale, 2)).unsqueeze(0)  # (1, P, 4)
        if masks is not None:
            logits = mask_prompt_logits(masks, resized, self.image_size, self.mask_side)
            prompts["input_masks"] = self._tensor(logits).unsqueeze(0)  # (1, P, 1, 4h, 4w)
        if previous is not None:
            prompts["input_masks"] = self._tensor(previous)[None, :, None]  # (1, P, 1, 4h, 4w)
        if text is not None:
            prompts.update(self._tokens(text))
        output = self.model(image_embeddings=embedding, multimask_output=multimask, **prompts)
        upsampled = self.processor.post_process_masks(
            output.pred_masks.float().cpu(), torch.tensor([original]), torch.tensor([resized])
        )[0]  # (P, M, H, W)
        return Decoded(
            masks=np.asarray(upsampled, dtype=bool),
            scores=output.iou_scores[0].float().cpu().numpy(),
            logits=output.pred_masks[0].float().cpu().numpy(),
        )

    def _tensor(self, values: np.ndarray | torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(values).to(self.device, torch.float32)

    def _tokens(self, text: Sequence[str]) -> dict[str, torch.Tensor]:
        tokens = self.processor.tokenizer(list(text))
        return {name: tokens[name].to(self.device).unsqueeze(0) for name in ("input_ids", "attention_mask")}
