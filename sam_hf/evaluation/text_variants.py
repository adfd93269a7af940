"""Two runs beside the plain one: fitting the verdict "absent", and comparing variants of one choice.

A calibration must not have seen the phrases that it is judged by, nor those that the model was trained on: it is
fitted on scenes of the train split, made from a seed of their own.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from inspect import signature
from typing import Any

from rich.console import Console
from rich.progress import track

from ..data.text_samples import TextSample
from ..inference.text.dense import DenseGrounding
from ..inference.text.dense_features import ATTENTIONS
from ..inference.text.learned import LearnedGrounding
from ..inference.text.proposals import ProposalGrounding
from ..inference.text.ranking import RANKING_VIEWS
from ..inference.text.segmenter import calibration_name
from ..inference.text.templates import BACKGROUND, PHOTO, PLAIN, SCENE
from ..inference.text.verdict import Calibration
from ..inference.text.views import VIEWS
from ..model.text_prompts import UnreadablePhrase
from .scores import KEEP_PRESENT
from .text_to_mask import Contender

__all__ = ["ABLATIONS", "ablated_grounding", "fit_calibration", "read_option", "variants", "with_options"]

CALIBRATION_SEED = 7777  # no recipe trains on the scenes of this seed


def _one_option(name: str, values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {label: {name: value} for label, value in values.items()}


# Choice -> the grounding that makes it, and the options of each variant; the first is the package's own choice, with
# the embedded CLIP at least.
ABLATIONS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "views": (
        "proposals",
        _one_option(
            "views",
            {" + ".join(RANKING_VIEWS): RANKING_VIEWS}
            | {view: (view,) for view in VIEWS}
            | {"crop + blurred": ("crop", "blurred"), "all four": VIEWS},
        ),
    ),
    "templates": (
        "proposals",
        _one_option(
            "templates",
            {"the phrase alone": PLAIN, f"photos ({len(PHOTO)})": PHOTO, f"scenes ({len(SCENE)})": SCENE},
        ),
    ),
    "background": (
        "proposals",
        _one_option(
            "background",
            {
                f"all {len(BACKGROUND)} words": BACKGROUND,
                "every other word": BACKGROUND[::2],
                ", ".join(BACKGROUND[-3:]): BACKGROUND[-3:],
            },
        ),
    ),
    "alignment": ("learned", _one_option("alignment", {"asked": True, "not asked": False})),
    "places": (
        "learned",
        {
            "up to 4 regions": {"places": 4},
            "one region": {"places": 1},
            "none: the first answer, its verdict by the alignment": {"places": 0},
            "none, and no alignment: one decode, as in the paper": {"places": 0, "alignment": False},
        },
    ),
    "attention": ("dense", _one_option("attention", {"nacl": "nacl"} | {a: a for a in ATTENTIONS if a != "nacl"})),
}
KINDS = {"learned": LearnedGrounding, "dense": DenseGrounding, "proposals": ProposalGrounding}


def ablated_grounding(choice: str, grounding: str | None = None) -> str:
    """The grounding whose variants are compared.

    Args:
        choice: One of `ABLATIONS`.
        grounding: The one that is asked for; None: the one that `ABLATIONS` names.

    Raises:
        ValueError: There is no such choice, or that grounding does not have it.
    """
    if choice not in ABLATIONS:
        raise ValueError(f"ablate: expected one of {', '.join(ABLATIONS)}, got {choice!r}")
    usual, rows = ABLATIONS[choice]
    names = {name for options in rows.values() for name in options}
    having = [name for name, kind in KINDS.items() if names <= signature(kind).parameters.keys()]
    if grounding is not None and grounding not in having:
        raise ValueError(f"grounding: expected {' or '.join(having)} to compare {choice} of, got {grounding!r}")
    return grounding or usual


def variants(
    choice: str,
    make: Callable[[Mapping[str, Mapping[str, Any]]], Any],
    grounding: str | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Contender]:
    """One contender per variant of a choice, all else equal.

    Args:
        choice: One of `ABLATIONS`.
        make: Makes a segmenter of options by grounding, {"dense": {"attention": "plain"}}; share the predictor and
            the CLIP between those it makes.
        grounding: Whose choice; None: the one that `ABLATIONS` names.
        options: Further options by grounding, the same for all.

    Raises:
        ValueError: There is no such choice, or that grounding does not have it.
    """
    grounding = ablated_grounding(choice, grounding)
    return [
        Contender(label, make(with_options(options or {}, grounding, more)), grounding)
        for label, more in ABLATIONS[choice][1].items()
    ]


def with_options(
    options: Mapping[str, Mapping[str, Any]], grounding: str, more: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Options by grounding, with more for one of them."""
    merged = {name: dict(given) for name, given in options.items()}
    merged[grounding] = merged.get(grounding, {}) | dict(more)
    return merged


def read_option(typed: str) -> tuple[str, str, Any]:
    """Reads "GROUNDING.NAME=VALUE", such as "proposals.points_per_side=8" or 'dense.views=["crop"]'.

    Returns:
        Grounding, name and value; the value is read as JSON, or else taken as text.

    Raises:
        ValueError: It has another form.
    """
    place, equals, value = typed.partition("=")
    grounding, dot, name = place.partition(".")
    if not (equals and dot and grounding and name.isidentifier()):
        raise ValueError(f"option: expected GROUNDING.NAME=VALUE, such as proposals.points_per_side=8, got {typed!r}")
    try:
        return grounding, name, json.loads(value)
    except json.JSONDecodeError:
        return grounding, name, value


def fit_calibration(
    segmenter: Any,
    pictures: Iterable[Sequence[TextSample]],
    groundings: Sequence[str],
    *,
    keep: float = KEEP_PRESENT,
    instances: str = "one",
    total: int | None = None,
    progress: bool = True,
) -> Calibration:
    """Fits when a phrase is absent, one curve per grounding.

    Pictures and phrases that cannot be read are passed over.

    Args:
        segmenter: A `SamTextSegmenter`; its own calibration plays no part, but its other curves stay.
        pictures: Present and absent phrases of each picture: training data, never what is evaluated.
        groundings: Ways by name; "auto" is one of its own on a checkpoint with a text branch only.
        keep: Share of the present phrases that the verdict keeps.
        instances: As they will be asked for.
        total: How many pictures, for the progress bar.
        progress: Show it on stderr.

    Raises:
        ValueError: "auto" is among the groundings and takes now one way, now another, a grounding cannot be had, or
            there are no present or no absent phrases.
    """
    if "auto" in groundings and not segmenter.has_text_branch:
        raise ValueError("grounding: expected the ways themselves to calibrate, such as dense; got auto")
    names = {name: calibration_name(segmenter.grounding(name)) for name in groundings}
    evidence: dict[str, tuple[list, list]] = defaultdict(lambda: ([], []))
    console = Console(stderr=True)

    def passed_over(error: ValueError) -> None:
        console.print(f"passed over: {error}", markup=False, highlight=False)

    for samples in track(pictures, "calibrating", total=total, console=console, transient=True, disable=not progress):
        try:
            image = samples[0].image
        except ValueError as error:
            passed_over(error)
            continue
        for name in groundings:
            ask = partial(segmenter.segment, image, grounding=name, instances=instances)
            for sample, answer in _answered(ask, samples, passed_over):
                evidence[name][sample.absent].append(answer.evidence)
    calibration = Calibration(segmenter.calibration.curves)
    for name, curve in names.items():
        calibration.fit(curve, *evidence[name], keep=keep)
    return calibration


def _answered(
    ask: Callable[..., Any], samples: Sequence[TextSample], passed_over: Callable[[ValueError], None]
) -> list[tuple[TextSample, Any]]:
    """The phrases about one picture that can be read, with their answers; all at once where all can be read."""
    try:
        return list(zip(samples, ask([sample.phrase for sample in samples]), strict=True))
    except UnreadablePhrase as error:
        if len(samples) > 1:
            return [pair for sample in samples for pair in _answered(ask, [sample], passed_over)]
        passed_over(error)
        return []
