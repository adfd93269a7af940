"""Phrases through the checkpoint's own text branch: one decode takes the phrase alone or with points, box and mask.

A phrase alone may mean a whole or a part, so the three masks compete by predicted IoU. With points, a box or a mask
beside it the three and the single-mask token compete. Where all instances are wanted, the branch, which was trained to
answer with one thing, is asked again: about each separate region of its answer, which splits answers that hold two
things at once, and with background points on all that was found, which leads to the next one, until what comes is
nothing new or much less sure than the first.

Source: §7.5, App. A and D.5 of Segment Anything for one phrase; asking again is this package's.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from sam_hf.inference.text.instances import (
    Found,
    Request,
    TextInstance,
    make_instance,
    mask_iou,
    stability,
    without_duplicates,
)

PHRASES_AT_ONCE = 8  # three masks of the picture's size each
EVIDENCE_BOUND = 1e-6  # predicted IoU of 0 and 1 are no certainty


class LearnedGrounding:
    """Finds phrases by the checkpoint's text branch; see the module.

    `score` is the predicted IoU, which a branch trained with absent phrases lowers where there is nothing to find;
    `evidence` is its log-odds for the best instance. `text_probability` is the phrase's share of the predicted IoU
    against the strongest negative phrase that answers with the same region; None where none does.

    Args:
        keep_share: With several instances, how sure a further one must be, as a share of the first one's score.
        max_instances: Bound of the questions per phrase, and so of the instances.
        duplicate_iou: IoU of masks above which two instances are one.
        negative_iou: IoU of masks above which a negative phrase speaks of the same thing.

    Raises:
        ValueError: If an argument is out of range.
    """

    name = "learned"

    def __init__(
        self,
        keep_share: float = 0.5,
        max_instances: int = 16,
        duplicate_iou: float = 0.5,
        negative_iou: float = 0.5,
    ):
        for argument, value in (
            ("keep_share", keep_share),
            ("duplicate_iou", duplicate_iou),
            ("negative_iou", negative_iou),
        ):
            if not 0 <= value <= 1:
                raise ValueError(f"{argument}: expected a share in [0, 1], got {value!r}")
        if max_instances < 1:
            raise ValueError(f"max_instances: expected 1 or more, got {max_instances!r}")
        self.keep_share, self.max_instances = keep_share, max_instances
        self.duplicate_iou, self.negative_iou = duplicate_iou, negative_iou

    def __call__(self, request: Request) -> list[Found]:
        """Answers every phrase of a request; see `instances.Grounding`.

        Raises:
            ValueError: If the checkpoint has no text branch, or the geometry has a wrong shape.
        """
        request.predictor.require_text()
        asked = (*request.phrases, *request.negatives)
        best = _best_answers(request, asked)
        rivals = best[len(request.phrases) :]
        found = []
        for index, first in enumerate(best[: len(request.phrases)]):
            instances = [first]
            # Geometry describes one thing; there is nothing more to look for.
            if request.wants_several(index) and not request.has_geometry:
                instances = self._further(request, request.phrases[index], first)
            instances = [one for one in instances if one.mask.any()]
            if rivals:
                judged = [self._against(one, rivals) for one in instances]
                instances = [one for one in judged if one is not None]
            evidence = max((_log_odds(one.score) for one in instances), default=-math.inf)
            found.append(Found(instances, evidence))
        return found

    def _further(self, request: Request, phrase: str, first: TextInstance) -> list[TextInstance]:
        """All instances of a phrase whose first answer is known."""
        least = self.keep_share * first.score
        parts = [_inside(region) for region in _regions(first.mask)]
        if len(parts) > 1:
            split = _ask(request, phrase, [(point, []) for point in parts[: self.max_instances]])
            kept = without_duplicates([one for one in split if one.score >= least], self.duplicate_iou)
            # The parts of one thing that is seen through a fence answer with the whole: then nothing is split.
            found = kept if len(kept) > 1 else [first]
        else:
            found = [first]
        while len(found) < self.max_instances:
            taken = [_inside(one.mask) for one in found if one.mask.any()]
            (following,) = _ask(request, phrase, [(None, taken)])
            overlap = max((_covered(following, other) for other in found), default=0.0)
            if following.score < least or not following.mask.any() or overlap > self.duplicate_iou:
                break
            found.append(following)
        return without_duplicates(found, self.duplicate_iou)

    def _against(self, instance: TextInstance, rivals: Sequence[TextInstance]) -> TextInstance | None:
        """The instance with its text probability; None if a negative phrase suits its region better."""
        same = [one.score for one in rivals if mask_iou(one.mask, instance.mask) > self.negative_iou]
        strongest = max(same, default=0.0)
        if strongest >= instance.score and same:
            return None
        probability = instance.score / max(instance.score + strongest, EVIDENCE_BOUND)
        return make_instance(
            instance.mask,
            instance.low_res_logits,
            instance.score,
            instance.predicted_iou,
            instance.stability,
            probability,
            instance.point,
        )


class _Candidates(NamedTuple):
    masks: np.ndarray  # (P,M,H,W)
    scores: np.ndarray  # (P,M)
    logits: np.ndarray  # (P,M,4h,4w)


def _best_answers(request: Request, phrases: Sequence[str]) -> list[TextInstance]:
    """The best instance of each phrase, with whatever geometry the request has."""
    best: list[TextInstance] = []
    for start in range(0, len(phrases), PHRASES_AT_ONCE):
        some = list(phrases[start : start + PHRASES_AT_ONCE])
        best += _pick(request, _decode(request, some), None)
    return best


def _decode(request: Request, phrases: list[str]) -> _Candidates:
    count = len(phrases)
    geometry = {"points": request.points, "labels": request.labels, "boxes": request.box}
    prompts = {name: None if given is None else [given] * count for name, given in geometry.items()}
    prompts["mask_input"] = None if request.mask_input is None else [request.mask_input] * count
    answer = request.predictor.decode_batch(request.embedding, text=phrases, **prompts)
    if not request.has_geometry:
        return _Candidates(*answer)
    single = request.predictor.decode_batch(request.embedding, text=phrases, multimask_output=False, **prompts)
    return _Candidates(*(np.concatenate(both, axis=1) for both in zip(answer, single, strict=True)))


def _ask(
    request: Request, phrase: str, places: Sequence[tuple[tuple[float, float] | None, list[tuple[float, float]]]]
) -> list[TextInstance]:
    """Asks for a phrase at a foreground point (or anywhere), away from background points, once per place."""
    found: list[TextInstance] = []
    for start in range(0, len(places), PHRASES_AT_ONCE):
        some = places[start : start + PHRASES_AT_ONCE]
        points = [([] if point is None else [point]) + list(away) for point, away in some]
        labels = [([] if point is None else [1]) + [0] * len(away) for point, away in some]
        answer = request.predictor.decode_batch(
            request.embedding,
            points=[np.array(row, dtype=np.float32) for row in points],
            labels=[np.array(row) for row in labels],
            text=[phrase] * len(some),
        )
        found += _pick(request, _Candidates(*answer), [point for point, _ in some])
    return found


def _pick(
    request: Request, candidates: _Candidates, points: Sequence[tuple[float, float] | None] | None
) -> list[TextInstance]:
    """Of each prompt's masks the one with the best predicted IoU, as an instance."""
    chosen = candidates.scores.argmax(axis=1)
    rows = np.arange(len(chosen))
    logits, scores = candidates.logits[rows, chosen], candidates.scores[rows, chosen]
    stable = stability(request, logits)
    return [
        # A copy, since a view would keep all three masks.
        make_instance(
            candidates.masks[row, index].copy(),
            logits[row].copy(),
            score=scores[row],
            predicted_iou=scores[row],
            stability=stable[row],
            point=None if points is None else points[row],
        )
        for row, index in enumerate(chosen)
    ]


def _regions(mask: np.ndarray, least_share: float = 0.1) -> list[np.ndarray]:
    """Connected regions of a mask, largest first; those below a share of the mask are crumbs."""
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    sizes = statistics[1:count, cv2.CC_STAT_AREA]
    order = [index for index in np.argsort(-sizes, kind="stable") if sizes[index] >= least_share * mask.sum()]
    return [labels == index + 1 for index in order]


def _inside(mask: np.ndarray) -> tuple[float, float]:
    """xy of the middle of the pixel that is deepest inside a mask."""
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return float(x) + 0.5, float(y) + 0.5


def _covered(one: TextInstance, other: TextInstance) -> float:
    """Share of the smaller of two masks that the other covers: a further answer must lie elsewhere."""
    smaller = min(one.area, other.area)
    return float(np.logical_and(one.mask, other.mask).sum() / smaller) if smaller else 0.0


def _log_odds(probability: float) -> float:
    probability = min(max(probability, EVIDENCE_BOUND), 1 - EVIDENCE_BOUND)
    return math.log(probability / (1 - probability))
