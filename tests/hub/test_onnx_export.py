"""ONNX files: what is refused, Meta's resizing, files and names; under `-m slow` every part under onnxruntime."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from meta_twin import meta_of
from segment_anything.utils.onnx import SamOnnxModel
from tokenizers import Tokenizer

from sam_hf import SamConfig, SamModel, cli
from sam_hf.hub import export_command, onnx_export, onnx_graphs
from sam_hf.hub.exported_parts import (
    PARTS,
    MetaDecoder,
    OnePieceDecoder,
    PerClick,
    PerImage,
    TextAlignment,
    TextEncoder,
)
from sam_hf.hub.onnx_export import export_onnx

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SIDE, LOW, MIB = 64, 32, 2**20


@pytest.fixture(scope="module")
def with_text(text_checkpoint):
    """With an alignment, whose weights matter."""
    config = SamConfig.from_pretrained(text_checkpoint).to_dict()
    config["text_config"] |= {"alignment": True}
    model = SamModel(SamConfig(**config)).eval()
    torch.nn.init.normal_(model.prompt_encoder.text_alignment.projection.weight)
    return model


@pytest.fixture(scope="module")
def plain(plain_checkpoint):
    return SamModel.from_pretrained(plain_checkpoint).eval()


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"parts": ["encoder"]}, "`parts` must be some of vision_encoder, .* got encoder"),
        ({"parts": []}, "`parts` must be some of .* got none"),
        ({"dtypes": ["bfloat16"]}, "`dtypes` must be some of float32, float16, int8; got bfloat16"),
        ({"parts": "text_encoder"}, "no text branch"),
        ({"parts": "text_alignment"}, "`parts` has text_alignment, but this checkpoint has no text alignment"),
    ],
)
def test_refused(arguments, said, plain, tmp_path):
    with pytest.raises(ValueError, match=said):
        export_onnx(plain, tmp_path / "onnx", **arguments)
    assert not (tmp_path / "onnx").exists()


def test_refused_models(plain, tmp_path):
    with pytest.raises(TypeError, match="must be a sam_hf.SamModel; got Linear"):
        export_onnx(torch.nn.Linear(1, 1), tmp_path)
    with torch.device("meta"):
        empty = SamModel(plain.config)
    with pytest.raises(ValueError, match="outside of memory"):
        export_onnx(empty, tmp_path)


def test_files_that_are_there_stay(plain, tmp_path):
    there = tmp_path / "decoder_per_image.onnx"
    there.write_text("mine")
    with pytest.raises(ValueError, match="has decoder_per_image.onnx already"):
        export_onnx(plain, tmp_path, dtypes=["float32", "int8"])
    assert [path.name for path in tmp_path.iterdir()] == [there.name] and there.read_text() == "mine"


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_packages(package, plain, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'need {package}: `pip install "sam_hf\[onnx\]"`'):
        export_onnx(plain, tmp_path, dtypes=["int8"])


def test_failure_leaves_nothing(plain, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("disk full")

    monkeypatch.setattr(onnx_graphs, "save", fail)
    monkeypatch.setattr(onnx_export, "_trace", lambda *_: None)
    for folder in (tmp_path, tmp_path / "new" / "onnx"):
        with pytest.raises(RuntimeError):
            export_onnx(plain, folder, ["decoder_per_image"])
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_changes_nothing(with_text, tmp_path, monkeypatch):
    """In the middle of the second part: neither the first one's new file nor anything half made is there."""
    names = ("decoder_per_click.onnx", "text_encoder.onnx", "text_encoder.onnx_data", "tokenizer.json", "notes.txt")
    for name in names:
        (tmp_path / name).write_text("of before")

    def make(part, dtypes, workplace, report):
        if part.name == TextEncoder.name:
            (workplace / "text_encoder.onnx").write_text("half")
            raise KeyboardInterrupt
        (workplace / f"{part.name}.onnx").write_text("new")
        return [workplace / f"{part.name}.onnx"]

    monkeypatch.setattr(onnx_export, "_export_part", make)
    with pytest.raises(KeyboardInterrupt):
        export_onnx(with_text, tmp_path, [PerClick.name, TextEncoder.name], overwrite=True)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(names, "of before")


def test_a_tokenizer_lies_beside_the_text_encoder(with_text, tmp_path, monkeypatch):
    def make(part, dtypes, workplace, report):
        (workplace / f"{part.name}.onnx").write_text("new")
        return [workplace / f"{part.name}.onnx"]

    monkeypatch.setattr(onnx_export, "_export_part", make)
    files = export_onnx(with_text, tmp_path, [TextEncoder.name])
    assert [path.name for path in files] == ["text_encoder.onnx", "tokenizer.json", "tokenizer_config.json"]
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in files}
    sizes = with_text.config.text_config
    assert len(Tokenizer.from_file(str(files[1])).encode("a red mug").ids) == sizes.context_length
    files[0].unlink()
    with pytest.raises(ValueError, match="has tokenizer.json, tokenizer_config.json already"):
        export_onnx(with_text, tmp_path, [TextEncoder.name])
    assert len(export_onnx(with_text, tmp_path, [TextEncoder.name], overwrite=True)) == 3


@pytest.fixture(scope="module")
def resizing(plain, tmp_path_factory):
    """A session of Meta's resizing alone, behind a decoder that gives back its masks."""
    import onnx_ir

    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 18]> g (float[P,4] given_scores, float[P,4,{LOW},{LOW}] given) => '
        f"(float[P,4] iou_predictions, float[P,4,{LOW},{LOW}] low_res_masks)"
        "{ iou_predictions = Identity(given_scores) low_res_masks = Identity(given) }"
    )
    graph = onnx_graphs.append_resizing(onnx_ir.from_proto(model), MetaDecoder(plain))
    path = tmp_path_factory.mktemp("resizing") / "resizing.onnx"
    assert onnx_graphs.save(graph, path, onnx_export.LARGEST_FILE) == [path]
    return session(path)


@pytest.mark.parametrize("size", [(64, 64), (48, 64), (100, 31), (1, 80), (80, 1), (270, 480), (5, 4)])
def test_meta_resizing(size, resizing):
    """Up, without the padding, to the picture; also for pictures that become a line."""
    masks = 4 * torch.randn(2, 4, LOW, LOW, generator=torch.Generator().manual_seed(size[0]))
    twin = SamOnnxModel.__new__(SamOnnxModel)
    torch.nn.Module.__init__(twin)
    twin.img_size = SIDE
    expected = twin.mask_postprocessing(masks, torch.tensor(size, dtype=torch.float32)).numpy()
    feed = {"given": masks.numpy(), "given_scores": np.zeros((2, 4), np.float32)}
    assert resizing.get_outputs()[0].name == "masks"  # Meta's front end reads the first output
    got = resizing.run(["masks"], feed | {"orig_im_size": np.array(size, np.float32)})[0]
    np.testing.assert_allclose(got, expected, atol=2e-4)  # of logits up to 15


@pytest.fixture(scope="module")
def per_image(with_text, tmp_path_factory):
    """The part that is quickest to make, over the files of a larger model."""
    folder = tmp_path_factory.mktemp("onnx")
    for name in ("decoder_per_image.onnx", "decoder_per_image.onnx_data", "other.onnx_data"):
        (folder / name).write_text("of a larger model")
    return folder, export_onnx(with_text, folder, ["decoder_per_image"], ["float32", "int8"], overwrite=True)


def test_files(per_image, with_text):
    folder, files = per_image
    names = [f"decoder_per_image{suffix}.onnx" for suffix in ("", "_quantized")]
    assert [path.name for path in files] == names
    assert {path.name for path in folder.iterdir()} == {*names, "other.onnx_data"}  # no weights of what was replaced
    model = onnx.load(files[0])
    assert {one.domain: one.version for one in model.opset_import}[""] == onnx_export.OPSET
    for values, texts in ((model.graph.input, PerImage.inputs), (model.graph.output, PerImage.outputs)):
        assert {value.name: value.doc_string for value in values} == texts
    assert str(Path(__file__).parents[2]).encode() not in files[0].read_bytes()  # no traces of the machine
    assert with_text.dtype == torch.float32 and next(with_text.parameters()).requires_grad  # as it was


def test_per_image_under_onnxruntime(per_image, with_text):
    generator = torch.Generator().manual_seed(0)
    embedding, mask = torch.randn(1, 16, 8, 8, generator=generator), torch.randn(1, 1, LOW, LOW, generator=generator)
    feed = {"image_embeddings": embedding.numpy(), "mask_input": mask.numpy()}
    for path in per_image[1]:
        for has_mask in (torch.zeros(1), torch.ones(1)):
            with torch.no_grad():
                expected = PerImage(with_text)(embedding, mask, has_mask)
            sent = feed | {"has_mask_input": has_mask.numpy()}
            for got, wanted in zip(session(path).run(None, sent), expected, strict=True):
                assert got.dtype == np.float32
                np.testing.assert_allclose(got, wanted.numpy(), atol=1e-5)


@torch.no_grad()
def test_a_phrase_is_found_as_in_pytorch(with_text, tmp_path):
    """The alignment under onnxruntime, for one phrase and for several; "int8" is the same file. float16 is slow."""
    generator = torch.Generator().manual_seed(5)
    embedding = torch.randn(1, 16, 8, 8, generator=generator)
    for path in export_onnx(with_text, tmp_path, [TextAlignment.name], ["float32", "int8"]):
        running = session(path)
        for count in (1, 4):
            vectors = torch.nn.functional.normalize(torch.randn(count, 8, generator=generator), dim=-1)
            expected = with_text.get_text_alignment(embedding, vectors[None])[0]
            maps, presence = running.run(None, {"image_embeddings": embedding.numpy(), "text_embeds": vectors.numpy()})
            np.testing.assert_allclose(maps, expected.numpy(), atol=1e-5)
            best = with_text.prompt_encoder.text_alignment.presence(expected)
            np.testing.assert_allclose(presence, best.numpy(), atol=1e-5)


@torch.no_grad()
def test_a_whole_decoder_answers_as_metas_own(plain, tmp_path):
    """Under onnxruntime, masks in the pixels of pictures of two sizes; weights that all matter.

    One two-way block, because exporting takes its time by the operation; with two, under `slow` and in
    test_exported_parts.py.
    """
    config = plain.config.to_dict()
    config["mask_decoder_config"] |= {"num_hidden_layers": 1}
    model, generator = SamModel(SamConfig(**config)).eval(), torch.Generator().manual_seed(3)
    for weight in model.parameters():
        weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
    theirs = SamOnnxModel(meta_of(model, our_encoder=True, our_epsilon=True), return_single_mask=False)
    running = session(export_onnx(model, tmp_path, [MetaDecoder.name])[0])
    embedding, rough = torch.randn(1, 16, 8, 8, generator=generator), torch.randn(1, 1, LOW, LOW, generator=generator)
    points = SIDE * torch.rand(2, 3, 2, generator=generator)
    labels = torch.tensor([[1.0, 0, -1], [2, 3, 1]])
    for size, has_mask in (((48.0, 64.0), 0.0), ((90.0, 31.0), 1.0)):
        asked = (embedding, points, labels, rough, torch.tensor([has_mask]), torch.tensor(size))
        expected = dict(zip(("masks", "iou_predictions", "low_res_masks"), theirs(*asked), strict=True))
        names = [value.name for value in running.get_inputs()]
        got = running.run(list(expected), dict(zip(names, (value.numpy() for value in asked), strict=True)))
        assert got[0].shape == (2, 4, *map(int, size))
        for ours, wanted in zip(got, expected.values(), strict=True):
            np.testing.assert_allclose(ours, wanted.numpy(), atol=5e-4 * float(wanted.abs().max()))


ENCODERS = {
    # A stage of convolutions and one of attention, whose windows of 3 are filled up on 8 x 8 cells.
    "TinyViT": {"model_type": "sam_tiny_vit", "embed_dims": [8, 16], "depths": [1, 1], "num_heads": [1, 2]}
    | {"window_sizes": [7, 3], "strides": [2]},
    # Widths that are no multiples of each other: heads of 7, an MLP 4.14 times as wide; the same windows.
    "SlimSAM": {"hidden_size": 42, "mlp_dim": 174, "num_attention_heads": 6, "num_hidden_layers": 1, "patch_size": 8}
    | {"window_size": 3, "global_attn_indexes": []},
}


@torch.no_grad()
@pytest.mark.parametrize("name", ENCODERS)
def test_other_encoders(name, tmp_path):
    vision = ENCODERS[name] | {"output_channels": 16, "num_pos_feats": 8, "image_size": SIDE}
    decoder = {"mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    torch.manual_seed(0)
    model = SamModel(SamConfig(vision_config=vision, mask_decoder_config=decoder)).eval()
    for weight in model.vision_encoder.parameters():
        weight.add_(0.1 * torch.randn(weight.shape))
    pixels = torch.randn(2, 3, SIDE, SIDE)
    got = session(export_onnx(model, tmp_path, ["vision_encoder"])[0]).run(None, {"pixel_values": pixels.numpy()})
    expected = model.get_image_embeddings(pixels)
    np.testing.assert_allclose(got[0], expected.numpy(), atol=1e-4 * float(expected.abs().max()))


def test_large_models_have_their_weights_beside(per_image, tmp_path):
    """As transformers.js looks for them; what refers to them is moved last."""
    import onnx_ir

    beside, path = onnx_graphs.save(onnx_ir.load(per_image[1][0]), tmp_path / "big.onnx", largest=0)
    assert [beside.name, path.name] == ["big.onnx_data", "big.onnx"] and beside.stat().st_size > 0
    assert [value.name for value in session(path).get_inputs()] == list(PerImage.inputs)


def test_int8_overflows_nowhere(tmp_path):
    """The worst pair of products of an unsigned activation and a weight fits into 16 bits, which some processors add
    in; and with them, the product is what it should be."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(64, 32)).astype(np.float32)
    weight[:2] = 4.0  # neighbours that are the largest of every column
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 18]> g (float[N,64] x) => (float[N,32] y) { y = MatMul(x, weight) }'
    )
    model.graph.node[0].name = "product"
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "weight"))
    onnx.save(model, tmp_path / "float.onnx")
    (path,) = onnx_graphs.quantize(tmp_path / "float.onnx", tmp_path / "int8.onnx", onnx_export.LARGEST_FILE, False)
    stored = [onnx.numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer]
    (eight,) = [values for values in stored if values.dtype == np.int8 and values.size == weight.size]
    sums = eight[:-1].astype(int) + eight[1:]  # of the weights of two neighbours, beside the largest activation
    assert 100 < np.abs(sums).max() and 255 * np.abs(sums).max() < 2**15
    asked = rng.normal(size=(5, 64)).astype(np.float32)
    got = session(path).run(None, {"x": asked})[0]
    np.testing.assert_allclose(got, asked @ weight, atol=0.03 * np.abs(asked @ weight).max())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["onnx", "no/such/folder", "out"], "there is no checkpoint folder 'no/such/folder'"),
        (["program", "tiny", "out/encoder.onnx"], "must end in .pt2"),
        (["onnx", "{plain}", "out", "--part", "text_encoder"], "no text branch"),
    ],
)
def test_command_says_what_is_wrong(arguments, said, plain_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((OSError, ValueError), match=said):
        export_command.main([word.format(plain=plain_checkpoint) for word in arguments])
    assert list(tmp_path.iterdir()) == []


def test_command(plain_checkpoint, tmp_path, capsys, monkeypatch):
    def write(model, folder, parts, dtypes, **words):
        assert (parts, dtypes) == (["decoder_per_image"], ["float32"]) and words["overwrite"] is False
        path = Path(folder) / "decoder_per_image.onnx"
        path.write_bytes(bytes(MIB))
        path.with_name(f"{path.name}_data").write_bytes(bytes(MIB))
        return [path]

    monkeypatch.setattr(export_command, "export_onnx", write)
    wanted = ["onnx", str(plain_checkpoint), str(tmp_path), "--part", "decoder_per_image", "--dtype", "float32"]
    assert export_command.main(wanted) == 0
    printed = capsys.readouterr().out
    assert printed == f"{tmp_path / 'decoder_per_image.onnx'}: 2.0 MiB, weights in decoder_per_image.onnx_data\n"


def test_command_says_in_a_sentence_what_torch_says(plain_checkpoint, tmp_path, monkeypatch, capsys):
    def fail(*arguments, **words):
        raise RuntimeError("no such operator\nand two hundred lines more")

    monkeypatch.setattr(export_command, "export_onnx", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main(["export", "onnx", str(plain_checkpoint), str(tmp_path / "out")])
    assert ended.value.code == 2
    assert capsys.readouterr().err.strip().endswith(f"cannot export {str(plain_checkpoint)!r}: no such operator")
    absent = "cuda:97" if torch.cuda.is_available() else "cuda"
    for device in (absent, "abacus"):
        with pytest.raises(ValueError, match=f"--device {device} cannot be used here: "):
            export_command.main(["program", "no/such/model", str(tmp_path / "x.pt2"), "--device", device])


# --- every part under onnxruntime -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def everything(with_text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("everything")
    export_onnx(with_text, folder, dtypes=["float32", "float16", "int8"])
    return folder


def feeds(part, seed):
    """Inputs of several sizes for a part."""
    rng = np.random.default_rng(seed)
    count, points = int(rng.integers(1, 6)), int(rng.integers(1, 7))
    shapes = {"B": 1 + seed % 3, "P": count, "N": points, "C": 16, "h": 8, "w": 8, "S": SIDE, "T": 16, "D": 8}
    shapes |= {"4h": LOW, "4w": LOW, "h*w": 64, "heads": 2, "d": 4}
    made = {}
    for name, text in part.inputs.items():
        shape = [shapes.get(size, size) for size in text.split(" ")[0].strip("()").split(",")]
        shape = [int(size) for size in shape]
        values = rng.normal(size=shape).astype(np.float32)
        if name in ("input_points", "point_coords"):
            values = rng.uniform(0, SIDE, shape).astype(np.float32)
        elif name in ("input_labels", "point_labels"):
            values = rng.choice([-10, -1, 0, 1, 2, 3] if name == "input_labels" else [-1, 0, 1, 2, 3], shape)
            values = values.astype(np.int64 if name == "input_labels" else np.float32)
        elif name == "input_ids":
            values = rng.integers(1, 900, shape)
        elif name == "has_mask_input":
            values = np.array([seed % 2], np.float32)
        elif name == "orig_im_size":
            values = np.array([50 + 20 * seed, 90], np.float32)
        elif name == "text_embeds":
            values *= rng.integers(0, 2, (shape[0], 1))
        made[name] = values.astype(values.dtype)
    return made


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", list(PARTS))
@pytest.mark.parametrize("suffix", ["", "_fp16", "_quantized"])
def test_every_part(name, suffix, everything, with_text):
    """float32 as PyTorch; float16 and int8 near it, on random weights whose logits are small."""
    part = PARTS[name](with_text).eval()
    running = session(everything / f"{name}{suffix}.onnx")
    assert {value.name for value in running.get_inputs()} == set(part.inputs)
    assert [value.name for value in running.get_outputs()] == list(part.outputs)
    for seed in range(6):
        sent = feeds(part, seed)
        taken = onnx_export.traced_inputs(part)
        expected = part(*(torch.from_numpy(sent[name]) for name in taken))
        expected = expected if isinstance(expected, tuple) else (expected,)
        if name == PerImage.name and suffix == "_fp16":
            sent["image_embeddings"] = sent["image_embeddings"].astype(np.float16)
        got = running.run([output for output in part.outputs if output != "masks"], sent)
        for ours, theirs in zip(got, expected, strict=True):
            spread = float(theirs.abs().max())
            np.testing.assert_allclose(
                ours, theirs.numpy(), atol=spread * {"": 1e-4, "_fp16": 3e-2, "_quantized": 0.2}[suffix]
            )


@pytest.mark.slow
@torch.no_grad()
def test_windows_that_are_filled_up(plain, tmp_path):
    """8 x 8 cells in windows of 3: what fills them up shares its weights with the tokens."""
    vision = plain.config.vision_config.to_dict() | {"window_size": 3}
    torch.manual_seed(0)
    model = SamModel(type(plain.config)(**plain.config.to_dict() | {"vision_config": vision})).eval()
    for layer in model.vision_encoder.layers:
        torch.nn.init.normal_(layer.attn.qkv.bias)
    pixels = torch.randn(2, 3, SIDE, SIDE)
    expected = model.get_image_embeddings(pixels).numpy()
    for path in export_onnx(model, tmp_path, ["vision_encoder"], ["float32", "float16", "int8"]):
        assert not any(node.op_type == "Gemm" for node in onnx.load(path).graph.node)
        got = session(path).run(None, {"pixel_values": pixels.numpy()})[0]
        tolerance = {"": 1e-4, "_fp16": 2e-2, "_quantized": 0.3}[path.stem.removeprefix("vision_encoder")]
        np.testing.assert_allclose(got, expected, atol=tolerance)


@pytest.mark.slow
def test_names_that_transformers_js_asks_for(everything):
    """It refuses to run when a file asks for an input that it does not give."""
    encoder = session(everything / "vision_encoder.onnx")
    decoder = session(everything / "prompt_encoder_mask_decoder.onnx")
    image = ["image_embeddings", "image_positional_embeddings"]
    assert [value.name for value in encoder.get_inputs()] == ["pixel_values"]
    assert [value.name for value in encoder.get_outputs()] == image
    asked = {value.name: (value.type, len(value.shape)) for value in decoder.get_inputs()}
    assert asked == dict.fromkeys(image, ("tensor(float)", 4)) | {
        "input_points": ("tensor(float)", 4),
        "input_labels": ("tensor(int64)", 3),
    }
    assert {value.name for value in decoder.get_outputs()} == {"iou_scores", "pred_masks"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [PerClick.name, OnePieceDecoder.name, MetaDecoder.name])
def test_what_stays_in_float(name, everything):
    """Positions and the last layers before the masks, for which eight bits are too few."""
    weights = {
        weight.name: weight.data_type for weight in onnx.load(everything / f"{name}_quantized.onnx").graph.initializer
    }
    kept = [key for key in weights if "upscale_first" in key or "upscale_second" in key or "fourier" in key]
    assert len(kept) >= 3 and all(weights[key] == onnx.TensorProto.FLOAT for key in kept)
    assert onnx.TensorProto.INT8 in weights.values()


@pytest.mark.slow
@pytest.mark.parametrize("largest", [0, 60_000])
def test_int8_of_a_large_model(largest, with_text, tmp_path, monkeypatch):
    """Its own weights lie beside it only if they have to."""
    monkeypatch.setattr(onnx_export, "LARGEST_FILE", largest)
    names = export_onnx(with_text, tmp_path, [TextEncoder.name], ["int8", "float32"])
    names = names[:2]  # and the tokenizer
    assert [path.name for path in names] == ["text_encoder_quantized.onnx", "text_encoder.onnx"]
    beside = {path.name for path in tmp_path.glob("*_data")}
    assert beside == {"text_encoder.onnx_data"} | ({"text_encoder_quantized.onnx_data"} if largest == 0 else set())
    ids = torch.randint(1, 900, (2, 16), generator=torch.Generator().manual_seed(0))
    expected = with_text.get_text_embeds(ids[None])[0].detach().numpy()
    for path, tolerance in zip(names, (0.1, 1e-5), strict=True):
        np.testing.assert_allclose(session(path).run(None, {"input_ids": ids.numpy()})[0], expected, atol=tolerance)


def test_documented():
    """Every input and output of every file is in docs/export.md."""
    text = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    for name, part in PARTS.items():
        outputs, inputs = part.outputs, getattr(part, "inputs", PerImage.outputs)
        assert all(f"`{word}`" in text for word in (name, *outputs, *inputs))


@pytest.mark.slow
def test_command_line(plain_checkpoint, tmp_path):
    arguments = ["export", "onnx", plain_checkpoint, tmp_path / "out", "--part", TextEncoder.name]
    run = subprocess.run([sys.executable, "-m", "sam_hf.cli", *map(str, arguments)], capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr.strip().splitlines()[-1].startswith("sam-hf: `parts` has text_encoder")
