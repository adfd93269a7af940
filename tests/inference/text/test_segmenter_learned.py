"""The embedded checkpoint's text branch, asked about shapes that it knows."""

import cv2
import numpy as np
import pytest

from sam_hf import SamPredictor, SamTextSegmenter
from sam_hf.inference.text.instances import Request, mask_iou
from sam_hf.inference.text.learned import LearnedGrounding

COLOURS = {"red": (214, 40, 40), "blue": (40, 80, 210), "green": (40, 170, 70)}


@pytest.fixture(scope="module")
def segmenter():
    return SamTextSegmenter(SamPredictor.from_pretrained("tiny", device="cpu"))


def _draw(*shapes):
    """(256,256,3) uint8 and one mask per (colour, kind, x, y, radius)."""
    image, masks = np.full((256, 256, 3), (225, 222, 214), dtype=np.uint8), []
    for colour, kind, x, y, radius in shapes:
        mask = np.zeros((256, 256), dtype=np.uint8)
        if kind == "circle":
            cv2.circle(mask, (x, y), radius, 1, -1)
        else:
            mask[y - radius : y + radius, x - radius : x + radius] = 1
        image[mask > 0] = COLOURS[colour]
        masks.append(mask > 0)
    return image, masks


@pytest.fixture(scope="module")
def mixed():
    """A red circle on the left, a blue square at the bottom, a green circle on the right."""
    return _draw(("red", "circle", 60, 70, 34), ("blue", "square", 180, 170, 36), ("green", "circle", 190, 60, 26))


@pytest.fixture(scope="module")
def three():
    """Three red circles: the left one is the smallest, the one at the bottom the largest."""
    return _draw(("red", "circle", 50, 60, 28), ("red", "circle", 190, 70, 34), ("red", "circle", 110, 180, 40))


def _which(answer, masks, least=0.6):
    """Which things the instances are, in their order; None for what is none of them."""
    found = []
    for one in answer.instances:
        ious = [mask_iou(one.mask, mask) for mask in masks]
        found.append(int(np.argmax(ious)) if max(ious) > least else None)
    return found


def test_each_phrase_finds_its_thing(segmenter, mixed):
    image, masks = mixed
    answers = segmenter.segment(image, ["red circle", "blue square", "green circle"])
    assert [_which(answer, masks) for answer in answers] == [[0], [1], [2]]
    for answer in answers:
        (one,) = answer.instances
        assert answer.grounding == "learned" and one.score == one.text_probability
        # Where the phrase is likeliest is on what was found.
        row, column = np.unravel_index(answer.heat_map.argmax(), answer.heat_map.shape)
        assert one.mask[8 * row : 8 * row + 8, 8 * column : 8 * column + 8].any() and not answer.absent
        left, top, right, bottom = one.box
        assert one.mask[top:bottom, left:right].sum() == one.area and 0 < one.stability <= 1


def test_what_is_there_has_more_evidence_than_what_is_not(segmenter, mixed):
    present = segmenter.segment(mixed[0], ["red circle", "blue square", "green circle"])
    absent = segmenter.segment(mixed[0], ["yellow star", "banana"])
    assert min(one.evidence for one in present) > max(one.evidence for one in absent)


def test_plurals_find_all_and_only_those(segmenter, mixed, three):
    image, masks = three
    for phrase in ("red circles", "all red circles", "three red circles"):
        assert sorted(_which(segmenter.segment(image, phrase), masks)) == [0, 1, 2]
    assert len(segmenter.segment(image, "two red circles").instances) == 2
    image, masks = mixed
    assert sorted(_which(segmenter.segment(image, "circles"), masks)) == [0, 2]
    assert _which(segmenter.segment(image, "red circles"), masks) == [0]


@pytest.mark.parametrize(
    ("phrase", "which"),
    [
        ("leftmost red circle", 0),
        ("red circle on the right", 1),
        ("red circle at the bottom", 2),
        ("biggest red circle", 2),
        ("the small red circle", 0),
        ("second red circle from the left", 2),
    ],
)
def test_places_choose(segmenter, three, phrase, which):
    assert _which(segmenter.segment(three[0], phrase), three[1]) == [which]


def test_geometry_and_phrase_in_one_decode(segmenter, mixed):
    image, masks = mixed
    given = [{"points": [[190, 60]]}, {"box": [160, 30, 222, 92]}, {"mask_input": masks[2]}]
    for geometry in given:
        assert _which(segmenter.segment(image, "circle", **geometry), masks) == [2], geometry
    # One thing is meant, whatever the number of the noun.
    assert _which(segmenter.segment(image, "circles", points=[[60, 70]]), masks) == [0]


def test_background_points_alone_say_which_not(segmenter, mixed):
    image, masks = mixed
    away = {"points": [[60, 70]], "labels": [0]}
    assert _which(segmenter.segment(image, "circle", **away), masks) == [2]
    assert sorted(_which(segmenter.segment(image, "shapes", **away), masks)) == [1, 2]


def test_what_is_pointed_at_stays_whatever_the_negatives_say(segmenter, mixed):
    image, masks = mixed
    here = {"points": [[60, 70]]}
    alone = segmenter.segment(image, "blue square", **here)
    against = segmenter.segment(image, "blue square", "red circle", **here)
    assert _which(alone, masks) == _which(against, masks) == [0]
    assert against.instances[0].text_probability < alone.instances[0].text_probability


def test_phrase_and_geometry_go_into_the_same_decode(segmenter, mixed, monkeypatch):
    asked = []
    decode = segmenter.predictor.decode_batch
    monkeypatch.setattr(
        segmenter.predictor,
        "decode_batch",
        lambda *given, **options: asked.append(options) or decode(*given, **options),
    )
    segmenter.segment(mixed[0], "circle", points=[[60, 70]], box=[20, 30, 100, 110])
    first = next(options for options in asked if options["text"] is not None)
    assert first["text"] == ["circle"] and first["points"] == [[[60, 70]]] and first["boxes"] == [[20, 30, 100, 110]]


def test_negative_phrases_take_what_suits_them_better(segmenter, mixed):
    image, masks = mixed
    every = segmenter.segment(image, "shapes")
    assert sorted(_which(every, masks)) == [0, 1, 2]
    kept = segmenter.segment(image, "blue square", negative_text=["red circle", "green circle"])
    assert _which(kept, masks) == [1]
    same = segmenter.segment(image, "blue square", negative_text="blue square")
    assert same.absent and same.instances == []


def test_many_phrases_are_the_same_as_one_by_one(segmenter, mixed):
    phrases = ["red circle", "blue square", "green circle"] * 4
    together = segmenter.segment(mixed[0], phrases)
    for phrase, answer in zip(phrases[:3], together[:3], strict=True):
        alone = segmenter.segment(mixed[0], phrase)
        assert mask_iou(alone.instances[0].mask, answer.instances[0].mask) > 0.99
        assert alone.evidence == pytest.approx(answer.evidence, abs=1e-2)


def test_without_places_the_first_answer_is_the_answer(segmenter, mixed):
    predictor = segmenter.predictor
    phrase = "red circle"
    answer = SamTextSegmenter(predictor, learned={"places": 0}).segment(mixed[0], phrase)
    decoded = predictor.decode(predictor.encode(mixed[0]), text=phrase)
    np.testing.assert_array_equal(answer.instances[0].mask, decoded.masks[decoded.scores.argmax()])
    assert answer.instances[0].predicted_iou == pytest.approx(float(decoded.scores.max()), abs=1e-6)


def test_the_number_of_instances_is_bounded(three):
    predictor = SamPredictor.from_pretrained("tiny", device="cpu")
    segmenter = SamTextSegmenter(predictor, learned={"max_instances": 2})
    assert len(segmenter.segment(three[0], "red circles").instances) == 2


@pytest.mark.parametrize("options", [{"keep_share": 2}, {"places": -1}, {"max_instances": 0}, {"negative_iou": -1}])
def test_wrong_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        LearnedGrounding(**options)


def test_a_checkpoint_without_a_branch(plain_checkpoint, mixed):
    predictor = SamPredictor.from_pretrained(plain_checkpoint, device="cpu")
    request = Request(predictor, predictor.encode(mixed[0]), None, ("circle",))
    with pytest.raises(ValueError, match="no text branch"):
        LearnedGrounding()(request)
