"""Backgrounds and fills: noise, dead leaves, stripes, checks, dots, cells."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from .shapes import blob


def random_colour(rng: np.random.Generator) -> np.ndarray:
    """Any colour, muted ones being likelier, as in photographs: (3,) float32 in 0..255."""
    colour = rng.random(3, dtype=np.float32) * 255
    grey = colour.mean()
    return grey + (colour - grey) * (0.25 + 0.75 * rng.random())


def fractal_noise(rng: np.random.Generator, size: int, channels: int = 1, persistence: float = 0.55) -> np.ndarray:
    """Value noise summed over octaves: (size,size[,channels]) float32, about 0..1."""
    cells = 2 + int(rng.random() * 5)
    total, weight, norm = np.zeros((size, size, channels), np.float32), 1.0, 0.0
    while cells < size:
        layer = rng.random((cells, cells, channels), dtype=np.float32)
        scaled = cv2.resize(layer, (size, size), interpolation=cv2.INTER_CUBIC if cells < 24 else cv2.INTER_LINEAR)
        total += weight * scaled.reshape(size, size, channels)
        norm += weight
        weight *= persistence
        cells = int(cells * 2.3) + 1
    total = np.clip((total / norm - 0.5) * 1.7 + 0.5, 0, 1)
    return total[..., 0] if channels == 1 else total


def colour_ramp(rng: np.random.Generator, value: np.ndarray, stops: int) -> np.ndarray:
    """Map a scalar field (H,W) in 0..1 through random colours: (H,W,3) float32."""
    colours = np.stack([random_colour(rng) for _ in range(stops)])
    at = np.linspace(0, 1, stops)
    grid = np.linspace(0, 1, 256)
    table = np.stack([np.interp(grid, at, colours[:, c]) for c in range(3)], 1).astype(np.float32)
    return table[(np.clip(value, 0, 1) * 255).astype(np.uint8)]


def pixel_grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """x (1,W) and y (H,1), float32, for broadcasting."""
    return np.arange(width, dtype=np.float32)[None], np.arange(height, dtype=np.float32)[:, None]


def stripe_field(u: np.ndarray, frequency: float, sharpness: float) -> np.ndarray:
    """0..1, periodic in u with soft edges."""
    return np.clip(np.sin(u * frequency) * sharpness + 0.5, 0, 1)


def _plain(rng: np.random.Generator, size: int) -> np.ndarray:
    return np.tile(random_colour(rng), (size, size, 1)).astype(np.float32)


def _gradient(rng: np.random.Generator, size: int) -> np.ndarray:
    x, y = pixel_grid(size, size)
    if rng.random() < 0.35:
        cx, cy = rng.random(2) * size
        value = np.sqrt((x - cx) ** 2 + (y - cy) ** 2) / size
    else:
        angle = rng.random() * 2 * np.pi
        value = (np.cos(angle) * (x / size - 0.5) + np.sin(angle) * (y / size - 0.5)) * 0.8 + 0.5
    return colour_ramp(rng, value, 2 + int(rng.random() * 3))


def _noise(rng: np.random.Generator, size: int) -> np.ndarray:
    persistence = 0.4 + 0.5 * rng.random()
    if rng.random() < 0.3:
        first, second = random_colour(rng), random_colour(rng)
        return first + (second - first) * fractal_noise(rng, size, 3, persistence)
    return colour_ramp(rng, fractal_noise(rng, size, 1, persistence), 2 + int(rng.random() * 5))


def _dead_leaves(rng: np.random.Generator, size: int) -> np.ndarray:
    base = np.stack([random_colour(rng) for _ in range(2 + int(rng.random() * 4))])
    image = np.tile(base[0], (size, size, 1)).astype(np.float32)
    largest = 0.05 + 0.3 * rng.random()
    outlines = [blob(rng, 0.6) for _ in range(4)] + [rng.random((5, 2)) * 2 - 1 for _ in range(2)]
    count = int(30 + 50 * rng.random())
    values = rng.random((count, 8))
    for k in range(count):
        v = values[k]
        radius = size * max(largest * v[0] ** 2, 0.02)
        c, s = radius * np.cos(v[1] * 6.28), radius * np.sin(v[1] * 6.28)
        points = outlines[int(v[2] * len(outlines))] @ np.array([(c, s), (-s, c)]) + v[3:5] * size
        colour = base[int(v[5] * len(base))] + (v[6] - 0.5) * 70
        cv2.fillPoly(image, [np.round(points * 8).astype(np.int32)], colour.tolist(), shift=3)
    return image


def _stripes(rng: np.random.Generator, size: int) -> np.ndarray:
    x, y = pixel_grid(size, size)
    angle, frequency = rng.random() * np.pi, (6 + 60 * rng.random() ** 2) / size
    u = np.cos(angle) * x + np.sin(angle) * y
    if rng.random() < 0.5:
        u = u + fractal_noise(rng, size) * (size * 0.3 * rng.random())
    value = stripe_field(u, frequency, 0.4 + 3 * rng.random())
    if rng.random() < 0.35:
        value = np.abs(value - stripe_field(np.cos(angle) * y - np.sin(angle) * x, frequency, 3))
    first = random_colour(rng)
    second = random_colour(rng) if rng.random() < 0.5 else np.clip(first + (rng.random() - 0.5) * 120, 0, 255)
    return (first + (second - first) * value[..., None]).astype(np.float32)


def _cells(rng: np.random.Generator, size: int) -> np.ndarray:
    half = size // 2
    x, y = pixel_grid(half, half)
    count = 8 + int(rng.random() * 20)
    points = rng.random((count, 2), dtype=np.float32) * half
    distance = (x[..., None] - points[:, 0]) ** 2 + (y[..., None] - points[:, 1]) ** 2
    nearest = distance.argmin(-1)
    colours = np.clip(random_colour(rng) + (rng.random((count, 3)) - 0.5) * (40 + 160 * rng.random()), 0, 255).astype(
        np.float32
    )
    image = colours[nearest]
    if rng.random() < 0.5:
        image *= (1 - 0.6 * np.sqrt(distance.min(-1)) / (half * 0.35)).clip(0.3, 1)[..., None]
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)


def _horizon(rng: np.random.Generator, size: int) -> np.ndarray:
    """Two surfaces that meet: floor and wall, sky and ground."""
    upper = _BACKGROUNDS[int(rng.random() * 3)][1](rng, size)
    lower = _BACKGROUNDS[int(rng.random() * len(_BACKGROUNDS))][1](rng, size)
    x, y = pixel_grid(size, size)
    line = size * (0.25 + 0.5 * rng.random()) + (x - size / 2) * (rng.random() - 0.5) * 0.4
    below = np.clip(y - line + 0.5, 0, 1)[..., None]
    return upper + (lower - upper) * below


_BACKGROUNDS: tuple[tuple[float, Callable[[np.random.Generator, int], np.ndarray]], ...] = (
    (0.07, _plain),
    (0.14, _gradient),
    (0.27, _noise),
    (0.17, _dead_leaves),
    (0.12, _stripes),
    (0.11, _cells),
)
_HORIZON_SHARE = 0.12


def background(rng: np.random.Generator, size: int) -> tuple[np.ndarray, bool]:
    """A random background.

    Returns:
        (size,size,3) float32 in about 0..255, and whether it may show leaves that one could take for blobs.
    """
    if rng.random() < _HORIZON_SHARE:
        make = _horizon
    else:
        bounds = np.cumsum([weight for weight, _ in _BACKGROUNDS])
        make = _BACKGROUNDS[int(np.searchsorted(bounds, rng.random() * bounds[-1], side="right"))][1]
    image = make(rng, size)
    if rng.random() < 0.4:
        image = image * (0.7 + 0.6 * fractal_noise(rng, size, 1, 0.7))[..., None]
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), (0.6 + 3 * rng.random() ** 2) * size / 128)
    return np.ascontiguousarray(image, np.float32), make in (_horizon, _dead_leaves)


PATTERNS = ("striped", "checkered", "dotted")


def pattern_field(rng: np.random.Generator, pattern: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Where the second colour of a pattern shows.

    Args:
        pattern: One of `PATTERNS`.
        u, v: (H,W) coordinates in the shape's own frame, [-1,1].

    Returns:
        (H,W) float32 in 0..1.
    """
    frequency = 7 + 7 * rng.random()
    if pattern == "striped":
        return stripe_field(u, frequency, 4)
    if pattern == "checkered":
        frequency *= 0.8
        return np.clip(np.sin(u * frequency) * np.sin(v * frequency) * 6 + 0.5, 0, 1)
    frequency *= 1.2
    return np.clip((np.cos(u * frequency) * np.cos(v * frequency) - 0.45) * 5, 0, 1)
