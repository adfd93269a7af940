"""`pipeline("mask-generation")`: transformers' own on our classes, and ours with the stock one's defects mended."""

import base64
import json
import pickle
from collections.abc import Sequence

import cv2
import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from PIL import Image
from pycocotools import mask as coco_mask
from transformers.pipelines.pt_utils import KeyDataset

import sam_hf
from sam_hf.inference.pipeline import SamMaskGenerationPipeline, pipeline
from sam_hf.masks import rle

CROPS_WORK = Version(transformers.__version__) >= Version("5.23")  # in transformers' own pipeline
# Random weights give masks all over the picture, of any score, and boxes that are alike.
KEEP_ALL = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "crops_nms_thresh": 1.0}
FEW = {"points_per_crop": 2} | KEEP_ALL


def _picture(seed: int, height: int, width: int) -> Image.Image:
    """Discs on a ramp, so that different points see different things."""
    generator = np.random.default_rng(seed)
    yy, xx = np.mgrid[:height, :width]
    pixels = np.stack([xx * 255 / width, yy * 255 / height, np.full((height, width), 90.0)], axis=-1)
    for _ in range(5):
        y, x, radius = generator.uniform(0, 1, 3) * (height, width, 20) + (0, 0, 5)
        pixels[(yy - y) ** 2 + (xx - x) ** 2 < radius**2] = generator.uniform(0, 255, 3)
    return Image.fromarray(pixels.astype(np.uint8))


WIDE, TALL = _picture(0, 100, 150), _picture(1, 90, 60)


@pytest.fixture(scope="module")
def varied_checkpoint(tmp_path_factory, vary):
    """Folder of a plain "sam", saved by transformers, with a different mask at every point; input 64 px."""
    vision = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 48, "window_size": 4}
    vision |= {"image_size": 64, "patch_size": 8, "output_channels": 64, "num_pos_feats": 32}
    vision |= {"global_attn_indexes": [1]}
    config = transformers.SamConfig(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 64, "image_size": 64, "patch_size": 8},
        mask_decoder_config={"hidden_size": 64, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
    )
    model = transformers.SamModel(config)
    vary(model)
    folder = tmp_path_factory.mktemp("varied-sam")
    model.save_pretrained(folder)
    sizes = {"size": {"longest_edge": 64}, "pad_size": {"height": 64, "width": 64}}
    sizes |= {"mask_size": {"longest_edge": 32}, "mask_pad_size": {"height": 32, "width": 32}}
    transformers.SamProcessor(transformers.SamImageProcessor(**sizes)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def ours(varied_checkpoint):
    model = sam_hf.SamModel.from_pretrained(varied_checkpoint).eval()
    return {"model": model, "image_processor": sam_hf.SamImageProcessor.from_pretrained(varied_checkpoint)}


def _stock(**parts):
    return transformers.pipeline("mask-generation", device="cpu", **parts)


def _assert_same(found: dict, expected: dict, same: float = 0.999, tolerance: float = 1e-4) -> None:
    """The same masks in the same order with the same scores."""
    assert len(found["masks"]) == len(expected["masks"]) > 2
    torch.testing.assert_close(found["scores"].float(), expected["scores"].float(), rtol=tolerance, atol=tolerance)
    for mask, other in zip(found["masks"], expected["masks"], strict=True):
        assert _iou(mask, other) >= same


def _iou(mask: torch.Tensor, other: torch.Tensor) -> float:
    union = float((mask | other).sum())
    return float((mask & other).sum()) / union if union else 1.0


class TestStockPipeline:
    OPTIONS = {
        "plain": {},
        "batches of points": {"points_per_batch": 5},
        "all points at once": {"points_per_batch": None},
        "filters": {"pred_iou_thresh": 0.05, "stability_score_thresh": 0.6, "stability_score_offset": 0.1},
        "threshold": {"mask_threshold": 0.2},
        "duplicates": {"crops_nms_thresh": 0.5},
        "crops": {"crops_n_layers": 1, "crop_overlap_ratio": 0.2},
    }

    @pytest.mark.parametrize("options", OPTIONS)
    def test_our_classes_give_what_transformers_gives(self, ours, varied_checkpoint, options):
        if options == "crops" and not CROPS_WORK:
            pytest.skip("transformers' own classes fail here before 5.23")
        asked = {"points_per_crop": 3} | KEEP_ALL | self.OPTIONS[options]
        asked |= {"output_rle_mask": True, "output_bboxes_mask": True}
        expected, found = (_stock(**parts)(WIDE, **asked) for parts in ({"model": varied_checkpoint}, ours))
        _assert_same(found, expected)
        torch.testing.assert_close(found["bounding_boxes"], expected["bounding_boxes"], rtol=0, atol=1)
        for mask, runs in zip(found["masks"], found["rle_mask"], strict=True):
            np.testing.assert_array_equal(rle.decode(runs), mask.numpy())

    def test_a_list_equals_its_images(self, ours):
        pipe = _stock(**ours)
        together = pipe([WIDE, TALL], points_per_crop=3, **KEEP_ALL)
        for found, image in zip(together, (WIDE, TALL), strict=True):
            _assert_same(found, pipe(image, points_per_crop=3, **KEEP_ALL), 1.0, 0.0)
            assert found["masks"][0].shape == (image.height, image.width)

    def test_folders_of_either_maker(self, ours, varied_checkpoint, tmp_path):
        ours["model"].save_pretrained(tmp_path)
        sam_hf.SamProcessor(ours["image_processor"]).save_pretrained(tmp_path)
        pipes = [_stock(model=str(folder)) for folder in (tmp_path, varied_checkpoint)]
        assert all(type(pipe.model) is transformers.SamModel for pipe in pipes)  # a plain "sam" stays stock
        found, expected = (pipe(TALL, points_per_crop=3, **KEEP_ALL) for pipe in pipes)
        _assert_same(found, expected)

    def test_bfloat16(self, ours, varied_checkpoint):
        model = sam_hf.SamModel.from_pretrained(varied_checkpoint, dtype=torch.bfloat16)
        found = _stock(model=model, image_processor=ours["image_processor"])(WIDE, points_per_crop=3, **KEEP_ALL)
        expected = _stock(**ours)(WIDE, points_per_crop=3, **KEEP_ALL)
        assert len(found["masks"]) == len(expected["masks"]) == 27
        best = [max(_iou(mask, other) for other in found["masks"]) for mask in expected["masks"]]
        assert np.mean([value for value, mask in zip(best, expected["masks"], strict=True) if mask.sum() > 500]) > 0.9

    def test_equal_scores_among_many_boxes_keep_their_order(self):
        corners = torch.arange(1500)[:, None] * torch.tensor([3, 3])
        boxes = torch.cat([corners, corners + 2], dim=1)
        scores = torch.tensor([0.9, 0.95])[torch.arange(1500) % 2]
        runs = [{"size": [1, 1], "counts": [1]}] * 1500
        kept = [
            processor().post_process_for_mask_generation(runs, scores, boxes, 0.7)[3]
            for processor in (sam_hf.SamImageProcessor, transformers.SamImageProcessor)
        ]
        assert torch.equal(*kept)

    def test_the_embedded_checkpoint(self, scene):
        picture, disc = scene
        pipe = _stock(model=str(sam_hf.EMBEDDED))
        assert type(pipe.model) is sam_hf.SamModel
        found = pipe(picture, points_per_crop=4, pred_iou_thresh=0.7, stability_score_thresh=0.8, crops_n_layers=0)
        assert max(_iou(mask, disc) for mask in found["masks"]) > 0.9


@pytest.fixture(scope="module")
def scene():
    """A picture with a disc, and the disc."""
    yy, xx = np.mgrid[:180, :240]
    disc = (yy - 90) ** 2 + (xx - 150) ** 2 < 45**2
    pixels = np.where(disc[..., None], (200, 40, 40), (70, 110, 80)).astype(np.uint8)
    return Image.fromarray(pixels), torch.from_numpy(disc)


@pytest.fixture(scope="module")
def pipe(ours):
    return pipeline("mask-generation", **ours)


class TestOurPipeline:
    @pytest.mark.parametrize("options", [name for name in TestStockPipeline.OPTIONS if name != "crops"])
    def test_masks_scores_and_order_are_those_of_transformers(self, pipe, varied_checkpoint, options):
        asked = {"points_per_crop": 3} | KEEP_ALL | TestStockPipeline.OPTIONS[options]
        asked |= {"output_rle_mask": True, "output_bboxes_mask": True}
        found, expected = pipe(WIDE, **asked), _stock(model=varied_checkpoint)(WIDE, **asked)
        assert set(found) == set(expected) == {"masks", "scores", "rle_mask", "bounding_boxes"}
        _assert_same(found, expected)
        assert all(mask.dtype == torch.bool and mask.shape == (100, 150) for mask in found["masks"])
        torch.testing.assert_close(found["bounding_boxes"], expected["bounding_boxes"].long(), rtol=0, atol=1)
        assert set(pipe(WIDE, points_per_crop=2, **KEEP_ALL)) == {"masks", "scores"}

    @pytest.mark.skipif(not CROPS_WORK, reason="transformers' own pipeline fails here before 5.23")
    def test_crops_find_what_transformers_finds(self, pipe, varied_checkpoint):
        asked = {"points_per_crop": 3, "crops_n_layers": 1} | KEEP_ALL
        found, expected = pipe(WIDE, **asked), _stock(model=varied_checkpoint)(WIDE, **asked)
        assert len(found["masks"]) == len(expected["masks"]) > 27  # more than without crops
        for mask in expected["masks"]:
            assert max(_iou(mask, other) for other in found["masks"]) >= 0.999

    def test_every_door(self, varied_checkpoint, ours, tmp_path):
        stock_model = transformers.SamModel.from_pretrained(varied_checkpoint)
        stock_processor = transformers.SamProcessor.from_pretrained(varied_checkpoint)
        through_transformers = {"pipeline_class": SamMaskGenerationPipeline, "device": "cpu"}
        task = "mask-generation"
        doors = {
            "name": pipeline(task, model=varied_checkpoint, device="cpu"),
            "objects": pipeline(task, model=ours["model"], processor=sam_hf.SamProcessor(ours["image_processor"])),
            "stock objects": pipeline(task, model=stock_model, processor=stock_processor),
            "stock function, name": transformers.pipeline(task, model=varied_checkpoint, **through_transformers),
            "stock function, objects": transformers.pipeline(
                task, model=stock_model, processor=stock_processor, **through_transformers
            ),
        }
        doors["name"].save_pretrained(tmp_path)
        doors["saved"] = pipeline(task, model=tmp_path, device="cpu")
        expected = doors.pop("objects")(TALL, points_per_crop=3, **KEEP_ALL)
        for pipe in doors.values():
            assert type(pipe) is SamMaskGenerationPipeline and type(pipe.model) is sam_hf.SamModel
            _assert_same(pipe(TALL, points_per_crop=3, **KEEP_ALL), expected, 1.0, 1e-6)
        weight = doors["stock objects"].model.mask_decoder.iou_token.weight
        assert weight.data_ptr() == stock_model.mask_decoder.iou_token.weight.data_ptr()

    def test_stock_task_is_left_alone(self, varied_checkpoint):
        assert type(_stock(model=varied_checkpoint)).__module__ == "transformers.pipelines.mask_generation"

    def test_the_embedded_checkpoint(self, scene, tmp_path):
        picture, disc = scene
        pipe = pipeline("mask-generation", model="tiny", device="cpu", pred_iou_thresh=0.7, points_per_crop=4)
        picture.save(tmp_path / "picture.png")
        for image in (picture, str(tmp_path / "picture.png")):
            found = pipe(image, stability_score_thresh=0.8)
            assert max(_iou(mask, disc) for mask in found["masks"]) > 0.9
        pipe.save_pretrained(tmp_path / "saved")  # with its tokenizer's settings
        assert "input_ids" in sam_hf.SamProcessor.from_pretrained(tmp_path / "saved")(picture, text="a red disc")


class TestDefectsOfTheStockPipeline:
    """One test per defect that was found in transformers 5.23."""

    def test_1_small_holes_and_islands(self, pipe):
        plain = pipe(WIDE, points_per_crop=3, **KEEP_ALL)["masks"]
        for option, value in (("max_hole_area", False), ("max_sprinkle_area", True)):
            cleaned = pipe(WIDE, points_per_crop=3, **{option: 200}, **KEEP_ALL)["masks"]
            small = [_small_regions(mask.numpy() == value, 200) for mask in plain]
            assert any(small) and not any(_small_regions(mask.numpy() == value, 200) for mask in cleaned)

    def test_2_batches_of_images_of_different_sizes(self, pipe):
        for image, found in zip([WIDE, TALL, WIDE], pipe([WIDE, TALL, WIDE], batch_size=2, **FEW), strict=True):
            _assert_same(found, pipe(image, **FEW))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_3_low_precision_on_the_cpu(self, varied_checkpoint, pipe, dtype):
        low = pipeline("mask-generation", model=varied_checkpoint, device="cpu", dtype=dtype)
        found, expected = low(WIDE, **FEW), pipe(WIDE, **FEW)
        assert found["scores"].dtype == torch.float32 and len(found["masks"]) == len(expected["masks"])
        best = [max(_iou(mask, other) for other in found["masks"]) for mask in expected["masks"]]
        assert np.mean([value for value, mask in zip(best, expected["masks"], strict=True) if mask.sum() > 500]) > 0.9

    def test_none_is_the_default_as_in_transformers(self, pipe):
        nothing = {"crops_n_layers": None, "crop_n_points_downscale_factor": None, "mask_threshold": None}
        _assert_same(pipe(WIDE, **FEW, **nothing), pipe(WIDE, **FEW))

    def test_a_stock_processor_keeps_its_way_of_resizing(self, varied_checkpoint, ours):
        for kind in ("SamImageProcessor", "SamImageProcessorPil"):
            if not hasattr(transformers, kind):
                continue
            stock = getattr(transformers, kind).from_pretrained(varied_checkpoint)
            made = pipeline("mask-generation", model=ours["model"], image_processor=stock)
            assert type(made.image_processor) is getattr(sam_hf, kind)

    def test_4_both_spellings_of_the_output_switches(self, pipe):
        for option, key in (("output_rle_mask", "rle_mask"), ("output_bboxes_mask", "bounding_boxes")):
            for spelling in (option, option + "s"):
                assert set(pipe(WIDE, **FEW, **{spelling: True})) == {"masks", "scores", key}
            with pytest.raises(ValueError, match=f"{option}.*{option}s"):
                pipe(WIDE, **{option: True, option + "s": False})

    def test_5_run_lengths_are_for_pycocotools(self, pipe):
        found = pipe(WIDE, output_rle_mask=True, **FEW)
        for mask, run in zip(found["masks"], found["rle_mask"], strict=True):
            np.testing.assert_array_equal(coco_mask.decode(run), mask.numpy())
        json.dumps(found["rle_mask"])

    def test_6_text_is_not_ignored_but_refused(self, pipe):
        with pytest.raises(ValueError, match="unknown option 'text'.*SamPredictor"):
            pipe(WIDE, text="a red disc")

    def test_7_grids_of_different_length(self, pipe):
        found = pipe(WIDE, points_per_crop=4, crops_n_layers=1, crop_n_points_downscale_factor=2, **KEEP_ALL)
        assert len(found["masks"]) >= 48

    def test_8_coordinates_reach_the_model_as_float32(self, pipe):
        prompts = {"input_points": [[[[3, 4]], [[5, 6], [7, 8], [9, 9]]]], "input_boxes": [[[1, 2, 30, 40]] * 2]}
        inputs = pipe.processor(WIDE, return_tensors="pt", **prompts)  # ragged by two, which stock cannot pad
        assert inputs["input_points"].dtype == inputs["input_boxes"].dtype == torch.float32


class TestCalls:
    @pytest.mark.parametrize(
        ("option", "hint"),
        [
            ("point_per_batch", "did you mean 'points_per_batch'"),
            ("points_per_side", "did you mean 'points_per_crop'"),
            ("crop_n_layers", "did you mean 'crops_n_layers'"),
            ("box_nms_thresh", "did you mean 'crops_nms_thresh'"),
            ("min_mask_region_area", "'max_hole_area' and 'max_sprinkle_area'"),
            ("zzz", "there are points_per_batch, "),
        ],
    )
    def test_unknown_options_are_refused_with_a_hint(self, pipe, ours, option, hint):
        with pytest.raises(ValueError, match=f"unknown option '{option}': .*{hint}"):
            pipe(WIDE, **{option: 3})
        with pytest.raises(ValueError, match=f"unknown option '{option}'"):
            pipeline("mask-generation", **ours, **{option: 3})

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("points_per_crop", 0),
            ("points_per_batch", 0),
            ("points_per_batch", -1),
            ("crops_n_layers", -1),
            ("crop_overlap_ratio", 2.0),
            ("crop_n_points_downscale_factor", 0),
            ("crops_nms_thresh", -1.0),
            ("crops_nms_thresh", 5.0),
            ("pred_iou_thresh", float("nan")),
            ("stability_score_thresh", "high"),
            ("max_hole_area", -4),
        ],
    )
    def test_bad_values_are_refused_by_name_before_anything_is_read(self, pipe, option, value):
        with pytest.raises((ValueError, TypeError), match=option):
            pipe("nowhere.png", **{option: value})

    @pytest.mark.parametrize("image", [None, 7, b"bytes", {"image": 1}, [], [None], "nowhere.png", "", [[]]])
    def test_what_is_no_image_is_refused_by_name(self, pipe, image):
        with pytest.raises((ValueError, TypeError), match="image"):
            pipe(image)

    def test_every_way_to_give_images(self, pipe, tmp_path):
        class Rows(torch.utils.data.Dataset):
            def __len__(self):
                return 2

            def __getitem__(self, index):
                return {"image": (WIDE, TALL)[index], "id": index}

        class Column(Sequence):  # as the `datasets` library gives it
            __len__ = Rows.__len__

            def __getitem__(self, index):
                if index > 1:
                    raise IndexError(index)
                return Rows()[index]["image"]

        wide, tall = pipe(WIDE, **FEW), pipe(TALL, **FEW)
        WIDE.save(tmp_path / "wide.png")
        coded = base64.b64encode((tmp_path / "wide.png").read_bytes()).decode()
        tensor = torch.from_numpy(np.array(WIDE)).permute(2, 0, 1)
        for one in (tmp_path / "wide.png", str(tmp_path / "wide.png"), coded, np.array(WIDE), tensor):
            _assert_same(pipe(one, **FEW), wide)
        _assert_same(pipe(tensor / 255, **FEW), pipe(np.array(WIDE) / np.float32(255), **FEW))
        for several in ([WIDE, TALL], (WIDE, TALL)):
            assert isinstance(pipe(several, **FEW), list) and len(pipe(several, **FEW)) == 2
        column = Column()
        longer = {
            "generator": lambda: (image for image in column),
            "iterator": lambda: iter([WIDE, TALL]),
            "column": lambda: column,
            "data set": lambda: KeyDataset(Rows(), "image"),
        }
        for make in longer.values():
            for batch_size in (1, 2):
                stream = pipe(make(), batch_size=batch_size, **FEW)
                assert not isinstance(stream, list)
                for found, expected in zip(stream, (wide, tall), strict=True):
                    _assert_same(found, expected)
        with pytest.raises(TypeError, match="give the column with the images"):
            list(pipe(Rows(), **FEW))

    def test_an_endless_generator_is_taken_bit_by_bit(self, pipe):
        def endless():
            while True:
                taken.append(1)
                yield TALL

        taken = []
        stream = iter(pipe(endless(), **FEW))
        next(stream), next(stream)
        assert len(taken) <= 4

    def test_workers_may_read_ahead(self, pipe):
        copied = pickle.loads(pickle.dumps(pipe))  # as a worker gets it
        _assert_same(copied(TALL, **FEW), pipe(TALL, **FEW))

    def test_downloads_have_a_time_limit(self, pipe, monkeypatch):
        waited = []

        def download(address, timeout):
            waited.append(timeout)
            raise OSError("slow")

        monkeypatch.setattr("sam_hf.inference.pipeline.load_image", download)
        for options in ({}, {"timeout": 2}):
            with pytest.raises(ValueError, match="image: nothing usable at http://example.com/a.png"):
                pipe("http://example.com/a.png", **options)
        assert waited == [10.0, 2]

    def test_nothing_found(self, pipe):
        found = pipe(WIDE, points_per_crop=2, pred_iou_thresh=1.0, stability_score_thresh=1.0, output_rle_mask=True,
                     output_bboxes_mask=True)  # fmt: skip
        assert found["masks"] == found["rle_mask"] == []
        assert found["scores"].shape == (0,) and found["bounding_boxes"].shape == (0, 4)

    def test_defaults_of_the_pipeline_and_of_a_call(self, ours):
        pipe = pipeline("mask-generation", **ours, points_per_crop=2, **KEEP_ALL)
        assert len(pipe(WIDE)["masks"]) == 12
        assert len(pipe(WIDE, points_per_crop=3)["masks"]) == 27
        assert len(pipe(WIDE)["masks"]) == 12

    def test_wrong_parts_are_refused_by_name(self, ours, varied_checkpoint):
        with pytest.raises(ValueError, match="task must be 'mask-generation'; got 'image-segmentation'"):
            pipeline("image-segmentation", **ours)
        with pytest.raises(ValueError, match="processor: expected"):
            pipeline("mask-generation", model=ours["model"])
        with pytest.raises(TypeError, match="model: expected a SamModel, got Linear"):
            pipeline("mask-generation", model=torch.nn.Linear(2, 2))
        with pytest.raises(ValueError, match="dtype"):
            pipeline("mask-generation", **ours, dtype="bfloat16")


def _small_regions(mask: np.ndarray, area: int) -> bool:
    """Whether there is a region of at most so many pixels, unless it is all there is."""
    sizes = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)[2][1:, cv2.CC_STAT_AREA]
    return len(sizes) > 1 and bool((sizes <= area).any())
