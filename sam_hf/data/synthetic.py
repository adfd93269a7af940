"""Synthetic scenes with masks and phrases, made on the fly.

Emoji glyphs and procedural shapes with nested parts lie over varied textures and cover each other. A scene is a pure
function of (size, split, seed, index), so that any worker of any process can make any scene.

Source: composition after Cut-Paste-Learn (arXiv 1708.01642: several ways to blend, so that an edge is not a cue) and
dead leaves; held-out attribute pairs after CLEVR-CoGenT. Differs in drawing its objects itself: no photographs.
"""

from __future__ import annotations

import os

import cv2
import numpy as np

from .canvas import Canvas, glyph_sprite
from .colors import COLOURS
from .glyph_table import glyph_entries
from .glyphs import GlyphAtlas, find_emoji_font
from .objects import Materials, ObjectPainter, Painted, placement
from .photometry import expose, light
from .phrases import Thing, absent_claims, describe, vocabulary
from .scene import Attributes, Scene, SceneObject
from .shapes import HELD_OUT_PAIRS
from .textures import background, fractal_noise

__all__ = ["HELD_OUT_GLYPHS", "HELD_OUT_PAIRS", "Attributes", "Scene", "SceneGenerator", "SceneObject", "vocabulary"]

SPLITS = ("train", "test")
HELD_OUT_GLYPHS: tuple[str, ...] = tuple(dict.fromkeys(e.nouns[0] for e in glyph_entries() if e.held_out))
"""Nouns of the glyphs that only the test split shows."""

SMALLEST_SHARE, LARGEST_SHARE = 0.09, 0.6  # an object's longer side, as a share of the picture's
MINIMUM_IMAGE_SHARE = 0.003
MINIMUM_VISIBLE_SHARE = 0.35
_GLYPH_SHARE = 0.58
_CLUTTER_SHARE = 0.14
_LEAVES = Attributes(("blob",), frozenset({"blob", "shape"}), None, frozenset(COLOURS))


class SceneGenerator:
    """Makes scenes by index.

    Args:
        size: Side of the square picture in pixels.
        split: "train", or "test", where about half of the objects have a held-out glyph or (colour, shape) pair.
        seed: Another seed gives other scenes.
        font: Path of the colour-emoji font; None looks for it (see `find_emoji_font`); False draws shapes only.
        absent: How many phrases of absent things a scene comes with; None: two to four.

    Raises:
        ValueError: If `size` < 32, `split` is unknown, or `seed` or `absent` is negative.
        FileNotFoundError: If there is no emoji font and `font` is not False.
    """

    def __init__(
        self,
        size: int = 128,
        split: str = "train",
        seed: int = 0,
        font: str | os.PathLike | bool | None = None,
        absent: int | None = None,
    ):
        if size < 32:
            raise ValueError(f"size: expected at least 32 pixels, got {size}")
        if split not in SPLITS:
            raise ValueError(f"split: expected 'train' or 'test', got {split!r}")
        if seed < 0:
            raise ValueError(f"seed: expected a non-negative integer, got {seed}")
        if font is True:
            raise ValueError("font: expected a path, None (look for the font) or False (shapes only), got True")
        if absent is not None and absent < 0:
            raise ValueError(f"absent: expected a non-negative integer or None, got {absent}")
        self.size, self.split, self.seed, self.absent = size, split, seed, absent
        atlas = None if font is False else GlyphAtlas(find_emoji_font(font))
        entries = glyph_entries()
        fixed = np.random.default_rng(0)  # grain and noise are material, the same for every generator of this size
        self._materials = Materials(
            split=split,
            atlas=atlas,
            seen=tuple(e for e in entries if not e.held_out),
            held_out=tuple(e for e in entries if e.held_out),
            grain=fractal_noise(fixed, 2 * size, 1, 0.75),
        )
        self._noise = fixed.standard_normal((2 * size, 2 * size, 3), dtype=np.float32)

    def __call__(self, index: int) -> Scene:
        """The scene of an index.

        Raises:
            ValueError: If `index` is negative.
        """
        if index < 0:
            raise ValueError(f"index: expected a non-negative integer, got {index}")
        rng = np.random.default_rng((self.seed, self.size, SPLITS.index(self.split), int(index)))
        texture, leafy = background(rng, self.size)
        canvas = Canvas(texture)
        clutter = self._clutter(canvas, rng)
        if leafy:
            clutter.append(Thing(_LEAVES, 0.0, 0.0, (0, 0, self.size, self.size)))
        painter = ObjectPainter(canvas, rng, self._materials)
        for centre, radius in _layout(rng, self.size):
            if self._materials.atlas is not None and rng.random() < _GLYPH_SHARE:
                painter.glyph(centre, radius)
            else:
                painter.shape(centre, radius)
        light(rng, canvas.image)
        image = expose(rng, canvas.image, self._noise)
        return self._label(rng, image, canvas.owner, painter.painted, clutter)

    def _clutter(self, canvas: Canvas, rng: np.random.Generator) -> list[Thing]:
        """Sometimes a faint, blurred wallpaper of glyphs, never labelled."""
        if self._materials.atlas is None or rng.random() >= _CLUTTER_SHARE:
            return []
        entries, size = self._materials.seen, self.size
        glyphs = [
            self._materials.atlas(entries[int(rng.random() * len(entries))]) for _ in range(1 + int(rng.random() * 3))
        ]
        strength = 0.2 + 0.3 * rng.random()
        for _ in range(8 + int(rng.random() * 12)):
            glyph = glyphs[int(rng.random() * len(glyphs))]
            matrix = placement(rng, rng.random(2) * size, size * (0.04 + 0.08 * rng.random()), 0.1, upright=False)
            sprite = glyph_sprite(glyph.levels, matrix, size)
            if sprite is not None:
                canvas.paste(sprite, -1, sprite.alpha * np.float32(strength))
        canvas.image[:] = cv2.GaussianBlur(canvas.image, (0, 0), (0.8 + 1.5 * rng.random()) * size / 128)
        return [Thing(glyph.attributes, 0.0, 0.0, (0, 0, size, size)) for glyph in glyphs]

    def _label(
        self,
        rng: np.random.Generator,
        image: np.ndarray,
        owner: np.ndarray,
        painted: list[Painted],
        clutter: list[Thing],
    ) -> Scene:
        masks = [owner == k for k in range(len(painted))]
        for k in range(len(painted) - 1, -1, -1):
            if painted[k].parent is not None:
                masks[painted[k].parent] |= masks[k]
        areas = [int(np.count_nonzero(mask)) for mask in masks]
        things = [
            Thing(p.attributes, area, p.full_area, _box(p), p.parent, p.held_out)
            for p, area in zip(painted, areas, strict=True)
        ]
        things += clutter
        kept: dict[int, int] = {}
        objects: list[SceneObject] = []
        for k, p in enumerate(painted):
            if areas[k] < MINIMUM_IMAGE_SHARE * owner.size or areas[k] < MINIMUM_VISIBLE_SHARE * p.full_area:
                continue
            parent = p.parent
            while parent is not None and parent not in kept:
                parent = painted[parent].parent
            kept[k] = len(objects)
            phrases = describe(things, k, rng)
            objects.append(
                SceneObject(
                    masks[k], phrases, p.kind, None if parent is None else kept[parent], p.held_out, p.attributes
                )
            )
        absent = absent_claims(things, self.split, self._materials.atlas is not None, rng, self.absent)
        return Scene(image, objects, absent)


def _box(painted: Painted) -> tuple[float, float, float, float]:
    rows, columns = painted.sprite.window
    return columns.start, rows.start, columns.stop, rows.stop


def _layout(rng: np.random.Generator, size: int) -> list[tuple[np.ndarray, float]]:
    """Centres and radii of 2 to 7 objects, spread out a little, mostly the large ones first."""
    count = 2 + int(rng.random() * 6)
    shares = SMALLEST_SHARE * (LARGEST_SHARE / SMALLEST_SHARE) ** rng.random(count)
    if rng.random() < 0.75:
        shares = np.sort(shares)[::-1]
    places: list[tuple[np.ndarray, float]] = []
    for share in shares:
        radius = share * size / 2
        candidates = radius * 0.7 + rng.random((4, 2)) * (size - 1.4 * radius)
        gaps = [
            min((float(np.hypot(*(c - other))) - radius - r for other, r in places), default=0.0) for c in candidates
        ]
        choice = int(np.argmax(gaps)) if rng.random() < 0.75 else 0
        places.append((candidates[choice], radius))
    return places
