"""From evidence to probabilities and verdicts."""

import json
import math

import numpy as np
import pytest

from sam_hf.inference.text.verdict import Calibration
from sam_hf.model.checkpoint_files import CALIBRATION


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    return rng.normal(2.0, 1.5, 300), rng.normal(-1.0, 1.5, 500)


def test_more_evidence_is_never_less_probable(samples):
    calibration = Calibration()
    calibration.fit("dense/x", *samples)
    line = [calibration.curve("dense/x").presence(evidence) for evidence in np.linspace(-60, 60, 241)]
    assert line == sorted(line) and 0 <= line[0] < 0.01 and 0.99 < line[-1] <= 1
    # As many present as absent are assumed: the middle of the two is a toss-up.
    assert calibration.curve("dense/x").presence(0.5) == pytest.approx(0.5, abs=0.05)


def test_probabilities_mean_what_they_say(samples):
    present, absent = samples
    calibration = Calibration()
    calibration.fit("a", present, absent)
    values = np.concatenate([present, absent])
    chances = np.array([calibration.curve("a").presence(value) for value in values])
    weights = np.repeat([1 / len(present), 1 / len(absent)], [len(present), len(absent)])
    truth = np.repeat([1.0, 0.0], [len(present), len(absent)])
    for low, high in ((0.0, 0.3), (0.3, 0.7), (0.7, 1.0)):
        inside = (chances >= low) & (chances <= high)
        assert np.average(truth[inside], weights=weights[inside]) == pytest.approx(
            np.average(chances[inside], weights=weights[inside]), abs=0.08
        )


@pytest.mark.parametrize("keep", [0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("count", [1, 7, 10, 300])
def test_the_threshold_keeps_the_share_asked_for_and_no_more(samples, keep, count):
    present, absent = samples[0][:count], samples[1]
    calibration = Calibration()
    curve = calibration.fit("a", present, absent, keep=keep)
    kept = np.array([not calibration.curve("a").is_absent(value) for value in present])
    assert keep <= kept.mean() < keep + 1 / count + 1e-9
    assert curve.kept == kept.mean()
    assert curve.refused == np.mean([calibration.curve("a").is_absent(value) for value in absent])


def test_nothing_found_is_absent(samples):
    calibration = Calibration()
    curve = calibration.fit("a", [-math.inf] * 5 + [1.0, 2.0], [-math.inf, -3.0, 0.5])
    assert curve.threshold == 1.0 and curve.kept == pytest.approx(2 / 7) and curve.refused == 1.0
    for name in ("a", "unknown"):
        assert calibration.curve(name).presence(-math.inf) == 0.0 and calibration.curve(name).is_absent(-math.inf)


def test_classes_that_do_not_overlap_and_evidence_that_says_nothing():
    calibration = Calibration()
    apart = calibration.fit("apart", [5.0, 6.0, 7.0], [-5.0, -6.0])
    assert math.isfinite(apart.slope) and calibration.curve("apart").presence(6.0) > 0.7
    reversed_evidence = calibration.fit("reversed", [-1.0, -2.0], [1.0, 2.0])
    assert reversed_evidence.slope == 0 and calibration.curve("reversed").presence(100.0) == 0.5
    alike = calibration.fit("alike", [1.0, 1.0], [1.0, 1.0])
    assert math.isfinite(alike.slope) and not calibration.curve("alike").is_absent(1.0)


def test_round_trip(samples, tmp_path):
    calibration = Calibration()
    calibration.fit("learned", *samples)
    calibration.fit("dense/ViT-B-16/openai", samples[0] * 3, samples[1])
    path = calibration.save(tmp_path)
    assert path == tmp_path / CALIBRATION and [entry.name for entry in tmp_path.iterdir()] == [CALIBRATION]
    for source in (path, tmp_path):
        again = Calibration.load(source)
        assert again.curves == calibration.curves and "learned" in again and "dense" not in again


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        "[1]",
        json.dumps({"learned": {"slope": 1.0}}),
        json.dumps({"learned": {"slope": -1.0, "offset": 0.0, "threshold": 0.0}}),
        json.dumps({"learned": {"slope": "1", "offset": 0.0, "threshold": 0.0}}),
    ],
)
def test_a_file_that_holds_something_else(tmp_path, content):
    (tmp_path / CALIBRATION).write_text(content)
    with pytest.raises(ValueError, match=CALIBRATION):
        Calibration.load(tmp_path)


@pytest.mark.parametrize(
    ("present", "absent", "keep", "named"),
    [
        ([], [1.0], 0.8, "present"),
        ([1.0], [], 0.8, "absent"),
        ([math.nan], [1.0], 0.8, "present"),
        ([1.0], [math.inf], 0.8, "absent"),
        ([-math.inf], [1.0], 0.8, "present"),
        ([1.0], [0.0], 0.0, "keep"),
        ([1.0], [0.0], 1.5, "keep"),
    ],
)
def test_what_cannot_be_fitted(present, absent, keep, named):
    with pytest.raises(ValueError, match=named):
        Calibration().fit("a", present, absent, keep=keep)


def test_nan_is_no_evidence():
    with pytest.raises(ValueError, match="evidence"):
        Calibration().curve("a").presence(math.nan)
