"""Where a checkpoint's own alignment sees phrases, in the picture's pixels, and what a CLIP adds to it."""

import numpy as np
import pytest
import torch

from sam_hf import SamPredictor
from sam_hf.inference.text.alignment import AlignedPhrases
from sam_hf.inference.text.instances import Request, make_instance
from sam_hf.inference.text.opinions import WEIGHT, Opinions
from sam_hf.inference.text.ranking import mask_vectors, text_log_odds

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


def test_clip_counts_as_its_weight_says(tiny, colour_clip):
    request = _request(tiny)
    red = _instance(tiny, request, [140, 60, 220, 140])
    alone, both = Opinions(request, ["red square"]), Opinions(request, ["red square"], colour_clip)
    seen = mask_vectors(colour_clip, request.pixels, [red.mask], ("crop", "dimmed"))
    expected = WEIGHT * float(text_log_odds(colour_clip, seen, ["red square"]))
    assert both.of(0, [red])[0] - alone.of(0, [red])[0] == pytest.approx(expected, abs=1e-3)
    assert both.presence(0, red) - alone.presence(0, red) == pytest.approx(expected, abs=1e-3)
    assert both.of(0, []).shape == (0,)


def test_without_witnesses_nobody_knows(text_checkpoint):
    predictor = SamPredictor.from_pretrained(text_checkpoint, device="cpu")
    request = _request(predictor)
    nobody = Opinions(request, ["red square"])
    instance = make_instance(np.ones((256, 256), bool), np.ones((32, 32)), 1.0, 1.0, 1.0)
    assert not predictor.has_alignment
    assert nobody.of(0, [instance]).tolist() == [0.0]
    assert nobody.presence(0, instance) is None and nobody.heat_map(0) is None
