"""Simulated points, boxes and rough masks."""

import numpy as np
import pytest
import torch

from sam_hf.evaluation.click_protocol import interior_point, next_click
from sam_hf.training import prompt_sampling as sampling


def two_masks(size=16):
    masks = torch.zeros(1, 2, size, size, dtype=torch.bool)
    masks[0, 0, 2:5, 3:9] = True
    masks[0, 1, size - 1, size - 1] = True
    return masks


def test_points_lie_in_the_mask_and_reach_all_of_it():
    torch.manual_seed(0)
    masks = two_masks()
    seen = set()
    for _ in range(300):
        points = sampling.sample_points(masks, image_size=16)
        x, y = points[0, 0].int().tolist()
        assert masks[0, 0, y, x]
        assert points[0, 1].tolist() == [15.0, 15.0]
        seen.add((x, y))
    assert len(seen) == masks[0, 0].sum()


def test_points_are_uniform():
    torch.manual_seed(0)
    masks = torch.zeros(1, 4000, 4, 4, dtype=torch.bool)
    masks[..., 1, :2] = True
    masks[..., 3, 3] = True
    points = sampling.sample_points(masks, image_size=4)[0]
    share = (points[:, 1] == 3).float().mean().item()
    assert share == pytest.approx(1 / 3, abs=0.03)


def test_low_resolution_cell_maps_to_its_centre_in_resized_pixels():
    masks = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    masks[0, 0, 1, 6] = True
    point = sampling.sample_points(masks, image_size=32)[0, 0]
    # the model adds half a pixel: the result must be the centre of the 4 px cell
    assert (point + 0.5).tolist() == [6.5 * 4, 1.5 * 4]


def test_error_points_carry_the_label_of_their_error():
    torch.manual_seed(0)
    truth = two_masks().expand(1, 2, 16, 16)[:, :1]
    missed, surplus = torch.zeros_like(truth), truth.clone()
    surplus[..., 10:, :3] = True
    for _ in range(20):
        point, label = sampling.sample_error_points(missed, truth, 16)
        x, y = point[0, 0].int().tolist()
        assert label.item() == 1 and truth[0, 0, y, x]
        point, label = sampling.sample_error_points(surplus, truth, 16)
        x, y = point[0, 0].int().tolist()
        assert label.item() == 0 and y >= 10 and x < 3


def test_without_an_error_the_click_confirms_and_without_anything_it_is_padding():
    truth = two_masks()[:, :1]
    point, label = sampling.sample_error_points(truth, truth, 16)
    x, y = point[0, 0].int().tolist()
    assert label.item() == 1 and truth[0, 0, y, x]
    empty = torch.zeros_like(truth)
    assert sampling.sample_error_points(empty, empty, 16)[1].item() == sampling.NO_POINT


@pytest.mark.parametrize("image_size", [32, 128])
def test_tight_boxes(image_size):
    rng = np.random.default_rng(0)
    masks = torch.from_numpy(rng.random((2, 3, 32, 32)) > 0.995)
    boxes = sampling.tight_boxes(masks, image_size)
    scale = image_size / 32
    for mask, box in zip(masks.flatten(0, 1).numpy(), boxes.flatten(0, 1), strict=True):
        rows, columns = np.nonzero(mask)
        pixels = np.array([columns.min(), rows.min(), columns.max(), rows.max()])
        np.testing.assert_allclose(box.numpy() + 0.5, (pixels + 0.5) * scale)
    assert (sampling.tight_boxes(torch.zeros(1, 1, 8, 8), 8) == sampling.NO_BOX).all()


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_box_noise_is_bounded_ordered_and_leaves_absent_boxes_alone(distribution):
    torch.manual_seed(0)
    boxes = torch.tensor([[100.0, 200.0, 900.0, 260.0]]).repeat(2000, 1)
    boxes[0] = sampling.NO_BOX
    moved = sampling.jitter_boxes(boxes, 1024, 0.1, distribution)
    assert (moved[0] == sampling.NO_BOX).all()
    shift = (moved - boxes)[1:]
    assert shift.abs().max() <= 20.0
    assert shift[:, 1].std() < 0.12 * 60  # 10 % of the height, not of the width
    assert shift[:, 0].abs().max() > 10.0
    assert (moved[1:, 2:] >= moved[1:, :2]).all() and moved[1:].min() >= 0
    small = boxes[1:] / 8
    assert (sampling.jitter_boxes(small, 128, 0.1, distribution) - small).abs().max() <= 20 / 8 + 1e-4


def test_rough_masks_resemble_the_truth_without_being_it():
    torch.manual_seed(0)
    truth = torch.zeros(4, 5, 64, 64, dtype=torch.bool)
    truth[..., 16:48, 20:44] = True
    rough = sampling.rough_masks(truth, magnitude=(2.0, 20.0))
    assert rough.shape == (4, 5, 1, 64, 64)
    assert 2.0 - 1e-3 <= rough.abs().min() and rough.abs().max() <= 20.0 + 1e-3
    predicted = rough[:, :, 0] > 0
    iou = (predicted & truth).sum((-2, -1)) / (predicted | truth).sum((-2, -1))
    assert 0.3 < iou.mean() < 0.98
    assert iou.std() > 0.01


def test_reduce_masks_keeps_what_covers_more_than_half_a_cell():
    masks = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    masks[0, 0, :2, :2] = 1  # a full cell
    masks[0, 0, 2:4, 4] = 1  # half a cell
    masks[0, 0, 6:, 6:] = torch.tensor([[1, 1], [1, 0]])
    assert sampling.reduce_masks(masks, (4, 4))[0, 0].nonzero().tolist() == [[0, 0], [3, 3]]
    with pytest.raises(ValueError, match="smaller"):
        sampling.reduce_masks(masks, (16, 16))
    with pytest.raises(ValueError, match=r"\(B, P, H, W\)"):
        sampling.sample_points(masks[0], 8)


def test_a_click_in_the_middle_is_the_evaluations_first_click():
    masks = torch.zeros(1, 2, 16, 16, dtype=torch.bool)
    masks[0, 0, 2:13, 3:8] = True
    masks[0, 1, :5, :9] = True  # at the rim, which counts as outside
    points = sampling.sample_points(masks, 16, middle=1.0)[0]
    assert [tuple(point) for point in points.int().tolist()] == [interior_point(mask.numpy()) for mask in masks[0]]


def test_a_later_click_in_the_middle_is_the_evaluations_next_click():
    truth, predicted = torch.zeros(2, 1, 4, 16, 16, dtype=torch.bool)
    truth[0, 0, 2:9, 2:9] = True  # nothing found
    predicted[0, 1, 4:14, 1:6] = True  # nothing there
    truth[0, 2, 2:14, 2:14], predicted[0, 2, 2:14, 9:15] = True, True  # more missed than spilt
    truth[0, 3, 2:9, 2:9] = predicted[0, 3, 2:9, 2:9] = True  # right
    points, labels = sampling.sample_error_points(predicted, truth, 16, middle=1.0)
    found = [(tuple(point), label) for point, label in zip(points[0].int().tolist(), labels[0].tolist(), strict=True)]
    for index in (0, 2, 3):
        assert found[index] == next_click(truth[0, index].numpy(), predicted[0, index].numpy())
    (x, y), label = found[1]
    assert label == 0 and predicted[0, 1, y, x]


def test_the_fraction_of_clicks_in_the_middle_is_kept():
    masks = torch.ones(1, 2000, 9, 9, dtype=torch.bool)
    share = (sampling.sample_points(masks, 9, middle=0.5) == 4).all(-1).float().mean().item()
    assert 0.45 < share < 0.57  # one random pixel in 81 is the middle one too
