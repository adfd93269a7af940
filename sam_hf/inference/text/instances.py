"""What a phrase is asked with and what comes back: the values that every way of grounding shares.

A *grounding* is a way from phrases to masks: `request -> one Found per phrase`. It knows nothing of position words,
of "one or all" and of when a phrase is absent; `segmenter` does, for all of them alike.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch

from sam_hf.masks.boxes import mask_to_xyxy
from sam_hf.masks.upscaling import mask_statistics, upscaling
from sam_hf.model.image_operations import height_width

if TYPE_CHECKING:
    from sam_hf.inference.embedding_store import ImageEmbedding
    from sam_hf.inference.predictor import SamPredictor

ODDS_BOUND = 1e-4


@dataclass(frozen=True, eq=False)
class TextInstance:
    """One object that a phrase was found to name.

    Attributes:
        mask: (H,W) bool, original pixels.
        box: xyxy around the mask, original pixels; right and lower edge outside.
        score: How good an answer it is, in [0,1]; instances of one answer are ordered by it. What it is made of
            depends on the grounding.
        text_probability: How surely the phrase, rather than another, names what the mask shows, in [0,1]; None where
            the grounding has no such figure.
        predicted_iou: SAM's estimate of the mask's IoU.
        stability: IoU of the masks cut a logit above and a logit below the threshold.
        low_res_logits: (4h,4w) float32; a later call's `mask_input`.
        point: xy that SAM was asked about, original pixels; None where it was not asked by a point.
    """

    mask: np.ndarray
    box: tuple[int, int, int, int]
    score: float
    text_probability: float | None
    predicted_iou: float
    stability: float
    low_res_logits: np.ndarray
    point: tuple[float, float] | None = None

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(self.mask.sum())


@dataclass(frozen=True, eq=False)
class TextAnswer:
    """What was found for one phrase.

    Attributes:
        phrase: As it was asked.
        instances: Best first; none where the phrase is `absent`, so that nobody draws what was not found, and where
            there are fewer than asked for ("second cup from the left").
        presence: Probability that the picture shows what the phrase names, in [0,1].
        absent: Whether `evidence` is below the calibration's threshold, or nothing was found. Where something was
            pointed at, only the latter: a click is answered, and `presence` says how well the phrase suits it.
        grounding: Which way was taken: "learned", "dense", "proposals" or "detector".
        judged_by: The same with what is behind it, such as "dense/ViT-B-16/openai", or "learned/tiny" where a CLIP
            had its say; the name of its curve in a `Calibration`.
        heat_map: (h,w) float32 of where the phrase was seen, over the whole picture; None where the way has none.
        calibrated: Whether `presence` comes from a calibration, which is fitted to phrases alone; not where geometry
            or negative phrases were given.
        refused: What would have been the instances, were the phrase not `absent`; else empty.
        evidence: What `presence` was made of, on the grounding's own scale; what a calibration is fitted to.
    """

    phrase: str
    instances: list[TextInstance]
    presence: float
    absent: bool
    grounding: str
    judged_by: str = ""
    heat_map: np.ndarray | None = None
    calibrated: bool = False
    refused: list[TextInstance] = field(default_factory=list)
    evidence: float = -math.inf


class Request(NamedTuple):
    """What a grounding is asked, about one picture.

    Attributes:
        predictor: SAM.
        embedding: Of the picture.
        pixels: (3,H,W) uint8, the picture itself.
        phrases: At least one; position words have been taken out.
        negatives: Phrases of what is not meant; may be empty.
        points: (N,2) xy, original pixels, or None; geometry describes the one object that every phrase is about.
        labels: (N,) 1 foreground, 0 background, or None: all foreground.
        box: (4,) xyxy, original pixels, or None.
        mask_input: (1,4h,4w) logits or (H,W) booleans, as `SamPredictor.decode` takes them, or None.
        max_proposals: Bound of the masks that are looked at per picture.
        several: Per phrase whether more than the best instance is of use; empty: of every phrase. Where something is
            pointed at, never.
    """

    predictor: "SamPredictor"
    embedding: "ImageEmbedding"
    pixels: torch.Tensor
    phrases: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    points: Any = None
    labels: Any = None
    box: Any = None
    mask_input: Any = None
    max_proposals: int = 256
    several: tuple[bool, ...] = ()

    @property
    def has_geometry(self) -> bool:
        """Whether points, a box or a mask were given."""
        return any(given is not None for given in (self.points, self.box, self.mask_input))

    @property
    def names_one(self) -> bool:
        """Whether something is pointed at: then the phrases are about that one object, and there is an answer even
        where nothing else speaks for them. Background points alone say only which are not meant."""
        labels = [1] if self.labels is None else as_numbers(self.labels)
        pointed = self.points is not None and bool(np.any(np.asarray(labels) == 1))
        return pointed or self.box is not None or self.mask_input is not None

    def wants_several(self, index: int) -> bool:
        """Whether more than one instance of a phrase is of use."""
        return not self.names_one and (not self.several or self.several[index])


class Found(NamedTuple):
    """A grounding's answer about one phrase.

    Attributes:
        instances: In any order, duplicates already gone.
        evidence: How much speaks for the phrase being in the picture at all, on the grounding's own scale, larger is
            more; `verdict.Calibration` makes a probability of it. -inf where nothing was found.
        heat_map: See `TextAnswer`.
    """

    instances: list[TextInstance]
    evidence: float
    heat_map: np.ndarray | None = None


class Grounding(Protocol):
    """A way from phrases to masks."""

    name: str

    def __call__(self, request: Request) -> list[Found]:
        """Answers every phrase of a request, in order."""
        ...


def as_numbers(values: Any) -> np.ndarray:
    """Coordinates or labels as float64, from whatever they were given as."""
    return np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values, dtype=np.float64)


def make_instance(
    mask: np.ndarray,
    low_res_logits: np.ndarray,
    score: float,
    predicted_iou: float,
    stability: float,
    text_probability: float | None = None,
    point: Sequence[float] | None = None,
) -> TextInstance:
    """An instance with its box; figures are clipped to [0,1], where a model's estimates may stray from.

    Args:
        mask: (H,W) bool, original pixels.
        low_res_logits: (4h,4w).
        score: See `TextInstance`, as for the rest.
        predicted_iou: See there.
        stability: See there.
        text_probability: See there.
        point: See there.
    """
    return TextInstance(
        mask=mask,
        box=tuple(int(side) for side in mask_to_xyxy(mask)),
        score=_share(score),
        text_probability=None if text_probability is None else _share(text_probability),
        predicted_iou=_share(predicted_iou),
        stability=_share(stability),
        low_res_logits=np.asarray(low_res_logits, dtype=np.float32),
        point=None if point is None else (float(point[0]), float(point[1])),
    )


def stability(request: Request, low_res_logits: np.ndarray, offset: float = 1.0) -> np.ndarray:
    """Stability of masks in the pixels of the picture.

    Args:
        request: Whose picture the masks are of.
        low_res_logits: (n,4h,4w), the frame of the model's padded input.
        offset: How far above and below the threshold the two cuts are.

    Returns:
        (n,) float32 in [0,1].
    """
    logits = torch.from_numpy(np.ascontiguousarray(low_res_logits, dtype=np.float32))
    padded = height_width(request.predictor.processor.image_processor.pad_size)
    embedding = request.embedding
    way = upscaling(logits.shape[-2:], padded, embedding.input_size, embedding.original_size)
    return mask_statistics(logits, way, offset=offset).stability.numpy()


def mask_iou(first: np.ndarray, second: np.ndarray) -> float:
    """IoU of two (H,W) masks; 0 where both are empty."""
    union = np.logical_or(first, second).sum()
    return float(np.logical_and(first, second).sum() / union) if union else 0.0


def log_odds(probability: float) -> float:
    """Log of p / (1 - p); no estimate is taken for more certain than `ODDS_BOUND` from 0 and 1."""
    probability = min(max(probability, ODDS_BOUND), 1 - ODDS_BOUND)
    return math.log(probability / (1 - probability))


def _share(value: float) -> float:
    return float(np.clip(np.nan_to_num(value), 0.0, 1.0))
