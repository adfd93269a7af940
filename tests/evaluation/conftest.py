"""Hand-made scenes and decoders that know the answer."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from sam_hf.evaluation.scene_decoder import Decoded


@dataclass
class Thing:
    mask: np.ndarray
    phrases: tuple[str, ...] = ()
    kind: str = "shape"
    parent: int | None = None
    held_out: bool = False


@dataclass
class HandMadeScene:
    image: np.ndarray
    objects: list[Thing] = field(default_factory=list)
    absent_phrases: tuple[str, ...] = ()


class Oracle:
    """Answers every prompt with the object it means; notes what it was asked.

    Of three masks only the second is right, and its score says so. A phrase that no object has gets an empty mask
    and a low score. Low-resolution logits carry the object's number, so that a prompt by logits can be checked.
    """

    def __init__(self, scene, honest_scores=True):
        self.scene = scene
        self.honest_scores = honest_scores
        self.calls = []

    def _meant(self, index, points, labels, boxes, masks, previous, text):
        objects = self.scene.objects
        if text is not None:
            return next((number for number, thing in enumerate(objects) if text[index] in thing.phrases), None)
        if previous is not None:
            return int(previous[index, 0, 0])
        if points is not None:
            x, y = points[index, 0]
            inside = [number for number, thing in enumerate(objects) if thing.mask[int(y), int(x)]]
            return min(inside, key=lambda number: objects[number].mask.sum())
        if boxes is not None:
            x0, y0, x1, y1 = (int(edge) for edge in boxes[index])
            window = np.zeros_like(objects[0].mask)
            window[y0 : y1 + 1, x0 : x1 + 1] = True
            outside = [int((thing.mask ^ window).sum()) for thing in objects]
            return int(np.argmin(outside))
        return int(
            np.argmax([(thing.mask & masks[index]).sum() / (thing.mask | masks[index]).sum() for thing in objects])
        )

    def __call__(self, *, points=None, labels=None, boxes=None, masks=None, previous=None, text=None, multimask=True):
        prompts = {"points": points, "labels": labels, "boxes": boxes, "masks": masks, "previous": previous}
        self.calls.append({name: value for name, value in (prompts | {"text": text}).items() if value is not None})
        self.calls[-1]["multimask"] = multimask
        count = len(next(value for value in (text, points, boxes, masks) if value is not None))
        meant = [self._meant(index, points, labels, boxes, masks, previous, text) for index in range(count)]
        height, width = self.scene.image.shape[:2]
        answers = np.zeros((count, 3 if multimask else 1, height, width), bool)
        scores = np.full(answers.shape[:2], 0.1)
        logits = np.full((*answers.shape[:2], 4, 4), -1.0)
        right = 1 if multimask else 0
        for index, number in enumerate(meant):
            if number is None:
                continue
            answers[index, right] = self.scene.objects[number].mask
            logits[index, right] = number
            scores[index, right if self.honest_scores else -1] = 0.9
        return Decoded(masks=answers, scores=scores, logits=logits)


@pytest.fixture
def scene():
    """A red disc with a white square inside it (its part), and a green bar far from it, on noisy grey."""
    rows, columns = np.mgrid[:64, :64]
    disc = (rows - 22) ** 2 + (columns - 22) ** 2 <= 15**2
    square = (rows >= 16) & (rows < 23) & (columns >= 12) & (columns < 19)
    bar = (rows >= 48) & (rows < 58) & (columns >= 30) & (columns < 60)
    image = np.random.default_rng(0).integers(110, 122, (64, 64, 3)).astype(np.uint8)
    image[disc], image[square], image[bar] = (210, 30, 30), (240, 240, 240), (20, 160, 40)
    things = [
        Thing(disc, ("red disc",)),
        Thing(square, (), kind="part", parent=0),
        Thing(bar, ("green bar",), kind="emoji", held_out=True),
    ]
    return HandMadeScene(image, things, ("blue star", "yellow cat"))


@pytest.fixture
def oracle(scene):
    return Oracle(scene)


@pytest.fixture
def make_oracle():
    return Oracle


@pytest.fixture
def make_scene():
    return HandMadeScene
