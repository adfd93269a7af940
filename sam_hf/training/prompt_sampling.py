"""Simulated prompts: what a person would have clicked, drawn or roughly painted.

Masks come as (B, P, H, W) at any resolution; points and boxes go out in *resized* pixels, the frame of
`SamModel.forward`. A pixel (row i, column j) of a mask with cell size s (= image_size / W) covers [j*s, (j+1)*s);
the model adds 0.5 to what it is given, so the point that lands on the centre of that cell is ((j + 0.5) * s - 0.5,
(i + 0.5) * s - 0.5). At s = 1 that is simply (j, i).

Everything is vectorised over masks, uses the global torch generator of the masks' device, and allocates one integer
map per call.

Source: §3 and appendix A "Prompt sampling" / interactive segmentation. Differs in: a fraction of the clicks may be put
where people, and the paper's evaluation (appendix D.1), click: into the middle of what they mean.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F

NO_BOX = -10.0
NO_POINT = -10
BOX_NOISE = 0.1
BOX_NOISE_MAX_FRACTION = 20.0 / 1024.0  # "maximum of 20 pixels" on the paper's 1024 px images


def _check_masks(masks: torch.Tensor, name: str = "masks") -> None:
    if masks.ndim != 4:
        raise ValueError(f"{name} must have shape (B, P, H, W), got {tuple(masks.shape)}")


def _to_resized_pixels(index: torch.Tensor, width: int, height: int, image_size: int) -> torch.Tensor:
    """Flat pixel index (B, P) of a mask of `height` x `width` -> xy (B, P, 2) in resized pixels."""
    column, row = index % width, torch.div(index, width, rounding_mode="floor")
    x = (column.float() + 0.5) * (image_size / width) - 0.5
    y = (row.float() + 0.5) * (image_size / height) - 0.5
    return torch.stack([x, y], dim=-1)


def _random_pixel(region: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A uniformly random true pixel of each region.

    Draws a rank and finds the pixel of that rank in the running count: one random number per mask and no per-pixel
        noise.

    Returns:
        index: (B, P) flat pixel index, 0 where the region is empty.
        count: (B, P) number of true pixels.
    """
    rank_of = region.flatten(2).cumsum(-1, dtype=torch.int32)  # (B,P,H*W)
    count = rank_of[..., -1].clone()
    # the float product can round up to `count` itself, hence the clamp
    rank = (torch.rand(count.shape, device=region.device) * count).to(torch.int32)
    rank = torch.minimum(rank, (count - 1).clamp(min=0)) + 1
    index = torch.searchsorted(rank_of, rank.unsqueeze(-1)).squeeze(-1)
    return torch.where(count > 0, index, torch.zeros_like(index)), count


def _deepest_pixels(regions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The pixel of each region (n, H, W) bool that is farthest from its outside; the image's rim counts as outside.

    Returns:
        index: (n,) flat pixel index, 0 where the region is empty.
        depth: (n,) that distance in pixels, 0 where the region is empty.
    """
    index, depth = np.zeros(len(regions), np.int64), np.zeros(len(regions), np.float32)
    for i, region in enumerate(regions.to("cpu", torch.uint8).numpy()):
        distance = cv2.distanceTransform(np.pad(region, 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
        index[i] = distance.argmax()
        depth[i] = distance.flat[index[i]]
    return torch.from_numpy(index).to(regions.device), torch.from_numpy(depth).to(regions.device)


def sample_points(masks: torch.Tensor, image_size: int, middle: float = 0.0) -> torch.Tensor:
    """One foreground point per mask, uniformly random or in the mask's middle.

    Args:
        masks: (B, P, H, W) bool or {0, 1}.
        image_size: side of the model's input in resized pixels.
        middle: probability of the pixel that is farthest from the mask's boundary instead of a random one.

    Returns:
        (B, P, 2) xy in resized pixels; the top-left pixel for an empty mask (mask such prompts out).

    Raises:
        ValueError: `masks` is not four-dimensional.
    """
    _check_masks(masks)
    truth = masks.bool()
    index, _ = _random_pixel(truth)
    if middle > 0:
        chosen = torch.rand(index.shape, device=index.device) < middle
        index[chosen] = _deepest_pixels(truth[chosen])[0]
    return _to_resized_pixels(index, masks.shape[-1], masks.shape[-2], image_size)


def sample_error_points(
    predicted: torch.Tensor, masks: torch.Tensor, image_size: int, middle: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The next click: a pixel on which prediction and ground truth disagree, uniformly random or in the middle.

    A missed pixel (false negative) gives a foreground point, a surplus pixel (false positive) a background point.
    Where the prediction is perfect the point comes from the ground truth with label 1 (the paper does not say; a
    confirming click changes nothing for the worse).

    Args:
        predicted: (B, P, H, W) bool, thresholded prediction.
        masks: (B, P, H, W) ground truth.
        image_size: side of the model's input in resized pixels.
        middle: probability of the deepest pixel of the missed or the surplus region, whichever is deeper, instead of
            a random one.

    Returns:
        points: (B, P, 2) xy in resized pixels.
        labels: (B, P) int64, 1 or 0; `NO_POINT` where prediction and ground truth are both empty.

    Raises:
        ValueError: shapes differ or are not four-dimensional.
    """
    _check_masks(masks)
    if predicted.shape != masks.shape:
        raise ValueError(f"predicted {tuple(predicted.shape)} and masks {tuple(masks.shape)} must have the same shape")
    truth = masks.bool()
    error = predicted.bool() ^ truth
    region = torch.where(error.flatten(2).any(-1)[..., None, None], error, truth)
    index, count = _random_pixel(region)
    if middle > 0:
        chosen = torch.rand(index.shape, device=index.device) < middle
        missed, missed_depth = _deepest_pixels((region & truth)[chosen])
        surplus, surplus_depth = _deepest_pixels((region & ~truth)[chosen])
        index[chosen] = torch.where(missed_depth >= surplus_depth, missed, surplus)
    labels = truth.flatten(2).gather(-1, index.unsqueeze(-1)).squeeze(-1).long()
    labels = torch.where(count > 0, labels, torch.full_like(labels, NO_POINT))
    return _to_resized_pixels(index, masks.shape[-1], masks.shape[-2], image_size), labels


def tight_boxes(masks: torch.Tensor, image_size: int) -> torch.Tensor:
    """Tight boxes (B, P, 4), xyxy in resized pixels, corners at the outermost foreground pixel centres; `NO_BOX`
    rows for empty masks.

    The corner is a pixel, not the far edge of that pixel, as in Meta's `batched_mask_to_box`: the model adds 0.5 to
    either corner.

    Raises:
        ValueError: `masks` is not four-dimensional.
    """
    _check_masks(masks)
    height, width = masks.shape[-2:]
    masks = masks.bool()
    rows, columns = masks.any(-1), masks.any(-2)  # (B,P,H), (B,P,W)
    # argmax of a bool map is the first true entry
    y0, x0 = rows.int().argmax(-1), columns.int().argmax(-1)
    y1, x1 = height - 1 - rows.flip(-1).int().argmax(-1), width - 1 - columns.flip(-1).int().argmax(-1)
    step_x, step_y = image_size / width, image_size / height
    boxes = torch.stack(
        [
            (x0 + 0.5) * step_x - 0.5,
            (y0 + 0.5) * step_y - 0.5,
            (x1 + 0.5) * step_x - 0.5,
            (y1 + 0.5) * step_y - 0.5,
        ],
        dim=-1,
    )
    return torch.where(rows.any(-1)[..., None], boxes, torch.full_like(boxes, NO_BOX))


def jitter_boxes(
    boxes: torch.Tensor, image_size: int, noise: float = BOX_NOISE, distribution: str = "normal"
) -> torch.Tensor:
    """Boxes as a hurried person draws them: each coordinate moves by about 10 % of its side, at most 20 px of 1024.

    Args:
        boxes: (..., 4) xyxy in resized pixels; `NO_BOX` rows stay as they are.
        image_size: side of the model's input; it scales the 20 px cap, and the result is clamped to it.
        noise: standard deviation (`"normal"`, the paper) or half-width (`"uniform"`, SAM 2) as a fraction of the side.
        distribution: `"normal"` or `"uniform"`.

    Raises:
        ValueError: unknown `distribution`.
    """
    if distribution not in ("normal", "uniform"):
        raise ValueError(f"distribution must be 'normal' or 'uniform', got {distribution!r}")
    absent = (boxes == NO_BOX).all(-1, keepdim=True)
    extent = boxes[..., 2:] - boxes[..., :2]  # (..., 2) width, height
    sides = torch.cat([extent, extent], dim=-1)
    draw = torch.randn_like(boxes) if distribution == "normal" else torch.rand_like(boxes) * 2 - 1
    limit = BOX_NOISE_MAX_FRACTION * image_size
    moved = (boxes + (draw * noise * sides).clamp(-limit, limit)).clamp(0, image_size - 1)
    # a thin box may turn over: keep xyxy order
    low, high = torch.minimum(moved[..., :2], moved[..., 2:]), torch.maximum(moved[..., :2], moved[..., 2:])
    return torch.where(absent, boxes, torch.cat([low, high], dim=-1))


def rough_masks(masks: torch.Tensor, magnitude: tuple[float, float] = (2.0, 20.0)) -> torch.Tensor:
    """Degraded ground truth as mask-prompt logits: what a brush or another model would hand over for refinement.

    The blurred mask plus coarse noise is thresholded again (ragged or wobbly outline, bites, blobs), and given one
    random confidence per mask. On the synthetic scenes the result has a mean IoU of about 0.75 with the truth.

    Args:
        masks: (B, P, H, W) at the decoder's low resolution.
        magnitude: range of |logit|, drawn log-uniformly per mask.

    Returns:
        (B, P, 1, H, W) float32 logits.

    Raises:
        ValueError: `masks` is not four-dimensional.

    Source: ours; the paper feeds masks only as previous predictions, HQ-SAM and MedSAM start from noisy masks.
    """
    _check_masks(masks)
    batch, prompts, height, width = masks.shape
    flat = masks.reshape(1, batch * prompts, height, width).float()
    kernel = max(3, (min(height, width) // 16) | 1)
    soft = F.avg_pool2d(flat, kernel, stride=1, padding=kernel // 2, count_include_pad=False)
    # a hand slips by a fraction of the object: small ones get less of the noise, which would erase them
    diameter = flat.sum(dim=(-2, -1), keepdim=True).sqrt() / (0.25 * min(height, width))
    amount = (0.5 + 0.5 * diameter.clamp(max=1.0)) * torch.rand(1, batch * prompts, 1, 1, device=masks.device)
    grid = max(2, min(height, width) // 8)
    noise = F.interpolate(
        torch.randn(1, batch * prompts, grid, grid, device=masks.device), (height, width), mode="bilinear"
    )
    bias = torch.rand(1, batch * prompts, 1, 1, device=masks.device) - 0.5  # shrinks or grows the outline
    sharp = 0.5 * (soft + flat)  # thin objects survive the blur
    rough = (sharp - 0.5 + (noise + bias) * amount) > 0
    # noise far from the object would invent unrelated blobs: keep what touches the object's surroundings
    near = F.max_pool2d(soft, kernel, stride=1, padding=kernel // 2) > 0
    rough = rough & near
    low, high = (torch.tensor(v).log() for v in magnitude)
    level = (low + (high - low) * torch.rand(1, batch * prompts, 1, 1, device=masks.device)).exp()
    return ((rough.float() * 2 - 1) * level).reshape(batch, prompts, 1, height, width)


def reduce_masks(masks: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Masks at the decoder's resolution: a low-resolution pixel is foreground when more than half of its area is.

    Args:
        masks: (B, P, H, W) bool or {0, 1}; H and W are at least `size`.
        size: (4h, 4w).

    Returns:
        (B, P, 4h, 4w) bool.

    Raises:
        ValueError: `masks` is not four-dimensional or smaller than `size`.
    """
    _check_masks(masks)
    if masks.shape[-2] < size[0] or masks.shape[-1] < size[1]:
        raise ValueError(f"masks {tuple(masks.shape)} are smaller than the decoder's resolution {tuple(size)}")
    if tuple(masks.shape[-2:]) == tuple(size):
        return masks.bool()
    return F.adaptive_avg_pool2d(masks.float(), size) > 0.5
