import json
import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard

from sam_hf.evaluation.report import format_table, read_report, render_card, write_report
from sam_hf.evaluation.summary import ROWS, summarise
from sam_hf.evaluation.synthetic import measure_scene

TEMPLATE = Path(__file__).parents[2] / "model_card.md"


@pytest.fixture
def results(scene, oracle):
    records, misses = [], []
    for index in range(3):
        found, missed = measure_scene(scene, oracle, np.random.default_rng(index))
        records += [record | {"scene": index} for record in found]
        misses += missed
    setup = {
        "split": "test",
        "scenes": 3,
        "size": 64,
        "seed": 0,
        "model": "tiny",
        "parameters": 1234567,
        "image_size": 64,
        "command": "sam-hf evaluate synthetic --scenes 3",
    }
    return summarise(records, misses) | {"setup": setup, "baselines": False}


def cells(table, label):
    line = next(line for line in table.splitlines() if line.startswith(f"| {label} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_has_every_row_and_says_what_was_not_measured(results):
    table = format_table(results)
    assert "seen" in table and "held out" in table
    for label in ROWS.values():
        assert label.strip() in table
    assert cells(table, ROWS["click_1"])[1:4] == ["1.000 ±0.000"] * 3
    assert cells(table, "· OpenCV GrabCut, same box")[1:] == ["not measured"] * 5
    assert cells(table, ROWS["phrase"])[5] == "-"  # no part has a phrase
    assert len({len(line) for line in table.splitlines() if line.startswith("|")}) == 1
    assert "AUROC 1.000" in table


def test_an_empty_result_prints_without_inventing(results):
    table = format_table(summarise([], []))
    assert not any(character.isdigit() for line in table.splitlines()[2:18] for character in line.split("|")[2])
    assert "Phrase of an absent object: not measured." in table


def test_reports_survive_the_way_through_json(results, tmp_path):
    results["rows"]["click_1"]["all"]["all"]["mean"] = math.nan
    path = write_report(results, tmp_path / "deep" / "results.json")
    assert [entry.name for entry in path.parent.iterdir()] == ["results.json"]
    read = read_report(path)
    assert read["rows"]["click_1"]["all"]["all"]["mean"] is None
    assert read["rows"]["click_3"] == results["rows"]["click_3"]
    path.write_text(json.dumps([1]))
    with pytest.raises(ValueError, match='expected evaluation results with "rows"'):
        read_report(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="as JSON"):
        read_report(path)


def test_the_template_itself_has_a_valid_head():
    head = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8").split("---")[1])
    assert head["library_name"] == "transformers" and "license" not in head  # that is a checkpoint's
    assert "arxiv:2304.02643" in head["tags"]


def test_the_card_carries_the_numbers_twice_and_no_placeholder(results):
    card = render_card(results, TEMPLATE, cpu_hours=3.21, checkpoint_mb=11.0, recipe="Ten rounds.")
    assert "{{" not in card and "{%" not in card
    assert "1,234,567 parameters" in card and "3.2 CPU hours" in card and "Ten rounds." in card
    assert "sam-hf evaluate synthetic --scenes 3" in card
    data = ModelCard(card).data
    assert data.pipeline_tag == "mask-generation" and data.metrics == ["mean_iou"]
    values = {entry.metric_name: entry.metric_value for entry in data.eval_results}
    assert values["mean IoU, 5 clicks"] == 1.0 and "mean IoU, phrase + 1 click, held out" in values


def test_a_card_without_results_claims_nothing():
    card = render_card(None, TEMPLATE)
    assert "{{" not in card and "model-index" not in card and "metrics" not in card
    assert "No evaluation was made" in card and "mean IoU" not in card
    assert "not measured CPU hours" in card and "not measured parameters" in card


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# no head", "expected a YAML head"),
        ("---\nlicense: mit\n---\nbody", "library_name: transformers"),
        (
            "---\nlicense: apache-2.0\nlibrary_name: transformers\npipeline_tag: mask-generation\n---\nbody",
            "a list under tags",
        ),
        ("---\nlicense: apache-2.0\n---\n{% if %}", "line 1 of the body"),
    ],
)
def test_a_broken_template_is_refused(tmp_path, text, message):
    path = tmp_path / "card.md"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        render_card(None, path)


def test_facts_cannot_overwrite_results():
    with pytest.raises(ValueError, match="facts: .*table"):
        render_card(None, TEMPLATE, table="great")
