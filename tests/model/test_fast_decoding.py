"""The decoder without gradients is the plain one: the same numbers for every mix of prompts, where it is allowed."""

import copy
import itertools

import pytest
import torch
from torch import nn

from sam_hf.model import few_token_attention, mask_upscaling, modeling_sam
from sam_hf.model.fast_decoding import FastMaskDecoder
from sam_hf.model.stand_in import can_stand_in

EXACT = 1e-5  # of the range of the values compared: float32 rounding, no more
IOU_RANGE = 1.0
WIDE = {"output_channels": 64, "num_pos_feats": 32}  # wide enough for few tokens to be the cheaper side
KINDS = ("points", "boxes", "masks", "text")
MIXTURES = [mixture for count in range(5) for mixture in itertools.combinations(KINDS, count)]


@pytest.fixture(scope="module")
def model(make_model):
    return make_model(vision=WIDE, text=True)


@pytest.fixture(scope="module")
def embeddings():
    return torch.randn(2, 64, 9, 9, generator=torch.Generator().manual_seed(7))


@pytest.fixture(params=[2, 0.4], ids=["two prompts at once", "parts of a prompt at once"])
def small_steps(monkeypatch, request):
    """Every loop over prompts, or over parts of a map, goes round more than once."""
    monkeypatch.setattr(few_token_attention, "_CACHED_BYTES", int(request.param * 9 * 9 * 64 * 4))


def plain(model, monkeypatch, **inputs):
    """The answer of the decoder as it is written in the paper's order."""
    with monkeypatch.context() as patch:
        patch.setattr(modeling_sam, "can_stand_in", lambda model: False)
        return model(**inputs)


def expect_equal(model, monkeypatch, deviation, tolerance=EXACT, **inputs):
    assert can_stand_in(model)
    fast, expected = model(**inputs), plain(model, monkeypatch, **inputs)
    assert fast.pred_masks.dtype == expected.pred_masks.dtype
    assert fast.pred_masks.is_contiguous()
    assert deviation(fast.pred_masks.float(), expected.pred_masks.float()) < tolerance
    assert deviation(fast.iou_scores.float(), expected.iou_scores.float(), IOU_RANGE) < tolerance
    return fast


def expect_plain(model, monkeypatch, **inputs):
    """The fast decoder must not be asked."""
    with monkeypatch.context() as patch:
        patch.setattr(FastMaskDecoder, "decode", lambda *args, **kwargs: pytest.fail("the fast decoder stood in"))
        return model(**inputs)


@torch.no_grad()
@pytest.mark.parametrize("prompts", [1, 5])
@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("kinds", MIXTURES, ids=lambda kinds: "+".join(kinds) or "nothing")
def test_every_mixture(
    kinds, multimask, prompts, model, embeddings, make_prompts, monkeypatch, deviation, small_steps
):
    asked = make_prompts(model.config, kinds, prompts=prompts)
    inputs = {"image_embeddings": embeddings, "multimask_output": multimask} | asked
    expect_equal(model, monkeypatch, deviation, **inputs)


@torch.no_grad()
@pytest.mark.parametrize("points", [1, 3, 30])  # T = 5 + points + 2 + 1: few tokens up to 20 at these widths
@pytest.mark.parametrize("with_masks", [None, "shared", "per prompt"])
def test_ragged_prompts(with_masks, points, model, embeddings, make_prompts, monkeypatch, deviation, small_steps):
    kinds = ["points", "boxes", "text"] + (["masks"] if with_masks else [])
    prompts = make_prompts(model.config, kinds, prompts=7, points=points, mask_per_prompt=with_masks == "per prompt")
    prompts["input_labels"][:, ::2, points // 2 :] = -10
    prompts["input_labels"][:, 1::3, 0] = -1
    prompts["input_boxes"][0, 1:4] = -10
    prompts["text_embeds"][1, ::3] = float("nan")
    if with_masks:
        prompts["input_masks"][0, 0] = float("nan")
    expect_equal(model, monkeypatch, deviation, image_embeddings=embeddings, **prompts)


def test_both_orders_of_multiplication_were_tested(model):
    attention = model.mask_decoder.transformer.final_attn_token_to_image
    assert few_token_attention.has_few_tokens(attention, 5 + 3 + 2 + 1)
    assert not few_token_attention.has_few_tokens(attention, 5 + 30 + 2 + 1)


def test_few_tokens_at_real_size(make_config):
    """perf.md's count for SAM: 256 channels, 128 inside, 8 heads."""
    from sam_hf import SamConfig
    from sam_hf.model.two_way_transformer import SamAttention

    with torch.device("meta"):
        attention = SamAttention(SamConfig().mask_decoder_config)
    assert few_token_attention.has_few_tokens(attention, 17)
    assert not few_token_attention.has_few_tokens(attention, 18)


@torch.no_grad()
@pytest.mark.parametrize("layout", ["channels last", "slice", "expanded"])
def test_memory_layouts(layout, model, embeddings, make_prompts, monkeypatch, deviation):
    given = {
        "channels last": embeddings.contiguous(memory_format=torch.channels_last),
        "slice": torch.cat([embeddings, embeddings], dim=3)[..., 9:],
        "expanded": embeddings[:1].expand(2, -1, -1, -1),
    }[layout]
    before = given.clone()
    inputs = make_prompts(model.config, ["points"], prompts=4)
    fast = expect_equal(model, monkeypatch, deviation, image_embeddings=given, **inputs)
    assert torch.equal(given, before)
    again = model(image_embeddings=given.contiguous(), **inputs)
    assert deviation(fast.pred_masks, again.pred_masks) < EXACT


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_precisions(dtype, model, embeddings, make_prompts, monkeypatch, deviation):
    """Half precision loses no more against float32 than the plain decoder does, but for a rounding here and there."""
    inputs = make_prompts(model.config, KINDS, prompts=4)
    exact = plain(copy.deepcopy(model).double(), monkeypatch, image_embeddings=embeddings.double(), **inputs)
    other = copy.deepcopy(model).to(dtype)
    fast = other(image_embeddings=embeddings, **inputs)
    slow = plain(other, monkeypatch, image_embeddings=embeddings, **inputs)
    assert fast.pred_masks.dtype == fast.iou_scores.dtype == dtype
    loss, allowed = (deviation(answer.pred_masks.double(), exact.pred_masks) for answer in (fast, slow))
    assert loss <= 1.5 * allowed + 1e-9


@torch.no_grad()
def test_one_image_with_nothing_and_no_prompts_at_all(model, embeddings, monkeypatch, deviation):
    none = model(image_embeddings=embeddings, input_points=torch.zeros(2, 0, 1, 2))
    assert none.pred_masks.shape == (2, 0, 3, 36, 36) and none.iou_scores.shape == (2, 0, 3)
    expect_equal(model, monkeypatch, deviation, image_embeddings=embeddings[:1])


@torch.no_grad()
def test_other_depths_and_activations(make_model, make_prompts, embeddings, monkeypatch, deviation):
    for decoder in ({"num_hidden_layers": 1}, {"num_hidden_layers": 3, "hidden_act": "gelu"}):
        model = make_model(vision=WIDE, decoder=decoder)
        inputs = make_prompts(model.config, ["points"], prompts=4)
        expect_equal(model, monkeypatch, deviation, image_embeddings=embeddings, **inputs)


@torch.no_grad()
def test_without_onednn(model, embeddings, make_prompts, monkeypatch, deviation):
    inputs = make_prompts(model.config, ["points"], prompts=4)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    expect_equal(model, monkeypatch, deviation, image_embeddings=embeddings, **inputs)


@pytest.fixture(scope="module")
def attended(model, embeddings, make_prompts):
    """A decoder, what it made of six prompts, and the plain answer of all four mask tokens (B*P,4,4h,4w)."""
    prompts = make_prompts(model.config, ["points", "boxes"])
    prompts["input_labels"][:, 0] = -10
    with torch.no_grad():
        decoder = FastMaskDecoder(model)
        sparse, _ = model.get_prompt_embeddings(**prompts)
        visible = model.prompt_encoder.visible_tokens(prompts["input_labels"], prompts["input_boxes"])
        made = decoder.attend(decoder.prepare(embeddings), sparse, visible=visible)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        single, several = (
            model(image_embeddings=embeddings, multimask_output=multimask, **prompts) for multimask in (False, True)
        )
    model.set_attn_implementation("sdpa")
    scores = torch.cat([single.iou_scores, several.iou_scores], dim=2)
    return decoder, made, torch.cat([single.pred_masks, several.pred_masks], dim=2).flatten(0, 1), scores


@torch.no_grad()
@pytest.mark.parametrize(
    "pairs",
    [
        list(itertools.product(range(6), range(4))),
        [(4, 2)],
        [(5, 3), (0, 1), (5, 1), (2, 3), (0, 1)],
        [(3, 0), (2, 0), (1, 0)],
    ],
    ids=["all", "one", "some twice", "backwards"],
)
def test_only_the_masks_asked_for(pairs, attended, deviation, small_steps):
    decoder, made, masks, scores = attended
    assert deviation(made.iou_scores, scores, IOU_RANGE) < EXACT
    prompts, tokens = torch.tensor(pairs).unbind(dim=1)
    got = decoder.masks(made, prompts, tokens)
    assert deviation(got, masks[prompts, tokens]) < EXACT


@torch.no_grad()
def test_prompts_that_are_not_asked_for_are_not_upscaled(attended, monkeypatch):
    decoder, made, *_ = attended
    seen = []
    call = mask_upscaling.MaskUpscaling.__call__
    monkeypatch.setattr(
        mask_upscaling.MaskUpscaling,
        "__call__",
        lambda self, image, tokens: seen.append(len(image)) or call(self, image, tokens),
    )
    assert decoder.masks(made, torch.tensor([], dtype=torch.long), torch.tensor([], dtype=torch.long)).shape == (
        0,
        36,
        36,
    )
    assert not seen
    decoder.masks(made, torch.tensor([4, 1, 4]), torch.tensor([1, 2, 3]))
    assert sum(seen) == 2


@torch.no_grad()
def test_bad_places_are_refused(attended):
    decoder, made, *_ = attended
    for prompts, tokens, name in (
        ([6], [0], "prompts"),
        ([-1], [0], "prompts"),
        ([0], [4], "tokens"),
        ([0, 1], [0], "tokens"),
    ):
        with pytest.raises(ValueError, match=f"`{name}`"):
            decoder.masks(made, torch.tensor(prompts), torch.tensor(tokens))


@torch.no_grad()
def test_prepared_images_serve_many_calls(model, embeddings, make_prompts, deviation):
    decoder = FastMaskDecoder(model)
    images = decoder.prepare(embeddings)
    for seed, count in ((0, 4), (1, 1), (2, 6)):
        prompts = make_prompts(model.config, ["points"], prompts=count, seed=seed)
        again = decoder.attend(images, model.get_prompt_embeddings(**prompts)[0])
        alone = decoder.attend(decoder.prepare(embeddings), model.get_prompt_embeddings(**prompts)[0])
        assert torch.equal(again.iou_scores, alone.iou_scores)
        assert again.iou_scores.shape == (2, count, 4)


@torch.no_grad()
def test_autocast(model, embeddings, make_prompts, monkeypatch):
    """The model obeys autocast; the fast decoder, asked directly, keeps the weights' precision."""
    prompts = make_prompts(model.config, ["points"], prompts=4)
    decoder, sparse = FastMaskDecoder(model), model.get_prompt_embeddings(**prompts)[0]
    expected = decoder.attend(decoder.prepare(embeddings), sparse)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expect_plain(model, monkeypatch, image_embeddings=embeddings, **prompts)
        got = decoder.attend(decoder.prepare(embeddings), sparse)
    assert torch.equal(got.iou_scores, expected.iou_scores)


def test_gradients(model, embeddings, make_prompts, monkeypatch):
    prompts = make_prompts(model.config, ["points"])
    output = expect_plain(model, monkeypatch, image_embeddings=embeddings, **prompts)
    assert output.pred_masks.requires_grad
    with pytest.raises(RuntimeError, match="no_grad"):
        FastMaskDecoder(model).prepare(embeddings)


@torch.no_grad()
def test_plain_where_somebody_would_notice(make_model, embeddings, make_prompts, monkeypatch):
    model = make_model(vision=WIDE)
    inputs = make_prompts(model.config, ["points"]) | {"image_embeddings": embeddings}
    expect_plain(model, monkeypatch, **inputs, target_embedding=torch.ones(1, 1, 64))
    expect_plain(model, monkeypatch, **inputs, attention_similarity=torch.ones(1, 1, 1, 81))
    assert expect_plain(model, monkeypatch, **inputs, output_attentions=True).mask_decoder_attentions
    assert can_stand_in(model)  # transformers' dormant hooks stay behind
    model.set_attn_implementation("eager")
    expect_plain(model, monkeypatch, **inputs)
    model.set_attn_implementation("sdpa")
    model.mask_decoder.train()
    expect_plain(model, monkeypatch, **inputs)
    model.mask_decoder.eval()
    for module, question in (
        (torch.jit, "is_tracing"),
        (torch.compiler, "is_compiling"),
        (torch.compiler, "is_exporting"),
        (torch.onnx, "is_in_onnx_export"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, question, lambda: True)
            assert not can_stand_in(model)
    assert can_stand_in(model)


@torch.no_grad()
@pytest.mark.parametrize(
    "place", ["", "transformer.layers.0.cross_attn_image_to_token.q_proj", "upscale_conv2", "mask_tokens"]
)
@pytest.mark.parametrize("kind", ["forward", "pre", "instance", "global"])
def test_hooks_run(kind, place, make_model, embeddings, make_prompts, monkeypatch):
    model = make_model(vision=WIDE)
    inputs = make_prompts(model.config, ["points"]) | {"image_embeddings": embeddings}
    module, calls = model.mask_decoder.get_submodule(place), []
    if kind == "forward":
        handle = module.register_forward_hook(lambda *args: calls.append(1))
    elif kind == "pre":
        handle = module.register_forward_pre_hook(lambda *args: calls.append(1))
    elif kind == "global":
        handle = nn.modules.module.register_module_forward_hook(lambda *args: calls.append(1))
    else:  # as accelerate does it
        forward = module.forward
        module.forward = lambda *args, **kwargs: calls.append(1) or forward(*args, **kwargs)
    try:
        expect_plain(model, monkeypatch, **inputs)
    finally:
        if kind != "instance":
            handle.remove()
    assert calls or place == "mask_tokens"  # whose weights are read without a call, by the plain decoder too
    assert can_stand_in(model) == (kind != "instance")


class Doubled(nn.Linear):
    """A linear layer that is more than that, as LoRA's."""

    def forward(self, features):
        return 2 * super().forward(features)


@torch.no_grad()
def test_swapped_parts_are_respected(make_model, embeddings, make_prompts, monkeypatch):
    inputs = make_prompts(make_model(vision=WIDE).config, ["points"]) | {"image_embeddings": embeddings}

    def swap(change):
        model = make_model(vision=WIDE)
        before = model(**inputs).pred_masks
        change(model.mask_decoder)
        assert not torch.allclose(expect_plain(model, monkeypatch, **inputs).pred_masks, before)

    def double(decoder):
        decoder.transformer.final_attn_token_to_image.v_proj.__class__ = Doubled

    def parametrize(decoder):
        nn.utils.parametrizations.spectral_norm(decoder.output_hypernetworks_mlps[1].proj_out)

    def widen(decoder):
        decoder.transformer.layers[1].mlp = nn.Sequential(decoder.transformer.layers[1].mlp, nn.ReLU())

    for change in (double, parametrize, widen):
        swap(change)


@torch.no_grad()
def test_weights_are_read_at_each_call(make_model, embeddings, make_prompts, monkeypatch, deviation):
    """Also through `.data`, which leaves no trace."""
    model = make_model(vision=WIDE)
    inputs = make_prompts(model.config, ["points"]) | {"image_embeddings": embeddings}
    before = model(**inputs).pred_masks
    for parameter in model.mask_decoder.parameters():
        parameter.data.mul_(1.1)
    after = expect_equal(model, monkeypatch, deviation, **inputs).pred_masks
    assert not torch.allclose(before, after)
