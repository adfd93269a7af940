"""Polygons against the programs that fill them: pycocotools, PIL and OpenCV."""

import time

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from sam_hf.masks.polygons import INSET, TooRagged, mask_to_polygons, signed_area


def _masks(count: int):
    """Blobs, noise, and pictures that are nearly empty or full."""
    generator = np.random.default_rng(0)
    for number in range(count):
        height, width = generator.integers(1, 40, 2)
        values = generator.random((height, width))
        if number % 3:
            values = cv2.GaussianBlur(values, (0, 0), (0.7, 1.5, 4)[number // 3 % 3])
        yield values > np.quantile(values, generator.random())


def _ordinary(size: int, seed: int) -> np.ndarray:
    values = cv2.GaussianBlur(np.random.default_rng(seed).random((size, size)), (0, 0), size / 20)
    return values > np.quantile(values, 0.8)


def _filled_by_coco(polygons, shape) -> np.ndarray:
    """Every outline filled by itself, holes taken out."""
    mask = np.zeros(shape, dtype=bool)
    for polygon in polygons:
        outer, *holes = (
            coco_mask.decode(coco_mask.frPyObjects([ring.ravel().tolist()], *shape))[..., 0].astype(bool)
            for ring in polygon.rings
        )
        for hole in holes:
            outer &= ~hole
        mask |= outer
    return mask


def _iou(first, second) -> float:
    return (first & second).sum() / (first | second).sum()


def test_pycocotools_fills_exactly_the_mask():
    for mask in _masks(150):
        polygons = mask_to_polygons(mask)
        np.testing.assert_array_equal(_filled_by_coco(polygons, mask.shape), mask)
        assert sum(polygon.area for polygon in polygons) == mask.sum()


def test_outlines_are_simple_and_turn_the_right_way():
    for mask in _masks(150):
        for polygon in mask_to_polygons(mask):
            assert signed_area(polygon.outer) > 0 and all(signed_area(hole) < 0 for hole in polygon.holes)
            for ring in polygon.rings:
                assert len(ring) >= 4 and len(np.unique(ring, axis=0)) == len(ring)
                sides = np.roll(ring, -1, axis=0) - ring
                assert ((sides == 0).sum(axis=1) == 1).all()  # along rows and columns
                turns = (sides != 0)[:, 0]
                assert (turns != np.roll(turns, 1)).all()  # no corner that is none


def test_readers_that_draw_outlines_fill_exactly_the_mask_with_an_inset():
    for mask in _masks(150):
        polygons = mask_to_polygons(mask, inset=INSET)
        drawn = np.zeros(mask.shape, dtype=np.uint8)
        cv2.fillPoly(drawn, [ring.astype(np.int32) for polygon in polygons for ring in polygon.rings], 1)
        np.testing.assert_array_equal(drawn > 0, mask)
        picture = Image.new("L", mask.shape[::-1])
        for polygon in polygons:
            if not polygon.holes:
                ImageDraw.Draw(picture).polygon([tuple(corner) for corner in polygon.outer], outline=1, fill=1)
        whole = [polygon for polygon in polygons if not polygon.holes]
        assert not (np.array(picture).astype(bool) & ~mask).any()
        assert (np.array(picture) > 0).sum() >= sum(polygon.area for polygon in whole)


@pytest.mark.parametrize(
    ("rows", "outlines"),
    [
        (["#"], 1),
        (["####"], 1),
        (["#", "#", "#"], 1),
        (["#.", ".#"], 2),  # touching by a corner: two regions
        (["###", "#.#", "###"], 2),
        (["###.", "#.##", "##.#", ".###"], 3),  # two holes that touch by a corner
        ([".###", "#.##", "####"], 2),  # a hole that touches the outside by a corner
    ],
)
def test_small_and_touching(rows, outlines):
    mask = np.array([[pixel == "#" for pixel in row] for row in rows])
    polygons = mask_to_polygons(mask)
    assert sum(len(polygon.rings) for polygon in polygons) == outlines
    for detail in (1.0, 0.5, 0.0):
        np.testing.assert_array_equal(_filled_by_coco(mask_to_polygons(mask, detail), mask.shape), mask)


def test_frame_is_edges_of_pixels_counterclockwise_where_y_goes_up():
    mask = np.zeros((9, 9), dtype=bool)
    mask[5, 3] = True
    (polygon,) = mask_to_polygons(mask)
    start = polygon.outer.tolist().index([3, 5])
    assert np.roll(polygon.outer, -start, axis=0).tolist() == [[3, 5], [4, 5], [4, 6], [3, 6]]
    (inner,) = mask_to_polygons(mask, inset=0.25)
    assert sorted(map(tuple, inner.outer.tolist())) == [(3.25, 5.25), (3.25, 5.75), (3.75, 5.25), (3.75, 5.75)]


def test_less_detail_has_fewer_corners_and_stays_near():
    mask = _ordinary(200, 1)
    counts, ious = [], []
    for detail in (1.0, 0.8, 0.5, 0.0):
        polygons = mask_to_polygons(mask, detail)
        counts.append(sum(len(ring) for polygon in polygons for ring in polygon.rings))
        ious.append(_iou(_filled_by_coco(polygons, mask.shape), mask))
    assert ious[0] == 1 and ious[1] > 0.98 and ious[2] > 0.95 and ious[3] > 0.85
    assert counts == sorted(counts, reverse=True) and counts[-1] < counts[0] / 4


def test_tolerance_goes_with_the_size_of_the_object():
    small = np.zeros((300, 300), np.uint8)
    cv2.ellipse(small, (150, 150), (120, 60), 30, 0, 360, 1, -1)
    large = cv2.resize(small, None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST)
    corners = [len(mask_to_polygons(mask, 0.3)[0].outer) for mask in (small, large)]
    assert abs(corners[0] - corners[1]) <= 2 and corners[1] < 30


@pytest.mark.parametrize("detail", [0.9, 0.5, 0.0])
def test_less_detail_never_loses_or_crosses_anything(detail):
    for mask in _masks(60):
        exact, polygons = mask_to_polygons(mask), mask_to_polygons(mask, detail)
        assert [len(polygon.holes) for polygon in polygons] == [len(polygon.holes) for polygon in exact]
        for polygon in polygons:
            sides = [(a, b) for ring in polygon.rings for a, b in zip(ring, np.roll(ring, -1, axis=0), strict=True)]
            assert all(len(ring) >= 3 for ring in polygon.rings) and polygon.area > 0
            assert not any(_cross(*first, *second) for i, first in enumerate(sides) for second in sides[:i])


def _cross(a, b, c, d) -> bool:
    """Whether two sides meet inside both, by whole numbers."""

    def side(p, q, r):
        return np.sign((q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]))

    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0


def test_a_comb_of_a_thousand_teeth_is_quick_and_exact():
    mask = np.zeros((400, 2001), dtype=bool)
    mask[:, ::2] = True
    mask[200] = True
    (polygon,) = mask_to_polygons(mask)
    assert polygon.area == mask.sum()
    assert mask_to_polygons(mask, 0.5)[0].area > 0


def test_noise_is_refused_at_once_and_other_ragged_masks_are_drawn():
    noise = np.indices((700, 700)).sum(axis=0) % 2 == 0
    start = time.monotonic()
    for mask, said in ((noise, "corners"), (noise[:300, :300], "islands and holes"), (~noise[:300, :300], "islands")):
        for detail in (1.0, 0.5):
            with pytest.raises(TooRagged, match=f"mask: .*{said}.*fill its small holes"):
                mask_to_polygons(mask, detail)
    assert time.monotonic() - start < 20
    assert len(mask_to_polygons(noise[:60, :60])) == 1800


def test_empty_masks_and_refusals():
    assert mask_to_polygons(np.zeros((4, 5), dtype=bool)) == []
    assert mask_to_polygons(np.zeros((0, 5), dtype=bool)) == []
    with pytest.raises(ValueError, match=r"mask must have shape \(H, W\)"):
        mask_to_polygons(np.zeros((1, 4, 5)))
    for options, said in (
        ({"detail": 1.5}, "detail"),
        ({"detail": float("nan")}, "detail"),
        ({"inset": 0.5}, "inset"),
    ):
        with pytest.raises(ValueError, match=said):
            mask_to_polygons(np.ones((3, 3)), **options)
