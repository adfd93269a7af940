"""Model cards: what they say is what is known of the checkpoint at hand, and the Hub can read their heads."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import EvalResult, ModelCard
from huggingface_hub.repocard import metadata_load

from sam_hf.evaluation import report
from sam_hf.hub.conversion_facts import facts_of
from sam_hf.hub.model_card import card_for, describe_checkpoint, fill_card, find_template
from sam_hf.hub.text_result_tables import format_text_results
from sam_hf.model.checkpoint_names import EMBEDDED_FOLDER

SIZES = {"parameters": 93_735_472, "checkpoint_mb": 375.0, "image_size": 1024, "encoder": "ViT-B"}
CONVERTED = SIZES | {"kind": "converted", "model_name": "org/sam-b", "base_model": "facebook/sam-vit-base"}
TEXT = SIZES | {
    "model_name": "org/sam-b-text",
    "base_model": "facebook/sam-vit-base",
    "clip": "ViT-B-16-quickgelu/openai",
    "has_text": True,
    "custom_code": True,
    "training_data": "SA-1B: 12 pictures",
    "training_command": "sam-hf train text --model facebook/sam-vit-base",
    "learned_parts": ["prompt_encoder"],
    "licences": {"clip": "MIT (OpenAI): its text tower is in this checkpoint"},
    "training_steps": 1200,
}
SECTIONS = ["Use", "Limits", "Training data", "Training", "Evaluation", "Bias", "Environment", "Licence", "Citation"]
# Words that only the embedded checkpoint's card may use.
OF_TINY = ["tiny", "synthetic scenes only", "emoji", "Emoji", "Noto", "closed vocabulary", "drawings", "red circle"]


def load(card: str, folder: Path) -> ModelCard:
    """As huggingface_hub reads it from a file, which also refuses a broken head."""
    path = folder / "README.md"
    path.write_text(card, encoding="utf-8")
    assert metadata_load(path) == ModelCard.load(path, ignore_metadata_errors=False).data.to_dict()
    return ModelCard.load(path)


def check_shape(card: ModelCard, without: tuple[str, ...] = (), license: str = "apache-2.0") -> None:
    titles = [line.removeprefix("## ") for line in card.text.splitlines() if line.startswith("## ")]
    assert titles == [title for title in SECTIONS if title not in without]
    lines = card.text.splitlines()
    assert all(not lines[n - 1] and not lines[n + 1] for n, line in enumerate(lines) if line.startswith("## "))
    assert not any(mark in card.text for mark in ("{{", "{%", "%}", "None", "Undefined"))
    assert card.data.library_name == "transformers" and card.data.pipeline_tag == "mask-generation"
    assert {"segment-anything", "sam", "arxiv:2304.02643"} <= set(card.data.tags) and card.data.license == license


def test_a_converted_checkpoint(tmp_path):
    card = load(fill_card(CONVERTED), tmp_path)
    check_shape(card, without=("Training",))
    assert card.data.base_model == "facebook/sam-vit-base" and "text-prompt" not in card.data.tags
    assert card.data.datasets is None and card.data.metrics is None and card.data.eval_results is None
    assert "base_model_relation" not in card.data.to_dict()  # the Hub knows no word for "the same"
    assert "93,735,472 parameters" in card.text and "text=" not in card.text and "No evaluation was made" in card.text
    assert "6,963 kWh" in card.text.replace("\n", " ") and "not measured" in card.text
    assert not [word for word in OF_TINY if word in card.text]


def test_a_checkpoint_with_a_text_branch(tmp_path):
    card = load(fill_card(TEXT), tmp_path)
    check_shape(card, license="unknown")  # of what was trained on top, its owner decides
    data = card.data.to_dict()
    assert data["base_model"] == "facebook/sam-vit-base" and data["base_model_relation"] == "finetune"
    assert {"text-prompt", "open_clip", "custom_code"} <= set(data["tags"]) and "datasets" not in data
    assert 'predict(text="the red mug")' in card.text and "MIT (OpenAI)" in card.text and "1,200" in card.text
    assert "not measured GPU hours" in card.text and not [word for word in OF_TINY if word in card.text]


def test_the_embedded_checkpoint_is_what_its_card_says(tmp_path):
    facts = describe_checkpoint("tiny") | {"model_name": "tiny"}
    results = report.read_report(EMBEDDED_FOLDER / "evaluation.json")
    facts["text_table"] = format_text_results(report.read_report(EMBEDDED_FOLDER / "evaluation_text.json"))
    card = load(report.render_card(results, **facts), tmp_path)
    check_shape(card)
    committed = ModelCard.load(EMBEDDED_FOLDER / "README.md")
    figures = [(entry.metric_name, entry.metric_value) for entry in card.data.eval_results]
    assert figures == [(entry.metric_name, entry.metric_value) for entry in committed.data.eval_results]
    assert card.data.model_name == "tiny" and card.data.metrics == ["mean_iou"]
    assert "synthetic scenes only" in card.text and "Noto Color Emoji" in card.text
    table = [line for line in committed.text.splitlines() if line.startswith("| ") and "±" in line]
    assert len(table) > 10 and all(line in card.text for line in table)


def test_facts_come_from_the_files(plain_checkpoint, text_checkpoint, tmp_path):
    plain, text = describe_checkpoint(plain_checkpoint), describe_checkpoint(text_checkpoint)
    from sam_hf import SamModel

    for facts, folder in ((plain, plain_checkpoint), (text, text_checkpoint)):
        model = SamModel.from_pretrained(folder)
        stored = sum(weight.numel() for name, weight in model.state_dict().items() if "shared_embedding" not in name)
        assert facts["parameters"] == stored and facts["image_size"] == 64
        check_shape(load(card_for(folder), tmp_path), license="unknown")
    assert not plain["has_text"] and text["has_text"] and text["custom_code"]
    with pytest.raises(OSError, match="no config.json"):
        describe_checkpoint(tmp_path)


def test_without_a_kind_nothing_is_claimed(tmp_path):
    card = load(fill_card({}), tmp_path)
    check_shape(card, license="unknown")
    assert not [word for word in [*OF_TINY, "SA-1B (11 million"] if word in card.text]
    assert "Not stated." in card.text and "not measured parameters" in card.text


def test_a_licence_is_claimed_only_where_it_is_known(plain_checkpoint, tmp_path):
    def licence(card: ModelCard) -> str:
        return card.text.split("## Licence")[1].split("Meta's")[0].strip()

    for facts in ({}, {"kind": "converted"}, {"kind": "converted", "base_model": "somebody/sam-vit-base"}, TEXT):
        card = load(fill_card(SIZES | facts), tmp_path)
        assert card.data.license == "unknown" and licence(card).startswith("Not stated: nobody has said"), facts
    for base in ("facebook/sam-vit-huge", "MobileSAM"):
        assert load(fill_card(CONVERTED | {"base_model": base}), tmp_path).data.license == "apache-2.0"
    stated = load(fill_card(TEXT | {"license": "cc-by-4.0"}), tmp_path)
    assert stated.data.license == "cc-by-4.0" and licence(stated).startswith("cc-by-4.0.")
    assert "- clip: MIT (OpenAI)" in licence(stated)
    folder = Path(shutil.copytree(plain_checkpoint, tmp_path / "with a licence"))
    (folder / "LICENSE.txt").write_text("...")
    (folder / "training.json").write_text('{"license": "mit", "base_model": "a/b", "base_model_relation": "finetune"}')
    card = load(card_for(folder), tmp_path)
    assert card.data.license == "mit" and licence(card) == "mit (see LICENSE.txt)."
    assert (card.data.base_model, card.data.to_dict()["base_model_relation"]) == ("a/b", "finetune")
    assert load(card_for(folder, license="bsd"), tmp_path).data.license == "bsd"
    (folder / "training.json").write_text("{}")
    assert "the file LICENSE.txt in this repository may tell" in licence(load(card_for(folder), tmp_path))


def test_numbers_go_into_the_head(tmp_path):
    found = EvalResult("mask-generation", "a/b", "B", "mean_iou", 0.5, metric_name="mean IoU")
    card = load(fill_card(CONVERTED, eval_results=[found]), tmp_path)
    assert card.data.eval_results[0].metric_value == 0.5 and card.data.model_name == "org/sam-b"
    assert card.data.metrics == ["mean_iou"]


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"kind": "great"}, "kind: expected one of"),
        ({"kind": "converted", "training_command": "sam-hf train text"}, "was not trained"),
        ({"base_model": "a/b/c"}, "base_model: expected a Hub id"),
        ({"base_model": "a/b", "base_model_relation": "copy"}, "base_model_relation: expected one of"),
        ({"datasets": ["facebook/SA-1B"]}, "`training_data` does not say that SA-1B was used"),
        ({"license": "My own licence"}, "license: expected the Hub's name"),
    ],
)
def test_what_is_not_so_is_refused(facts, message):
    with pytest.raises(ValueError, match=message):
        fill_card(facts)


def test_a_dataset_that_was_used_is_named(tmp_path):
    card = load(fill_card(TEXT | {"datasets": ["facebook/SA-1B"], "license": "cc-by-4.0"}), tmp_path)
    assert card.data.datasets == ["facebook/SA-1B"] and card.data.license == "cc-by-4.0"


def test_a_folder_as_base_is_no_link_to_somebody(tmp_path):
    card = load(fill_card(TEXT | {"base_model": "my-folder"}), tmp_path)
    assert card.data.base_model is None and "my-folder" in card.text


def test_the_command_writes_a_card(plain_checkpoint, tmp_path):
    facts = tmp_path / "facts.json"
    facts.write_text(json.dumps({"kind": "converted", "base_model": "facebook/sam-vit-base"}))
    output = tmp_path / "README.md"
    assert report.main(["--checkpoint", str(plain_checkpoint), "--facts", str(facts), "--output", str(output)]) == 0
    assert ModelCard.load(output).data.base_model == "facebook/sam-vit-base"
    assert find_template().name == "model_card.md"


@pytest.mark.parametrize(
    ("fact", "value", "expected"),
    [
        ("base_model", 5, "text"),
        ("learned_parts", 5, "a list of texts"),
        ("training_steps", "1000", "a number"),
        ("cpu_hours", float("nan"), "a number"),
        ("licences", [1], "texts by name"),
        ("datasets", "abc", "a list of texts"),
        ("has_text", "no", "true or false"),
    ],
)
def test_a_fact_of_another_type_is_named_with_its_file(plain_checkpoint, tmp_path, fact, value, expected):
    folder = Path(shutil.copytree(plain_checkpoint, tmp_path / "checkpoint"))
    (folder / "training.json").write_text(json.dumps({fact: value}))
    with pytest.raises(ValueError, match=rf"'{fact}' in '.*training.json': expected {expected}, got"):
        card_for(folder)


def test_a_synthetic_one_of_somebody_says_what_is_so_of_it(tmp_path):
    facts = SIZES | {"kind": "synthetic", "model_name": "org/mine"}
    card = load(fill_card(facts | {"license": "mit", "has_text": False}), tmp_path)
    body = card.text.split("## Licence")[1]
    assert card.data.license == "mit" and "Weights: mit." in body and "weights: Apache" not in body
    assert "text tower" not in card.text and "vocabulary" not in card.text and "text=" not in card.text
    whole = load(fill_card(facts), tmp_path)
    assert "Code and weights: Apache-2.0." in whole.text and "text tower included" in whole.text
    assert "by this project" not in load(fill_card(TEXT), tmp_path).text


def test_a_licence_alone_is_no_training(tmp_path):
    stated = {"license": "mit"}
    facts = facts_of("facebook/sam-vit-base", "a" * 40, [], stated, has_text=False)
    assert (facts["kind"], facts["base_model"], facts["license"]) == ("converted", "facebook/sam-vit-base", "mit")
    assert stated == {"license": "mit"}
    assert "kind" not in facts_of("a/b", "a" * 40, [], {"license": "mit", "training_steps": 3}, has_text=False)


def test_what_was_measured_beside_the_weights_is_in_the_card(plain_checkpoint, tmp_path):
    folder = Path(shutil.copytree(plain_checkpoint, tmp_path / "checkpoint"))
    for name in ("evaluation.json", "evaluation_text.json"):
        shutil.copyfile(EMBEDDED_FOLDER / name, folder / name)
    card = load(card_for(folder), tmp_path)
    committed = ModelCard.load(EMBEDDED_FOLDER / "README.md")
    figures = [(entry.metric_name, entry.metric_value) for entry in card.data.eval_results]
    assert figures == [(entry.metric_name, entry.metric_value) for entry in committed.data.eval_results]
    assert "No evaluation was made" not in card.text and "Text to mask" in card.text
    (folder / "evaluation.json").unlink()
    card = load(card_for(folder), tmp_path)
    assert card.data.eval_results is None and "Clicks, boxes and rough masks were not measured" in card.text
    (folder / "evaluation.json").write_text('{"rows": {"click_1": 5}}')
    with pytest.raises(ValueError, match="evaluation.json' holds no results of an evaluation"):
        card_for(folder)
