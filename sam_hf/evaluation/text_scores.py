"""From one record per phrase to the numbers of text-to-mask, each with the error bar that its pictures allow.

- mean IoU: of the union of the answered instances with the union of the named ones, per phrase, as PhraseCut does;
- cIoU: all intersections over all unions, as RefCOCO's papers do; large objects weigh more;
- P@t: share of the phrases whose IoU exceeds t;
- both before the verdict "absent", and the mean IoU after it, where a refused phrase counts 0;
- absent phrases: AUROC of the evidence, false alarms at the threshold that keeps 80 % of the present phrases (chosen
  on these very phrases, so it says how well the evidence orders them), and of the calibrated verdict as it is.

Error bars: whole pictures are drawn anew, since phrases of one share its difficulties.

Source: Wu et al. 2020 (PhraseCut), Yu et al. 2016 (RefCOCO); the operating point is this project's.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..inference.text.verdict import KEEP_PRESENT, threshold_that_keeps
from .scores import auroc, clustered_mean

__all__ = ["PhraseRecord", "PictureTimes", "operating_point", "resampled", "summarise_phrases", "summarise_times"]

PRECISIONS = (0.5, 0.7, 0.9)
RESAMPLES = 200


@dataclass(frozen=True)
class PhraseRecord:
    """One phrase, answered by one contender.

    Attributes:
        picture: Which picture it is about.
        group: See `TextSample`.
        absent: Whether the phrase names nothing there.
        way: Which grounding answered; None: none, the phrase could not be read.
        evidence: How much speaks for its presence, on that grounding's scale; -inf where nothing was found.
        presence: The same as a probability.
        refused: Whether the verdict was "absent".
        answered: How many instances were found, refused ones included.
        named: How many the phrase names.
        intersection: Pixels of the answered union in the named union, verdict aside.
        union: Pixels of both together.
        click: IoU of a click alone; NaN where it was not asked.
        text_click: IoU of the phrase with that click; likewise.
    """

    picture: int
    group: str
    absent: bool
    way: str | None
    evidence: float
    presence: float
    refused: bool
    answered: int
    named: int
    intersection: int
    union: int
    click: float = math.nan
    text_click: float = math.nan

    @property
    def iou(self) -> float:
        """Of the two unions; 1 where both are empty."""
        return self.intersection / self.union if self.union else 1.0


@dataclass(frozen=True)
class PictureTimes:
    """What one contender's answers about one picture took, in seconds of this very run.

    Attributes:
        encode: SAM's encoding of the picture; NaN where it cannot be told apart.
        phrases: Each phrase in the order asked; the embedding was there already.
    """

    encode: float
    phrases: tuple[float, ...]


def resampled(
    statistic: Callable[[np.ndarray], float | None], pictures: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> dict | None:
    """A statistic with a bootstrap over pictures.

    Args:
        statistic: Number made of the rows with these indices; None where they do not suffice.
        pictures: Which picture each row belongs to.
        resamples: Bootstrap draws.
        seed: Of the draws.

    Returns:
        {"mean", "stderr", "ci95", "n"}, "mean" being the statistic of all rows, as `scores.clustered_mean` gives
        them; None where that is None.
    """
    pictures = np.asarray(pictures)
    value = statistic(np.arange(len(pictures)))
    if value is None:
        return None
    result: dict[str, Any] = {"mean": float(value), "stderr": None, "ci95": None, "n": len(pictures)}
    _, places = np.unique(pictures, return_inverse=True)
    rows = np.split(np.argsort(places, kind="stable"), np.cumsum(np.bincount(places))[:-1])
    if len(rows) > 1:
        rng = np.random.default_rng(seed)
        draws = (rng.integers(len(rows), size=len(rows)) for _ in range(resamples))
        values = [statistic(np.concatenate([rows[index] for index in draw])) for draw in draws]
        values = [drawn for drawn in values if drawn is not None]
        if len(values) > 1:
            result["stderr"] = float(np.std(values, ddof=1))
            result["ci95"] = [float(edge) for edge in np.percentile(values, [2.5, 97.5])]
    return result


def operating_point(present: np.ndarray, absent: np.ndarray, keep: float = KEEP_PRESENT) -> dict | None:
    """The strictest threshold that keeps enough present phrases, and what it lets pass of the absent ones.

    Args:
        present: Evidence of phrases that are there, (N,); -inf where nothing was found, which no threshold keeps.
        absent: Of phrases that are not, (M,).
        keep: Share of the present ones to keep.

    Returns:
        {"threshold", "kept", "false_alarms"}; "kept" is below `keep` where too little was found at all, and then
        everything found is kept. None if either side is empty or nothing was found.

    Raises:
        ValueError: `keep` lies outside (0, 1].
    """
    present, absent = np.asarray(present, np.float64), np.asarray(absent, np.float64)
    threshold = threshold_that_keeps(present, keep)
    if threshold is None or len(absent) == 0:
        return None
    kept, alarms = (present >= threshold).mean(), (absent >= threshold).mean()
    return {"threshold": threshold, "kept": float(kept), "false_alarms": float(alarms)}


def summarise_phrases(records: Sequence[PhraseRecord], keep: float = KEEP_PRESENT) -> dict:
    """The numbers of one contender.

    Args:
        records: Of all pictures.
        keep: Share of the present phrases that the operating point keeps.

    Returns:
        {"masks": {...}, "groups": {...}, "interaction": {...} or None, "absent": {...} or None, "ways": {...}}, every
        number as `scores.clustered_mean` gives it; None where nothing was measured.
    """
    present = [record for record in records if not record.absent]
    pictures = np.array([record.picture for record in present], np.int64)
    ious = np.array([record.iou for record in present], np.float64)
    overlaps = np.array([[record.intersection, record.union] for record in present], np.float64).reshape(-1, 2)
    answered = np.array([not record.refused for record in present], bool)

    def cumulative(rows: np.ndarray) -> float | None:
        intersection, union = overlaps[rows].sum(axis=0)
        return float(intersection / union) if union else None

    masks = {"mean_iou": clustered_mean(ious, pictures), "ciou": resampled(cumulative, pictures)}
    masks |= {f"precision_{at}": clustered_mean((ious > at).astype(float), pictures) for at in PRECISIONS}
    masks["mean_iou_after_verdict"] = clustered_mean(np.where(answered, ious, 0.0), pictures)
    names = sorted({record.group for record in present})
    groups = {
        name: clustered_mean(*_columns([(r.iou, r.picture) for r in present if r.group == name])) for name in names
    }
    return {
        "masks": masks,
        "groups": groups,
        "interaction": _interaction(present),
        "absent": _absent(records, keep),
        "ways": dict(Counter(record.way for record in records if record.way is not None)),
    }


def _columns(rows: Sequence[tuple[float, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([value for value, _ in rows], np.float64), np.array([picture for _, picture in rows], np.int64)


def _interaction(present: Sequence[PhraseRecord]) -> dict | None:
    """Phrase, click, and both, on the same phrases."""
    asked = [record for record in present if not math.isnan(record.text_click)]
    if not asked:
        return None
    values = {name: [getattr(record, name) for record in asked] for name in ("iou", "click", "text_click")}
    pictures = np.array([record.picture for record in asked], np.int64)
    means = {name: clustered_mean(np.array(column, np.float64), pictures) for name, column in values.items()}
    return {"text": means["iou"], "click": means["click"], "text_click": means["text_click"]}


def _absent(records: Sequence[PhraseRecord], keep: float) -> dict | None:
    absent = np.array([record.absent for record in records], bool)
    if not absent.any() or absent.all():
        return None
    pictures = np.array([record.picture for record in records], np.int64)
    refused = np.array([record.refused for record in records], bool)
    # Evidence of two groundings has no common scale; their probabilities do.
    alone = len({record.way for record in records} - {None}) <= 1
    strength = np.array([record.evidence if alone else _log_odds(record.presence) for record in records], np.float64)

    def area(rows: np.ndarray) -> float | None:
        return auroc(strength[rows][~absent[rows]], strength[rows][absent[rows]])

    def at_point(name: str) -> Callable[[np.ndarray], float | None]:
        def statistic(rows: np.ndarray) -> float | None:
            point = operating_point(strength[rows][~absent[rows]], strength[rows][absent[rows]], keep)
            return point and point[name]

        return statistic

    point = operating_point(strength[~absent], strength[absent], keep)
    return {
        "auroc": resampled(area, pictures),
        "keep": keep,
        "threshold": point and point["threshold"],
        "kept": resampled(at_point("kept"), pictures),
        "false_alarms": resampled(at_point("false_alarms"), pictures),
        "verdict_kept": clustered_mean((~refused[~absent]).astype(float), pictures[~absent]),
        "verdict_false_alarms": clustered_mean((~refused[absent]).astype(float), pictures[absent]),
        "n_present": int((~absent).sum()),
        "n_absent": int(absent.sum()),
    }


def _log_odds(presence: float) -> float:
    if presence <= 0:
        return -math.inf
    return math.log(presence) - math.log1p(-min(presence, 1 - 2**-53))


def summarise_times(times: Sequence[PictureTimes]) -> dict | None:
    """Medians per picture as multiples of SAM's encoding of the same pictures in the same run.

    Returns:
        {"first_phrase", "further_phrase", "pictures"}: what the first phrase about a picture takes beyond the
        encoding, and what each further one takes; None where encoding was not timed. "further_phrase" is None where no
        picture had two.
    """
    encode = np.array([entry.encode for entry in times], np.float64)
    encode = encode[~np.isnan(encode)]
    first = [entry.phrases[0] for entry in times if entry.phrases]
    further = [seconds for entry in times for seconds in entry.phrases[1:]]
    if not len(encode) or not first or not np.median(encode) > 0:
        return None
    unit = float(np.median(encode))
    return {
        "first_phrase": float(np.median(first)) / unit,
        "further_phrase": float(np.median(further)) / unit if further else None,
        "pictures": len(times),
    }
