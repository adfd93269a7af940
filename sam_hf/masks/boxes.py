"""Boxes of masks and their two spellings.

Everything is in pixels of the mask, with the edges of pixels as coordinates: a mask that consists of pixel (x=3, y=5)
alone has the box xyxy (3, 5, 4, 6), xywh (3, 5, 1, 1). That is COCO's convention.

Source: Meta's `batched_mask_to_box`; differs in that the right and lower side are edges, not the last pixel's index,
so that a box has the width of what it holds.
"""

import numpy as np


def mask_to_xyxy(mask: np.ndarray) -> np.ndarray:
    """The smallest box around each mask.

    Args:
        mask: (..., H, W) booleans.

    Returns:
        (..., 4) int64 xyxy; zeros for an empty mask.

    Raises:
        ValueError: If `mask` has fewer than two dimensions.
    """
    mask = np.asarray(mask)
    if mask.ndim < 2:
        raise ValueError(f"mask must have shape (..., H, W), got {mask.shape}")
    height, width = mask.shape[-2:]
    if height == 0 or width == 0:
        return np.zeros((*mask.shape[:-2], 4), dtype=np.int64)
    rows, columns = (mask != 0).any(axis=-1), (mask != 0).any(axis=-2)  # (..., H), (..., W)
    left, top = columns.argmax(axis=-1), rows.argmax(axis=-1)
    right = width - columns[..., ::-1].argmax(axis=-1)
    bottom = height - rows[..., ::-1].argmax(axis=-1)
    return np.stack([left, top, right, bottom], axis=-1) * rows.any(axis=-1)[..., None]


def mask_to_xywh(mask: np.ndarray) -> np.ndarray:
    """The smallest box around each mask (..., H, W) as (..., 4) int64 xywh; zeros for an empty mask."""
    return xyxy_to_xywh(mask_to_xyxy(mask))


def xyxy_to_xywh(boxes: np.ndarray) -> np.ndarray:
    """(..., 4) left, top, right, bottom -> left, top, width, height."""
    boxes = _four(boxes)
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


def xywh_to_xyxy(boxes: np.ndarray) -> np.ndarray:
    """(..., 4) left, top, width, height -> left, top, right, bottom."""
    boxes = _four(boxes)
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)


def _four(boxes: np.ndarray) -> np.ndarray:
    boxes = np.asarray(boxes)
    if boxes.ndim == 0 or boxes.shape[-1] != 4:
        raise ValueError(f"boxes must have shape (..., 4), got {boxes.shape}")
    return boxes
