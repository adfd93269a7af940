"""Pictures that show CLIP one mask of a picture: what is in the mask large, or what is around it faint.

"crop": the mask's box with a margin, cut out square; which class is it? "dimmed": the same with everything outside the
mask at a tenth of its light and blurred. "blurred": the whole picture, sharp only inside the mask; which of several is
it? "circle": the whole picture with a red ellipse around the mask. Crops and whole pictures answer different
questions, so their mean is taken.

Everything is drawn at the size that CLIP takes, so that a view costs the same whatever the picture's size, and the
mask is a share of each pixel there, so that a thin one does not vanish. CPU only, and the same every time.

Source: crop, darkening and blur after CLIPSeg (arXiv 2112.10003, table 2), "blurred" after FGVP's blur reverse mask
(2306.04356), "circle" after Shtedritski et al. (2304.06712). Differs in that crops keep their aspect, and what lies
beyond the picture has the mean colour of CLIP's training pictures.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

VIEWS = ("crop", "dimmed", "blurred", "circle")
MEAN_COLOUR = (123, 117, 104)
SMALLEST_CROP = 16  # original pixels; a mask of a few pixels says nothing without what is around it
DIMMED_LIGHT = 0.1
# Blurs, as shares of the view's side: FGVP's 100 px on pictures of some 640 px; CLIPSeg's is lighter.
DIMMED_SIGMA, BLURRED_SIGMA = 0.02, 0.15
RED = (255, 0, 0)


def make_views(
    picture: Tensor,
    masks: Sequence[Any],
    size: int,
    views: Sequence[str] = ("crop", "dimmed", "blurred"),
    margin: float = 1.3,
) -> Tensor:
    """Draws every view of every mask.

    Args:
        picture: (3,H,W) uint8.
        masks: n masks (H,W) bool, or boxes (4,) xyxy, original pixels; what is
            outside the picture is cut off a box.
        size: Side of a view, pixels.
        views: Which to draw, of `VIEWS`, in this order.
        margin: Side of a crop as a multiple of the longer side of the mask's box; at least 1.

    Returns:
        (n,V,3,size,size) uint8, V the number of views.

    Raises:
        ValueError: If the picture, a mask, the size, a view or the margin is not one of these, or a mask is empty.
        TypeError: If the picture is no tensor.
    """
    pixels = _pixels(picture)
    if isinstance(views, str) or not set(views) <= set(VIEWS) or len(views) == 0:
        raise ValueError(f"views: expected a list of {', '.join(VIEWS)}; got {views!r}")
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"size must be an integer of at least 1, got {size!r}")
    if not (math.isfinite(margin) and margin >= 1):
        raise ValueError(f"margin must be at least 1, got {margin}")
    painter = _Painter(pixels, size, margin)
    drawn = torch.empty(len(masks), len(views), 3, size, size, dtype=torch.uint8)
    for index, given in enumerate(masks):
        mask = _read_mask(given, pixels.shape[:2], f"masks[{index}]")
        box = cv2.boundingRect(mask)  # left, top, width, height
        for place, view in enumerate(views):
            drawn[index, place] = torch.from_numpy(getattr(painter, view)(mask, box)).permute(2, 0, 1)
    return drawn


class _Painter:
    """The views of one picture, (size,size,3) uint8 each; what all masks share is drawn once."""

    def __init__(self, pixels: np.ndarray, size: int, margin: float):
        self._pixels, self._size, self._margin = pixels, size, margin

    def crop(self, mask: np.ndarray, box: Sequence[int]) -> np.ndarray:
        return _cut(self._pixels, self._square(box), self._size, MEAN_COLOUR)

    def dimmed(self, mask: np.ndarray, box: Sequence[int]) -> np.ndarray:
        near = self.crop(mask, box)
        share = _cut(mask, self._square(box), self._size, (0,))
        far = DIMMED_LIGHT * _blur(near, DIMMED_SIGMA * self._size).astype(np.float32)
        return _blend(near, far, share)

    def blurred(self, mask: np.ndarray, box: Sequence[int]) -> np.ndarray:
        return _blend(self._whole, self._whole_blurred, _resize(mask, self._size, self._size))

    def circle(self, mask: np.ndarray, box: Sequence[int]) -> np.ndarray:
        height, width = mask.shape
        left, top, across, down = box
        scale = (self._size / width, self._size / height)
        centre = ((left + across / 2) * scale[0] - 0.5, (top + down / 2) * scale[1] - 0.5)
        thickness = max(1, round(self._size / 80))
        # The line runs outside the box, and even around a single pixel there is something to see inside it.
        radii = [max(side / 2 * s + thickness, self._size / 50) for side, s in zip((across, down), scale, strict=True)]
        shift = 4  # binary digits of fractions of a pixel
        place, axes = ([round(value * 2**shift) for value in values] for values in (centre, radii))
        return cv2.ellipse(self._whole.copy(), place, axes, 0, 0, 360, RED, thickness, cv2.LINE_AA, shift)

    @cached_property
    def _whole(self) -> np.ndarray:
        """The whole picture, squeezed to a square as FGVP does: nothing is cut off, and there are no bars."""
        return _resize(self._pixels, self._size, self._size)

    @cached_property
    def _whole_blurred(self) -> np.ndarray:
        return _blur(self._whole, BLURRED_SIGMA * self._size).astype(np.float32)

    def _square(self, box: Sequence[int]) -> tuple[int, int, int]:
        """Left, top and side of the square around a box, original pixels; it may reach beyond the picture."""
        left, top, width, height = box
        side = max(math.ceil(self._margin * max(width, height)), SMALLEST_CROP)
        return round(left + (width - side) / 2), round(top + (height - side) / 2), side


def _cut(array: np.ndarray, square: tuple[int, int, int], size: int, beyond: tuple[int, ...]) -> np.ndarray:
    """A square of an array (H,W) or (H,W,3) at (size,size).

    Only what lies in the picture is resized and then put in its place: a square around a large picture would be a
    larger one.
    """
    left, top, side = square
    columns, to_columns = _overlap(left, side, array.shape[1], size)
    rows, to_rows = _overlap(top, side, array.shape[0], size)
    canvas = np.empty((size, size, *array.shape[2:]), np.uint8)
    canvas[:] = beyond if array.ndim == 3 else beyond[0]
    part = _resize(array[rows, columns], to_columns.stop - to_columns.start, to_rows.stop - to_rows.start)
    canvas[to_rows, to_columns] = part
    return canvas


def _overlap(start: int, side: int, length: int, size: int) -> tuple[slice, slice]:
    """Which part of an axis of the picture a square covers, and where in the view it goes; at least a pixel."""
    first, last = max(start, 0), min(start + side, length)
    to_first = min(round((first - start) * size / side), size - 1)
    to_last = max(round((last - start) * size / side), to_first + 1)
    return slice(first, last), slice(to_first, to_last)


def _resize(array: np.ndarray, width: int, height: int) -> np.ndarray:
    shrinks = width * height < array.shape[0] * array.shape[1]
    return cv2.resize(array, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), max(sigma, 0.3), borderType=cv2.BORDER_REPLICATE)


def _blend(near: np.ndarray, far: np.ndarray, share: np.ndarray) -> np.ndarray:
    """`near` (s,s,3) where `share` (s,s) is 255, `far` where it is 0."""
    weight = share.astype(np.float32)[..., None] / 255
    return np.rint(far + weight * (near.astype(np.float32) - far)).astype(np.uint8)


def _pixels(picture: Tensor) -> np.ndarray:
    """(3,H,W) uint8 tensor -> (H,W,3) array, contiguous as cv2 wants it."""
    if not isinstance(picture, Tensor):
        raise TypeError(f"picture must be a tensor (3, H, W), got {type(picture).__name__}")
    if picture.ndim != 3 or picture.shape[0] != 3 or picture.dtype != torch.uint8 or picture.numel() == 0:
        raise ValueError(f"picture must be (3, H, W) uint8, got {tuple(picture.shape)} {picture.dtype}")
    return picture.detach().cpu().permute(1, 2, 0).contiguous().numpy()


def _read_mask(given: Any, size: tuple[int, int], where: str) -> np.ndarray:
    """A mask or a box -> (H,W) uint8, 255 inside."""
    array = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    if array.shape == (4,) and array.dtype.kind in "iuf":
        if not np.isfinite(array).all():
            raise ValueError(f"{where}: expected a box xyxy of finite numbers, got {array.tolist()}")
        limits = np.array([size[1], size[0]] * 2)
        left, top = np.clip(np.floor(array), 0, limits)[:2].astype(int)
        right, bottom = np.clip(np.ceil(array), 0, limits)[2:].astype(int)
        mask = np.zeros(size, np.uint8)
        mask[top:bottom, left:right] = 255
    elif array.shape == tuple(size) and array.dtype == bool:
        mask = array.astype(np.uint8) * 255
    else:
        raise ValueError(
            f"{where}: expected a mask {tuple(size)} bool, as large as the picture, or a box (4,) xyxy; "
            f"got {array.shape} {array.dtype}"
        )
    if not mask.any():
        raise ValueError(f"{where}: expected a mask or box with at least one pixel of the picture, got an empty one")
    return mask
