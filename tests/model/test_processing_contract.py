"""`SamProcessor` as a whole: saved and loaded, beside transformers' own, in front of the model, in threads.

Numbers at the start of test ids are the cases of the list of bad inputs.
"""

import copy
import json
import math
import threading

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from PIL import Image

from sam_hf.model.image_processing_sam import SamImageProcessor, SamImageProcessorPil
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


@pytest.fixture(scope="module")
def processor():
    return SamProcessor(SamImageProcessor(**SIZES), text_config=TEXT)


@pytest.fixture(scope="module")
def plain():
    return SamProcessor(SamImageProcessor(**SIZES))


def run(processor, images=WIDE, **prompts):
    return processor(images, return_tensors="pt", **prompts)


class TestSaving:
    def test_text_settings_come_back(self, processor, tmp_path):
        processor.save_pretrained(tmp_path)
        loaded = SamProcessor.from_pretrained(tmp_path)
        assert loaded.text_config == TEXT and type(loaded.image_processor) is SamImageProcessor
        assert loaded.to_dict() == processor.to_dict()
        assert torch.equal(run(loaded, text="a mug")["input_ids"], run(processor, text="a mug")["input_ids"])

    def test_without_text_the_file_is_transformers_own(self, plain, tmp_path):
        stock = transformers.SamProcessor(transformers.SamImageProcessor(**SIZES))
        stock.save_pretrained(tmp_path / "stock")
        plain.save_pretrained(tmp_path / "ours")
        texts = [(tmp_path / who / "processor_config.json").read_text() for who in ("ours", "stock")]
        assert json.loads(texts[0]) == json.loads(texts[1])
        loaded = transformers.SamProcessor.from_pretrained(tmp_path / "ours")
        assert loaded.image_processor.to_dict() == stock.image_processor.to_dict()
        assert SamProcessor.from_pretrained(tmp_path / "stock").to_dict() == plain.to_dict()

    def test_folder_with_only_the_image_processor(self, tmp_path):
        transformers.SamImageProcessor(**SIZES).save_pretrained(tmp_path)  # as facebook/sam-vit-* have it
        loaded = SamProcessor.from_pretrained(tmp_path, do_normalize=False)
        assert loaded.target_size == 64 and loaded.image_processor.do_normalize is False

    def test_backend(self, plain, tmp_path):
        plain.save_pretrained(tmp_path)
        assert type(SamProcessor.from_pretrained(tmp_path, backend="pil").image_processor) is SamImageProcessorPil
        with pytest.raises(ValueError, match="backend"):
            SamProcessor.from_pretrained(tmp_path, backend="cv2")

    def test_embedded_name_is_resolved(self, plain, tmp_path, monkeypatch):
        from sam_hf.model import checkpoint_names

        plain.save_pretrained(tmp_path)
        SamImageProcessor(**SIZES).save_pretrained(tmp_path)
        monkeypatch.setattr(checkpoint_names, "EMBEDDED_FOLDER", tmp_path)
        assert SamProcessor.from_pretrained("tiny").target_size == 64
        assert SamImageProcessor.from_pretrained("tiny").to_dict() == SamImageProcessor(**SIZES).to_dict()
        assert SamImageProcessorPil.from_pretrained("tiny").pad_size["height"] == 64


class TestContract:
    CALLS = {
        "picture": {},
        "point": {"input_points": [[[4, 6]]]},
        "points and labels": {"input_points": [[[4, 6], [8, 9]]], "input_labels": [[1, 0]]},
        "point and box": {"input_points": [[[4, 6]]], "input_labels": [[0]], "input_boxes": [[[1, 2, 13, 14]]]},
        "prompts": {"input_points": torch.tensor([[[[4.0, 6]], [[3, 4]]]])},
        "boxes of four levels": {"input_boxes": torch.tensor([[[[1.0, 2, 13, 14]], [[0, 0, 3, 3]]]])},
        "map": {"segmentation_maps": np.eye(16, 32, dtype=np.int64)},
        "old way": {"images_kwargs": {"input_points": [[[4, 6]]], "return_tensors": "pt"}},
        "options": {"do_normalize": False, "point_pad_value": -10},
    }

    @pytest.mark.parametrize("call", CALLS)
    def test_results_equal_transformers(self, plain, call):
        stock = transformers.SamProcessor(transformers.SamImageProcessor(**SIZES))
        options = {"return_tensors": "pt"} if call != "old way" else {}
        got = plain(WIDE, **options, **copy.deepcopy(self.CALLS[call]))
        expected = stock(WIDE, **options, **copy.deepcopy(self.CALLS[call]))
        for name in expected:
            torch.testing.assert_close(got[name], expected[name].to(got[name].dtype), rtol=0, atol=1e-5)
        assert set(got) - set(expected) <= {"input_labels"}

    def test_class_attributes(self, plain):
        stock = transformers.SamProcessor(transformers.SamImageProcessor(**SIZES))
        assert plain.model_input_names == stock.model_input_names
        assert plain.target_size == stock.target_size and plain.point_pad_value == -10
        assert SamProcessor.get_attributes() == ["image_processor"]

    def test_halves_mix_with_transformers(self, plain):
        ours = run(plain, input_points=[[[4, 6]]])
        for mixed in (
            SamProcessor(transformers.SamImageProcessor(**SIZES)),
            transformers.SamProcessor(SamImageProcessor(**SIZES)),
        ):
            got = run(mixed, input_points=[[[4, 6]]])
            assert torch.equal(got["pixel_values"], ours["pixel_values"])
            assert torch.equal(got["input_points"].float(), ours["input_points"])

    def test_stock_pipeline_gives_the_same_masks(self, plain_checkpoint):
        model = transformers.SamModel.from_pretrained(plain_checkpoint)
        layers = int(Version(transformers.__version__) >= Version("5.23"))  # crops fail in older releases
        options = {"points_per_crop": 3, "pred_iou_thresh": -9.0, "stability_score_thresh": 0.0}
        found = []
        for images in (SamImageProcessor(**SIZES), transformers.SamImageProcessor(**SIZES)):
            pipe = transformers.pipeline("mask-generation", model=model, image_processor=images)
            found.append(pipe(TALL, output_rle_mask=True, crops_n_layers=layers, **options))
        assert found[0]["rle_mask"] == found[1]["rle_mask"] and len(found[0]["rle_mask"]) > 0
        assert torch.equal(found[0]["scores"], found[1]["scores"])


@pytest.fixture(scope="module")
def pair(text_checkpoint):
    from sam_hf.model.modeling_sam import SamModel

    return SamProcessor.from_pretrained(text_checkpoint), SamModel.from_pretrained(text_checkpoint).eval()


class TestWithTheModel:
    PROMPTS = [
        {"input_points": [[[[4, 6], [8, 9], [1, 1]], [[20, 8]]]], "input_labels": [[[1, 0, 1], [1]]]},
        {"input_points": [[[[50, 60]]]], "input_boxes": [[[10, 20, 50, 90]]], "text": [["a red mug"]]},
    ]

    @staticmethod
    def answer(pair, images, **prompts):
        processor, model = pair
        with torch.no_grad():
            output = model(**run(processor, images, **prompts))
        return output.pred_masks, output.iou_scores

    def test_5_41_49_a_ragged_batch_equals_its_images_one_by_one(self, pair):
        together = {
            name: [entry.get(name, [None])[0] for entry in self.PROMPTS]
            for name in ("input_points", "input_labels", "input_boxes", "text")
        }
        masks, scores = self.answer(pair, [WIDE, TALL], **together)
        for index, image in enumerate((WIDE, TALL)):
            alone_masks, alone_scores = self.answer(pair, image, **self.PROMPTS[index])
            count = alone_masks.shape[1]
            torch.testing.assert_close(masks[index : index + 1, :count], alone_masks, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(scores[index : index + 1, :count], alone_scores, rtol=1e-4, atol=1e-4)

    def test_40_48_all_kinds_in_one_call_equal_one_call_each(self, pair):
        mask = np.zeros((16, 32), bool)
        mask[2:9, 3:20] = True
        prompts = {
            "input_points": [[[[4, 6]], None, None, [[3, 3], [9, 9]]]],
            "input_boxes": [[None, [1, 2, 13, 14], None, [0, 0, 9, 9]]],
            "input_masks": [[None, None, mask, mask]],
            "text": [[None, "a red mug", None, "plate"]],
        }
        masks, scores = self.answer(pair, WIDE, **prompts)
        assert masks.shape[:2] == (1, 4) and torch.isfinite(masks).all() and math.isfinite(scores.sum())
        for p in range(4):
            single = {name: [[value[0][p]]] for name, value in prompts.items() if value[0][p] is not None}
            alone = self.answer(pair, WIDE, **single)
            torch.testing.assert_close(masks[:, p : p + 1], alone[0], rtol=1e-4, atol=1e-4)

    def test_42_six_threads_one_processor(self, pair):
        expected = [run(pair[0], image, text="a mug", input_points=[[[1, 2]]]) for image in (WIDE, TALL)]
        wrong = []

        def work(index):
            for _ in range(5):
                got = run(pair[0], (WIDE, TALL)[index % 2], text="a mug", input_points=[[[1, 2]]])
                if not all(torch.equal(got[name], expected[index % 2][name]) for name in got):
                    wrong.append(index)

        threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert not wrong
