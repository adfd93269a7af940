"""A checkpoint keeps its CLIP on the way to the Hub and back: "auto" is judged by it, and calibrated with it."""

import copy
import json
import pickle
import shutil
from pathlib import Path

import pytest

import sam_hf
from sam_hf.hub.publishing import publish
from sam_hf.model.clip_beside import clip_beside, has_clip_beside
from sam_hf.model.clip_loading import EMBEDDED_CLIP
from sam_hf.model.hub_access import fetched_by


@pytest.fixture(scope="module")
def client(hub, run_client):
    hub.start() if hub.server is None else None
    results = run_client("client_clip.py", home="clip")
    hub.faults.clear()
    hub.start()
    return results


def test_the_clip_goes_up_with_its_checkpoint(client, hub):
    clip = {f"clip/{name}" for name in ("open_clip_config.json", "open_clip_model.safetensors", "README.md")}
    assert clip | {"text_calibration.json", "training.json", "README.md"} <= set(client["pushed"])
    assert set(client["pushed"]) == set(hub.files("org/tiny")) - {".gitattributes"}
    assert hub.repos["org/tiny"]["private"]
    assert clip - {"clip/README.md"} <= set(client["pushed_again_from_a_folder"])  # nobody had fetched that one
    assert "open_clip_model.safetensors" in client["without_the_weights_of_the_clip"]["error"]


@pytest.mark.parametrize("way", ["from_the_hub", "stopped", "offline"])
def test_auto_is_judged_by_it_as_at_home(client, way):
    home, there = client["embedded"], client[way]
    assert home["judged_by"] == "learned/tiny" and there["judged_by"].startswith("learned/clip-"), there
    assert home["calibrated"] and there["calibrated"]
    assert there["mask"] == home["mask"] and len(home["mask"]) > 20
    assert there["presence"] == pytest.approx(home["presence"], rel=1e-4) and home["presence"] > 0.5
    assert there["absent"] == pytest.approx(home["absent"], rel=1e-4) and home["absent"] < 0.5


def test_a_segmenter_of_a_loaded_predictor_finds_it_too(client):
    there = client["from_a_predictor"]
    assert there["judged_by"] == client["from_the_hub"]["judged_by"] and there["mask"] == client["embedded"]["mask"]
    assert not there["calibrated"]  # as with "tiny": a predictor has no calibration


def test_its_weights_are_fetched_when_they_are_needed_and_once(client):
    before, after, cached = (client[name] for name in ("heard_before", "heard_after", "heard_from_cache"))
    assert not [request for request in before if "open_clip_model" in request]
    assert len([request for request in after if "GET /cdn/" in request and "open_clip_model" in request]) == 1
    assert cached == ["GET /api/models/org/tiny"]
    assert "red circle" in client["names"]


def test_no_clip_beside_is_no_clip(plain_checkpoint, text_checkpoint, tmp_path):
    for folder in (plain_checkpoint, text_checkpoint):
        model = sam_hf.SamModel.from_pretrained(folder)
        assert not has_clip_beside(model) and clip_beside(model) is None
    assert clip_beside(sam_hf.SamModel(model.config)) is None
    with pytest.raises(ValueError, match="give a CLIP"):
        sam_hf.SamTextSegmenter.from_pretrained(plain_checkpoint, device="cpu").grounding("auto")


@pytest.mark.parametrize(
    ("part", "entry"),
    [
        ("text_cfg", {"hf_model_name": "evil/repo"}),
        ("text_cfg", {"hf_tokenizer_name": "evil/repo", "tokenizer_kwargs": {"trust_remote_code": True}}),
        ("vision_cfg", {"timm_model_name": "hf-hub:evil/repo"}),
    ],
)
def test_one_that_leads_to_others_code_is_not_loaded_unasked(part, entry, text_checkpoint, tmp_path):
    folder = Path(shutil.copytree(text_checkpoint, tmp_path / "checkpoint"))
    shutil.copytree(EMBEDDED_CLIP, folder / "clip")
    assert clip_beside(sam_hf.SamModel.from_pretrained(folder)) == str(folder / "clip")
    config = json.loads((folder / "clip" / "open_clip_config.json").read_text())
    config["model_cfg"][part] |= entry
    (folder / "clip" / "open_clip_config.json").write_text(json.dumps(config))
    segmenter = sam_hf.SamTextSegmenter.from_pretrained(folder, device="cpu")
    for ask in (lambda: segmenter.grounding("auto"), lambda: publish(folder, "org/name", dry_run=True)):
        with pytest.raises(ValueError, match=f"{min(entry)}.*other repositories"):
            ask()
    assert segmenter.grounding("learned").clip is None


def test_pickles_beside_a_checkpoint_are_not_read(text_checkpoint, tmp_path):
    folder = Path(shutil.copytree(text_checkpoint, tmp_path / "checkpoint"))
    shutil.copytree(EMBEDDED_CLIP, folder / "clip")
    (folder / "clip" / "open_clip_model.safetensors").rename(folder / "clip" / "open_clip_pytorch_model.bin")
    with pytest.raises(ValueError, match="has no open_clip_model.safetensors"):
        clip_beside(sam_hf.SamModel.from_pretrained(folder))


def test_a_model_carries_no_token(text_checkpoint):
    model = sam_hf.SamModel.from_pretrained(text_checkpoint, token="hf_SECRET")
    assert fetched_by(model)["token"] == "hf_SECRET" and fetched_by(copy.deepcopy(model)) is None
    assert b"hf_SECRET" not in pickle.dumps(model)
