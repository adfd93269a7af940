"""Where a checkpoint's own alignment sees phrases, in the picture's pixels, and what a CLIP adds to it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sam_hf import SamPredictor, SamTextSegmenter
from sam_hf.inference.text.alignment import AlignedPhrases
from sam_hf.inference.text.instances import Request, log_odds, make_instance
from sam_hf.inference.text.opinions import WEIGHT, Opinions
from sam_hf.inference.text.ranking import mask_vectors, pair_log_odds, text_log_odds
from sam_hf.inference.text.templates import EVERYDAY

RED, BLUE = (214, 40, 40), (40, 80, 210)


def _request(predictor, size=(256, 256), square=(140, 60, 220, 140)):
    """A red square (xyxy) on grey, and a blue one at the lower left corner."""
    image = np.full((*size, 3), (225, 222, 214), dtype=np.uint8)
    left, top, right, bottom = square
    image[top:bottom, left:right] = RED
    image[size[0] - 70 :, :60] = BLUE
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    return Request(predictor, predictor.encode(image), pixels, ("red square",))


def _instance(predictor, request, box):
    answer = predictor.decode(request.embedding, box=box, multimask_output=False)
    return make_instance(answer.masks[0], answer.low_res_logits[0], 1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("size", "square"),
    [((256, 256), (140, 60, 220, 140)), ((150, 400), (250, 20, 350, 110)), ((500, 200), (60, 200, 180, 320))],
)
def test_peak_lies_on_the_thing_whatever_the_shape_of_the_picture(tiny, size, square):
    aligned = AlignedPhrases(_request(tiny, size, square), ["red square", "yellow star"])
    x, y = aligned.peak(0)
    assert square[0] <= x < square[2] and square[1] <= y < square[3]
    longest = max(size)
    height, width = aligned.maps.shape[1:]
    assert (height, width) == tuple(-(-32 * side // longest) for side in size)  # 32 x 32 cells, the padding cut off
    assert aligned.presence(0) > aligned.presence(1)


def test_masks_are_told_apart(tiny):
    request = _request(tiny)
    red, blue = (_instance(tiny, request, box) for box in ([140, 60, 220, 140], [0, 186, 60, 256]))
    aligned = AlignedPhrases(request, ["red square", "blue square"])
    logits = np.stack([red.low_res_logits, blue.low_res_logits])
    first, second = aligned.suits(0, logits), aligned.suits(1, logits)
    assert first[0] > first[1] and second[1] > second[0]


@pytest.mark.parametrize("bias", [None, -9.0])
def test_clip_counts_as_its_weight_says(tiny, colour_clip, monkeypatch, bias):
    monkeypatch.setattr(type(colour_clip), "logit_bias", bias)
    request = _request(tiny)
    red = _instance(tiny, request, [140, 60, 220, 140])
    alone, both = Opinions(request, ["blue", "red square"]), Opinions(request, ["blue", "red square"], colour_clip)
    seen = mask_vectors(colour_clip, request.pixels, [red.mask], ("crop", "dimmed"))
    said = text_log_odds(colour_clip, seen, ["red square"], background=EVERYDAY)
    expected = WEIGHT * float(said if bias is None else pair_log_odds(colour_clip, seen, ["red square"]))
    (by_branch,), (judged,) = (opinions.rate([1], [red], [-4.0]) for opinions in (alone, both))
    assert log_odds(judged.score) - log_odds(by_branch.score) == pytest.approx(expected, abs=1e-3)
    calls = colour_clip.calls["pictures"]
    assert both.presence(1, judged) - alone.presence(1, by_branch) == pytest.approx(expected, abs=1e-3)
    assert colour_clip.calls["pictures"] == calls  # what was looked at once is not looked at again
    assert both.rate([], [], []) == []


def test_a_phrase_asked_again_shows_clip_nothing_new(tiny, colour_clip):
    image = _request(tiny).pixels
    asked, answers = [], []
    for clip, phrase in [(colour_clip, name) for name in ("red square", "blue square", "red square")] + [
        (type(colour_clip)(), "red square")
    ]:
        before = clip.calls["pictures"]
        answers.append(SamTextSegmenter(tiny, clip).segment(image, phrase))
        asked.append(clip.calls["pictures"] - before)
    assert asked[0] > 0 and asked[1] > 0 and asked[2] == 0 and asked[3] == asked[0]
    for answer in answers[2:]:
        assert answer.evidence == pytest.approx(answers[0].evidence) and len(answer.instances) == 1
        assert answer.instances[0].score == pytest.approx(answers[0].instances[0].score)
        np.testing.assert_array_equal(answer.instances[0].mask, answers[0].instances[0].mask)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_from_another_place_or_precision(tiny, dtype):
    request = _request(tiny)
    moved = replace(request.embedding, tensor=request.embedding.tensor.to(dtype))
    there, here = (AlignedPhrases(one, ["red square"]) for one in (request._replace(embedding=moved), request))
    np.testing.assert_allclose(there.maps, here.maps, atol=0.15)


def test_what_the_model_says_of_the_padding_counts_for_nothing(tiny):
    request = _request(tiny, (150, 400), (250, 20, 350, 110))
    aligned = AlignedPhrases(request, ["red square"])
    inside = np.full((1, 128, 128), -5.0, np.float32)
    inside[:, 10:30, 85:110] = 5.0
    with_padding = inside.copy()
    with_padding[:, 60:] = 5.0
    assert aligned.suits(0, inside) == pytest.approx(aligned.suits(0, with_padding), abs=1e-5)


def test_a_heat_map_is_of_the_picture_and_no_more(tiny):
    request = _request(tiny, (20, 400), (300, 2, 380, 18))  # 12.8 rows of the model's pixels: one cell and a half
    heat = AlignedPhrases(request, ["red square"]).heat_map(0)
    assert heat.shape == (2, 32) and heat.dtype == np.float32 and 0 <= heat.min() <= heat.max() <= 1
    square = _request(tiny)
    aligned = AlignedPhrases(square, ["red square"])
    np.testing.assert_allclose(aligned.heat_map(0), 1 / (1 + np.exp(-aligned.maps[0])), atol=1e-6)


def test_without_witnesses_nobody_knows(text_checkpoint):
    predictor = SamPredictor.from_pretrained(text_checkpoint, device="cpu")
    request = _request(predictor)
    nobody = Opinions(request, ["red square"])
    instance = make_instance(np.ones((256, 256), bool), np.ones((32, 32)), 1.0, 1.0, 1.0)
    assert not predictor.has_alignment
    (rated,) = nobody.rate([0], [instance], [0.0])
    assert rated.score == rated.text_probability == 0.5
    assert nobody.presence(0, instance) is None and nobody.heat_map(0) is None
