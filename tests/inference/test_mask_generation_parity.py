"""Everything mode gives what segment-anything 1.0 gives: same weights, same pictures, same masks in the same order.

Meta's generator runs on Meta's prompt encoder and decoder with our weights, and on our image encoder, whose own parity
is tested with the model.
"""

import numpy as np
import pytest
from meta_twin import meta_of
from segment_anything import SamAutomaticMaskGenerator as MetaGenerator

from sam_hf import SamAutomaticMaskGenerator, SamModel, SamProcessor
from sam_hf.data.synthetic import SceneGenerator
from sam_hf.masks import rle


def assert_same(found: list[dict], expected: list[dict], least: int, ties: int = 0) -> None:
    """The same masks in the same order, with the same scores, boxes and points.

    Where small regions are dropped, a pixel that is a tie up to rounding may join one to its neighbour: so many masks
    may differ.
    """
    assert len(found) == len(expected) >= least
    differing = 0
    for ours, theirs in zip(found, expected, strict=True):
        assert set(ours) == set(theirs)
        mask, other = (_pixels(record["segmentation"]) for record in (ours, theirs))
        assert ours["area"] == mask.sum()
        assert ours["predicted_iou"] == pytest.approx(theirs["predicted_iou"], abs=1e-4)
        # Scores to 1e-4 and IoU 0.999; in masks of few pixels a single tie is more than that.
        stability = 0.0 if np.isnan(theirs["stability_score"]) else theirs["stability_score"]  # of two empty cuts
        assert abs(ours["stability_score"] - stability) <= max(1e-4, 2 / max(theirs["area"], 1))
        assert ours["crop_box"] == theirs["crop_box"]
        np.testing.assert_allclose(ours["point_coords"], theirs["point_coords"], rtol=0, atol=1e-9)
        same = (mask ^ other).sum() <= max(1, 0.001 * (mask | other).sum())
        differing += not (same and np.allclose(ours["bbox"], theirs["bbox"], rtol=0, atol=1))
    assert differing <= ties


def _pixels(segmentation) -> np.ndarray:
    return segmentation if isinstance(segmentation, np.ndarray) else rle.decode(segmentation)


@pytest.fixture(scope="module")
def tiny():
    """The embedded checkpoint, with the resizing filter that Meta uses, and Meta's twin."""
    model = SamModel.from_pretrained("tiny").eval()
    return (
        model,
        SamProcessor.from_pretrained("tiny", backend="pil"),
        meta_of(model, our_encoder=True, our_epsilon=True),
    )


@pytest.fixture(scope="module")
def scenes():
    """Pictures of the kind that the embedded checkpoint knows: as large as its input, smaller, and not square."""
    square = SceneGenerator(size=256, split="test", seed=0, font=False)
    large = SceneGenerator(size=320, split="test", seed=1, font=False)
    return {"square": square(0).image, "wide": large(0).image[:210], "tall": square(2).image[:, 30:130]}


def both(models, image, **options):
    model, processor, meta = models
    ours = SamAutomaticMaskGenerator(model, processor, **options).generate(image)
    return ours, MetaGenerator(meta, **options).generate(image)


# The embedded checkpoint is small and less sure of itself than Meta's, whose thresholds are the defaults.
FAIR = {"points_per_side": 8, "pred_iou_thresh": 0.6, "stability_score_thresh": 0.6}
LOOSE = {"points_per_side": 5, "pred_iou_thresh": 0.2, "stability_score_thresh": 0.2}
CASES = {
    "plain": ("square", FAIR, 2),
    "not square, larger than the input": ("wide", FAIR | {"points_per_batch": 10}, 2),
    "not square, smaller than the input": ("tall", LOOSE | {"stability_score_offset": 0.5}, 3),
    "duplicates": ("wide", LOOSE | {"box_nms_thresh": 0.4}, 3),
    "no filter": ("square", {"points_per_side": 3, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}, 9),
    "crops": ("wide", LOOSE | {"points_per_side": 4, "crop_n_layers": 1}, 3),
    "two layers of crops, sparser grids": (
        "square",
        LOOSE
        | {"points_per_side": 4, "crop_n_layers": 2, "crop_n_points_downscale_factor": 2}
        | {"crop_overlap_ratio": 0.4, "crop_nms_thresh": 0.5},
        3,
    ),
    "small regions": ("square", LOOSE | {"min_mask_region_area": 60}, 3),
    "small regions and crops": (
        "square",
        LOOSE | {"points_per_side": 4, "crop_n_layers": 1, "min_mask_region_area": 40, "output_mode": "coco_rle"},
        3,
    ),
    "own grids": (
        "tall",
        LOOSE | {"points_per_side": None, "point_grids": [np.random.default_rng(0).random((20, 2))]},
        3,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_same_masks_as_segment_anything(case, tiny, scenes):
    name, options, least = CASES[case]
    found, expected = both(tiny, scenes[name], **options)
    assert_same(found, expected, least, int("min_mask_region_area" in options))


def test_small_regions_are_really_mended(tiny, scenes):
    name, options, _ = CASES["small regions"]
    model, processor, _ = tiny
    mended, plain = (
        SamAutomaticMaskGenerator(model, processor, **(options | {"min_mask_region_area": area})).generate(
            scenes[name]
        )
        for area in (60, 0)
    )
    areas = {tuple(record["point_coords"][0]): record["area"] for record in plain}
    assert any(record["area"] != areas.get(tuple(record["point_coords"][0])) for record in mended)


@pytest.mark.parametrize("mode", ["uncompressed_rle", "coco_rle"])
def test_same_run_lengths_to_the_last_bit(mode, tiny, scenes):
    found, expected = both(tiny, scenes["square"], **FAIR, output_mode=mode)
    assert found
    assert [record["segmentation"] for record in found] == [record["segmentation"] for record in expected]


def test_random_vit(varied_sam, scenes):
    """A plain ViT; its masks are scattered all over, with many holes and islands."""
    model, processor = varied_sam
    models = (model, processor, meta_of(model, our_encoder=True, our_epsilon=True))
    options = {"points_per_side": 4, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}
    options |= {"crop_nms_thresh": 1.0}
    for extra in ({}, {"crop_n_layers": 1}, {"min_mask_region_area": 30}):
        found, expected = both(models, scenes["wide"], **options, **extra)
        assert_same(found, expected, 48, int("min_mask_region_area" in extra))
