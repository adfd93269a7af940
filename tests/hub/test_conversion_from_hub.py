"""Checkpoints of the Hub: a file that was not reached is not a file that does not exist."""

import shutil

import pytest
from huggingface_hub import constants

from sam_hf import SamProcessor
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
