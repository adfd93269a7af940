"""Text to mask: phrases put to several groundings side by side, on the same pictures in the same run.

Per picture and contender: every phrase alone, one at a time and timed; where a phrase names one thing, also together
with a click into its middle, and the click alone. Nothing here knows how a segmenter works: anything with
`SamTextSegmenter.segment`'s call can be measured.

Some phrases of public data a segmenter refuses to read, such as a bare "left". They are right questions all the same:
each counts as one that was answered by nothing. Whatever else is refused, such as a wrong option, stays an error.

Source: Segment Anything, §7.5 (a phrase, then a phrase with one click; figures only there); metrics see `text_scores`.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from ..data.text_samples import TextSample
from ..model.text_prompts import UnreadablePhrase
from .click_protocol import interior_point
from .provenance import describe_run
from .scores import mask_iou
from .text_scores import PhraseRecord, PictureTimes, summarise_phrases, summarise_times

__all__ = ["Contender", "evaluate_text"]


@dataclass(frozen=True)
class Contender:
    """One row of the tables.

    Attributes:
        label: What the row is called.
        segmenter: Anything with `segment(image, text, points=, labels=, grounding=, instances=)` that returns a
            `TextAnswer`, or raises `UnreadablePhrase` for a phrase that it refuses to read. If it has a `predictor`,
            encoding is timed and clicks are asked alone.
        grounding: What it is asked to use.
    """

    label: str
    segmenter: Any
    grounding: str


class _Asked(NamedTuple):
    """A phrase and what is right about it."""

    sample: TextSample
    target: np.ndarray  # (H,W) bool, the union of what it names
    named: int
    click: tuple[int, int] | None  # into the middle of the one thing that it names


def evaluate_text(
    contenders: Sequence[Contender],
    pictures: Iterable[Sequence[TextSample]],
    *,
    instances: str = "one",
    clicks: bool = True,
    total: int | None = None,
    progress: bool = True,
    name: str | None = None,
    command: str | None = None,
) -> dict:
    """Puts all phrases of all pictures to all contenders.

    Args:
        contenders: One or more, with different labels.
        pictures: The phrases of each picture, such as `text_samples.by_picture` gives them.
        instances: "one", "all" or "auto": how many instances are asked for. One for data whose phrases name one
            thing, all for data where they name every instance.
        clicks: Also ask phrase + click and click alone.
        total: How many pictures there are, for the progress bar.
        progress: Show a progress bar on stderr.
        name: What the report calls the model.
        command: What the report says how it was made; None: this process's command line.

    Returns:
        JSON-able: "setup", "counts" ("problems": pictures and masks that could not be read; "unreadable_phrases":
        phrases that a contender refused to read) and "rows", by label {"masks", "groups", "interaction", "absent",
        "ways", "time"}; see `text_scores`.

    Raises:
        ValueError: No contender, two of the same label, one whose grounding cannot be had, or no phrase whose picture
            and mask can be read; or a contender raises it for another reason than a phrase that it cannot read.
    """
    labels = [contender.label for contender in contenders]
    if not labels or len(set(labels)) < len(labels):
        raise ValueError(f"contenders: expected one or more with different labels, got {labels}")
    for contender in contenders:
        if hasattr(contender.segmenter, "grounding"):  # what is wrong with it is no fault of the first phrase
            contender.segmenter.grounding(contender.grounding)
    records: dict[str, list[PhraseRecord]] = {label: [] for label in labels}
    times: dict[str, list[PictureTimes]] = {label: [] for label in labels}
    console = Console(stderr=True)
    counts = dict.fromkeys(("pictures", "present", "absent", "instances"), 0)
    counts |= dict.fromkeys(("without_a_mask", "problems", "unreadable_phrases"), 0)

    def passed_over(error: ValueError) -> None:
        counts["problems"] += 1
        console.print(f"passed over: {error}", markup=False, highlight=False)

    shown = track(pictures, "evaluating", total=total, console=console, transient=True, disable=not progress)
    for number, samples in enumerate(shown):
        image, asked = _open(samples, passed_over)
        counts["without_a_mask"] += len(samples) - len(asked)
        if not asked:
            continue
        counts["pictures"] += 1
        counts["present"] += sum(not one.sample.absent for one in asked)
        counts["absent"] += sum(one.sample.absent for one in asked)
        counts["instances"] += sum(one.named for one in asked)
        unread: set[int] = set()
        for copy, contender in enumerate(contenders):
            found, spent = _measure(contender, _own_copy(image, copy), asked, number, instances, clicks)
            records[contender.label] += found
            times[contender.label].append(spent)
            unread |= {place for place, record in enumerate(found) if record.way is None}
        counts["unreadable_phrases"] += len(unread)
    if not counts["pictures"]:
        raise ValueError("pictures: expected at least one phrase with a mask, or an absent one, got none")
    rows = {label: summarise_phrases(records[label]) | {"time": summarise_times(times[label])} for label in labels}
    setup: dict[str, Any] = {"instances": instances, "groundings": {one.label: one.grounding for one in contenders}}
    predictor = getattr(contenders[0].segmenter, "predictor", None)
    if isinstance(getattr(predictor, "model", None), torch.nn.Module):
        setup |= describe_run(predictor.model, name=name, command=command)
    return {"setup": setup, "counts": counts, "rows": rows}


def _open(samples: Sequence[TextSample], passed_over: Callable[[ValueError], None]) -> tuple[np.ndarray, list[_Asked]]:
    """The picture, and what is right about each phrase.

    One whose annotation is empty, or cannot be drawn, can be answered neither right nor wrong; nor can any about a
    picture that cannot be read.
    """
    asked: list[_Asked] = []
    try:
        image = samples[0].image
    except ValueError as error:
        passed_over(error)
        return np.zeros((1, 1, 3), np.uint8), asked
    for sample in samples:
        try:
            masks = sample.masks
        except ValueError as error:
            passed_over(error)
            continue
        target = np.logical_or.reduce(masks) if masks else np.zeros(image.shape[:2], bool)
        if sample.absent or target.any():
            # Where several things are named, a click would name another thing than the phrase.
            click = interior_point(target) if len(masks) == 1 else None
            asked.append(_Asked(sample, target, len(masks), click))
    return image, asked


def _own_copy(image: np.ndarray, number: int) -> np.ndarray:
    """The picture, each contender's different in the lowest bits of its first values.

    Embeddings and feature maps are kept by content: with the very same picture all but the first contender would find
    the work already done, and look faster than they are.
    """
    copy = np.array(image)
    first = copy.reshape(-1)[:8]
    first ^= np.array([number >> place & 1 for place in range(len(first))], np.uint8)
    return copy


def _measure(
    contender: Contender, image: np.ndarray, asked: Sequence[_Asked], number: int, instances: str, clicks: bool
) -> tuple[list[PhraseRecord], PictureTimes]:
    segmenter, predictor = contender.segmenter, getattr(contender.segmenter, "predictor", None)
    encode, embedding = float("nan"), None
    if predictor is not None:
        started = _now()
        embedding = predictor.encode(image)
        encode = _now() - started
    records, spent = [], []
    for one in asked:
        started = _now()
        try:
            answer = segmenter.segment(image, one.sample.phrase, grounding=contender.grounding, instances=instances)
        except UnreadablePhrase:
            records.append(_unread(one, number))
            continue
        spent.append(_now() - started)
        records.append(_record(answer, one, number))
    if clicks:
        for place, one in enumerate(asked):
            if one.click is not None and records[place].way is not None:
                both, alone = _click_ious(contender, image, embedding, one)
                records[place] = replace(records[place], text_click=both, click=alone)
    return records, PictureTimes(encode, tuple(spent))


def _record(answer: Any, one: _Asked, number: int) -> PhraseRecord:
    found = _union(answer, one.target.shape)
    return PhraseRecord(
        picture=number,
        group=one.sample.group,
        absent=one.sample.absent,
        way=answer.grounding,
        evidence=float(answer.evidence),
        presence=float(answer.presence),
        refused=bool(answer.absent),
        answered=len(answer.instances or answer.refused),
        named=one.named,
        intersection=int((found & one.target).sum()),
        union=int((found | one.target).sum()),
    )


def _unread(one: _Asked, number: int) -> PhraseRecord:
    """Of a phrase that was not read: refused, and nothing found."""
    return PhraseRecord(
        picture=number,
        group=one.sample.group,
        absent=one.sample.absent,
        way=None,
        evidence=-math.inf,
        presence=0.0,
        refused=True,
        answered=0,
        named=one.named,
        intersection=0,
        union=int(one.target.sum()),
    )


def _union(answer: Any, size: tuple[int, int]) -> np.ndarray:
    """All that was found, whatever the verdict, (H,W) bool."""
    masks = [instance.mask for instance in (answer.instances or answer.refused)]
    return np.logical_or.reduce(masks) if masks else np.zeros(size, bool)


def _click_ious(contender: Contender, image: np.ndarray, embedding: Any, one: _Asked) -> tuple[float, float]:
    """IoU of phrase and click, and of the click alone: the best predicted of three, as in the click protocol."""
    points, labels = np.array([one.click], np.float32), np.array([1])
    answer = contender.segmenter.segment(
        image, one.sample.phrase, points=points, labels=labels, grounding=contender.grounding, instances="one"
    )
    both = float(mask_iou(_union(answer, one.target.shape), one.target))
    if embedding is None:
        return both, float("nan")
    alone = contender.segmenter.predictor.decode(embedding, points=points, labels=labels)
    return both, float(mask_iou(alone.masks[int(np.argmax(alone.scores))], one.target))


def _now() -> float:
    """Seconds, once everything that was asked of a GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
