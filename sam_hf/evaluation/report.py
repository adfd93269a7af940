"""Evaluation results as a table, as a JSON file, and in a model card. No number here is typed by hand.

    python -m sam_hf.evaluation.report --results results.json --checkpoint FOLDER --output README.md

A number that the results do not hold is printed as "not measured".
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from ..hub.model_card import NOT_MEASURED, describe_checkpoint, fill_card
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


def render_card(results: dict | None, template: str | os.PathLike | None = None, **facts: Any) -> str:
    """The model card of a checkpoint with what was measured of it; see `sam_hf.hub.model_card.fill_card`.

    Args:
        results: What `synthetic.evaluate` returned or `read_report` read; None if nothing was measured yet.
        template: Path of the template; None: the package's.
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
    measured = results or {}
    facts = {"model_name": measured.get("setup", {}).get("model")} | facts
    printed = {"table": format_table(measured, notes=False), "absent": format_absent(measured)}
    return fill_card(facts, results, template, **printed, eval_results=model_index(measured))


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m sam_hf.evaluation.report`: render a model card from results and facts."""
    parser = argparse.ArgumentParser(prog="python -m sam_hf.evaluation.report", description=main.__doc__)
    parser.add_argument("--results", help="JSON of `evaluate synthetic`; without it every number is 'not measured'")
    parser.add_argument("--text-results", help="JSON of `evaluate text`")
    parser.add_argument("--checkpoint", help="folder, from which size and training facts are read")
    parser.add_argument("--template", help="another template than the package's")
    parser.add_argument("--facts", help="JSON object with what the files do not know (cpu_hours, recipe, kind, ...)")
    parser.add_argument("--output", help="where to write the card; without it, it is printed")
    options = parser.parse_args(arguments)
    facts = describe_checkpoint(options.checkpoint) if options.checkpoint else {}
    if options.facts:
        facts |= json.loads(Path(options.facts).read_text(encoding="utf-8"))
    if options.text_results:
        from .text_report import format_text_results  # which imports this module

        facts["text_table"] = format_text_results(read_report(options.text_results))
    card = render_card(read_report(options.results) if options.results else None, options.template, **facts)
    if options.output:
        Path(options.output).write_text(card, encoding="utf-8")
    else:
        print(card)
    return 0


if __name__ == "__main__":
    sys.exit(main())
