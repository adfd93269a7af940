"""From one record per object to one number per row: seen, held out, all; whole objects, parts."""

from collections.abc import Callable, Sequence

import numpy as np

from ..hub.result_tables import ROWS
from ..inference.text.verdict import KEEP_PRESENT
from .scores import clustered_mean, rejection

__all__ = ["COLUMNS", "GROUPS", "ROWS", "summarise"]

GROUPS: dict[str, Callable[[dict], bool]] = {
    "all": lambda record: True,
    "whole": lambda record: record["kind"] != "part",
    "part": lambda record: record["kind"] == "part",
    "emoji": lambda record: record["kind"] == "emoji",
    "shape": lambda record: record["kind"] == "shape",
}
COLUMNS: dict[str, Callable[[dict], bool]] = {
    "seen": lambda record: not record["held_out"],
    "held_out": lambda record: record["held_out"],
    "all": lambda record: True,
}


def summarise(records: Sequence[dict], misses: Sequence[dict]) -> dict:
    """Means with error bars per row, group and column, and how phrases of absent objects fared.

    Args:
        records: Of all scenes, as `synthetic.measure_scene` gives them, each with "scene" added.
        misses: Likewise.

    Returns:
        {"rows": {row: {group: {column: {"mean", "stderr", "ci95", "n"} or None}}}, "absent": {...} or None,
        "counts": {...}}. A row that was not measured is not there.
    """
    rows: dict[str, dict] = {}
    for name in ROWS:
        if not any(name in record for record in records):
            continue
        rows[name] = {group: {} for group in GROUPS}
        for group, in_group in GROUPS.items():
            for column, in_column in COLUMNS.items():
                chosen = [record for record in records if in_group(record) and in_column(record)]
                values = np.array([record.get(name, np.nan) for record in chosen], np.float64)
                scenes = np.array([record["scene"] for record in chosen], np.int64)
                rows[name][group][column] = clustered_mean(values, scenes)
    present = np.array([record.get("phrase_score", np.nan) for record in records], np.float64)
    present = present[~np.isnan(present)]
    absent = np.array([miss["score"] for miss in misses], np.float64)
    areas = np.array([miss["area"] for miss in misses], np.float64)
    counts = {
        group: {column: sum(in_group(r) and in_column(r) for r in records) for column, in_column in COLUMNS.items()}
        for group, in_group in GROUPS.items()
    }
    return {
        "rows": rows,
        "absent": rejection(present, absent, areas, KEEP_PRESENT),
        "counts": {"objects": counts, "absent_phrases": len(misses)},
    }
