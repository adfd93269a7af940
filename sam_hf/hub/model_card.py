"""The model card: one template, filled from what a checkpoint is, what its training says and what was measured.

There are three kinds of checkpoint, and what is true of one is not said of another: "synthetic" was trained by this
project on its own scenes, "text" is somebody's SAM with a text branch trained on top, "converted" is somebody's SAM as
it was. Where nobody says, the card says neither. A number that nobody has measured reads "not measured".
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from sam_hf.hub.result_tables import NOT_MEASURED, format_absent, format_table, model_index, read_report
from sam_hf.hub.text_result_tables import format_text_results
from sam_hf.model.checkpoint_checks import check_folder, files_of_weights
from sam_hf.model.checkpoint_files import EVALUATIONS, TRAINING, read_json
from sam_hf.model.checkpoint_names import resolve
from sam_hf.model.configuration_sam import SamConfig, SamTinyViTConfig
from sam_hf.model.weight_checks import check_weight_files

__all__ = ["KINDS", "NOT_MEASURED", "card_for", "describe_checkpoint", "fill_card", "find_template"]

KINDS = ("synthetic", "text", "converted")
RELATIONS = ("finetune", "adapter", "merge", "quantized")  # the Hub's
HEAD = re.compile(r"\A---\r?\n(.*?)\r?\n---\r?\n", re.DOTALL)
REQUIRED_HEAD = {"library_name": "transformers", "pipeline_tag": "mask-generation"}
UNKNOWN = "unknown"  # the Hub's word for a licence that nobody has stated
OURS = "apache-2.0"
# Bases whose authors have put the weights under Apache 2.0; of a conversion of them that still holds.
APACHE_BASES = re.compile(r"facebook/sam-vit-(base|large|huge)|MobileSAM")
ARCHITECTURES = {768: "ViT-B", 1024: "ViT-L", 1280: "ViT-H"}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


# What is expected of a fact -> the facts, and whether a value is that.
FACTS = {
    "text": (
        "kind model_name load_name base_model base_model_relation license licence_file clip encoder training_data "
        "training_command training_hardware recipe preset mixed_precision photo_observations text_table",
        lambda value: isinstance(value, str),
    ),
    "text or a number": ("energy", lambda value: isinstance(value, str) or _is_number(value)),
    "a number": (
        "parameters image_size checkpoint_mb cpu_hours gpu_hours training_steps training_minutes pictures_seen "
        "processes",
        _is_number,
    ),
    "true or false": ("has_text custom_code", lambda value: isinstance(value, bool)),
    "a list of texts": ("datasets learned_parts frozen", _are_texts),
    "texts by name": ("licences", lambda value: isinstance(value, dict) and _are_texts(list(value.values()))),
}


def find_template() -> Path:
    """The template that this package brings; in a clone, the one at its top.

    Raises:
        OSError: There is none.
    """
    places = [Path(__file__).with_name("model_card.md"), Path(__file__).parents[2] / "model_card.md"]
    for place in places:
        if place.is_file():
            return place
    raise OSError("the template model_card.md is not where this package has it: pass `template`")


def describe_checkpoint(folder: Any) -> dict[str, Any]:
    """What a card says of a checkpoint without anything being run: from its files, and its training's if there.

    Args:
        folder: A checkpoint's, or "tiny".

    Returns:
        Facts for `fill_card`.

    Raises:
        OSError: There is no such checkpoint.
        ValueError: It is damaged.
    """
    folder = Path(resolve(folder)).expanduser()
    check_folder(folder)
    config = SamConfig.from_pretrained(folder)
    files = files_of_weights(folder)
    vision = config.vision_config
    encoder = "TinyViT" if isinstance(vision, SamTinyViTConfig) else ARCHITECTURES.get(vision.hidden_size, "ViT")
    facts = {
        "model_name": folder.name,
        "parameters": sum(math.prod(shape) for shape in check_weight_files(files).values()),
        "checkpoint_mb": sum(file.stat().st_size for file in files) / 1e6,
        "image_size": vision.image_size,
        "encoder": encoder,
        "has_text": config.text_config is not None,
        "custom_code": config.is_extended,
    }
    licence = next(iter(sorted(folder.glob("LICEN[CS]E*"))), None)
    if licence is not None:
        facts["licence_file"] = licence.name
    training = folder / TRAINING
    return facts | (_stated_in(training) if training.exists() else {})


def _stated_in(training: Path) -> dict[str, Any]:
    """What a training says of itself, each fact of the type that the template takes.

    Raises:
        ValueError: Naming the file and the fact.
    """
    stated = read_json(training)
    for expected, (names, fits) in FACTS.items():
        wrong = next((name for name in names.split() if stated.get(name) is not None and not fits(stated[name])), None)
        if wrong is not None:
            raise ValueError(f"{wrong!r} in {str(training)!r}: expected {expected}, got {stated[wrong]!r}")
    return stated


def card_for(folder: Any, template: Any = None, **facts: Any) -> str:
    """The card of a checkpoint, with what `evaluation.json` and `evaluation_text.json` beside its weights hold.

    Args:
        folder: A checkpoint's.
        template: Path of another template.
        **facts: What the files do not say, such as `model_name`, `base_model`, `license`, `training_hardware`.

    Raises:
        OSError: There is no such checkpoint, or no template.
        ValueError: An evaluation is none; or see `fill_card`.
    """
    measured = _measured_beside(Path(resolve(folder)).expanduser())
    known = describe_checkpoint(folder) | {"text_table": measured.pop("text_table", None)} | facts
    return fill_card(known, template=template, **measured)


def _measured_beside(folder: Path) -> dict[str, Any]:
    """What `fill_card` takes from the evaluations in a folder, and `text_table`; {} without them."""
    measured: dict[str, Any] = {}
    for name in EVALUATIONS:
        if not (folder / name).exists():
            continue
        try:
            results = read_report(folder / name)
            if name == EVALUATIONS[1]:
                measured["text_table"] = format_text_results(results)
                continue
            printed = {"table": format_table(results, notes=False), "absent": format_absent(results)}
            measured |= {"results": results, "eval_results": model_index(results), **printed}
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{str(folder / name)!r} holds no results of an evaluation: {error!r}") from error
    return measured


def fill_card(
    facts: Mapping[str, Any],
    results: dict | None = None,
    template: Any = None,
    table: str = "",
    absent: str = "",
    eval_results: Sequence[EvalResult] = (),
) -> str:
    """Fill the template.

    Its YAML head is the card's, completed by what is known: `base_model` and its relation, `datasets`, `model-index`,
    more tags. Its body is Jinja; every fact is a name there.

    Args:
        facts: Such as `kind` (see `KINDS`), `model_name`, `load_name`, `base_model` (a Hub id or a name),
            `base_model_relation`, `datasets` (Hub ids that it was trained with), `license` (the Hub's name; where
            nobody states it, and it does not follow from the base, the card says so), `has_text`, `custom_code`,
            `parameters`, `image_size`, `checkpoint_mb`, `recipe`, `cpu_hours`, `gpu_hours`, `energy`.
        results: What was measured, for the body.
        template: Path of the template; None: `find_template()`.
        table: The results, printed.
        absent: A sentence on phrases of absent objects.
        eval_results: The results for the head's `model-index`.

    Returns:
        The card, head and body.

    Raises:
        ValueError: A fact contradicts another or is none that the Hub knows; or the template is no template.
        OSError: The template cannot be read.
    """
    template = find_template() if template is None else Path(template)
    text = template.read_text(encoding="utf-8")
    head = HEAD.match(text)
    if head is None:
        raise ValueError(f"template: expected a YAML head between two --- lines in {template}, got none")
    given = yaml.safe_load(head.group(1))
    facts = _completed({"license": given.get("license")} | dict(facts))
    data = _head(given, facts, eval_results)
    try:
        body = _environment().from_string(text[head.end() :])
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"template: {template}, line {error.lineno} of the body: {error.message}") from error
    measured = {"results": results or _NotMeasured(name="results"), "table": table, "absent": absent}
    rendered = re.sub(r"\n{3,}", "\n\n", body.render(**(facts | measured)))
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n{rendered}")
    _check_head(card.data.to_dict())
    return str(card)


def _completed(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts with those that follow from others."""
    facts = {"model_name": "sam_hf"} | {name: value for name, value in facts.items() if value is not None}
    command = str(facts.get("training_command", ""))
    if "kind" not in facts:
        for kind, trace in (("synthetic", "recipes.tiny"), ("synthetic", "train tiny"), ("text", "train text")):
            if trace in command:
                facts["kind"] = kind
    kind = facts.setdefault("kind", "")
    if kind not in ("", *KINDS):
        raise ValueError(f"kind: expected one of {list(KINDS)}, got {kind!r}")
    if kind == "converted" and command:
        raise ValueError(f"kind: a converted checkpoint was not trained, but `training_command` is {command!r}")
    facts.setdefault("has_text", kind in ("synthetic", "text"))
    if "license" not in facts:
        known = kind == "converted" and APACHE_BASES.fullmatch(str(facts.get("base_model")))
        facts["license"] = OURS if kind == "synthetic" or known else UNKNOWN
    return facts


def _head(given: dict[str, Any], facts: dict[str, Any], eval_results: Sequence[EvalResult]) -> ModelCardData:
    head = dict(given)
    tags = list(head.get("tags") or [])
    tags += ["text-prompt", "open_clip"] if facts["has_text"] else []
    tags += ["custom_code"] if facts.get("custom_code") else []
    if tags:
        head["tags"] = list(dict.fromkeys(tags))
    if not eval_results:
        head.pop("metrics", None)
    head["license"] = facts["license"]
    base = facts.get("base_model")
    if base and "/" in base:  # a Hub id; the name of a folder would lead to somebody else's model
        try:
            validate_repo_id(base)
        except HFValidationError as error:
            raise ValueError(f"base_model: expected a Hub id, got {base!r}") from error
        head["base_model"] = base
        relation = facts.get("base_model_relation") or ("finetune" if facts["kind"] == "text" else None)
        if relation is not None:
            head["base_model_relation"] = relation
    if facts.get("datasets"):
        head["datasets"] = list(facts["datasets"])
        for name in head["datasets"]:
            if re.search(r"sa[-_]?1b", name, re.IGNORECASE) and "SA-1B" not in str(facts.get("training_data")):
                raise ValueError(f"datasets: {name!r} is named, but `training_data` does not say that SA-1B was used")
    data = ModelCardData(**head)
    data.eval_results = list(eval_results) or None
    data.model_name = facts["model_name"] if eval_results else None  # the head's name of what was measured
    return data


def _check_head(head: dict[str, Any]) -> None:
    for key, expected in REQUIRED_HEAD.items():
        if head.get(key) != expected:
            raise ValueError(f"template: expected {key}: {expected} in the YAML head, got {head.get(key)!r}")
    if not isinstance(head.get("license"), str) or not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", head["license"]):
        raise ValueError(f"license: expected the Hub's name of one, such as apache-2.0, got {head.get('license')!r}")
    if not isinstance(head.get("tags"), list) or not head["tags"]:
        raise ValueError(f"template: expected a list under tags in the YAML head, got {head.get('tags')!r}")
    relation = head.get("base_model_relation")
    if relation is not None and relation not in RELATIONS:
        raise ValueError(f"base_model_relation: expected one of {list(RELATIONS)}, got {relation!r}")
    json.dumps(head)  # nothing but text, numbers and lists of them


class _NotMeasured(jinja2.ChainableUndefined):
    """A name in the template that no fact has; chains, so that `a.b.c` of nothing is nothing."""

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
