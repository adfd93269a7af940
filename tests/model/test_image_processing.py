"""The image processors: every kind of picture, parity with transformers, masks back to the original size.

Numbers at the start of test ids are the cases of the list of bad inputs (bad pictures 21-29, sizes 30-31, mask 46).
"""

import json
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from packaging.version import Version
from PIL import Image
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil as StockPil

from sam_hf.model import mask_postprocessing
from sam_hf.model.image_loading import flatten_images, load_image_tensor
from sam_hf.model.image_processing_sam import SamImageProcessor, SamImageProcessorPil, _mask_to_rle

SMALL = {
    "size": {"longest_edge": 64},
    "pad_size": {"height": 64, "width": 64},
    "mask_size": {"longest_edge": 16},
    "mask_pad_size": {"height": 16, "width": 16},
}
BACKENDS = {
    "torchvision": (SamImageProcessor, transformers.SamImageProcessor),
    "pil": (SamImageProcessorPil, StockPil),
}
# Older releases cut crops wrongly and forget to move their boxes: nothing to compare with there.
STOCK_CROPS_WORK = Version(transformers.__version__) >= Version("5.23")
STD = torch.tensor(SamImageProcessor.image_std).reshape(3, 1, 1)
MEAN = torch.tensor(SamImageProcessor.image_mean).reshape(3, 1, 1)
RANDOM = np.random.default_rng(0)
PHOTO = RANDOM.integers(0, 256, (40, 56, 3), dtype=np.uint8)


@pytest.fixture(params=BACKENDS)
def ours_and_stock(request):
    ours, stock = BACKENDS[request.param]
    return ours(**SMALL), stock(**SMALL)


@pytest.fixture(params=BACKENDS)
def processor(request):
    return BACKENDS[request.param][0](**SMALL)


def seen(processor, image, **options):
    """What the model would see of one image, on the 8-bit scale and without the padding: (3,h,w)."""
    encoding = processor(image, return_tensors="pt", **options)
    height, width = encoding["reshaped_input_sizes"][0].tolist()
    return (encoding["pixel_values"][0] * STD + MEAN)[:, :height, :width] * 255


class TestParity:
    @pytest.mark.parametrize("shape", [(40, 56, 3), (200, 90, 3), (64, 64, 3), (1, 1, 3)], ids=str)
    def test_8bit_rgb_equals_transformers(self, ours_and_stock, shape):
        ours, stock = ours_and_stock
        image = Image.fromarray(RANDOM.integers(0, 256, shape, dtype=np.uint8))
        labels = RANDOM.integers(0, 255, shape[:2], dtype=np.uint8)
        got, expected = ours(image, labels, return_tensors="pt"), stock(image, labels, return_tensors="pt")
        assert list(got) == list(expected)
        for name in expected:
            assert got[name].dtype == expected[name].dtype
            tolerance = 1e-6 if isinstance(ours, SamImageProcessorPil) else 0
            torch.testing.assert_close(got[name], expected[name], rtol=0, atol=tolerance)

    def test_backends_agree_within_one_level(self):
        big = RANDOM.integers(0, 256, (300, 200, 3), dtype=np.uint8)
        difference = seen(SamImageProcessor(**SMALL), big) - seen(SamImageProcessorPil(**SMALL), big)
        assert difference.abs().max() <= 1.001

    def test_pil_backend_is_metas_transform(self):
        transforms = pytest.importorskip("segment_anything.utils.transforms")
        image = RANDOM.integers(0, 256, (300, 200, 3), dtype=np.uint8)
        meta = transforms.ResizeLongestSide(64).apply_image(image)
        got = seen(SamImageProcessorPil(**SMALL), image)
        torch.testing.assert_close(got, torch.from_numpy(meta).permute(2, 0, 1).float(), rtol=0, atol=1e-3)

    @pytest.mark.parametrize(
        "options",
        [
            {"do_normalize": False},
            {"do_rescale": False},
            {"do_rescale": False, "do_normalize": False},
            {"do_pad": False},
            {"do_resize": False},
            {"do_center_crop": True, "crop_size": {"height": 30, "width": 30}},
            {"size": {"longest_edge": 32}},
            {"resample": 3},
            {"image_mean": 0.5, "image_std": 0.25},
        ],
        ids=lambda options: "-".join(options),
    )
    def test_options_equal_transformers(self, options):
        ours, stock = SamImageProcessor(**SMALL), transformers.SamImageProcessor(**SMALL)
        got = ours(PHOTO, return_tensors="pt", **options)
        expected = stock(PHOTO, return_tensors="pt", **options)
        for name in expected:
            torch.testing.assert_close(got[name], expected[name], rtol=0, atol=0)

    def test_without_return_tensors_the_containers_are_transformers_own(self, ours_and_stock):
        ours, stock = ours_and_stock
        got, expected = ours([PHOTO, PHOTO])["pixel_values"], stock([PHOTO, PHOTO])["pixel_values"]
        assert isinstance(got, list) and isinstance(expected, list)
        assert type(got[0]) is type(expected[0])

    def test_settings_are_exchanged_with_transformers(self, ours_and_stock, tmp_path):
        ours, stock = ours_and_stock
        ours.save_pretrained(tmp_path / "ours")
        stock.save_pretrained(tmp_path / "stock")
        texts = [(tmp_path / who / "preprocessor_config.json").read_text() for who in ("ours", "stock")]
        assert json.loads(texts[0]) == json.loads(texts[1])
        assert type(ours).from_pretrained(tmp_path / "stock").to_dict() == ours.to_dict()
        assert type(stock).from_pretrained(tmp_path / "ours").to_dict() == stock.to_dict()


def picture(mode: str) -> Image.Image:
    """A grey ramp in a PIL mode; transparent modes are opaque."""
    ramp = np.tile(np.linspace(0, 255, 32, dtype=np.uint8), (24, 1))
    grey = Image.fromarray(ramp)
    if mode == "La":
        return grey.convert("LA").convert("La")
    if mode == "RGBa":
        return grey.convert("RGBA").convert("RGBa")
    if mode == "I":
        return Image.fromarray(ramp.astype(np.int32))
    if mode == "F":
        return Image.fromarray(ramp.astype(np.float32))
    if mode.startswith("I;16"):
        wide = ramp.astype(np.uint16) * 257
        return Image.frombytes(mode, grey.size, wide.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
    if mode in ("LAB", "HSV", "YCbCr", "CMYK"):
        return grey.convert("RGB").convert(mode) if mode != "LAB" else _lab(grey.convert("RGB"))
    return grey.convert(mode)


def _lab(image):
    from PIL import ImageCms

    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(image, *profiles, outputMode="LAB")


MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F"]
MODES += ["I;16", "I;16L", "I;16B"]


class TestPictures:
    @pytest.mark.parametrize("mode", [pytest.param(mode, id=f"21-{mode}") for mode in MODES])
    def test_every_pil_mode_shows_the_ramp(self, processor, mode):
        image = picture(mode)
        assert image.mode == mode
        got = seen(processor, image, do_resize=False)
        ramp = torch.from_numpy(np.array(picture("L"))).float()
        if mode == "1":  # dithered: right on average only
            assert set(got.round().unique().tolist()) == {0.0, 255.0}
            assert abs(got.mean() - ramp.mean()) < 8
        else:
            assert (got - ramp).abs().max() <= (4 if mode in ("LAB", "YCbCr", "P") else 1)

    @pytest.mark.parametrize("source", ["pil", "uint16 array", "uint16 tensor", "int32 array"])
    def test_22_26_16bit_is_scaled_and_not_clipped(self, processor, source):
        ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (8, 1))
        image = {
            "pil": lambda: Image.fromarray(ramp),
            "uint16 array": lambda: ramp,
            "uint16 tensor": lambda: torch.from_numpy(ramp),
            "int32 array": lambda: ramp.astype(np.int32),
        }[source]()
        got = seen(processor, image)[0, 0]
        assert len(got.round().unique()) == 64
        torch.testing.assert_close(got, torch.from_numpy(ramp[0] / 257).float(), rtol=0, atol=0.01)

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGBa", "array", "float array"])
    def test_transparent_pixels_are_white(self, processor, mode):
        image = Image.new("RGBA", (20, 10), (200, 0, 0, 0))
        image.paste((10, 10, 10, 255), (0, 0, 10, 10))
        if mode == "array":
            image = np.array(image)
        elif mode == "float array":
            image = np.array(image) / 255.0
        elif mode == "P":
            palette = Image.new("P", (20, 10), 1)
            palette.putpalette([10, 10, 10, 200, 0, 0])
            palette.paste(0, (0, 0, 10, 10))
            palette.info["transparency"] = 1
            image = palette
        else:
            image = image.convert(mode)
        got = seen(processor, image, do_resize=False)
        assert got[:, :, 10:].min() > 254.9
        assert abs(got[:, :, :10] - 10).max() < 1.1

    def test_72_orientation_tag_is_applied_to_pictures_and_files(self, processor, tmp_path):
        upright = Image.fromarray(PHOTO)
        exif = Image.Exif()
        exif[0x0112] = 6  # lies on its side: turn it clockwise to look at it
        upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "lying.png", exif=exif)
        expected = processor(upright, return_tensors="pt")
        for source in (tmp_path / "lying.png", str(tmp_path / "lying.png"), Image.open(tmp_path / "lying.png")):
            got = processor(source, return_tensors="pt")
            assert got["original_sizes"].tolist() == [[40, 56]]
            assert torch.equal(got["pixel_values"], expected["pixel_values"])

    def test_75_damaged_file_is_refused_by_name(self, processor, tmp_path):
        Image.fromarray(PHOTO).save(tmp_path / "whole.jpg")
        (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-600])
        (tmp_path / "text.png").write_text("not a picture")
        for source in (tmp_path / "cut.jpg", tmp_path / "text.png", tmp_path / "missing.png"):
            with pytest.raises(ValueError, match=r"images\[1\]"):
                processor([PHOTO, source])
        with pytest.raises(ValueError, match=r"images\[0\]"):
            processor([Image.open(tmp_path / "cut.jpg")])

    def test_a_file_of_more_pixels_than_pil_opens_is_refused_by_name(self, processor, tmp_path, monkeypatch):
        Image.fromarray(PHOTO).save(tmp_path / "huge.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        with pytest.raises(ValueError, match=r"images\[0\]: the file .*huge.png' has more than 200 pixels"):
            processor([tmp_path / "huge.png"])

    @pytest.mark.parametrize(
        ("shape", "resized"),
        [((1, 1, 3), (64, 64)), ((1, 3000, 3), (1, 64)), ((3000, 1, 3), (64, 1)), ((2, 3, 3), (43, 64))],
        ids=["23-1x1", "23-1x3000", "23-3000x1", "2x3"],
    )
    def test_extreme_sizes(self, processor, shape, resized):
        encoding = processor(np.full(shape, 100, np.uint8), return_tensors="pt")
        assert encoding["original_sizes"].tolist() == [list(shape[:2])]
        assert encoding["reshaped_input_sizes"].tolist() == [list(resized)]
        assert torch.isfinite(encoding["pixel_values"]).all()

    @pytest.mark.parametrize("factor", [1, 255], ids=["27-0..1", "27-0..255"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
    def test_float_images_are_their_8bit_selves(self, processor, dtype, factor):
        pixels = torch.from_numpy(PHOTO).permute(2, 0, 1)
        image = (pixels.double() / 255 * factor).to(dtype)
        got, expected = seen(processor, image, do_resize=False), seen(processor, pixels, do_resize=False)
        assert (got - expected).abs().max() <= {torch.bfloat16: 1.0, torch.float16: 0.1}.get(dtype, 1e-3)

    def test_layouts_and_kinds_are_one_image(self, processor):
        grey = PHOTO[..., 0]
        expected = processor(np.stack([grey] * 3, -1), return_tensors="pt")["pixel_values"]
        variants = [grey, grey[None], grey[..., None], torch.from_numpy(grey), Image.fromarray(grey)]
        variants += [np.asfortranarray(grey), grey[::-1, ::-1].copy()[::-1, ::-1], grey.astype(np.int64)]
        variants += [np.stack([grey] * 3), grey.astype(">u4"), torch.from_numpy(grey).float().requires_grad_()]
        for variant in variants:
            got = processor(variant, return_tensors="pt")["pixel_values"].detach()
            torch.testing.assert_close(got, expected, rtol=0, atol=0.02)

    def test_bool_arrays_are_black_and_white(self, processor):
        got = seen(processor, np.eye(8, dtype=bool), do_resize=False)
        torch.testing.assert_close(got[0], torch.eye(8) * 255, rtol=0, atol=1e-3)

    def test_29_mixed_batch_equals_its_images_one_by_one(self, processor):
        images = [PHOTO, Image.fromarray(PHOTO[:7]), torch.from_numpy(PHOTO[:, :9].astype(np.float32) / 255)]
        images.append(np.full((100, 3), 5, np.uint16))
        batch = processor(images, return_tensors="pt")
        for index, image in enumerate(images):
            alone = processor(image, return_tensors="pt")
            for name in alone:
                assert torch.equal(alone[name][0], batch[name][index])

    def test_padding_is_zero_and_the_callers_pixels_stay(self, processor):
        image = torch.rand(3, 64, 32)  # needs no resizing: its memory must still not be written to
        before = image.clone()
        encoding = processor(image, return_tensors="pt")
        assert torch.equal(image, before)
        assert encoding["pixel_values"][..., 32:].abs().max() == 0

    @pytest.mark.parametrize(
        ("images", "error", "message"),
        [
            pytest.param(None, ValueError, "images: .*None", id="25-None"),
            pytest.param([], ValueError, "images: .*empty", id="25-empty"),
            pytest.param([[]], ValueError, r"images\[0\]", id="25-nested empty"),
            pytest.param([PHOTO, None], ValueError, r"images\[1\]: .*None", id="25-None inside"),
            pytest.param(np.zeros((0, 5, 3), np.uint8), ValueError, "no pixels", id="24-0x5"),
            pytest.param(np.zeros((0, 5), np.uint8), ValueError, "no pixels", id="24-0x5 grey"),
            pytest.param(np.zeros((0, 3, 8, 8), np.uint8), ValueError, "at least one image", id="24-no images"),
            pytest.param(np.full((5, 5, 3), np.nan), ValueError, "finite", id="28-NaN"),
            pytest.param(np.full((5, 5, 3), np.inf), ValueError, "finite", id="28-inf"),
            pytest.param(np.full((5, 5, 3), -1.0), ValueError, "0,255", id="negative float"),
            pytest.param(np.full((5, 5, 3), 1000.0), ValueError, "0,255", id="large float"),
            pytest.param(np.full((5, 5, 3), -1), ValueError, "from -1", id="negative integer"),
            pytest.param(np.full((5, 5, 3), 70000), ValueError, "65535", id="large integer"),
            pytest.param(np.zeros((5, 5, 2), np.uint8), ValueError, "channels", id="2 channels"),
            pytest.param(np.zeros(5, np.uint8), ValueError, "shape", id="1 dimension"),
            pytest.param(np.zeros((5, 5), complex), TypeError, "complex", id="complex"),
            pytest.param(7, TypeError, "int", id="73-int"),
            pytest.param(b"abc", TypeError, "bytes", id="73-bytes"),
            pytest.param([[1, 2], [3, 4]], TypeError, r"images\[0\]", id="numbers in lists"),
            pytest.param("no such file.png", ValueError, "no such file.png", id="73-missing file"),
        ],
    )
    def test_what_is_no_picture_is_refused_by_name(self, processor, images, error, message):
        with pytest.raises(error, match=message):
            processor(images, return_tensors="pt")

    def test_overshoot_of_resampling_is_cut_off(self):
        got = load_image_tensor(np.array([[-0.4, 255.4], [0, 100]], np.float32))
        assert got.min() == 0 and got.max() == 255

    def test_ambiguous_layouts(self):
        assert load_image_tensor(np.zeros((3, 5, 3), np.uint8)).shape == (3, 3, 5)
        assert load_image_tensor(torch.zeros(3, 5, 3)).shape == (3, 5, 3)
        assert load_image_tensor(np.zeros((3, 5, 3), np.uint8), input_data_format="channels_first").shape == (3, 5, 3)
        with pytest.raises(ValueError, match="channels_first"):
            load_image_tensor(np.zeros((7, 5, 3), np.uint8), input_data_format="channels_first")

    def test_nested_lists_and_batches_are_flattened(self):
        assert len(flatten_images([[PHOTO, PHOTO], [PHOTO]])) == 3
        assert len(flatten_images(np.stack([PHOTO, PHOTO]))) == 2

    def test_no_warning_for_ordinary_pictures(self, processor):
        frozen = PHOTO.copy()
        frozen.flags.writeable = False
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            processor([frozen, Image.fromarray(PHOTO)], return_tensors="pt")


class TestSegmentationMaps:
    def test_labels_of_any_integer_survive(self, processor):
        labels = np.full((40, 56), 70000, np.int64)
        got = processor(PHOTO, labels, return_tensors="pt")["labels"]
        assert got.shape == (1, 16, 16) and got.dtype == torch.int64
        assert got[0, :11].unique().tolist() == [70000] and got[0, 11:].unique().tolist() == [0]

    @pytest.mark.parametrize(
        ("maps", "message"),
        [
            ([np.zeros((40, 56), int)] * 2, "expected 1, one per image, got 2"),
            (np.zeros((56, 40), int), "aspect"),
            (np.zeros((40, 56, 3), int), "segmentation_maps"),
            (np.full((40, 56), np.nan), "finite"),
        ],
        ids=["count", "turned", "channels", "NaN"],
    )
    def test_unfit_maps_are_refused(self, processor, maps, message):
        with pytest.raises(ValueError, match=message):
            processor(PHOTO, maps, return_tensors="pt")


def two_steps(masks, original, reshaped, square):
    """The definition: upscale to the square, cut, upscale to the original size."""
    masks = F.interpolate(masks, square, mode="bilinear", align_corners=False)
    return F.interpolate(masks[..., : reshaped[0], : reshaped[1]], original, mode="bilinear", align_corners=False)


class TestPostProcessing:
    SIZES = [(30, 40), (50, 17), (64, 64)]
    RESHAPED = [(48, 64), (64, 22), (64, 64)]

    @pytest.mark.parametrize("block", [1, 2**14, 2**30], ids=["one prompt at a time", "blocks", "whole"])
    def test_masks_equal_the_definition(self, processor, block, monkeypatch):
        monkeypatch.setattr(mask_postprocessing, "BLOCK_BYTES", block)
        logits = torch.randn(3, 5, 3, 16, 16)
        got = processor.post_process_masks(logits, self.SIZES, self.RESHAPED, binarize=False)
        binary = processor.post_process_masks(logits, self.SIZES, self.RESHAPED, mask_threshold=0.25)
        for i in range(3):
            expected = two_steps(logits[i], self.SIZES[i], self.RESHAPED[i], (64, 64))
            torch.testing.assert_close(got[i], expected, rtol=0, atol=1e-6)
            assert binary[i].dtype == torch.bool and torch.equal(binary[i], got[i] > 0.25)

    @pytest.mark.parametrize("square", [(64, 64), (60, 60)], ids=["whole scale", "odd scale"])
    def test_equals_transformers_for_any_square(self, square):
        ours, stock = SamImageProcessor(**SMALL), transformers.SamImageProcessor(**SMALL)
        arguments = (torch.randn(1, 2, 3, 16, 16), torch.tensor([[30, 40]]), np.array([[45, 60]]))
        pad = {"height": square[0], "width": square[1]}
        got = ours.post_process_masks(*arguments, binarize=False, pad_size=pad)
        torch.testing.assert_close(got, stock.post_process_masks(*arguments, binarize=False, pad_size=pad))

    def test_kinds_of_input(self, processor):
        logits = torch.randn(1, 2, 3, 16, 16, dtype=torch.float64, requires_grad=True)
        expected = processor.post_process_masks(logits, [(30, 40)], [(48, 64)], binarize=False)[0]
        assert expected.requires_grad and expected.dtype == torch.float64
        masks = [logits[0].detach().numpy()]
        from_array = processor.post_process_masks(masks, np.array([[30, 40]]), torch.tensor([[48, 64]]))
        assert isinstance(masks[0], np.ndarray)  # the caller's list is not changed
        assert torch.equal(from_array[0], expected > 0)
        half = processor.post_process_masks(logits.bfloat16(), [(30, 40)], [(48, 64)], binarize=False)[0]
        assert half.dtype == torch.bfloat16 and (half - expected).abs().max() < 0.05
        assert processor.post_process_masks(logits[:, :0], [(30, 40)], [(48, 64)])[0].shape == (0, 3, 30, 40)

    @pytest.mark.parametrize(
        ("masks", "originals", "reshaped", "error", "message"),
        [
            pytest.param(1, [(30, 40)], [(48, 64)] * 2, ValueError, "1 masks, 1 orig.* 2 resh", id="30-reshaped"),
            pytest.param(2, [(30, 40)], [(48, 64)] * 2, ValueError, "2 masks, 1 orig", id="30-originals"),
            pytest.param(1, [(30, 40, 3)], [(48, 64)], ValueError, r"original_sizes\[0\]", id="30-three sides"),
            pytest.param(1, [(0, 40)], [(48, 64)], ValueError, r"original_sizes\[0\]", id="30-zero"),
            pytest.param(1, [30, 40], [(48, 64)], ValueError, "original_sizes", id="30-flat"),
            pytest.param(1, [(48, 64)], [(300, 400)], ValueError, "exchanged", id="31-exchanged large"),
            pytest.param(1, [(48, 64)], [(30, 40)], ValueError, "exchanged", id="31-exchanged small"),
            pytest.param(1, [(40, 30)], [(48, 64)], ValueError, "aspect", id="31-width first"),
            pytest.param([[1, 0]], [(30, 40)], [(48, 64)], TypeError, r"masks\[0\]", id="lists"),
            pytest.param([torch.ones(1, 3, 16, 16, dtype=torch.bool)], [(30, 40)], [(48, 64)], TypeError, "bool",
                         id="bool"),
            pytest.param([torch.ones(3, 16, 16)], [(30, 40)], [(48, 64)], ValueError, "shape", id="3 dimensions"),
        ],
    )  # fmt: skip
    def test_what_does_not_fit_is_refused(self, processor, masks, originals, reshaped, error, message):
        masks = torch.zeros(masks, 1, 3, 16, 16) if isinstance(masks, int) else masks
        with pytest.raises(error, match=message):
            processor.post_process_masks(masks, originals, reshaped)

    def test_small_image_seen_at_its_own_size(self, processor):
        masks = processor.post_process_masks(torch.zeros(1, 1, 1, 16, 16), [(64, 48)], [(64, 48)])
        assert masks[0].shape == (1, 1, 64, 48)


class TestAutomaticMasks:
    @pytest.mark.parametrize("layers", [0, 1, 2])
    def test_crops_equal_transformers(self, ours_and_stock, layers):
        if layers and not STOCK_CROPS_WORK:
            pytest.skip("crops of this transformers release are wrong")
        ours, stock = ours_and_stock
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the stock PIL class copies tensors the discouraged way
            expected = stock.generate_crop_boxes(Image.fromarray(PHOTO), 64, layers, points_per_crop=4)
        got = ours.generate_crop_boxes(Image.fromarray(PHOTO), 64, layers, points_per_crop=4)
        for index in (0, 1, 3):
            torch.testing.assert_close(got[index], expected[index].to(got[index].dtype))
        assert all(np.array_equal(a, b) for a, b in zip(got[2], expected[2], strict=True))

    def test_69_sparser_grids_repeat_their_points(self, processor):
        boxes, points, crops, labels = processor.generate_crop_boxes(
            PHOTO, 64, 1, points_per_crop=4, crop_n_points_downscale_factor=2
        )
        assert points.shape == (1, 16, 5, 2) and labels.shape == (1, 16, 5) and len(crops) == len(boxes) == 5
        assert len(points[0, :, 0].unique(dim=0)) == 16 and len(points[0, :, 1].unique(dim=0)) == 4

    def test_dark_crop_of_a_float_image_stays_dark(self, processor):
        image = np.full((32, 64, 3), 200.0, np.float32)
        image[:, :20] = 1.0
        crops = processor.generate_crop_boxes(image, 64, 1, overlap_ratio=0.0, points_per_crop=1)[2]
        assert crops[1].max() == 200 and seen(processor, crops[1])[:, :, :20].max() < 2

    @pytest.mark.parametrize(
        "options",
        [
            pytest.param({"points_per_crop": 0}, id="12-points_per_crop"),
            pytest.param({"crop_n_layers": -1}, id="12-crop_n_layers"),
            pytest.param({"overlap_ratio": 2.0}, id="12-overlap_ratio"),
            pytest.param({"crop_n_points_downscale_factor": 0}, id="12-crop_n_points_downscale_factor"),
        ],
    )
    def test_70_bad_options_are_refused_by_name(self, processor, options):
        with pytest.raises(ValueError, match=next(iter(options))):
            processor.generate_crop_boxes(PHOTO, 64, **options)

    @pytest.mark.parametrize("box", [[0, 0, 56, 40], [0, 0, 40, 30], [20, 5, 56, 40]], ids=str)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_filter_and_suppression_equal_transformers(self, box, dtype):
        if box[:2] != [0, 0] and not STOCK_CROPS_WORK:
            pytest.skip("boxes of crops of this transformers release are wrong")
        torch.manual_seed(0)
        small = torch.randn(12, 3, 6, 6)
        small[0] = -9.0  # an empty mask has no stability
        masks = F.interpolate(small, (box[3] - box[1], box[2] - box[0]), mode="bicubic").to(dtype) * 4
        scores = torch.rand(12, 3).to(dtype)
        ours, stock = SamImageProcessor(**SMALL), transformers.SamImageProcessor(**SMALL)
        got = ours.filter_masks(masks, scores, (40, 56), torch.tensor(box), 0.3, 0.4)
        expected = stock.filter_masks(masks, scores, (40, 56), torch.tensor(box), 0.3, 0.4)
        assert got[0] == expected[0]
        assert len(got[0]) > 0 or box != [0, 0, 56, 40]  # a crop may cut them all
        assert torch.equal(got[1], expected[1]) and torch.equal(got[2], expected[2])
        kept = ours.post_process_for_mask_generation(*got, 0.5)
        reference = stock.post_process_for_mask_generation(expected[0], expected[1].float(), expected[2], 0.5)
        assert kept[2] == reference[2] and torch.equal(kept[3], reference[3])
        assert all(torch.equal(a, b) for a, b in zip(kept[0], reference[0], strict=True))

    def test_62_nothing_found_is_nothing(self, processor):
        got = processor.filter_masks(torch.randn(2, 3, 40, 56), torch.zeros(2, 3), (40, 56), [0, 0, 56, 40])
        kept = processor.post_process_for_mask_generation(*got, 0.7)
        assert kept[0] == [] and kept[2] == [] and kept[1].shape == (0,) and kept[3].shape == (0, 4)

    def test_64_run_lengths_there_and_back(self):
        masks = torch.rand(6, 7, 5) > 0.5
        masks[0], masks[1] = False, True
        encoded = _mask_to_rle(masks)
        assert encoded[0]["counts"] == [35] and encoded[1]["counts"] == [0, 35]
        assert all(sum(rle["counts"]) == 35 for rle in encoded)
        for mask, rle in zip(masks, encoded, strict=True):
            assert torch.equal(mask_postprocessing.rle_to_mask(rle), mask)
        assert _mask_to_rle(torch.tensor([[[0, 1], [1, 1]]])) == [{"size": [2, 2], "counts": [1, 3]}]
