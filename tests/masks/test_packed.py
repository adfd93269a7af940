"""Packed masks: there and back, measures, and run lengths equal to pycocotools' to the last bit."""

import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from sam_hf.masks import rle
from sam_hf.masks.packed import PackedMask, cut_columns, pack_columns


def _masks(count: int, seed: int = 0):
    """Noise of any density, rectangles, single pixels, empty and full ones, of any size."""
    generator = np.random.default_rng(seed)
    for index in range(count):
        height, width = generator.integers(1, 40, 2)
        mask = np.zeros((height, width), dtype=bool)
        top, bottom = sorted(generator.integers(0, height + 1, 2))
        left, right = sorted(generator.integers(0, width + 1, 2))
        kind = index % 6
        if kind == 0:
            mask = generator.random((height, width)) < generator.random()
        elif kind == 1:
            mask[generator.integers(height), generator.integers(width)] = True
        elif kind == 2:
            mask[top:bottom, left:right] = generator.random((bottom - top, right - left)) < 0.8
        elif kind == 3:
            mask[:, left:right] = True  # runs that go on from column to column
        elif kind == 4:
            mask[:] = True
        yield mask


def test_run_lengths_are_those_of_pycocotools():
    for mask in _masks(600):
        packed = PackedMask.from_array(mask)
        encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        assert rle.encode_packed(packed) == rle.encode(mask)
        assert rle.encode_packed(packed)["counts"] == encoded["counts"].decode()
        runs = rle.encode_packed(packed, compress=False)
        assert coco_mask.frPyObjects(runs, *mask.shape) == encoded
        assert json.loads(json.dumps(runs)) == runs and sum(runs["counts"]) == mask.size


def test_there_and_back():
    for mask in _masks(200, seed=1):
        packed = PackedMask.from_array(mask)
        np.testing.assert_array_equal(packed.to_array(), mask)
        assert packed.area == mask.sum()
        rows, columns = mask.nonzero()
        expected = (columns.min(), rows.min(), columns.max(), rows.max()) if len(rows) else (0, 0, 0, 0)
        assert packed.box == expected
        left, top, right, bottom = packed.box
        if packed.area:
            np.testing.assert_array_equal(packed.part(), mask[top : bottom + 1, left : right + 1])


def test_a_part_of_a_picture_and_a_crop_of_one():
    part = np.array([[0, 1, 1], [0, 1, 0]], dtype=bool)
    mask = PackedMask.from_array(part, left=4, top=2, size=(6, 9))
    expected = np.zeros((6, 9), dtype=bool)
    expected[2:4, 4:7] = part
    np.testing.assert_array_equal(mask.to_array(), expected)
    assert mask.box == (5, 2, 6, 3)
    moved = mask.moved(10, 20, (50, 40))
    whole = np.zeros((50, 40), dtype=bool)
    whole[20:26, 10:19] = expected
    np.testing.assert_array_equal(moved.to_array(), whole)
    assert rle.encode_packed(moved) == rle.encode(whole)


@pytest.mark.parametrize("height", [1, 7, 8, 9, 16, 30])
def test_columns_are_packed_and_cut(height):
    columns = torch.rand(3, 11, height, generator=torch.Generator().manual_seed(height)) > 0.5
    bits = pack_columns(columns)
    assert bits.shape == (3, 11, height // 8 + 1)
    for top in range(height):
        kept = columns[0, 2:9].clone()
        kept[:, top + (height - top + 1) // 2 :] = False  # nothing of the mask lies below what is cut out
        cut = cut_columns(pack_columns(kept[None])[0], 1, top, 5, height - top)
        np.testing.assert_array_equal(cut, pack_columns(kept[None, 1:6, top:])[0])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"part must have shape \(h, w\), got \(1, 2, 2\)"):
        PackedMask.from_array(np.zeros((1, 2, 2)))
    with pytest.raises(ValueError, match=r"part \(2, 2\) at left 3, top 0 does not fit in the size \(4, 4\)"):
        PackedMask.from_array(np.zeros((2, 2)), left=3, size=(4, 4))
