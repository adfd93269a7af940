"""Part or whole: the phrase chooses among the three masks of a click."""

import numpy as np
import pytest
import torch

from sam_hf.inference.predictor import Prediction
from sam_hf.inference.text.instances import mask_iou
from sam_hf.inference.text.mask_choice import choose, choose_mask


@pytest.fixture(scope="module")
def wheel(draw):
    """A red disc with a blue hub: (3,H,W), the hub, the whole."""
    image, (whole, hub) = draw([("red", 80, 60, 40), ("blue", 80, 60, 14)])
    return torch.from_numpy(image).permute(2, 0, 1), hub, whole


def answer(*masks, scores=None):
    scores = np.full(len(masks), 0.9) if scores is None else np.array(scores)
    return Prediction(np.stack(masks), scores.astype(np.float32), np.zeros((len(masks), 8, 8), dtype=np.float32))


def test_the_phrase_picks_part_or_whole(colour_clip, wheel):
    pixels, hub, whole = wheel
    everything = np.ones_like(hub)
    for order in ((hub, whole, everything), (everything, whole, hub)):
        for text, meant in (("blue hub", hub), ("red wheel", whole)):
            assert order[choose_mask(colour_clip, pixels, answer(*order), text)] is meant


def test_logits_are_masks_too(colour_clip, wheel):
    pixels, hub, whole = wheel
    logits = answer(*(np.where(mask, 4.0, -4.0).astype(np.float32) for mask in (whole, hub)))
    assert choose_mask(colour_clip, pixels, logits, "blue") == 1


def test_predicted_iou_decides_where_the_text_does_not(colour_clip, wheel):
    pixels, hub, _ = wheel
    assert choose_mask(colour_clip, pixels, answer(hub, hub, scores=[0.2, 0.8]), "blue") == 1
    assert choose_mask(colour_clip, pixels, answer(hub, hub, scores=[0.8, 0.2]), "blue") == 0


def test_a_negative_turns_the_choice(colour_clip, wheel):
    pixels, hub, whole = wheel
    both = answer(hub, whole)
    text = "red blue"
    assert choose_mask(colour_clip, pixels, both, text, negatives=["blue"]) == 1
    assert choose_mask(colour_clip, pixels, both, text, negatives=["red"]) == 0


def test_an_empty_mask_is_not_chosen(colour_clip, wheel):
    pixels, hub, _ = wheel
    nothing = hub & False
    assert choose_mask(colour_clip, pixels, answer(nothing, hub, scores=[1.0, 0.01]), "green") == 1
    assert choose_mask(colour_clip, pixels, answer(nothing, nothing, scores=[0.1, 0.2]), "green") == 1


def test_choose_asks_sam_and_says_how_sure_it_is(colour_clip, wheel, tiny):
    pixels, hub, whole = wheel
    embedding = tiny.encode(pixels)
    prediction = tiny.decode(embedding, points=[[80, 60]])
    masks, scores, logits = prediction
    best = choose_mask(colour_clip, pixels, prediction, "blue")
    part = choose(tiny, embedding, pixels, colour_clip, "blue", points=[[80, 60]])
    np.testing.assert_array_equal(part.mask, masks[best])
    np.testing.assert_array_equal(part.low_res_logits, logits[best])
    assert mask_iou(part.mask, hub) > 0.8 and part.text_probability > 0.9 and part.point == (80.0, 60.0)
    assert part.score == pytest.approx(part.text_probability * float(scores[best]), rel=1e-4)
    absent = choose(tiny, embedding, pixels, colour_clip, "green", points=[[80, 60]])
    assert absent.text_probability < 0.1  # one of the three, and no claim that it is that


def test_what_cannot_be_asked_is_said(colour_clip, wheel, tiny):
    pixels, hub, whole = wheel
    embedding = tiny.encode(pixels)
    with pytest.raises(ValueError, match="foreground point, a box or a mask_input"):
        choose(tiny, embedding, pixels, colour_clip, "blue", points=[[80, 60]], labels=[0])
    with pytest.raises(ValueError, match=r"text\[0\]"):
        choose_mask(colour_clip, pixels, answer(hub, whole), "  ")
    with pytest.raises(TypeError, match=r"text\[0\]"):
        choose_mask(colour_clip, pixels, answer(hub, whole), None)
    with pytest.raises(ValueError, match=r"\(M,H,W\)"):
        choose_mask(colour_clip, pixels, answer(hub[None], whole[None]), "blue")
