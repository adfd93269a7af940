"""Bad checkpoints are refused in a sentence that names the file, by every door; odd ones are said to be odd."""

import json
import logging
import os
import shutil
import struct
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from sam_hf import SamAutomaticMaskGenerator, SamConfig, SamModel, SamPredictor, SamProcessor, SamVisionModel
from sam_hf.cli import app
from sam_hf.model.configuration_sam import SamTextConfig
from sam_hf.model.weight_checks import check_shapes, check_weight_files

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(plain_checkpoint, tmp_path):
    """A good checkpoint, to be spoilt."""
    return Path(shutil.copytree(plain_checkpoint, tmp_path / "spoilt"))


def _rewrite(folder: Path, change) -> None:
    """`change` alters the dictionary of weights."""
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def _raw(folder: Path, header: bytes | dict, data: bytes = b"", length: int | None = None) -> None:
    header = json.dumps(header).encode() if isinstance(header, dict) else header
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)


def _config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _part(folder: Path, **changes) -> None:
    parts = json.loads((folder / "config.json").read_text())
    _config(folder, vision_config=parts["vision_config"] | changes)


def _cut(folder):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def _pickle(folder):
    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {folder / 'executed'}",)

    (folder / WEIGHTS).unlink()
    torch.save({"weight": Bomb()}, folder / "pytorch_model.bin")


def _index(folder, *names, delete=True):
    keys = sorted(load_file(folder / WEIGHTS))
    mapping = {key: names[number % len(names)] for number, key in enumerate(keys)}
    content = {"metadata": {"total_size": 1}, "weight_map": mapping}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    if delete:
        (folder / WEIGHTS).rename(folder.parent / "outside.safetensors")


def _twice_in_two_shards(folder):
    _index(folder, "a.safetensors", "b.safetensors", delete=False)
    for name in "ab":
        shutil.copy(folder / WEIGHTS, folder / f"{name}.safetensors")
    (folder / WEIGHTS).unlink()


def _wide(folder):
    _config(
        folder, vision_config={**json.loads((folder / "config.json").read_text())["vision_config"]} | {"mlp_dim": 9}
    )


def _folder_as_file(folder):
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()


def _fill(value):
    def change(weights):
        weights["mask_decoder.iou_token.weight"].view(-1)[3] = value

    return lambda folder: _rewrite(folder, change)


def _stored_as(dtype):
    def change(weights):
        weights["mask_decoder.iou_token.weight"] = weights["mask_decoder.iou_token.weight"].to(dtype)

    return lambda folder: _rewrite(folder, change)


def _buffer(folder):
    _rewrite(folder, lambda weights: weights["shared_image_embedding.positional_embedding"].fill_(torch.nan))


ZERO = {"image_size": 64, "patch_size": 0, "output_channels": 16, "num_pos_feats": 8}
ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
DOUBLE = b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
# What is done to a checkpoint; what is said about it.
BAD = {
    "cut in two": (_cut, r"model\.safetensors'.*cut short"),
    "no bytes": (lambda f: (f / WEIGHTS).write_bytes(b""), r"model\.safetensors' is empty"),
    "five bytes": (lambda f: (f / WEIGHTS).write_bytes(b"12345"), "no header of safetensors in its 5 bytes"),
    "a header of 2^63 bytes": (lambda f: _raw(f, b"{}", length=2**63), r"model\.safetensors'.*no header"),
    "a header longer than the file": (lambda f: _raw(f, b"{}", length=99), r"model\.safetensors'.*no header"),
    "a header that is no JSON": (lambda f: _raw(f, b"\xff\xfe{}"), r"model\.safetensors' is damaged"),
    "a header that is a list": (lambda f: _raw(f, b"[1]"), r"model\.safetensors' is damaged"),
    "a header a mile deep": (lambda f: _raw(f, b'{"a":' * 9999 + b"1" + b"}" * 9999), "is damaged"),
    "a name twice": (lambda f: _raw(f, DOUBLE, bytes(8)), "'x' stands twice"),
    "overlapping weights": (lambda f: _raw(f, {"a": ENTRY, "b": ENTRY}, bytes(8)), r"model\.safetensors' is damaged"),
    "a gap": (lambda f: _raw(f, {"a": ENTRY | {"data_offsets": [8, 16]}}, bytes(16)), "is damaged"),
    "an unknown type of number": (lambda f: _raw(f, {"a": ENTRY | {"dtype": "F9"}}, bytes(8)), "is damaged"),
    "a pointer of Git LFS": (lambda f: (f / WEIGHTS).write_text("version https://git-lfs..."), "git lfs pull"),
    "a web page": (lambda f: (f / WEIGHTS).write_text("<!DOCTYPE html>" * 9), r"model\.safetensors'.*no header"),
    "a folder for weights": (_folder_as_file, r"has no model\.safetensors"),
    "a pickle": (_pickle, "pickle only.*run code.*use_safetensors=False"),
    "another architecture": (lambda f: save_file({"bert.weight": torch.ones(2)}, f / WEIGHTS), "another.*bert.weight"),
    "no weight at all": (lambda f: save_file({}, f / WEIGHTS), "another architecture.*none at all"),
    "another width": (_wide, r"do not fit its config\.json: 'vision_encoder.*has the shape .* says"),
    "NaN": (_fill(torch.nan), r"damaged: 'mask_decoder\.iou_token\.weight' is not finite"),
    "infinity": (_fill(-torch.inf), r"'mask_decoder\.iou_token\.weight' is not finite"),
    "whole numbers": (_stored_as(torch.int32), r"'mask_decoder\.iou_token\.weight' of .* is stored as I32: expected"),
    "yes and no": (_stored_as(torch.bool), "is stored as BOOL: expected floating point"),
    "eight bits": (_stored_as(torch.float8_e4m3fn), "is stored as F8_E4M3: expected floating point"),
    "NaN in a buffer": (_buffer, "positional_embedding' is not finite"),
    "an index that leads outside": (lambda f: _index(f, "../outside.safetensors"), r"'\.\./outside.*lies outside"),
    "an index of absolute names": (lambda f: _index(f, "/etc/passwd"), "'/etc/passwd', which lies outside"),
    "a shard missing": (lambda f: _index(f, "a.safetensors"), r"'a\.safetensors', which .*index\.json' names"),
    "shards that overlap": (_twice_in_two_shards, "is in another file of the checkpoint as well"),
    "config.json is no JSON": (lambda f: (f / "config.json").write_text("{"), r"config\.json' is not JSON"),
    "config.json is binary": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\0"), r"config\.json' is not JSON"),
    "config.json is empty": (lambda f: (f / "config.json").write_text(""), r"config\.json' is not JSON"),
    "config.json is a list": (lambda f: (f / "config.json").write_text("[]"), r"config\.json' must be a JSON object"),
    "config.json a mile deep": (lambda f: (f / "config.json").write_text("[" * 99999), r"config\.json' is not JSON"),
    "no config.json": (lambda f: (f / "config.json").unlink(), r"no config\.json"),
    "nothing": (lambda f: (shutil.rmtree(f), f.mkdir()), r"no config\.json"),
    "another type": (lambda f: _config(f, model_type="bert"), "type 'bert'; expected one of"),
    "sizes that are no numbers": (lambda f: _config(f, vision_config={"image_size": "big"}), "image_size"),
    "a part that is a list": (
        lambda f: _config(f, vision_config=[1]),
        r"config\.json of .*`vision_config` must be an",
    ),
    "a text part that is a list": (lambda f: _config(f, text_config=["x"]), r"config\.json of .*`text_config` must"),
    "no such activation": (lambda f: _part(f, hidden_act="nope"), r"config\.json of .*hidden_act` .*got 'nope'"),
    "a patch of -4": (lambda f: _part(f, patch_size=-4), r"config\.json of .*patch_size` must not be negative"),
    "blocks that are not there": (
        lambda f: _part(f, num_hidden_layers=99),
        r"no weight of 'vision_encoder\.layers\.2' is there, one of 99 blocks .*; 97 of them are missing",
    ),
    "layers without end": (lambda f: _part(f, num_hidden_layers=10**9), "num_hidden_layers` must be at most 1000"),
    "no head": (lambda f: _part(f, num_attention_heads=0), "num_attention_heads` must be at least 1; got 0"),
    "an epsilon that is no number": (
        lambda f: _part(f, layer_norm_eps=float("nan")),
        "layer_norm_eps` must be finite",
    ),
    "a model of eight bits": (
        lambda f: _config(f, dtype="float8_e4m3fn"),
        r"config\.json of .*`dtype` must be one of",
    ),
    "a model of whole numbers": (lambda f: _part(f, dtype="int8"), r"config\.json of .*`dtype` .*got 'int8'"),
    "another's text tower": (
        lambda f: _config(f, model_type="sam_hf", text_config={"tower": {"hf_model_name": "evil/repo"}}),
        r"config\.json of .*`text_config\.tower` has the entries \['hf_model_name'\]",
    ),
    "sizes of nothing": (lambda f: _config(f, vision_config=ZERO, prompt_encoder_config=ZERO), "damaged"),
}


@pytest.mark.parametrize(("spoil", "said"), BAD.values(), ids=BAD)
def test_it_is_refused(spoil, said, folder, caplog):
    spoil(folder)
    with caplog.at_level(logging.WARNING), pytest.raises((ValueError, OSError), match=said) as caught:
        SamModel.from_pretrained(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert str(folder.name) in str(caught.value) or "image_size" in said
    assert "LOAD REPORT" not in caplog.text
    assert not (folder / "executed").exists()


@pytest.mark.parametrize(
    "name", ["cut in two", "NaN", "a pickle", "another architecture", "config.json is empty", "a part that is a list"]
)
def test_every_door_refuses_it(name, folder, tmp_path, capsys):
    spoil, said = BAD[name]
    spoil(folder)
    for door in (SamPredictor, SamAutomaticMaskGenerator):
        with pytest.raises((ValueError, OSError), match=said):
            door.from_pretrained(folder, device="cpu")
    picture = tmp_path / "picture.png"
    from PIL import Image

    Image.new("RGB", (8, 8)).save(picture)
    asked = ["segment", str(picture), "--point", "1,1", "--out", str(tmp_path / "out"), "--model", str(folder)]
    result = CliRunner().invoke(app, asked, standalone_mode=False)
    problem = str(result.exception)
    assert type(result.exception).__name__ == "UsageProblem" or result.exception.exit_code in (1, 2)
    assert "\n" not in problem and str(folder.name) in problem
    assert not (folder / "executed").exists()


def test_a_pickle_that_is_asked_for_runs_no_code(folder):
    _pickle(folder)
    with pytest.raises(Exception, match="(?i)weights|pickle"):
        SamModel.from_pretrained(folder, use_safetensors=False)
    assert not (folder / "executed").exists()
    weights = SamModel(SamConfig.from_pretrained(folder)).state_dict()
    torch.save(weights, folder / "pytorch_model.bin")
    assert SamModel.from_pretrained(folder, use_safetensors=False) is not None


@pytest.mark.parametrize("version", ["2.9.1", "2.9.0+cu128", "2.6.0"])
def test_a_pickle_is_not_read_by_a_torch_that_has_known_holes(version, folder, tmp_path, monkeypatch):
    torch.save(SamModel.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
    monkeypatch.setattr(torch, "__version__", version)
    read = []
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: read.append(args))
    for door in (SamModel, SamPredictor):
        with pytest.raises(ValueError, match="spoilt' needs torch 2.10 or later.*CVE-2026-24747"):
            door.from_pretrained(folder, use_safetensors=False)
    assert not read and SamModel.from_pretrained(folder) is not None  # safetensors, which are there as well


def _as_if_downloaded(folder: Path, cache: Path) -> None:
    snapshot = cache / "models--org--sam" / "snapshots" / ("a" * 40)
    shutil.copytree(folder, snapshot)
    (cache / "models--org--sam" / "refs").mkdir()
    (cache / "models--org--sam" / "refs" / "main").write_text("a" * 40)


@pytest.mark.parametrize("name", ["cut in two", "a name twice", "NaN", "another width", "another type", "a pickle"])
def test_what_came_from_the_hub_is_refused_as_well(name, folder, tmp_path):
    _as_if_downloaded(folder, tmp_path / "good")
    SamModel.from_pretrained("org/sam", cache_dir=tmp_path / "good", local_files_only=True)
    spoil, said = BAD[name]
    spoil(folder)
    _as_if_downloaded(folder, tmp_path / "cache")
    said = "no model.safetensors of .org/sam.*use_safetensors=False" if name == "a pickle" else said
    with pytest.raises((ValueError, OSError), match=said):
        SamModel.from_pretrained("org/sam", cache_dir=tmp_path / "cache", local_files_only=True)
    assert not (folder / "executed").exists()


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c"])
def test_a_folder_that_is_not_there(name):
    with pytest.raises(OSError, match="there is no checkpoint folder"):
        SamModel.from_pretrained(name)


def test_a_file_instead_of_a_folder(folder, tmp_path):
    with pytest.raises(OSError, match="is a file: name the folder"):
        SamModel.from_pretrained(folder / WEIGHTS)
    (tmp_path / "sam_vit_b.pth").write_bytes(b"PK")
    with pytest.raises(OSError, match="convert"):
        SamPredictor.from_pretrained(tmp_path / "sam_vit_b.pth")


def test_weights_of_another_type_of_number_that_overflow(folder):
    _rewrite(folder, lambda weights: weights["mask_decoder.iou_token.weight"].fill_(1e6))
    SamModel.from_pretrained(folder)
    with pytest.raises(ValueError, match="not finite in float16"):
        SamModel.from_pretrained(folder, dtype=torch.float16)


def test_a_missing_weight_is_listed_and_a_predictor_refuses_it(folder, caplog):
    _rewrite(folder, lambda weights: weights.pop("mask_decoder.iou_token.weight"))
    with caplog.at_level(logging.WARNING):
        SamModel.from_pretrained(folder)
    assert caplog.text.count("mask_decoder.iou_token.weight") == 1 and "lacks 1 weights" in caplog.text
    with pytest.raises(ValueError, match="lacks 1 weights"):
        SamPredictor.from_pretrained(folder, device="cpu")


def test_a_missing_text_branch_is_listed_once_and_plainly(plain_checkpoint, text_checkpoint, caplog):
    config = SamConfig.from_pretrained(text_checkpoint)
    with caplog.at_level(logging.WARNING):
        model, found = SamModel.from_pretrained(plain_checkpoint, config=config, output_loading_info=True)
        assert not caplog.records  # who asks for the lists has them
        SamModel.from_pretrained(plain_checkpoint, config=config)
    assert {key for key in model.state_dict() if ".text_" in key} == set(found["missing_keys"])
    (record,) = caplog.records
    assert "has no text branch: 20 weights of it are missing" in record.getMessage()
    assert record.getMessage().count("prompt_encoder.text_projection.weight") == 1


def test_blocks_that_are_not_there_take_no_memory(folder, monkeypatch):
    """They are refused before fresh weights are made for them."""
    monkeypatch.setattr("sam_hf.model.pretrained_sam.PreTrainedModel._load_pretrained_model", None)
    _part(folder, num_hidden_layers=99)
    for load in (SamModel, SamVisionModel):
        with pytest.raises(ValueError, match="97 of them are missing"):
            load.from_pretrained(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_floating_point_and_counters_are_read(dtype, folder):
    """A file may hold whole numbers where the model counts, or has no place for them."""

    def change(weights):
        weights["mask_decoder.iou_token.weight"] = weights["mask_decoder.iou_token.weight"].to(dtype)
        weights["somewhere.else"] = torch.ones(2, dtype=torch.int64)

    _rewrite(folder, change)
    assert SamModel.from_pretrained(folder).mask_decoder.iou_token.weight.isfinite().all()
    counting = torch.nn.BatchNorm1d(2)
    save_file(counting.state_dict(), folder / "norm.safetensors")
    check_shapes(check_weight_files([folder / "norm.safetensors"]), counting, folder)


def test_mismatches_can_be_let_through(folder, caplog):
    _wide(folder)
    with caplog.at_level(logging.WARNING):
        model = SamModel.from_pretrained(folder, ignore_mismatched_sizes=True)
    assert "starts afresh" in caplog.text
    assert all(weight.isfinite().all() for weight in model.parameters())


def test_entries_that_nobody_reads_are_said(folder, caplog):
    vision = json.loads((folder / "config.json").read_text())["vision_config"]
    _config(folder, windows=3, vision_config=vision | {"pach_size": 4}, transformers_version="99.1.0")
    with caplog.at_level(logging.WARNING):
        SamModel.from_pretrained(folder)
    assert "does not know, and that do nothing: vision_config.pach_size, windows (misspelt" in caplog.text
    assert "saved by transformers 99.1.0, which is newer" in caplog.text


OLD_FIELDS = {"add_cross_attention": False, "top_k": 50, "torchscript": False, "id2label": {"0": "LABEL_0"}}


def test_good_ones_are_loaded_without_a_word(plain_checkpoint, text_checkpoint, tmp_path, caplog):
    old = Path(shutil.copytree(plain_checkpoint, tmp_path / "old"))  # as transformers 4 wrote the Hub's
    parts = json.loads((old / "config.json").read_text())
    for part in ("vision_config", "prompt_encoder_config", "mask_decoder_config"):
        parts[part] |= OLD_FIELDS | {"model_type": ""}
    parts["vision_config"] |= {"projection_dim": 512, "initializer_factor": 1.0, "dropout": 0.0}
    _config(
        old, **(parts | OLD_FIELDS | {"transformers_version": None, "torch_dtype": "float32", "_commit_hash": None})
    )
    stock = tmp_path / "stock"
    transformers.SamModel.from_pretrained(plain_checkpoint).save_pretrained(stock)
    sharded = tmp_path / "sharded"
    SamModel.from_pretrained(plain_checkpoint).save_pretrained(sharded, max_shard_size="20KB")
    assert len(list(sharded.glob("model-*"))) > 2
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        for good in (plain_checkpoint, text_checkpoint, old, stock, sharded, "tiny"):
            SamModel.from_pretrained(good)
        SamVisionModel.from_pretrained(plain_checkpoint)
    assert not [record for record in caplog.records if "sam_hf" in record.name or "LOAD" in record.getMessage()]


@pytest.mark.parametrize("name", ["evil/repo", "flash_attention_2", "nope"])
def test_only_the_caller_chooses_how_attention_is_computed(name, folder, text_checkpoint, monkeypatch):
    """A configuration that names a kernel of the Hub would have it fetched and run."""
    monkeypatch.setattr("transformers.modeling_utils.lazy_import_flash_attention", None)
    for good in (folder, Path(shutil.copytree(text_checkpoint, folder.parent / "text"))):
        said = {"_attn_implementation": name, "attn_implementation": name, "_experts_implementation": name}
        _part(good, **said)
        _config(good, **said, _attn_implementation_internal=name)
        for load in (SamModel, SamVisionModel):
            assert load.from_pretrained(good).config._attn_implementation == "sdpa"
            model = load.from_pretrained(good, attn_implementation="eager")
            assert model.vision_encoder.config._attn_implementation == "eager"
        assert name not in SamConfig.from_pretrained(good).to_json_string()
    assert transformers.AutoModel.from_pretrained(good).config._attn_implementation == "sdpa"


@pytest.mark.parametrize("file", ["processor_config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", b"\xff"])
def test_a_processor_that_is_no_json(file, content, folder):
    (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=f"{file}' (is not JSON|must be a JSON object)"):
        SamProcessor.from_pretrained(folder)
    with pytest.raises(ValueError, match=file):
        SamPredictor.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize("content", ["x", {"size": "big"}, {"image_mean": {}, "size": {"width": 1}}])
def test_a_processor_whose_parts_are_of_the_wrong_kind(content, folder):
    (folder / "preprocessor_config.json").write_text(json.dumps(content if isinstance(content, dict) else {}))
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": content}))
    with pytest.raises(ValueError, match="spoilt"):
        SamProcessor.from_pretrained(folder)
    with pytest.raises(ValueError, match="spoilt"):
        SamPredictor.from_pretrained(folder, device="cpu")


SETTINGS = {
    "deviations of nothing": ({"image_std": [0, 0, 0]}, "`image_std` must be above 0"),
    "means that are no numbers": ({"image_mean": [float("nan")] * 3}, "`image_mean` must be three finite numbers"),
    "means in words": ({"image_mean": "x"}, "`image_mean` must be three finite numbers; got 'x'"),
    "two means": ({"image_mean": [0.5, 0.5]}, "`image_mean` must be three finite numbers"),
    "a factor that is no number": ({"rescale_factor": float("nan")}, "`rescale_factor` must be a finite number"),
    "a factor of nothing": ({"rescale_factor": 0}, "`rescale_factor` must be above 0"),
    "an edge below nothing": ({"size": {"longest_edge": -5}}, "`size.longest_edge` must be 1 to 16384 pixels; got -5"),
    "an edge without end": ({"size": {"longest_edge": 10**6}}, "`size.longest_edge` must be 1 to 16384"),
    "a frame without end": ({"pad_size": {"height": 64, "width": 10**6}}, "`pad_size.width` must be 1 to 16384"),
    "masks of nothing": ({"mask_pad_size": {"height": 0, "width": 0}}, "`mask_pad_size.height` must be 1 to"),
}


@pytest.mark.parametrize(("settings", "said"), SETTINGS.values(), ids=SETTINGS)
def test_a_processor_whose_settings_no_picture_can_have(settings, said, folder):
    for name in ("processor_config.json", "preprocessor_config.json"):
        content = json.loads((folder / name).read_text())
        content.get("image_processor", content).update(settings)
        (folder / name).write_text(json.dumps(content))
    for backend in ("torchvision", "pil"):
        with pytest.raises(ValueError, match=f"spoilt' is damaged: {said}"):
            SamProcessor.from_pretrained(folder, backend=backend)
    with pytest.raises(ValueError, match=said):
        SamPredictor.from_pretrained(folder, device="cpu")


def test_a_tower_of_the_allowed_options_is_kept():
    tower = {"no_causal_mask": True, "pool_type": "last"}
    assert SamTextConfig(tower=tower).tower == tower
    for refused in ({"hf_tokenizer_name": "evil/repo"}, {"hf_model_pretrained": True}, {"width": 9}):
        with pytest.raises(ValueError, match="not fetched"):
            SamTextConfig(tower=tower | refused)


def test_a_byte_order_mark_is_no_damage(folder):
    path = folder / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert SamModel.from_pretrained(folder).config.vision_config.num_hidden_layers == 2


def test_a_home_folder_is_found(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("USERPROFILE", str(folder.parent))
    assert SamModel.from_pretrained("~/spoilt") is not None
    assert SamProcessor.from_pretrained(Path("~/spoilt")) is not None


def test_unknown_words_of_saving_are_refused(folder, tmp_path):
    model = SamModel.from_pretrained(folder)
    with pytest.raises(TypeError, match="max_shard'"):
        model.save_pretrained(tmp_path / "out", max_shard="1GB")
    assert not (tmp_path / "out").exists()
    model.save_pretrained(tmp_path / "out", is_main_process=True, save_function=torch.save, safe_serialization=True)
    assert (tmp_path / "out" / WEIGHTS).exists()
