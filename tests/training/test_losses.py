"""Losses per mask, against independent formulas."""

import math

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from sam_hf.training import losses


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return torch.randn(2, 3, 4, 8, 8) * 3, (torch.rand(2, 3, 1, 8, 8) > 0.7)


def test_focal_agrees_with_torchvision(pair):
    logits, target = pair
    expected = sigmoid_focal_loss(logits, target.expand_as(logits).float(), alpha=0.25, gamma=2).mean((-2, -1))
    torch.testing.assert_close(losses.focal_loss(logits, target), expected)
    unweighted = sigmoid_focal_loss(logits, target.expand_as(logits).float(), alpha=-1, gamma=1.5).mean((-2, -1))
    torch.testing.assert_close(losses.focal_loss(logits, target, alpha=-1, gamma=1.5), unweighted)


def test_dice_is_zero_when_right_and_nearly_one_when_wrong():
    target = torch.zeros(1, 16, 16)
    target[:, :8] = 1
    assert losses.dice_loss((target * 2 - 1) * 30, target).item() == pytest.approx(0, abs=1e-5)
    assert losses.dice_loss((1 - target * 2) * 30, target).item() > 0.99
    empty = torch.zeros(1, 16, 16)
    assert losses.dice_loss(empty - 30, empty).item() == pytest.approx(0, abs=1e-5)


def test_balanced_cross_entropy_weighs_a_tiny_object_like_the_rest():
    target = torch.zeros(1, 20, 20)
    target[0, 3, 3] = 1
    nothing = torch.full((1, 20, 20), -4.0)
    # half of the loss is the one missed pixel, however small it is
    expected = 0.5 * math.log1p(math.exp(4.0)) + 0.5 * math.log1p(math.exp(-4.0))
    assert losses.balanced_bce_loss(nothing, target).item() == pytest.approx(expected, rel=1e-5)
    empty = torch.zeros_like(target)
    assert losses.balanced_bce_loss(nothing, empty).item() == pytest.approx(math.log1p(math.exp(-4.0)), rel=1e-5)


def test_mask_iou_counts_and_gives_no_gradient():
    target = torch.zeros(1, 4, 4)
    target[:, :2] = 1
    logits = torch.full((1, 4, 4), -1.0, requires_grad=True)
    with torch.no_grad():
        logits[:, 1:3] = 1
    iou = losses.mask_iou(logits, target)
    assert iou.item() == pytest.approx(4 / 12)
    assert not iou.requires_grad
    empty = torch.zeros(1, 4, 4)
    assert losses.mask_iou(empty - 1, empty).item() == 0.0


@pytest.mark.parametrize("function", [losses.focal_loss, losses.dice_loss, losses.balanced_bce_loss])
def test_nothing_is_reduced_over_masks_and_half_precision_is_promoted(function, pair):
    logits, target = pair
    value = function(logits, target)
    assert value.shape == (2, 3, 4)
    torch.testing.assert_close(value[1, 2, 3], function(logits[1, 2, 3], target[1, 2, 0]))
    assert function(logits.bfloat16(), target).dtype == torch.float32


def test_refusals(pair):
    logits, target = pair
    with pytest.raises(ValueError, match="height and width"):
        losses.focal_loss(logits, target[..., :4])
    with pytest.raises(ValueError, match="'huber'"):
        losses.iou_score_loss(torch.zeros(1), torch.zeros(1), "huber")
    assert losses.iou_score_loss(torch.tensor([0.5]), torch.tensor([1.0]), "mse").item() == 0.25
    assert losses.iou_score_loss(torch.tensor([0.5]), torch.tensor([1.0]), "l1").item() == 0.5
