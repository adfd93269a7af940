"""What a mask consists of: the closed outlines of its regions and holes, and masks without the small ones."""

import cv2
import numpy as np

from sam_hf.masks.packed import PackedMask


def contours(mask: np.ndarray) -> list[np.ndarray]:
    """The border pixels of every region and of every hole.

    Args:
        mask: (H,W) booleans.

    Returns:
        One (N,2) int32 array of xy pixel indices per closed outline, in the order in which they are joined.

    Raises:
        ValueError: If `mask` is not two-dimensional.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"mask must have shape (H, W), got {mask.shape}")
    if mask.size == 0:
        return []
    # RETR_CCOMP gives outlines and holes alike; a hole without an outline would look filled in an overlay.
    found, _ = cv2.findContours((mask != 0).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return [outline.reshape(-1, 2) for outline in found]  # (N,1,2) -> (N,2)


def remove_small_regions(mask: PackedMask, hole_area: float, island_area: float) -> tuple[PackedMask, bool]:
    """Fill small holes, then drop small islands; the largest island stays whatever its size.

    Pixels that touch by a corner belong together, in holes and in islands. A bay of background that is cut off at the
    border of the picture is a hole too. Only the box of the mask is looked at.

    Args:
        mask: The mask.
        hole_area: Holes with fewer pixels are filled.
        island_area: Islands with fewer pixels are dropped.

    Returns:
        The mask without them (the same one if there are none) and whether anything was changed.

    Source: `remove_small_regions` of segment-anything 1.0; differs in working on the box.
    """
    height, width = mask.size
    # Around the box background, as far as there is any. The outermost line stands for all lines behind it. It begins
    # at an even place, because OpenCV numbers regions by pairs of lines, and the first of equal islands is to stay.
    left, top = max(mask.left - 1, 0) // 2 * 2, max(mask.top - 1, 0) // 2 * 2
    right, bottom = min(mask.left + mask.width + 1, width), min(mask.top + mask.height + 1, height)
    part = np.zeros((bottom - top, right - left), dtype=bool)
    part[mask.top - top :, mask.left - left :][: mask.height, : mask.width] = mask.part()
    rows, columns = np.ones(bottom - top, dtype=np.int64), np.ones(right - left, dtype=np.int64)
    rows[0] += top
    rows[-1] += height - bottom
    columns[0] += left
    columns[-1] += width - right

    small, labels = _small_holes(part, rows, columns, hole_area)
    ends = [(rows[end], labels[end]) for end in (0, -1)] + [(columns[end], labels[:, end]) for end in (0, -1)]
    if any(weight > 1 and small[line].any() for weight, line in ends):
        # A line that stands for others is to be filled: now the whole picture matters.
        part, left, top = mask.to_array(), 0, 0
        small, labels = _small_holes(part, *(np.ones(side, dtype=np.int64) for side in mask.size), hole_area)
    changed = bool(small.any())
    if changed:
        part = part | small[labels]

    _, labels, statistics, _ = cv2.connectedComponentsWithStats(part.view(np.uint8), connectivity=8)
    sizes = statistics[:, cv2.CC_STAT_AREA]
    small = sizes < island_area
    small[0] = False  # label 0 is what is not looked at
    if small.any():
        changed = True
        if small[1:].all():
            small[1 + sizes[1:].argmax()] = False
        part = part & ~small[labels]
    return (PackedMask.from_array(part, left, top, mask.size), True) if changed else (mask, False)


def _small_holes(
    part: np.ndarray, rows: np.ndarray, columns: np.ndarray, area: float
) -> tuple[np.ndarray, np.ndarray]:
    """Which regions of the background are small, and the region of each pixel; region 0 is the mask."""
    _, labels, statistics, _ = cv2.connectedComponentsWithStats((~part).view(np.uint8), connectivity=8)
    sizes = statistics[:, cv2.CC_STAT_AREA].astype(np.int64)
    # A pixel in row y and column x counts rows[y] * columns[x] times; all but the ends are 1.
    for end in {0, part.shape[1] - 1}:
        np.add.at(sizes, labels[:, end], columns[end] - 1)
    for end in {0, part.shape[0] - 1}:
        np.add.at(sizes, labels[end], (rows[end] - 1) * columns)
    small = sizes < area
    small[0] = False
    return small, labels
