"""Everything mode: records, streams, batches, stores, precision, memory, and what is said about wrong input."""

import copy
import inspect
import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator as MetaGenerator
from torch.utils._python_dispatch import TorchDispatchMode

from sam_hf import SamAutomaticMaskGenerator, SamPredictor
from sam_hf.data.synthetic import SceneGenerator
from sam_hf.inference import crop_search, mask_generation
from sam_hf.inference.crop_search import Crop, CropSearch
from sam_hf.inference.everything_options import MaskGenerationOptions, read_options
from sam_hf.masks import rle, upscaling

# Random weights give masks all over the picture, of any score, and boxes that are alike.
KEEP_ALL = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0, "crop_nms_thresh": 1.0}
KEYS = {"segmentation", "area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box"}


@pytest.fixture(scope="module")
def make(varied_sam):
    """make(**options): a generator that keeps most of what it sees."""
    return lambda **options: SamAutomaticMaskGenerator(*varied_sam, **(KEEP_ALL | {"points_per_side": 3} | options))


@pytest.fixture(scope="module")
def image():
    return SceneGenerator(size=96, split="test", seed=3, font=False)(0).image[:70]


def same(found: list[dict], expected: list[dict]) -> bool:
    """Equal to the last bit."""
    return len(found) == len(expected) and all(
        np.array_equal(ours["segmentation"], theirs["segmentation"])
        and all(ours[key] == theirs[key] for key in KEYS - {"segmentation"})
        for ours, theirs in zip(found, expected, strict=True)
    )


class TestRecords:
    def test_python_numbers_and_metas_boxes(self, make, image):
        records = make(crop_n_layers=1, crop_n_points_downscale_factor=2).generate(image)
        assert len(records) > 5
        for record in records:
            assert set(record) == KEYS
            mask = record["segmentation"]
            assert mask.dtype == bool and mask.shape == (70, 96) and mask.flags["C_CONTIGUOUS"]
            assert type(record["area"]) is int and record["area"] == mask.sum()
            assert all(type(side) is int for side in record["bbox"] + record["crop_box"])
            assert type(record["predicted_iou"]) is type(record["stability_score"]) is float
            ((x, y),) = record["point_coords"]
            left, top, width, height = record["crop_box"]
            assert type(x) is float and left <= x <= left + width and top <= y <= top + height
            rows, columns = mask.nonzero()
            expected = [columns.min(), rows.min(), np.ptp(columns), np.ptp(rows)] if record["area"] else [0, 0, 0, 0]
            assert record["bbox"] == expected

    def test_output_modes_agree_and_go_into_json(self, make, image):
        arrays = make().generate(image)
        for mode, kind in (("uncompressed_rle", list), ("coco_rle", str)):
            records = make(output_mode=mode).generate(image)
            again = json.loads(json.dumps(records, allow_nan=False))
            assert again == records and len(records) == len(arrays)
            for record, other in zip(records, arrays, strict=True):
                assert type(record["segmentation"]["counts"]) is kind
                np.testing.assert_array_equal(rle.decode(record["segmentation"]), other["segmentation"])
                assert {k: record[k] for k in KEYS - {"segmentation"}} == {
                    k: other[k] for k in KEYS - {"segmentation"}
                }

    def test_nothing_found_is_an_empty_list(self, make, image):
        nothing = {"pred_iou_thresh": 1.0, "stability_score_thresh": 1.0}
        for options in ({}, {"crop_n_layers": 1}, {"min_mask_region_area": 9, "crop_n_layers": 1}):
            generator = make(**nothing, **options)
            assert generator.generate(image) == []
            *_, last = generator.stream(image)
            assert last.final and last.records == []

    def test_masks_of_nearly_the_whole_picture_can_go(self, make, image):
        plain = make().generate(image)
        areas = sorted(record["area"] for record in plain)
        share = areas[len(areas) // 2] / (70 * 96)
        found = make(max_area_share=share).generate(image)
        assert same(found, [record for record in plain if record["area"] < share * 70 * 96])
        assert 0 < len(found) < len(plain)

    def test_holes_and_islands_each_by_themselves(self, make, image):
        def small(records, inside, area):
            import cv2

            masks = [(record["segmentation"] == inside).astype(np.uint8) for record in records]
            sizes = [cv2.connectedComponentsWithStats(mask, connectivity=8)[2][1:, cv2.CC_STAT_AREA] for mask in masks]
            return sum(len(one) > 1 and (one <= area).any() for one in sizes)

        plain = make().generate(image)
        for option, inside in (("max_hole_area", False), ("max_sprinkle_area", True)):
            assert small(plain, inside, 20) and not small(make(**{option: 20}).generate(image), inside, 20)
        both = make(max_hole_area=20, max_sprinkle_area=20).generate(image)
        assert same(both, make(min_mask_region_area=21).generate(image))


class TestOptions:
    def test_names_and_defaults_are_metas(self):
        theirs = inspect.signature(MetaGenerator).parameters
        assert {name: value.default for name, value in theirs.items() if name != "model"} == {
            name: getattr(MaskGenerationOptions(), name) for name in theirs if name != "model"
        }

    def test_a_preset_and_what_goes_before_it(self, varied_sam):
        paper = SamAutomaticMaskGenerator(*varied_sam, preset="sa1b").options
        assert [len(grid) for grid in paper.layer_grids] == [32**2, 16**2, 8**2]
        assert (paper.min_mask_region_area, paper.max_area_share, paper.pred_iou_thresh) == (100, 0.95, 0.88)
        mine = read_options({"crop_n_layers": 0, "points_per_side": 5, "max_area_share": None}, "sa1b")
        assert [len(grid) for grid in mine.layer_grids] == [25] and mine.max_area_share is None
        assert mine.min_mask_region_area == 100

    def test_options_by_place_and_in_help(self, varied_sam):
        options = SamAutomaticMaskGenerator(*varied_sam, 5, 16, 0.5).options
        assert (options.points_per_side, options.points_per_batch, options.pred_iou_thresh) == (5, 16, 0.5)
        with pytest.raises(TypeError, match="points_per_side: given twice"):
            SamAutomaticMaskGenerator(*varied_sam, 5, points_per_side=6)
        theirs = inspect.signature(MetaGenerator).parameters
        ours = inspect.signature(SamAutomaticMaskGenerator).parameters
        assert list(ours)[: len(theirs) + 1] == ["model", "processor", *list(theirs)[1:]]
        assert all(ours[name].default == theirs[name].default for name in list(theirs)[1:])

    def test_own_grids_take_the_place_of_the_default(self, make, varied_sam, image):
        grid = np.array([[0.25, 0.5], [0.75, 0.1]])
        generator = SamAutomaticMaskGenerator(*varied_sam, point_grids=[grid], **KEEP_ALL)
        assert {tuple(record["point_coords"][0]) for record in generator.generate(image)} == {
            (24.0, 35.0),
            (72.0, 7.0),
        }

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"points_per_side": 0}, ValueError, "points_per_side: expected at least 1, got 0"),
            ({"points_per_side": 2.5}, TypeError, "points_per_side: expected a whole number, got 2.5"),
            ({"points_per_side": True}, TypeError, "points_per_side: expected a whole number"),
            ({"points_per_side": None}, ValueError, "either points_per_side or point_grids .*, got neither"),
            (
                {"points_per_side": 3, "point_grids": [[[0, 0]]]},
                ValueError,
                "points_per_side or point_grids .*got both",
            ),
            ({"point_grids": []}, ValueError, "point_grids: expected crop_n_layers"),
            ({"points_per_batch": 0}, ValueError, "points_per_batch: expected at least 1, got 0"),
            ({"crop_n_layers": -1}, ValueError, "crop_n_layers: expected at least 0, got -1"),
            ({"crop_n_layers": 9}, ValueError, "crop_n_layers: expected at most 6, got 9"),
            ({"crop_overlap_ratio": 2.0}, ValueError, r"crop_overlap_ratio: expected a number in \[0,1\), got 2.0"),
            ({"crop_overlap_ratio": 1}, ValueError, "crop_overlap_ratio"),
            (
                {"crop_n_points_downscale_factor": 0},
                ValueError,
                "crop_n_points_downscale_factor: expected a number in",
            ),
            ({"pred_iou_thresh": 88}, ValueError, r"pred_iou_thresh: expected a number in \[0,1\], got 88"),
            ({"pred_iou_thresh": float("nan")}, ValueError, "pred_iou_thresh"),
            ({"stability_score_thresh": -0.1}, ValueError, "stability_score_thresh"),
            ({"stability_score_thresh": "high"}, TypeError, "stability_score_thresh: expected a number, got 'high'"),
            ({"stability_score_offset": -1.0}, ValueError, "stability_score_offset"),
            ({"box_nms_thresh": 5.0}, ValueError, "box_nms_thresh"),
            ({"crop_nms_thresh": -1}, ValueError, "crop_nms_thresh"),
            ({"min_mask_region_area": -3}, ValueError, "min_mask_region_area"),
            ({"max_area_share": 0}, ValueError, r"max_area_share: expected a number in \(0,1\]"),
            ({"max_area_share": 1.5}, ValueError, "max_area_share"),
            ({"max_hole_area": -4}, ValueError, "max_hole_area"),
            ({"mask_threshold": float("inf")}, ValueError, "mask_threshold: expected a finite number"),
            ({"output_mode": "polygons"}, ValueError, "output_mode: expected one of binary_mask, .*; got 'polygons'"),
            ({"preset": "sa2"}, ValueError, "preset: expected one of sa1b or None; got 'sa2'"),
            ({"point_per_side": 3}, TypeError, "unknown option 'point_per_side': did you mean 'points_per_side'"),
            ({"text": "mug"}, TypeError, "unknown option 'text'"),
        ],
    )
    def test_wrong_options_are_named_before_anything_is_loaded(self, options, error, message):
        with pytest.raises(error, match=message):
            mask_generation.check_options(**options)
        with pytest.raises(error, match=message):
            SamAutomaticMaskGenerator.from_pretrained("no/such-checkpoint", **options)

    def test_wrong_parts_are_named(self, varied_sam):
        with pytest.raises(TypeError, match="model: expected a sam_hf.SamModel, got Linear"):
            SamAutomaticMaskGenerator(torch.nn.Linear(2, 2), varied_sam[1])
        with pytest.raises(TypeError, match="processor: expected a sam_hf.SamProcessor, got NoneType"):
            SamAutomaticMaskGenerator(varied_sam[0], None)

    def test_loading(self, varied_sam, make, image, tmp_path):
        for part in varied_sam:
            part.save_pretrained(tmp_path)
        loaded = SamAutomaticMaskGenerator.from_pretrained(
            tmp_path, "cpu", "float32", local_files_only=True, **(KEEP_ALL | {"points_per_side": 3})
        )
        assert loaded.predictor.dtype == torch.float32 and loaded.predictor.device.type == "cpu"
        assert len(loaded.generate(image)) == len(make().generate(image)) == 27


class TestImages:
    @pytest.mark.parametrize("shape", [(50, 1), (1, 50), (1, 1), (3, 5), (200, 7)])
    def test_odd_sizes_with_crops_of_every_layer(self, make, shape):
        pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
        records = make(points_per_side=2, crop_n_layers=2, min_mask_region_area=3).generate(pixels)
        assert records and all(record["segmentation"].shape == shape for record in records)

    def test_every_kind_of_picture(self, make, image, tmp_path):
        expected = make().generate(image)
        Image.fromarray(image).save(tmp_path / "image.png")
        tensor = torch.from_numpy(image.copy()).permute(2, 0, 1)
        for given in (Image.fromarray(image), tensor, tmp_path / "image.png", str(tmp_path / "image.png")):
            assert same(make().generate(given), expected)

    def test_a_nearly_black_crop_of_a_picture_in_floats_is_no_bright_one(self, make):
        dark = torch.randint(0, 2, (3, 40, 30), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        (expected, _), (found, _) = (make()._encode([crop])[0] for crop in (dark, dark.float()))
        assert (found - expected).abs().max() < 0.05 * expected.std()

    @pytest.mark.parametrize(
        "given", [None, "nowhere.png", np.zeros((0, 4, 3), np.uint8), np.full((4, 4, 3), np.nan), 7]
    )
    def test_what_is_no_picture_is_refused_at_once(self, make, given):
        for ask in (make().generate, make().stream):
            with pytest.raises((ValueError, TypeError), match="image"):
                ask(given)


class TestStream:
    def test_progress_crops_and_the_same_end_as_generate(self, make, image):
        generator = make(points_per_batch=4, crop_n_layers=1, crop_n_points_downscale_factor=2)
        steps = list(generator.stream(image))
        total = 9 + 4 * 1
        assert [step.done for step in steps] == [0, 4, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13]
        assert all(step.total == total for step in steps)
        assert [step.final for step in steps] == [False] * 12 + [True]
        assert same(steps[-1].records, generator.generate(image))
        with_masks = [step for step in steps[:-1] if step.records]
        assert with_masks[0].done == 9 and all(r["crop_box"] == [0, 0, 96, 70] for r in with_masks[0].records)
        assert [step.done for step in with_masks] == sorted(step.done for step in with_masks)
        alone = make(points_per_batch=4).generate(image)
        assert same(with_masks[0].records, alone)  # what is final for the picture itself, before the crops are seen

    def test_previews_can_be_declined(self, make, image):
        generator = make(crop_n_layers=1, points_per_side=2)
        *before, last = generator.stream(image, previews=False)
        assert [step.done for step in before] == [0, 4, 8, 12, 16, 20] and not any(step.records for step in before)
        assert same(last.records, generator.generate(image))

    def test_it_stops_at_once_when_closed(self, make, image, monkeypatch):
        asked = []
        ask = CropSearch.ask
        monkeypatch.setattr(CropSearch, "ask", lambda *given: asked.append(given) or ask(*given))
        stream = make(points_per_batch=2).stream(image)
        assert not asked  # nothing is computed before the first step is wanted
        first = next(stream)
        assert (first.done, first.total) == (0, 9) and not asked  # said before the picture is encoded
        next(stream), next(stream)
        assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()
        stream.close()
        assert len(asked) == 2
        with pytest.raises(StopIteration):
            next(stream)


class TestBatchesAndStores:
    def test_a_batch_equals_its_pictures(self, make, image, monkeypatch):
        generator = make(crop_n_layers=1, points_per_side=2)
        images = [image, image[:30, ::-1], Image.fromarray(image[:, :20])]
        expected = [generator.generate(one) for one in images]
        found = generator.generate_batch(images)
        assert all(same(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
        assert same(generator.generate_batch(np.stack([image, image]))[1], expected[0])
        monkeypatch.setattr(mask_generation, "CPU_VIEWS", 2)  # pictures and crops encoded together, as on a GPU
        together = generator.generate_batch(images)
        for ours, theirs in zip(together, expected, strict=True):
            assert len(ours) == len(theirs)
            for one, other in zip(ours, theirs, strict=True):
                assert one["predicted_iou"] == pytest.approx(other["predicted_iou"], abs=1e-5)

    @pytest.mark.parametrize(
        ("images", "error", "message"),
        [
            ([], ValueError, "images: expected at least one image, got an empty list"),
            (np.zeros((4, 4, 3), np.uint8), TypeError, "images: expected a list of images, got a single ndarray"),
            (Image.new("RGB", (4, 4)), TypeError, "images: expected a list of images, got a single Image"),
            ("photo.jpg", TypeError, "images: expected a list of images, got a single str"),
            (None, TypeError, "images: expected a list of images, got NoneType"),
            ([np.zeros((4, 4, 3), np.uint8), "nowhere.png"], ValueError, r"images\[1\]: 'nowhere.png'"),
            ([np.zeros((4, 4, 3), np.uint8), None], TypeError, r"images\[1\]: expected a path"),
        ],
    )
    def test_batches_that_are_refused_cost_nothing(self, make, images, error, message, monkeypatch):
        monkeypatch.setattr(CropSearch, "ask", lambda *given: pytest.fail("work was done"))
        with pytest.raises(error, match=message):
            make().generate_batch(images)

    def test_a_known_picture_is_not_encoded_again_and_crops_are_not_kept(self, varied_sam, image, monkeypatch):
        predictor = SamPredictor(*varied_sam)
        encoded = []
        encode = predictor.model.get_image_embeddings
        monkeypatch.setattr(
            predictor.model, "get_image_embeddings", lambda pixels: encoded.append(len(pixels)) or encode(pixels)
        )
        predictor.encode(image)
        generator = SamAutomaticMaskGenerator.from_predictor(predictor, points_per_side=2, crop_n_layers=1, **KEEP_ALL)
        generator.generate(image)
        assert sum(encoded) == 1 + 4 and predictor.store.statistics().entries == 1

    def test_copies_and_pickles_give_the_same_masks(self, make, image):
        generator = make(points_per_side=2)
        expected = generator.generate(image)
        for twin in (copy.deepcopy(generator), pickle.loads(pickle.dumps(generator))):
            assert len(twin.predictor.store) == 0 and same(twin.generate(image), expected)

    def test_a_model_in_training_is_put_back_into_eval_mode(self, make, image):
        generator = make(points_per_side=2)
        expected = generator.generate(image)
        generator.predictor.model.train()
        generator.predictor.store.clear()
        assert same(generator.generate(image), expected) and not generator.predictor.model.training

    def test_several_threads(self, make, image):
        generator = make()
        pictures = [image, image[::-1], image[:, ::-1]]
        before = threading.active_count()
        expected = [generator.generate(picture) for picture in pictures]
        with ThreadPoolExecutor(3) as pool:
            for found, other in zip(pool.map(generator.generate, pictures), expected, strict=True):
                assert same(found, other)
        assert threading.active_count() < before + 12


class TestPrecision:
    @pytest.mark.parametrize(("dtype", "pictures", "least_iou"), [(torch.bfloat16, 3, 0.98), (torch.float16, 1, 0.99)])
    def test_counts_and_masks_in_half_precision(self, dtype, pictures, least_iou):
        """What is measured on more pictures by `benchmarks/half_precision.py` and stated in docs/performance.md."""
        scenes = SceneGenerator(size=256, split="test", seed=0, font=False)
        options = {"points_per_side": 8, "pred_iou_thresh": 0.6, "stability_score_thresh": 0.7}
        full, half = (
            SamAutomaticMaskGenerator.from_pretrained("tiny", "cpu", precision, **options)
            for precision in (None, dtype)
        )
        counts, overlaps = [0, 0], []
        for index in range(pictures):
            expected, found = (generator.generate(scenes(index).image) for generator in (full, half))
            counts = [counts[0] + len(expected), counts[1] + len(found)]
            assert all(type(record["predicted_iou"]) is float for record in found)
            for record in expected:
                mask = record["segmentation"]
                others = [other["segmentation"] for other in found]
                overlaps.append(max((mask & other).sum() / (mask | other).sum() for other in others))
        assert counts[0] > 3 and abs(counts[0] - counts[1]) <= max(2, 0.05 * counts[0])
        assert np.mean(overlaps) >= least_iou


class _LargestTensor(TorchDispatchMode):
    """Bytes of the largest tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.nbytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.nbytes = max(self.nbytes, tensor.untyped_storage().nbytes())
        return made


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_torchs_default_precision_changes_nothing(make, image, dtype):
    generator = make(points_per_side=2)
    expected = generator.generate(image)
    upscaling._axis.cache_clear()
    torch.set_default_dtype(dtype)
    try:
        found = generator.generate(image)
    finally:
        torch.set_default_dtype(torch.float32)
        upscaling._axis.cache_clear()
    assert same(found, expected)


class TestMemory:
    @pytest.mark.parametrize("points_per_side", [2, 6])
    def test_no_tensor_holds_full_sized_masks(self, make, points_per_side):
        height, width = 1200, 1600
        image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        embed = make().predictor.encode(image)
        generator = make(points_per_side=points_per_side, box_nms_thresh=0.5, output_mode="coco_rle")
        generator.predictor.encode = lambda image: embed
        with _LargestTensor() as largest:
            records = generator.generate(image)
        assert records
        # The picture is the largest; 12 or 108 candidates in float32 would be 92 or 830 MB.
        assert largest.nbytes <= 3 * height * width

    def test_logits_of_duplicates_are_let_go(self, make, image, monkeypatch):
        options = {"points_per_side": 6, "points_per_batch": 4, "box_nms_thresh": 0.5}
        expected = make(**options).generate(image)
        held = []
        hold = CropSearch._hold

        def watched(self, which, logits):
            hold(self, which, logits)
            held.append(self._held)

        monkeypatch.setattr(CropSearch, "_hold", watched)
        monkeypatch.setattr(crop_search, "HELD_BYTES", 0)
        assert same(make(**options).generate(image), expected)
        one_batch, one_mask = 4 * 3 * 32 * 32 * 4, 32 * 32 * 4
        assert max(held) <= 2 * (one_batch + len(expected) * one_mask) < 36 * 3 * one_mask

    def test_a_mask_that_was_let_go_comes_back_when_its_better_drops_out(self, varied_sam, monkeypatch):
        """B is better than A and C better than B; A and C have little in common. B hides A until C comes."""
        columns = [(0, 20), (5, 25), (10, 30)]
        monkeypatch.setattr(crop_search, "can_stand_in", lambda model: True)
        monkeypatch.setattr(crop_search, "FastMaskDecoder", lambda model: _Rectangles(columns))
        options = read_options(KEEP_ALL | {"pred_iou_thresh": 0.1, "box_nms_thresh": 0.5})
        points = np.array([[1.0, 1], [2, 2], [3, 3]])
        crop = Crop((0, 0, 128, 128), (128, 128), (64, 64), (64, 64), points)
        search = CropSearch(varied_sam[0], torch.zeros(1, 64, 8, 8), crop, options)
        for index in range(3):
            search.ask(index, index + 1)
            if index == 1:
                search._forget_duplicates()
        found = search.finish()
        assert [one.point for one in found] == [(3.0, 3.0), (1.0, 1.0)]
        assert [one.mask.box[0] for one in found] == [40, 0]
        assert _Rectangles.drawn == [0, 1, 2, 0]  # A was asked for again


class _Rectangles:
    """A decoder whose first mask of each point is a rectangle with a score of its own; the others are no good."""

    drawn: list[int] = []

    def __init__(self, columns):
        self.columns, _Rectangles.drawn = columns, []

    def prepare(self, embedding):
        return embedding

    def attend(self, images, sparse):
        # Points tell themselves apart by their embeddings; here by how often they came.
        self.index = self.index + 1 if hasattr(self, "index") and self.index < 2 else 0
        scores = torch.tensor([[[0.0, 0.5 + 0.1 * self.index, 0.0, 0.0]]])
        return type("Asked", (), {"iou_scores": scores})

    def masks(self, attended, prompts, tokens):
        logits = torch.full((len(prompts), 32, 32), -20.0)
        left, right = self.columns[self.index]
        logits[:, 4:12, left:right] = 20.0
        _Rectangles.drawn.append(self.index)
        return logits


def test_a_decoder_that_somebody_hooked_into(make, image):
    """The fast decoder may not stand in for it; the hook is heard, and the masks are the same."""
    generator, heard = make(), []
    expected = generator.generate(image)
    handle = generator.predictor.model.mask_decoder.transformer.register_forward_hook(lambda *given: heard.append(1))
    try:
        found = generator.generate(image)
    finally:
        handle.remove()
    assert heard and len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["predicted_iou"] == pytest.approx(theirs["predicted_iou"], abs=1e-5)
        assert (ours["segmentation"] ^ theirs["segmentation"]).sum() <= 2


@pytest.mark.gpu
def test_on_a_gpu_as_on_a_cpu(image):
    scene = SceneGenerator(size=256, split="test", seed=0, font=False)(0).image
    options = {"points_per_side": 8, "pred_iou_thresh": 0.6, "stability_score_thresh": 0.7, "crop_n_layers": 1}
    found, expected = (
        SamAutomaticMaskGenerator.from_pretrained("tiny", device, **options).generate(scene)
        for device in ("cuda", "cpu")
    )
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        mask, other = ours["segmentation"], theirs["segmentation"]
        assert (mask ^ other).sum() <= max(2, 0.005 * (mask | other).sum())
        assert ours["predicted_iou"] == pytest.approx(theirs["predicted_iou"], abs=1e-3)
