"""Prompts as they are typed on a command line: one set, asked of every image, in original pixels."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TypedPrompts:
    """What is asked of every image.

    Attributes:
        points: xy of points on the object.
        background_points: xy of points beside it.
        box: xyxy around it.
        mask: File with a rough mask of it, of the image's size.
        text: Phrase for it.
    """

    points: tuple[tuple[float, ...], ...] = ()
    background_points: tuple[tuple[float, ...], ...] = ()
    box: tuple[float, ...] | None = None
    mask: str | None = None
    text: str | None = None

    def __len__(self) -> int:
        others = (self.box, self.mask, self.text)
        return len(self.points) + len(self.background_points) + sum(other is not None for other in others)

    @property
    def coordinates(self) -> np.ndarray | None:
        """(N,2) xy of all points, or None."""
        return np.array(self.points + self.background_points) if self.points or self.background_points else None

    @property
    def labels(self) -> np.ndarray | None:
        """(N,) labels of all points, or None."""
        labels = [1] * len(self.points) + [0] * len(self.background_points)
        return np.array(labels) if labels else None


def parse_point(typed: str, option: str) -> tuple[float, ...]:
    """`"450,600"` -> (450.0, 600.0).

    Raises:
        ValueError: If these are not two finite numbers.
    """
    return _numbers(typed, option, "x,y in pixels, for example 450,600", 2)


def parse_box(typed: str, option: str) -> tuple[float, ...]:
    """`"100,80,600,500"` -> (100.0, 80.0, 600.0, 500.0).

    Raises:
        ValueError: If these are not four finite numbers, or the corners are reversed.
    """
    expected = "left,top,right,bottom in pixels, for example 100,80,600,500"
    left, top, right, bottom = _numbers(typed, option, expected, 4)
    if left >= right or top >= bottom:
        raise ValueError(f"{option} expects {expected}, with left < right and top < bottom; got {typed!r}")
    return left, top, right, bottom


def _numbers(typed: str, option: str, expected: str, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in typed.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count or not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"{option} expects {expected}; got {typed!r}")
    return numbers
