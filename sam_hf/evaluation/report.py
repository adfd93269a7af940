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

from ..hub.model_card import describe_checkpoint, fill_card
from ..hub.result_tables import format_absent, format_table, markdown_table, model_index, read_report
from ..hub.text_result_tables import format_text_results

__all__ = [
    "format_absent",
    "format_table",
    "markdown_table",
    "model_index",
    "read_report",
    "render_card",
    "write_report",
]


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
        facts["text_table"] = format_text_results(read_report(options.text_results))
    card = render_card(read_report(options.results) if options.results else None, options.template, **facts)
    if options.output:
        Path(options.output).write_text(card, encoding="utf-8")
    else:
        print(card)
    return 0


if __name__ == "__main__":
    sys.exit(main())
