"""torch.compile, torch.export and ONNX: the encoder, and prompt encoder + decoder for any number of prompts."""

import pytest
import torch
from torch import nn
from torch.export import Dim

ENCODERS = pytest.mark.parametrize("tiny_vit", [False, True], ids=["ViT", "TinyViT"])
NAMES = ["image_embeddings", "input_points", "input_labels", "input_boxes", "input_masks"]


class Decoding(nn.Module):
    """Prompt encoder and mask decoder: what runs per click, as tensors in and tensors out."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, image_embeddings, input_points, input_labels, input_boxes, input_masks):
        output = self.model(
            image_embeddings=image_embeddings,
            input_points=input_points,
            input_labels=input_labels,
            input_boxes=input_boxes,
            input_masks=input_masks,
        )
        return output.pred_masks, output.iou_scores


class Encoding(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        return self.model.get_image_embeddings(pixel_values)


@pytest.fixture(scope="module")
def decoding_inputs(make_config, make_prompts):
    """decoding_inputs(prompts, points): the arguments of `Decoding`, padding in every kind."""

    def make(prompts, points, batch=1):
        made = make_prompts(make_config(), ["points", "boxes", "masks"], batch=batch, prompts=prompts, points=points)
        made["input_labels"][:, :, -1] = -10
        made["input_boxes"][:, -1] = -10
        made["input_masks"][:, 0] = float("nan")
        generator = torch.Generator().manual_seed(1)
        return (torch.randn(batch, 16, 9, 9, generator=generator), *(made[name] for name in NAMES[1:]))

    return make


def close(got, expected):
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(torch.as_tensor(one), other, atol=2e-5, rtol=1e-4)


@torch.no_grad()
@ENCODERS
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_compile_encoder(tiny_vit, attention, make_model):
    torch.compiler.reset()
    model = make_model(tiny_vit=tiny_vit)
    model.set_attn_implementation(attention)
    compiled = torch.compile(Encoding(model), backend="eager", fullgraph=True)
    pixels = torch.randn(1, 3, 72, 72)
    close([compiled(pixels)], [model.get_image_embeddings(pixels)])


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile_decoding(backend, make_model, decoding_inputs):
    torch.compiler.reset()
    decoding = Decoding(make_model())
    compiled = torch.compile(decoding, backend=backend, fullgraph=True, dynamic=True)
    for prompts, points in ((2, 2), (3, 4)):
        inputs = decoding_inputs(prompts, points)
        close(compiled(*inputs), decoding(*inputs))


@torch.no_grad()
def test_compile_a_whole_call_with_text(make_model, make_prompts):
    torch.compiler.reset()
    model = make_model(text=True)
    ids = torch.randint(1, 600, (1, 2, 12), generator=torch.Generator().manual_seed(0))
    inputs = make_prompts(model.config, ["points"], batch=1, prompts=2) | {"input_ids": ids}
    inputs["pixel_values"] = torch.randn(1, 3, 72, 72)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    close([compiled(**inputs).pred_masks], [model(**inputs).pred_masks])


def dynamic_shapes():
    prompts, points = Dim("prompts", min=1, max=4096), Dim("points", min=1, max=4096)
    return {
        "image_embeddings": None,
        "input_points": {1: prompts, 2: points},
        "input_labels": {1: prompts, 2: points},
        "input_boxes": {1: prompts},
        "input_masks": {1: prompts},
    }


@torch.no_grad()
@ENCODERS
def test_export_encoder(tiny_vit, make_model):
    encoding = Encoding(make_model(tiny_vit=tiny_vit))
    pixels = torch.randn(2, 3, 72, 72)
    program = torch.export.export(encoding, (pixels,), dynamic_shapes={"pixel_values": {0: Dim("batch", max=64)}})
    for batch in (1, 2, 5):
        pixels = torch.randn(batch, 3, 72, 72)
        close([program.module()(pixels)], [encoding(pixels)])


@torch.no_grad()
def test_export_decoding(make_model, decoding_inputs):
    decoding = Decoding(make_model())
    program = torch.export.export(decoding, decoding_inputs(3, 4), dynamic_shapes=dynamic_shapes())
    for prompts, points in ((1, 1), (2, 5), (7, 2)):
        inputs = decoding_inputs(prompts, points)
        close(program.module()(*inputs), decoding(*inputs))


def run_onnx(module, inputs, names, shapes, path):
    """A session of the exported module."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.onnx.export(
        module, inputs, path, dynamo=True, input_names=names, dynamic_shapes=shapes, verbose=False, external_data=False
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.filterwarnings("ignore")  # the exporter's own
@ENCODERS
def test_onnx_encoder(tiny_vit, make_model, tmp_path):
    encoding = Encoding(make_model(tiny_vit=tiny_vit))
    pixels = torch.randn(1, 3, 72, 72)
    session = run_onnx(encoding, (pixels,), ["pixel_values"], None, tmp_path / "encoder.onnx")
    pixels = torch.randn(1, 3, 72, 72)
    close(session.run(None, {"pixel_values": pixels.numpy()}), [encoding(pixels)])


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_onnx_decoding(make_model, decoding_inputs, tmp_path):
    """Any number of prompts and points; absent ones marked as in PyTorch: -10 and NaN."""
    decoding = Decoding(make_model())
    path = tmp_path / "decoder.onnx"
    session = run_onnx(decoding, decoding_inputs(3, 4), NAMES, dynamic_shapes(), path)
    for prompts, points in ((1, 1), (2, 5), (7, 2)):
        inputs = decoding_inputs(prompts, points)
        feed = {name: tensor.numpy() for name, tensor in zip(NAMES, inputs, strict=True)}
        close(session.run(None, feed), decoding(*inputs))
