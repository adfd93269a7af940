"""Conversion, both ways: every weight comes back bit by bit, and both sides' own code gives the same masks."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import segment_anything
import torch
import transformers
from meta_twin import VITS, meta_of
from safetensors import safe_open
from safetensors.torch import load_file

from sam_hf import SamConfig, SamImageProcessor, SamModel, SamPredictor, SamProcessor, cli
from sam_hf.hub.conversion import convert
from sam_hf.hub.converted_files import LAYOUTS
from sam_hf.hub.meta_names import TIED, to_meta_names, to_our_names
from sam_hf.hub.variants import VARIANTS, check_variant, infer_config, meta_differences

VISION = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 72,
    "patch_size": 8,
    "output_channels": 32,
    "num_pos_feats": 16,
    "window_size": 4,
    "global_attn_indexes": [1],
}
# Meta's eight heads and epsilon, which no tensor tells.
DECODER = {"mlp_dim": 24, "num_attention_heads": 8, "iou_head_hidden_dim": 12, "layer_norm_eps": 1e-5}
TEXT = {"embed_dim": 8, "context_length": 16, "vocab_size": 600, "width": 16, "heads": 2, "layers": 1}
TOLERANCE = 1e-5  # of the range of the logits


def random_model(seed=0, decoder=None, text=False, alignment=False, **vision):
    """A small model in which every weight matters."""
    config = SamConfig(
        vision_config=VISION | vision,
        mask_decoder_config=DECODER | (decoder or {}),
        text_config=TEXT | {"alignment": alignment} if text else None,
    )
    model = SamModel(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            scale = (weight[0].numel() if weight.ndim > 1 and weight.shape[0] > 1 else 4) ** -0.5
            weight.add_(scale * torch.randn(weight.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture(scope="module")
def meta(model):
    return meta_of(model)


@pytest.fixture
def pth(meta, tmp_path):
    path = tmp_path / "sam.pth"
    torch.save(meta.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text") / "checkpoint"
    model = random_model(text=True)
    model.save_pretrained(folder)
    return folder


def weights_of(path):
    return torch.load(path, weights_only=True)


def same(first, second):
    return set(first) == set(second) and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]) for name in first
    )


def spread(ours, theirs):
    return float((ours - theirs).abs().max() / (theirs.max() - theirs.min()))


def meta_masks(meta, pixels, points, labels, box):
    with torch.no_grad():
        embedding = meta.image_encoder(pixels)
        sparse, dense = meta.prompt_encoder((points, labels), box, None)
        return meta.mask_decoder(embedding, meta.prompt_encoder.get_dense_pe(), sparse, dense, True)


PROMPT = {
    "pixels": torch.randn(1, 3, 72, 72, generator=torch.Generator().manual_seed(3)),
    "points": torch.tensor([[[20.0, 31.0], [50.5, 9.0]]]),
    "labels": torch.tensor([[1, 0]]),
    "box": torch.tensor([[10.0, 12.0, 60.0, 55.0]]),
}


def masks(model, prompt=PROMPT):
    with torch.no_grad():
        output = model(
            prompt["pixels"],
            input_points=prompt["points"][None],
            input_labels=prompt["labels"][None],
            input_boxes=prompt["box"][None],
        )
    return output.pred_masks[0], output.iou_scores[0]


def test_masks_are_those_of_meta_and_of_stock_transformers(meta, pth, tmp_path):
    convert(pth, tmp_path / "folder")
    theirs = meta_masks(meta, **PROMPT)
    for loaded in (SamModel, transformers.SamModel, transformers.AutoModelForMaskGeneration, transformers.AutoModel):
        for got, expected in zip(masks(loaded.from_pretrained(tmp_path / "folder").eval()), theirs, strict=True):
            assert spread(got, expected) < TOLERANCE, loaded
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "folder")
    assert processor.image_processor.size == {"longest_edge": 72}
    assert isinstance(SamProcessor.from_pretrained(tmp_path / "folder"), SamProcessor)


def test_predictor_answers_as_metas(meta, pth, tmp_path):
    convert(pth, tmp_path / "folder")
    image = np.random.default_rng(0).integers(0, 256, (50, 72, 3), dtype=np.uint8)  # not resized: no filter differs
    click = {"point_coords": np.array([[30, 20]]), "point_labels": np.array([1])}
    answers = []
    for predictor in (segment_anything.SamPredictor(meta), SamPredictor.from_pretrained(tmp_path / "folder")):
        predictor.set_image(image)
        answers.append(predictor.predict(**click))
    assert answers[0][0].shape == answers[1][0].shape == (3, 50, 72)
    assert 0 < answers[0][0].mean() < 1 and (answers[0][0] == answers[1][0]).mean() > 0.999
    np.testing.assert_allclose(answers[0][1], answers[1][1], atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_there_and_back_is_bit_by_bit(meta, tmp_path, dtype):
    source = {name: weight.to(dtype) for name, weight in meta.state_dict().items()}
    torch.save(source, tmp_path / "sam.pth")
    there = convert(tmp_path / "sam.pth", tmp_path / "folder", to="transformers")
    assert (
        there.dtype == str(dtype).removeprefix("torch.") == json.load(open(tmp_path / "folder/config.json"))["dtype"]
    )
    back = convert(tmp_path / "folder", tmp_path / "back.pth")
    assert any("and stay so" in note for note in there.notes) == (dtype != torch.float32)
    assert (there.layout, back.layout) == ("transformers", "meta")
    assert same(weights_of(tmp_path / "back.pth"), source)
    meta_of(random_model(1)).load_state_dict(weights_of(tmp_path / "back.pth"))  # strict, by Meta's own names
    convert(tmp_path / "back.pth", tmp_path / "again")
    assert same(load_file(tmp_path / "again/model.safetensors"), load_file(tmp_path / "folder/model.safetensors"))


def test_what_no_tensor_tells_comes_back_too(tmp_path):
    model = random_model(decoder={"num_attention_heads": 2, "layer_norm_eps": 1e-6}, layer_norm_eps=1e-5)
    model.save_pretrained(tmp_path / "folder")
    done = convert(tmp_path / "folder", tmp_path / "sam.pt")
    assert any("1e-05 in Meta's code" in note for note in done.notes)
    convert(tmp_path / "sam.pt", tmp_path / "again")
    for got, expected in zip(masks(SamModel.from_pretrained(tmp_path / "again").eval()), masks(model), strict=True):
        assert torch.equal(got, expected)


NOTED = {
    "mask_decoder_config.num_attention_heads": 2,
    "mask_decoder_config.layer_norm_eps": 1e-6,
    "mask_decoder_config.hidden_act": "gelu",
    "prompt_encoder_config.layer_norm_eps": 1e-5,
    "prompt_encoder_config.hidden_act": "relu",
    "vision_config.hidden_act": "relu",
    "vision_config.layer_norm_eps": 1e-5,
    "image_processor.image_mean": [0.5, 0.5, 0.5],
    "image_processor.image_std": [0.5, 0.5, 0.5],
    "image_processor.rescale_factor": 1 / 127.5,
    "image_processor.do_rescale": False,
    "image_processor.do_normalize": False,
}


def differences(vision, name=None, value=None):
    config, images = SamConfig(vision_config=vision, mask_decoder_config={"layer_norm_eps": 1e-5}), SamImageProcessor()
    if name is not None:
        part, field = name.split(".")
        setattr(images if part == "image_processor" else getattr(config, part), field, value)
    return meta_differences(config, images)


@pytest.mark.parametrize("name", NOTED)
def test_what_metas_code_has_otherwise_is_said(name):
    (note,) = differences(VISION, name, NOTED[name])
    assert note.startswith(f"{name} is ") and "in Meta's code" in note


@pytest.mark.parametrize(("name", "value"), [("image_size", 512), ("strides", [2, 2, 2])])
def test_what_mobile_sams_code_has_otherwise_is_said(name, value):
    vision = {"model_type": "sam_tiny_vit"}
    (note,) = differences(vision, f"vision_config.{name}", value)
    assert note.startswith(f"vision_config.{name} is ") and "in MobileSAM's code" in note
    assert not differences(vision) and not differences(VISION)


def test_both_names_of_the_shared_matrix(model, tmp_path):
    weights = dict(model.state_dict())
    meta_weights = to_meta_names(weights)
    assert len(meta_weights) == len(weights) - 1
    back = to_our_names(meta_weights)
    assert same(back, weights)
    weights[TIED] = weights[TIED] + 1
    torch.save(weights, tmp_path / "apart.bin")
    with pytest.raises(ValueError, match="one matrix in SAM"):
        convert(tmp_path / "apart.bin", tmp_path / "folder")


def test_weights_saved_from_transformers_without_a_configuration(tmp_path):
    """`torch.save(model.state_dict())` of a fine-tuned transformers model, whose epsilon is not Meta's."""
    stock = random_model(decoder={"layer_norm_eps": 1e-6})
    torch.save({"model": stock.state_dict()}, tmp_path / "tuned.pt")
    convert(tmp_path / "tuned.pt", tmp_path / "folder")
    loaded = transformers.SamModel.from_pretrained(tmp_path / "folder").eval()
    assert loaded.config.mask_decoder_config.layer_norm_eps == 1e-6
    for got, expected in zip(masks(loaded), masks(stock), strict=True):
        assert spread(got, expected) < TOLERANCE


WRAPPERS = {
    "model": lambda weights: {"model": weights, "epoch": 3, "optimizer": {"state": {}}},
    "module": lambda weights: {"state_dict": {f"module.{name}": value for name, value in weights.items()}},
    "compiled": lambda weights: {f"model._orig_mod.{name}": value for name, value in weights.items()},
    "lightning": lambda weights: {"state_dict": {f"net.sam.{name}": value for name, value in weights.items()}},
    "encoder only": lambda weights: {
        name.replace("image_encoder.", "image_encoder.module."): value for name, value in weights.items()
    },
    "split attention": lambda weights: {
        name.replace("qkv", part): value.chunk(3)["qkv".index(part)] if "qkv" in name else value
        for name, value in weights.items()
        for part in ("qkv" if "qkv" in name else "q")
    },
    "pixels": lambda weights: weights | {"pixel_mean": torch.full((3, 1, 1), 127.5)},
}


@pytest.mark.parametrize("kind", WRAPPERS)
def test_wrapped_and_prefixed_checkpoints(meta, tmp_path, kind):
    weights = meta.state_dict()
    torch.save(WRAPPERS[kind](dict(weights)), tmp_path / "tuned.pth")
    done = convert(tmp_path / "tuned.pth", tmp_path / "plain.pth")
    assert same(weights_of(tmp_path / "plain.pth"), weights)
    assert kind == "pixels" or len(done.notes) > 1  # one is about the decoder's heads
    convert(tmp_path / "tuned.pth", tmp_path / "folder")
    mean = SamProcessor.from_pretrained(tmp_path / "folder").image_processor.image_mean
    assert list(mean) == ([0.5] * 3 if kind == "pixels" else [0.485, 0.456, 0.406])


def test_one_of_several_models(meta, tmp_path):
    weights = meta.state_dict()
    other = {name: value + 1 for name, value in weights.items()}
    torch.save({"model": weights, "ema": {"sam": other}}, tmp_path / "two.pth")
    with pytest.raises(ValueError, match="'ema.sam', 'model'"):
        convert(tmp_path / "two.pth", tmp_path / "one.pth")
    convert(tmp_path / "two.pth", tmp_path / "one.pth", key="ema.sam")
    assert same(weights_of(tmp_path / "one.pth"), other)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "vit_t"])
def test_published_variants_are_told_from_their_tensors(name):
    width, blocks, mlp = VARIANTS[name]
    vision = VITS.get(name.replace("_", "-")) or {
        "hidden_size": width,
        "mlp_dim": mlp,
        "global_attn_indexes": [2, 5, 8, 11],
    }
    with torch.device("meta"):
        weights = to_meta_names(SamModel(SamConfig(vision_config=vision)).state_dict())
    config, notes = infer_config(weights)
    expected = SamConfig(vision_config=vision, mask_decoder_config={"layer_norm_eps": 1e-5})
    for part in ("vision_config", "prompt_encoder_config", "mask_decoder_config"):
        assert getattr(config, part).to_diff_dict() == getattr(expected, part).to_diff_dict()
    assert not notes and config.vision_config.num_hidden_layers == blocks
    check_variant(name, config, "x.pth")
    for wrong in {"vit_b", "vit-l"} - {name, name.replace("_", "-")}:
        with pytest.raises(ValueError, match=rf"no {wrong.replace('-', '_')}: .*{name} \(ViT, width {width}"):
            check_variant(wrong, config, "x.pth")


def test_shards_and_pickled_folders(model, tmp_path):
    model.save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert "shards" in convert(tmp_path / "shards", tmp_path / "one.pth").notes[0]
    assert same(weights_of(tmp_path / "one.pth"), to_meta_names(model.state_dict()))
    next((tmp_path / "shards").glob("model-00002*")).unlink()
    with pytest.raises(ValueError, match="lacks the shard 'model-00002"):
        convert(tmp_path / "shards", tmp_path / "two.pth")
    (tmp_path / "old").mkdir()
    model.config.save_pretrained(tmp_path / "old")
    torch.save(model.state_dict(), tmp_path / "old/pytorch_model.bin")
    convert(tmp_path / "old", tmp_path / "new")
    assert same(
        load_file(tmp_path / "new/model.safetensors"), {n: w for n, w in model.state_dict().items() if n != TIED}
    )


def test_text_goes_only_when_told_to(text_folder, tmp_path):
    for to in ("meta", "transformers"):
        with pytest.raises(ValueError, match="no place for the text branch.*drop_text"):
            convert(text_folder, tmp_path / "plain", to=to)
    done = convert(text_folder, tmp_path / "plain", to="transformers", drop_text=True)
    assert any("text branch" in note and "left out" in note for note in done.notes)
    stock, report = transformers.SamModel.from_pretrained(tmp_path / "plain", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    convert(tmp_path / "plain", tmp_path / "again", text_from=text_folder)
    assert same(load_file(tmp_path / "again/model.safetensors"), load_file(text_folder / "model.safetensors"))
    with safe_open(tmp_path / "again/model.safetensors", framework="pt") as file:
        assert any(name.startswith("prompt_encoder.text_") for name in file.keys())  # noqa: SIM118
    assert SamProcessor.from_pretrained(tmp_path / "again").text_config["vocab_size"] == TEXT["vocab_size"]
    assert transformers.AutoConfig.from_pretrained(tmp_path / "again").model_type == "sam_hf"


def test_what_was_fitted_to_the_others_image_encoder_stays_behind(tmp_path):
    curves = {"learned": {"slope": 1.0, "offset": 0.0, "threshold": 0.5}}
    donor = random_model(text=True, alignment=True)
    donor.save_pretrained(tmp_path / "donor")
    (tmp_path / "donor/text_calibration.json").write_text(json.dumps(curves))
    convert(tmp_path / "donor", tmp_path / "same", to="transformers", drop_text=True)
    done = convert(tmp_path / "same", tmp_path / "whole", text_from=tmp_path / "donor")
    assert same(load_file(tmp_path / "whole/model.safetensors"), load_file(tmp_path / "donor/model.safetensors"))
    assert json.loads((tmp_path / "whole/text_calibration.json").read_text()) == curves
    assert not any("stayed behind" in note for note in done.notes)

    own = {"dense/x": curves["learned"]}
    random_model(seed=1).save_pretrained(tmp_path / "other")
    (tmp_path / "other/text_calibration.json").write_text(json.dumps(own))
    done = convert(tmp_path / "other", tmp_path / "mixed", text_from=tmp_path / "donor")
    assert "its alignment and calibration stayed behind, being of another image encoder" in done.notes
    mixed, report = SamModel.from_pretrained(tmp_path / "mixed", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert mixed.config.text_config.alignment is False and mixed.prompt_encoder.text_alignment is None
    tower = donor.prompt_encoder.text_encoder.state_dict()
    assert same(mixed.prompt_encoder.text_encoder.state_dict(), tower)
    assert json.loads((tmp_path / "mixed/text_calibration.json").read_text()) == own  # of what it has kept

    random_model(seed=2, text=True).save_pretrained(tmp_path / "third")
    (tmp_path / "third/text_calibration.json").write_text(json.dumps(curves))
    convert(tmp_path / "third", tmp_path / "replaced", text_from=tmp_path / "donor")
    assert not (tmp_path / "replaced/text_calibration.json").exists()


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["convert", *map(str, arguments)])
    return ended.value.code


def test_command_line(pth, tmp_path, capsys):
    assert run(pth, tmp_path / "folder", "--to", "transformers") == 0
    printed = capsys.readouterr()
    assert "custom (ViT, width 24, 3 blocks" in printed.out and "heads; 8 assumed" in printed.err
    assert run(tmp_path / "folder", tmp_path / "back.pth", "--json") == 0
    assert json.loads(capsys.readouterr().out)["layout"] == "meta"
    for arguments, said in {
        (tmp_path / "absent.pth", tmp_path / "x"): "there is no file or folder",
        (pth, tmp_path / "folder"): "exists already",
        (pth, tmp_path / "x", "--variant", "vit_l"): "no vit_l: its weights are those of custom (ViT, width 24",
        (pth, tmp_path / "x.pth", "--to", "sam_hf"): "is a folder",
        (pth, pth, "--overwrite"): "is the source itself",
    }.items():
        assert run(*arguments) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sam-hf: ")]
        assert len(lines) == 1 and said in lines[0]
        assert not (tmp_path / "x").exists() and not (tmp_path / "x.pth").exists()


def test_documented(capsys):
    """Every option and every setting that a note may name is in docs/convert.md, and README leads there."""
    root = Path(__file__).parents[2]
    text = (root / "docs" / "convert.md").read_text()
    assert run("--help") == 0
    options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}
    assert len(options) > 8 and not {option for option in options if option not in text}
    for layout in LAYOUTS:
        assert f"`{layout}`" in text
    assert "docs/convert.md" in (root / "README.md").read_text()


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_published_sizes(name, tmp_path):
    torch.manual_seed(0)
    meta = segment_anything.sam_model_registry[name]().eval()
    torch.save(meta.state_dict(), tmp_path / "sam.pth")
    convert(tmp_path / "sam.pth", tmp_path / "folder", variant=name)
    convert(tmp_path / "folder", tmp_path / "back.pth")
    assert same(weights_of(tmp_path / "back.pth"), meta.state_dict())
    prompt = PROMPT | {"pixels": torch.randn(1, 3, 1024, 1024), "box": PROMPT["box"] * 10}
    theirs = meta_masks(meta, **prompt)
    for loaded in (SamModel, transformers.SamModel):
        for got, expected in zip(
            masks(loaded.from_pretrained(tmp_path / "folder").eval(), prompt), theirs, strict=True
        ):
            assert spread(got, expected) < 1e-4
