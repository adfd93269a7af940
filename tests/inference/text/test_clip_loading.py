"""Every kind of name finds its CLIP, and every wrong one an answer that says what to write."""

import json
import subprocess
import sys

import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from sam_hf.inference.text.clip_encoder import ClipEncoder
from sam_hf.model import clip_loading
from sam_hf.model.text_encoder import SamTokenizer
from sam_hf.training.clip import build_clip, save_clip
from sam_hf.training.scene_dataset import IMAGE_MEAN, IMAGE_STD

SIZES = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 600, "width": 16, "heads": 2, "layers": 1},
}
WEIGHTS = "open_clip_model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A CLIP of the training code and the folder that it wrote."""
    torch.manual_seed(0)
    clip = build_clip(SIZES).eval()
    return clip, save_clip(clip, tmp_path_factory.mktemp("clips") / "small")


@pytest.fixture
def folder(made, tmp_path):
    """A copy to spoil."""
    for file in made[1].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.parametrize("written", ["{}", "local-dir:{}"])
def test_a_folder_of_the_training_code_is_read_with_its_cut_vocabulary(made, written):
    clip, folder = made
    encoder = ClipEncoder.from_pretrained(written.format(folder), device="cpu")
    ids = SamTokenizer(600, 8)(["red mug"])["input_ids"]
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    normalised = (images / 255 - torch.tensor(IMAGE_MEAN).view(3, 1, 1)) / torch.tensor(IMAGE_STD).view(3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(encoder.texts(["red mug"]), F.normalize(clip.encode_text(ids), dim=-1))
        torch.testing.assert_close(encoder.pictures(images), F.normalize(clip.encode_image(normalised), dim=-1))
    assert encoder.name == written.format(folder) and encoder.image_size == 32
    assert encoder.device.type == "cpu" and encoder.dtype == torch.float32


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16])
def test_a_folder_is_read_in_low_precision(made, dtype):
    low = ClipEncoder.from_pretrained(made[1], device="cpu", dtype=dtype)
    full = ClipEncoder.from_pretrained(made[1], device="cpu")
    assert str(low.dtype).endswith(str(dtype).removeprefix("torch."))
    assert (low.texts(["red mug"]) * full.texts(["red mug"])).sum() > 0.99
    picture = torch.randint(0, 256, (3, 64, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    assert (low.dense(picture, size=64) * full.dense(picture, size=64)).sum(0).min() > 0.98


def test_the_embedded_one_is_called_tiny(made, monkeypatch):
    monkeypatch.setattr(clip_loading, "EMBEDDED_CLIP", made[1])
    assert torch.equal(
        ClipEncoder.from_pretrained("tiny", device="cpu").texts(["mug"]),
        ClipEncoder.from_pretrained(made[1], device="cpu").texts(["mug"]),
    )
    monkeypatch.setattr(clip_loading, "EMBEDDED_CLIP", made[1] / "absent")
    with pytest.raises(OSError, match="no embedded CLIP.*name another"):
        ClipEncoder.from_pretrained("tiny")


def test_an_architecture_with_a_file_of_weights(made, tmp_path, monkeypatch):
    (tmp_path / "small-test-clip.json").write_text(json.dumps(SIZES))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS))
    open_clip.add_model_config(tmp_path)
    encoder = ClipEncoder.from_pretrained(f"small-test-clip/{made[1] / WEIGHTS}", device="cpu")
    torch.testing.assert_close(
        encoder.texts(["red mug"]), ClipEncoder.from_pretrained(made[1], device="cpu").texts(["red mug"])
    )
    with pytest.raises(ValueError, match="its tags are none: give a file"):
        ClipEncoder.from_pretrained("small-test-clip/openai")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B-23/openai", r'expected "ARCHITECTURE/TAG".*did you mean "ViT-B-'),
        ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", '"hf-hub:ORGANISATION/NAME"'),
        ("ViT-B-32", r'expected "ViT-B-32/TAG", got no tag; its tags are .*openai'),
        ("ViT-B-32/", "got no tag"),
        ("ViT-B/32/nobody", r'expected "ViT-B-32/TAG", got the tag \'nobody\'; its tags are .*laion2b_s34b_b79k'),
        ("", r'expected "ARCHITECTURE/TAG"'),
        ("hf-hub:", r'expected "hf-hub:ORGANISATION/NAME"'),
        ("hf-hub:laion", r'expected "hf-hub:ORGANISATION/NAME"'),
        ("ViT-L-14-336/openai", r'want QuickGELU, the model has GELU; use "ViT-L-14-336-quickgelu/openai"'),
    ],
)
def test_wrong_names_are_answered(name, message):
    with pytest.raises(ValueError, match=message):
        ClipEncoder.from_pretrained(name, device="cpu")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ViT-L-14-336-quickgelu/openai", ("ViT-L-14-336-quickgelu", "openai")),
        ("ViT-B/32-quickgelu/openai", ("ViT-B-32-quickgelu", "openai")),
        ("RN50/cc12m", None),
        ("ViT-B-16/laion2b_s34b_b88k", ("ViT-B-16", "laion2b_s34b_b88k")),
        ("hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K", ("hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K", None)),
    ],
)
def test_right_names_are_open_clips(name, expected):
    if expected is None:  # one of open_clip's own that it has under both activations
        with pytest.raises(ValueError, match="RN50-quickgelu/cc12m"):
            clip_loading.resolve(name)
    else:
        assert clip_loading.resolve(name) == expected


def test_without_network_the_error_says_what_to_do(tmp_path):
    for name in ("hf-hub:nobody/nothing", "ViT-B-32-quickgelu/metaclip_400m"):
        with pytest.raises(OSError, match="cannot be fetched.*give a folder.*or a cache_dir"):
            ClipEncoder.from_pretrained(name, device="cpu", cache_dir=tmp_path)


def test_folders_that_hold_no_clip(folder, tmp_path_factory):
    with pytest.raises(OSError, match="there is no folder '.*absent'"):
        ClipEncoder.from_pretrained(f"local-dir:{folder / 'absent'}")
    with pytest.raises(OSError, match="has no open_clip_config.json"):
        ClipEncoder.from_pretrained(tmp_path_factory.mktemp("empty"))
    weights = load_file(folder / WEIGHTS)
    save_file({name: values for name, values in weights.items() if name != "ln_final.weight"}, folder / WEIGHTS)
    with pytest.raises(ValueError, match="does not hold weights that fit its open_clip_config.json"):
        ClipEncoder.from_pretrained(folder, device="cpu")
    save_file(weights | {"ln_final.weight": weights["ln_final.weight"] * torch.nan}, folder / WEIGHTS)
    with pytest.raises(ValueError, match="damaged: its weight 'ln_final.weight' is not finite"):
        ClipEncoder.from_pretrained(folder, device="cpu")
    (folder / WEIGHTS).unlink()
    with pytest.raises(ValueError, match="does not hold weights"):
        ClipEncoder.from_pretrained(folder, device="cpu")
    (folder / "open_clip_config.json").write_text("{")
    with pytest.raises(ValueError, match="does not hold weights that fit"):
        ClipEncoder.from_pretrained(folder, device="cpu")


def test_wrong_devices_types_and_kinds(made):
    with pytest.raises(ValueError, match="device"):
        ClipEncoder.from_pretrained(made[1], device="abacus")
    with pytest.raises(ValueError, match="dtype must be torch.float32"):
        ClipEncoder.from_pretrained(made[1], device="cpu", dtype=torch.float64)
    with pytest.raises(TypeError, match="name must be a string"):
        ClipEncoder.from_pretrained(3, device="cpu")


def test_without_open_clip_the_error_says_what_to_install(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ImportError, match="pip install open_clip_torch"):
        ClipEncoder.from_pretrained(made[1], device="cpu")


def test_open_clip_is_imported_only_when_text_is_used(plain_checkpoint):
    code = f"""
import sys, numpy, sam_hf
predictor = sam_hf.SamPredictor.from_pretrained({str(plain_checkpoint)!r}, device="cpu")
predictor.set_image(numpy.zeros((8, 8, 3), numpy.uint8))
predictor.predict(point_coords=[[4, 4]], point_labels=[1])
print("open_clip" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout == "False\n", ran.stderr
