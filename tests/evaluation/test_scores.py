import numpy as np
import pytest

from sam_hf.evaluation.scores import auroc, clustered_mean, mask_iou, rejection
from sam_hf.evaluation.text_scores import operating_point
from sam_hf.inference.text.verdict import KEEP_PRESENT


def test_iou_of_stacked_masks():
    target = np.zeros((4, 4), bool)
    target[:2] = True
    answers = np.stack([target, ~target, np.ones_like(target)])
    assert mask_iou(answers, target).tolist() == [1.0, 0.0, 0.5]
    assert mask_iou(np.zeros((4, 4), bool), np.zeros((4, 4), bool)) == 1.0
    with pytest.raises(ValueError, match=r"expected masks of \(4, 4\)"):
        mask_iou(np.zeros((8, 8), bool), target)


def test_auroc_counts_ties_half():
    assert auroc([0.8, 0.9], [0.1, 0.2]) == 1.0
    assert auroc([0.1], [0.5, 0.7]) == 0.0
    assert auroc([0.5, 0.5], [0.5]) == 0.5
    assert auroc([0.9, 0.4], [0.5]) == 0.5
    assert auroc([], [0.5]) is None


def test_unmeasured_values_are_left_out_of_the_mean():
    entry = clustered_mean(np.array([1.0, np.nan, 0.0]), np.array([0, 0, 1]))
    assert entry["mean"] == 0.5 and entry["n"] == 2
    assert clustered_mean(np.array([np.nan]), np.array([0])) is None
    assert clustered_mean(np.array([]), np.array([])) is None


def test_the_error_bar_knows_that_objects_of_a_scene_go_together():
    rng = np.random.default_rng(0)
    per_scene = rng.normal(size=50)
    values, scenes = np.repeat(per_scene, 8), np.repeat(np.arange(50), 8)
    entry = clustered_mean(values, scenes)
    honest = per_scene.std(ddof=1) / 50**0.5
    assert entry["stderr"] == pytest.approx(honest, rel=0.15)
    assert entry["stderr"] > 2 * values.std() / len(values) ** 0.5
    assert entry["ci95"][0] < entry["mean"] < entry["ci95"][1]
    single = clustered_mean(values[:8], scenes[:8])
    assert single["stderr"] is None and single["ci95"] is None


def test_rejection_at_the_threshold_that_keeps_four_fifths():
    present = np.linspace(0.1, 1.0, 10)
    absent, area = np.array([0.05, 0.2, 0.6, 0.95]), np.array([0.1, 0.1, 0.0, 0.3])
    found = rejection(present, absent, area, keep=0.8)
    assert found["kept"] == 0.8 and found["threshold"] == pytest.approx(0.3)
    assert found["false_alarm_rate"] == 0.5
    assert found["declined_rate"] == 0.75  # two low scores, and one high score without a mask
    assert found["empty_mask_rate"] == 0.25
    assert rejection(present, np.array([]), np.array([])) is None
    point, usual = operating_point(present, absent), rejection(present, absent, area)  # one threshold everywhere
    assert usual["threshold"] == point["threshold"] and usual["keep"] == KEEP_PRESENT
    assert rejection(np.array([-np.inf]), absent, area) is None
    with pytest.raises(ValueError, match="keep: expected a share"):
        rejection(present, absent, area, keep=0)
