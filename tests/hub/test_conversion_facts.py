"""What a converted checkpoint says of where it comes from, and what a model card makes of it."""

import hashlib
import json
import shutil

import pytest
import torch

from sam_hf import SamModel
from sam_hf.hub import conversion_facts
from sam_hf.hub.conversion import convert
from sam_hf.hub.meta_names import to_meta_names
from sam_hf.hub.model_card import card_for


@pytest.fixture
def pth(plain_checkpoint, tmp_path):
    """Bare weights by Meta's names."""
    path = tmp_path / "elsewhere" / "sam_vit_b_01ec64.pth"
    path.parent.mkdir()
    torch.save(to_meta_names(SamModel.from_pretrained(plain_checkpoint).state_dict()), path)
    return path


def facts(folder):
    return json.loads((folder / "training.json").read_text(encoding="utf-8"))


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_is_named_by_its_content_and_no_base_is_guessed(pth, tmp_path):
    convert(pth, tmp_path / "folder")
    origin = {"source": pth.name, "sha256": {pth.name: sha256(pth)}}
    assert facts(tmp_path / "folder") == {
        "conversion": origin,
        "kind": "converted",
    }  # Meta's name, but not Meta's file
    assert "base_model" not in card_for(tmp_path / "folder", model_name="org/mine").split("---")[1]


def test_a_published_file_is_known(pth, tmp_path, monkeypatch):
    monkeypatch.setitem(conversion_facts.PUBLISHED, sha256(pth), "facebook/sam-vit-base")
    convert(pth, tmp_path / "folder")
    assert facts(tmp_path / "folder")["base_model"] == "facebook/sam-vit-base"
    card = card_for(tmp_path / "folder", model_name="org/mine")
    assert "\nbase_model: facebook/sam-vit-base\n" in card.split("---")[1]
    assert "The weights of facebook/sam-vit-base in another layout" in card
    # On its way through Meta's layout and back nothing is forgotten, and the first source stays the source.
    convert(tmp_path / "folder", tmp_path / "back.pth")
    convert(tmp_path / "back.pth", tmp_path / "again")
    assert facts(tmp_path / "again") == facts(tmp_path / "folder")


def test_no_place_of_this_machine_is_told(pth, tmp_path, monkeypatch):
    monkeypatch.chdir(pth.parent)
    convert(pth.name, "../folder")
    monkeypatch.chdir("../folder")
    convert(".", "../again.pth")
    written = [tmp_path / "folder/training.json", tmp_path / "folder/config.json", tmp_path / "again.pth"]
    for file in written:
        assert str(tmp_path).encode() not in file.read_bytes() and b"elsewhere" not in file.read_bytes()


def test_what_a_training_has_said_goes_along(text_checkpoint, tmp_path):
    trained = tmp_path / "trained"
    shutil.copytree(text_checkpoint, trained)
    said = {"kind": "text", "base_model": "facebook/sam-vit-base", "clip": "ViT-B-16", "training_steps": 7}
    (trained / "training.json").write_text(json.dumps(said | {"load_name": "org/trained", "parameters": 1}))
    convert(trained, tmp_path / "copy")
    assert {name: facts(tmp_path / "copy").get(name) for name in (*said, "load_name")} == said | {"load_name": None}
    assert facts(tmp_path / "copy")["conversion"]["source"] == "trained"
    convert(trained, tmp_path / "plain", drop_text=True)
    assert set(facts(tmp_path / "plain")) == {"base_model", "conversion"}  # nothing of a text branch that is not there
    convert(tmp_path / "plain", tmp_path / "again", text_from=trained)
    again = facts(tmp_path / "again")
    assert again["kind"] == "text" and again["clip"] == "ViT-B-16"
    assert again["conversion"]["text_from"]["source"] == "trained"
    for folder, word in (("copy", "with a text branch"), ("plain", "points, boxes"), ("again", "with a text branch")):
        card = card_for(tmp_path / folder, model_name="org/mine")
        assert word in card and "base_model: facebook/sam-vit-base" in card


def test_text_of_unknown_origin_is_not_called_a_plain_conversion(text_checkpoint, tmp_path):
    convert(text_checkpoint, tmp_path / "copy")
    assert set(facts(tmp_path / "copy")) == {"conversion"}
    assert "no text branch" not in card_for(tmp_path / "copy", model_name="org/mine")


def test_a_trainings_own_facts_are_never_replaced(pth, tmp_path):
    convert(pth, tmp_path / "folder")
    convert(pth, tmp_path / "folder", overwrite=True)  # a conversion's are
    (tmp_path / "folder/training.json").write_text('{"training_steps": 7}')
    with pytest.raises(ValueError, match="also holds 'training.json', which is no part of a converted checkpoint"):
        convert(pth, tmp_path / "folder", overwrite=True)
    assert facts(tmp_path / "folder") == {"training_steps": 7}
