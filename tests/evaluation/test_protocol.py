"""The protocol, put to decoders that know the answer."""

import numpy as np
import pytest

from sam_hf.evaluation.scene_decoder import Decoded
from sam_hf.evaluation.summary import ROWS, summarise
from sam_hf.evaluation.synthetic import measure_scene


def measured(scene, decode, **options):
    records, misses = measure_scene(scene, decode, np.random.default_rng(0), **options)
    return [record | {"scene": 0} for record in records], misses


def test_an_oracle_scores_one_everywhere(scene, oracle):
    records, misses = measured(scene, oracle)
    assert [record["kind"] for record in records] == ["shape", "part", "emoji"]
    for record in records:
        for name in set(ROWS) & set(record) - {"rough_mask_before"}:
            assert record[name] == 1.0 or (np.isnan(record[name]) and record["kind"] == "part"), name
        assert record["rough_mask_before"] < 1.0
    assert misses == [{"score": 0.1, "area": 0.0}] * 2


def test_best_predicted_follows_the_score_and_oracle_the_truth(scene, make_oracle):
    records, _ = measured(scene, make_oracle(scene, honest_scores=False))
    for record in records:
        assert record["click_1"] == 0.0 and record["click_1_oracle"] == 1.0
        assert record["box_of_three"] == 0.0 and record["box_oracle"] == 1.0


def test_later_clicks_feed_the_logits_back_and_ask_for_one_mask(scene, oracle):
    measured(scene, oracle)
    first, *later = [call for call in oracle.calls if "points" in call and "text" not in call]
    assert first["points"].shape == (3, 1, 2) and first["multimask"] and "previous" not in first
    assert [call["points"].shape for call in later] == [(3, count, 2) for count in (2, 3, 4, 5)]
    assert not any(call["multimask"] for call in later)
    # the oracle writes the object's number into the logits of its right mask, the second of three
    assert all(call["previous"][:, 0, 0].tolist() == [0, 1, 2] for call in later)
    assert all((call["points"][:, :1] == first["points"]).all() for call in later)


def test_a_spilling_decoder_is_answered_with_a_background_click(scene):
    asked = []

    def everything(*, points=None, labels=None, boxes=None, masks=None, previous=None, text=None, multimask=True):
        count = len(next(value for value in (text, points, boxes, masks) if value is not None))
        if labels is not None:
            asked.append(labels)
        shape = (count, 3 if multimask else 1)
        return Decoded(np.ones((*shape, 64, 64), bool), np.full(shape, 0.5), np.zeros((*shape, 4, 4)))

    records, misses = measured(scene, everything)
    assert asked[4].tolist() == [[1, 0, 0, 0, 0]] * 3
    assert records[2]["click_5"] == pytest.approx(scene.objects[2].mask.mean())
    assert [miss["area"] for miss in misses] == [1.0, 1.0]


def test_objects_without_a_phrase_are_not_asked_for(scene, oracle):
    measured(scene, oracle)
    phrases = [call["text"] for call in oracle.calls if "text" in call]
    assert ["red disc", "green bar"] in phrases and ["blue star", "yellow cat"] in phrases
    assert all(None not in asked for asked in phrases)


def test_a_model_without_text_is_never_asked_in_words(scene, oracle):
    records, misses = measured(scene, oracle, text=False)
    assert not any("text" in call for call in oracle.calls) and misses == []
    results = summarise(records, misses)
    assert "phrase" not in results["rows"] and results["absent"] is None
    assert results["rows"]["click_1"]["all"]["all"]["mean"] == 1.0


def test_hidden_objects_and_empty_scenes_are_passed_over(scene, make_scene, make_oracle):
    scene.objects[1].mask = np.zeros((64, 64), bool)
    records, _ = measured(scene, make_oracle(scene))
    assert [record["kind"] for record in records] == ["shape", "emoji"]
    assert measured(make_scene(scene.image), make_oracle(scene)) == ([], [])
    results = summarise([], [])
    assert results["rows"] == {} and results["absent"] is None
    assert results["counts"]["objects"]["all"]["all"] == 0


def test_groups_and_columns_hold_the_right_objects(scene, oracle):
    records, misses = measured(scene, oracle)
    results = summarise(records, misses)
    counts = results["counts"]["objects"]
    assert counts["all"] == {"seen": 2, "held_out": 1, "all": 3}
    assert counts["part"] == {"seen": 1, "held_out": 0, "all": 1}
    row = results["rows"]["click_1"]
    assert row["part"]["held_out"] is None and row["whole"]["all"]["n"] == 2
    assert results["rows"]["phrase"]["all"]["all"]["n"] == 2  # the part has no phrase
    assert results["absent"]["auroc"] == 1.0 and results["absent"]["declined_rate"] == 1.0


def test_baselines_stand_beside(scene, oracle):
    pytest.importorskip("skimage")
    records, _ = measured(scene, oracle, felzenszwalb=(100, 0.0))
    assert records[2]["grabcut_box"] > 0.9 and records[2]["felzenszwalb_click_1"] > 0.9
