"""Where masks lie: to the points, box and mask that came with a phrase, and to each other.

A mask *fits* what was given if it holds every foreground point and no background point, at least three quarters of
it lie in the box, and at least half of the smaller of it and the mask given lie in the other. A box thus says where
to look: "wheel" within the box of a car is a wheel, though the box is not a wheel's.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from sam_hf.inference.text.instances import Request, TextInstance, as_numbers, make_instance, stability
from sam_hf.masks.boxes import mask_to_xyxy

IN_BOX, IN_MASK = 0.75, 0.5


class Geometry:
    """What a request says about where its object is.

    Args:
        request: With points, a box or a mask, or without: then everything fits.
    """

    def __init__(self, request: Request):
        self._size = tuple(request.embedding.original_size)
        points = np.zeros((0, 2)) if request.points is None else as_numbers(request.points).reshape(-1, 2)
        labels = np.ones(len(points)) if request.labels is None else as_numbers(request.labels).reshape(-1)
        # The pixels that hold the points; one beyond the border asks about the border.
        last = np.array([self._size[1] - 1, self._size[0] - 1])
        columns, rows = np.clip(np.floor(points), 0, last).astype(np.int64).T
        self._foreground = (rows[labels == 1], columns[labels == 1])
        self._background = (rows[labels == 0], columns[labels == 0])
        self.foreground, self.background = points[labels == 1], points[labels == 0]
        self.box = None if request.box is None else as_numbers(request.box).reshape(4)
        mask = _given_mask(request)
        self._mask = None if mask is None else Extent.of(mask)

    def fits(self, mask: np.ndarray) -> bool:
        """Whether a mask (H,W) bool, original pixels, may be the one meant."""
        if not mask.any():
            return False
        if not mask[self._foreground].all() or mask[self._background].any():
            return False
        if self.box is not None and mask[self._rows_columns()].sum() < IN_BOX * mask.sum():
            return False
        return self._mask is None or shared(Extent.of(mask), self._mask) >= IN_MASK

    def points_with(self, guess: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """Points (n,2) and labels (n,) to ask about: those given, and a guess where none is given in the foreground.

        Args:
            guess: xy, original pixels.
        """
        foreground = self.foreground if len(self.foreground) else np.asarray(guess, dtype=np.float64)[None]
        labels = np.array([1] * len(foreground) + [0] * len(self.background))
        return np.concatenate([foreground, self.background]), labels

    def _rows_columns(self) -> tuple[slice, slice]:
        height, width = self._size
        left, top, right, bottom = self.box
        rows = slice(max(0, int(np.floor(top))), min(height, int(np.ceil(bottom))))
        return rows, slice(max(0, int(np.floor(left))), min(width, int(np.ceil(right))))


def geometry_answers(request: Request) -> list[TextInstance]:
    """SAM's three masks for the points, box and mask alone, or its single one if these are empty: what a phrase can
    choose from even where nothing else was found.

    Returns:
        Without `text_probability`, the predicted IoU as score; no empty masks. Nothing if nothing was pointed at.
    """
    if not request.names_one:
        return []
    geometry = (request.points, request.labels, request.box, request.mask_input)
    foreground = Geometry(request).foreground
    point = foreground[0] if len(foreground) else None
    for several in (True, False):
        answer = request.predictor.decode(request.embedding, *geometry, multimask_output=several)
        instances = to_instances(request, *answer, points=[point] * len(answer.masks))
        if drawn := [one for one in instances if one.mask.any()]:
            return drawn
    return []


def to_instances(
    request: Request, masks: np.ndarray, scores: np.ndarray, low_res_logits: np.ndarray, points: Sequence[Any]
) -> list[TextInstance]:
    """Masks of a `Prediction` as instances that nobody has asked CLIP about yet.

    Args:
        request: Whose picture they are of.
        masks: (n,H,W) bool.
        scores: (n,) predicted IoU.
        low_res_logits: (n,4h,4w).
        points: n times xy, or None.
    """
    stable = stability(request, low_res_logits)
    return [
        make_instance(mask, logits, float(score), float(score), float(steady), point=point)
        for mask, logits, score, steady, point in zip(masks, low_res_logits, scores, stable, points, strict=True)
    ]


class Extent(NamedTuple):
    """A mask (H,W) bool, the box xyxy around it, and how many pixels it has."""

    mask: np.ndarray
    box: tuple[int, int, int, int]
    area: int

    @classmethod
    def of(cls, mask: np.ndarray) -> "Extent":
        """Of a mask, which is looked through once."""
        left, top, right, bottom = mask_to_xyxy(mask).tolist()
        return cls(mask, (left, top, right, bottom), int(mask[top:bottom, left:right].sum()))


def shared(one: Extent, other: Extent) -> float:
    """Share of the smaller of two masks that lies in the other; 0 if one is empty."""
    left, top = (max(one.box[side], other.box[side]) for side in (0, 1))
    right, bottom = (min(one.box[side], other.box[side]) for side in (2, 3))
    if left >= right or top >= bottom:
        return 0.0
    both = np.logical_and(one.mask[top:bottom, left:right], other.mask[top:bottom, left:right]).sum()
    return float(both / min(one.area, other.area))


def distinct(
    order: Sequence[int], mask_of: Callable[[int], np.ndarray], share: float, most: int
) -> list[tuple[int, np.ndarray]]:
    """Greedy suppression: of masks in order of merit those that are neither inside a better one nor around one.

    A dog's head is no second dog, and neither are two dogs that SAM took for one thing.

    Args:
        order: Indices of masks, best first.
        mask_of: The mask (H,W) bool of an index; asked for one at a time.
        share: How much of the smaller one lies in the larger one where both are the same object.
        most: Masks to find.

    Returns:
        Indices and masks of those that stay, best first; no empty ones.
    """
    kept: list[tuple[int, Extent]] = []
    for index in order:
        extent = Extent.of(mask_of(index))
        if extent.area and all(shared(extent, better) < share for _, better in kept):
            kept.append((index, extent))
        if len(kept) == most:
            break
    return [(index, extent.mask) for index, extent in kept]


def distinct_instances(instances: Sequence[TextInstance], share: float, most: int) -> list[TextInstance]:
    """`distinct` of instances, best score first."""
    order = sorted(range(len(instances)), key=lambda index: -instances[index].score)
    return [instances[index] for index, _ in distinct(order, lambda index: instances[index].mask, share, most)]


def _given_mask(request: Request) -> np.ndarray | None:
    """The mask given, (H,W) bool in original pixels."""
    if request.mask_input is None:
        return None
    given = request.mask_input
    given = given.detach().float().cpu().numpy() if isinstance(given, torch.Tensor) else np.asarray(given)
    embedding, processor = request.embedding, request.predictor.processor
    if given.ndim == 2 and given.shape == tuple(embedding.original_size):
        return given > 0
    logits = torch.from_numpy(given).float().reshape(1, 1, 1, *given.shape[-2:])
    return processor.post_process_masks(logits, [embedding.original_size], [embedding.input_size])[0][0, 0].numpy()
