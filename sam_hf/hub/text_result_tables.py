"""Results of text-to-mask as tables: masks, phrase against phrase + click, absent phrases, time, groups.

Contenders are rows, so that groundings, or variants of one, stand side by side. What was not measured says so.
"""

from collections.abc import Sequence

from sam_hf.hub.result_tables import NOT_MEASURED, markdown_table

__all__ = ["format_text_results"]

MASKS = (
    ("mean IoU", "mean_iou"),
    ("cIoU", "ciou"),
    ("P@0.5", "precision_0.5"),
    ("P@0.7", "precision_0.7"),
    ("P@0.9", "precision_0.9"),
    ("mean IoU, refused = 0", "mean_iou_after_verdict"),
)
INTERACTION = (("phrase", "text"), ("1 click", "click"), ("phrase + 1 click", "text_click"))


def _number(entry: dict | None) -> str:
    if entry is None:
        return "-"
    return f"{entry['mean']:.3f}" if entry["stderr"] is None else f"{entry['mean']:.3f} ±{entry['stderr']:.3f}"


def _share(entry: dict | None) -> str:
    if entry is None:
        return "-"
    return f"{entry['mean']:.1%}" if entry["stderr"] is None else f"{entry['mean']:.1%} ±{entry['stderr']:.1%}"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"


def _table(title: str, head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return markdown_table([[title, *head], *lines])


def _absent_table(rows: dict, where_from: str | None) -> str:
    measured = {label: row["absent"] for label, row in rows.items() if row["absent"]}
    if not measured:
        return f"Phrases of what is not there: {NOT_MEASURED} (the data has none)."
    keep = next(iter(measured.values()))["keep"]
    head = ("AUROC", "present kept", "false alarms", "verdict: present kept", "verdict: false alarms")
    lines = []
    for label, row in rows.items():
        absent = row["absent"]
        if not absent:
            lines.append([label, *[NOT_MEASURED] * len(head)])
            continue
        shares = [_share(absent[name]) for name in ("kept", "false_alarms", "verdict_kept", "verdict_false_alarms")]
        lines.append([label, _number(absent["auroc"]), *shares])
    counted = next(iter(measured.values()))
    below = (
        f"{counted['n_absent']} phrases of what is not there against {counted['n_present']} of what is. Kept and "
        f"false alarms: at the threshold that keeps {keep:.0%} of these present phrases, as far as anything was "
        "found; verdict: by the calibration, which saw none of them."
        + (f" Absent phrases are {where_from}." if where_from else "")
    )
    return f"{_table('absent', head, lines)}\n\n{below}"


def _interaction_table(rows: dict) -> str:
    measured = {label: row["interaction"] for label, row in rows.items() if row["interaction"]}
    if not measured:
        return f"Phrase against phrase + click: {NOT_MEASURED}."
    lines = [[label, *(_number(entry[name]) for _, name in INTERACTION)] for label, entry in measured.items()]
    asked = next(iter(measured.values()))["text"]["n"]
    below = f"The same {asked} phrases, those that name one thing; the click goes into its middle."
    return f"{_table('mean IoU', [title for title, _ in INTERACTION], lines)}\n\n{below}"


def _time_table(rows: dict) -> str:
    measured = {label: row["time"] for label, row in rows.items() if row["time"]}
    if not measured:
        return f"Time: {NOT_MEASURED}."
    lines = [
        [label, _times(entry["first_phrase"]), _times(entry["further_phrase"])] for label, entry in measured.items()
    ]
    below = (
        "Medians, in multiples of SAM's encoding of the same pictures in the same run; that itself, which all phrases "
        "about a picture share, comes once on top. Vectors of phrases are kept, so words asked before are free."
    )
    return f"{_table('time per phrase', ['first about a picture', 'each further one'], lines)}\n\n{below}"


def _group_table(rows: dict) -> str:
    names = sorted({name for row in rows.values() for name in row["groups"]})
    if len(names) < 2:
        return ""
    lines = [[label, *(_number(row["groups"].get(name)) for name in names)] for label, row in rows.items()]
    return _table("mean IoU", names, lines)


def format_text_results(results: dict) -> str:
    """All tables, as text that reads well in a terminal and renders as Markdown.

    Args:
        results: What `text_to_mask.evaluate_text` returned.
    """
    rows, counts, setup = results["rows"], results["counts"], results["setup"]
    lines = [[label, *(_number(row["masks"][name]) for _, name in MASKS)] for label, row in rows.items()]
    wanted = {
        "one": "one instance is asked for",
        "all": "all instances are asked for",
        "auto": "one, or all of a plural",
    }
    below = (
        f"{counts['present']} phrases in {counts['pictures']} pictures name {counts['instances']} instances; "
        f"{wanted[setup['instances']]}; IoU of the union of the answered with the union of the named ones, verdict "
        "aside. ±: standard error, bootstrap over pictures."
    )
    if counts["without_a_mask"]:
        below += f" Phrases left out, having no picture or mask to judge them by: {counts['without_a_mask']}."
    if counts.get("unreadable_phrases"):
        below += (
            f' Phrases that could not be read, such as a bare "left": {counts["unreadable_phrases"]}; they count as '
            "refused, with nothing found, and are not asked with a click."
        )
    ways = {label: row["ways"] for label, row in rows.items() if set(row["ways"]) - {setup["groundings"][label]}}
    for label, taken in ways.items():
        below += f" {label} answered by {', '.join(f'{way} ({count})' for way, count in sorted(taken.items()))}."
    parts = [
        f"{_table('text', [title for title, _ in MASKS], lines)}\n\n{below}",
        _group_table(rows),
        _interaction_table(rows),
        _absent_table(rows, setup.get("absent_phrases")),
        _time_table(rows),
    ]
    return "\n\n".join(part for part in parts if part)
