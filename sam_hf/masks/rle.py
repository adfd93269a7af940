"""COCO run-length encoding of masks, through pycocotools.

A mask is a boolean array (H,W); its RLE is `{"size": [H, W], "counts": str}`, the compressed COCO form that SA-1B's
records use, with `counts` as text so that it goes into JSON as it is.

Source: SA-1B's record layout (paper §5, data set card).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from sam_hf.masks.packed import PackedMask

MOST_PIXELS = 50_000_000  # of a mask that a stranger gives


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
    return coco_mask.decode(_compressed(rle)).view(bool)  # 0 and 1, and no copy


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


def run_count(rle: Mapping[str, Any]) -> int:
    """How many runs an encoded mask of the form that `checked` gives has; what its outlines cost goes with that."""
    ends = np.frombuffer(rle["counts"].encode("ascii"), dtype=np.uint8) - 48
    return int(np.count_nonzero(~ends & 32))


def box_pixels(rle: Mapping[str, Any]) -> int:
    """Pixels of the smallest box around an encoded mask, without decoding it (accepts what `decode` accepts)."""
    _, _, width, height = coco_mask.toBbox(_compressed(rle))
    return int(width * height)


def checked(rle: Any, size: Sequence[int] | None = None) -> dict[str, Any]:
    """An RLE that came from a stranger, in the form that `encode` gives; nothing of the mask is unpacked.

    pycocotools reads beyond the end of a text that is cut short, and trusts sizes: so look here before `decode`.

    Args:
        rle: Whatever came.
        size: (H,W) that it must have; None: any up to `MOST_PIXELS`.

    Returns:
        `{"size": [H, W], "counts": str}`.

    Raises:
        ValueError: It is no RLE, of another size, or its runs do not fill the mask.
    """
    if not isinstance(rle, Mapping) or "size" not in rle or "counts" not in rle:
        raise ValueError(f"expected an RLE with size and counts, got {type(rle).__name__}")
    sides, counts = rle["size"], rle["counts"]
    if not isinstance(sides, list | tuple) or len(sides) != 2 or not all(_is_whole(side, 1) for side in sides):
        raise ValueError("size: expected [height, width] of at least 1 pixel")
    height, width = sides
    if size is not None and (height, width) != tuple(size):
        raise ValueError(f"size: expected {list(size)} (height, width), got {[height, width]!r:.60}")
    if height * width > MOST_PIXELS:
        raise ValueError(f"size: expected at most {MOST_PIXELS:,} pixels, got {height:,} x {width:,}")
    if isinstance(counts, str):
        runs = _runs(counts)
    elif isinstance(counts, list | tuple) and all(_is_whole(run, 0) and run <= MOST_PIXELS for run in counts):
        runs = np.array(counts, dtype=np.int64)
    else:
        raise ValueError("counts: expected COCO's compressed text, or a list of whole run lengths")
    if len(runs) and (runs.min() < 0 or runs.max() > MOST_PIXELS):
        raise ValueError("counts: holds a run of impossible length")
    if runs.sum() != height * width:
        raise ValueError(f"counts: the runs hold {runs.sum():,} pixels, expected {height} * {width}")
    if isinstance(counts, str):
        return {"size": [height, width], "counts": counts}
    encoded = coco_mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    return {"size": [height, width], "counts": encoded["counts"].decode("ascii")}


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _runs(counts: str) -> np.ndarray:
    """Run lengths of COCO's compressed text; may be negative where the text is wrong.

    Each number is a group of characters from "0" on, 5 bits each, least first, a sixth says that more follow, the
    last one's fifth is the sign. From the fourth on it is the difference to the number two before.

    Source: `rleFrString` of pycocotools.
    """
    try:
        values = np.frombuffer(counts.encode("ascii"), dtype=np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        values = np.array([-1])
    if len(values) and (values.min() < 0 or values.max() > 63 or values[-1] & 32):
        raise ValueError("counts: not COCO's compressed text, or cut short")
    ends = np.flatnonzero(~values & 32)
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    lengths = ends - starts + 1
    if len(lengths) and lengths.max() > 6:  # 30 bits: more than any mask has pixels
        raise ValueError("counts: holds a run of impossible length")
    shifts = 5 * (np.arange(len(values)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((values & 31) << shifts, starts) if len(starts) else values
    runs = runs - np.where(values[ends] & 16, np.int64(1) << (5 * lengths), 0)
    for first in (1, 2):
        runs[first::2] = np.cumsum(runs[first::2])
    return runs


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
