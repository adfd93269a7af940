"""Fast image encoders: unpadded windows, attention in pieces, oneDNN kernels, half precision, `model.optimize`."""

import copy
import pickle

import pytest
import torch
import transformers
from torch import nn
from torch.nn.functional import cosine_similarity
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.activations import ACT2FN

from sam_hf import SamModel, SamVisionConfig, SamVisionModel
from sam_hf.model import attention, cpu_inference
from sam_hf.model.attention import attend_on_map
from sam_hf.model.cpu_inference import attend_in_rows, convolve, feed_forward, linear
from sam_hf.model.optimization import Optimization, compile_blocks

# 24 x 24 cells: enough tokens for every fast path, and windows of 7 that do not divide the map.
VISION = {"hidden_size": 64, "num_attention_heads": 2, "image_size": 192, "window_size": 7}
CASES = {
    "padded windows": {},
    "no bias": {"qkv_bias": False},
    "full windows": {"window_size": 8},
    "window over the map": {"window_size": 30},
    "no positions": {"use_rel_pos": False, "use_abs_pos": False},
    "relu": {"hidden_act": "relu"},
}
TOLERANCE = 1e-5  # of the range of the values compared


@pytest.fixture(scope="module")
def make_encoder(make_config, draw):
    """make_encoder(tiny_vit=False, **vision): a SamVisionModel in eval mode."""

    def make(tiny_vit=False, **vision):
        sizes = {"image_size": 192} if tiny_vit else VISION
        return draw(SamVisionModel(make_config(tiny_vit=tiny_vit, vision=sizes | vision).vision_config), 0).eval()

    return make


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(2, 3, 192, 192, generator=torch.Generator().manual_seed(5))


def stock_of(encoder, implementation="eager"):
    """transformers' encoder, which pads in front of qkv, with the weights of ours."""
    config = transformers.SamVisionConfig(**encoder.config.to_dict())
    config._attn_implementation = implementation
    stock = transformers.SamVisionModel(config)
    stock.load_state_dict(encoder.state_dict())
    return stock.eval()


def fast(encoder, pixels):
    with torch.inference_mode():
        return encoder(pixels).last_hidden_state


class Largest(TorchDispatchMode):
    """Remembers how many entries the largest tensor made had."""

    entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.entries = max(self.entries, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


@pytest.mark.parametrize("vision", CASES.values(), ids=CASES)
def test_inference_equals_the_published_network(vision, make_encoder, deviation, pixels):
    encoder = make_encoder(**vision)
    with torch.no_grad():
        theirs = stock_of(encoder)(pixels).last_hidden_state
    assert deviation(fast(encoder, pixels), theirs) < TOLERANCE
    encoder.set_attn_implementation("eager")
    assert deviation(encoder(pixels).last_hidden_state.detach(), theirs) < TOLERANCE


@pytest.mark.parametrize("vision", [{}, {"qkv_bias": False}], ids=["bias", "no bias"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_every_gradient_is_that_of_padded_windows(implementation, vision, make_encoder, deviation, pixels):
    encoder = make_encoder(**vision)
    encoder.set_attn_implementation(implementation)
    stock = stock_of(encoder)
    weight = torch.randn(2, 16, 24, 24, generator=torch.Generator().manual_seed(6))
    for model in (encoder, stock):
        (model(pixels).last_hidden_state * weight).sum().backward()
    theirs = dict(stock.named_parameters())
    for name, parameter in encoder.named_parameters():
        assert deviation(parameter.grad, theirs[name].grad) < 10 * TOLERANCE, name


class Adapted(nn.Module):
    """A linear map with a low-rank change beside it, as LoRA puts in place of qkv and proj."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 2)  # with a bias: what becomes of zero is no longer the base's bias
        self.up = nn.Linear(2, base.out_features)

    def forward(self, inputs):
        return self.base(inputs) + self.up(self.down(inputs))


@torch.no_grad()
def test_layers_in_place_of_qkv_and_proj_are_called(make_encoder, draw, deviation, pixels):
    encoder = make_encoder()
    merged = stock_of(encoder)
    for layer, other in zip(encoder.vision_encoder.layers, merged.vision_encoder.layers, strict=True):
        for name in ("qkv", "proj"):
            adapted = draw(Adapted(getattr(layer.attn, name)), 1)
            target = getattr(other.attn, name)
            target.weight.copy_(adapted.base.weight + adapted.up.weight @ adapted.down.weight)
            target.bias.copy_(adapted(torch.zeros(1, adapted.base.in_features))[0])
            setattr(layer.attn, name, adapted)
    assert deviation(fast(encoder, pixels), merged(pixels).last_hidden_state) < TOLERANCE


def test_hooks_see_the_calls_and_change_nothing(make_encoder, pixels):
    encoder = make_encoder()
    expected, seen = fast(encoder, pixels), []
    layer = encoder.vision_encoder.layers[0]
    for module in (layer.attn, layer.attn.qkv, layer.attn.proj, layer.mlp, layer.mlp.lin1):
        module.register_forward_hook(lambda module, inputs, output: seen.append(module))
    torch.testing.assert_close(fast(encoder, pixels), expected, atol=1e-5, rtol=1e-4)
    assert set(seen) == {layer.attn, layer.attn.qkv, layer.attn.proj, layer.mlp, layer.mlp.lin1}


@torch.no_grad()
@pytest.mark.parametrize("tiny_vit", [False, True], ids=["ViT", "TinyViT"])
def test_recording_changes_nothing(tiny_vit, make_encoder, pixels):
    encoder = make_encoder(tiny_vit)
    asked = {"output_hidden_states": True, "output_attentions": True}
    torch.testing.assert_close(encoder(pixels, **asked)[0], encoder(pixels)[0], atol=1e-5, rtol=1e-4)
    if not tiny_vit:
        shapes = [tuple(weights.shape) for weights in encoder(pixels, **asked).attentions]
        windows = (2 * 16 * 2, 49, 49)  # B * windows * heads
        assert shapes == [windows, (2 * 2, 576, 576), windows]


def map_tensors(heads=2, height=6, width=9, dim=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(2)
    query, key, value = torch.randn(3, 2, heads, height * width, dim, generator=generator, dtype=dtype)
    rows = torch.randn(height, height, dim, generator=generator, dtype=dtype)
    columns = torch.randn(width, width, dim, generator=generator, dtype=dtype)
    return query, key, value, rows, columns


@torch.no_grad()
@pytest.mark.parametrize("logits", [1, 54, 54 * 7, 1 << 20], ids=["a row", "one more", "uneven", "all"])
@pytest.mark.parametrize("kernel", [True, False], ids=["oneDNN", "torch"])
def test_attention_in_rows(logits, kernel, monkeypatch):
    if not kernel:
        monkeypatch.setattr(cpu_inference, "_fused_linear", None)
    query, key, value, rows, columns = map_tensors()
    exact = [tensor.double() for tensor in (query, key, value, rows, columns)]
    expected, _ = attend_on_map(*exact, scale=0.3, implementation="eager")
    by_row = torch.einsum("bnhwd,hkd->bnhwk", query.unflatten(2, (6, 9)), rows).flatten(2, 3)
    by_column = torch.einsum("bnhwd,wkd->bnhwk", query.unflatten(2, (6, 9)), columns).flatten(2, 3)
    got = attend_in_rows(query, key, value, by_row, by_column, 0.3, logits)
    torch.testing.assert_close(got.double(), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("entries", [1, 2 * 2 * 54 * 5, 1 << 20])
def test_attention_in_blocks_of_queries_off_the_cpu(entries, monkeypatch):
    monkeypatch.setattr(attention, "BIAS_ENTRIES", entries)
    monkeypatch.setattr(attention, "is_cpu_inference", lambda tensor: False)
    tensors = map_tensors()
    expected, _ = attend_on_map(*tensors, scale=0.3, implementation="eager")
    with Largest() as largest:
        got, _ = attend_on_map(*tensors, scale=0.3, implementation="sdpa")
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert largest.entries <= max(entries, 3 * 2 * 2 * 54 * 8)  # the bias, or queries, keys and values


def test_memory_of_a_global_layer_is_bounded(make_encoder):
    """No tensor of heads x tokens x tokens: the logits of some queries are the largest there is."""
    encoder = make_encoder(num_hidden_layers=1, global_attn_indexes=[0], image_size=384)
    layer, tokens = encoder.vision_encoder.layers[0], 48 * 48
    hidden_states = torch.randn(1, 48, 48, 64)
    with torch.inference_mode(), Largest() as largest:
        layer(hidden_states)
    assert largest.entries <= cpu_inference.LOGITS
    with torch.inference_mode(), Largest() as everything:
        layer(hidden_states, output_attentions=True)
    assert everything.entries >= 2 * tokens**2


@pytest.mark.parametrize("tiny_vit", [False, True], ids=["ViT", "TinyViT"])
def test_a_batch_is_its_images(tiny_vit, make_encoder, pixels):
    encoder = make_encoder(tiny_vit)
    one_by_one = torch.cat([fast(encoder, image) for image in pixels.split(1)])
    torch.testing.assert_close(fast(encoder, pixels), one_by_one, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("tiny_vit", [False, True], ids=["ViT", "TinyViT"])
def test_inference_equals_the_call_with_gradients(tiny_vit, make_encoder, deviation, pixels):
    encoder = make_encoder(tiny_vit)
    expected = encoder(pixels).last_hidden_state.detach()
    assert deviation(fast(encoder, pixels), expected) < TOLERANCE


@pytest.mark.parametrize("tiny_vit", [False, True], ids=["ViT", "TinyViT"])
def test_bfloat16_keeps_the_embedding(tiny_vit, make_encoder, pixels):
    encoder = make_encoder(tiny_vit)
    expected = fast(encoder, pixels)
    got = fast(copy.deepcopy(encoder).to(torch.bfloat16), pixels)
    assert got.dtype == torch.bfloat16
    assert cosine_similarity(got.float(), expected, dim=1).mean() > 0.999


@torch.no_grad()
@pytest.mark.parametrize("activation", [None, "gelu", "gelu_new", "relu"])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_and_convolve_are_the_modules_calls(activation, bias, draw):
    activation = ACT2FN[activation] if activation else None
    layer = draw(nn.Linear(96, 128, bias=bias), 0)
    inputs = torch.randn(3, 200, 96, generator=torch.Generator().manual_seed(1))
    expected = layer(inputs) if activation is None else activation(layer(inputs))
    torch.testing.assert_close(linear(layer, inputs, activation), expected, atol=1e-5, rtol=1e-5)
    strided = inputs.transpose(0, 1)
    torch.testing.assert_close(linear(layer, strided, activation), expected.transpose(0, 1), atol=1e-5, rtol=1e-5)
    conv = draw(nn.Conv2d(16, 32, 3, stride=2, padding=1, groups=4 if bias else 1, bias=False), 0)
    norm = draw(nn.BatchNorm2d(32), 1).eval()
    images = torch.randn(2, 16, 90, 90, generator=torch.Generator().manual_seed(1))
    expected = norm(conv(images)) if activation is None else activation(norm(conv(images)))
    torch.testing.assert_close(convolve(conv, norm, images, activation), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_batch_norm_in_training_mode_counts_the_batch(draw):
    conv, norm = draw(nn.Conv2d(4, 4, 1, bias=False), 0), nn.BatchNorm2d(4).train()
    images = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(convolve(conv, copy.deepcopy(norm), images), copy.deepcopy(norm)(conv(images)))
    convolve(conv, norm, images)
    assert norm.running_mean.any()


def test_fused_kernels_are_for_inference_only(draw, monkeypatch):
    first, second = draw(nn.Linear(96, 512), 0), draw(nn.Linear(512, 96), 1)
    inputs, calls = torch.randn(400, 96, generator=torch.Generator().manual_seed(1)), []
    kernel = cpu_inference._fused_linear
    if kernel is None:
        pytest.skip("this build of torch has no oneDNN")
    monkeypatch.setattr(cpu_inference, "_fused_linear", lambda *args: calls.append(1) or kernel(*args))
    monkeypatch.setattr(cpu_inference, "HIDDEN", 512 * 150)  # three blocks
    outputs = feed_forward(first, ACT2FN["gelu"], second, inputs)
    assert outputs.requires_grad and not calls
    with torch.no_grad():
        got = feed_forward(first, ACT2FN["gelu"], second, inputs)
        assert len(calls) == 6
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert linear(first, inputs).dtype == torch.bfloat16
        doubled = type("Doubled", (nn.Linear,), {"forward": lambda self, inputs: 2 * nn.Linear.forward(self, inputs)})
        other = doubled(96, 512)
        other.load_state_dict(first.state_dict())
        torch.testing.assert_close(linear(other, inputs), 2 * first(inputs), atol=1e-4, rtol=1e-4)
        assert len(calls) == 6
    torch.testing.assert_close(got, outputs.detach(), atol=1e-4, rtol=1e-4)


def test_optimize_says_what_it_did_and_repeats_itself(make_model, pixels):
    model = make_model().train()
    model.set_attn_implementation("eager")
    assert model.optimization is None
    assert model.optimize() is model and not model.training
    assert model.optimization == Optimization(torch.float32, "sdpa", None)
    assert model.vision_encoder.config._attn_implementation == model.config._attn_implementation == "sdpa"
    for dtype in ("bfloat16", torch.bfloat16, None):
        assert model.optimize(dtype=dtype).optimization == Optimization(torch.bfloat16, "sdpa", None)
        assert model.dtype == torch.bfloat16
    assert "bfloat16" in repr(model.optimization)
    vision = SamVisionModel(SamVisionConfig(**make_model().config.vision_config.to_dict()))
    assert vision.optimize(dtype="bfloat16").dtype == torch.bfloat16


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"dtype": "int8"}, "dtype.*bfloat16.*int8"),
        ({"dtype": torch.float64}, "dtype.*float64"),
        ({"dtype": "float16"}, "float16 is slower.*CPU"),
        ({"compile": True}, "compile.*GPU"),
        ({"compile": "reduce-overhead"}, "compile.*max-autotune-no-cudagraphs.*reduce-overhead"),
    ],
)
def test_optimize_refuses(wrong, words, make_model):
    model = make_model()
    with pytest.raises(ValueError, match=words):
        model.optimize(**wrong)
    assert model.optimization is None and model.dtype == torch.float32
    with pytest.raises(TypeError):
        model.optimize(fast=True)


@torch.no_grad()
def test_compiled_blocks_share_work_and_keep_their_names(make_model, deviation, tmp_path):
    torch.compiler.reset()
    model = make_model(vision={"num_hidden_layers": 6, "global_attn_indexes": [2, 5]})
    pixels = torch.randn(1, 3, 72, 72)
    expected, names = model.get_image_embeddings(pixels), list(model.state_dict())
    graphs = []
    compile_blocks(model, "default", lambda graph, inputs: graphs.append(graph) or graph.forward)
    assert deviation(model.get_image_embeddings(pixels), expected) < TOLERANCE
    assert len(graphs) == 2  # one for windows, one for global attention
    assert list(model.state_dict()) == names
    model.save_pretrained(tmp_path)
    loaded = SamModel.from_pretrained(tmp_path)
    for twin in (loaded, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert deviation(twin.eval().get_image_embeddings(pixels), expected) < TOLERANCE
    compile_blocks(model, None)
    assert all(block._compiled_call_impl is None for block in model.vision_encoder.layers)
