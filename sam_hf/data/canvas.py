"""Drawing with ownership: every pixel of the picture knows which object it shows."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True, eq=False)
class Sprite:
    """A patch to be drawn.

    Attributes:
        colour: (h,w,3) float32 in 0..255, not multiplied by alpha; only meaningful where `alpha` > 0.
        alpha: (h,w) float32 coverage in 0..1.
        x, y: Where its upper left pixel lies, in pixels of the picture; the patch lies inside it.
    """

    colour: np.ndarray
    alpha: np.ndarray
    x: int
    y: int

    @property
    def window(self) -> tuple[slice, slice]:
        """The rows and columns of the picture that it covers."""
        h, w = self.alpha.shape
        return slice(self.y, self.y + h), slice(self.x, self.x + w)


def window_of(corners: np.ndarray, size: int, margin: int = 2) -> tuple[int, int, int, int] | None:
    """The whole pixels around some corners, clipped to the picture: x0, y0, x1, y1, or None outside of it."""
    x0, y0 = np.maximum(np.floor(corners.min(0)).astype(int) - margin, 0)
    x1, y1 = np.minimum(np.ceil(corners.max(0)).astype(int) + margin, size)
    return (int(x0), int(y0), int(x1), int(y1)) if x1 - x0 > 2 and y1 - y0 > 2 else None


def glyph_sprite(levels: tuple[np.ndarray, ...], matrix: np.ndarray, size: int) -> Sprite | None:
    """Warp a glyph.

    Args:
        levels: Premultiplied RGBA, each half the size of the one before.
        matrix: (2,3) from the glyph's frame ([-1,1] along its longer side) to the picture.
        size: Side of the picture.
    """
    extent = 2 * np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    level = next((image for image in reversed(levels) if max(image.shape[:2]) >= extent), levels[0])
    h, w = level.shape[:2]
    unit = 2 / max(h, w)
    to_unit = np.array([(unit, 0, -unit * (w - 1) / 2), (0, unit, -unit * (h - 1) / 2), (0, 0, 1)])
    warp = matrix @ to_unit
    corners = np.array([(0, 0, 1), (w, 0, 1), (0, h, 1), (w, h, 1)]) @ warp.T
    window = window_of(corners, size, 1)
    if window is None:
        return None
    x0, y0, x1, y1 = window
    warp[:, 2] -= (x0, y0)
    patch = cv2.warpAffine(level, warp, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR).astype(np.float32)
    alpha = patch[..., 3] / 255
    colour = np.minimum(patch[..., :3] / np.maximum(alpha, 1 / 255)[..., None], 255)
    return Sprite(colour, alpha, x0, y0)


def outline_sprite(contours: list[np.ndarray], matrix: np.ndarray, size: int) -> Sprite | None:
    """Rasterise closed contours, antialiased, in black; see `glyph_sprite` for `matrix`."""
    placed = [contour @ matrix[:, :2].T + matrix[:, 2] for contour in contours]
    window = window_of(placed[0], size)
    if window is None:
        return None
    x0, y0, x1, y1 = window
    cover = np.zeros((y1 - y0, x1 - x0), np.uint8)
    fixed = [np.round((points - (x0, y0)) * 16).astype(np.int32) for points in placed]
    cv2.fillPoly(cover, fixed, 255, lineType=cv2.LINE_AA, shift=4)
    return Sprite(np.zeros((*cover.shape, 3), np.float32), cover.astype(np.float32) / 255, x0, y0)


def local_coordinates(matrix: np.ndarray, sprite: Sprite) -> tuple[np.ndarray, np.ndarray]:
    """The object's own coordinates u, v ([-1,1]) of each pixel of a sprite, both (h,w)."""
    inverse = cv2.invertAffineTransform(matrix.astype(np.float64))
    h, w = sprite.alpha.shape
    x = np.arange(sprite.x, sprite.x + w, dtype=np.float32)[None]
    y = np.arange(sprite.y, sprite.y + h, dtype=np.float32)[:, None]
    (a, b, c), (d, e, f) = inverse.astype(np.float32)
    return a * x + b * y + c, d * x + e * y + f


class Canvas:
    """A picture under construction.

    Attributes:
        image: (S,S,3) float32 in 0..255.
        owner: (S,S) int16, the id of the object that shows there, -1 for background.
    """

    def __init__(self, image: np.ndarray):
        self.image = image
        self.owner = np.full(image.shape[:2], -1, np.int16)

    def shadow(self, sprite: Sprite, dx: int, dy: int, sigma: float, strength: float) -> None:
        """Darken what lies beside and under a sprite."""
        size, pad = len(self.image), int(3 * sigma) + 1
        h, w = sprite.alpha.shape
        soft = cv2.GaussianBlur(
            cv2.copyMakeBorder(sprite.alpha, pad, pad, pad, pad, cv2.BORDER_CONSTANT), (0, 0), sigma
        )
        x, y = sprite.x + dx - pad, sprite.y + dy - pad
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w + 2 * pad, size), min(y + h + 2 * pad, size)
        if x1 > x0 and y1 > y0:
            self.image[y0:y1, x0:x1] *= 1 - strength * soft[y0 - y : y1 - y, x0 - x : x1 - x, None]

    def paste(self, sprite: Sprite, owner: int, blend: np.ndarray) -> int:
        """Draw a sprite over what is there.

        Args:
            sprite: What to draw; pixels with `sprite.alpha` > 0.5 become the owner's.
            owner: Id of the object.
            blend: (h,w) the coverage to mix colours with, a softened or hardened `sprite.alpha`.

        Returns:
            The number of pixels that became the owner's.
        """
        under = self.image[sprite.window]
        under += (sprite.colour - under) * blend[..., None]
        inside = sprite.alpha > 0.5
        self.owner[sprite.window][inside] = owner
        return int(inside.sum())
