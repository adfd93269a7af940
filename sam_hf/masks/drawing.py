"""Pictures of masks: tinted overlays, the prompts that led to them, and cut-outs with transparency.

Images are RGB uint8 arrays (H,W,3), masks booleans (H,W), coordinates pixels of that image. Colours are Okabe and
Ito's, which stay apart for colour-blind eyes; every line is drawn twice, light on dark, so that it shows on any photo.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from sam_hf.masks.boxes import mask_to_xyxy
from sam_hf.masks.regions import contours

PALETTE = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (213, 94, 0), (86, 180, 233), (240, 228, 66))
FOREGROUND, BACKGROUND = (0, 200, 83), (229, 57, 53)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def overlay(image: np.ndarray, masks: Sequence[np.ndarray], opacity: float = 0.45) -> np.ndarray:
    """Tints each mask in its own colour and outlines it.

    Args:
        image: (H,W,3) uint8.
        masks: (H,W) booleans each; a later one lies on top.
        opacity: Share of the tint, 0 to 1.

    Returns:
        (H,W,3) uint8, a new array.

    Raises:
        ValueError: If a size does not fit or `opacity` is out of range.
    """
    if not 0.0 <= opacity <= 1.0:
        raise ValueError(f"opacity must lie between 0 and 1, got {opacity}")
    picture = _rgb(image).copy()
    thickness = _line_width(picture)
    for index, mask in enumerate(masks):
        inside = _fitting(mask, picture)
        color = PALETTE[index % len(PALETTE)]
        tint = np.array(color, dtype=np.float32)
        picture[inside] = np.rint(picture[inside] * (1.0 - opacity) + tint * opacity).astype(np.uint8)
        outlines = contours(inside)
        cv2.drawContours(picture, outlines, -1, WHITE, thickness + 2, cv2.LINE_AA)
        cv2.drawContours(picture, outlines, -1, color, thickness, cv2.LINE_AA)
    return picture


def draw_prompts(
    image: np.ndarray,
    points: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    box: np.ndarray | None = None,
) -> np.ndarray:
    """Draws points (a plus in a green disc: foreground, a minus in a red one: background) and a box.

    Args:
        image: (H,W,3) uint8.
        points: (N,2) xy.
        labels: (N,), 1 foreground, 0 background; other values are not drawn.
        box: (4,) xyxy.

    Returns:
        (H,W,3) uint8, a new array.
    """
    picture = _rgb(image).copy()
    width = _line_width(picture)
    if box is not None:
        left, top, right, bottom = _drawable(box).tolist()
        cv2.rectangle(picture, (left, top), (right, bottom), BLACK, width + 2, cv2.LINE_AA)
        cv2.rectangle(picture, (left, top), (right, bottom), WHITE, width, cv2.LINE_AA)
    for point, label in zip([] if points is None else points, [] if labels is None else labels, strict=True):
        if label in (0, 1):
            _draw_point(picture, _drawable(point).tolist(), bool(label), radius=4 * width)
    return picture


def cut_out(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The masked part alone, cropped to its box.

    Args:
        image: (H,W,3) uint8.
        mask: (H,W) booleans.

    Returns:
        (h,w,4) uint8 RGBA; alpha is 255 inside the mask and 0 outside, where the colour is black, so that nothing of
        the background travels along unseen. An empty mask gives one transparent pixel.
    """
    picture = _rgb(image)
    inside = _fitting(mask, picture)
    left, top, right, bottom = mask_to_xyxy(inside)
    if right == 0:
        return np.zeros((1, 1, 4), dtype=np.uint8)
    inside = inside[top:bottom, left:right]
    return np.dstack([picture[top:bottom, left:right] * inside[..., None], inside * np.uint8(255)])


def _draw_point(picture: np.ndarray, center: list[int], foreground: bool, radius: int) -> None:
    x, y = center
    arm, stroke = radius // 2, max(1, radius // 4)
    cv2.circle(picture, (x, y), radius + 1, BLACK, -1, cv2.LINE_AA)
    cv2.circle(picture, (x, y), radius, WHITE, -1, cv2.LINE_AA)
    cv2.circle(picture, (x, y), radius - 1, FOREGROUND if foreground else BACKGROUND, -1, cv2.LINE_AA)
    cv2.line(picture, (x - arm, y), (x + arm, y), WHITE, stroke)
    if foreground:
        cv2.line(picture, (x, y - arm), (x, y + arm), WHITE, stroke)


def _drawable(coordinates: np.ndarray) -> np.ndarray:
    # cv2 takes 32-bit integers; a point far outside the image is legal as a prompt and merely not seen here.
    return np.clip(np.rint(np.asarray(coordinates, dtype=np.float64)), -32768, 32767).astype(int)


def _line_width(picture: np.ndarray) -> int:
    return max(1, round(max(picture.shape[:2]) / 400))


def _rgb(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be uint8 of shape (H, W, 3), got {image.dtype} of shape {image.shape}")
    return image


def _fitting(mask: np.ndarray, picture: np.ndarray) -> np.ndarray:
    mask = np.asarray(mask) != 0
    if mask.shape != picture.shape[:2]:
        raise ValueError(f"mask must have the image's size {picture.shape[:2]}, got {mask.shape}")
    return mask
