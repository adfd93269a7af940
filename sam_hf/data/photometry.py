"""Light and camera: what happens to a whole picture after everything was drawn."""

from __future__ import annotations

import cv2
import numpy as np

from .textures import pixel_grid


def light(rng: np.random.Generator, image: np.ndarray) -> None:
    """Gain, colour cast and a soft lighting ramp, in place on (S,S,3) float32."""
    gain = np.float32(0.75 + 0.45 * rng.random()) * (1 + (rng.random(3, dtype=np.float32) - 0.5) * 0.22)
    if rng.random() < 0.5:
        size = len(image)
        x, y = pixel_grid(size, size)
        angle, strength = rng.random() * 6.283, 0.5 * rng.random()
        ramp = 1 + np.float32(strength) * (np.cos(angle) * (x / size - 0.5) + np.sin(angle) * (y / size - 0.5))
        image *= ramp[..., None].astype(np.float32)
    image *= gain


def expose(rng: np.random.Generator, image: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Blur, noise and tone curve.

    Args:
        image: (S,S,3) float32 in 0..255.
        noise: (N,N,3) float32 normal noise with N > S, from which a window is cut.

    Returns:
        (S,S,3) uint8.
    """
    size = len(image)
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), (0.3 + 0.55 * rng.random()) * max(size / 160, 0.8))
    elif rng.random() < 0.12:
        image = _motion_blur(rng, image)
    if rng.random() < 0.75:
        y, x = (rng.random(2) * (len(noise) - size)).astype(int)
        grain = noise[y : y + size, x : x + size]
        level = np.float32(12 * rng.random() ** 2)
        if rng.random() < 0.5:
            image = image + level * grain
        else:
            image = image + level * grain[..., :1]
    out = np.clip(image, 0, 255).astype(np.uint8)
    if rng.random() < 0.6:
        gamma, contrast = 2 ** ((rng.random() - 0.5) * 0.9), 0.8 + 0.35 * rng.random()
        curve = (np.arange(256) / 255) ** gamma
        curve = np.clip((curve - 0.5) * contrast + 0.5, 0, 1) * 255
        out = cv2.LUT(out, curve.astype(np.uint8))
    return out


def _motion_blur(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    length = 3 + 2 * int(rng.random() * 2)
    kernel = np.zeros((length, length), np.float32)
    centre, angle = (length - 1) / 2, rng.random() * np.pi
    for step in np.linspace(-centre, centre, 2 * length):
        kernel[int(round(centre + step * np.sin(angle))), int(round(centre + step * np.cos(angle)))] = 1
    return cv2.filter2D(image, -1, kernel / kernel.sum())
