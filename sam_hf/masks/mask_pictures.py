"""Masks as picture files: one per mask, one with the numbers of all, and what they show, transparent around it."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image

from sam_hf.masks.drawing import cut_out, index_map
from sam_hf.masks.labeled_mask import LabeledMask, check_sizes

__all__ = ["cut_out", "encode_png", "index_picture", "index_png", "mask_png"]

DEEPEST_PALETTE, DEEPEST = 255, 65535


def encode_png(picture: np.ndarray | Image.Image) -> bytes:
    """A picture as the content of a PNG file."""
    buffer = BytesIO()
    (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(buffer, format="PNG")
    return buffer.getvalue()


def mask_png(mask: np.ndarray, bits: int = 8) -> bytes:
    """A mask (H,W) as a PNG, white inside and black outside.

    Args:
        mask: Booleans.
        bits: Per pixel; 8, which every program reads, or 1.

    Raises:
        ValueError: If `bits` is neither.
    """
    if bits not in (1, 8):
        raise ValueError(f"bits: expected 1 or 8, got {bits}")
    picture = Image.fromarray(np.asarray(mask, dtype=bool) * np.uint8(255))
    return encode_png(picture.convert("1") if bits == 1 else picture)


def index_png(masks: Sequence[LabeledMask], size: Sequence[int]) -> bytes:
    """A PNG with the number of the topmost mask at each pixel, from 1; 0 where there is none.

    Args:
        masks: A later one lies on top.
        size: (H,W) of the picture.

    Raises:
        ValueError: If a mask has another size, or there are more than 65535.
    """
    size = check_sizes(masks, size)
    index = index_map((one.mask for one in masks), size)
    return encode_png(index_picture(index, np.array([one.rgb for one in masks], dtype=np.uint8).reshape(-1, 3)))


def index_picture(index: np.ndarray, colors: np.ndarray) -> Image.Image:
    """An index map as a picture: 8 bits with a palette, so that it can be looked at; 16 bits beyond 255 masks.

    Args:
        index: (H,W), see `drawing.index_map`.
        colors: (n,3) uint8, per mask.

    Raises:
        ValueError: If there are more than 65535 masks.
    """
    if len(colors) > DEEPEST:
        raise ValueError(f"an index picture holds at most {DEEPEST} masks, got {len(colors)}")
    if len(colors) > DEEPEST_PALETTE:
        return Image.fromarray(index.astype(np.uint16))
    picture = Image.fromarray(index.astype(np.uint8)).convert("L")
    picture.putpalette([0, 0, 0, *colors.flatten().tolist()])
    return picture
