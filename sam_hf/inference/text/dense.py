"""Text by looking everywhere: CLIP's features cell by cell -> where the phrase is -> SAM draws it.

1. Each cell of CLIP's feature map, made by an attention that stays where it is (`dense_features`), is held against
   the phrase and its rivals. That gives a heat map, coarse and ragged.
2. What lies above a threshold falls into regions.
3. Each region asks SAM with its box, its peak as a point and its heat as mask logits, all at once. Where SAM doubts
   the answer, the heat misled it: the same without logits; where it still doubts, the region is dropped.
4. CLIP looks at the masks that remain (`ranking`), since a mask shows more than a ragged region did.

Source: NACLIP (2404.08181) and CLIP Surgery (2304.05653) for 1; Trident (2411.09219) for 3. Differs in that a doubtful
region is asked again and then dropped, where Trident keeps the coarse region, and in 4.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
import torch

from sam_hf.inference.text.dense_features import ATTENTIONS
from sam_hf.inference.text.grounding_options import (
    check_choice,
    check_counts,
    check_numbers,
    check_shares,
    check_templates,
    check_words,
)
from sam_hf.inference.text.instances import Found, Request, TextInstance, log_odds
from sam_hf.inference.text.placement import Geometry, distinct, geometry_answers, to_instances
from sam_hf.inference.text.ranking import RANKING_VIEWS, by_score, mask_vectors, text_log_odds
from sam_hf.inference.text.templates import BACKGROUND
from sam_hf.inference.text.views import VIEWS
from sam_hf.model.image_operations import height_width

if TYPE_CHECKING:
    from sam_hf.inference.text.clip_encoder import ClipEncoder

REGIONS_AT_ONCE = 4  # masks of the picture's size, with their logits, that are held together


class Region(NamedTuple):
    """A connected part of a heat map.

    Attributes:
        mask: (h,w) bool.
        box: xyxy, cells of the map; right and lower edge outside.
        peak: xy of its hottest cell.
        heat: Heat there.
    """

    mask: np.ndarray
    box: tuple[int, int, int, int]
    peak: tuple[int, int]
    heat: float


class DenseGrounding:
    """Regions of a heat map, drawn by SAM.

    May be used by several threads.

    Args:
        clip: Pictures and phrases to vectors.
        attention: How CLIP's last block attends, see `dense_features.ATTENTIONS`.
        templates: Sentences around every phrase; None: `ClipEncoder.templates`.
        background: Words for what is there anyway.
        views: How a mask is shown to CLIP for the second look, see `views.VIEWS`; empty: none is taken, and the text
            probability is the mean heat within the mask.
        size: Side of the picture that CLIP's map is made of, in pixels; None: CLIP's own.
        scale: What similarities of cells are multiplied by; None: `ClipEncoder.dense_scale`.
        smoothing: Standard deviation of the blur of the heat map, in CLIP's cells; 0: none.
        relative: A region is hotter than this share of the map's peak,
        absolute: and hotter than this.
        max_regions: Regions of a phrase that SAM is asked about, the hottest ones.
        min_area: Share of the picture below which a region is a speck.
        mask_logit: Logit at the peak of a region in SAM's mask prompt, and its negative far outside.
        min_predicted_iou: Below it SAM doubts its answer.
        iou_power: The score is text probability times predicted IoU to this power; 0: the text alone.
        also: Further instances have at least this share of the best one's text probability.
        overlap: Two masks are one object if so much of the smaller lies in the larger; the higher score stays.

    Raises:
        TypeError, ValueError: If an option is of the wrong type, or out of range.
    """

    name = "dense"

    def __init__(
        self,
        clip: "ClipEncoder",
        attention: str = "nacl",
        templates: Sequence[str] | None = None,
        background: Sequence[str] = BACKGROUND,
        views: Sequence[str] = RANKING_VIEWS,
        size: int | None = None,
        scale: float | None = None,
        smoothing: float = 0.7,
        relative: float = 0.5,
        absolute: float = 0.05,
        max_regions: int = 12,
        min_area: float = 5e-4,
        mask_logit: float = 4.0,
        min_predicted_iou: float = 0.5,
        iou_power: float = 1.0,
        also: float = 0.5,
        overlap: float = 0.8,
    ):
        check_choice(ATTENTIONS, attention=attention)
        check_templates(templates=templates)
        check_words(empty=True, background=background)
        check_words(VIEWS, empty=True, views=views)
        check_shares(relative=relative, absolute=absolute, min_area=min_area, also=also, overlap=overlap)
        check_shares(min_predicted_iou=min_predicted_iou)
        check_numbers(smoothing=smoothing, mask_logit=mask_logit, iou_power=iou_power)
        check_numbers(positive=True, scale=scale)
        check_counts(max_regions=max_regions, size=size)
        self.clip, self.attention, self.size, self.scale = clip, attention, size, scale
        self.templates, self.background, self.views = templates, tuple(background), tuple(views)
        self.smoothing, self.relative, self.absolute = smoothing, relative, absolute
        self.max_regions, self.min_area, self.mask_logit = max_regions, min_area, mask_logit
        self.min_predicted_iou, self.iou_power, self.also, self.overlap = min_predicted_iou, iou_power, also, overlap

    def __call__(self, request: Request) -> list[Found]:
        """Answers every phrase of a request, in order; see `Grounding`."""
        own = geometry_answers(request)
        geometry = Geometry(request)
        heat, odds = self._heat(request)
        found = []
        for index, phrase in enumerate(request.phrases):
            whole = _to_frame(heat[index], request, self.smoothing)
            at = _within(whole, geometry.box, request)
            masks = self._draw(request, geometry, at, self._regions(at)) + own
            # What was pointed at gets an answer, even where all that SAM has to say misses a point.
            masks = [one for one in masks if geometry.fits(one.mask)] or own
            if not masks:
                found.append(Found([], -np.inf, whole))
                continue
            instances, seen = self._judge(request, phrase, whole, masks, request.wants_several(index))
            # Both looks count: a hot spot whose mask shows something else, and a mask that fits in a cold place.
            cells = _to_frame(odds[index], request, smoothing=0)
            felt = float(cells[_low_mask(cells, instances[0])].max(initial=float(odds[index].min())))
            found.append(Found(instances, (seen + felt) / 2, whole))
        return found

    @torch.inference_mode()
    def _heat(self, request: Request) -> tuple[np.ndarray, np.ndarray]:
        """Heat in [0,1] and log-odds, (P,h,w) each, by CLIP's cells; one forward per picture."""
        key = request.embedding.key
        features = self.clip.dense(request.pixels, self.attention, size=self.size, key=key).float()  # (D,h,w)
        height, width = features.shape[-2:]
        cells = features.flatten(1).T  # (h*w,D)
        scale = self.clip.dense_scale if self.scale is None else self.scale
        texts = (request.phrases, request.negatives, self.templates, self.background, scale)
        odds = text_log_odds(self.clip, cells, *texts)  # (h*w,P)
        heat = odds.sigmoid()
        return tuple(values.T.unflatten(1, (height, width)).numpy() for values in (heat, odds))  # (h*w,P) -> (P,h,w)

    def _regions(self, heat: np.ndarray) -> list[Region]:
        """The hottest regions of a map (h,w), hottest first."""
        threshold = max(self.relative * float(heat.max()), self.absolute)
        _, labels, statistics, _ = cv2.connectedComponentsWithStats((heat >= threshold).astype(np.uint8))
        regions = []
        for label, (left, top, width, height, area) in enumerate(statistics.tolist()):
            if label == 0 or area < self.min_area * heat.size:  # 0 is what lies below the threshold
                continue
            inside = labels == label
            row, column = np.unravel_index(np.argmax(np.where(inside, heat, -1)), heat.shape)
            box, peak = (left, top, left + width, top + height), (int(column), int(row))
            regions.append(Region(inside, box, peak, float(heat[row, column])))
        return sorted(regions, key=lambda region: -region.heat)[: self.max_regions]

    def _draw(
        self, request: Request, geometry: Geometry, heat: np.ndarray, regions: Sequence[Region]
    ) -> list[TextInstance]:
        """SAM's mask of each region, unless it doubts it."""
        instances = []
        for start in range(0, len(regions), REGIONS_AT_ONCE):
            some = regions[start : start + REGIONS_AT_ONCE]
            prompts = [self._prompt(request, geometry, heat, region) for region in some]
            masks, scores, logits = _ask(request, prompts)
            doubted = np.flatnonzero(scores < self.min_predicted_iou)
            if len(doubted):
                plain = [prompts[index]._replace(logits=None) for index in doubted]
                masks[doubted], scores[doubted], logits[doubted] = _ask(request, plain)
            kept = [i for i in range(len(some)) if scores[i] >= self.min_predicted_iou and masks[i].any()]
            points = [prompts[index].points[0] for index in kept]
            instances += to_instances(request, masks[kept], scores[kept], logits[kept], points)
        return instances

    def _prompt(self, request: Request, geometry: Geometry, heat: np.ndarray, region: Region) -> "_Prompt":
        """A region in SAM's terms: original pixels, and logits in the frame of its padded input."""
        height, width = request.embedding.original_size
        rows, columns = heat.shape
        scale = np.array([width / columns, height / rows])
        points, labels = geometry.points_with((np.array(region.peak) + 0.5) * scale)
        box = np.array(region.box, dtype=np.float64) * np.tile(scale, 2)
        edge = float(heat[region.mask].min())
        warmth = np.where(heat < edge, heat / max(edge, 1e-6) - 1, -1.0)  # in [-1,0]; other regions are outside
        above = (heat - edge) / (region.heat - edge) if region.heat > edge else np.ones_like(heat)
        logits = np.full((1, *_low_size(request)), -self.mask_logit, dtype=np.float32)
        logits[0, :rows, :columns] = self.mask_logit * np.where(region.mask, above, warmth)
        return _Prompt(points, labels, box, logits)

    def _judge(
        self, request: Request, phrase: str, heat: np.ndarray, masks: Sequence[TextInstance], several: bool
    ) -> tuple[list[TextInstance], float]:
        """Of at least one mask those that the phrase names, best first, and the log-odds of the best."""
        if self.views:
            shown = [one.mask for one in masks]
            vectors = mask_vectors(self.clip, request.pixels, shown, self.views, key=request.embedding.key)
            texts = ([phrase], request.negatives, self.templates, self.background)
            odds = text_log_odds(self.clip, vectors, *texts)[:, 0].numpy()
        else:
            odds = np.array([log_odds(_mean_within(heat, one)) for one in masks])
        order, scores, probabilities = by_score(odds, [one.predicted_iou for one in masks], self.iou_power)
        order = [index for index in order if probabilities[index] >= self.also * probabilities[order[0]]]
        chosen = distinct(order, lambda index: masks[index].mask, self.overlap, self.max_regions if several else 1)
        instances = [
            replace(masks[index], score=float(scores[index]), text_probability=float(probabilities[index]))
            for index, _ in chosen
        ]
        return instances, float(odds[order[0]])


class _Prompt(NamedTuple):
    """What SAM is asked about one region: points (n,2) and labels (n,), box (4,), logits (1,4h,4w) or None."""

    points: np.ndarray
    labels: np.ndarray
    box: np.ndarray
    logits: np.ndarray | None


def _ask(request: Request, prompts: Sequence[_Prompt]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One mask per prompt: (n,H,W) bool, (n,), (n,4h,4w)."""
    points, labels, boxes, logits = zip(*prompts, strict=True)
    mask_input = None if logits[0] is None else logits
    answer = request.predictor.decode_batch(
        request.embedding, points, labels, boxes, mask_input, multimask_output=False
    )
    return tuple(values[:, 0] for values in answer)


def _low_size(request: Request) -> tuple[int, int]:
    """(4h,4w) of mask logits."""
    height, width = request.embedding.tensor.shape[-2:]
    return 4 * height, 4 * width


def _to_frame(heat: np.ndarray, request: Request, smoothing: float) -> np.ndarray:
    """CLIP's cells (h,w), smoothed, in the resolution of SAM's mask logits: the picture's part of that frame."""
    padded = height_width(request.predictor.processor.image_processor.pad_size)
    rows, columns = (
        max(1, round(side * low / whole))
        for side, low, whole in zip(request.embedding.input_size, _low_size(request), padded, strict=True)
    )
    if smoothing > 0:
        heat = cv2.GaussianBlur(heat, (0, 0), smoothing)
    return cv2.resize(heat, (columns, rows), interpolation=cv2.INTER_LINEAR)


def _within(heat: np.ndarray, box: np.ndarray | None, request: Request) -> np.ndarray:
    """Heat in a box, original pixels; outside of it there is none."""
    if box is None:
        return heat
    height, width = request.embedding.original_size
    rows, columns = heat.shape
    left, top, right, bottom = box * np.tile([columns / width, rows / height], 2)
    inside = np.zeros_like(heat)
    part = (
        slice(max(0, int(top)), max(0, int(np.ceil(bottom)))),
        slice(max(0, int(left)), max(0, int(np.ceil(right)))),
    )
    inside[part] = heat[part]
    return inside


def _mean_within(heat: np.ndarray, one: TextInstance) -> float:
    """Mean heat of a mask."""
    inside = _low_mask(heat, one)
    return float(heat[inside].mean()) if inside.any() else 0.0


def _low_mask(heat: np.ndarray, one: TextInstance) -> np.ndarray:
    """A mask at the resolution of a heat map in SAM's frame, (h,w) bool."""
    return one.low_res_logits[: heat.shape[0], : heat.shape[1]] > 0
