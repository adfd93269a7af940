"""What conversion refuses: by the name of the file, in one sentence, running nothing and leaving nothing behind."""

import json
import os
import pickle
import zipfile
from argparse import Namespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from sam_hf import SamConfig, SamModel, SamProcessor
from sam_hf.hub.conversion import convert
from sam_hf.hub.meta_names import to_meta_names

VISION = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "output_channels": 32,
    "num_pos_feats": 16,
    "window_size": 2,
    "global_attn_indexes": [1],
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SamModel(SamConfig(vision_config=VISION, mask_decoder_config={"mlp_dim": 16, "iou_head_hidden_dim": 16}))


@pytest.fixture
def weights(model):
    return {name: weight.detach().clone() for name, weight in to_meta_names(model.state_dict()).items()}


class Command:
    """A pickle of this makes a file when it is read as Python reads pickles."""

    def __reduce__(self):
        return os.system, ("touch was_run",)


class ByCode(Command):
    def __reduce__(self):
        return eval, ("open('was_run', 'w')",)


def refused(source, target="target", **options):
    """The sentence by which a conversion is refused; nothing has been written or run."""
    with pytest.raises(ValueError) as caught:
        convert(source, target, **options)
    assert not os.path.exists(target) and not os.path.exists("was_run")
    assert not [name for name in os.listdir() if name.startswith(".sam_hf") or ".partial" in name]
    message = str(caught.value)
    assert "\n" not in message and str(source) in message
    return message


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("code, asked", [(Command, "system"), (ByCode, "eval"), (Namespace, "argparse.Namespace")])
def test_pickles_with_code(weights, code, asked, legacy):
    torch.save({"model": weights, "args": code()}, "evil.pth", _use_new_zipfile_serialization=not legacy)
    assert asked in refused("evil.pth") and "nothing of it was run" in refused("evil.pth")


@pytest.mark.parametrize("protocol", [2, 4])
def test_plain_pickles_and_pickled_models(model, protocol):
    with open("evil.bin", "wb") as file:
        pickle.dump({"w": Command()}, file, protocol=protocol)
    assert "system" in refused("evil.bin")
    torch.save(torch.nn.Linear(2, 2), "module.pt")
    assert "torch.nn.modules.linear.Linear" in refused("module.pt")


def test_folders_with_code(model):
    model.config.save_pretrained("folder")
    torch.save({"w": Command()}, "folder/pytorch_model.bin")
    assert "system" in refused("folder")


def test_old_torch_reads_no_pickle(weights, monkeypatch):
    torch.save(weights, "sam.pth")
    monkeypatch.setattr(torch, "__version__", "2.9.1")
    assert "needs torch 2.10" in refused("sam.pth")


def test_damaged_files(weights, tmp_path):
    torch.save(weights, "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    for name, content in {
        "cut.pth": whole[: len(whole) // 2],
        "empty.pth": b"",
        "text.pth": b"version https://lfs\n",
    }.items():
        (tmp_path / name).write_bytes(content)
        refused(name)
    (tmp_path / "cut.safetensors").write_bytes(b"\xff" * 8 + b"{}")
    refused("cut.safetensors")
    with zipfile.ZipFile("whole.pth") as archive, zipfile.ZipFile("bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        for entry in archive.infolist():
            bomb.writestr(entry.filename, archive.read(entry))
    assert "compressed" in refused("bomb.pth")
    assert "over the cap" in refused("whole.pth", max_bytes=1000)
    endless = []
    endless.append(endless)
    torch.save(endless, "endless.pth")
    assert "got a list" in refused("endless.pth")
    torch.save({"huge": torch.zeros(1).expand(1 << 40)}, "wide.pth")
    assert "unfolds" in refused("wide.pth")


@pytest.mark.parametrize("kind", [list, dict])
def test_containers_that_are_held_many_times_are_looked_into_once(kind):
    """A few KB that are 100 ** 40 things to who follows every path."""
    held = [torch.ones(1)] if kind is list else {"w": torch.ones(1)}
    for _ in range(40):
        held = [held] * 100 if kind is list else dict.fromkeys(map(str, range(100)), held)
    torch.save(held, "bomb.pth")
    assert os.path.getsize("bomb.pth") < 100_000
    assert "got a list" in refused("bomb.pth") if kind is list else "no SAM weights" in refused("bomb.pth")


def test_shards(model):
    model.save_pretrained("shards", max_shard_size="20KB")
    first, second = sorted(name for name in os.listdir("shards") if "-of-" in name)[:2]
    size = sum(entry.stat().st_size for entry in os.scandir("shards") if entry.name.endswith(".safetensors"))
    assert "over the cap" in refused("shards", max_bytes=size - 1)  # no file alone is
    taken = load_file(f"shards/{first}")
    save_file(load_file(f"shards/{second}") | dict([next(iter(taken.items()))]), f"shards/{second}")
    assert f"the weight {next(iter(taken))!r} of" in refused("shards")


CHANGES = {
    "missing": (lambda w: w.pop("mask_decoder.iou_token.weight"), "'mask_decoder.iou_token.weight' is missing"),
    "missing bias": (lambda w: w.pop("image_encoder.neck.1.bias"), "lacks 'vision_encoder.neck.layer_norm1.bias'"),
    "adapter": (lambda w: w.update({"mask_decoder.hf_token.weight": torch.ones(1)}), "'mask_decoder.hf_token.weight'"),
    "lora": (lambda w: w.update({"image_encoder.blocks.0.attn.lora_a": torch.ones(1)}), "lora_a"),
    "shape": (lambda w: w.update({"image_encoder.neck.3.bias": torch.ones(3)}), "another shape"),
    "nan": (lambda w: w["image_encoder.neck.3.bias"].fill_(torch.nan), "not finite"),
    "beside": (lambda w: [w.update({f"sam.{n}": w.pop(n)}) for n in list(w)] + [w.update(x=torch.ones(1))], "'x'"),
    "gap": (lambda w: [w.pop(n) for n in list(w) if ".blocks.0." in n], "gaps"),
    "quantized": (lambda w: w.update({"image_encoder.neck.3.bias": torch.ones(32, dtype=torch.int8)}), "int8"),
    "eight bits": (lambda w: w.update({"image_encoder.neck.3.bias": torch.ones(32).to(torch.float8_e5m2)}), "float8"),
    "integers": (lambda w: w.update({"image_encoder.neck.3.bias": torch.ones(32, dtype=torch.int64)}), "int64"),
    "no values": (lambda w: w.update({"image_encoder.neck.3.bias": torch.ones(32, device="meta")}), "neck.3.bias"),
    "pixels": (lambda w: w.update(pixel_mean=torch.ones(3).to_sparse()), "'pixel_mean' is quantized, sparse"),
    "flat": (lambda w: w.update({"image_encoder.patch_embed.proj.weight": torch.ones(3)}), "must have 4 dimensions"),
    "heads": (lambda w: w.update({"mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight":
                                  torch.ones(12, 32)}), "8 heads"),
    "pruned": (lambda w: w.update({f"image_encoder.blocks.0.attn.{p}.weight": torch.ones(n, 16)
                                   for p, n in zip("qkv", (8, 8, 16), strict=True)}), "globally pruned"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_are_no_sam(weights, change):
    alter, said = CHANGES[change]
    alter(weights)
    torch.save(weights, "odd.pth")
    assert said in refused("odd.pth")


def test_other_models(weights):
    for content, said in {
        "encoder": ({"blocks.0.norm1.weight": torch.ones(2)}, "image encoder alone"),
        "sam2": ({"image_encoder.trunk.pos_embed": torch.ones(2)}, "SAM 2"),
        "list": ([torch.ones(2)], "got a list"),
        "nothing": ({}, "no SAM weights"),
    }.values():
        torch.save(content, "other.pt")
        assert said in refused("other.pt")
    assert "neither SAM's ViT nor" in _without_encoder(weights)


def _without_encoder(weights):
    torch.save({name: value for name, value in weights.items() if "patch_embed" not in name}, "half.pt")
    return refused("half.pt")


@pytest.mark.parametrize("config", [{"num_attention_heads": 0}, {"layer_norm_eps": float("inf")}, {"dtype": "int8"}])
def test_a_configuration_of_nonsense(model, config, tmp_path):
    model.save_pretrained("folder")
    path = tmp_path / "folder/config.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"vision_config": fields["vision_config"] | config}))
    assert next(iter(config)) in refused("folder")


def test_a_byte_order_mark_is_no_damage(model, tmp_path):
    model.save_pretrained("folder")
    path = tmp_path / "folder/config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert convert("folder", "target").layout == "transformers"


def test_names_that_lead_nowhere():
    assert "no file or folder" in refused("absent.pth")
    assert "no file or folder" in refused("./absent")
    assert "the Hub does not give it" in refused("nobody/has-this")  # tests are offline


def test_a_record_that_lies_is_refused(model):
    model.save_pretrained("folder")
    convert("folder", "sam.pth")
    with zipfile.ZipFile("sam.pth") as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    for lie in (
        b'{"config": 3}',
        b'{"config": {"model_type": "llama"}}',
        b'{"image_processor": {"size": 7.5}}',
        b"{",
        b"[]",
    ):
        with zipfile.ZipFile("lie.pth", "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, lie if name.endswith("sam_hf.json") else content)
        if lie == b"[]":  # no record at all: the tensors are enough
            convert("lie.pth", "target")
        else:
            refused("lie.pth")


def test_targets(model, tmp_path, monkeypatch):
    model.save_pretrained("folder")
    convert("folder", "sam.pth")
    kept = (tmp_path / "sam.pth").read_bytes()
    for target, options, said in (
        ("sam.pth", {}, "exists already"),
        ("folder", {}, "exists already"),
        ("folder", {"to": "meta", "overwrite": True}, "is a folder"),
        ("x.safetensors", {}, "ending in .pth"),
        ("x", {"to": "onnx"}, "expected one of"),
        ("sam.pth/x", {}, "cannot write"),
    ):
        with pytest.raises(ValueError, match=said):
            convert("sam.pth" if target != "sam.pth" else "folder", target, **options)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="thesis.txt"):
        convert("folder", "mine", overwrite=True)
    convert("sam.pth", "copy")
    before = sorted(os.listdir("copy"))

    def full_disk(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SamProcessor, "save_pretrained", full_disk)
    monkeypatch.setattr("sam_hf.hub.converted_files.os.replace", full_disk)
    with pytest.raises(ValueError, match="cannot write 'copy': No space left"):
        convert("sam.pth", "copy", overwrite=True)
    with pytest.raises(ValueError, match="cannot write 'sam.pth': No space left"):
        convert("folder", "sam.pth", overwrite=True)
    assert sorted(os.listdir("copy")) == before and (tmp_path / "sam.pth").read_bytes() == kept
    assert sorted(os.listdir()) == ["copy", "folder", "mine", "sam.pth"]


def test_a_replaced_folder_holds_nothing_of_before(model, tmp_path):
    """Shards, unused weights and curves of an earlier checkpoint would be read as the new one's."""
    model.save_pretrained("folder")
    convert("folder", "copy")
    (tmp_path / "copy/model.safetensors").rename(tmp_path / "copy/model-00001-of-00001.safetensors")
    for name in ("model.safetensors.index.json", "unused_weights.safetensors", "text_calibration.json"):
        (tmp_path / "copy" / name).write_text("{}")
    convert("folder", "copy", overwrite=True)
    convert("folder", "fresh")
    for name in os.listdir("fresh"):
        assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()
    assert sorted(os.listdir("copy")) == sorted(os.listdir("fresh"))
    convert("folder", "sam.pth")
    (tmp_path / "sam.pth").write_bytes(b"of before")
    convert("folder", "sam.pth", overwrite=True)
    convert("sam.pth", "back")
    assert (tmp_path / "back/model.safetensors").read_bytes() == (tmp_path / "fresh/model.safetensors").read_bytes()


def test_an_interruption_changes_nothing(model, tmp_path, monkeypatch):
    model.save_pretrained("folder")
    convert("folder", "sam.pth")
    convert("folder", "copy")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def half(weights, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("sam_hf.hub.converted_files.torch.save", half)
    monkeypatch.setattr(SamProcessor, "save_pretrained", lambda self, place: half(None, place / "config.json"))
    for target in ("sam.pth", "new.pth", "copy", "new", "deep/new"):
        with pytest.raises(KeyboardInterrupt):
            convert("folder", target, overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "name", ["train.py", "adapter_model.safetensors", "adapter_config.json", "training_config.json"]
)
def test_what_no_conversion_writes_is_never_replaced(model, tmp_path, name):
    model.save_pretrained("folder")
    convert("folder", "copy")
    (tmp_path / "copy" / name).write_text("mine")
    with pytest.raises(ValueError, match=name):
        convert("folder", "copy", overwrite=True)
    assert (tmp_path / "copy" / name).read_text() == "mine"


def test_sources_in_the_target_are_not_lost(model, tmp_path):
    model.save_pretrained("folder")
    convert("folder", "sam.pth")
    before = (tmp_path / "folder/model.safetensors").read_bytes()
    for source, options in (
        ("folder/model.safetensors", {}),
        ("sam.pth", {"config": "folder/config.json"}),
        ("sam.pth", {"text_from": "folder"}),
    ):
        with pytest.raises(ValueError, match="would be lost|is the text_from itself"):
            convert(source, "folder", overwrite=True, **options)
    assert (tmp_path / "folder/model.safetensors").read_bytes() == before


def test_links_and_the_working_folder(model, tmp_path, monkeypatch):
    model.save_pretrained("folder")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "link.pth").symlink_to("real.pth")
    convert("folder", "link")
    convert("folder", "link.pth")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real/model.safetensors").is_file()
    assert (tmp_path / "link.pth").is_symlink() and (tmp_path / "real.pth").is_file()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    convert("../folder", ".")
    assert os.getcwd() == str(tmp_path / "here") and "model.safetensors" in os.listdir()
    with pytest.raises(ValueError, match="working folder"):
        convert("../folder", ".", overwrite=True)


def test_words_are_checked_before_anything_is_read(monkeypatch):
    monkeypatch.setattr("sam_hf.hub.conversion.read_checkpoint", None)
    with pytest.raises(ValueError, match="variant: expected one of vit_b, .* got 'vit_x'"):
        convert("org/huge", "target", variant="vit_x")
    with pytest.raises(ValueError, match="to: expected one of"):
        convert("org/huge", "target", to="onnx")
