"""Dense and proposal groundings with a real open_clip model and a SAM without text branch, both random: what they
answer means nothing, but it must be well-formed, repeatable and not computed twice."""

import threading

import numpy as np
import pytest
import torch
from open_clip.model import CLIP

from sam_hf import SamPredictor
from sam_hf.inference.text.clip_encoder import ClipEncoder
from sam_hf.inference.text.dense import DenseGrounding
from sam_hf.inference.text.instances import Request
from sam_hf.inference.text.proposals import ProposalGrounding
from sam_hf.model.text_encoder import SamTokenizer

PHRASES = ("a red mug", "wheel", "blue sky")


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    vision = {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8}
    text = {"context_length": 10, "vocab_size": 1000, "width": 16, "heads": 2, "layers": 1}
    return ClipEncoder(CLIP(12, vision, text), SamTokenizer(1000, 10), (0.5,) * 3, (0.25,) * 3, "random")


@pytest.fixture(scope="module")
def predictor(varied_sam):
    return SamPredictor(*varied_sam)


@pytest.fixture(params=["dense", "proposals"])
def grounding(request, clip):
    if request.param == "proposals":
        loose = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "points_per_side": 3}
        return ProposalGrounding(clip, views=("crop", "circle"), **loose)
    # Nothing is sure with random weights.
    return DenseGrounding(clip, absolute=0.0, relative=0.9, min_predicted_iou=0.0)


def ask(predictor, size, seed=0, **more):
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    return Request(predictor, predictor.encode(image), pixels, PHRASES, **more)


@pytest.mark.parametrize("size", [(40, 64), (150, 21), (3, 90), (1, 1)], ids=str)
@pytest.mark.parametrize("geometry", [{}, {"points": [[0.5, 0.5]]}, {"box": [0, 0, 9, 9]}], ids=str)
def test_answers_are_well_formed_for_any_picture(grounding, predictor, size, geometry):
    found = grounding(ask(predictor, size, negatives=("cup",), **geometry))
    assert len(found) == len(PHRASES)
    for one in found:
        assert not np.isnan(one.evidence) and np.isinf(one.evidence) == (not one.instances)
        for instance in one.instances:
            assert instance.mask.shape == size and instance.mask.dtype == bool and instance.mask.any()
            assert 0 <= instance.score <= instance.text_probability <= 1
            assert instance.low_res_logits.shape == (32, 32)
        if one.heat_map is not None:
            assert one.heat_map.dtype == np.float32 and np.isfinite(one.heat_map).all()


def test_a_further_phrase_encodes_no_picture(grounding, predictor, clip, monkeypatch):
    first = grounding(ask(predictor, (48, 64), seed=1))
    monkeypatch.setattr(clip.clip.visual.conv1, "forward", None)  # the tower would fail now
    monkeypatch.setattr(predictor, "_encode", None)
    if grounding.name == "dense":  # its second look is at masks that another phrase has not
        monkeypatch.setattr(grounding, "views", ())
    again = grounding(ask(predictor, (48, 64), seed=1)._replace(phrases=("another thing", *PHRASES)))
    if grounding.name == "proposals":
        assert [one.evidence for one in again[1:]] == [one.evidence for one in first]


def test_threads_get_the_same_answers(grounding, predictor):
    requests = [ask(predictor, (30 + 5 * seed, 50), seed) for seed in range(3)]
    expected = [[one.evidence for one in grounding(request)] for request in requests]
    got = [None] * 6

    def run(place):
        got[place] = [one.evidence for one in grounding(requests[place % 3])]

    threads = [threading.Thread(target=run, args=(place,)) for place in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.allclose(one, expected[place % 3], atol=1e-3) for place, one in enumerate(got))
