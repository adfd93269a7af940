"""Outlines of procedural shapes, in their own frame: x right, y down, fitting the square [-1,1]^2."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .colors import COLOURS
from .glyph_table import is_held_out

Contours = list[np.ndarray]  # each (N,2) float32; inner contours cut holes


def _circle(radius: float = 1.0, count: int = 40) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack((np.cos(angle), np.sin(angle)), 1) * radius


def _regular(count: int) -> np.ndarray:
    angle = np.arange(count) * (2 * np.pi / count) - np.pi / 2
    return np.stack((np.cos(angle), np.sin(angle)), 1)


def _box(half_width: float, half_height: float) -> np.ndarray:
    return np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (half_width, half_height)


def _star(rng: np.random.Generator) -> np.ndarray:
    points = 5 + int(rng.random() * 3)
    outline = _regular(2 * points)
    outline[1::2] *= 0.38 + 0.16 * rng.random()
    return outline


def _cross(rng: np.random.Generator) -> np.ndarray:
    w = 0.22 + 0.16 * rng.random()
    quarter = np.array([(w, -1), (w, -w), (1, -w)])
    turn = np.array([(0, 1), (-1, 0)])  # a quarter turn, for row vectors
    corners = [quarter]
    for _ in range(3):
        corners.append(corners[-1] @ turn)
    return np.concatenate(corners)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack((16 * np.sin(t) ** 3, -y - 2.5), 1) / 16


def _crescent(rng: np.random.Generator) -> np.ndarray:
    bite = 0.35 + 0.3 * rng.random()
    t = np.linspace(np.pi / 3, 2 * np.pi - np.pi / 3, 30)
    outer = np.stack((np.cos(t), np.sin(t)), 1)
    s = np.linspace(1, -1, 20)
    inner = np.stack((0.5 - bite * 1.9 * (1 - s**2) * 0.9, -s * np.sin(np.pi / 3)), 1)
    return np.concatenate((outer, inner))


def _rounded(half_width: float, half_height: float) -> np.ndarray:
    radius = 0.45 * min(half_width, half_height)
    arc = np.linspace(0, np.pi / 2, 7)
    corners = []
    for turn, (sx, sy) in enumerate(((1, 1), (-1, 1), (-1, -1), (1, -1))):
        centre = np.array((sx * (half_width - radius), sy * (half_height - radius)))
        angle = arc + turn * np.pi / 2
        corners.append(centre + radius * np.stack((np.cos(angle), np.sin(angle)), 1))
    return np.concatenate(corners)


def blob(rng: np.random.Generator, roughness: float = 0.35) -> np.ndarray:
    """A smooth random closed curve: (36,2)."""
    angle = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    phase, size = rng.random(4) * 2 * np.pi, rng.random(4) * roughness
    radius = 1 + sum(size[k] / (k + 1) ** 0.6 * np.cos((k + 2) * angle + phase[k]) for k in range(4))
    radius = radius / radius.max()
    return np.stack((np.cos(angle), np.sin(angle)), 1) * np.maximum(radius, 0.25)[:, None]


_OUTLINES: dict[str, Callable[[np.random.Generator], Contours]] = {
    "circle": lambda rng: [_circle()],
    "oval": lambda rng: [_circle() * (1, 0.45 + 0.2 * rng.random())],
    "square": lambda rng: [_box(0.85, 0.85)],
    "rectangle": lambda rng: [_box(1, 0.35 + 0.25 * rng.random())],
    "rounded square": lambda rng: [_rounded(0.9, 0.9)],
    "triangle": lambda rng: [_regular(3) * (1, 0.8 + 0.4 * rng.random())],
    "diamond": lambda rng: [_regular(4) * (0.55 + 0.1 * rng.random(), 1)],
    "pentagon": lambda rng: [_regular(5)],
    "hexagon": lambda rng: [_regular(6)],
    "star": lambda rng: [_star(rng)],
    "cross": lambda rng: [_cross(rng)],
    "heart": lambda rng: [_heart()],
    "crescent": lambda rng: [_crescent(rng)],
    "half circle": lambda rng: [_circle()[:21] - (0, 0.45)],
    "ring": lambda rng: [_circle(), _circle(0.5 + 0.2 * rng.random())],
    "frame": lambda rng: [_box(0.9, 0.9), _box(*([0.45 + 0.2 * rng.random()] * 2))],
    "blob": lambda rng: [blob(rng)],
}
SHAPES = tuple(_OUTLINES)
HOSTS = (
    "circle",
    "oval",
    "square",
    "rectangle",
    "rounded square",
    "triangle",
    "diamond",
    "pentagon",
    "hexagon",
    "heart",
    "blob",
)

# Nouns that are true as well, and nouns that the eye may take for true.
_ALSO = {"rounded square": ("square",)}
_DOUBTS = {
    "circle": ("oval", "blob"),
    "oval": ("circle", "blob"),
    "square": ("rectangle", "diamond", "rounded square"),
    "rectangle": ("square", "rounded square"),
    "rounded square": ("rectangle", "circle", "diamond"),
    "diamond": ("square", "rectangle"),
    "pentagon": ("hexagon",),
    "hexagon": ("pentagon", "circle"),
    "half circle": ("crescent",),
    "crescent": ("half circle",),
    "blob": ("oval", "circle"),
    "frame": ("square", "rectangle"),
    "ring": ("circle",),
}
HELD_OUT_PAIRS = frozenset(
    (colour, shape) for colour in COLOURS for shape in SHAPES if is_held_out(f"pair:{colour} {shape}")
)


def shape_outline(rng: np.random.Generator, name: str) -> Contours:
    """The contours of a named shape in [-1,1]^2."""
    return [np.asarray(contour, np.float32) for contour in _OUTLINES[name](rng)]


def shape_nouns(name: str) -> tuple[tuple[str, ...], frozenset[str]]:
    """Nouns surely true of a shape, and nouns possibly true of it."""
    nouns = (name, *_ALSO.get(name, ()), "shape")
    return nouns, frozenset((*nouns, *_DOUBTS.get(name, ())))
