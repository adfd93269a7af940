"""Checkpoints of the Hub: over HTTP from a stand-in; and a file that was not reached is none that does not exist."""

import json
import shutil

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from sam_hf import SamModel, SamProcessor, cli
from sam_hf.hub import hub_folders
from sam_hf.hub.conversion import convert

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ABSENT = ("preprocessor_config.json", "model.safetensors.index.json")


@pytest.fixture
def cached(plain_checkpoint, tmp_path, monkeypatch):
    """A whole copy of org/plain in a cache, as it is after it was loaded; tests run offline."""
    repo = tmp_path / "cache/models--org--plain"
    shutil.copytree(plain_checkpoint, repo / "snapshots" / COMMIT)
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text(COMMIT)
    known = repo / ".no_exist" / COMMIT
    known.mkdir(parents=True)
    for name in ABSENT:
        (known / name).touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return repo / "snapshots" / COMMIT, known


def test_a_cached_copy_is_enough(cached, tmp_path):
    folder, known = cached
    settings = SamProcessor.from_pretrained(folder)
    settings.image_processor.image_mean = [0.1, 0.2, 0.3]
    settings.save_pretrained(folder)
    convert("org/plain", "out", revision="main")
    assert list(SamProcessor.from_pretrained("out").image_processor.image_mean) == [0.1, 0.2, 0.3]
    for name in ("processor_config.json", "preprocessor_config.json"):
        (folder / name).unlink(missing_ok=True)
        (known / name).touch()
    convert("org/plain", "without")  # the Hub has said that there is none: SAM's own settings


@pytest.mark.parametrize("lost", ["processor_config.json", "model.safetensors", "config.json"])
def test_what_was_not_reached_is_not_absent(cached, lost):
    folder, _ = cached
    (folder / "pytorch_model.bin").write_bytes(b"a pickle that nobody may fall back to")
    (folder / lost).unlink()
    with pytest.raises(ValueError, match=rf"'org/plain'.*the Hub.*{lost.replace('.', '[.]')}"):
        convert("org/plain", "out")


def test_the_token_goes_to_the_hub(cached, monkeypatch):
    tokens = []
    fetch = hub_folders.hf_hub_download

    def noted(*arguments, token=None, **options):
        tokens.append(token)
        return fetch(*arguments, token=token, **options)

    monkeypatch.setattr(hub_folders, "hf_hub_download", noted)
    convert("org/plain", "out", token="hf_mine")
    assert tokens and set(tokens) == {"hf_mine"}


@pytest.fixture
def online(hub, monkeypatch, tmp_path):
    """online(folder, repo_id): puts a checkpoint into the stand-in, which is what this process takes for the Hub."""
    for name, value in {"ENDPOINT": hub.url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.chdir(tmp_path)
    made = []

    def put(folder, repo_id):
        hub.repos[repo_id] = {"private": False, "gated": False, "refs": {}, "commits": {}, "pulls": 0}
        made.append(repo_id)
        return hub.commit(repo_id, "main", {file.name: file.read_bytes() for file in folder.iterdir()})

    yield put
    hub.faults.clear()
    for repo_id in made:
        del hub.repos[repo_id]


def test_a_hub_id_over_http(online, plain_checkpoint, tmp_path, capsys):
    commit = online(plain_checkpoint, "someone/sam-vit-tiny")
    with pytest.raises(SystemExit) as ended:
        cli.main(["convert", "someone/sam-vit-tiny", "sam.pth", "--json"])
    assert ended.value.code == 0 and json.loads(capsys.readouterr().out)["layout"] == "meta"
    convert("sam.pth", "folder")
    given, got = (load_file(place / "model.safetensors") for place in (plain_checkpoint, tmp_path / "folder"))
    assert given.keys() == got.keys() and all(torch.equal(given[name], got[name]) for name in given)
    facts = json.loads((tmp_path / "folder/training.json").read_text())
    assert (facts["kind"], facts["base_model"]) == ("converted", "someone/sam-vit-tiny")
    assert facts["conversion"]["source"] == "someone/sam-vit-tiny" and facts["conversion"]["revision"] == commit


def test_shards_and_words_come_along(online, hub, text_checkpoint, tmp_path):
    model = SamModel.from_pretrained(text_checkpoint)
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    SamProcessor.from_pretrained(text_checkpoint).save_pretrained(tmp_path / "shards")
    (tmp_path / "shards/training.json").write_text(json.dumps({"kind": "text", "base_model": "someone/base"}))
    (tmp_path / "shards/text_calibration.json").write_text("{}")
    online(tmp_path / "shards", "someone/text")
    assert "shards" in convert("someone/text", "copy").notes[0]
    got = SamModel.from_pretrained("copy").state_dict()
    assert all(torch.equal(weight, got[name]) for name, weight in model.state_dict().items())
    facts = json.loads((tmp_path / "copy/training.json").read_text())
    assert (facts["kind"], facts["base_model"]) == ("text", "someone/base")
    assert len(facts["conversion"]["sha256"]) == len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert (tmp_path / "copy/text_calibration.json").read_text() == "{}"
    hub.stop()  # what is in the cache is enough
    try:
        assert convert("someone/text", "again").parameters == sum(weight.numel() for weight in model.parameters())
    finally:
        hub.start()


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        ({"status": {"GET /resolve/": 503}}, "'someone/plain'.*the Hub does not give it"),
        ({"cut": {"model.safetensors": 1000}}, "'someone/plain'.*the Hub does not give it"),
    ],
    ids=["no answer", "half a download"],
)
def test_what_the_hub_does_not_give_is_no_checkpoint(faults, said, online, hub, plain_checkpoint, tmp_path):
    online(plain_checkpoint, "someone/plain")
    hub.faults |= faults
    with pytest.raises(ValueError, match=said):
        convert("someone/plain", "out")
    hub.faults.clear()
    assert not (tmp_path / "out").exists()
    convert("someone/plain", "out")  # and afterwards it goes on


def test_an_unknown_hub_id(online, tmp_path):
    with pytest.raises(ValueError, match="'someone/nothing' is no file or folder here, and the Hub does not give it"):
        convert("someone/nothing", "out")
    assert not (tmp_path / "out").exists()
