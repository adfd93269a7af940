"""`SamProcessor`: prompts of every nesting, what is refused, text, and that nothing gets lost on the way.

Numbers at the start of test ids are the cases of the list of bad inputs (1-20, 34-36, 43-50).
"""

import copy
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from sam_hf.model.image_processing_sam import SamImageProcessor
from sam_hf.model.processing_sam import SamProcessor

SIZES = {
    "size": {"longest_edge": 64},
    "pad_size": {"height": 64, "width": 64},
    "mask_size": {"longest_edge": 32},
    "mask_pad_size": {"height": 32, "width": 32},
}
TEXT = {"vocab_size": 1000, "context_length": 16}
WIDE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 32, 3), dtype=np.uint8))  # scale 2
TALL = Image.fromarray(np.random.default_rng(1).integers(0, 256, (128, 100, 3), dtype=np.uint8))  # scale 0.5
NAN = float("nan")


@pytest.fixture(scope="module")
def processor():
    return SamProcessor(SamImageProcessor(**SIZES), text_config=TEXT)


@pytest.fixture(scope="module")
def plain():
    return SamProcessor(SamImageProcessor(**SIZES))


def run(processor, images=WIDE, **prompts):
    return processor(images, return_tensors="pt", **prompts)


class TestNesting:
    @pytest.mark.parametrize(
        ("points", "expected"),
        [
            ([[1, 2], [3, 4]], [[[[2, 4], [6, 8]]]]),
            ([[[1, 2], [3, 4]]], [[[[2, 4], [6, 8]]]]),
            ([[[[1, 2]], [[3, 4]]]], [[[[2, 4]], [[6, 8]]]]),
            ((((1, 2),),), [[[[2, 4]]]]),
            ([[np.array([1, 2]), torch.tensor([3.0, 4.0], requires_grad=True)]], [[[[2, 4], [6, 8]]]]),
            (np.array([[[1, 2]]]), [[[[2, 4]]]]),
            (torch.tensor([[[[1.0, 2.0]]]], requires_grad=True), [[[[2, 4]]]]),
            (torch.tensor([[[1, 2]]], dtype=torch.bfloat16), [[[[2, 4]]]]),
            ([[[np.float32(1), 2]]], [[[[2, 4]]]]),
        ],
        ids="8-one image,8-per image,8-per prompt,8-tuples,8-mixture,8-array,8-tensor,8-bfloat16,8-scalars".split(","),
    )
    def test_points_of_every_kind(self, processor, points, expected):
        encoding = run(processor, input_points=points)
        assert encoding["input_points"].dtype == torch.float32
        assert encoding["input_points"].tolist() == expected
        assert encoding["input_labels"].tolist() == [[[1] * len(row) for row in expected[0]]]

    @pytest.mark.parametrize("kind", [list, np.array, torch.tensor], ids=["list", "array", "tensor"])
    def test_20_the_callers_objects_stay(self, processor, kind):
        prompts = {
            "input_points": kind([[[1.0, 2.0], [3.0, 4.0]]]),
            "input_labels": kind([[1, 0]]),
            "input_boxes": kind([[[1.0, 2.0, 3.0, 4.0]]]),
            "input_masks": torch.zeros(1, 1, 32, 32),
            "text": [["a cup"]],
        }
        before = copy.deepcopy(prompts)
        run(processor, **prompts)
        for name, value in before.items():
            assert np.array_equal(np.asarray(value), np.asarray(prompts[name])), name

    @pytest.mark.parametrize(
        ("prompts", "points", "labels"),
        [
            pytest.param(
                {"input_points": [[[1, 2], [3, 4], [5, 6]], [[100, 64]]], "input_labels": [[1, 0, 1], [0]]},
                [[[[2, 4], [6, 8], [10, 12]]], [[[50, 32], [-10, -10], [-10, -10]]]],
                [[[1, 0, 1]], [[0, -10, -10]]],
                id="1-points and labels",
            ),
            pytest.param(
                {"input_points": [[[1, 2], [3, 4], [5, 6]], [[100, 64]]]},
                [[[[2, 4], [6, 8], [10, 12]]], [[[50, 32], [-10, -10], [-10, -10]]]],
                [[[1, 1, 1]], [[1, -10, -10]]],
                id="2-points alone",
            ),
            pytest.param(
                {"input_points": [[[[1, 2], [3, 4]], [[5, 6]]], [[[100, 64]]]]},
                [[[[2, 4], [6, 8]], [[10, 12], [-10, -10]]], [[[50, 32], [-10, -10]], [[-10, -10], [-10, -10]]]],
                [[[1, 1], [1, -10]], [[1, -10], [-10, -10]]],
                id="4-prompts",
            ),
            pytest.param(
                {"input_points": [[[1, 2]], None], "input_labels": [[0], None]},
                [[[[2, 4]]], [[[-10, -10]]]],
                [[[0]], [[-10]]],
                id="9-one image without",
            ),
            pytest.param(
                {"input_points": [[[[1, 2]], None], []], "input_labels": [[None, None], None]},
                [[[[2, 4]], [[-10, -10]]], [[[-10, -10]], [[-10, -10]]]],
                [[[1], [-10]], [[-10], [-10]]],
                id="9-one prompt without",
            ),
            pytest.param(
                {"input_points": [[[1, 2], [9, 9]], [[10, 20], [9, 9]]], "input_labels": [[1, -10], [-1, 0]]},
                [[[[2, 4], [-10, -10]]], [[[5, 10], [4.5, 4.5]]]],
                [[[1, -10]], [[-1, 0]]],
                id="13-padding by the caller",
            ),
        ],
    )
    def test_ragged_points_are_padded(self, processor, prompts, points, labels):
        encoding = run(processor, [WIDE, TALL], **prompts)
        assert encoding["input_points"].tolist() == points
        assert encoding["input_labels"].tolist() == labels

    def test_3_ragged_boxes_are_padded(self, processor):
        encoding = run(processor, [WIDE, TALL], input_boxes=[[[1, 2, 3, 4]], [[0, 0, 100, 128], None, [2, 2, 4, 4]]])
        none = [-10.0] * 4
        assert encoding["input_boxes"].tolist() == [[[2, 4, 6, 8], none, none], [[0, 0, 50, 64], none, [1, 1, 2, 2]]]
        assert encoding["input_boxes"].dtype == torch.float32

    @pytest.mark.parametrize(
        "boxes",
        [
            [[1, 2, 3, 4], [5, 6, 7, 8]],
            [[[1, 2, 3, 4], [5, 6, 7, 8]]],
            np.array([[[1, 2, 3, 4], [5, 6, 7, 8]]]),
            torch.tensor([[[[1.0, 2, 3, 4]], [[5, 6, 7, 8]]]], requires_grad=True),
            [[(1, 2, 3, 4), torch.tensor([5, 6, 7, 8])]],
        ],
        ids=["one image", "per image", "8-array", "8-tensor of four levels", "8-mixture"],
    )
    def test_boxes_of_every_kind(self, processor, boxes):
        assert run(processor, input_boxes=boxes)["input_boxes"].tolist() == [[[2, 4, 6, 8], [10, 12, 14, 16]]]

    def test_18_box_without_area_is_accepted(self, processor):
        assert run(processor, input_boxes=[[[3, 2, 3, 2]]])["input_boxes"].tolist() == [[[6, 4, 6, 4]]]

    def test_box_of_padding_stays_padding(self, processor):
        boxes = run(processor, input_boxes=[[[1, 2, 3, 4], [-10, -10, -10, -10]]])["input_boxes"]
        assert boxes.tolist() == [[[2, 4, 6, 8], [-10] * 4]]

    def test_34_only_background_points(self, processor):
        assert run(processor, input_points=[[[1, 2]]], input_labels=[[0]])["input_labels"].tolist() == [[[0]]]

    @pytest.mark.parametrize("far", [-1e5, 1e30, 1e300], ids=str)
    def test_43_point_far_outside_is_finite(self, processor, far):
        points = run(processor, input_points=[[[far, 5]]])["input_points"]
        assert torch.isfinite(points).all()
        assert points[0, 0, 0, 0] == max(min(far * 2, 1e6), -1e6)

    def test_kinds_are_padded_together(self, processor):
        encoding = run(
            processor,
            [WIDE, TALL],
            input_points=[[[[1, 2]], None], None],
            input_boxes=[[None, [1, 2, 3, 4]], None],
            text=[None, ["cup", "plate", None]],
        )
        assert encoding["input_points"].shape == (2, 3, 1, 2) and encoding["input_boxes"].shape == (2, 3, 4)
        assert encoding["attention_mask"].any(-1).tolist() == [[False] * 3, [True, True, False]]

    @pytest.mark.parametrize("name", ["input_points", "input_boxes", "input_masks", "text"])
    @pytest.mark.parametrize("nothing", [[None], [[None]]], ids=str)
    def test_none_throughout_is_no_prompt(self, plain, name, nothing):
        assert set(run(plain, **{name: nothing})) == {"pixel_values", "original_sizes", "reshaped_input_sizes"}

    def test_scale_follows_the_size_of_the_call(self, processor):
        encoding = run(processor, input_points=[[[1, 2]]], size={"longest_edge": 32})
        assert encoding["reshaped_input_sizes"].tolist() == [[16, 32]]
        assert encoding["input_points"].tolist() == [[[[1, 2]]]]

    def test_prompts_without_pictures(self, processor):
        prompts = {"input_points": [[[1, 2]], [[3, 4]]], "input_masks": [np.ones((16, 32), bool), None]}
        whole = run(processor, [WIDE, TALL], **prompts)
        alone = run(processor, None, original_sizes=whole["original_sizes"], **prompts)
        assert set(whole) - set(alone) == {"pixel_values"}
        for name, value in alone.items():
            torch.testing.assert_close(value, whole[name], equal_nan=True)
        with pytest.raises(ValueError, match="original_sizes"):
            run(processor, WIDE, original_sizes=[(16, 32)])

    def test_arrays_without_return_tensors(self, processor):
        encoding = processor(WIDE, input_points=[[[1, 2]]], input_boxes=[[[1, 2, 3, 4]]])
        assert isinstance(encoding["input_points"], np.ndarray) and isinstance(encoding["input_boxes"], np.ndarray)


REFUSED = [
    ("6-points of 3 images", {"input_points": [[[1, 2]]] * 3}, ValueError, "input_points.*2 images, got 3"),
    ("6-points of 1 image", {"input_points": [[[1, 2], [3, 4]]]}, ValueError, "input_points.*2 images, got 1"),
    ("6-labels of 1 image", {"input_points": [[[1, 2]]] * 2, "input_labels": [[1]]}, ValueError, "labels.*got 1"),
    ("7-boxes of 3 images", {"input_boxes": [[[1, 2, 3, 4]]] * 3}, ValueError, "input_boxes.*2 images, got 3"),
    ("9-[]", {"input_points": []}, ValueError, "input_points"),
    ("9-[[]]", {"input_points": [[], []]}, ValueError, "input_points"),
    ("9-[[[]]]", {"input_points": [[[]], [[]]]}, ValueError, "input_points"),
    ("9-boxes []", {"input_boxes": [[], []]}, ValueError, "input_boxes"),
    ("9-labels []", {"input_points": [[[1, 2]]] * 2, "input_labels": [[], []]}, ValueError, "input_labels"),
    ("10-one coordinate", {"input_points": [[[1]], [[1]]]}, ValueError, r"input_points\[0\]\[0\]\[0\]: expected 2"),
    ("10-three coordinates", {"input_points": [[[1, 2]], [[1, 2, 3]]]}, ValueError, r"input_points\[1\]\[0\]\[0\]"),
    ("10-flat", {"input_points": [1, 2]}, ValueError, "input_points.*levels"),
    ("10-five levels", {"input_points": [[[[[1, 2]]]]] * 2}, ValueError, "input_points.*levels"),
    ("10-uneven levels", {"input_points": [[[1, 2]], [[[1, 2]]]]}, ValueError, "input_points.*levels"),
    ("11-text point", {"input_points": [[["a", 2]]] * 2}, TypeError, r"input_points\[0\]\[0\]\[0\]"),
    ("11-text", {"input_points": "here"}, TypeError, "input_points"),
    ("11-None point", {"input_points": [[[1, 2], None], [[1, 2]]]}, ValueError, r"input_points\[0\]\[0\]\[1\]"),
    ("11-None coordinate", {"input_points": [[[1, None]]] * 2}, ValueError, r"input_points\[0\]\[0\]\[0\]"),
    ("12-NaN", {"input_points": [[[1, 2]], [[1, NAN]]]}, ValueError, r"input_points\[1\]\[0\]\[0\].*finite"),
    ("12-inf", {"input_points": np.full((2, 1, 2), np.inf)}, ValueError, "input_points.*finite"),
    ("13-label 2", {"input_points": [[[1, 2]]] * 2, "input_labels": [[1], [2]]}, ValueError, r"labels\[1\]\[0\].*2"),
    ("13-label -5", {"input_points": [[[1, 2]]] * 2, "input_labels": [[-5], [1]]}, ValueError, "input_labels.*-5"),
    ("13-label 0.5", {"input_points": [[[1, 2]]] * 2, "input_labels": [[0.5], [1]]}, ValueError, "input_labels.*0.5"),
    ("13-label None", {"input_points": [[[1, 2]] * 2] * 2, "input_labels": [[1, None]] * 2}, ValueError, "None"),
    ("13-label text", {"input_points": [[[1, 2]]] * 2, "input_labels": [["a"], [1]]}, TypeError, "input_labels"),
    ("14-labels alone", {"input_labels": [[1], [1]]}, ValueError, "input_labels.*without input_points"),
    (
        "14-labels of an image without points",
        {"input_points": [[[1, 2]], None], "input_labels": [[1], [1]]},
        ValueError,
        r"input_labels\[1\]",
    ),
    ("15-too many labels", {"input_points": [[[1, 2]]] * 2, "input_labels": [[1, 1], [1]]}, ValueError, "expected 1"),
    ("15-too few labels", {"input_points": [[[1, 2]] * 2] * 2, "input_labels": [[1], [1]]}, ValueError, "expected 2"),
    (
        "15-labels of too many prompts",
        {"input_points": [[[1, 2]]] * 2, "input_labels": [[[1], [1]], [[1]]]},
        ValueError,
        r"input_labels\[0\].*1 prompts, got 2",
    ),
    ("16-three numbers", {"input_boxes": [[[1, 2, 3]]] * 2}, ValueError, r"input_boxes\[0\]\[0\]: expected 4"),
    ("16-flat", {"input_boxes": [1, 2, 3, 4]}, ValueError, "input_boxes.*levels"),
    ("16-two boxes of one prompt", {"input_boxes": [[[[1, 2, 3, 4]] * 2]] * 2}, ValueError, "one box per prompt"),
    ("17-reversed x", {"input_boxes": [[[1, 2, 3, 4]], [[9, 2, 3, 4]]]}, ValueError, r"boxes\[1\]\[0\].*x1 <= x2"),
    ("17-reversed y", {"input_boxes": [[[1, 9, 3, 4]]] * 2}, ValueError, r"input_boxes\[0\]\[0\]"),
    ("19-NaN", {"input_boxes": [[[1, 2, NAN, 4]]] * 2}, ValueError, "input_boxes.*finite"),
    ("19-None", {"input_boxes": [[[1, 2, None, 4]]] * 2}, ValueError, "input_boxes.*finite"),
    (
        "36-points 2 and boxes 3",
        {"input_points": [[[[1, 2]]] * 2] * 2, "input_boxes": [[[1, 2, 3, 4]] * 3] * 2},
        ValueError,
        "input_points and input_boxes.*image 0, got 2 and 3",
    ),
    ("36-boxes and text", {"input_boxes": [[[1, 2, 3, 4]] * 2] * 2, "text": ["a", "b"]}, ValueError, "boxes and text"),
    ("35-masks of 1 image", {"input_masks": [np.zeros((16, 32))]}, ValueError, "input_masks.*got 1"),
    ("35-wrong size", {"input_masks": [np.zeros((9, 9)), None]}, ValueError, r"masks\[0\].*\(16, 32\).*\(9, 9\)"),
    ("35-turned", {"input_masks": [np.zeros((32, 16)), None]}, ValueError, r"input_masks\[0\]"),
    ("35-channels", {"input_masks": [[np.zeros((3, 16, 32))], None]}, ValueError, r"input_masks\[0\]\[0\]"),
    ("35-a number", {"input_masks": 3}, TypeError, "input_masks"),
    ("35-text", {"input_masks": [["a"], None]}, TypeError, "input_masks"),
    ("35-empty", {"input_masks": [np.zeros((0, 4)), None]}, ValueError, "input_masks"),
    ("35-classes", {"input_masks": [np.full((16, 32), 3), None]}, ValueError, r"input_masks\[0\]\[0\].*binary"),
    ("35-probabilities", {"input_masks": [np.full((16, 32), 0.3), None]}, ValueError, "threshold"),
    ("35-some NaN", {"input_masks": [np.where(np.eye(32) > 0, NAN, 1.0), None]}, ValueError, "finite"),
    ("44-empty", {"text": ["a", ""]}, ValueError, r"text\[1\].*empty"),
    ("44-spaces", {"text": [["a", "  \t"], None]}, ValueError, r"text\[0\]\[1\].*empty"),
    ("46-lone surrogate", {"text": ["a\ud800", "b"]}, ValueError, r"text\[0\].*surrogate"),
    ("46-only NUL", {"text": ["\0", "b"]}, ValueError, r"text\[0\].*empty"),
    ("47-one text", {"text": "a"}, ValueError, "text.*2 images"),
    ("47-three texts", {"text": ["a", "b", "c"]}, ValueError, "text.*2, got 3"),
    ("47-bytes", {"text": [b"a", "b"]}, TypeError, r"text\[0\].*bytes"),
    ("47-a number", {"text": 5}, TypeError, "text"),
    ("63-unknown option", {"input_point": [[[1, 2]]]}, TypeError, "input_point"),
    ("twice", {"do_pad": True, "images_kwargs": {"do_pad": True}}, ValueError, "do_pad.*two times"),
]


@pytest.mark.parametrize(("prompts", "error", "message"), [pytest.param(*c[1:], id=c[0]) for c in REFUSED])
def test_what_cannot_be_meant_is_refused_by_name(processor, prompts, error, message):
    with pytest.raises(error, match=message):
        run(processor, [WIDE, TALL], **prompts)


class TestMasks:
    @pytest.mark.parametrize(
        "kind",
        ["bool", "uint8", "uint8 255", "float", "tensor", "pil 1", "pil L", "lists", "logits"],
    )
    def test_binary_masks_become_logits_in_the_images_frame(self, processor, kind):
        mask = np.zeros((16, 32), bool)
        mask[4:12, 8:16] = True
        given = {
            "bool": lambda: mask,
            "uint8": lambda: mask.astype(np.uint8),
            "uint8 255": lambda: mask.astype(np.uint8) * 255,
            "float": lambda: mask.astype(np.float64),
            "tensor": lambda: torch.from_numpy(mask).float().requires_grad_(),
            "pil 1": lambda: Image.fromarray(mask),
            "pil L": lambda: Image.fromarray(mask.astype(np.uint8) * 255),
            "lists": lambda: mask.tolist(),
            "logits": lambda: mask * 20.0 - 10.0,
        }[kind]()
        masks = run(processor, input_masks=[given])["input_masks"]
        assert masks.shape == (1, 1, 1, 32, 32) and masks.dtype == torch.float32
        # original (16,32) fills the upper half of the square: low-resolution px are original px
        assert torch.equal(masks[0, 0, 0, :16] > 0, torch.from_numpy(mask))
        assert masks[0, 0, 0, 6, 12] == 10 and masks[0, 0, 0, 16:].max() == -10
        assert masks.abs().max() <= 10.001

    def test_low_resolution_logits_stay_as_they_are(self, processor):
        logits = torch.randn(2, 3, 1, 32, 32) * 8
        for given in (logits, logits[:, :, 0], [list(image) for image in logits], logits.numpy()):
            assert torch.equal(run(processor, [WIDE, TALL], input_masks=given)["input_masks"], logits)
        one_each = run(processor, [WIDE, TALL], input_masks=logits[:, 0])["input_masks"]  # transformers' (B,1,4h,4w)
        assert torch.equal(one_each, logits[:, :1])

    def test_zero_logits_are_not_taken_for_a_binary_mask(self, processor):
        assert run(processor, input_masks=torch.zeros(1, 1, 32, 32))["input_masks"].abs().max() == 0

    def test_ragged_masks_are_filled_with_nan(self, processor):
        full = np.ones((16, 32), bool)
        masks = run(processor, [WIDE, TALL], input_masks=[[None, full], np.full((32, 32), np.nan)])["input_masks"]
        assert masks.shape == (2, 2, 1, 32, 32)
        assert masks.isnan().flatten(2).all(-1).tolist() == [[True, False], [True, True]]
        assert not masks[0, 1].isnan().any()

    def test_image_of_the_low_resolution_size(self, processor):
        square = np.zeros((32, 32, 3), np.uint8)
        mask = np.eye(32, dtype=np.float32)
        got = run(processor, square, input_masks=[mask])["input_masks"]
        assert torch.equal(got[0, 0, 0], torch.from_numpy(mask) * 20 - 10)

    def test_mask_back_and_forth(self, processor):
        """A mask as prompt, taken for the model's answer, comes back as itself."""
        mask = np.zeros((128, 100), bool)
        mask[40:90, 20:70] = True
        encoding = run(processor, TALL, input_masks=[mask])
        back = processor.post_process_masks(
            encoding["input_masks"], encoding["original_sizes"], encoding["reshaped_input_sizes"]
        )[0][0, 0].numpy()
        assert (back & mask).sum() / (back | mask).sum() > 0.95


class TestText:
    @pytest.mark.parametrize(
        ("images", "text", "shape"),
        [
            (WIDE, "a red mug", (1, 1)),
            (WIDE, ["a red mug"], (1, 1)),
            (WIDE, [["a", "b", "c"]], (1, 3)),
            ([WIDE, TALL], ["a", "b"], (2, 1)),
            ([WIDE, TALL], ("a", ("b", "c")), (2, 2)),
            ([WIDE, TALL], np.array(["a", "b"]), (2, 1)),
            ([WIDE, TALL], [None, ["b", None]], (2, 2)),
        ],
        ids=["string", "per image", "per prompt", "two images", "mixture", "array", "49-with and without"],
    )
    def test_nesting(self, processor, images, text, shape):
        encoding = run(processor, images, text=text)
        assert encoding["input_ids"].shape == encoding["attention_mask"].shape == (*shape, 16)
        assert encoding["input_ids"].dtype == torch.int64

    def test_rows_without_text_are_zero(self, processor):
        encoding = run(processor, [WIDE, TALL], text=[None, ["b", None]])
        assert encoding["attention_mask"].any(-1).tolist() == [[False, False], [True, False]]
        assert encoding["input_ids"][0].sum() == 0

    def test_44_none_is_no_text(self, processor):
        assert "input_ids" not in run(processor, text=None) and "input_ids" not in run(processor, text=[[None, None]])

    def test_45_long_text_is_cut_with_a_warning_that_quotes_it(self, processor):
        with pytest.warns(UserWarning, match=r"text\[0\]\[0\].*14 fit.*zebra") as caught:
            long = run(processor, text="a " * 14 + "zebra " * 9986)
        assert len(str(caught[0].message)) < 400
        assert torch.equal(long["input_ids"], run(processor, text="a " * 14)["input_ids"])

    def test_text_that_fits_gives_no_warning(self, processor):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            run(processor, text="a red mug")

    @pytest.mark.filterwarnings("ignore:.*was cut off")  # a cut vocabulary spells rare letters out
    @pytest.mark.parametrize("text", ["🐈 cat", "‏كوب أحمر", "a\0b", "é" * 5, "𝒳", "<b>&amp;</b>"], ids=ascii)
    def test_46_unusual_text_has_one_result(self, processor, text):
        first, second = run(processor, text=text), run(processor, text=text)
        assert first["attention_mask"].sum() >= 3 and torch.equal(first["input_ids"], second["input_ids"])

    def test_46_control_characters_are_spaces(self, processor):
        assert torch.equal(run(processor, text="a\0b\n")["input_ids"], run(processor, text="a b")["input_ids"])

    def test_50_text_for_a_checkpoint_without_text_is_refused(self, plain):
        with pytest.raises(ValueError, match="no text branch.*text_config"):
            run(plain, text="a red mug")
