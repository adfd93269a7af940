"""Boxes of masks: edges as coordinates, batches, empty masks."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from sam_hf.masks import boxes


def test_one_pixel():
    mask = np.zeros((8, 9), dtype=bool)
    mask[5, 3] = True
    assert boxes.mask_to_xyxy(mask).tolist() == [3, 5, 4, 6]
    assert boxes.mask_to_xywh(mask).tolist() == [3, 5, 1, 1]


def test_batches_and_agreement_with_pycocotools():
    masks = np.random.default_rng(0).random((2, 3, 12, 10)) > 0.95
    found = boxes.mask_to_xywh(masks)
    assert found.shape == (2, 3, 4)
    for mask, box in zip(masks.reshape(-1, 12, 10), found.reshape(-1, 4), strict=True):
        expected = coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)))
        assert box.tolist() == expected.tolist()


def test_empty_and_full():
    assert boxes.mask_to_xyxy(np.zeros((4, 5), dtype=bool)).tolist() == [0, 0, 0, 0]
    assert boxes.mask_to_xyxy(np.ones((4, 5), dtype=bool)).tolist() == [0, 0, 5, 4]
    assert boxes.mask_to_xyxy(np.ones((2, 0, 5), dtype=bool)).tolist() == [[0, 0, 0, 0]] * 2


def test_spellings_undo_each_other():
    box = np.array([[1.5, 2.0, 8.0, 9.0]])
    assert boxes.xyxy_to_xywh(box).tolist() == [[1.5, 2.0, 6.5, 7.0]]
    np.testing.assert_array_equal(boxes.xywh_to_xyxy(boxes.xyxy_to_xywh(box)), box)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"mask must have shape \(\.\.\., H, W\)"):
        boxes.mask_to_xyxy(np.zeros(4))
    with pytest.raises(ValueError, match=r"boxes must have shape \(\.\.\., 4\), got \(3,\)"):
        boxes.xyxy_to_xywh([1, 2, 3])
