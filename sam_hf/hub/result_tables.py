"""Results of an evaluation as a table, and as a model card's machine-readable part. No number is typed by hand.

`sam_hf.evaluation` measures; the tables are here, because a card is made from a checkpoint's files without it.
A number that the results do not hold is printed as "not measured".
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import EvalResult

__all__ = ["NOT_MEASURED", "ROWS", "format_absent", "format_table", "markdown_table", "model_index", "read_report"]

NOT_MEASURED = "not measured"
# Key in the result -> what the table calls it. The order is the table's.
ROWS = {
    "click_1": "1 click, best predicted of 3",
    "click_1_oracle": "1 click, oracle of 3",
    "felzenszwalb_click_1": "  Felzenszwalb, same click",
    "click_3": "3 clicks",
    "click_5": "5 clicks",
    "box": "box",
    "box_of_three": "box, best predicted of 3",
    "box_oracle": "box, oracle of 3",
    "grabcut_box": "  OpenCV GrabCut, same box",
    "rough_mask": "rough mask, refined",
    "rough_mask_of_three": "rough mask, refined, best predicted of 3",
    "rough_mask_before": "  the rough mask itself",
    "phrase": "phrase, best predicted of 3",
    "phrase_oracle": "phrase, oracle of 3",
    "phrase_click": "phrase + 1 click",
    "phrase_click_of_three": "phrase + 1 click, best predicted of 3",
}
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
