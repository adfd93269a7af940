"""COCO run-length encoding of masks, through pycocotools.

A mask is a boolean array (H,W); its RLE is `{"size": [H, W], "counts": str}`, the compressed COCO form that SA-1B's
records use, with `counts` as text so that it goes into JSON as it is.

Source: SA-1B's record layout (paper §5, data set card).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from sam_hf.masks.packed import PackedMask


def encode(mask: np.ndarray) -> dict[str, Any]:
    """Encodes one mask.

    Args:
        mask: (H,W) booleans, or any numbers of which the nonzero ones are inside.

    Returns:
        `{"size": [H, W], "counts": str}`.

    Raises:
        ValueError: If `mask` is not two-dimensional.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"mask must have shape (H, W), got {mask.shape}")
    # pycocotools reads column-major bytes and returns silent nonsense for any other layout.
    encoded = coco_mask.encode(np.asfortranarray(mask != 0, dtype=np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def decode(rle: Mapping[str, Any]) -> np.ndarray:
    """Decodes one mask.

    Args:
        rle: `size` (H,W) and `counts`: compressed text or bytes, or the uncompressed list of run lengths that
            transformers' mask-generation pipeline returns.

    Returns:
        (H,W) booleans.

    Raises:
        ValueError: If a key is missing or the runs do not fill the mask.
    """
    return coco_mask.decode(_compressed(rle)).astype(bool)


def encode_packed(mask: PackedMask, compress: bool = True) -> dict[str, Any]:
    """Encodes one packed mask, looking at its box only; the same RLE, bit for bit, as `encode` of the whole mask.

    Args:
        mask: The mask.
        compress: COCO's compressed text; otherwise the list of run lengths, column by column, outside first.

    Returns:
        `{"size": [H, W], "counts": str}` or `{"size": [H, W], "counts": list[int]}`.
    """
    size, runs = list(mask.size), mask.run_lengths()
    if not compress:
        return {"size": size, "counts": runs}
    encoded = coco_mask.frPyObjects({"size": size, "counts": runs}, *size)
    return {"size": size, "counts": encoded["counts"].decode("ascii")}


def area(rle: Mapping[str, Any]) -> int:
    """Pixels inside an encoded mask, without decoding it (accepts what `decode` accepts)."""
    return int(coco_mask.area(_compressed(rle)))


def _compressed(rle: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(rle, Mapping) or "size" not in rle or "counts" not in rle:
        raise ValueError(f"rle must be a mapping with the keys 'size' and 'counts', got {rle!r:.80}")
    height, width = (int(side) for side in rle["size"])
    counts = rle["counts"]
    if isinstance(counts, str | bytes):
        return {"size": [height, width], "counts": counts.encode("ascii") if isinstance(counts, str) else counts}
    runs = [int(run) for run in counts]
    # pycocotools writes past the end of its buffer when the runs are too long, so they are counted here.
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        raise ValueError(f"rle['counts'] sums to {sum(runs)}, expected {height} * {width} = {height * width}")
    return coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)
