"""What goes to the Hub and what does not, over HTTP to a stand-in; and what is refused before anything is sent."""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import HfApi, ModelCard, ModelCardData, constants
from safetensors.torch import load, load_file, save_file

import sam_hf
from sam_hf.hub.publishing import publish
from sam_hf.hub.upload import removed_files
from sam_hf.inference.text.segmenter import find_calibration
from sam_hf.model import pushing

NEEDED = {"config.json", "model.safetensors", "processor_config.json", "preprocessor_config.json", "README.md"}
PICTURES = {f"examples/{name}" for name in ("scene.png", "point.png", "box.png", "everything.png", "prompts.json")}


@pytest.fixture
def checkpoint(plain_checkpoint, tmp_path):
    """A copy of a plain checkpoint's folder, to add things to."""
    folder = tmp_path / "checkpoint"
    sam_hf.SamModel.from_pretrained(plain_checkpoint).save_pretrained(folder)
    sam_hf.SamProcessor.from_pretrained(plain_checkpoint).save_pretrained(folder)
    return folder


def test_a_text_checkpoint_goes_up_whole(owner, hub):
    done, files = owner["text"], hub.files("org/text")
    assert NEEDED | PICTURES | {"examples/text.png", "modeling_sam.py", "processing_sam.py"} <= set(done["files"])
    assert set(done["files"]) == set(files) - {".gitattributes"}
    assert None not in done["sizes"] and done["pr"] is None
    assert done["url"].startswith(hub.url)
    assert json.loads(files["config.json"])["auto_map"]["AutoModelForMaskGeneration"] == "modeling_sam.SamModel"
    assert b"](examples/point.png)" in files["README.md"]
    record = json.loads(files["examples/prompts.json"])
    assert [prompt["overlay"] for prompt in record["prompts"]][-1] == "text.png"
    assert all(files[f"examples/{prompt['overlay']}"].startswith(b"\x89PNG") for prompt in record["prompts"])


def test_a_plain_checkpoint_carries_no_code(owner, hub):
    code, out, _ = owner["plain_by_command"]
    assert code == 0 and "org/plain" in out
    files = hub.files("org/plain", "next")
    assert not [name for name in files if name.endswith(".py")]
    config = json.loads(files["config.json"])
    assert config["model_type"] == "sam" and "auto_map" not in config
    assert json.loads(files["preprocessor_config.json"])["image_processor_type"] == "SamImageProcessor"


def test_a_dry_run_lists_everything_and_sends_nothing(owner):
    assert "org/never" not in owner["dry_run"]["repos"]
    assert set(owner["dry_run"]["files"]) == set(owner["text"]["files"])


def test_publishing_again_changes_nothing(owner):
    assert owner["text_again"] == owner["text"]["url"]


def test_the_command_and_its_options(owner, hub):
    ran = owner["commands"]
    code, out, _ = ran["dry run"]
    assert code == 0 and "org/commanded" not in ran["repositories"]
    assert "model.safetensors\t" in out and "nothing was sent" in out
    for name in ("private", "branch", "pull request", "pull request goes on"):
        assert ran[name][0] == 0, ran[name]
    assert f"-> {hub.url}/org/commanded/commit/" in ran["private"][1]
    assert f"-> {hub.url}/org/commanded/discussions/1" in ran["pull request"][1]
    repo = hub.repos["org/commanded"]
    assert repo["private"] and set(repo["refs"]) == {"main", "next", "refs/pr/1"}
    assert ModelCard(hub.files("org/commanded")["README.md"].decode()).data.license == "mit"
    assert all("model.safetensors" in hub.files("org/commanded", ref) for ref in repo["refs"])
    for name, words in (("pull request on a branch", "create_pr"), ("without a token", "hf auth login")):
        code, out, err = ran[name]
        assert code == 2 and words in err.splitlines()[-1] and "Traceback" not in err, ran[name]


def test_branches_and_pull_requests_leave_main_alone(owner, hub):
    assert owner["pull_request"] == f"{hub.url}/org/plain/discussions/1"
    commits = hub.repos["org/plain"]["refs"]
    assert len({commits["main"], commits["next"], commits["refs/pr/1"]}) == 3
    assert "modeling_sam.py" in hub.files("org/plain", "refs/pr/1")
    assert "revision" in owner["pull_request_on_a_branch"]["error"]


def test_an_interrupted_upload_leaves_the_repository_and_goes_on(owner):
    assert "org/plain" in owner["interrupted"]["error"] and "OSError" in owner["interrupted"]["kinds"]
    assert "model.safetensors" in owner["plain_after_interruption"]
    shards = [name for name in owner["resumed"] if name.startswith("model-")]
    assert len(shards) == len(owner["shards"]) > 2
    assert [owner["log"].count(f"PUT /lfs/{shard}") for shard in owner["shards"]] == [1, 1, 2]


def test_weights_of_another_cut_are_removed(owner):
    assert "model.safetensors" not in owner["resumed"]
    assert "model.safetensors.index.json" in owner["resumed"]


def test_push_to_hub_as_in_transformers(owner, hub):
    for name in ("org/pushed", "org/saved"):
        assert NEEDED - {"README.md"} | {"modeling_sam.py"} <= set(owner["transformers_way"][name])
    assert hub.repos["org/saved"]["private"] and not hub.repos["org/pushed"]["private"]


def test_pushing_a_model_is_one_commit_with_its_card_and_what_lies_beside_it(owner, hub):
    assert owner["own_card"] == [["POST /api/models/org/beside/commit/main"]] * 2
    commits = [content for content in hub.repos["org/beside"]["commits"].values() if "config.json" in content]
    shards = [[name for name in content if name.startswith("model-")] for content in commits]
    assert 2 <= len(shards[0]) < len(shards[1]) and not set(shards[0]) & set(shards[1])  # the old ones are gone
    files = hub.files("org/beside")
    card = ModelCard(files["README.md"].decode())
    assert card.data.base_model == "facebook/sam-vit-base" and "mine" in card.data.tags
    assert 'from_pretrained("org/beside")' in card.text and "12 pictures" in card.text
    assert "text_calibration.json" in files and json.loads(files["training.json"])["kind"] == "text"


def test_what_lies_beside_other_weights_stays(owner, hub):
    changed = hub.files("org/changed")  # trained since
    assert not {"training.json", "text_calibration.json"} & set(changed)
    assert "base_model" not in ModelCard(changed["README.md"].decode()).data.to_dict()
    branch = hub.files("org/beside", "changed")
    assert not [name for name in branch if name.startswith("model-") or name.endswith(".index.json")]
    assert "model.safetensors" in branch and branch["README.md"] == hub.files("org/beside")["README.md"]
    assert b"library_name: transformers" in hub.files("org/vision")["README.md"]  # no SAM of its own to describe


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("no_token", "hf auth login"),
        ("read_token", "may not write"),
        ("stopped_publish", "run it again"),
        ("not_private_any_more", "is public"),
    ],
)
def test_what_the_hub_refuses_is_said_with_the_repository(owner, step, words):
    assert "org/plain" in owner[step]["error"] and words in owner[step]["error"], owner[step]


def test_only_what_a_reader_needs_leaves_the_machine(checkpoint):
    for name in ("optimizer.pt", ".env", "pytorch_model.bin", "runs/events.1", "deep/examples/a.png", "notes.py"):
        place = checkpoint / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("secret")
    for name in ("onnx/vision_encoder.onnx", "training.json", "text_calibration.json", "examples/mine.png", "LICENSE"):
        place = checkpoint / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("{}")
    done = publish(checkpoint, "org/name", dry_run=True)
    assert not {"optimizer.pt", ".env", "pytorch_model.bin", "runs/events.1", "deep/examples/a.png", "notes.py"} & set(
        done.files
    )
    assert {"optimizer.pt", ".env", "pytorch_model.bin"} <= set(done.left_out)
    assert {"onnx/vision_encoder.onnx", "training.json", "text_calibration.json", "LICENSE"} <= set(done.files)
    assert [name for name in done.files if name.startswith("examples/")] == ["examples/mine.png"]


def test_the_users_folder_is_not_changed(checkpoint):
    (checkpoint / "preprocessor_config.json").unlink()
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    done = publish(checkpoint, "org/name", dry_run=True, examples=False)
    assert done.files["preprocessor_config.json"] > 0
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == before


def test_what_links_lead_to_elsewhere_stays_there(checkpoint, tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    (checkpoint / "evaluation.json").symlink_to(secret)
    with pytest.raises(ValueError, match="evaluation.json.*leads outside"):
        publish(checkpoint, "org/name", dry_run=True, examples=False)
    (checkpoint / "evaluation.json").unlink()
    (checkpoint / "training.json").symlink_to("config.json")  # in the same folder
    assert "training.json" in publish(checkpoint, "org/name", dry_run=True, examples=False).files
    cached = tmp_path / "models--org--name" / "snapshots" / "abc"
    blobs = tmp_path / "models--org--name" / "blobs"
    for folder in (cached, blobs):
        folder.mkdir(parents=True)
    for path in checkpoint.iterdir():
        path.rename(blobs / f"blob-{path.name}") if not path.is_symlink() else path.unlink()
    for path in blobs.iterdir():
        (cached / path.name.removeprefix("blob-")).symlink_to(Path("../../blobs") / path.name)
    assert NEEDED <= set(publish(cached, "org/name", dry_run=True, examples=False).files)


def test_weights_that_nobody_reads_stay_here(checkpoint):
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.fp16.safetensors"):
        (checkpoint / name).write_bytes((checkpoint / "model.safetensors").read_bytes())
    done = publish(checkpoint, "org/name", dry_run=True, examples=False)
    assert [name for name in done.files if name.endswith(".safetensors")] == ["model.safetensors"]
    assert "model.fp16.safetensors" in done.left_out and "model-00001-of-00002.safetensors" in done.left_out


def _truncate(folder: Path):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def _not_finite(folder: Path):
    weights = load_file(folder / "model.safetensors")
    weights["mask_decoder.iou_token.weight"][:] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _another_architecture(folder: Path):
    save_file({"bert.weight": torch.ones(2)}, folder / "model.safetensors", {"format": "pt"})


def _one_missing(folder: Path):
    weights = load_file(folder / "model.safetensors")
    del weights["mask_decoder.iou_token.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _both_cuts(folder: Path):
    sam_hf.SamModel.from_pretrained(folder).save_pretrained(folder / "shards", max_shard_size="40KB")
    for path in (folder / "shards").glob("model*"):
        path.rename(folder / path.name)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_truncate, "model.safetensors"),
        (_both_cuts, "both"),
        (lambda folder: (folder / "config.json").unlink(), "config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "safetensors"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
        (_not_finite, "not finite"),
        (_another_architecture, "another architecture"),
        (_one_missing, "lacks 1 weights"),
    ],
    ids=["truncated", "both cuts", "no config", "no weights", "no JSON", "NaN", "another architecture", "one missing"],
)
def test_damaged_checkpoints_stay_here(checkpoint, spoil, words):
    spoil(checkpoint)
    with pytest.raises((ValueError, OSError), match=words):
        publish(checkpoint, "org/name", dry_run=True, examples=False)


class Repository:
    """What `removed_files` asks of the Hub."""

    def __init__(self, names: list[str], config: dict):
        self.names, self.config = names, config

    def model_info(self, repo_id, **kwargs):
        return SimpleNamespace(sha="a" * 40, siblings=[SimpleNamespace(rfilename=name) for name in self.names])

    def hf_hub_download(self, repo_id, name, revision, local_dir):
        assert (name, revision) == ("config.json", "a" * 40)
        Path(local_dir, name).write_text(json.dumps(self.config))
        return str(Path(local_dir, name))


OTHERS = ["config.json", "layers.py", "README.md", "model.fp16.safetensors", "model_best.safetensors"]
OTHERS += ["pytorch_model_lora.bin", "deep/model.safetensors"]
OLD = ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "pytorch_model.bin"]


def test_what_is_others_stays_in_the_repository(tmp_path):
    code = ["layers.py", "modeling_sam.py"]
    foreign = Repository(OTHERS + OLD, {"auto_map": {"AutoModel": "layers.Mine"}})
    ours = Repository([*OTHERS, *OLD, "modeling_sam.py"], {"auto_map": {"AutoModel": "modeling_sam.SamModel"}})
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("new")
    assert removed_files(foreign, "org/name", None, tmp_path, code) == OLD
    assert removed_files(ours, "org/name", None, tmp_path, code) == sorted([*OLD, *code])
    for name in code:
        (tmp_path / name).write_text("new")
    assert removed_files(ours, "org/name", None, tmp_path, code) == OLD


@pytest.fixture
def here(hub, monkeypatch):
    """`push_to_hub` and `publish` of this process go to the stand-in."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("sam_hf.model.pushing.HfApi", partial(HfApi, endpoint=hub.url))
    monkeypatch.setattr("sam_hf.hub.publishing.HfApi", partial(HfApi, endpoint=hub.url))
    hub.faults.clear()
    if hub.server is None:
        hub.start()
    return hub


def add_files(hub, repo_id: str, ref: str = "main", **files: str) -> None:
    more = {name.replace("__", "/").replace("_DOT_", "."): content.encode() for name, content in files.items()}
    hub.commit(repo_id, ref, hub.files(repo_id, ref) | more)


def weights_of(content: bytes) -> torch.Tensor:
    return load(content)["mask_decoder.iou_token.weight"]


def test_what_was_saved_is_what_is_pushed(here, plain_checkpoint, tmp_path):
    model = sam_hf.SamModel.from_pretrained(plain_checkpoint)
    other = {name: weight + 1 for name, weight in model.state_dict().items()}
    pushing_it = {"push_to_hub": True, "token": "hf_writer"}
    model.save_pretrained(tmp_path / "a", state_dict=other, repo_id="org/given", **pushing_it)
    pushed = here.files("org/given")["model.safetensors"]
    assert pushed == (tmp_path / "a" / "model.safetensors").read_bytes()
    assert torch.equal(weights_of(pushed), model.mask_decoder.iou_token.weight + 1)
    model.save_pretrained(tmp_path / "b", variant="fp16", repo_id="org/given", **pushing_it)
    files = here.files("org/given")
    assert "model.fp16.safetensors" in files and files["model.safetensors"] == pushed


DERIVED = ["training_DOT_json", "text_calibration_DOT_json", "evaluation_DOT_json", "evaluation_text_DOT_json"]
DERIVED += ["unused_weights_DOT_safetensors", "onnx__decoder_DOT_onnx", "pytorch_model_DOT_bin"]


def test_saving_other_weights_puts_aside_what_was_said_of_the_old(checkpoint, caplog):
    said = ("training.json", "text_calibration.json", "evaluation.json")
    for name in said:
        (checkpoint / name).write_text("{}")
    model = sam_hf.SamModel.from_pretrained(checkpoint)
    model.save_pretrained(checkpoint)
    model.save_pretrained(checkpoint, max_shard_size="40KB")
    assert all((checkpoint / name).exists() for name in said)
    with torch.no_grad():
        model.mask_decoder.iou_token.weight.add_(1.0)
    model.save_pretrained(checkpoint, variant="mine")  # beside the others
    assert all((checkpoint / name).exists() for name in said)
    model.save_pretrained(checkpoint)
    assert not any((checkpoint / name).exists() for name in said)
    assert all((checkpoint / f"{name}.earlier").exists() for name in said)
    assert "training.json" not in publish(checkpoint, "org/name", dry_run=True, examples=False).files
    assert find_calibration(checkpoint) is None


@pytest.mark.parametrize("way", ["push", "publish"])
def test_what_was_made_of_other_weights_goes(here, checkpoint, way):
    model, repo_id = sam_hf.SamModel.from_pretrained(checkpoint), f"org/derived-{way}"

    def send():
        if way == "push":
            return model.push_to_hub(repo_id, token="hf_writer")
        model.save_pretrained(checkpoint)
        return publish(checkpoint, repo_id, examples=False, token="hf_writer")

    send()
    kept = {"clip__mine_DOT_txt": "", "notes_DOT_md": "", "examples__point_DOT_png": "", "onnx__mine_DOT_txt": ""}
    add_files(here, repo_id, **dict.fromkeys(DERIVED, "{}"), **kept)
    send()  # the same weights: what is said of them holds
    assert {"training.json", "onnx/decoder.onnx"} <= set(here.files(repo_id))
    assert "pytorch_model.bin" not in here.files(repo_id)  # the same weights in a file that nobody should read
    with torch.no_grad():
        model.mask_decoder.iou_token.weight.add_(1.0)
    send()
    left = set(here.files(repo_id))
    names = {name.replace("__", "/").replace("_DOT_", ".") for name in DERIVED}
    assert not names & left and {"clip/mine.txt", "notes.md", "examples/point.png", "onnx/mine.txt"} <= left


def test_a_push_that_is_to_be_private_is_not_public(here, plain_checkpoint):
    model = sam_hf.SamModel.from_pretrained(plain_checkpoint)
    model.push_to_hub("org/open", token="hf_writer")
    before = here.repos["org/open"]["refs"]["main"]
    with pytest.raises(ValueError, match="private: 'org/open' exists already and is public"):
        model.push_to_hub("org/open", private=True, token="hf_writer")
    assert here.repos["org/open"]["refs"]["main"] == before


def test_the_card_is_that_of_the_branch_and_an_empty_form_is_none(here, plain_checkpoint):
    model, repo_id = sam_hf.SamModel.from_pretrained(plain_checkpoint), "org/cards"
    HfApi(endpoint=here.url, token="hf_writer").create_repo(repo_id)
    form = ModelCard.from_template(ModelCardData(tags=["x"]), model_description=pushing.AUTOMATIC)
    add_files(here, repo_id, README_DOT_md=str(form))
    model.push_to_hub(repo_id, token="hf_writer", tags="mine")
    card = ModelCard(here.files(repo_id)["README.md"].decode())
    assert "More Information Needed" not in card.text and 'from_pretrained("org/cards")' in card.text
    assert "mine" in card.data.tags
    here.repos[repo_id]["refs"]["next"] = here.repos[repo_id]["refs"]["main"]
    add_files(here, repo_id, "next", README_DOT_md="---\nlicense: mit\n---\n# On a branch\n")
    add_files(here, repo_id, "main", README_DOT_md="# On main\n")
    model.push_to_hub(repo_id, token="hf_writer", revision="next")
    assert b"# On a branch" in here.files(repo_id, "next")["README.md"]


def test_what_goes_is_said(owner, checkpoint, monkeypatch):
    assert owner["resumed_removed"] == ["model.safetensors"]
    monkeypatch.setattr("sam_hf.hub.publishing.HfApi", lambda **options: Repository(OTHERS + OLD, {}))
    (checkpoint / "unused_weights.safetensors").write_bytes(b"x")
    done = publish(checkpoint, "org/name", dry_run=True, examples=False)
    assert done.removed == OLD and "unused_weights.safetensors" in done.files


def test_a_licence_is_for_the_card_that_is_written(checkpoint):
    unstated, stated = (
        publish(checkpoint, "org/n", dry_run=True, examples=False, license=name) for name in (None, "mit")
    )
    assert unstated.files["README.md"] != stated.files["README.md"]
    with pytest.raises(ValueError, match="license: expected the Hub's name"):
        publish(checkpoint, "org/n", dry_run=True, license="My own licence")
    (checkpoint / "README.md").write_text("---\nlicense: mit\n---\n# Mine")
    with pytest.raises(ValueError, match="license: .*README.md' says it already"):
        publish(checkpoint, "org/n", dry_run=True, license="mit")


def test_wrong_arguments_are_named(checkpoint, plain_checkpoint, text_checkpoint):
    with pytest.raises(ValueError, match="[Rr]epo id"):
        publish(checkpoint, "not/a/name", dry_run=True)
    with pytest.raises(TypeError, match="source"):
        publish(3, "org/name", dry_run=True)
    with pytest.raises(OSError, match="no checkpoint folder"):
        publish(checkpoint / "nowhere", "org/name", dry_run=True)
    with pytest.raises(TypeError, match="processor"):
        publish(sam_hf.SamModel.from_pretrained(plain_checkpoint), "org/name", dry_run=True)
    with pytest.raises(ValueError, match="processor"):
        sam_hf.SamProcessor.from_pretrained(text_checkpoint).save_pretrained(checkpoint)
        publish(checkpoint, "org/name", dry_run=True)
