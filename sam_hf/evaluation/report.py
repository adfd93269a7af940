"""Evaluation results as a table, as a JSON file, and as a model card. No number here is typed by hand.

    python -m sam_hf.evaluation.report --results results.json --template model_card.md --output README.md

A number that the results do not hold is printed as "not measured".
"""

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .summary import ROWS

__all__ = [
    "format_absent",
    "format_table",
    "markdown_table",
    "model_index",
    "read_report",
    "render_card",
    "write_report",
]

NOT_MEASURED = "not measured"
HEAD = re.compile(r"\A---\r?\n(.*?)\r?\n---\r?\n", re.DOTALL)
# (title, group, column)
COLUMNS = (
    ("seen", "all", "seen"),
    ("held out", "all", "held_out"),
    ("all", "all", "all"),
    ("whole objects", "whole", "all"),
    ("parts", "part", "all"),
)
# Rows that go into the card's machine-readable part; the others explain these.
INDEXED = ("click_1", "click_1_oracle", "click_3", "click_5", "box", "rough_mask", "phrase", "phrase_click")
REQUIRED_HEAD = {"library_name": "transformers", "pipeline_tag": "mask-generation", "license": "apache-2.0"}


def _cell(entry: dict | None) -> str:
    if entry is None:
        return "-"
    if entry["stderr"] is None:
        return f"{entry['mean']:.3f}"
    return f"{entry['mean']:.3f} ±{entry['stderr']:.3f}"


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """Cells, the first line being the head, as a table that reads well in a terminal and renders as Markdown."""
    widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
    rule = ["-" * width for width in widths]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in (lines[0], rule)]
    padded += [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in padded)


def format_absent(results: dict) -> str:
    """One sentence on phrases of objects that are not in the picture."""
    absent = results.get("absent")
    if not absent:
        return f"Phrase of an absent object: {NOT_MEASURED}."
    return (
        f"Phrase of an absent object ({absent['n_absent']} phrases against {absent['n_present']} of present objects): "
        f"the predicted IoU tells them apart with AUROC {absent['auroc']:.3f}; at the score "
        f"{absent['threshold']:.3f}, which keeps {absent['kept']:.0%} of the present ones, the false-alarm rate is "
        f"{absent['false_alarm_rate']:.1%}; {absent['declined_rate']:.1%} of the absent phrases get an empty mask "
        f"({absent['empty_mask_rate']:.1%}) or a lower score."
    )


def format_table(results: dict, notes: bool = True) -> str:
    """The results as a table that reads well in a terminal and renders as Markdown.

    Args:
        results: What `synthetic.evaluate` returned.
        notes: Also say below the table what was counted, and how phrases of absent objects fared.

    Returns:
        Mean IoU per prompt type (rows) for seen glyphs and attribute pairs, held-out ones, all, and all split into
        whole objects and parts. "±" is the standard error from a bootstrap over scenes; "-" means that there was no
        such object; a row that was not measured says so.
    """
    rows = results.get("rows", {})
    lines = [["mean IoU", *(title for title, _, _ in COLUMNS)]]
    for name, label in ROWS.items():
        groups = rows.get(name)
        cells = [_cell(groups[group][column]) if groups else NOT_MEASURED for _, group, column in COLUMNS]
        # Markdown would strip the leading spaces that set a baseline off
        lines.append([label.replace("  ", "· ", 1) if label.startswith("  ") else label, *cells])
    table = markdown_table(lines)
    if not notes:
        return table
    setup, objects = results.get("setup", {}), results.get("counts", {}).get("objects", {})
    counted = "; ".join(f"{title}: {objects[group][column]}" for title, group, column in COLUMNS if group in objects)
    below = [
        f"Objects: {counted or NOT_MEASURED}. "
        f"{setup.get('scenes', NOT_MEASURED)} scenes of {setup.get('size', NOT_MEASURED)} px, split "
        f"{setup.get('split', NOT_MEASURED)}, seed {setup.get('seed', NOT_MEASURED)}. "
        "±: standard error, bootstrap over scenes.",
        format_absent(results),
    ]
    chosen = (results.get("baselines") or {}).get("felzenszwalb")
    if chosen:
        below.append(
            f"Felzenszwalb: scale {chosen['scale']:g}, sigma {chosen['sigma']:g}, the best of "
            f"{len(chosen['mean_iou_on_train_scenes'])} settings on train scenes."
        )
    return table + "\n\n" + "\n".join(below)


def _without_nan(value: Any) -> Any:
    """JSON knows no NaN; what is not a number was not measured."""
    if isinstance(value, dict):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_report(results: dict, path: str | os.PathLike) -> Path:
    """Write results as JSON, in one move, so that a reader never finds half a file.

    Args:
        results: What `synthetic.evaluate` returned.
        path: Where to; folders above it are made.

    Returns:
        The path written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(json.dumps(_without_nan(results), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def read_report(path: str | os.PathLike) -> dict:
    """Read what `write_report` wrote.

    Raises:
        ValueError: the file is no JSON object with "rows".
        OSError: it cannot be read.
    """
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"path: expected evaluation results as JSON in {path}, got {error}") from error
    if not isinstance(results, dict) or "rows" not in results:
        raise ValueError(f'path: expected evaluation results with "rows" in {path}, got something else')
    return results


def model_index(results: dict) -> list[EvalResult]:
    """The measured rows as the Hub's evaluation results; empty if nothing was measured."""
    setup, found = results.get("setup", {}), []
    for name in INDEXED:
        for column, split in (("all", ""), ("held_out", ", held out")):
            entry = results.get("rows", {}).get(name, {}).get("all", {}).get(column)
            if entry is None:
                continue
            found.append(
                EvalResult(
                    task_type="mask-generation",
                    dataset_type="sam_hf-synthetic",
                    dataset_name="sam_hf synthetic scenes",
                    dataset_split=setup.get("split"),
                    metric_type="mean_iou",
                    metric_name=f"mean IoU, {ROWS[name]}{split}",
                    metric_value=round(entry["mean"], 4),
                )
            )
    return found


class _NotMeasured(jinja2.ChainableUndefined):
    """A placeholder that no result fills; chains, so that `a.b.c` of nothing is nothing."""

    def __str__(self) -> str:
        return NOT_MEASURED

    __html__ = __str__


def _missing(value: Any) -> bool:
    return value is None or isinstance(value, jinja2.Undefined)


def _formatted(pattern: str) -> Any:
    return lambda value: NOT_MEASURED if _missing(value) else format(value, pattern)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        undefined=_NotMeasured,
        finalize=lambda value: NOT_MEASURED if _missing(value) else value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, not HTML
    )
    environment.filters["iou"] = _formatted(".3f")
    environment.filters["percent"] = _formatted(".1%")
    environment.filters["count"] = _formatted(",")
    environment.filters["decimal"] = _formatted(".1f")
    return environment


def _check_card(card: ModelCard) -> None:
    head = card.data.to_dict()
    for key, expected in REQUIRED_HEAD.items():
        if head.get(key) != expected:
            raise ValueError(f"template: expected {key}: {expected} in the YAML head, got {head.get(key)!r}")
    for key in ("tags", "metrics"):
        if not isinstance(head.get(key), list) or not head[key]:
            raise ValueError(f"template: expected a list under {key} in the YAML head, got {head.get(key)!r}")


def render_card(results: dict | None, template: str | os.PathLike, **facts: Any) -> str:
    """Fill the model card's template.

    The template's YAML head is the card's; `model-index` is added from the results. Its body is Jinja: `results` is
    the whole dictionary, `table` and `absent` are the printed results, and every fact is a name of its own.

    Args:
        results: What `synthetic.evaluate` returned or `read_report` read; None if nothing was measured yet.
        template: Path of the template.
        facts: What the results do not know, e.g. `cpu_hours=3.5`, `recipe="..."`, `checkpoint_mb=11.2`.

    Returns:
        The card. A number that neither holds reads "not measured".

    Raises:
        ValueError: the template has no YAML head, a wrong one, or a body that is not Jinja; or a fact hides one of
            `results`, `table`, `absent`.
        OSError: the template cannot be read.
    """
    hidden = {"results", "table", "absent"} & set(facts)
    if hidden:
        raise ValueError(f"facts: {sorted(hidden)} come from the results; expected other names")
    text = Path(template).read_text(encoding="utf-8")
    head = HEAD.match(text)
    if head is None:
        raise ValueError(f"template: expected a YAML head between two --- lines in {template}, got none")
    measured = results or {}
    data = ModelCardData(**yaml.safe_load(head.group(1)))
    data.eval_results = model_index(measured) or None
    data.model_name = facts.get("model_name") or measured.get("setup", {}).get("model") or "sam_hf"
    try:
        body = _environment().from_string(text[head.end() :])
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"template: {template}, line {error.lineno} of the body: {error.message}") from error
    rendered = body.render(
        results=results or _NotMeasured(name="results"),
        table=format_table(measured, notes=False),
        absent=format_absent(measured),
        **({"model_name": data.model_name} | facts),
    )
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n{rendered}")
    _check_card(card)
    return str(card)


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m sam_hf.evaluation.report`: render a model card from results and facts."""
    parser = argparse.ArgumentParser(prog="python -m sam_hf.evaluation.report", description=main.__doc__)
    parser.add_argument("--results", help="JSON of `evaluate`; without it every number is 'not measured'")
    parser.add_argument("--template", default="model_card.md")
    parser.add_argument("--facts", help="JSON object with what the results do not know (cpu_hours, recipe, ...)")
    parser.add_argument("--output", help="where to write the card; without it, it is printed")
    options = parser.parse_args(arguments)
    facts = json.loads(Path(options.facts).read_text(encoding="utf-8")) if options.facts else {}
    card = render_card(read_report(options.results) if options.results else None, options.template, **facts)
    if options.output:
        Path(options.output).write_text(card, encoding="utf-8")
    else:
        print(card)
    return 0


if __name__ == "__main__":
    sys.exit(main())
