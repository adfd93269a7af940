"""Text by choosing: everything mode's masks, ranked by how surely the phrase names them.

The masks of a picture, and what CLIP sees in them, are found once and kept; a further phrase costs its text. Each
mask is judged by itself (`ranking`), so a phrase may fit none, one or many.

Source: FGVP (2306.04356) for a 16 x 16 grid and views with context; HybridGL for lowered thresholds. Differs in that
masks compete with background words and negatives, not with each other.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sam_hf.inference.embedding_store import EmbeddingStore
from sam_hf.inference.mask_generation import SamAutomaticMaskGenerator, check_options
from sam_hf.inference.text.grounding_options import (
    check_counts,
    check_numbers,
    check_shares,
    check_templates,
    check_words,
)
from sam_hf.inference.text.instances import Found, Request, TextInstance, make_instance, mask_iou
from sam_hf.inference.text.placement import Geometry, distinct, geometry_answers
from sam_hf.inference.text.ranking import RANKING_VIEWS, as_array, by_score, mask_vectors, text_log_odds
from sam_hf.inference.text.templates import BACKGROUND
from sam_hf.inference.text.views import VIEWS

if TYPE_CHECKING:
    from sam_hf.inference.text.clip_encoder import ClipEncoder

# Everything mode's defaults keep what is surely a mask; here the text decides, and what is missing cannot be chosen.
THRESHOLDS = {"pred_iou_thresh": 0.5, "stability_score_thresh": 0.7}
POINTS_AT_ONCE = 16  # three masks of the picture's size each


class _Proposals(NamedTuple):
    """n masks of one picture, best predicted IoU first.

    Attributes:
        key: Names the picture and all that the masks depend on.
        records: Everything mode's, `segmentation` as COCO RLE.
        vectors: (n,D), what CLIP sees in them.
    """

    key: str
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
        templates: Sentences around every phrase; None: `ClipEncoder.templates`.
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
        templates: Sequence[str] | None = None,
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
        check_words(VIEWS, views=views)
        check_words(empty=True, background=background)
        check_templates(templates=templates)
        check_shares(zero=False, also=also, overlap=overlap)
        check_numbers(iou_power=iou_power)
        check_counts(max_instances=max_instances)
        check_counts(0, min_area=min_area, max_bytes=max_bytes)
        self.clip, self.views, self.templates, self.background = clip, tuple(views), templates, tuple(background)
        self.iou_power, self.min_area, self.also, self.overlap = iou_power, min_area, also, overlap
        self.max_instances = max_instances
        fixed = {"output_mode": "coco_rle"}
        self._options = THRESHOLDS | {"points_per_side": points_per_side} | options | fixed
        check_options(**self._options)
        self._kept = EmbeddingStore(max_bytes)  # it keeps whatever has a key and nbytes

    def __call__(self, request: Request) -> list[Found]:
        """Answers every phrase of a request, in order; see `Grounding`."""
        proposals = self._proposals(request)
        own = geometry_answers(request)
        candidates: list[dict[str, Any] | TextInstance] = [*proposals.records, *own]
        vectors = proposals.vectors
        if own:
            shown = [one.mask for one in own]
            seen = mask_vectors(self.clip, request.pixels, shown, self.views, key=request.embedding.key)
            vectors = torch.cat([vectors, seen])
        geometry = Geometry(request)
        allowed = [
            index for index, one in enumerate(candidates) if not request.has_geometry or geometry.fits(_mask(one))
        ]
        # What was pointed at gets an answer, even where all that SAM has to say misses a point.
        allowed = allowed or list(range(len(proposals.records), len(candidates)))
        if not allowed:
            return [Found([], -np.inf) for _ in request.phrases]
        candidates = [candidates[index] for index in allowed]
        texts = (request.phrases, request.negatives, self.templates, self.background)
        odds = text_log_odds(self.clip, vectors[allowed], *texts).numpy()  # (n,P)
        return [
            self._found(request, candidates, odds[:, column], request.wants_several(column))
            for column in range(len(request.phrases))
        ]

    def _proposals(self, request: Request) -> _Proposals:
        """The masks of the picture, from the last time if it was asked about before."""
        decoder, most = request.predictor.decoder_revision, request.max_proposals
        key = f"{request.embedding.key} {decoder} {self.clip.revision} {most}"

        def find() -> _Proposals:
            generator = SamAutomaticMaskGenerator.from_predictor(request.predictor, **self._options)
            records = generator.generate(request.pixels, embedding=request.embedding)
            records = [record for record in records if record["area"] >= self.min_area]
            records = sorted(records, key=lambda record: -record["predicted_iou"])[:most]
            masks = [record["segmentation"] for record in records]
            return _Proposals(key, records, mask_vectors(self.clip, request.pixels, masks, self.views))

        return self._kept.get_or_encode(key, find)

    def _found(
        self, request: Request, candidates: Sequence[dict[str, Any] | TextInstance], odds: np.ndarray, several: bool
    ) -> Found:
        """The candidates that a phrase with these log-odds (n,) names."""
        quality = [_predicted_iou(one) for one in candidates]
        order, scores, probabilities = by_score(odds, quality, self.iou_power)
        order = [index for index in order if probabilities[index] >= self.also * probabilities[order[0]]]
        most = self.max_instances if several else 1
        chosen = distinct(order, lambda index: _mask(candidates[index]), self.overlap, most)
        logits = self._logits(request, [(candidates[index], mask) for index, mask in chosen])
        instances = []
        for (index, mask), low_res in zip(chosen, logits, strict=True):
            one, score, probability = candidates[index], float(scores[index]), float(probabilities[index])
            if isinstance(one, TextInstance):
                instances.append(replace(one, score=score, text_probability=probability))
                continue
            quality, steady, point = one["predicted_iou"], one["stability_score"], one["point_coords"][0]
            instances.append(make_instance(mask, low_res, score, quality, steady, probability, point))
        return Found(instances, float(odds[order[0]]))

    @staticmethod
    def _logits(
        request: Request, chosen: Sequence[tuple[dict[str, Any] | TextInstance, np.ndarray]]
    ) -> list[np.ndarray | None]:
        """Everything mode keeps no logits (4h,4w): its points are asked again, of whose three masks one is nearest."""
        logits: list[np.ndarray | None] = [None] * len(chosen)
        asked = [place for place, (one, _) in enumerate(chosen) if not isinstance(one, TextInstance)]
        for start in range(0, len(asked), POINTS_AT_ONCE):
            some = asked[start : start + POINTS_AT_ONCE]
            again = request.predictor.decode_batch(
                request.embedding, points=[chosen[place][0]["point_coords"] for place in some]
            )
            for row, place in enumerate(some):
                nearest = int(np.argmax([mask_iou(chosen[place][1], other) for other in again.masks[row]]))
                logits[place] = again.low_res_logits[row, nearest].copy()
        return logits


def _mask(candidate: dict[str, Any] | TextInstance) -> np.ndarray:
    return candidate.mask if isinstance(candidate, TextInstance) else as_array(candidate["segmentation"])


def _predicted_iou(candidate: dict[str, Any] | TextInstance) -> float:
    value = candidate.predicted_iou if isinstance(candidate, TextInstance) else candidate["predicted_iou"]
    return min(1.0, max(0.0, value))
