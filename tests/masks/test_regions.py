"""Small holes and islands, against segment-anything's function on the whole mask."""

import numpy as np
from segment_anything.utils.amg import remove_small_regions as meta_remove

from sam_hf.masks.packed import PackedMask
from sam_hf.masks.regions import remove_small_regions


def _mask(generator: np.random.Generator, kind: int) -> np.ndarray:
    """Noise in a box, holes in a full picture, bands that cut the background in two, or next to nothing."""
    height, width = generator.integers(1, 30, 2)
    mask = np.full((height, width), kind == 1)
    top, bottom = sorted(generator.integers(0, height + 1, 2))
    left, right = sorted(generator.integers(0, width + 1, 2))
    if kind == 2:
        mask[top:bottom] = generator.random((bottom - top, width)) < 0.9
    elif kind == 3:
        mask[generator.integers(height), generator.integers(width)] = True
    else:
        mask[top:bottom, left:right] = generator.random((bottom - top, right - left)) < (0.3 if kind == 1 else 0.7)
    return mask


def test_same_as_segment_anything():
    generator = np.random.default_rng(0)
    for number in range(400):
        mask = _mask(generator, number % 5)
        for area in (2, 9, 60, 2000):
            expected, holes = meta_remove(mask, area, "holes")
            expected, islands = meta_remove(expected, area, "islands")
            found, changed = remove_small_regions(PackedMask.from_array(mask), area, area)
            np.testing.assert_array_equal(found.to_array(), expected)
            assert changed == (holes or islands)


def test_holes_and_islands_each_by_themselves():
    mask = np.zeros((20, 30), dtype=bool)
    mask[4:16, 5:18] = True
    mask[8:10, 9:11] = False  # a hole of 4
    mask[2, 25:28] = True  # an island of 3
    packed = PackedMask.from_array(mask)
    assert remove_small_regions(packed, 4, 3) == (packed, False)
    filled, _ = remove_small_regions(packed, 5, 0)
    assert filled.area == packed.area + 4 and filled.box == packed.box
    dropped, _ = remove_small_regions(packed, 0, 4)
    assert dropped.area == packed.area - 3 and dropped.box == (5, 4, 17, 15)


def test_the_largest_island_stays():
    mask = np.zeros((9, 9), dtype=bool)
    mask[1, 1:3] = mask[5, 5] = True
    found, changed = remove_small_regions(PackedMask.from_array(mask), 0, 50)
    assert changed and found.box == (1, 1, 2, 1) and found.area == 2


def test_an_empty_mask_stays_empty():
    empty = PackedMask.from_array(np.zeros((7, 5), dtype=bool))
    assert remove_small_regions(empty, 10, 10) == (empty, False)
