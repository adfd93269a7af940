"""Simulated users: where they click, which box they draw, how rough the mask is that they bring.

Everything here is a pure function of boolean masks in *original* (scene) pixels. A click (x, y) names a pixel by its
integer column and row; the prompt encoder adds the half pixel.

Source: Segment Anything, App. D.1 "Point sampling"; the same protocol as RITM's `NoC` evaluation. Differs in: a
    prediction without any error is answered by another click on the object instead of by an undefined point.
"""

import cv2
import numpy as np

from ..masks.boxes import mask_to_xyxy

__all__ = ["interior_point", "next_click", "rough_mask", "tight_box"]

ROUGH_KINDS = ("eroded", "dilated", "shifted")


def _as_mask(mask: np.ndarray, argument: str) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(f"{argument}: expected a boolean array (H, W), got {mask.dtype} of shape {mask.shape}")
    return mask


def _depth(region: np.ndarray) -> np.ndarray:
    """Distance of every pixel to the outside of `region`, (H, W) float32; the picture's rim counts as outside."""
    padded = np.pad(region.astype(np.uint8), 1)
    return cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]


def _deepest(depth: np.ndarray) -> tuple[int, int]:
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(column), int(row)


def interior_point(mask: np.ndarray) -> tuple[int, int]:
    """The pixel farthest from the mask's boundary: the first click.

    Args:
        mask: Boolean mask (H, W) with at least one pixel.

    Returns:
        (x, y) in the mask's own pixels; always inside the mask.

    Raises:
        ValueError: `mask` is not a boolean (H, W) array, or is empty.

    Source: Segment Anything, App. D.1 (maximum of the interior distance transform, the mask padded by one pixel).
    """
    mask = _as_mask(mask, "mask")
    if not mask.any():
        raise ValueError("mask: expected at least one true pixel to click on, got an empty mask")
    return _deepest(_depth(mask))


def next_click(target: np.ndarray, prediction: np.ndarray) -> tuple[tuple[int, int], int]:
    """The click a patient user makes next: the middle of the worst mistake.

    Of the missed region (target and not prediction) and the spilt region (prediction and not target), the one that
    reaches deeper is clicked at its deepest pixel. Depth instead of area, so that a long thin seam of boundary
    pixels does not win over a missing limb.

    Args:
        target: Ground truth, boolean (H, W), not empty.
        prediction: Current mask, boolean (H, W).

    Returns:
        ((x, y), label): label 1 in a missed region, 0 in a spilt one. Without any error: the target's interior
        point with label 1.

    Raises:
        ValueError: an argument is not a boolean (H, W) array, the shapes differ, or `target` is empty.
    """
    target, prediction = _as_mask(target, "target"), _as_mask(prediction, "prediction")
    if target.shape != prediction.shape:
        raise ValueError(f"prediction: expected the target's shape {target.shape}, got {prediction.shape}")
    missed, spilt = _depth(target & ~prediction), _depth(prediction & ~target)
    if max(missed.max(), spilt.max()) == 0:
        return interior_point(target), 1
    return (_deepest(missed), 1) if missed.max() >= spilt.max() else (_deepest(spilt), 0)


def tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The smallest box around a mask, as a prompt: its corners are the outermost pixels.

    `masks.boxes` counts to the outer edge of the last pixel instead; the prompt encoder adds half a pixel to either
    corner, so what it takes are pixels.

    Args:
        mask: Boolean mask (H, W) with at least one pixel.

    Returns:
        (x0, y0, x1, y1) in the mask's pixels, all four inclusive as in Meta's `batched_mask_to_box`: a single pixel
        has x0 == x1.

    Raises:
        ValueError: `mask` is not a boolean (H, W) array, or is empty.
    """
    mask = _as_mask(mask, "mask")
    if not mask.any():
        raise ValueError("mask: expected at least one true pixel to put a box around, got an empty mask")
    left, top, right, bottom = mask_to_xyxy(mask).tolist()
    return left, top, right - 1, bottom - 1


def _disc(radius: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def rough_mask(mask: np.ndarray, rng: np.random.Generator, strength: float = 0.08) -> tuple[np.ndarray, str]:
    """A mask as a hasty annotator would hand it over: eroded, dilated or shifted.

    Args:
        mask: Boolean mask (H, W) with at least one pixel.
        rng: Decides the kind and, for a shift, the direction.
        strength: Radius or shift as a share of the square root of the mask's area; at least one pixel.

    Returns:
        The degraded mask, boolean (H, W), never empty, and which of "eroded", "dilated", "shifted" it is. An erosion
        that would leave nothing is done with a smaller radius; a one-pixel-thin object is dilated instead.

    Raises:
        ValueError: `mask` is not a boolean (H, W) array or is empty, or `strength` is not positive.
    """
    mask = _as_mask(mask, "mask")
    if not mask.any():
        raise ValueError("mask: expected at least one true pixel to degrade, got an empty mask")
    if not strength > 0:
        raise ValueError(f"strength: expected a positive share of the object's size, got {strength}")
    radius = max(1, round(strength * float(mask.sum()) ** 0.5))
    kind = ROUGH_KINDS[int(rng.integers(len(ROUGH_KINDS)))]
    pixels = mask.astype(np.uint8)
    if kind == "eroded":
        for smaller in range(radius, 0, -1):
            eroded = cv2.erode(pixels, _disc(smaller), borderType=cv2.BORDER_CONSTANT, borderValue=0)
            if eroded.any():
                return eroded.astype(bool), kind
        kind = "dilated"
    if kind == "shifted":
        angle = float(rng.uniform(0, 2 * np.pi))
        move = np.float32([[1, 0, round(radius * np.cos(angle))], [0, 1, round(radius * np.sin(angle))]])
        shifted = cv2.warpAffine(pixels, move, (mask.shape[1], mask.shape[0]), flags=cv2.INTER_NEAREST)
        if shifted.any():
            return shifted.astype(bool), kind
        kind = "dilated"
    return cv2.dilate(pixels, _disc(radius)).astype(bool), kind
