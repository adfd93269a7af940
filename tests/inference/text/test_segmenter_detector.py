"""Boxes of a detector to masks."""

import functools
import threading
import time

import numpy as np
import pytest

from sam_hf import SamPredictor, SamTextSegmenter
from sam_hf.inference.text.detector import DetectorGrounding
from sam_hf.inference.text.instances import Request, mask_iou


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
    ask = functools.partial(segmenter.segment, image, "square", grounding="detector")
    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]


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
