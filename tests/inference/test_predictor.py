"""The predictor: Meta's calls, stateless calls, threads, precisions, and what is said about wrong input."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sam_hf import EmbeddingStore, SamPredictor

POINT = {"points": [[20.5, 10.0]], "labels": [1]}


def _image(seed: int, height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def predictor(text_checkpoint):
    return SamPredictor.from_pretrained(text_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def plain(plain_checkpoint):
    return SamPredictor.from_pretrained(plain_checkpoint, device="cpu")


@pytest.fixture
def encodings(predictor, monkeypatch):
    """Counts how often the image encoder runs."""
    calls = []
    encode = predictor.model.get_image_embeddings
    monkeypatch.setattr(predictor.model, "get_image_embeddings", lambda *args: calls.append(1) or encode(*args))
    return calls


def test_metas_calls_shapes_and_types(predictor):
    predictor.set_image(_image(0))
    assert predictor.is_image_set and predictor.original_size == (40, 60) and predictor.input_size == (43, 64)
    masks, scores, low = predictor.predict(np.array([[20, 10], [5, 5]]), np.array([1, 0]))
    assert masks.shape == (3, 40, 60) and masks.dtype == bool
    assert scores.shape == (3,) and scores.dtype == np.float32
    assert low.shape == (3, 32, 32) and low.dtype == np.float32
    best = int(scores.argmax())
    again = predictor.predict(box=np.array([2, 3, 40, 30]), mask_input=low[best][None], multimask_output=False)
    assert again.masks.shape == (1, 40, 60) and again.scores.shape == (1,)
    logits = predictor.predict(np.array([[20, 10]]), np.array([1]), return_logits=True).masks
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits > 0, predictor.predict(np.array([[20, 10]]), np.array([1])).masks)
    assert predictor.get_image_embedding().shape == (1, 16, 8, 8)


def test_equals_model_and_processor_called_by_hand(predictor):
    image = _image(1)
    with torch.inference_mode():
        inputs = predictor.processor(
            images=image,
            input_points=[[[[20.5, 10.0], [3.0, 4.0]]]],
            input_labels=[[[1, 0]]],
            input_boxes=[[[2.0, 3.0, 40.0, 30.0]]],
            text=[["red mug"]],
            return_tensors="pt",
        )
        output = predictor.model(**{name: value for name, value in inputs.items() if not name.endswith("sizes")})
        expected = predictor.processor.post_process_masks(
            output.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"], binarize=False
        )
    answer = predictor.decode(
        predictor.encode(image),
        points=np.array([[20.5, 10.0], [3.0, 4.0]]),
        labels=np.array([1, 0]),
        box=np.array([2.0, 3.0, 40.0, 30.0]),
        text="red mug",
        return_logits=True,
    )
    np.testing.assert_allclose(answer.masks, expected[0][0].numpy(), atol=1e-5)
    np.testing.assert_allclose(answer.low_res_logits, output.pred_masks[0, 0].numpy(), atol=1e-5)
    np.testing.assert_allclose(answer.scores, output.iou_scores[0, 0].numpy(), atol=1e-5)


def test_stateless_and_stateful_calls_agree(predictor):
    image = _image(2)
    predictor.set_image(image)
    stateful = predictor.predict(point_coords=POINT["points"], point_labels=POINT["labels"])
    stateless = predictor.decode(predictor.encode(image), **POINT)
    for one, other in zip(stateful, stateless, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_batch_equals_its_prompts_one_by_one(predictor):
    embedding = predictor.encode(_image(3))
    low = predictor.decode(embedding, **POINT).low_res_logits[:1]
    prompts = [
        {"points": [[20, 10]], "labels": [1]},
        {"points": [[5, 6], [30, 20]], "labels": [1, 0], "box": [2, 3, 40, 30]},
        {"text": "red mug"},
        {"points": [[50, 30]], "labels": [1], "mask_input": low, "text": "blue cup"},
    ]
    batch = predictor.decode_batch(
        embedding,
        points=[prompt.get("points") for prompt in prompts],
        labels=[prompt.get("labels") for prompt in prompts],
        boxes=[prompt.get("box") for prompt in prompts],
        mask_input=[prompt.get("mask_input") for prompt in prompts],
        text=[prompt.get("text") for prompt in prompts],
        return_logits=True,
    )
    assert batch.masks.shape == (4, 3, 40, 60)
    for index, prompt in enumerate(prompts):
        single = predictor.decode(embedding, **prompt, return_logits=True)
        np.testing.assert_allclose(batch.masks[index], single.masks, atol=1e-5)
        np.testing.assert_allclose(batch.scores[index], single.scores, atol=1e-5)


def test_many_boxes_are_decoded_in_parts_with_the_same_result(predictor, monkeypatch):
    boxes = np.random.default_rng(0).uniform(0, 30, (7, 4))
    boxes[:, 2:] += boxes[:, :2]
    predictor.set_image(_image(4))
    whole = predictor.predict_batch(boxes=boxes, multimask_output=False)
    monkeypatch.setattr("sam_hf.inference.predictor.PROMPTS_AT_ONCE", 3)
    parts = predictor.predict_batch(boxes=boxes, multimask_output=False)
    assert whole.masks.shape == (7, 1, 40, 60)
    np.testing.assert_allclose(whole.low_res_logits, parts.low_res_logits, atol=1e-5)


def test_a_known_image_is_never_encoded_again(predictor, encodings):
    image = _image(5)
    first = predictor.encode(image)
    for click in ([1, 1], [20, 20], [59, 39]):
        predictor.set_image(image)
        predictor.predict(np.array([click]), np.array([1]))
    assert predictor.encode(Image.fromarray(image)) == first
    assert predictor.encode(image[..., ::-1], image_format="BGR") == first
    assert len(encodings) == 1
    assert predictor.encode(_image(6)) != first
    assert len(encodings) == 2


def test_the_same_pixels_of_another_shape_are_another_image(predictor):
    flat = np.zeros((40, 60, 3), dtype=np.uint8)
    assert predictor.encode(flat) != predictor.encode(flat.reshape(60, 40, 3))


def test_changed_weights_are_noticed(text_checkpoint):
    predictor = SamPredictor.from_pretrained(text_checkpoint, device="cpu")
    before, revision = predictor.encode(_image(7)), predictor.revision
    phrase = predictor.decode(before, text="red mug").low_res_logits
    with torch.no_grad():
        predictor.model.prompt_encoder.text_projection.bias.add_(1)
    assert not np.array_equal(predictor.decode(before, text="red mug").low_res_logits, phrase)
    with torch.no_grad():
        predictor.model.prompt_encoder.text_projection.bias.add_(1)
    assert not np.array_equal(predictor.decode(before, text="red mug").low_res_logits, phrase)
    with torch.no_grad():
        predictor.model.vision_encoder.neck.conv1.weight.mul_(2)
    after = predictor.encode(_image(7))
    assert predictor.revision != revision and after != before
    assert not torch.equal(after.tensor, before.tensor)
    with pytest.raises(ValueError, match="other encoder weights"):
        predictor.decode(before, text="red mug")


def test_equal_weights_share_embeddings_and_precisions_do_not(text_checkpoint):
    store = EmbeddingStore()
    one, two = (SamPredictor.from_pretrained(text_checkpoint, device="cpu", store=store) for _ in range(2))
    half = SamPredictor.from_pretrained(text_checkpoint, device="cpu", dtype="bfloat16", store=store)
    assert one.encode(_image(8)) is two.encode(_image(8))
    assert half.encode(_image(8)) != one.encode(_image(8))


def test_embeddings_cannot_be_changed(predictor):
    embedding = predictor.encode(_image(9))
    with pytest.raises(AttributeError):
        embedding.key = "other"
    with pytest.raises(RuntimeError, match="[Ii]nference"):
        embedding.tensor.mul_(2)


def test_phrases_are_embedded_once(predictor, monkeypatch):
    calls = []
    embed = predictor.model.get_text_embeds

    def counted(input_ids, attention_mask):
        calls.append(input_ids.shape[1])
        return embed(input_ids, attention_mask)

    monkeypatch.setattr(predictor.model, "get_text_embeds", counted)
    embedding = predictor.encode(_image(10))
    first = predictor.decode(embedding, text="a phrase not asked before")
    again = predictor.decode_batch(embedding, text=["a phrase not asked before", "another new one", "another new one"])
    assert calls == [1, 1]
    np.testing.assert_allclose(again.low_res_logits[0], first.low_res_logits, atol=1e-5)
    np.testing.assert_array_equal(again.low_res_logits[1], again.low_res_logits[2])
    assert not np.array_equal(again.low_res_logits[0], again.low_res_logits[1])


def test_six_threads_one_predictor(predictor):
    images = [_image(20 + number) for number in range(6)]
    points = [[[5.0 * number, 6.0 * number]] for number in range(6)]
    serial = [predictor.decode(predictor.encode(images[n]), points=points[n], labels=[1]) for n in range(6)]
    predictor.store.clear()

    def stateless(number):
        return predictor.decode(predictor.encode(images[number]), points=points[number], labels=[1])

    def stateful(number):
        predictor.set_image(images[number])
        return predictor.predict(np.array(points[number]), np.array([1]))

    with ThreadPoolExecutor(6) as pool:
        numbers = [number for _ in range(4) for number in range(6)]
        answers = list(pool.map(stateless, numbers)) + list(pool.map(stateful, numbers))
    for number, answer in zip(numbers * 2, answers, strict=True):
        np.testing.assert_allclose(answer.low_res_logits, serial[number].low_res_logits, atol=1e-5)


def test_the_image_belongs_to_its_thread(predictor):
    predictor.set_image(_image(11))
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: predictor.is_image_set).result() is False
        with pytest.raises(RuntimeError, match=r"call set_image\(image\) first"):
            pool.submit(predictor.predict, [[1, 1]], [1]).result()
        pool.submit(predictor.set_image, _image(12, 30, 30)).result()
    assert predictor.original_size == (40, 60)
    predictor.reset_image()
    assert not predictor.is_image_set
    with pytest.raises(RuntimeError, match="no image is set"):
        predictor.predict(np.array([[1, 1]]), np.array([1]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, "float16"])
def test_half_precision_gives_float32_answers(text_checkpoint, predictor, dtype):
    half = SamPredictor.from_pretrained(text_checkpoint, device="cpu", dtype=dtype)
    embedding = half.encode(_image(13))
    assert embedding.dtype == half.dtype != torch.float32
    answer = half.decode(embedding, **POINT, box=[1, 2, 30, 40], text="red mug", return_logits=True)
    exact = predictor.decode(
        predictor.encode(_image(13)), **POINT, box=[1, 2, 30, 40], text="red mug", return_logits=True
    )
    assert {values.dtype for values in answer} == {np.dtype(np.float32)}
    assert np.abs(answer.masks - exact.masks).max() < 0.1 * np.abs(exact.masks).max()


def test_points_outside_the_image_are_answered(predictor):
    answer = predictor.decode(predictor.encode(_image(14)), points=[[-500.0, 1e7]], labels=[1], return_logits=True)
    assert np.isfinite(answer.masks).all()


def test_a_mask_in_original_pixels_is_a_prompt(predictor):
    embedding = predictor.encode(_image(15))
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:30, 20:40] = True
    answer = predictor.decode(embedding, mask_input=mask)
    other = predictor.decode(embedding, mask_input=~mask)
    assert answer.masks.shape == (3, 40, 60)
    assert not np.array_equal(answer.low_res_logits, other.low_res_logits)


def test_callers_arrays_stay_as_they_are(predictor):
    points, box, image = np.array([[20.0, 10.0]]), np.array([1.0, 2.0, 30.0, 40.0]), _image(16)
    copies = points.copy(), box.copy(), image.copy()
    predictor.decode(predictor.encode(image), points=points, box=box)
    for now, before in zip((points, box, image), copies, strict=True):
        np.testing.assert_array_equal(now, before)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({}, "at least one prompt"),
        ({"labels": [1]}, "at least one prompt"),
        ({"points": [[1, 2, 3]], "labels": [1]}, r"points\[0\]\[0\]: expected 2 coordinates"),
        ({"points": [[1, np.nan]], "labels": [1]}, "points.*finite"),
        ({"points": [[1, 2]], "labels": [1, 0]}, "labels.*expected 1 labels"),
        ({"points": [[1, 2]], "labels": [7]}, "labels.*foreground"),
        ({"box": [1, 2, 3]}, "boxes.*4 coordinates"),
        ({"box": [30, 2, 3, 4]}, "boxes.*x1 <= x2"),
        ({"mask_input": np.zeros((1, 7, 7), dtype=np.float32)}, r"mask_input.*\(32, 32\)"),
        ({"text": "  "}, "text.*empty"),
    ],
)
def test_wrong_prompts_are_named(predictor, prompt, message):
    with pytest.raises(ValueError, match=message):
        predictor.decode(predictor.encode(_image(17)), **prompt)


def test_text_without_a_text_branch_is_refused(plain):
    with pytest.raises(ValueError, match="text: this checkpoint has no text branch"):
        plain.decode(plain.encode(_image(18)), text="red mug")
    assert plain.decode(plain.encode(_image(18)), **POINT).masks.shape == (3, 40, 60)


def test_wrong_arguments_are_named(predictor, text_checkpoint):
    with pytest.raises(TypeError, match="embedding must be an ImageEmbedding"):
        predictor.decode(_image(0), **POINT)
    with pytest.raises(ValueError, match="image_format"):
        predictor.encode(_image(0), image_format="HSV")
    with pytest.raises(ValueError, match="device must be"):
        SamPredictor.from_pretrained(text_checkpoint, device="abacus")
    with pytest.raises(ValueError, match="dtype must be"):
        SamPredictor.from_pretrained(text_checkpoint, dtype="int8")


def test_a_pickle_is_not_loaded(tmp_path, plain_checkpoint):
    for file in plain_checkpoint.iterdir():
        if file.suffix == ".json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save({"weights": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        SamPredictor.from_pretrained(tmp_path, device="cpu")


def test_missing_weights_are_not_made_up(tmp_path, plain_checkpoint):
    shutil.copytree(plain_checkpoint, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("mask_decoder.iou_token.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 weights.*'mask_decoder.iou_token.weight'"):
        SamPredictor.from_pretrained(tmp_path, device="cpu")


@pytest.mark.gpu
def test_on_a_gpu_as_on_the_cpu(text_checkpoint, predictor):
    gpu = SamPredictor.from_pretrained(text_checkpoint, device="cuda")
    answer = gpu.decode(gpu.encode(_image(19)), **POINT, text="red mug")
    expected = predictor.decode(predictor.encode(_image(19)), **POINT, text="red mug")
    np.testing.assert_allclose(answer.low_res_logits, expected.low_res_logits, atol=1e-3)
