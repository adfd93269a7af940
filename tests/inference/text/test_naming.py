"""Text names everything mode: every mask gets one of the names, or "other"."""

import json

import numpy as np
import pytest
import torch

from sam_hf import SamAutomaticMaskGenerator, SamPredictor
from sam_hf.inference.text.instances import mask_iou
from sam_hf.inference.text.naming import name_masks
from sam_hf.masks import rle

DISCS = [("red", 40, 40, 22), ("blue", 110, 70, 26), ("green", 60, 95, 15)]


@pytest.fixture(scope="module")
def scene(draw):
    return draw(DISCS)


@pytest.fixture(scope="module")
def pixels(scene):
    return torch.from_numpy(scene[0]).permute(2, 0, 1)


@pytest.fixture(scope="module")
def records(scene):
    return [{"segmentation": mask, "area": int(mask.sum())} for mask in scene[1]]


def test_each_mask_gets_its_name_or_other(colour_clip, pixels, records):
    named = name_masks(colour_clip, pixels, records, ["a blue cup", "red ball"])
    assert [one["label"] for one in named] == ["red ball", "a blue cup", "other"]
    assert all(0.9 < one["label_probability"] <= 1 for one in named)
    assert [one["area"] for one in named] == [one["area"] for one in records]
    assert all("label" not in one for one in records)  # the caller's stay as they were
    (green,) = name_masks(colour_clip, pixels, records[2:], ["red"], other="sonst")
    assert green["label"] == "sonst"


def test_names_that_mean_the_same_share_and_are_not_other(colour_clip, pixels, records):
    named = name_masks(colour_clip, pixels, records[:1], ["red cup", "red mug", "blue"])
    assert named[0]["label"] in ("red cup", "red mug")
    assert named[0]["label_probability"] == pytest.approx(0.5, abs=0.02)


def test_the_threshold_is_of_the_names_together(colour_clip, pixels, records):
    # To this CLIP "thing" is a background word like any other.
    sure = name_masks(colour_clip, pixels, records[:1], ["thing"], background=("wall",))
    assert sure[0]["label_probability"] == pytest.approx(0.5, abs=0.01)
    labels = [
        name_masks(colour_clip, pixels, records[:1], ["thing"], threshold=threshold, background=("wall",))[0]["label"]
        for threshold in (0.0, 0.45, 0.55, 1.0)
    ]
    assert labels == ["thing", "thing", "other", "other"]


def test_a_name_may_be_a_background_word(colour_clip, pixels, scene):
    _, masks = scene
    around = {"segmentation": ~np.logical_or.reduce(masks)}
    common = {"views": ("crop",), "background": ("red wall", "Sky")}
    assert name_masks(colour_clip, pixels, [around], ["sky"], **common)[0]["label"] == "sky"
    assert name_masks(colour_clip, pixels, [around], ["blue"], **common)[0]["label"] == "other"


@pytest.mark.parametrize("name", ["sky", "the sky", "dark sky", "Sky.", "sky, clouds", "the SKY!"])
def test_a_background_word_that_any_name_says_is_no_rival(name, colour_clip, pixels, scene):
    _, masks = scene
    around = {"segmentation": ~np.logical_or.reduce(masks)}
    common = {"views": ("crop",), "background": ("red wall", "sky")}
    for names in ([name], ["blue", name]):
        (named,) = name_masks(colour_clip, pixels, [around], names, **common)
        assert named["label"] == name and named["label_probability"] > 0.9
    (named,) = name_masks(colour_clip, pixels, [around], ["skyline"], **common)
    assert named["label_probability"] == pytest.approx(0.5, abs=0.01)  # "sky" is as good


def test_encoded_and_empty_masks(colour_clip, pixels, records):
    expected = name_masks(colour_clip, pixels, records, ["red", "blue"])
    encoded = [record | {"segmentation": rle.encode(record["segmentation"])} for record in records]
    named = name_masks(colour_clip, pixels, encoded, ["red", "blue"])
    assert [(one["label"], one["label_probability"]) for one in named] == [
        (one["label"], one["label_probability"]) for one in expected
    ]
    empty = {"segmentation": np.zeros((120, 160), dtype=bool)}
    assert name_masks(colour_clip, pixels, [empty], ["red"]) == [empty | {"label": "other", "label_probability": 1.0}]
    assert name_masks(colour_clip, pixels, [], ["red"]) == []


@pytest.mark.parametrize(
    ("names", "error", "words"),
    [
        ([], ValueError, "text.*empty"),
        ("red", TypeError, "text.*list"),
        (["red", " "], ValueError, r"text\[1\]"),
        (["red", "blue", "Red "], ValueError, r"text\[2\].*twice"),
        (["Other"], ValueError, r"text\[0\].*Other"),
        ([None], TypeError, r"text\[0\].*NoneType"),
    ],
)
def test_names_that_cannot_be_meant_are_refused(colour_clip, pixels, records, names, error, words):
    with pytest.raises(error, match=words):
        name_masks(colour_clip, pixels, records, names)


def test_other_settings_that_make_no_sense(colour_clip, pixels, records):
    with pytest.raises(ValueError, match="threshold"):
        name_masks(colour_clip, pixels, records, ["red"], threshold=2)
    with pytest.raises(ValueError, match="background"):
        name_masks(colour_clip, pixels, records, ["red ball", "blue"], background=("red", "Blue"))


class TestGenerate:
    def test_everything_mode_says_what_is_what(self, colour_clip, tiny, scene):
        options = {"points_per_side": 5, "pred_iou_thresh": 0.6, "output_mode": "coco_rle"}
        generator = SamAutomaticMaskGenerator.from_predictor(tiny, **options)
        plain = generator.generate(scene[0])
        named = generator.generate(scene[0], text=["red", "blue"], clip=colour_clip)
        assert [{k: v for k, v in one.items() if not k.startswith("label")} for one in named] == plain
        assert json.loads(json.dumps(named, allow_nan=False)) == named
        for mask, label in zip(scene[1], ("red", "blue", "other"), strict=True):
            (one,) = [one for one in named if mask_iou(rle.decode(one["segmentation"]), mask) > 0.8]
            assert one["label"] == label

    def test_pictures_of_floats_are_named_alike(self, colour_clip, tiny, scene):
        generator = SamAutomaticMaskGenerator.from_predictor(tiny, points_per_side=2, pred_iou_thresh=0.6)
        named = generator.generate(scene[0].astype(np.float32) / 255, text=["red", "blue"], clip=colour_clip)
        again = generator.generate(scene[0], text=["red", "blue"], clip=colour_clip)
        assert [one["label"] for one in named] == [one["label"] for one in again] and named

    def test_a_known_embedding_is_not_made_again(self, varied_sam, scene, monkeypatch):
        predictor = SamPredictor(*varied_sam)
        generator = SamAutomaticMaskGenerator.from_predictor(
            predictor, points_per_side=2, pred_iou_thresh=0.0, stability_score_thresh=0.0
        )
        expected = generator.generate(scene[0])
        embedding = predictor.encode(scene[0])
        monkeypatch.setattr(predictor, "_encode", None)
        predictor.store.clear()
        found = generator.generate(scene[0], embedding=embedding)
        assert len(found) == len(expected) > 0
        assert all(np.array_equal(a["segmentation"], b["segmentation"]) for a, b in zip(found, expected, strict=True))
        with pytest.raises(ValueError, match="embedding.*120, 160"):
            generator.generate(scene[0][:50], embedding=embedding)

    def test_a_clip_may_be_named_and_is_loaded_once(self, colour_clip, tiny, scene, monkeypatch):
        loaded = []
        load = classmethod(lambda cls, name, device=None: loaded.append(name) or colour_clip)
        monkeypatch.setattr("sam_hf.inference.text.clip_encoder.ClipEncoder.from_pretrained", load)
        generator = SamAutomaticMaskGenerator.from_predictor(tiny, points_per_side=2, pred_iou_thresh=0.6)
        for _ in range(2):
            named = generator.generate(scene[0], text=["red", "blue"], clip="some/clip")
        assert loaded == ["some/clip"] and {"label", "label_probability"} <= set(named[0])
        generator.generate(scene[0], text=["red"])  # the embedded checkpoint comes with one
        assert loaded == ["some/clip", "tiny"]

    def test_wrong_names_cost_nothing(self, varied_sam, scene, colour_clip, monkeypatch):
        generator = SamAutomaticMaskGenerator(*varied_sam, points_per_side=2)
        monkeypatch.setattr(generator, "_encode_whole", None)
        with pytest.raises(ValueError, match="clip"):
            generator.generate(scene[0], text=["red"])
        with pytest.raises(ValueError, match=r"text\[0\]"):
            generator.generate(scene[0], text=[""], clip=colour_clip)
