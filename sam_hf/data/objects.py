"""Painting one object at a time: a glyph, or a shape with its parts, and noting what was painted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from .canvas import Canvas, Sprite, glyph_sprite, local_coordinates, outline_sprite
from .colors import COLOURS, palette_colour
from .glyph_table import GlyphEntry
from .glyphs import GlyphAtlas
from .scene import Attributes
from .shapes import HELD_OUT_PAIRS, HOSTS, SHAPES, shape_nouns, shape_outline
from .textures import PATTERNS, pattern_field

_DEPTH = 2  # parts, and parts of parts
_NO_RIM = ("ring", "frame", "crescent", "half circle", "cross")
_ROOM = {"triangle": 0.6, "diamond": 0.6, "rectangle": 0.7, "oval": 0.75, "heart": 0.8, "blob": 0.75}


@dataclass(frozen=True, eq=False)
class Painted:
    """One painted object; its index in `ObjectPainter.painted` is its id on the canvas."""

    attributes: Attributes
    kind: str
    parent: int | None
    held_out: bool
    sprite: Sprite
    full_area: int


@dataclass(frozen=True)
class Materials:
    """What all scenes of a generator are painted with.

    Attributes:
        split: "train" or "test".
        atlas: The glyphs, or None for shapes only.
        seen, held_out: Glyphs that both splits show, and those that only "test" shows.
        grain: (G,G) float32 fractal noise in 0..1 from which textures are cut; G > size of the picture.
    """

    split: str
    atlas: GlyphAtlas | None
    seen: Sequence[GlyphEntry]
    held_out: Sequence[GlyphEntry]
    grain: np.ndarray


def placement(rng: np.random.Generator, centre: np.ndarray, radius: float, shear: float, upright: bool) -> np.ndarray:
    """A (2,3) matrix from the frame [-1,1]^2 to pixels: flip, shear, stretch, turn, scale, move."""
    turn = (rng.random() - 0.5) * 1.2 if upright else rng.random() * 6.2832
    c, s = np.cos(turn), np.sin(turn)
    flip = -1.0 if rng.random() < 0.5 else 1.0
    slant, stretch = (rng.random(2) - 0.5) * 2 * shear
    local = np.array(((flip * (1 + stretch / 2), slant), (0.0, 1 - stretch / 2)))
    return np.concatenate((radius * np.array(((c, -s), (s, c))) @ local, np.reshape(centre, (2, 1))), 1)


class ObjectPainter:
    """Paints objects onto a canvas and keeps the list of them.

    Args:
        canvas: Where to paint.
        rng: The scene's generator.
        materials: Glyphs and textures.
    """

    def __init__(self, canvas: Canvas, rng: np.random.Generator, materials: Materials):
        self.canvas, self.rng, self.materials = canvas, rng, materials
        self.painted: list[Painted] = []

    def glyph(self, centre: np.ndarray, radius: float, host: int | None = None) -> None:
        """Paint a random emoji, as a whole or on a host."""
        rng, m = self.rng, self.materials
        held_out = m.split == "test" and rng.random() < 0.5
        entries = m.held_out if held_out else m.seen
        glyph = m.atlas(entries[int(rng.random() * len(entries))])
        matrix = placement(rng, centre, radius, 0.15, upright=rng.random() < 0.75)
        sprite = glyph_sprite(glyph.levels, matrix, len(self.canvas.image))
        if sprite is not None:
            self._add(sprite, glyph.attributes, "emoji", held_out, host, bleed=True)

    def shape(self, centre: np.ndarray, radius: float, host: int | None = None, depth: int = 0) -> None:
        """Paint a random shape, and with some luck parts on it."""
        rng = self.rng
        held_out = self.materials.split == "test" and rng.random() < 0.5
        wants_parts = (
            depth < _DEPTH and rng.random() < (0.65 if depth == 0 else 0.6) and radius > 0.09 * len(self.canvas.image)
        )
        avoid = self.painted[host].attributes.possible_colours if host is not None else frozenset()
        name, colour = self._pair(held_out, HOSTS if wants_parts else SHAPES, avoid)
        matrix = placement(rng, centre, radius, 0.08, upright=rng.random() < 0.5)
        contours = shape_outline(rng, name)
        sprite = outline_sprite(contours, matrix, len(self.canvas.image))
        if sprite is None:
            return
        sprite, attributes = self._fill(sprite, matrix, name, colour)
        if name not in _NO_RIM and rng.random() < 0.2:
            sprite, attributes = self._rim(sprite, attributes, contours, matrix)
        index = self._add(sprite, attributes, "shape", held_out, host, bleed=False)
        if wants_parts and index is not None:
            self._parts(index, matrix, _ROOM.get(name, 0.9), depth)

    def _parts(self, host: int, matrix: np.ndarray, room: float, depth: int) -> None:
        rng = self.rng
        count = 1 + int(rng.random() ** 1.5 * 3)
        start, spread = rng.random() * 6.2832, (0.0 if count == 1 else 0.42) * room
        unit = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
        for k in range(count):
            angle = start + k * 6.2832 / count
            local = np.array((np.cos(angle), np.sin(angle))) * spread + (rng.random(2) - 0.5) * 0.2 * room
            centre = matrix[:, :2] @ local + matrix[:, 2]
            radius = unit * room * (0.3 + (0.4 if count == 1 else 0.14) * rng.random())
            if self.materials.atlas is not None and rng.random() < 0.2:
                self.glyph(centre, radius, host)
            else:
                self.shape(centre, radius, host, depth + 1)

    def _pair(self, held_out: bool, names: Sequence[str], avoid: frozenset[str]) -> tuple[str, str]:
        """A shape and a colour, from the held-out pairs or from the others; not the host's colours if that can be."""
        rng = self.rng
        for attempt in range(1000):
            name, colour = names[int(rng.random() * len(names))], COLOURS[int(rng.random() * len(COLOURS))]
            if ((colour, name) in HELD_OUT_PAIRS) == held_out and (colour not in avoid or attempt > 100):
                return name, colour
        raise RuntimeError(f"no (colour, shape) pair with held_out={held_out} among {names}")

    def _fill(self, sprite: Sprite, matrix: np.ndarray, name: str, colour: str) -> tuple[Sprite, Attributes]:
        rng = self.rng
        nouns, possible = shape_nouns(name)
        base = palette_colour(rng, colour)
        pattern = second = None
        pick = rng.random()
        if pick < 0.35:
            paint = np.broadcast_to(base, (*sprite.alpha.shape, 3)).astype(np.float32)
        elif pick < 0.53:
            u, v = local_coordinates(matrix, sprite)
            paint = base * (1 + 0.35 * (rng.random() + 0.3) * u)[..., None] + (12 * v)[..., None]
        elif pick < 0.72:
            paint = base * (0.7 + 0.6 * self._grain(sprite.alpha.shape))[..., None]
        else:
            pattern = PATTERNS[int(rng.random() * len(PATTERNS))]
            others = [
                c
                for c in COLOURS
                if c != colour and (self.materials.split == "test" or (c, name) not in HELD_OUT_PAIRS)
            ]
            second = others[int(rng.random() * len(others))]
            u, v = local_coordinates(matrix, sprite)
            paint = base + (palette_colour(rng, second) - base) * pattern_field(rng, pattern, u, v)[..., None]
        colours = frozenset((colour, second)) if second else frozenset((colour,))
        attributes = Attributes(nouns, possible, colour, colours, pattern, second)
        return replace(sprite, colour=paint), attributes

    def _rim(
        self, sprite: Sprite, attributes: Attributes, contours: list, matrix: np.ndarray
    ) -> tuple[Sprite, Attributes]:
        rng = self.rng
        inner = outline_sprite([c * (0.8 + 0.12 * rng.random()) for c in contours], matrix, len(self.canvas.image))
        if inner is None:
            return sprite, attributes
        cover = np.zeros_like(sprite.alpha)
        y, x = inner.y - sprite.y, inner.x - sprite.x
        cover[y : y + inner.alpha.shape[0], x : x + inner.alpha.shape[1]] = inner.alpha
        name = ("black", "white", "gray")[int(rng.random() * 3)]
        rim = palette_colour(rng, name)
        attributes = replace(attributes, possible_colours=attributes.possible_colours | {name})
        return replace(sprite, colour=rim + (sprite.colour - rim) * cover[..., None]), attributes

    def _grain(self, shape: tuple[int, int]) -> np.ndarray:
        grain, (h, w) = self.materials.grain, shape
        y, x = int(self.rng.random() * (len(grain) - h)), int(self.rng.random() * (len(grain) - w))
        return grain[y : y + h, x : x + w]

    def _add(
        self, sprite: Sprite, attributes: Attributes, kind: str, held_out: bool, host: int | None, bleed: bool
    ) -> int | None:
        """Vary, blend and paste a finished sprite; returns its id."""
        rng, canvas = self.rng, self.canvas
        scale = len(canvas.image) / 128
        if host is not None:
            kind, sprite = "part", _clipped(sprite, self.painted[host].sprite)
        if not (sprite.alpha > 0.5).any():
            return None
        if host is None and rng.random() < 0.3:
            shift = (rng.random(2) * 2 - 1) * 5 * scale
            canvas.shadow(
                sprite, int(shift[0]), int(abs(shift[1])), (1 + 2 * rng.random()) * scale, 0.25 + 0.4 * rng.random()
            )
        colour = sprite.colour
        if rng.random() < 0.4:
            colour = (colour - 128) * np.float32(0.8 + 0.3 * rng.random()) + np.float32(
                128 + (rng.random() - 0.5) * 40
            )
        if bleed and rng.random() < 0.25:
            colour = colour * (0.75 + 0.5 * self._grain(sprite.alpha.shape))[..., None]
        if host is None and rng.random() < 0.08:  # camouflage: then no colour word may be trusted
            around = canvas.image[sprite.window].mean((0, 1))
            colour = colour + (around - colour) * np.float32(0.3 + 0.3 * rng.random())
            attributes = replace(attributes, colour=None, possible_colours=frozenset(COLOURS), second_colour=None)
        sprite = replace(sprite, colour=np.clip(colour, 0, 255))
        sprite, blend = _edge(rng, sprite, scale, bleed)
        index = len(self.painted)
        area = canvas.paste(sprite, index, blend)
        self.painted.append(Painted(attributes, kind, host, held_out, sprite, area))
        return index


def _clipped(sprite: Sprite, host: Sprite) -> Sprite:
    """A sprite cut to the silhouette of its host."""
    alpha = np.zeros_like(sprite.alpha)
    y0, x0 = max(sprite.y, host.y), max(sprite.x, host.x)
    y1 = min(sprite.y + alpha.shape[0], host.y + host.alpha.shape[0])
    x1 = min(sprite.x + alpha.shape[1], host.x + host.alpha.shape[1])
    if y1 > y0 and x1 > x0:
        mine = (slice(y0 - sprite.y, y1 - sprite.y), slice(x0 - sprite.x, x1 - sprite.x))
        theirs = (slice(y0 - host.y, y1 - host.y), slice(x0 - host.x, x1 - host.x))
        alpha[mine] = np.minimum(sprite.alpha[mine], host.alpha[theirs])
    return replace(sprite, alpha=alpha)


def _edge(rng: np.random.Generator, sprite: Sprite, scale: float, bleed: bool) -> tuple[Sprite, np.ndarray]:
    """Choose how the edge blends, so that no single look of an edge gives the object away."""
    pick = rng.random()
    if pick < 0.4:
        return sprite, sprite.alpha
    if pick < 0.55:
        return sprite, (sprite.alpha > 0.5).astype(np.float32)
    if pick < 0.65:
        return sprite, sprite.alpha * np.float32(0.78 + 0.2 * rng.random())
    sigma = (0.4 + 1.1 * rng.random()) * max(scale, 0.5)
    soft = cv2.GaussianBlur(sprite.alpha, (0, 0), sigma)
    if bleed:  # a warped glyph has no colour outside its edge, so let it run over
        spread = (
            cv2.GaussianBlur(sprite.colour * sprite.alpha[..., None], (0, 0), sigma)
            / np.maximum(soft, 1e-3)[..., None]
        )
        sprite = replace(
            sprite, colour=np.where(sprite.alpha[..., None] > 0.98, sprite.colour, np.minimum(spread, 255))
        )
    return sprite, soft
