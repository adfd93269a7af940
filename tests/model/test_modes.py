"""Ways to run the model: training, checkpointing, attention kernels, half precision, devices, threads, copies."""

import copy
import logging
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sam_hf import SamModel

ALL = ["points", "boxes", "masks", "text"]
ENCODERS = pytest.mark.parametrize("tiny_vit", [False, True], ids=["ViT", "TinyViT"])


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(2, 3, 72, 72, generator=torch.Generator().manual_seed(5))


def token_ids(batch=2, prompts=3):
    return torch.randint(1, 600, (batch, prompts, 12), generator=torch.Generator().manual_seed(0))


def gradients_of(model, pixels, prompts):
    """Gradients of a multimask call with all prompts and a single-mask call with none but points."""
    model.zero_grad()
    many = model(pixels, **prompts)
    few = model(pixels, input_points=prompts["input_points"][:, :1], multimask_output=False)
    for output in (many, few):
        (output.pred_masks.square().mean() + output.iou_scores.square().mean()).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def prompts_for_training(model, make_prompts):
    """All kinds, some absent, so that the "no mask" and "not a point" embeddings take part."""
    prompts = make_prompts(model.config, ALL[: 4 if model.config.text_config else 3])
    prompts["input_masks"][:, 1] = float("nan")
    prompts["input_boxes"][:, 1] = -10
    if model.config.text_config:
        del prompts["text_embeds"]
        prompts["input_ids"] = token_ids()
    return prompts


@ENCODERS
@pytest.mark.parametrize("text", [None, True], ids=["no text", "text"])
def test_every_parameter_learns(tiny_vit, text, make_model, make_prompts, pixels):
    model = make_model(tiny_vit=tiny_vit, text=text).train()
    for name, gradient in gradients_of(model, pixels, prompts_for_training(model, make_prompts)).items():
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
        assert gradient.any(), name


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")  # renamed in 5.2x, absent in 5.10
@ENCODERS
def test_gradient_checkpointing_changes_no_gradient(tiny_vit, make_model, make_prompts, pixels):
    model = make_model(tiny_vit=tiny_vit, text=True).train()
    for module in model.modules():  # recomputation would count a batch twice in the running statistics
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    prompts = prompts_for_training(model, make_prompts)
    expected = gradients_of(model, pixels, prompts)
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing and model.prompt_encoder.text_encoder.transformer.grad_checkpointing
    got = gradients_of(model, pixels, prompts)
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, msg=name)
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing
    assert not model.prompt_encoder.text_encoder.transformer.grad_checkpointing


@torch.no_grad()
@ENCODERS
def test_dropout_and_drop_path_work_in_training_only(tiny_vit, make_model, make_prompts, pixels):
    rates = {"drop_path_rate": 0.5} | ({} if tiny_vit else {"attention_dropout": 0.3})
    model = make_model(tiny_vit=tiny_vit, vision=rates, decoder={"dropout": 0.3})
    plain = make_model(tiny_vit=tiny_vit)
    prompts = make_prompts(model.config, ["points"])
    torch.testing.assert_close(model(pixels, **prompts).pred_masks, plain(pixels, **prompts).pred_masks)
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    embeddings = model.get_image_embeddings(pixels)
    again = [model.get_image_embeddings(pixels) for _ in range(20)]  # few paths: one draw may be as the one before
    assert not all(torch.allclose(embeddings, other) for other in again)  # drop path
    first, second = (model(image_embeddings=embeddings, **prompts).pred_masks for _ in range(2))
    assert not torch.allclose(first, second)  # dropout in the decoder


def test_drop_path_drops_whole_images():
    from sam_hf.model.layers import DropPath

    torch.manual_seed(0)
    out = DropPath(0.25).train()(torch.ones(400, 3, 2))
    kept = out[:, 0, 0] > 0
    assert torch.equal(out, torch.where(kept, 4 / 3, 0.0)[:, None, None].expand_as(out))
    assert 0.65 < kept.float().mean() < 0.85


@torch.no_grad()
@ENCODERS
def test_attention_is_switched_everywhere_without_a_word(
    tiny_vit, make_model, make_prompts, pixels, caplog, monkeypatch
):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    model = make_model(tiny_vit=tiny_vit)
    prompts = make_prompts(model.config, ["points", "boxes"])
    calls = []
    fused = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or fused(*a, **k)
    )
    model.set_attn_implementation("eager")
    expected = model(pixels, **prompts).pred_masks
    assert not calls
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(model(pixels, **prompts).pred_masks, expected, atol=1e-5, rtol=1e-4)
    everywhere = len(calls)
    model.set_attn_implementation({"vision_config": "eager"})
    calls.clear()
    model(pixels, **prompts)
    assert 0 < len(calls) < everywhere  # the decoder's
    calls.clear()
    with torch.enable_grad():  # without gradients the decoder takes other ways
        model(pixels, **prompts)
    assert len(calls) == 7  # three in each of two blocks, and the final one
    model.vision_encoder.set_attn_implementation("sdpa")
    calls.clear()
    model(pixels, **prompts)
    assert len(calls) == everywhere
    assert not caplog.records
    for wrong in ("flash_attention_2", "nonsense", {"decoder": "eager"}):
        with pytest.raises(ValueError):
            model.set_attn_implementation(wrong)


@torch.no_grad()
@ENCODERS
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_with_any_input_dtype(dtype, attention, tiny_vit, make_model, make_prompts, deviation, pixels):
    model = make_model(tiny_vit=tiny_vit, text=True)
    prompts = make_prompts(model.config, ALL, points=3)
    prompts["input_labels"][:, 0, 1:] = -10
    prompts["input_masks"][:, 1] = float("nan")
    extras = {"target_embedding": torch.ones(1, 1, 16), "attention_similarity": torch.ones(1, 1, 1, 81)}
    expected = model(pixels, **prompts, **extras)
    model.set_attn_implementation(attention)
    half = copy.deepcopy(model).to(dtype)
    tolerance = 0.05 if dtype is torch.float16 else 0.2
    for given in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        if given == torch.bfloat16 != dtype:
            continue  # coordinates in bfloat16 lose their pixel: another question
        inputs = {name: value.to(given) if value.is_floating_point() else value for name, value in prompts.items()}
        output = half(pixels.to(given), **inputs, **{name: value.to(given) for name, value in extras.items()})
        assert output.pred_masks.dtype == output.iou_scores.dtype == dtype
        coarse = 4 if given == torch.bfloat16 else 1
        assert deviation(output.pred_masks.float(), expected.pred_masks) < tolerance * coarse
        embeddings = half.get_image_embeddings(pixels.to(given)).to(given)
        assert half(image_embeddings=embeddings, **inputs).pred_masks.isfinite().all()


@torch.no_grad()
def test_autocast(make_model, make_prompts, deviation, pixels):
    model = make_model(text=True)
    prompts = make_prompts(model.config, ALL)
    expected = model(pixels, **prompts).pred_masks
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert deviation(model(pixels, **prompts).pred_masks.float(), expected) < 0.2


@ENCODERS
def test_built_on_meta_and_loaded_by_accelerate(tiny_vit, make_model, make_config, make_prompts, pixels, tmp_path):
    with torch.device("meta"):
        empty = SamModel(make_config(tiny_vit=tiny_vit, text=True))
    assert {parameter.device.type for parameter in empty.parameters()} == {"meta"}
    model = make_model(tiny_vit=tiny_vit, text=True)
    model.save_pretrained(tmp_path)
    prompts = make_prompts(model.config, ALL)
    expected = model(pixels, **prompts).pred_masks
    parts = {"shared_image_embedding": "cpu", "prompt_encoder": "cpu", "mask_decoder": "cpu", "vision_encoder": "disk"}
    for options in (
        {"device_map": "auto"},
        {"device_map": "auto", "dtype": torch.bfloat16},
        {"device_map": parts, "offload_folder": tmp_path / "offload"},
    ):
        loaded = SamModel.from_pretrained(tmp_path, **options)
        assert not loaded.training
        output = loaded(pixels, **prompts).pred_masks
        if "dtype" not in options:
            torch.testing.assert_close(output, expected)
        assert output.dtype == loaded.dtype and output.isfinite().all()


@ENCODERS
def test_requests_in_six_threads_equal_serial_ones(tiny_vit, make_model, make_prompts, pixels):
    model = make_model(tiny_vit=tiny_vit, text=True)

    def answer(seed):
        prompts = make_prompts(model.config, ALL[: 1 + seed % 4], seed=seed)
        asked = {"output_hidden_states": True, "output_attentions": True} if seed % 3 == 0 else {}
        with torch.inference_mode():
            output = model(pixels + seed, **prompts, **asked, multimask_output=bool(seed % 2))
        assert (output.vision_hidden_states is not None) == bool(asked)
        return output.pred_masks

    serial = [answer(seed) for seed in range(18)]
    with ThreadPoolExecutor(6) as pool:
        for got, expected in zip(pool.map(answer, range(18)), serial, strict=True):
            assert torch.equal(got, expected)


@torch.no_grad()
@ENCODERS
def test_copies_answer_alike(tiny_vit, make_model, make_prompts, pixels):
    model = make_model(tiny_vit=tiny_vit, text=True)
    prompts = make_prompts(model.config, ALL)
    unpickled = pickle.loads(pickle.dumps(model))
    expected = model(pixels, **prompts, output_hidden_states=True).pred_masks
    for twin in (copy.deepcopy(model), unpickled):
        assert torch.equal(twin(pixels, **prompts).pred_masks, expected)
        assert twin.prompt_encoder.shared_embedding.positional_embedding is (
            twin.shared_image_embedding.positional_embedding
        )


def test_nothing_is_no_grad_and_inputs_stay_as_they_are(make_model, make_prompts, pixels):
    model = make_model(text=True)
    prompts = make_prompts(model.config, ALL)
    before = copy.deepcopy(prompts)
    assert model.get_image_embeddings(pixels).requires_grad
    assert model.get_text_embeds(token_ids()).requires_grad
    assert all(part.requires_grad for part in model.get_prompt_embeddings(**prompts))
    model(pixels, **prompts)
    for name, value in before.items():
        assert torch.equal(value, prompts[name])


@ENCODERS
def test_fresh_weights(tiny_vit, make_config):
    """Learned tokens and types of unit variance, linear maps of the configured spread, norms one, positions zero."""
    torch.manual_seed(0)
    config = make_config(tiny_vit=tiny_vit, vision={"initializer_range": 0.05}, initializer_range=0.03)
    model = SamModel(config)
    tokens = [model.mask_decoder.mask_tokens, model.prompt_encoder.no_mask_embed, *model.prompt_encoder.point_embed]
    assert 0.7 < torch.cat([token.weight.flatten() for token in tokens]).std() < 1.3
    assert 0.025 < model.mask_decoder.transformer.layers[0].mlp.lin1.weight.std() < 0.035
    assert 0.04 < model.vision_encoder.neck.conv2.weight.std() < 0.06
    assert 0.4 < model.shared_image_embedding.positional_embedding.std() < 1.6
    for name, parameter in model.named_parameters():
        if "norm" in name and name.endswith("weight"):
            assert (parameter == 1).all(), name
        if any(kind in name for kind in ("rel_pos", "pos_embed", "attention_biases")) or name.endswith(".bias"):
            assert not parameter.any(), name
