"""From the decoder's low-resolution logits to masks of the original size, and the steps of automatic mask generation.

Two-step bilinear upscaling as in SAM: low resolution -> the padded square that the model saw -> cut the padding off ->
the original size. Everything works in blocks of prompts, so that beside its result (and it may be large: P*M masks of
the original size) a call holds at most about ``BLOCK_BYTES`` of intermediate values.

Source: §3 "Mask decoder" and App. B "Automatic mask generation" of the paper; differs from transformers 5.23 in that
wrong counts and exchanged sizes are refused, the caller's list is not changed, and scores of any dtype pass the NMS.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK_BYTES = 64 * 2**20
CROP_EDGE_TOLERANCE = 20.0  # original pixels


def preprocess_shape(size: Sequence[int], longest_edge: int) -> tuple[int, int]:
    """SAM's resize rule: the longest side becomes ``longest_edge``, the other one keeps the aspect, at least 1 px.

    Args:
        size: (H,W), original pixels.
        longest_edge: Resized pixels.

    Returns:
        (H,W), resized pixels.
    """
    height, width = int(size[0]), int(size[1])
    scale = longest_edge * 1.0 / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def size_list(sizes: Any, name: str) -> list[tuple[int, int]]:
    """Read sizes given as tensor, array or nested list.

    Raises:
        ValueError: If it is not a list of (H,W) with positive entries.
    """
    if isinstance(sizes, (Tensor, np.ndarray)):
        sizes = sizes.tolist()
    try:
        pairs = [tuple(int(side) for side in size) for size in sizes]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected one (height, width) per image, got {sizes!r}") from error
    for index, pair in enumerate(pairs):
        if len(pair) != 2 or min(pair) < 1:
            raise ValueError(f"{name}[{index}]: expected a positive (height, width), got {pair}")
    return pairs


def upscale_masks(
    masks: Any,
    original_sizes: Any,
    reshaped_input_sizes: Any,
    pad_shape: tuple[int, int],
    longest_edge: int | None = None,
    mask_threshold: float = 0.0,
    binarize: bool = True,
) -> list[Tensor]:
    """Remove the padding and upscale masks to the original sizes.

    Args:
        masks: Per image (P,M,h,w) logits: one tensor (B,P,M,h,w) or a list of B tensors or arrays.
        original_sizes: B times (H,W), original pixels.
        reshaped_input_sizes: B times (H,W), resized pixels.
        pad_shape: (H,W) of the padded square, resized pixels.
        longest_edge: Longest side of a resized image if known; used to notice that the two sizes were exchanged.
        mask_threshold: Logits above it belong to the mask.
        binarize: Return bool masks; otherwise logits in the dtype of ``masks``.

    Returns:
        Per image (P,M,H,W), original pixels, on the device of the masks.

    Raises:
        TypeError: If a mask is not a tensor or array of floats.
        ValueError: If counts, shapes or sizes do not fit together.
    """
    logits = [_as_logits(mask, index) for index, mask in enumerate(masks)]
    originals = size_list(original_sizes, "original_sizes")
    reshaped = size_list(reshaped_input_sizes, "reshaped_input_sizes")
    if not len(logits) == len(originals) == len(reshaped):
        raise ValueError(
            "post_process_masks: expected one entry per image, "
            f"got {len(logits)} masks, {len(originals)} original_sizes and {len(reshaped)} reshaped_input_sizes"
        )
    upscaled = []
    for index, (mask, original, resized) in enumerate(zip(logits, originals, reshaped, strict=True)):
        _check_sizes(index, original, resized, pad_shape, longest_edge)
        upscaled.append(_upscale(mask, original, resized, pad_shape, mask_threshold, binarize))
    return upscaled


def _as_logits(mask: Any, index: int) -> Tensor:
    if isinstance(mask, np.ndarray):
        mask = torch.from_numpy(np.ascontiguousarray(mask))
    elif not isinstance(mask, Tensor):
        raise TypeError(f"masks[{index}]: expected a torch tensor or a numpy array, got {type(mask).__name__}")
    if not mask.is_floating_point():
        raise TypeError(f"masks[{index}]: expected logits of a float dtype, got {mask.dtype}")
    if mask.ndim != 4:
        raise ValueError(f"masks[{index}]: expected the shape (prompts, masks, h, w), got {tuple(mask.shape)}")
    return mask


def _check_sizes(
    index: int,
    original: tuple[int, int],
    resized: tuple[int, int],
    pad_shape: tuple[int, int],
    longest_edge: int | None,
) -> None:
    if resized[0] > pad_shape[0] or resized[1] > pad_shape[1]:
        raise ValueError(
            f"reshaped_input_sizes[{index}]: {resized} does not fit in the padded input {tuple(pad_shape)}; "
            "were original_sizes and reshaped_input_sizes exchanged?"
        )
    if longest_edge is not None and resized != original and max(resized) != longest_edge == max(original):
        raise ValueError(
            f"reshaped_input_sizes[{index}]: expected a longest side of {longest_edge}, got {resized} for the original"
            f" size {original}; were original_sizes and reshaped_input_sizes exchanged? (If not, pass pad_size.)"
        )
    expected = preprocess_shape(original, max(resized))
    if abs(expected[0] - resized[0]) > 1 or abs(expected[1] - resized[1]) > 1:
        raise ValueError(
            f"reshaped_input_sizes[{index}]: {resized} has not the aspect of original_sizes[{index}] = {original}; "
            "both are (height, width)"
        )


def _upscale(
    mask: Tensor,
    original: tuple[int, int],
    resized: tuple[int, int],
    pad_shape: tuple[int, int],
    threshold: float,
    binarize: bool,
) -> Tensor:
    work_dtype = torch.float32 if mask.dtype in (torch.float16, torch.bfloat16) else mask.dtype
    out_dtype = torch.bool if binarize else mask.dtype
    prompts, per_prompt = mask.shape[:2]
    pixels = per_prompt * (pad_shape[0] * pad_shape[1] + original[0] * original[1])
    block = max(1, int(BLOCK_BYTES // max(1, pixels * torch.finfo(work_dtype).bits // 8)))
    needed, padded = _needed_part(tuple(mask.shape[-2:]), resized, pad_shape)
    result = None
    if block < prompts or 0 in mask.shape[:2]:
        result = torch.empty((prompts, per_prompt, *original), dtype=out_dtype, device=mask.device)
    for start in range(0, prompts if per_prompt else 0, block):
        part = mask[start : start + block, :, : needed[0], : needed[1]].to(work_dtype)  # (block,M,<=h,<=w)
        part = F.interpolate(part, padded, mode="bilinear", align_corners=False)
        part = part[..., : resized[0], : resized[1]]
        part = F.interpolate(part, original, mode="bilinear", align_corners=False)
        part = part > threshold if binarize else part.to(out_dtype)
        if result is None:
            return part
        result[start : start + block] = part
    return result


def _needed_part(
    low: tuple[int, int], resized: tuple[int, int], pad_shape: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The corner of a low-resolution mask that the image depends on, and the size it is upscaled to.

    Rows and columns that only hold padding need no upscaling. With a whole-numbered scale the values do not change by
    a bit; otherwise everything is taken.
    """
    needed, padded = [], []
    for side, used, full in zip(low, resized, pad_shape, strict=True):
        factor = full // side if full % side == 0 else None
        kept = side if factor is None else min(side, -(-used // factor) + 1)
        needed.append(kept)
        padded.append(full if factor is None else kept * factor)
    return (needed[0], needed[1]), (padded[0], padded[1])


def stability_scores(masks: Tensor, mask_threshold: float, stability_score_offset: float) -> Tensor:
    """IoU between a mask cut at a high and at a low threshold.

    Args:
        masks: (...,H,W) logits.
        mask_threshold: The threshold of the mask itself.
        stability_score_offset: How far above and below it the two cuts are.

    Returns:
        (...) float32; NaN where the mask is empty at both.
    """
    inner = (masks > (mask_threshold + stability_score_offset)).flatten(-2).sum(-1)
    outer = (masks > (mask_threshold - stability_score_offset)).flatten(-2).sum(-1)
    return inner / outer  # the inner cut lies within the outer one, which is therefore their union


def masks_to_boxes(masks: Tensor) -> Tensor:
    """Bounding boxes of binary masks.

    Args:
        masks: (...,H,W) bool.

    Returns:
        (...,4) int64 xyxy of the outermost pixels, in the pixels of the mask; zeros for an empty mask.
    """
    height, width = masks.shape[-2:]
    if masks.numel() == 0:
        return torch.zeros(*masks.shape[:-2], 4, dtype=torch.int64, device=masks.device)
    rows, columns = masks.any(-1).to(torch.int8), masks.any(-2).to(torch.int8)
    boxes = torch.stack(
        [
            columns.argmax(-1),
            rows.argmax(-1),
            width - 1 - columns.flip(-1).argmax(-1),
            height - 1 - rows.flip(-1).argmax(-1),
        ],
        dim=-1,
    )
    return boxes * rows.any(-1)[..., None]


def filter_crop_masks(
    masks: Tensor,
    iou_scores: Tensor,
    original_size: Sequence[int],
    crop_box: Any,
    pred_iou_thresh: float,
    stability_score_thresh: float,
    mask_threshold: float,
    stability_score_offset: float,
) -> tuple[list[dict[str, Any]], Tensor, Tensor]:
    """Keep the masks of one crop that are good, stable and not cut by the crop.

    Args:
        masks: (P,M,H,W) logits in the pixels of the crop.
        iou_scores: (P,M).
        original_size: (H,W) of the whole image, original pixels.
        crop_box: xyxy of the crop, original pixels.
        pred_iou_thresh: Least predicted IoU, exclusive; 0 or less switches the test off.
        stability_score_thresh: Least stability score, exclusive; 0 or less switches the test off.
        mask_threshold: Logits above it belong to the mask.
        stability_score_offset: See `stability_scores`.

    Returns:
        Uncompressed RLE of the whole image for each kept mask, their scores, and their boxes (xyxy, original pixels).

    Raises:
        ValueError: If masks and scores differ in number.
    """
    height, width = int(original_size[0]), int(original_size[1])
    crop = [int(side) for side in torch.as_tensor(crop_box).flatten().tolist()]
    scores, masks = iou_scores.flatten(0, 1).to(masks.device), masks.flatten(0, 1)
    if masks.shape[0] != scores.shape[0]:
        raise ValueError(f"masks and iou_scores: expected as many masks as scores, got {len(masks)} and {len(scores)}")
    kept = torch.arange(masks.shape[0], device=masks.device)
    if pred_iou_thresh > 0.0:
        kept = kept[scores > pred_iou_thresh]
    rles: list[dict[str, Any]] = []
    boxes: list[Tensor] = []
    survivors: list[Tensor] = []
    block = max(1, BLOCK_BYTES // (4 * max(1, masks.shape[-2] * masks.shape[-1])))
    for indices in kept.split(block):
        part = masks[indices]
        if stability_score_thresh > 0.0:
            stable = stability_scores(part, mask_threshold, stability_score_offset) > stability_score_thresh
            indices, part = indices[stable], part[stable]
        binary = part > mask_threshold
        part_boxes = masks_to_boxes(binary) + torch.tensor(crop[:2] * 2, device=masks.device)
        whole = ~touches_crop_edge(part_boxes, crop, (0, 0, width, height))
        rles.extend(mask_to_rle(pad_to_image(binary[whole], crop, height, width)))
        boxes.append(part_boxes[whole])
        survivors.append(indices[whole])
    if not survivors:
        return [], scores[:0], torch.zeros(0, 4, dtype=torch.int64, device=masks.device)
    return rles, scores[torch.cat(survivors)], torch.cat(boxes)


def touches_crop_edge(boxes: Tensor, crop_box: Sequence[int], image_box: Sequence[int]) -> Tensor:
    """Whether a box ends at an edge of its crop that is not an edge of the image.

    Args:
        boxes: (n,4) xyxy, original pixels.
        crop_box: xyxy, original pixels.
        image_box: xyxy, original pixels.

    Returns:
        (n,) bool.
    """
    near_crop = (boxes - torch.as_tensor(crop_box, device=boxes.device)).abs() <= CROP_EDGE_TOLERANCE
    near_image = (boxes - torch.as_tensor(image_box, device=boxes.device)).abs() <= CROP_EDGE_TOLERANCE
    return (near_crop & ~near_image).any(-1)


def pad_to_image(masks: Tensor, crop_box: Sequence[int], height: int, width: int) -> Tensor:
    """Put masks (n,h,w) of a crop back into the whole image -> (n,H,W)."""
    left, top, right, bottom = crop_box
    if (left, top, right, bottom) == (0, 0, width, height):
        return masks
    return F.pad(masks, (left, width - right, top, height - bottom), value=0)


def mask_to_rle(masks: Tensor) -> list[dict[str, Any]]:
    """Run-length encode (n,H,W) masks column by column, starting with background: COCO's uncompressed format."""
    height, width = masks.shape[-2:]
    columns = masks.transpose(-1, -2).flatten(-2).cpu().numpy() != 0  # (n,W*H)
    encoded = []
    for flat in columns:
        changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        counts = np.diff(np.concatenate(([0], changes, [flat.size]))).tolist()
        encoded.append({"size": [height, width], "counts": [0, *counts] if flat.size and flat[0] else counts})
    return encoded


def rle_to_mask(rle: dict[str, Any]) -> Tensor:
    """Decode one uncompressed RLE -> (H,W) bool."""
    height, width = rle["size"]
    counts = np.asarray(rle["counts"], dtype=np.int64)
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return torch.from_numpy(flat.reshape(width, height)).T


def suppress_duplicates(rles: Sequence[dict[str, Any]], scores: Tensor, boxes: Tensor, threshold: float) -> Tensor:
    """Non-maximum suppression of boxes -> indices of the kept ones, best first.

    Raises:
        ValueError: If the counts differ or the threshold is not in [0,1].
    """
    from torchvision.ops import batched_nms

    if not len(rles) == len(scores) == len(boxes):
        raise ValueError(
            f"expected as many masks as scores and boxes, got {len(rles)}, {len(scores)} and {len(boxes)}"
        )
    if not 0.0 <= threshold <= 1.0:
        raise ValueError(f"crops_nms_thresh: expected a number in [0,1], got {threshold}")
    # float32: torchvision wants boxes and scores of one dtype, and bfloat16 cannot tell near pixels apart. The batched
    # form as in transformers: among many boxes the plain one puts equal scores in another order.
    one_class = torch.zeros(len(boxes), device=boxes.device)
    return batched_nms(boxes.float(), scores.float(), one_class, threshold)
