"""Prompt sessions: strict reading, steps decoded as the person saw them, and the same masks again."""

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest

from sam_hf import SamPredictor
from sam_hf.inference.session import PromptSession, Step, decode_steps, read_steps, replay, wants_three
from sam_hf.inference.text.segmenter import SamTextSegmenter
from sam_hf.masks import rle

CASES = json.loads((Path(__file__).parents[1] / "ui" / "cases.json").read_text(encoding="utf-8"))["wants_three"]
SIZE = (40, 60)


def _image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def _brush() -> dict:
    mask = np.zeros(SIZE, dtype=bool)
    mask[10:20, 10:30] = True
    return rle.encode(mask)


def _session() -> dict:
    """Every key, every kind of prompt."""
    first = {"points": [[20, 10]], "labels": [1], "box": None, "text": None, "brush": None}
    second = {"points": [[20, 10], [5.5, 30]], "labels": [1, 0], "box": [1, 2, 50, 39], "text": "a cat", "brush": None}
    brush = {"points": [], "labels": [], "box": None, "text": None, "brush": _brush()}
    steps = [
        first | {"previous": False, "selected": 2},
        second | {"previous": True, "selected": None},
        brush | {"previous": True, "selected": 0},
    ]
    kept = {"name": "猫 <b>", "color": "#0072B2", "steps": steps, "fill_holes": 4, "drop_islands": 2.5}
    kept |= {"polygon_detail": 0.5, "hidden": True, "rle": _brush()}
    return {
        "format": "sam_hf.session",
        "version": 1,
        "image": {"name": "photo.jpg", "size": [40, 60], "sha256": "0" * 64},
        "checkpoint": "tiny",
        "objects": [kept, kept | {"steps": []}, kept | {"rle": None}],
    }


@pytest.fixture(scope="module")
def predictor(text_checkpoint):
    return SamPredictor.from_pretrained(text_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def plain(plain_checkpoint):
    return SamPredictor.from_pretrained(plain_checkpoint, device="cpu")


# --- reading -----------------------------------------------------------------------------------------------------


def test_json_round_trip():
    session = PromptSession.from_json(_session())
    assert session.to_json() == _session()
    assert PromptSession.from_json(json.dumps(_session())) == session
    assert PromptSession.from_json(json.dumps(_session()).encode()) == session
    assert json.loads(json.dumps(session.to_json(), allow_nan=False)) == _session()


def test_defaults():
    least = {"format": "sam_hf.session", "version": 1, "image": {"size": [40, 60]}}
    (kept,) = PromptSession.from_json(least | {"objects": [{"steps": [{"points": [[1, 2]]}]}]}).objects
    assert kept.steps == (Step(points=((1.0, 2.0),), labels=(1,)),)
    assert (kept.name, kept.polygon_detail, kept.rle, kept.hidden) == ("", 1.0, None, False)
    assert PromptSession.from_json(least | {"objects": []}).checkpoint == "tiny"


POINTS = ("objects", 0, "steps", 0, "points")
STEP = ("objects", 0, "steps", 0)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("format",), "other", "format: expected"),
        (("version",), 2, "version: expected 1, .* got 2"),
        (("version",), "1", "version: expected a number"),
        (("version",), True, "version: expected a number"),
        (("more",), 1, "^more: unknown key"),
        (("image",), None, "image: expected an object"),
        (("image", "size"), [40], r"image.size: expected \[height, width\]"),
        (("image", "size"), [40, 60, 3], "image.size: expected at most 2"),
        (("image", "size"), [0, 60], r"image.size\[0\]: expected a number from 1"),
        (("image", "size"), [40.5, 60], r"image.size\[0\]: expected a whole number"),
        (("image", "size"), [50_000, 50_000], "image.size: .* at most 50,000,000 pixels"),
        (("image", "size"), [41, 60], r"objects\[0\].steps\[2\].brush: size: expected \[41, 60\]"),
        (("image", "sha256"), "../x", "image.sha256: expected 64 digits"),
        (("image", "name"), 7, "image.name: expected a text"),
        (("checkpoint",), "x" * 300, "checkpoint: expected at most 255 characters"),
        (("objects",), {}, "objects: expected a list"),
        (("objects",), [{}] * 2000, "objects: expected at most 1024, got 2000"),
        (("objects", 1), 5, r"objects\[1\]: expected an object, got 5"),
        (("objects", 1), {"name": "x"}, r"objects\[1\]: expected steps or an rle"),
        (("objects", 0, "stepz"), [], r"objects\[0\].stepz: unknown key; known are .*steps"),
        (("objects", 0, "name"), "\ud800", r"objects\[0\].name: .*surrogate"),
        (("objects", 0, "color"), "red", r"objects\[0\].color: expected a color #rrggbb, got 'red'"),
        (("objects", 0, "color"), "#000000\n", r"objects\[0\].color"),
        (("objects", 0, "fill_holes"), -1, r"objects\[0\].fill_holes: expected a number from 0"),
        (("objects", 0, "polygon_detail"), 1.1, r"objects\[0\].polygon_detail: .* to 1, got 1.1"),
        (("objects", 0, "hidden"), 1, r"objects\[0\].hidden: expected true or false"),
        (("objects", 0, "rle"), {"size": [40, 60], "counts": "1"}, r"objects\[0\].rle: counts: the runs hold 1 "),
        (("objects", 0, "rle"), "x", r"objects\[0\].rle: expected an object"),
        (("objects", 0, "rle"), {"size": [40, 60], "counts": "", "z": 1}, r"objects\[0\].rle.z: unknown key"),
        (("objects", 0, "steps"), [{"points": [[1, 1]]}] * 300, r"objects\[0\].steps: expected at most 256, got 300"),
        ((*STEP, "previous"), True, r"objects\[0\].steps\[0\].previous: there is no step before"),
        (STEP, {}, r"objects\[0\].steps\[0\]: expected a prompt"),
        (STEP, [], r"objects\[0\].steps\[0\]: expected an object, got a list of 0"),
        (POINTS, [[1, 2, 3]], r"objects\[0\].steps\[0\].points\[0\]: expected at most 2"),
        (POINTS, [[1]], r"objects\[0\].steps\[0\].points\[0\]: expected 2 numbers, got 1"),
        (POINTS, [[1, 2], [3, 4]], r"objects\[0\].steps\[0\].labels: expected one per point, 2, got 1"),
        (POINTS, [[1, "2"]], r"objects\[0\].steps\[0\].points\[0\]\[1\]: expected a number, got '2'"),
        (POINTS, [[1, True]], r"objects\[0\].steps\[0\].points\[0\]\[1\]: expected a number, got True"),
        (POINTS, [[1, None]], r"objects\[0\].steps\[0\].points\[0\]\[1\]: expected a number, got None"),
        (POINTS, [[1, float("nan")]], r"objects\[0\].steps\[0\].points\[0\]\[1\]: .* got nan"),
        (POINTS, [[float("-inf"), 1]], r"objects\[0\].steps\[0\].points\[0\]\[0\]: .* got -inf"),
        (POINTS, [[1e300, 1]], r"objects\[0\].steps\[0\].points\[0\]\[0\]: expected a number from -1e\+06 to 1e\+06"),
        (POINTS, [[10**400, 1]], r"objects\[0\].steps\[0\].points\[0\]\[0\]: .* got a number of too many digits"),
        (POINTS, [[1, 1]] * 300, r"objects\[0\].steps\[0\].points: expected at most 256, got 300"),
        ((*STEP, "labels"), [2], r"objects\[0\].steps\[0\].labels\[0\]: expected a number from 0 to 1, got 2"),
        ((*STEP, "labels"), [0.5], r"objects\[0\].steps\[0\].labels\[0\]: expected a whole number"),
        ((*STEP, "labels"), [True], r"objects\[0\].steps\[0\].labels\[0\]: expected a number, got True"),
        ((*STEP, "box"), [1, 2, 3], r"objects\[0\].steps\[0\].box: expected 4 numbers, got 3"),
        ((*STEP, "box"), [5, 2, 5, 9], r"objects\[0\].steps\[0\].box: expected x0 < x1"),
        ((*STEP, "text"), " \t", r"objects\[0\].steps\[0\].text: expected a phrase or null, got a blank one"),
        ((*STEP, "text"), "x" * 2000, r"objects\[0\].steps\[0\].text: expected at most 1000 characters"),
        ((*STEP, "selected"), 3, r"objects\[0\].steps\[0\].selected: expected a number from 0 to 2, got 3"),
        ((*STEP, "brush"), {"size": [4, 4], "counts": "`0"}, r"objects\[0\].steps\[0\].brush: size"),
    ],
)
def test_what_is_wrong_is_said_by_its_path(place, value, said):
    session = deepcopy(_session())
    inside = session
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    with pytest.raises(ValueError, match=said) as refused:
        PromptSession.from_json(session)
    assert len(str(refused.value)) < 300  # what came is shown shortened


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "format"),
        ([], "format"),
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "nested too deeply|not JSON"),
        (b"\xff\xfe\xff", "not JSON"),
        ('{"format": NaN}', "NaN is not a number"),
        ('{"format": "sam_hf.session", "version": ' + "9" * 5000 + "}", "not JSON"),
        ('{"format": "sam_hf.session", "version": 1e999}', "version"),
        ("[]", "format"),
        ('{"format": "sam_hf.session", "version": 1, "image": {"size": [1, 1]}}', "objects: missing"),
        ('{"format": "sam_hf.session", "version": 1, "objects": []}', "image: missing"),
        ('{"format": "sam_hf.session", "version": 1, "objects": [], "image": {}}', "image.size: missing"),
    ],
)
def test_what_is_no_session(value, said):
    with pytest.raises(ValueError, match=said):
        PromptSession.from_json(value)


# --- decoding ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_one_mask_or_three(case):
    given = case["step"]
    size = tuple(given["brush"]["size"]) if "brush" in given else SIZE
    assert wants_three(Step.from_json(given, size)) == case["three"]


def test_steps_are_folded_with_the_selected_logits(predictor):
    embedding = predictor.encode(_image())
    given = _session()["objects"][0]["steps"][:2]
    steps = read_steps(given, SIZE)
    answer = decode_steps(predictor, embedding, steps)
    first = predictor.decode(embedding, points=[[20, 10]], labels=[1])
    chosen = first.low_res_logits[2][None]
    second = predictor.decode(
        embedding, [[20, 10], [5.5, 30]], [1, 0], [1, 2, 50, 39], chosen, "a cat", multimask_output=False
    )
    np.testing.assert_array_equal(answer.low_res_logits, second.low_res_logits)
    np.testing.assert_array_equal(answer.mask, second.masks[0])
    assert answer.selected == 0 and answer.score == second.scores[0]
    undone = decode_steps(predictor, embedding, steps[:1])
    np.testing.assert_array_equal(undone.masks, first.masks)
    assert undone.selected == 2


def test_without_a_choice_the_best_score_is_taken(predictor):
    embedding = predictor.encode(_image())
    answer = decode_steps(predictor, embedding, [Step(points=((20.0, 10.0),), labels=(1,))])
    assert answer.masks.shape == (3, *SIZE) and answer.selected == answer.scores.argmax()


def test_a_brush_is_the_mask_prompt_and_replaces_the_step_before(predictor):
    embedding = predictor.encode(_image())
    brush = Step(brush=_brush(), previous=True)
    alone = predictor.decode(embedding, mask_input=rle.decode(_brush()), multimask_output=False)
    for steps in ([brush], [Step(points=((1.0, 1.0),), labels=(1,)), brush]):
        np.testing.assert_array_equal(decode_steps(predictor, embedding, steps).low_res_logits, alone.low_res_logits)
    with pytest.raises(ValueError, match=r"steps\[0\].brush: expected the picture's size \[40, 60\] .* \[2, 2\]"):
        decode_steps(predictor, embedding, [Step(brush={"size": [2, 2], "counts": "4"})])


def test_steps_that_nothing_builds_on_are_not_decoded(predictor, monkeypatch):
    embedding = predictor.encode(_image())
    calls = []
    decode = predictor.decode
    monkeypatch.setattr(predictor, "decode", lambda *given, **named: calls.append(1) or decode(*given, **named))
    point = Step(points=((20.0, 10.0),), labels=(1,))
    decode_steps(predictor, embedding, [point] * 50)
    assert len(calls) == 1


def test_steps_that_cannot_be(predictor):
    embedding = predictor.encode(_image())
    with pytest.raises(ValueError, match="at least one, got none"):
        decode_steps(predictor, embedding, [])
    with pytest.raises(ValueError, match=r"steps\[0\].previous"):
        decode_steps(predictor, embedding, [Step(previous=True)])


def test_text_without_a_text_branch(plain):
    embedding, steps = plain.encode(_image()), [Step(text="a cat")]
    with pytest.raises(ValueError, match=r"steps\[0\].text: this checkpoint has no text branch"):
        decode_steps(plain, embedding, steps)

    def grounding_that_finds(answers):
        segmenter = SamTextSegmenter(plain)
        asked = []

        def segment(image, text, **given):
            asked.append((text, given))
            return answers

        segmenter.segment = segment
        return segmenter, asked

    class Nothing:
        instances = ()

    segmenter, asked = grounding_that_finds(Nothing)
    answer = decode_steps(
        plain, embedding, [*steps, Step(points=((1.0, 1.0),), labels=(1,), previous=True)], segmenter, _image()
    )
    assert asked[0][0] == "a cat" and answer.masks.shape == (1, *SIZE)
    assert not decode_steps(plain, embedding, steps, segmenter, _image()).mask.any()


# --- replay ------------------------------------------------------------------------------------------------------


def test_replay_gives_the_same_masks_again(predictor):
    content = _session()
    for kept in content["objects"]:
        kept["fill_holes"] = kept["drop_islands"] = 0
    first = replay(predictor, _image(), PromptSession.from_json(content))
    for kept, one in zip(content["objects"], first, strict=True):
        kept["rle"] = rle.encode(one.mask)
    again = replay(predictor, _image(), PromptSession.from_json(json.dumps(content)))
    assert [one.iou for one in again] == [1.0, 1.0, 1.0]
    np.testing.assert_array_equal(again[1].mask, rle.decode(_brush()))
    assert again[1].score is None and again[0].score == first[0].score and again[0].kept.name == "猫 <b>"


def test_replay_tidies_as_the_object_was_kept(predictor):
    mask = np.zeros(SIZE, dtype=bool)
    mask[5:30, 5:30] = True
    mask[10, 10] = False
    mask[35, 50] = True
    kept = {"rle": rle.encode(mask), "fill_holes": 2, "drop_islands": 2}
    content = _session() | {"objects": [kept, kept | {"rle": rle.encode(np.zeros(SIZE, dtype=bool))}]}
    tidy, empty = replay(predictor, _image(), PromptSession.from_json(content))
    assert tidy.mask[10, 10] and not tidy.mask[35, 50] and tidy.mask.sum() == 625
    assert tidy.iou == pytest.approx(624 / 626) and empty.iou == 1.0 and not empty.mask.any()


def test_replay_on_a_picture_of_another_size(predictor):
    with pytest.raises(ValueError, match="image: the session is about a picture of 60 x 40 pixels, .* 60 x 41"):
        replay(predictor, np.zeros((41, 60, 3), dtype=np.uint8), PromptSession.from_json(_session()))


def test_replay_says_which_object_cannot_be_done(plain):
    with pytest.raises(ValueError, match=r"objects\[0\]: steps\[1\].text: .* no text branch"):
        content = _session()
        del content["objects"][0]["steps"][2]
        replay(plain, _image(), PromptSession.from_json(content))
