"""Phrases through the checkpoint's own text branch.

A phrase alone is asked twice. The first answer, the best of three masks by predicted IoU, often says roughly where,
and sometimes mixes two things. So the phrase is asked again together with a click, in each separate region of the
first answer, and the click is asked without the phrase. How much the phrase adds to what the click alone promises (the
*gain*: difference of the log-odds of both predicted IoUs) says which region is meant. A checkpoint with an alignment
(`model.text_alignment`) has more to say: where the phrase is likeliest is one more place to ask at, how well each mask
suits the phrase joins the gain, and the likeliest cell of the picture says whether the phrase is there at all; without
one that is the first answer's log-odds and the gain. A CLIP, if given, joins as a second opinion on both.

Where something is pointed at there is one decode of everything together, and the gain is over the geometry alone.
Background points alone go into the first decode, and what lies on them is dropped.

Where all instances are wanted, the regions are all some; then the phrase is asked with background points on what was
found, which leads to the next one, until what comes is nothing new, or the branch is much less sure of it than it was
of the first answer.

Source: §7.5, App. A and D.5 of Segment Anything for one decode; asking again is this package's (`places=0` leaves it
out, `sam-hf evaluate text` measures either).
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from sam_hf.inference.predictor import Prediction
from sam_hf.inference.text.grounding_options import check_counts, check_shares
from sam_hf.inference.text.instances import (
    Found,
    Request,
    TextInstance,
    as_numbers,
    log_odds,
    make_instance,
    mask_iou,
    stability,
)
from sam_hf.inference.text.opinions import Opinions
from sam_hf.inference.text.placement import Geometry, distinct_instances

if TYPE_CHECKING:
    from sam_hf.inference.text.clip_encoder import ClipEncoder

PROMPTS_AT_ONCE = 8  # three masks of the picture's size each
CRUMB = 0.1  # share of a mask below which a region of it is no place to ask about

Point = tuple[float, float]


class LearnedGrounding:
    """Finds phrases by the checkpoint's text branch; see the module.

    Of each instance, `text_probability`, which is its `score`, too, has the log-odds of the phrase's first answer,
    plus the gain, plus what `opinions` say of the mask. `evidence` is what they say of the whole picture, or else the
    best instance's log-odds.

    Args:
        clip: A second opinion, or None.
        alignment: Whether the checkpoint's alignment is asked, if it has one.
        places: At most how many regions of the first answer are asked about again; 0: none, the first answer is the
            answer, and without alignment and CLIP its log-odds are the evidence: the paper's one decode.
        keep_share: With several instances, how sure the branch must be of a further one, as a share of its certainty
            of the first answer.
        max_instances: Bound of the instances per phrase.
        overlap: Two masks are one object if so much of the smaller lies in the larger; the higher score stays.
        negative_iou: IoU of masks above which a negative phrase speaks of the same thing.

    Raises:
        TypeError, ValueError: If an argument is of the wrong type, or out of range.
    """

    name = "learned"

    def __init__(
        self,
        clip: "ClipEncoder | None" = None,
        alignment: bool = True,
        places: int = 4,
        keep_share: float = 0.5,
        max_instances: int = 16,
        overlap: float = 0.5,
        negative_iou: float = 0.5,
    ):
        check_shares(keep_share=keep_share, overlap=overlap, negative_iou=negative_iou)
        check_counts(0, places=places)
        check_counts(max_instances=max_instances)
        self.alignment = alignment
        self.clip, self.places, self.keep_share, self.max_instances = clip, places, keep_share, max_instances
        self.overlap, self.negative_iou = overlap, negative_iou

    def __call__(self, request: Request) -> list[Found]:
        """Answers every phrase of a request; see `instances.Grounding`.

        Raises:
            ValueError: If the checkpoint has no text branch, or the geometry has a wrong shape.
        """
        request.predictor.require_text()
        asked = (*request.phrases, *request.negatives)
        geometry, opinions = Geometry(request), Opinions(request, asked, self.clip, self.alignment)
        find = self._pointed_at if request.names_one else self._everywhere
        answers = find(request, asked, geometry, opinions)
        rivals = [one for answer in answers[len(request.phrases) :] for one in answer.instances]
        found = []
        for index, phrase in enumerate(request.phrases):
            instances = answers[index].instances
            if request.wants_several(index):
                instances = self._further(request, index, phrase, answers[index], opinions)
            # What is pointed at is answered, wherever the mask lies.
            instances = [one for one in instances if one.mask.any() and (request.names_one or geometry.fits(one.mask))]
            judged = [self._against(one, rivals, request.names_one) for one in instances]
            instances = [one for one in judged if one is not None]
            found.append(Found(instances, _evidence(request, index, instances, opinions), opinions.heat_map(index)))
        return found

    def _pointed_at(
        self, request: Request, phrases: Sequence[str], geometry: Geometry, opinions: Opinions
    ) -> list["_Answer"]:
        """The answer to each phrase and the geometry together."""
        without = _decode_all(request, None, 1)
        alone = log_odds(float(without.scores.max()))
        (spare,) = _pick(request, _drawn_first(without), None)  # something is there, whatever a phrase does to it
        answers = []
        for start in range(0, len(phrases), PROMPTS_AT_ONCE):
            some = list(phrases[start : start + PROMPTS_AT_ONCE])
            found = _pick(request, _drawn_first(_decode_all(request, some, len(some))), None)
            found = [one if one.mask.any() else spare for one in found]
            odds = [2 * log_odds(one.predicted_iou) - alone for one in found]
            rated = opinions.rate(range(start, start + len(some)), found, odds)
            answers += [_Answer(one.predicted_iou, [one]) for one in rated]
        return answers

    def _everywhere(
        self, request: Request, phrases: Sequence[str], geometry: Geometry, opinions: Opinions
    ) -> list["_Answer"]:
        """The answer to each phrase alone, or with background points; only the best of it where one is wanted."""
        answers: list[_Answer] = []
        for start in range(0, len(phrases), PROMPTS_AT_ONCE):
            some = list(phrases[start : start + PROMPTS_AT_ONCE])
            prompts = _away_from(request, [()] * len(some))
            firsts = _pick(request, request.predictor.decode_batch(request.embedding, text=some, **prompts), None)
            candidates = self._candidates(request, some, firsts, start, opinions)
            rows, found, odds = zip(*candidates, strict=True)
            rated = opinions.rate([start + row for row in rows], found, odds)
            for row, first in enumerate(firsts):
                own = [one for at, one in zip(rows, rated, strict=True) if at == row]
                own.sort(key=lambda one: -one.score)
                own = [one for one in own if geometry.fits(one.mask)] or own[:1]
                index = start + row
                all_count = index >= len(request.phrases) or request.wants_several(index)  # of negatives, all
                answers.append(_Answer(first.predicted_iou, own if all_count else own[:1]))
        return answers

    def _candidates(
        self,
        request: Request,
        phrases: Sequence[str],
        firsts: Sequence[TextInstance],
        start: int,
        opinions: Opinions,
    ) -> list[tuple[int, TextInstance, float]]:
        """What phrases may mean, given their first answers: (row of the phrase, instance, log-odds by the decoder).

        Where there is nothing to ask about again, the first answer is the answer.
        """
        places = [self._places(first, start + row, request, opinions) for row, first in enumerate(firsts)]
        spots = [(row, place) for row, own in enumerate(places) for place in own]
        asked = _ask_at(request, [(phrases[row], place) for row, place in spots])
        certain = [log_odds(first.predicted_iou) for first in firsts]
        there = [(row, one.instance, certain[row] + one.gain) for (row, _), one in zip(spots, asked, strict=True)]
        return there + [(row, firsts[row], certain[row]) for row, own in enumerate(places) if not own]

    def _places(self, first: TextInstance, index: int, request: Request, opinions: Opinions) -> list[Point]:
        """Where a phrase is asked about again: in each region of its first answer, and where it is likeliest; but not
        there beside background points, which mostly say that just this place is not meant."""
        regions = _regions(first.mask)[: self.places]
        places = [_inside(region) for region in regions]
        if self.places and opinions.aligned is not None and not request.has_geometry:
            places.append(opinions.aligned.peak(index))
        return places

    def _further(
        self, request: Request, index: int, phrase: str, answer: "_Answer", opinions: Opinions
    ) -> list[TextInstance]:
        """All instances of a phrase, given its first answer's; these come first."""
        least = self.keep_share * answer.instances[0].score
        certain = [one for one in answer.instances if one.score >= least]
        found = distinct_instances(certain, self.overlap, self.max_instances)
        while found and len(found) < self.max_instances:
            prompts = _away_from(request, [[_inside(one.mask) for one in found]])
            (following,) = _pick(
                request, request.predictor.decode_batch(request.embedding, text=[phrase], **prompts), None
            )
            # Asked before the click, which promises a mask whatever it is of.
            if following.predicted_iou < self.keep_share * answer.certainty or not following.mask.any():
                break
            ((clicked, gain),) = _ask_at(request, [(phrase, _inside(following.mask))])
            (following,) = opinions.rate([index], [clicked], [log_odds(answer.certainty) + gain])
            longer = distinct_instances([*found, following], self.overlap, self.max_instances)
            if following.score < least or len(longer) == len(found):
                break
            found = longer
        return found

    def _against(
        self, instance: TextInstance, rivals: Sequence[TextInstance], pointed_at: bool
    ) -> TextInstance | None:
        """The instance as negative phrases leave it; None if one suits its region better and nothing points at it."""
        same = [one for one in rivals if mask_iou(one.mask, instance.mask) > self.negative_iou]
        strongest = max((one.text_probability for one in same), default=None)
        if strongest is None:
            return instance
        if strongest >= instance.text_probability and not pointed_at:
            return None
        # The phrase against the negative one and against neither of them.
        probability = instance.text_probability / (1 + strongest)
        return replace(instance, text_probability=probability, score=probability)


def _evidence(request: Request, index: int, instances: Sequence[TextInstance], opinions: Opinions) -> float:
    """Log-odds that the picture shows what a phrase names; beside geometry, that the phrase is true of its object."""
    if not instances:
        return -math.inf
    best = max(instances, key=lambda one: one.score)
    whole = None if request.has_geometry or request.negatives else opinions.presence(index, best)
    return max(log_odds(one.text_probability) for one in instances) if whole is None else whole


def _away_from(request: Request, places: Sequence[Sequence[Point]]) -> dict[str, Any]:
    """Prompts of background points, per prompt at its own places and at those of the request."""
    given = np.zeros((0, 2)) if request.points is None else as_numbers(request.points).reshape(-1, 2)
    points = [np.concatenate([np.reshape(some, (-1, 2)), given]) for some in places]
    if not any(len(some) for some in points):
        return {}
    return {"points": points, "labels": [np.zeros(len(some), dtype=np.int64) for some in points]}


def _decode_all(request: Request, phrases: list[str] | None, count: int) -> Prediction:
    """The geometry `count` times, with phrases or without: three masks each, and the single-mask token's.

    That token is trained for several prompts together (App. A), the three for one; the predicted IoU will decide.
    """
    geometry = {"points": request.points, "labels": request.labels, "boxes": request.box}
    geometry["mask_input"] = request.mask_input
    prompts = {name: None if given is None else [given] * count for name, given in geometry.items()}
    both = [
        request.predictor.decode_batch(request.embedding, text=phrases, multimask_output=several, **prompts)
        for several in (True, False)
    ]
    return Prediction(*(np.concatenate(parts, axis=1) for parts in zip(*both, strict=True)))


class _Answer(NamedTuple):
    """A phrase's instances, best first, and the predicted IoU of its first answer."""

    certainty: float
    instances: list[TextInstance]


class _Gain(NamedTuple):
    """A phrase's answer at a place, and how much the phrase adds to what a click there promises."""

    instance: TextInstance
    gain: float


def _ask_at(request: Request, places: Sequence[tuple[str, Point]]) -> list[_Gain]:
    """Asks for phrases at places, with the phrase and without."""
    answers: list[_Gain] = []
    for start in range(0, len(places), PROMPTS_AT_ONCE):
        some = places[start : start + PROMPTS_AT_ONCE]
        points = [np.array([point], dtype=np.float32) for _, point in some]
        prediction = request.predictor.decode_batch(request.embedding, points=points, text=[text for text, _ in some])
        instances = _pick(request, prediction, [point for _, point in some])
        alone = request.predictor.decode_batch(request.embedding, points=points).scores.max(axis=1)
        for instance, promised in zip(instances, alone, strict=True):
            answers.append(_Gain(instance, log_odds(instance.predicted_iou) - log_odds(float(promised))))
    return answers


def _drawn_first(prediction: Prediction) -> Prediction:
    """The same with empty masks at the end of each prompt's order; what is pointed at is something."""
    return prediction._replace(scores=prediction.scores - 2 * ~prediction.masks.any(axis=(2, 3)))


def _pick(request: Request, prediction: Prediction, points: Sequence[Point] | None) -> list[TextInstance]:
    """Of each prompt's masks the one with the best predicted IoU, as an instance; it may be empty."""
    chosen = prediction.scores.argmax(axis=1)
    rows = np.arange(len(chosen))
    logits, scores = prediction.low_res_logits[rows, chosen], prediction.scores[rows, chosen]
    stable = stability(request, logits)
    return [
        # A copy, since a view would keep all three masks.
        make_instance(
            prediction.masks[row, index].copy(),
            logits[row].copy(),
            score=scores[row],
            predicted_iou=scores[row],
            stability=stable[row],
            point=None if points is None else points[row],
        )
        for row, index in enumerate(chosen)
    ]


def _regions(mask: np.ndarray) -> list[np.ndarray]:
    """Connected regions of a mask without its crumbs, largest first."""
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    sizes = statistics[1:, cv2.CC_STAT_AREA]
    order = [index for index in np.argsort(-sizes, kind="stable") if sizes[index] >= CRUMB * sizes.sum()]
    return [labels == index + 1 for index in order]


def _inside(mask: np.ndarray) -> Point:
    """xy of the middle of the pixel that is deepest inside a mask; the picture's edge counts as an edge."""
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return float(x) + 0.5, float(y) + 0.5
