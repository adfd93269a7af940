"""Pictures of masks: tinted overlays, the prompts that led to them, and cut-outs with transparency.

Images are RGB uint8 arrays (H,W,3), masks booleans (H,W), coordinates pixels of that image. Colours are Okabe and
Ito's, which stay apart for colour-blind eyes; lines are drawn twice, light on dark, so that they show on any photo. In
pictures full of masks there are more colours, and lines are drawn once.
"""

from collections.abc import Iterable

import cv2
import numpy as np

from sam_hf.masks.boxes import mask_to_xyxy
from sam_hf.masks.regions import contours

PALETTE = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (213, 94, 0), (86, 180, 233), (240, 228, 66))
# For pictures full of masks, where seven colours do not keep neighbours apart.
MANY = (
    *PALETTE,
    *((126, 87, 194), (0, 188, 180), (233, 30, 99), (139, 195, 74), (161, 98, 60), (255, 138, 128), (63, 81, 181)),
    *((176, 190, 30), (186, 104, 200)),
)
FOREGROUND, BACKGROUND = (0, 200, 83), (229, 57, 53)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
EASILY_TOLD_APART = 45.0  # distance of two colours in CIELAB


def overlay(image: np.ndarray, masks: Iterable[np.ndarray], opacity: float = 0.45) -> np.ndarray:
    """Tints each mask in its own colour and outlines it.

    Args:
        image: (H,W,3) uint8.
        masks: (H,W) booleans each, taken one by one; a later one lies on top.
        opacity: Share of the tint, 0 to 1.

    Returns:
        (H,W,3) uint8, a new array.

    Raises:
        ValueError: If a size does not fit or `opacity` is out of range.
    """
    _check_opacity(opacity)
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


def overlay_many(image: np.ndarray, masks: Iterable[np.ndarray], opacity: float = 0.5) -> np.ndarray:
    """Tints each pixel in the colour of the topmost mask there, and outlines all masks.

    Masks whose tints meet get colours that are easy to tell apart. In contrast to `overlay`, tints do not add up: a
    hundred nested masks stay as readable as three.

    Args:
        image: (H,W,3) uint8.
        masks: (H,W) booleans each, taken one by one; a later one lies on top, so give the large ones first.
        opacity: Share of the tint, 0 to 1.

    Returns:
        (H,W,3) uint8, a new array.

    Raises:
        ValueError: If a size does not fit or `opacity` is out of range.
    """
    _check_opacity(opacity)
    picture = _rgb(image).copy()
    index = np.zeros(picture.shape[:2], dtype=np.int32)
    outlines = []
    for number, mask in enumerate(masks, start=1):
        part = _place(index, mask, number)
        corner = np.array([part[1].start, part[0].start], dtype=np.int32)  # cv2 draws no other integers
        outlines.append([outline + corner for outline in contours(np.asarray(mask)[part])])
    colors = distinct_colors(index, len(outlines))
    tint = np.vstack([np.zeros((1, 3), np.uint8), colors])[index]
    tinted = cv2.addWeighted(picture, 1.0 - opacity, tint, opacity, 0.0)
    np.copyto(picture, tinted, where=index[..., None] > 0)
    thickness = _line_width(picture)
    for color, lines in zip(colors.tolist(), outlines, strict=True):
        # One light line and no dark one beside it: where masks lie close to each other, that would hide the picture.
        cv2.drawContours(picture, lines, -1, [(255 + channel) // 2 for channel in color], thickness, cv2.LINE_AA)
    return picture


def index_map(masks: Iterable[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Which mask lies on top at each pixel.

    Args:
        masks: (H,W) booleans each, taken one by one; a later one lies on top.
        size: (H,W).

    Returns:
        (H,W) int32: 0 where there is no mask, n for the n-th.

    Raises:
        ValueError: If a mask has another size.
    """
    index = np.zeros(size, dtype=np.int32)
    for number, mask in enumerate(masks, start=1):
        _place(index, mask, number)
    return index


def distinct_colors(index: np.ndarray, count: int) -> np.ndarray:
    """Colours for the masks of an index map, easy to tell apart where masks are close to each other.

    Greedy, in the order of the masks: of the colours that are told apart from those of the coloured neighbours, the
    one used least; if all are near some neighbour's, the farthest one.

    Args:
        index: (H,W) int32, see `index_map`.
        count: How many masks there are, hidden ones included.

    Returns:
        (count,3) uint8 RGB.
    """
    palette = np.array(MANY, dtype=np.uint8)
    lab = cv2.cvtColor(palette[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    difference = np.linalg.norm(lab[:, None] - lab[None], axis=-1)  # (K,K) CIE 1976; about 2 is just visible
    neighbors = _neighbors(index, count)
    chosen: list[int] = []
    used = np.zeros(len(palette), dtype=int)
    for number in range(1, count + 1):
        taken = [chosen[other - 1] for other in neighbors[number] if other < number]
        gap = difference[:, taken].min(axis=1) if taken else np.full(len(palette), np.inf)
        best = int(np.lexsort((used, -np.minimum(gap, EASILY_TOLD_APART)))[0])
        chosen.append(best)
        used[best] += 1
    return palette[chosen].reshape(-1, 3)


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


def cut_out(image: np.ndarray, mask: np.ndarray, tight: bool = True) -> np.ndarray:
    """The masked part alone.

    Args:
        image: (H,W,3) uint8.
        mask: (H,W) booleans.
        tight: Cropped to the mask's box; otherwise of the picture's size.

    Returns:
        (h,w,4) uint8 RGBA; alpha is 255 inside the mask and 0 outside, where the colour is black, so that nothing of
        the background travels along unseen. An empty mask, cropped, gives one transparent pixel.
    """
    picture = _rgb(image)
    inside = _fitting(mask, picture)
    if not tight:
        return np.dstack([picture * inside[..., None], inside * np.uint8(255)])
    left, top, right, bottom = mask_to_xyxy(inside)
    if right == 0:
        return np.zeros((1, 1, 4), dtype=np.uint8)
    inside = inside[top:bottom, left:right]
    return np.dstack([picture[top:bottom, left:right] * inside[..., None], inside * np.uint8(255)])


def _place(index: np.ndarray, mask: np.ndarray, number: int) -> tuple[slice, slice]:
    """Writes a number where a mask is, and tells in which rows and columns that was; the rest is not touched."""
    inside = _fitting(mask, index)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    ends = [(int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0) for places in (rows, columns)]
    part = slice(*ends[0]), slice(*ends[1])
    index[part][inside[part]] = number
    return part


def _neighbors(index: np.ndarray, count: int) -> list[set[int]]:
    """For each mask, 0 (no mask) included, the masks that it meets or that are not far away."""
    near: list[set[int]] = [set() for _ in range(count + 1)]
    for share in (0, 1 / 120, 1 / 40, 1 / 15):  # of the longest side
        step = max(1, round(max(index.shape) * share))
        coarse = max(1, step // 4)
        part, step = index[::coarse, ::coarse], step // coarse
        for one, other in ((part[:, step:], part[:, :-step]), (part[step:], part[:-step])):
            meeting = (one != other) & (one > 0) & (other > 0)
            # One number per pair, because the distinct rows of an array take far longer to find.
            for pair in np.unique(one[meeting].astype(np.int64) * (count + 1) + other[meeting]).tolist():
                first, second = divmod(pair, count + 1)
                near[first].add(second)
                near[second].add(first)
    return near


def _check_opacity(opacity: float) -> None:
    if not 0.0 <= opacity <= 1.0:
        raise ValueError(f"opacity must lie between 0 and 1, got {opacity}")


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
    mask = np.asarray(mask)
    if mask.dtype != bool:
        mask = mask != 0
    if mask.shape != picture.shape[:2]:
        raise ValueError(f"mask must have the image's size {picture.shape[:2]}, got {mask.shape}")
    return mask
