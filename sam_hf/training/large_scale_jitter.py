"""Large-scale jitter: a picture is seen at a tenth to twice its size, in a window of the model's.

Enlarged pictures are cropped at random, shrunk ones lie in the upper left corner and the rest is padding, as the model
takes every picture. Half of the pictures are mirrored, but never one of whose phrases says left or right.

Source: Segment Anything, App. A (scale range [0.1, 2.0]) and D.5; Ghiasi et al. 2021 (arXiv 2012.07177).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

SCALE_RANGE = (0.1, 2.0)
SIDES = re.compile(r"\b(left|right)(most|hand|ward|wards)?\b|\b(clockwise|counterclockwise)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Placement:
    """Where a picture lies in the model's square input.

    Attributes:
        size: (H,W) of the resized picture, pixels of the input's scale.
        offset: (top, left) of the square in the resized picture.
        side: Side S of the square.
        mirrored: Whether the picture was flipped left to right first.
    """

    size: tuple[int, int]
    offset: tuple[int, int]
    side: int
    mirrored: bool = False

    def place(self, picture: np.ndarray) -> np.ndarray:
        """(H,W) bool or (H,W,3) uint8 -> what is seen of it, at most (S,S); padding is the caller's.

        A pixel of a mask is inside where at least half of it was.
        """
        is_mask = picture.dtype == bool
        picture = picture.astype(np.uint8) * 255 if is_mask else picture
        if self.mirrored:
            picture = np.ascontiguousarray(picture[:, ::-1])
        if picture.shape[:2] != self.size:
            shrinks = self.size[0] < picture.shape[0]
            height, width = self.size
            way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            picture = cv2.resize(picture, (width, height), interpolation=way)
        top, left = self.offset
        seen = picture[top : top + self.side, left : left + self.side]
        return seen > 127 if is_mask else seen


def whole(size: tuple[int, int], side: int) -> Placement:
    """A picture (H,W) with its longer side at the square's: no jitter, the paper's default."""
    return Placement(_scaled(size, side / max(size)), (0, 0), side)


def jitter(
    size: tuple[int, int],
    side: int,
    rng: random.Random,
    scale_range: tuple[float, float] = SCALE_RANGE,
    mirror: float = 0.5,
) -> Placement:
    """A random placement.

    Args:
        size: (H,W) of the picture.
        side: S.
        rng: What decides.
        scale_range: Of the size relative to `whole`.
        mirror: Probability of flipping.
    """
    scaled = _scaled(size, side / max(size) * rng.uniform(*scale_range))
    top, left = (rng.randint(0, max(length - side, 0)) for length in scaled)
    return Placement(scaled, (top, left), side, rng.random() < mirror)


def names_a_side(phrases: Iterable[str]) -> bool:
    """Whether one of the phrases would be false of the mirrored picture."""
    return any(SIDES.search(phrase) for phrase in phrases)


def _scaled(size: tuple[int, int], factor: float) -> tuple[int, int]:
    height, width = size
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))
