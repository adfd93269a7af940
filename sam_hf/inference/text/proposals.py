"""Text by choosing: everything mode's masks, ranked by how surely the phrase names them.

The masks of a picture, and what CLIP sees in them, are found once and kept; a further phrase costs its text. Each
mask is judged by itself (`ranking`), so a phrase may fit none, one or many.

Source: FGVP (2306.04356) for a 16 x 16 grid and views with context; HybridGL for lowered thresholds. Differs in that
masks compete with background words and negatives, not with each other.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sam_hf.inference.fingerprint import fingerprint
from sam_hf.inference.mask_generation import SamAutomaticMaskGenerator, check_options
from sam_hf.inference.text.instances import Found, Request, TextInstance, make_instance, mask_iou
from sam_hf.inference.text.placement import Placement, distinct, geometry_answers
from sam_hf.inference.text.ranking import RANKING_VIEWS, as_array, by_score, log_odds, mask_vectors
from sam_hf.inference.text.templates import BACKGROUND, PLAIN

if TYPE_CHECKING:
    from sam_hf.inference.text.clip_encoder import ClipEncoder

# Everything mode's defaults keep what is surely a mask; here the text decides, and what is missing cannot be chosen.
THRESHOLDS = {"pred_iou_thresh": 0.5, "stability_score_thresh": 0.7}


class _Proposals(NamedTuple):
    """n masks of one picture, best predicted IoU first.

    Attributes:
        records: Everything mode's, `segmentation` as COCO RLE.
        vectors: (n,D), what CLIP sees in them.
    """

    records: list[dict[str, Any]]
    vectors: Tensor

    @property
    def nbytes(self) -> int:
        """About what it takes to keep them."""
        runs = sum(len(record["segmentation"]["counts"]) for record in self.records)
        return runs + 1000 * len(self.records) + self.vectors.nbytes


class ProposalGrounding:
    """Ranks everything mode's masks.

    May be used by several threads.

    Args:
        clip: Pictures and phrases to vectors.
        views: How a mask is shown to CLIP, see `views.VIEWS`; the mean over them counts.
        templates: Sentences around every phrase.
        background: Words for what is there anyway.
        points_per_side: The grid of everything mode has this many points squared.
        iou_power: The score is text probability times predicted IoU to this power; 0: the text alone.
        min_area: Masks of fewer pixels show CLIP nothing and are left out.
        also: Further instances have at least this share of the best one's text probability.
        overlap: Two masks are one object if so much of the smaller lies in the larger; the higher score stays.
        max_instances: Most instances of a phrase.
        max_bytes: Bound of what is kept of pictures asked before.
        **options: Of everything mode, see `MaskGenerationOptions`; `pred_iou_thresh` (0.5) and
            `stability_score_thresh` (0.7) are lower than there.

    Raises:
        TypeError, ValueError: If an option is unknown, or out of range.
    """

    name = "proposals"

    def __init__(
        self,
        clip: "ClipEncoder",
        views: Sequence[str] = RANKING_VIEWS,
        templates: Sequence[str] = PLAIN,
        background: Sequence[str] = BACKGROUND,
        points_per_side: int = 16,
        iou_power: float = 1.0,
        min_area: int = 25,
        also: float = 0.5,
        overlap: float = 0.8,
        max_instances: int = 50,
        max_bytes: int = 2**26,
        **options: Any,
    ):
        if iou_power < 0:
            raise ValueError(f"iou_power: expected a number of at least 0, got {iou_power}")
        for option, value in (("also", also), ("overlap", overlap)):
            if not 0 < value <= 1:
                raise ValueError(f"{option}: expected a number in (0,1], got {value}")
        if max_instances < 1:
            raise ValueError(f"max_instances: expected at least 1, got {max_instances}")
        self.clip, self.views, self.templates, self.background = clip, tuple(views), tuple(templates), background
        self.iou_power, self.min_area, self.also, self.overlap = iou_power, min_area, also, overlap
        self.max_instances = max_instances
        fixed = {"output_mode": "coco_rle"}
        self._options = THRESHOLDS | {"points_per_side": points_per_side} | options | fixed
        check_options(**self._options)
        self._kept = _LatestPictures(max_bytes)

    def __call__(self, request: Request) -> list[Found]:
        """Answers every phrase of a request, in order; see `Grounding`."""
        proposals = self._proposals(request)
        own = [one for one in geometry_answers(request) if one.mask.any()]
        candidates: list[dict[str, Any] | TextInstance] = [*proposals.records, *own]
        vectors = proposals.vectors
        if own:
            seen = mask_vectors(self.clip, request.pixels, [one.mask for one in own], self.views)
            vectors = torch.cat([vectors, seen])
        placement = Placement(request)
        allowed = [
            index for index, one in enumerate(candidates) if not request.has_geometry or placement.fits(_mask(one))
        ]
        # What was pointed at gets an answer, even where all that SAM has to say misses a point.
        allowed = allowed or list(range(len(proposals.records), len(candidates)))
        if not allowed:
            return [Found([], -np.inf) for _ in request.phrases]
        candidates = [candidates[index] for index in allowed]
        odds = log_odds(
            self.clip, vectors[allowed], request.phrases, request.negatives, self.templates, self.background
        ).numpy()  # (n,P)
        return [
            self._found(
                request, candidates, odds[:, column], request.wants_several(column) and not placement.names_one
            )
            for column in range(len(request.phrases))
        ]

    def _proposals(self, request: Request) -> _Proposals:
        """The masks of the picture, from the last time if it was asked about before."""
        model, most = request.predictor.model, request.max_proposals
        key = f"{request.embedding.key} {fingerprint(model.mask_decoder)} {self.clip.revision} {most}"
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        generator = SamAutomaticMaskGenerator.from_predictor(request.predictor, **self._options)
        records = generator.generate(request.pixels, embedding=request.embedding)
        records = [record for record in records if record["area"] >= self.min_area]
        records = sorted(records, key=lambda record: -record["predicted_iou"])[:most]
        masks = [record["segmentation"] for record in records]
        found = _Proposals(records, mask_vectors(self.clip, request.pixels, masks, self.views))
        self._kept.put(key, found)
        return found

    def _found(
        self, request: Request, candidates: Sequence[dict[str, Any] | TextInstance], odds: np.ndarray, several: bool
    ) -> Found:
        """The candidates that a phrase with these log-odds (n,) names."""
        quality = [_predicted_iou(one) for one in candidates]
        order, scores, probabilities = by_score(odds, quality, self.iou_power)
        order = [index for index in order if probabilities[index] >= self.also * probabilities[order[0]]]
        most = self.max_instances if several else 1
        chosen = distinct(order, lambda index: _mask(candidates[index]), self.overlap, most)
        instances = [
            self._instance(request, candidates[index], mask, float(scores[index]), float(probabilities[index]))
            for index, mask in chosen
        ]
        return Found(instances, float(odds[order[0]]))

    @staticmethod
    def _instance(
        request: Request, one: dict[str, Any] | TextInstance, mask: np.ndarray, score: float, probability: float
    ) -> TextInstance:
        if isinstance(one, TextInstance):
            return replace(one, score=score, text_probability=probability)
        # Everything mode keeps no logits: its point is asked again, of whose three masks this is the nearest.
        again = request.predictor.decode(request.embedding, points=one["point_coords"])
        nearest = int(np.argmax([mask_iou(mask, other) for other in again.masks]))
        logits, point = again.low_res_logits[nearest], one["point_coords"][0]
        return make_instance(mask, logits, score, one["predicted_iou"], one["stability_score"], probability, point)


def _mask(candidate: dict[str, Any] | TextInstance) -> np.ndarray:
    return candidate.mask if isinstance(candidate, TextInstance) else as_array(candidate["segmentation"])


def _predicted_iou(candidate: dict[str, Any] | TextInstance) -> float:
    value = candidate.predicted_iou if isinstance(candidate, TextInstance) else candidate["predicted_iou"]
    return min(1.0, max(0.0, value))


class _LatestPictures:
    """The proposals of the pictures asked last, bounded in bytes."""

    def __init__(self, max_bytes: int):
        self._max_bytes, self._nbytes = max_bytes, 0
        self._kept: OrderedDict[str, _Proposals] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> _Proposals | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: str, found: _Proposals) -> None:
        with self._lock:
            replaced = self._kept.pop(key, None)
            self._kept[key] = found
            self._nbytes += found.nbytes - (0 if replaced is None else replaced.nbytes)
            while self._nbytes > self._max_bytes:
                _, oldest = self._kept.popitem(last=False)
                self._nbytes -= oldest.nbytes
