"""Masks as polygons: closed outlines with holes that enclose the mask's pixels exactly.

Coordinates are pixels of the mask with the edges of pixels as coordinates, as in `boxes`: a mask that consists of
pixel (x=3, y=5) alone is the square (3, 5), (4, 5), (4, 6), (3, 6). COCO's, SVG's and GeoJSON's readers fill it so.
Readers that draw an outline together with the pixels it runs through (PIL and cv2.fillPoly, so labelme's and YOLO's)
would draw such a square twice as wide: for them outlines are drawn in by `INSET`, so that they run through the mask's
own outermost pixels once fractions are cut off, as these readers do.

Pixels that touch by a corner alone are different polygons. So no outline crosses or touches itself, and outlines of
one polygon touch at single corners at most: they are valid by OGC's rules. With an inset they do not touch at all.

In contrast to `regions.contours`, the pixels along a mask's border, for drawing.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from sam_hf.masks.boxes import mask_to_xyxy

TIDY = "fill its small holes and drop its small islands first"
INSET = 0.25  # pixels; half would make lines of what is one pixel wide
COARSEST = 0.03  # tolerance at detail 0, as a share of the region's diagonal
MOST_CORNERS, MOST_RINGS = 400_000, 20_000  # of a mask; beyond, outlines take seconds and help nobody
CHECKED_PAIRS = 10_000_000  # of sides that are looked at to see whether they cross


class TooRagged(ValueError):
    """The outlines of a mask would have too many corners."""


@dataclass(frozen=True, eq=False)
class Polygon:
    """One connected region.

    Attributes:
        outer: (N,2) float64 xy, the outline, N >= 3; its first corner is not repeated at the end. Its signed area (the
            shoelace formula on x and y as they stand) is positive.
        holes: (K,2) each, the outlines of holes, with negative signed area.
    """

    outer: np.ndarray
    holes: tuple[np.ndarray, ...] = ()

    @property
    def rings(self) -> tuple[np.ndarray, ...]:
        """The outline and those of the holes."""
        return (self.outer, *self.holes)

    @property
    def area(self) -> float:
        """Square pixels enclosed, without the holes."""
        return sum(signed_area(ring) for ring in self.rings)


def mask_to_polygons(mask: np.ndarray, detail: float = 1.0, inset: float = 0.0) -> list[Polygon]:
    """The regions of a mask.

    Args:
        mask: (H,W) booleans.
        detail: In [0,1]. 1 keeps every corner. Below, corners are left out that are nearer to the outline without them
            than a tolerance, (1 - detail) times 3 % of the region's diagonal; less where outlines would cross or
            vanish.
        inset: In [0,0.5). How far outlines are drawn in from the edges of the pixels; see the module.

    Returns:
        The regions, largest first; none for an empty mask. Of a mask that is not empty, every polygon has at least
        three corners and encloses an area.

    Raises:
        ValueError: If `mask` is not two-dimensional, or `detail` or `inset` out of range.
        TooRagged: If it is mere noise, with more corners or outlines than `MOST_CORNERS` and `MOST_RINGS`.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"mask must have shape (H, W), got {mask.shape}")
    if not 0.0 <= detail <= 1.0:
        raise ValueError(f"detail must lie between 0 and 1, got {detail}")
    if not 0.0 <= inset < 0.5:
        raise ValueError(f"inset must lie between 0 and below 0.5, got {inset}")
    left, top, right, bottom = mask_to_xyxy(mask)
    if right == 0:
        return []
    regions: dict[int, list[np.ndarray]] = {}
    for region, ring in _rings(mask[top:bottom, left:right] != 0, inset):
        regions.setdefault(region, []).append(ring + (left, top))
    polygons = []
    for rings in regions.values():
        if len(rings) > 1:
            rings.sort(key=signed_area, reverse=True)  # one of them is positive
        polygons.append(Polygon(rings[0], tuple(rings[1:])))
    polygons.sort(key=lambda polygon: -polygon.area)
    return polygons if detail == 1 else [_simplified(polygon, detail) for polygon in polygons]


def signed_area(ring: np.ndarray) -> float:
    """Shoelace formula on a ring (N,2) xy as it stands; positive if it turns from x towards y."""
    x, y = (ring - ring[0]).T  # from the first corner, to which the last side adds nothing then
    return float(x[:-1] @ y[1:] - y[:-1] @ x[1:]) / 2


def _rings(mask: np.ndarray, inset: float) -> list[tuple[int, np.ndarray]]:
    """Outlines of a mask (H,W) and the region of each.

    Borders run along edges of pixels and turn at corners. In a row of corners those that a horizontal piece of border
    joins are neighbours, in a column those that a vertical one joins, and an outline takes both by turns.
    """
    places, sides, signs, pixels = _corners(mask)
    if len(places) > MOST_CORNERS:
        raise TooRagged(f"mask: its outlines have {len(places):,} corners, at most {MOST_CORNERS:,} are drawn: {TIDY}")
    across, down = np.empty(len(places), dtype=np.int64), np.empty(len(places), dtype=np.int64)
    # Where two regions meet at a corner it is there twice: the one whose border comes from before goes first.
    for partner, order in (
        (across, np.lexsort((sides[:, 0], places[:, 0], places[:, 1]))),
        (down, np.lexsort((sides[:, 1], places[:, 1], places[:, 0]))),
    ):
        partner[order[0::2]], partner[order[1::2]] = order[1::2], order[0::2]
    # With the inside always on the same side: which way a corner is left.
    following = np.where((sides.prod(axis=1) > 0) == (signs > 0), across, down).tolist()
    _, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=4)
    regions = labels[pixels[:, 1], pixels[:, 0]].tolist()
    drawn = places + inset * signs[:, None] * sides
    seen = bytearray(len(following))
    rings = []
    for start in range(len(following)):
        ring = []
        corner = start
        while not seen[corner]:
            seen[corner] = 1
            ring.append(corner)
            corner = following[corner]
        if ring and inset:
            rings.append((regions[start], drawn[ring]))
        elif ring:
            rings.extend((regions[start], part) for part in _without_touching(places[ring]))
        if len(rings) > MOST_RINGS:
            raise TooRagged(f"mask: it has more than {MOST_RINGS:,} islands and holes: {TIDY}")
    return rings


def _corners(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where borders turn.

    Returns:
        places: (n,2) xy.
        sides: (n,2), to which sides the borders go: -1 left or up, 1 right or down.
        signs: (n,), 1 where the mask's pixel lies between them, -1 where it is the background's.
        pixels: (n,2) xy of a pixel of the mask there.
    """
    padded = np.pad(mask, 1)
    height, width = mask.shape
    parts: list[tuple[np.ndarray, ...]] = []
    for side_y in (-1, 1):
        for side_x in (-1, 1):

            def seen(at_x: int, at_y: int) -> np.ndarray:
                """The pixel on that side of each corner, (H+1,W+1)."""
                left, top = (at_x + 1) // 2, (at_y + 1) // 2
                return padded[top : top + height + 1, left : left + width + 1]

            here, beside = seen(side_x, side_y), seen(-side_x, side_y)
            above, opposite = seen(side_x, -side_y), seen(-side_x, -side_y)
            for sign, found, pixel_x in (
                (1, here & ~beside & ~above, side_x),
                (-1, ~here & beside & above & opposite, -side_x),
            ):
                y, x = np.nonzero(found)
                side = np.broadcast_to([side_x, side_y], (len(x), 2))
                pixel = np.stack([x + (pixel_x - 1) // 2, y + (side_y - 1) // 2], axis=1)
                parts.append((np.stack([x, y], axis=1), side, np.full(len(x), sign), pixel))
    return tuple(np.concatenate(values) for values in zip(*parts, strict=True))


def _without_touching(ring: np.ndarray) -> list[np.ndarray]:
    """A ring (N,2) taken apart where it comes by the same corner again, (n,2) float64 each."""
    corners = list(map(tuple, ring.tolist()))
    if len(set(corners)) == len(corners):
        return [ring.astype(np.float64)]
    parts, path, place_of = [], [], {}
    for corner in corners:
        if corner in place_of:
            start = place_of[corner]
            parts.append(path[start:])
            for left in path[start:]:
                del place_of[left]
            path = path[:start]
        place_of[corner] = len(path)
        path.append(corner)
    return [np.array(part, dtype=np.float64) for part in (*parts, path)]


def _simplified(polygon: Polygon, detail: float) -> Polygon:
    """The polygon with fewer corners; with all of them if none can be spared without harm."""
    size = polygon.outer.max(axis=0) - polygon.outer.min(axis=0)
    tolerance = COARSEST * (1.0 - detail) * float(np.hypot(*size))
    while tolerance > 0.3:  # below, nothing goes: corners are a pixel apart
        simple = Polygon(*_fewer_corners(polygon, tolerance))
        if not _has_crossings(simple.rings):
            return simple
        tolerance /= 2
    return polygon


def _fewer_corners(polygon: Polygon, tolerance: float) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """The rings at a tolerance; one that would vanish or turn over keeps its corners."""
    rings = []
    for ring in polygon.rings:
        corners = cv2.approxPolyDP(ring.astype(np.float32)[:, None], tolerance, True)[:, 0]  # (n,1,2) -> (n,2)
        corners = corners.astype(np.float64)
        keeps = len(corners) >= 3 and signed_area(corners) * signed_area(ring) > 0
        rings.append(corners if keeps else ring)
    return rings[0], tuple(rings[1:])


def _has_crossings(rings: tuple[np.ndarray, ...]) -> bool:
    """Whether any two sides of the rings meet, but for neighbours at their common corner."""
    starts, ends = np.concatenate(rings), np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    before = np.concatenate([np.roll(ring, 1, axis=0) for ring in rings])
    came, goes = starts - before, ends - starts
    if ((_cross(came, goes) == 0) & ((came * goes).sum(axis=1) < 0)).any():
        return True  # a side folds back onto the one before
    low, high = np.minimum(starts, ends), np.maximum(starts, ends)
    order = np.argsort(low[:, 0])
    starts, ends, low, high = starts[order], ends[order], low[order], high[order]
    # Of each side those that begin further right, but before it ends.
    counts = np.searchsorted(low[:, 0], high[:, 0], side="right") - np.arange(len(order)) - 1
    if counts.sum() > CHECKED_PAIRS:
        return True  # not known
    first = np.repeat(np.arange(len(order)), counts)
    second = first + 1 + np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
    near = (low[first, 1] <= high[second, 1]) & (low[second, 1] <= high[first, 1])
    first, second = first[near], second[near]
    joined = (starts[first] == ends[second]).all(axis=1) | (ends[first] == starts[second]).all(axis=1)
    first, second = first[~joined], second[~joined]
    return bool((_astride(starts, ends, first, second) & _astride(starts, ends, second, first)).any())


def _astride(starts: np.ndarray, ends: np.ndarray, line: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether the ends of one side (n,) lie on different sides of the line through another, or on it."""
    way = ends[line] - starts[line]
    return _cross(way, starts[other] - starts[line]) * _cross(way, ends[other] - starts[line]) <= 0


def _cross(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
