"""The named palette: colours to paint shapes with, and names for the colours found in a glyph."""

from __future__ import annotations

import cv2
import numpy as np

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (214, 32, 36),
    "orange": (245, 130, 22),
    "yellow": (248, 214, 36),
    "green": (44, 160, 60),
    "cyan": (40, 196, 210),
    "blue": (36, 84, 214),
    "purple": (126, 48, 180),
    "pink": (244, 130, 184),
    "brown": (122, 74, 38),
    "black": (24, 24, 26),
    "white": (244, 244, 242),
    "gray": (134, 136, 138),
}
COLOURS = tuple(PALETTE)

# What a colour may be taken for under a colour cast; used only to doubt, never to name.
_NEIGHBOURS = {
    "red": ("orange", "pink", "brown"),
    "orange": ("red", "yellow", "brown"),
    "yellow": ("orange",),
    "green": ("cyan",),
    "cyan": ("blue", "green"),
    "blue": ("cyan", "purple"),
    "purple": ("pink", "blue"),
    "pink": ("red", "purple"),
    "brown": ("orange", "red", "yellow"),
    "black": ("gray",),
    "white": ("gray",),
    "gray": ("black", "white", "blue"),
}
_DOMINANT_SHARE = 0.5
_VISIBLE_SHARE = 0.1


def palette_colour(rng: np.random.Generator, name: str) -> np.ndarray:
    """A colour that people would still call `name`: (3,) float32 RGB in 0..255."""
    return np.clip(np.asarray(PALETTE[name], np.float32) + (rng.random(3, dtype=np.float32) - 0.5) * 24, 0, 255)


def colour_indices(rgb: np.ndarray) -> np.ndarray:
    """The palette index of each pixel.

    Args:
        rgb: (N,3) uint8.

    Returns:
        (N,) int8 index into `COLOURS`; -1 for beige and skin tones, which no palette word fits.
    """
    hsv = cv2.cvtColor(np.ascontiguousarray(rgb[None]).astype(np.float32) / 255, cv2.COLOR_RGB2HSV)[0]
    hue, saturation, value = hsv[:, 0], hsv[:, 1], hsv[:, 2]
    out = np.full(len(rgb), COLOURS.index("red"), np.int8)
    for upper, name in (
        (345, "pink"),
        (292, "purple"),
        (250, "blue"),
        (188, "cyan"),
        (166, "green"),
        (66, "yellow"),
        (43, "orange"),
    ):
        out[hue < upper] = COLOURS.index(name)
    out[hue < 13] = COLOURS.index("red")
    warm = (hue >= 8) & (hue < 43)
    out[warm & (value < 0.72)] = COLOURS.index("brown")
    out[(hue >= 43) & (hue < 66) & (value < 0.5)] = COLOURS.index("green")
    out[((hue < 13) | (hue >= 345)) & (saturation < 0.62) & (value > 0.8)] = COLOURS.index("pink")
    out[(hue < 13) & (value < 0.45)] = COLOURS.index("brown")
    out[warm & (saturation < 0.55) & (value >= 0.72)] = -1
    pale = saturation < 0.16
    out[pale] = COLOURS.index("gray")
    out[pale & (value > 0.86)] = COLOURS.index("white")
    out[value < 0.27] = COLOURS.index("black")
    return out


def describe_colours(rgb: np.ndarray) -> tuple[str | None, frozenset[str]]:
    """Name the colour that dominates a set of pixels, and all colours that one might name.

    Args:
        rgb: (N,3) uint8, the opaque pixels of an object.

    Returns:
        The dominant colour or None, and the possible colours.
    """
    indices = colour_indices(rgb)
    shares = np.bincount(indices[indices >= 0], minlength=len(COLOURS)) / max(len(indices), 1)
    possible = {name for name, share in zip(COLOURS, shares, strict=True) if share >= _VISIBLE_SHARE}
    if (indices < 0).mean() >= _VISIBLE_SHARE:
        possible |= {"brown", "yellow", "orange", "pink", "white"}
    best = int(shares.argmax())
    if shares[best] < _DOMINANT_SHARE:
        return None, frozenset(possible)
    dominant = COLOURS[best]
    return dominant, frozenset(possible | set(_NEIGHBOURS[dominant]) | {dominant})
