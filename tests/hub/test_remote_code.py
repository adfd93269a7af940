"""Without this package: a text checkpoint by the code beside its weights, a plain one by stock transformers."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import transformers

import sam_hf
from sam_hf.model import remote_code
from sam_hf.model.text_encoder import SamTextTowerWeights, build_text_tower


@pytest.mark.parametrize("name", ["org/text", "org/mobile"])
def test_every_auto_class_finds_the_code_beside_the_weights(stranger, name):
    kinds = stranger["kinds"][name]
    expected = {"AutoConfig": "SamConfig", "AutoModel": "SamModel", "AutoModelForMaskGeneration": "SamModel"}
    expected |= {"AutoProcessor": "SamProcessor", "AutoImageProcessor": "SamImageProcessor"}
    expected |= {"pil": "SamImageProcessorPil"}
    assert kinds == {auto: f"transformers_modules {name}" for auto, name in expected.items()}


GEOMETRY = {"point", "points", "box", "mask", "box and point"}


@pytest.mark.parametrize("name", ["text", "mobile"])
def test_it_answers_as_the_package_does(stranger, owner, name, compare):
    assert compare(owner["answers"][name], stranger["answers"][name]) >= GEOMETRY
    with np.load(stranger["answers"][name]) as found:  # the prompts do matter
        masks = [found[f"{kind}, masks"] for kind in ("point", "points", "box", "mask")]
    assert all(not np.allclose(one, other) for one, other in zip(masks, masks[1:], strict=False))
    assert stranger["everything"] == ["transformers_modules SamModel", True]


def test_phrases_without_open_clip_say_what_to_install(stranger_without_open_clip):
    for step in ("phrase", "token_ids"):
        assert "pip install open_clip_torch" in stranger_without_open_clip[step]["error"]
        assert "ImportError" in stranger_without_open_clip[step]["kinds"]


def test_phrases_with_open_clip_answer_as_the_package_does(stranger_with_open_clip, owner, compare):
    kinds = compare(owner["answers"]["text"], stranger_with_open_clip["answers"]["text"])
    assert kinds == GEOMETRY | {"text", "texts", "text and point"}
    with np.load(stranger_with_open_clip["answers"]["text"]) as found:
        assert not np.allclose(*found["texts, masks"][0])  # two phrases, two answers
    assert stranger_with_open_clip["phrase"] is None and stranger_with_open_clip["token_ids"] is None


def test_saved_again_it_is_whole(stranger, hub):
    saved = stranger["saved_again"]
    code = {name for name in hub.files("org/text") if name.endswith(".py")}
    assert saved["same"] and code <= set(saved["names"])
    assert saved["auto_map"] == "modeling_sam.SamModel"


def test_without_trust_it_is_refused_and_never_something_else(stranger_without_open_clip):
    for door, answer in stranger_without_open_clip["untrusted"].items():
        assert answer.startswith("ValueError") and "trust_remote_code" in answer and "org/text" in answer, door


def test_plain_folders_are_stock_transformers_own(stranger_without_open_clip):
    plain = dict(stranger_without_open_clip["plain"])
    assert len(plain.pop("masks")) == 16
    assert all(answer.startswith("transformers Sam") for answer in plain.values()), plain


def test_the_stock_class_on_a_text_checkpoint_is_loud(stranger_without_open_clip):
    answer = stranger_without_open_clip["stock_class_on_text"]
    assert answer["kind"] == "transformers SamModel"
    assert "sam_hf" in answer["said"] and "text_projection" in answer["said"]


def test_the_stock_processor_knows_no_text(text_checkpoint, caplog):
    processor = transformers.SamProcessor.from_pretrained(text_checkpoint)
    assert type(processor) is transformers.SamProcessor and not isinstance(processor, sam_hf.SamProcessor)
    assert not hasattr(processor, "text_config") and not caplog.records
    assert sam_hf.SamProcessor.from_pretrained(text_checkpoint).text_config is not None


def test_the_tower_without_open_clip_has_the_same_weights(monkeypatch, text_checkpoint):
    config = sam_hf.SamConfig.from_pretrained(text_checkpoint).text_config
    for tower in (None, {"no_causal_mask": True, "pool_type": "last"}):
        config.tower = tower
        expected = {name: weight.shape for name, weight in build_text_tower(config).state_dict().items()}
        stored = SamTextTowerWeights(config).state_dict()
        assert {name: weight.shape for name, weight in stored.items()} == expected
    monkeypatch.setitem(sys.modules, "open_clip", None)
    assert isinstance(build_text_tower(config), SamTextTowerWeights)
    config.tower = {"proj_bias": True}  # other weights, which only open_clip knows
    with pytest.raises(ImportError, match="open_clip_torch"):
        build_text_tower(config)


def test_a_checkpoint_without_text_sheds_the_code_map(text_checkpoint, plain_checkpoint, tmp_path):
    config = sam_hf.SamConfig.from_pretrained(text_checkpoint)
    assert config.auto_map["AutoModel"] == "modeling_sam.SamModel"
    config.text_config = None
    config.model_type = "sam"
    config.save_pretrained(tmp_path)
    assert "auto_map" not in (tmp_path / "config.json").read_text()
    assert not list(tmp_path.glob("*.py"))


def test_code_that_has_lost_its_processor_names_none(monkeypatch, tmp_path):
    """Loading a model alone copies only the model's files; saved from there, the map must not name the others."""
    sources = tmp_path / "sources"
    sources.mkdir()
    for path in remote_code.source_files({"AutoModel": "modeling_sam.SamModel"}):
        shutil.copy(path, sources)
    monkeypatch.setattr(remote_code, "SOURCES", sources)
    classes = {"AutoModel": "modeling_sam.SamModel", "AutoProcessor": "processing_sam.SamProcessor"}
    assert remote_code.write_remote_code(tmp_path / "out", classes) == {"AutoModel": "modeling_sam.SamModel"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in Path(sources).iterdir()}


@pytest.mark.parametrize("first", ["the model", "the processor"])
def test_every_extended_checkpoint_names_our_processor(first, mobile_checkpoint, tmp_path):
    """A TinyViT's processor has nothing of its own that tells whose it is: the model beside it does."""
    from transformers import AutoImageProcessor, AutoProcessor

    images = sam_hf.SamProcessor.from_pretrained(mobile_checkpoint).image_processor
    savers = [sam_hf.SamModel.from_pretrained(mobile_checkpoint), sam_hf.SamProcessor(images)]
    for saver in savers if first == "the model" else reversed(savers):
        saver.save_pretrained(tmp_path)
    for file in ("processor_config.json", "preprocessor_config.json"):
        assert '"SamHfImageProcessor"' in (tmp_path / file).read_text()
    assert type(AutoProcessor.from_pretrained(tmp_path)).__name__ == "SamHfProcessor"
    assert type(AutoImageProcessor.from_pretrained(tmp_path)).__name__ == "SamHfImageProcessor"
    loaded = sam_hf.SamProcessor.from_pretrained(tmp_path)
    assert loaded.extended and loaded.text_config is None
    loaded.save_pretrained(tmp_path / "alone")  # with no model beside it, as push_to_hub does
    assert "auto_map" in (tmp_path / "alone" / "processor_config.json").read_text()
    assert (tmp_path / "alone" / "processing_sam.py").is_file()


def test_a_plain_checkpoint_names_transformers_processor(plain_checkpoint, mobile_checkpoint, tmp_path):
    model, processor = (kind.from_pretrained(plain_checkpoint) for kind in (sam_hf.SamModel, sam_hf.SamProcessor))
    processor.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    assert not processor.extended and '"processor_class": "SamProcessor"' in (
        tmp_path / "processor_config.json"
    ).read_text(encoding="utf-8")
    processor.save_pretrained(shutil.copytree(mobile_checkpoint, tmp_path / "extended"))
    assert not processor.extended  # it was told about that folder, not about itself
