"""Boxes of a detector to masks."""

import functools
import threading
import time
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from sam_hf import SamPredictor, SamTextSegmenter
from sam_hf.inference.text import detector as module
from sam_hf.inference.text.detector import DetectorGrounding
from sam_hf.inference.text.instances import Request, mask_iou
from sam_hf.model.text_prompts import UnreadablePhrase


@pytest.fixture(scope="module")
def tiny():
    return SamPredictor.from_pretrained("tiny", device="cpu")


@pytest.fixture(scope="module")
def scene():
    """(256,256,3) uint8, and the box xyxy of each of its things."""
    image = np.full((256, 256, 3), (225, 222, 214), dtype=np.uint8)
    boxes = {"red": (30, 40, 100, 110), "blue": (150, 140, 220, 210)}
    for colour, (left, top, right, bottom) in boxes.items():
        image[top:bottom, left:right] = {"red": (214, 40, 40), "blue": (40, 80, 210)}[colour]
    return image, boxes


class Detector:
    """Called as transformers' pipeline is; says what it was told to say."""

    def __init__(self, detections):
        self.detections, self.asked = detections, []

    def __call__(self, image, candidate_labels, threshold):
        self.asked.append((image.size, candidate_labels, threshold))
        return [
            {"score": score, "label": label, "box": dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))}
            for label, score, box in self.detections
            if label in candidate_labels and score >= threshold
        ]


def _solid(box, size=(256, 256)):
    mask = np.zeros(size, dtype=bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def test_boxes_become_masks(tiny, scene):
    image, boxes = scene
    near = (28, 42, 101, 109)  # the same thing again
    detector = Detector([("square", 0.4, boxes["blue"]), ("square", 0.6, boxes["red"]), ("square", 0.5, near)])
    segmenter = SamTextSegmenter(tiny, detector=detector)
    answers = segmenter.segment(image, ["squares", "the Square.", "dog"], grounding="detector")
    assert detector.asked == [((256, 256), ["square", "the square", "dog"], 0.1)]
    several = answers[0].instances
    assert [one.text_probability for one in several] == [0.6, 0.4]
    assert mask_iou(several[0].mask, _solid(boxes["red"])) > 0.85
    assert mask_iou(several[1].mask, _solid(boxes["blue"])) > 0.85
    for one in several:
        assert one.score == pytest.approx(one.text_probability * one.predicted_iou)
        assert 0 < one.stability <= 1 and one.low_res_logits.ndim == 2
    assert answers[0].presence == pytest.approx(0.6)
    assert answers[2].absent and answers[2].instances == []


def test_negative_phrases_take_what_suits_them_better(tiny, scene):
    image, boxes = scene
    said = [("square", 0.5, boxes["red"]), ("square", 0.6, boxes["blue"]), ("rug", 0.7, boxes["red"])]
    said += [("window", 0.3, boxes["blue"])]
    segmenter = SamTextSegmenter(tiny, detector=Detector(said))
    (one,) = segmenter.segment(image, "squares", ["rug", "window"], grounding="detector").instances
    assert mask_iou(one.mask, _solid(boxes["blue"])) > 0.85


def test_geometry_restricts(tiny, scene):
    image, boxes = scene
    said = [("square", 0.9, boxes["red"]), ("square", 0.3, boxes["blue"])]
    segmenter = SamTextSegmenter(tiny, detector=Detector(said))
    given = [{"points": [[185, 175]]}, {"points": [[65, 75]], "labels": [0]}, {"box": [140, 130, 240, 230]}]
    given += [{"mask_input": _solid(boxes["blue"])}]
    for geometry in given:
        (one,) = segmenter.segment(image, "squares", grounding="detector", **geometry).instances
        assert mask_iou(one.mask, _solid(boxes["blue"])) > 0.7, geometry
    # A click beside all detections is answered all the same, and the figures say that nothing was detected there.
    answer = segmenter.segment(image, "square", grounding="detector", points=[[250, 5]])
    assert not answer.absent and answer.presence == 0.0
    (one,) = answer.instances
    assert one.text_probability is None and one.point == (250.0, 5.0)
    # Background points alone say which not.
    said.append(("square", 0.5, (28, 42, 101, 109)))
    answer = segmenter.segment(image, "squares", grounding="detector", points=[[5, 250]], labels=[0])
    assert [one.text_probability for one in answer.instances] == [0.9, 0.3]


def test_threads_take_turns_at_the_detector(tiny, scene):
    image, boxes = scene
    inside, most = [], []

    class Slow(Detector):
        def __call__(self, *given, **options):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.05)
            inside.pop()
            return super().__call__(*given, **options)

    segmenter = SamTextSegmenter(tiny, detector=Slow([("square", 0.9, boxes["red"])]))
    segmenter.predictor.encode(image)
    ask = functools.partial(segmenter.segment, image, grounding="detector")
    phrases = ("square", "dog", "square", "cat", "dog")
    threads = [threading.Thread(target=ask, args=(phrase,)) for phrase in phrases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]  # and what one has asked meanwhile, no other asks


def test_the_same_question_is_asked_once(tiny, scene):
    image, boxes = scene
    detector = Detector([("square", 0.9, boxes["red"]), ("rug", 0.4, boxes["blue"])])
    grounding = DetectorGrounding(detector)
    segmenter = SamTextSegmenter(tiny, detector=grounding)
    ask = functools.partial(segmenter.segment, image, grounding="detector")
    first, again = ask("square"), ask(["Square.", "rug", "dog"], negative_text="square")
    ask(["dog", "square"])
    assert [labels for _, labels, _ in detector.asked] == [["square"], ["rug", "dog"]]  # nothing found is known, too
    np.testing.assert_array_equal(ask("square").instances[0].mask, first.instances[0].mask)
    assert again[1].instances[0].text_probability == 0.4 and again[2].absent
    segmenter.segment(image[:, ::-1], "square", grounding="detector")
    grounding.threshold = 0.95
    assert ask("square").absent
    assert [labels for _, labels, _ in detector.asked[2:]] == [["square"], ["square"]]


def test_what_is_kept_of_detections_is_bounded(tiny, scene, monkeypatch):
    image, boxes = scene
    monkeypatch.setattr(module, "KEPT_BYTES", 3000)
    detector = Detector([("square", 0.9, boxes["red"])])
    grounding = DetectorGrounding(detector)
    segmenter = SamTextSegmenter(tiny, detector=grounding)
    for phrase in ("square", "dog", "cat", "bird", "fish", "square"):
        segmenter.segment(image, phrase, grounding="detector")
    assert len(detector.asked) == 6 and 0 < grounding._kept.statistics().nbytes <= 3000


def test_boxes_beyond_the_picture_and_empty_ones(tiny, scene):
    image, boxes = scene
    said = [
        ("square", 0.9, (-20, -30, 0, 40)),
        ("square", 0.8, (30, 40, 30, 110)),
        ("square", 0.5, (-5, 40, 100, 110)),
    ]
    answer = SamTextSegmenter(tiny, detector=Detector(said)).segment(image, "squares", grounding="detector")
    assert [one.text_probability for one in answer.instances] == [0.5]


def test_max_proposals_bounds_the_boxes(tiny, scene):
    image, boxes = scene
    said = [("square", 0.9, boxes["red"]), ("square", 0.3, boxes["blue"])]
    segmenter = SamTextSegmenter(tiny, detector=Detector(said), max_proposals=1)
    assert len(segmenter.segment(image, "squares", grounding="detector").instances) == 1


@pytest.mark.parametrize(
    ("given", "error"),
    [({"detect": 3}, TypeError), ({"threshold": 2}, ValueError), ({"negative_iou": -0.1}, ValueError)],
)
def test_wrong_options(given, error):
    with pytest.raises(error, match=next(iter(given))):
        DetectorGrounding(**({"detect": Detector([])} | given))


def _random_owlvit():
    """transformers' own pipeline around a tiny random OWL-ViT."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        OwlViTConfig,
        OwlViTForObjectDetection,
        OwlViTImageProcessor,
        PreTrainedTokenizerFast,
        ZeroShotObjectDetectionPipeline,
    )

    words = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "red", "square", "dog"])}
    words_to_ids = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    words_to_ids.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words_to_ids, pad_token="[PAD]", unk_token="[UNK]")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = OwlViTConfig(
        text_config=small | {"vocab_size": 8, "max_position_embeddings": 16, "pad_token_id": 0},
        vision_config=small | {"image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    torch.manual_seed(0)
    return ZeroShotObjectDetectionPipeline(
        model=OwlViTForObjectDetection(config).eval(),
        tokenizer=tokenizer,
        image_processor=OwlViTImageProcessor(size={"height": 32, "width": 32}),
    )


def test_a_real_pipeline_of_transformers_serves(tiny, scene):
    image, _ = scene
    grounding = DetectorGrounding(_random_owlvit(), threshold=0.0)
    pixels = np.ascontiguousarray(image.transpose(2, 0, 1))
    import torch

    request = Request(tiny, tiny.encode(image), torch.from_numpy(pixels), ("red square", "dog"), max_proposals=3)
    found = grounding(request)
    assert len(found) == 2
    for one in (one for answer in found for one in answer.instances):
        assert one.mask.shape == (256, 256) and 0 <= one.text_probability <= 1
    assert any(answer.instances for answer in found) and all(np.isfinite(a.evidence) for a in found if a.instances)


@pytest.fixture(scope="module")
def owlvit():
    return DetectorGrounding(_random_owlvit(), threshold=0.0, model_name="small")


def _asked_of(grounding, monkeypatch):
    """The labels that come to a detector's pipeline."""
    asked, detect = [], grounding.detect
    monkeypatch.setattr(grounding, "detect", lambda *a, **b: asked.extend(b["candidate_labels"]) or detect(*a, **b))
    return asked


def test_long_phrases_are_cut_and_the_cut_is_quoted_every_time(tiny, scene, owlvit, monkeypatch):
    asked = _asked_of(owlvit, monkeypatch)
    segmenter = SamTextSegmenter(tiny, detector=owlvit, max_proposals=1)
    ask = functools.partial(segmenter.segment, scene[0], grounding="detector")
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"^text: the text is too long for small; this was cut off: 'dog'$"):
            ask(["dog", "red square " * 8 + "dog"])
    with pytest.warns(UserWarning, match=r"^negative_text: .*: 'dog red'$"):
        ask("dog", "Red square " * 8 + "dog red.")
    assert asked == ["dog", ("red square " * 8).strip()]
    with pytest.warns(UserWarning, match=r"\.\.\. \(\d+ characters\)"):
        ask("dog " * 200)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ask("red square " * 7 + "red square")
    # One word that is too long: this tokenizer splits at punctuation.
    with pytest.warns(UserWarning, match="this was cut off: 'dog'"):
        ask(",".join(["red"] * 8) + ",dog")
    assert asked[-1] == "red," * 8


def test_marks_that_end_a_text_count(owlvit, monkeypatch):
    monkeypatch.setattr(owlvit, "_ending", " .")
    with pytest.warns(UserWarning, match="cut off: 'square'"):
        assert owlvit._label("red square " * 8, "text").split()[-2:] == ["red", "."]


@pytest.mark.parametrize("text", ["...", "...!", "?", "."])
def test_punctuation_is_asked_as_it_is(tiny, scene, owlvit, text, monkeypatch):
    asked = _asked_of(owlvit, monkeypatch)
    SamTextSegmenter(tiny, detector=owlvit, max_proposals=1).segment(scene[0], text, grounding="detector")
    assert asked == [text]


def test_a_phrase_without_a_token_is_refused_by_name(tiny, scene):
    from tokenizers import normalizers

    pipeline = _random_owlvit()
    pipeline.tokenizer.backend_tokenizer.normalizer = normalizers.Replace(".", "")
    ask = SamTextSegmenter(tiny, detector=pipeline).segment
    with pytest.raises(UnreadablePhrase, match=r"^text: expected a phrase, got no token from '\.\.\.'$"):
        ask(scene[0], ["dog", "..."], grounding="detector")
    with pytest.raises(UnreadablePhrase, match="^negative_text: "):
        ask(scene[0], "dog", "...", grounding="detector")


def test_other_weights_are_asked_again(tiny, scene, monkeypatch):
    import torch

    pipeline = _random_owlvit()
    grounding = DetectorGrounding(pipeline, threshold=0.0)
    asked = _asked_of(grounding, monkeypatch)
    segmenter = SamTextSegmenter(tiny, detector=grounding, max_proposals=1)
    for count in (1, 1, 2):
        if count == 2:
            with torch.no_grad():
                next(pipeline.model.parameters()).add_(0.1)
        segmenter.segment(scene[0], "dog", grounding="detector")
        assert len(asked) == count


@pytest.mark.parametrize(
    ("config", "most"),
    [
        (None, None),
        (SimpleNamespace(text_config=SimpleNamespace(max_position_embeddings=16)), 16),
        (SimpleNamespace(text_config=SimpleNamespace(max_position_embeddings=512), max_text_len=256), 256),
        (SimpleNamespace(text_config=None), None),
    ],
    ids=str,
)
def test_how_much_a_detector_reads(config, most):
    assert module._most_tokens(config) == most
