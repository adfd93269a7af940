"""COCO RLE there and back, in each of its spellings."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from sam_hf.masks import rle


def _random_mask(seed: int, shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) > 0.6


@pytest.mark.parametrize("shape", [(1, 1), (7, 13), (64, 40)])
def test_decode_undoes_encode(shape):
    mask = _random_mask(0, shape)
    np.testing.assert_array_equal(rle.decode(rle.encode(mask)), mask)


@pytest.mark.parametrize("value", [False, True])
def test_constant_masks(value):
    mask = np.full((5, 9), value)
    encoded = rle.encode(mask)
    np.testing.assert_array_equal(rle.decode(encoded), mask)
    assert rle.area(encoded) == mask.sum()


def test_memory_layout_does_not_matter():
    mask = _random_mask(1, (9, 6))
    assert rle.encode(np.asfortranarray(mask)) == rle.encode(mask) == rle.encode(mask[::-1][::-1])


def test_encoding_is_json_and_what_pycocotools_reads():
    mask = _random_mask(2, (11, 8))
    encoded = json.loads(json.dumps(rle.encode(mask)))
    np.testing.assert_array_equal(coco_mask.decode(encoded).astype(bool), mask)


def test_numbers_count_as_inside_where_nonzero():
    assert rle.area(rle.encode(np.array([[0.0, 0.4], [-2.0, 256.0]]))) == 3


def test_uncompressed_counts():
    # Column-major runs, as transformers' pipeline returns them: 2 outside, 3 inside, 1 outside.
    decoded = rle.decode({"size": [2, 3], "counts": [2, 3, 1]})
    np.testing.assert_array_equal(decoded, np.array([[0, 1, 1], [0, 1, 0]], dtype=bool))


def test_runs_that_do_not_fill_the_mask_are_refused():
    with pytest.raises(ValueError, match=r"sums to 7, expected 2 \* 3"):
        rle.decode({"size": [2, 3], "counts": [2, 5]})


def test_wrong_inputs_are_named():
    with pytest.raises(ValueError, match=r"mask must have shape \(H, W\)"):
        rle.encode(np.zeros((1, 4, 4)))
    with pytest.raises(ValueError, match="'size' and 'counts'"):
        rle.decode({"size": [2, 2]})
