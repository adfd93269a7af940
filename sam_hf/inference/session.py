"""Prompt sessions done again: from steps to masks, on any predictor.

`session_format` says what a step and a session are. The mask of an object is what its steps lead to, one after the
other: where a step builds on the one before, the low-resolution logits of the mask selected there are its mask prompt.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sam_hf.inference.embedding_store import ImageEmbedding
from sam_hf.inference.predictor import SamPredictor
from sam_hf.inference.session_format import PromptSession, SessionObject, Step, read_steps
from sam_hf.masks import rle as run_lengths
from sam_hf.masks.packed import PackedMask
from sam_hf.masks.regions import remove_small_regions

if TYPE_CHECKING:
    from sam_hf.inference.text.segmenter import SamTextSegmenter

__all__ = [
    "PromptSession",
    "ReplayedObject",
    "SessionObject",
    "Step",
    "StepAnswer",
    "decode_steps",
    "read_steps",
    "replay",
    "replay_each",
    "wants_three",
]

NOT_THERE = -10.0  # logit where nothing was found


@dataclass(frozen=True, eq=False)
class StepAnswer:
    """Answer to the last of an object's steps.

    Attributes:
        masks: (M,H,W) bool, original pixels; M is 3 or 1, see `wants_three`. Of steps before the last: (M,0,0).
        scores: (M,) float32, estimates of the masks' IoU.
        selected: Which of them is the object.
        low_res_logits: (M,4h,4w) float32, the frame of the model's padded input.
    """

    masks: np.ndarray
    scores: np.ndarray
    selected: int
    low_res_logits: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """(H,W) bool: the selected mask."""
        return self.masks[self.selected]

    @property
    def score(self) -> float:
        """Estimate of the selected mask's IoU."""
        return float(self.scores[self.selected])


@dataclass(frozen=True, eq=False)
class ReplayedObject:
    """One object of a session, done again.

    Attributes:
        kept: The object as the session has it.
        rle: The mask, original pixels; small holes filled, small islands dropped as it was kept.
        score: Estimate of the mask's IoU; None of an object without steps.
        iou: IoU with the mask that the session has stored; None if it has none. Two empty masks agree: 1.
    """

    kept: SessionObject
    rle: Mapping[str, Any]
    score: float | None
    iou: float | None

    @property
    def mask(self) -> np.ndarray:
        """(H,W) bool: the mask, unpacked anew each time."""
        return run_lengths.decode(self.rle)


def wants_three(step: Step) -> bool:
    """Whether a step is answered by three masks to choose from, or by a single one.

    Three for what may mean a part as well as the whole: at most one point, no box, no previous mask; or where the
    second or third mask was selected. The page has the same rule in JavaScript; `tests/ui/cases.json` holds cases of
    both.

    Source: Meta's demo and `SamPredictor`: several prompts, of which a box counts as two, are no longer ambiguous.
    """
    ambiguous = len(step.points) + 2 * (step.box is not None) <= 1 and not step.previous
    return ambiguous or (step.selected or 0) >= 1


def decode_steps(
    predictor: SamPredictor,
    embedding: ImageEmbedding,
    steps: Sequence[Step],
    segmenter: "SamTextSegmenter | None" = None,
    image: Any = None,
) -> StepAnswer:
    """Decodes an object's steps; steps on which nothing later builds are not decoded.

    Args:
        predictor: Any checkpoint.
        embedding: Of the picture, see `SamPredictor.encode`.
        steps: At least one.
        segmenter: Answers steps with text where the checkpoint has no text branch, with one mask each; on the same
            predictor.
        image: The picture, for the segmenter.

    Raises:
        ValueError: If there are no steps, a brush has another size than the picture, or a text can be read neither by
            the checkpoint nor by a segmenter.
    """
    if not steps:
        raise ValueError("steps: expected at least one, got none")
    first = len(steps) - 1
    while steps[first].previous and steps[first].brush is None:
        if first == 0:
            raise ValueError("steps[0].previous: there is no step before the first one")
        first -= 1
    answer = None
    for index in range(first, len(steps)):
        mask_prompt = None if answer is None else answer.low_res_logits[answer.selected][None]  # (1,4h,4w)
        is_last = index == len(steps) - 1
        path = f"steps[{index}]"
        answer = _decode(predictor, embedding, steps[index], mask_prompt, path, segmenter, image, is_last)
    return answer


def _decode(
    predictor: SamPredictor,
    embedding: ImageEmbedding,
    step: Step,
    mask_prompt: np.ndarray | None,
    path: str,
    segmenter: "SamTextSegmenter | None",
    image: Any,
    full_size: bool,
) -> StepAnswer:
    if step.brush is not None:
        if tuple(step.brush["size"]) != tuple(embedding.original_size):
            raise ValueError(
                f"{path}.brush: expected the picture's size {list(embedding.original_size)} (height, width), "
                f"got {list(step.brush['size'])}"
            )
        mask_prompt = run_lengths.decode(step.brush)
    prompts = {
        "points": np.array(step.points) if step.points else None,
        "labels": np.array(step.labels) if step.points else None,
        "box": None if step.box is None else np.array(step.box),
        "mask_input": mask_prompt,
    }
    if step.text is not None and predictor.model.config.text_config is None:
        return _look_for(segmenter, image, step.text, prompts, embedding, path)
    several = wants_three(step)
    found = predictor.decode(embedding, text=step.text, multimask_output=several, full_size=full_size, **prompts)
    best = int(found.scores.argmax())
    # A single mask is chosen already.
    selected = best if step.selected is None or not several else step.selected
    return StepAnswer(found.masks, found.scores, selected, found.low_res_logits)


def _look_for(
    segmenter: "SamTextSegmenter | None",
    image: Any,
    text: str,
    prompts: dict[str, Any],
    embedding: ImageEmbedding,
    path: str,
) -> StepAnswer:
    """The best instance of a phrase; an empty mask where there is none."""
    if segmenter is None or image is None:
        raise ValueError(f"{path}.text: this checkpoint has no text branch; use one that has, or give a segmenter")
    answer = segmenter.segment(image, text, instances="one", **prompts)
    if not answer.instances:
        height, width = embedding.tensor.shape[-2:]
        logits = np.full((1, 4 * height, 4 * width), NOT_THERE, dtype=np.float32)
        return StepAnswer(np.zeros((1, *embedding.original_size), dtype=bool), np.zeros(1, np.float32), 0, logits)
    best = answer.instances[0]
    scores = np.array([best.predicted_iou], dtype=np.float32)
    return StepAnswer(best.mask[None], scores, 0, best.low_res_logits[None])


def replay(
    predictor: SamPredictor, image: Any, session: PromptSession, segmenter: "SamTextSegmenter | None" = None
) -> list[ReplayedObject]:
    """Does a session again; see `replay_each`, as for the arguments."""
    return list(replay_each(predictor, image, session, segmenter))


def replay_each(
    predictor: SamPredictor, image: Any, session: PromptSession, segmenter: "SamTextSegmenter | None" = None
) -> Iterator[ReplayedObject]:
    """Does a session again, one object after the other.

    Args:
        predictor: Any checkpoint; with the one that the session was made with the same masks come out.
        image: The picture, see `SamPredictor.encode`.
        session: What to do.
        segmenter: See `decode_steps`.

    Raises:
        ValueError: If the picture has another size than the session's; or see `decode_steps`, the message begins with
            the object.
    """
    embedding = predictor.encode(image)
    if tuple(embedding.original_size) != tuple(session.size):
        (height, width), (wanted_height, wanted_width) = embedding.original_size, session.size
        raise ValueError(
            f"image: the session is about a picture of {wanted_width} x {wanted_height} pixels, "
            f"this one has {width} x {height}"
        )
    for index, one in enumerate(session.objects):
        yield _replay(predictor, embedding, one, f"objects[{index}]", segmenter, image)


def _replay(
    predictor: SamPredictor,
    embedding: ImageEmbedding,
    kept: SessionObject,
    path: str,
    segmenter: "SamTextSegmenter | None",
    image: Any,
) -> ReplayedObject:
    stored = None if kept.rle is None else run_lengths.decode(kept.rle)
    if kept.steps:
        try:
            answer = decode_steps(predictor, embedding, kept.steps, segmenter, image)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        mask, score = answer.mask, answer.score
    elif stored is not None:
        mask, score = stored, None
    else:
        raise ValueError(f"{path}: expected steps or an rle, got neither")
    packed, changed = remove_small_regions(PackedMask.from_array(mask), kept.fill_holes, kept.drop_islands)
    mask = packed.to_array() if changed else mask
    return ReplayedObject(kept, run_lengths.encode(mask), score, None if stored is None else _iou(mask, stored))


def _iou(first: np.ndarray, second: np.ndarray) -> float:
    union = np.logical_or(first, second).sum()
    return float(np.logical_and(first, second).sum() / union) if union else 1.0
