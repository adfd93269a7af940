"""Part or whole: the phrase chooses among the three masks of a click."""

import numpy as np
import pytest
import torch

from sam_hf.inference.predictor import Prediction
from sam_hf.inference.text.mask_choice import choose_mask


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


def test_several_prompts_are_refused(colour_clip, wheel):
    pixels, hub, whole = wheel
    with pytest.raises(ValueError, match=r"\(M,H,W\)"):
        choose_mask(colour_clip, pixels, answer(hub[None], whole[None]), "blue")
