"""Low-resolution mask logits to the pixels of the picture: only the pixels that have to be looked at.

SAM's two bilinear resizes (low resolution -> padded square, cut the padding off, -> original size) are both linear and
separable, so pixel (y,x) is a weighted sum of a few neighbouring low-resolution values: two or three per axis. All
pixels that start at the same value of each axis form a *cell*. Weights are positive and sum to one, hence: if all
values of a cell lie above a threshold, so do its pixels; if none does, none of them does. Only the remaining cells,
the band along a mask's outline, are computed pixel by pixel. That answers what everything mode asks about each
candidate (area, stability, box) without a picture-sized tensor, at a cost that grows with the outline, not the area.

Frames: logits (n,h,w) lie in the padded square; results are *original* pixels (of a crop: the crop's).

Source: `Sam.postprocess_masks`, `calculate_stability_score` and `batched_mask_to_box` of segment-anything 1.0;
equal up to the rounding of float32.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sam_hf.masks.packed import PackedMask, cut_columns, pack_columns

# Pixels computed at once: what stays in a CPU's cache, and what keeps a GPU busy.
CPU_PIXELS, GPU_PIXELS = 2**18, 2**25


@dataclass(frozen=True)
class Axis:
    """How one axis of a low-resolution mask becomes one axis of the picture.

    Values are counted with one repeated in front, since half of the first cell lies beyond the middle of value 0.

    Attributes:
        first: (N,) first value that pixel i depends on; it and the next K - 1 are its taps.
        weights: (N,K) weights of the taps, float32.
        cell_first: (U,) first value of each cell, increasing.
        cell_start: (U,) first pixel of each cell.
        cell_count: (U,) pixels of each cell, at most R.
        cell_weights: (U,R*K) weights of the taps of a cell's pixels; NaN where the cell has fewer than R, since NaN
            is above no threshold.
        is_dense: Whether every value begins a cell, in which case `cell_first` is 0, 1, 2, ...
    """

    first: Tensor
    weights: Tensor
    cell_first: Tensor
    cell_start: Tensor
    cell_count: Tensor
    cell_weights: Tensor
    is_dense: bool

    @property
    def taps(self) -> int:
        """K."""
        return self.weights.shape[1]

    @property
    def cell_size(self) -> int:
        """R."""
        return self.cell_weights.shape[1] // self.taps


class Upscaling(NamedTuple):
    """The two axes of one size of picture."""

    vertical: Axis
    horizontal: Axis

    @property
    def size(self) -> tuple[int, int]:
        """(H,W), original pixels."""
        return len(self.vertical.first), len(self.horizontal.first)

    def repeat_edges(self, logits: Tensor) -> Tensor:
        """(n,h,w) -> (n,h+K,w+K): what `Axis.first` counts in."""
        border = (1, self.horizontal.taps - 1, 1, self.vertical.taps - 1)
        return F.pad(logits[:, None], border, mode="replicate")[:, 0]


class MaskStatistics(NamedTuple):
    """What is known of n masks without having drawn them.

    Attributes:
        areas: (n,) pixels above the threshold, int64.
        stability: (n,) IoU of the masks cut at threshold + offset and threshold - offset, float32; 0 where both are
            empty (Meta's is NaN there, which no JSON can hold).
        boxes: (n,4) int64 xyxy of the outermost pixels, both ends inside; zeros for an empty mask.
    """

    areas: Tensor
    stability: Tensor
    boxes: Tensor


def upscaling(
    low_size: Sequence[int],
    padded_size: Sequence[int],
    resized_size: Sequence[int],
    original_size: Sequence[int],
    device: torch.device | str = "cpu",
) -> Upscaling:
    """The way from (h,w) logits to a picture.

    Args:
        low_size: (h,w) of the logits.
        padded_size: (H,W) of the square that the model saw, resized pixels.
        resized_size: (H,W) of the picture's part of it, resized pixels.
        original_size: (H,W), original pixels.
        device: Where the logits will be.

    Raises:
        ValueError: If a size is not positive or the picture does not fit in the square.
    """
    sizes = [tuple(int(side) for side in size) for size in (low_size, padded_size, resized_size, original_size)]
    if any(len(size) != 2 or min(size) < 1 for size in sizes):
        raise ValueError(f"expected four positive (height, width), got {sizes}")
    if any(resized > padded for padded, resized in zip(sizes[1], sizes[2], strict=True)):
        raise ValueError(f"resized_size: expected at most padded_size {sizes[1]}, got {sizes[2]}")
    return Upscaling(*(_axis(*sides, str(device)) for sides in zip(*sizes, strict=True)))


@lru_cache(maxsize=64)
def _axis(low: int, padded: int, resized: int, original: int, device: str) -> Axis:
    with torch.inference_mode(False):  # kept for later calls, whatever mode they run in
        value, value_share = _linear_taps(low, padded)  # what a resized pixel is made of
        pixel, pixel_share = _linear_taps(resized, original)  # what an original pixel is made of
        indices, weights = [], []
        for step, share in ((0, 1 - pixel_share), (1, pixel_share)):
            chosen = (pixel + step).clamp(0, resized - 1)
            indices += [value[chosen], value[chosen] + 1]
            weights += [share * (1 - value_share[chosen]), share * value_share[chosen]]
        index, weight = torch.stack(indices, dim=1) + 1, torch.stack(weights, dim=1)  # (N,4); + 1: the repeated value
        first = index[:, 0]
        index = torch.where(weight > 0, index, first[:, None])  # what weighs nothing needs no tap
        taps = int((index - first[:, None]).max()) + 1
        merged = torch.zeros(original, taps, dtype=torch.float32).scatter_add_(1, index - first[:, None], weight)
        cell_first, cell, count = torch.unique_consecutive(first, return_inverse=True, return_counts=True)
        start = count.cumsum(0) - count
        blocks = torch.full((len(cell_first), int(count.max()), taps), float("nan"), dtype=torch.float32)
        blocks[cell, torch.arange(original) - start[cell]] = merged
        is_dense = torch.equal(cell_first, torch.arange(len(cell_first)))
        tensors = (first, merged, cell_first, start, count, blocks.flatten(1))
        return Axis(*(tensor.to(device) for tensor in tensors), is_dense=is_dense)


def _linear_taps(size_in: int, size_out: int) -> tuple[Tensor, Tensor]:
    """Left neighbour (the right one is the next) and the right one's share, for `interpolate(align_corners=False)`.

    Neighbours -1 and `size_in` stand for the first and the last value. In float32 as PyTorch does it: on large
    pictures exact arithmetic would differ from it by 1e-4 of a pixel.
    """
    scale = torch.tensor(size_in, dtype=torch.float32) / torch.tensor(size_out, dtype=torch.float32)
    position = scale * (torch.arange(size_out, dtype=torch.float32) + 0.5) - 0.5
    left = position.floor().clamp(max=size_in - 1)
    share = torch.where(position < 0, 1.0, (position - left).clamp(max=1))
    return left.long(), share


def mask_statistics(logits: Tensor, way: Upscaling, threshold: float = 0.0, offset: float = 1.0) -> MaskStatistics:
    """Area, stability and box of masks in the pixels of the picture.

    Args:
        logits: (n,h,w) float32.
        way: See `upscaling`.
        threshold: Logits above it belong to the mask.
        offset: The stability's two cuts lie this far above and below.
    """
    counts = logits.new_zeros((3, len(logits)), dtype=torch.int64)  # above threshold - offset, threshold, + offset
    # Left, top and, negated, right and bottom: the smallest of each is wanted.
    ends = logits.new_full((4, len(logits)), max(way.size), dtype=torch.int64)
    for part in _portions(len(logits), logits[:1].numel(), logits.device):
        _count(logits[part], way, (threshold - offset, threshold, threshold + offset), counts[:, part], ends[:, part])
    outer, areas, inner = counts
    boxes = torch.stack([ends[0], ends[1], -ends[2], -ends[3]], dim=-1)
    return MaskStatistics(areas, inner.float() / outer.clamp(min=1), boxes * (areas > 0)[:, None])


def _count(logits: Tensor, way: Upscaling, cuts: tuple[float, float, float], counts: Tensor, ends: Tensor) -> None:
    """Add the pixels above each of three cuts to `counts` (3,n) and move the box `ends` (4,n) outwards."""
    vertical, horizontal = way
    logits = way.repeat_edges(logits)
    above_some = _over_taps(_above(logits, cuts[0]), way, torch.bitwise_or)  # (n,U,V): some tap above the lowest cut
    inside = _over_taps(_above(logits, cuts[2]), way, torch.bitwise_and)  # all taps above the highest
    per_row = inside.float() @ horizontal.cell_count.float()  # (n,U), whole numbers below 2**24
    counts += (per_row.long() * vertical.cell_count).sum(1)
    for axis, filled, place in ((vertical, per_row > 0, 1), (horizontal, inside.any(1), 0)):
        missing = ends[place][:, None]
        last = axis.cell_start + axis.cell_count - 1
        ends[place] = torch.where(filled, axis.cell_start, missing).amin(1)
        ends[place + 2] = torch.where(filled, -last, missing).amin(1)
    for mask, row, column, values in _outlines(logits, above_some & ~inside, way):
        marks = [_above(values, cut).view(torch.uint8) for cut in cuts]  # (R,C,m)
        for count, mark in zip(counts, marks, strict=True):
            count.index_add_(0, mask, mark.sum((0, 1), dtype=torch.int32).long())
        _stretch(ends[1], ends[3], mask, vertical, row, marks[1], 1)
        _stretch(ends[0], ends[2], mask, horizontal, column, marks[1], 0)


def _stretch(near: Tensor, far: Tensor, mask: Tensor, axis: Axis, cell: Tensor, marks: Tensor, across: int) -> None:
    """Move both ends (n) of the boxes along one axis outwards to the marks (R,C,m) of cells."""
    start = axis.cell_start.index_select(0, cell)
    last = start + (axis.cell_count.index_select(0, cell) - 1)
    beyond = _places((start < near.index_select(0, mask)) | (last > -far.index_select(0, mask)))
    mask, start, lines = mask[beyond], start[beyond], marks.index_select(2, beyond).amax(across)  # lines: (R,k)
    size, missing = axis.cell_size, len(axis.first)
    order = torch.arange(1, size + 1, dtype=torch.int32, device=lines.device)[:, None]
    from_front = (lines * order.flip(0)).amax(0)  # R for a mark in line 0, ..., 1 in the last line, 0 for no mark
    from_back = (lines * order).amax(0)
    near.scatter_reduce_(0, mask, torch.where(from_front > 0, start + (size - from_front), missing), "amin")
    far.scatter_reduce_(0, mask, torch.where(from_back > 0, 1 - start - from_back, missing), "amin")


def _over_taps(marks: Tensor, way: Upscaling, join: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Join the marks of all taps of each cell: (n,h+K,w+K) -> (n,U,V)."""
    for dim, axis in ((1, way.vertical), (2, way.horizontal)):
        length = marks.shape[dim] - axis.taps + 1
        joined = marks.narrow(dim, 0, length)
        for tap in range(1, axis.taps):
            joined = join(joined, marks.narrow(dim, tap, length))
        is_dense, cells = axis.is_dense, len(axis.cell_first)
        marks = joined.narrow(dim, 0, cells) if is_dense else joined.index_select(dim, axis.cell_first)
    return marks


def _outlines(logits: Tensor, wanted: Tensor, way: Upscaling) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """The pixels of the wanted cells (n,U,V): in portions of m cells their mask, row and column (m), values (R,C,m).

    The sums run over rows first and taps in order, as in `draw_masks`, so that both round alike.
    """
    vertical, horizontal = way
    flat, (height, width) = logits.flatten(), logits.shape[1:]
    cells = _places(wanted)
    for part in _portions(len(cells), vertical.cell_size * horizontal.cell_size, logits.device):
        line, column = _divide(cells[part], wanted.shape[2])
        mask, row = _divide(line, wanted.shape[1])
        corner = vertical.cell_first.index_select(0, row).add_(mask, alpha=height)
        corner = corner.mul_(width).add_(horizontal.cell_first.index_select(0, column))
        row_weights, column_weights = (
            axis.cell_weights.index_select(0, cell).t().contiguous().unflatten(0, (axis.cell_size, axis.taps))
            for axis, cell in ((vertical, row), (horizontal, column))
        )  # (R,Kh,m) and (C,Kw,m)
        partial = values = None
        for tap in range(vertical.taps):
            places = [corner + (tap * width + other) for other in range(horizontal.taps)]
            taken = torch.stack([flat.index_select(0, place) for place in places])  # (Kw,m)
            term = row_weights[:, tap, None] * taken  # (R,Kw,m)
            partial = term if partial is None else partial.add_(term)
        for tap in range(horizontal.taps):
            term = partial[:, tap, None] * column_weights[None, :, tap]  # (R,C,m)
            values = term if values is None else values.add_(term)
        yield mask, row, column, values


def draw_masks(logits: Tensor, way: Upscaling, box: Sequence[int], threshold: float = 0.0) -> Tensor:
    """The part of masks that lies in a box, column by column.

    Args:
        logits: (n,h,w) float32.
        way: See `upscaling`.
        box: xyxy, the outermost pixels, both ends inside.
        threshold: Logits above it belong to the mask.

    Returns:
        (n,W',H') bool, transposed: a row holds a column of the picture, in the order of run-length encoding.
    """
    left, top, right, bottom = (int(side) for side in box)
    vertical, horizontal = way
    rows, row_weights = vertical.first[top : bottom + 1], vertical.weights[top : bottom + 1]
    columns, column_weights = horizontal.first[left : right + 1], horizontal.weights[left : right + 1]
    begin, end = int(columns[0]), int(columns[-1]) + horizontal.taps
    needed = way.repeat_edges(logits)[:, :, begin:end]  # (n,h+K,w')
    partial = None
    for tap in range(vertical.taps):
        term = needed.index_select(1, rows + tap) * row_weights[:, tap, None]  # (n,H',w')
        partial = term if partial is None else partial.add_(term)
    partial = partial.transpose(1, 2).contiguous()  # (n,w',H')
    drawn = torch.empty((len(logits), len(columns), len(rows)), dtype=torch.bool, device=logits.device)
    for part in _portions(len(columns), len(logits) * len(rows), logits.device):
        values = None
        for tap in range(horizontal.taps):
            term = partial.index_select(1, columns[part] - begin + tap).mul_(column_weights[part, tap, None])
            values = term if values is None else values.add_(term)
        drawn[:, part] = _above(values, threshold)
    return drawn


def pack_masks(
    logits: Tensor, way: Upscaling, boxes: Sequence[Sequence[int]], threshold: float = 0.0, at_once: int | None = None
) -> Iterator[PackedMask]:
    """Draw masks within their boxes, and pack them.

    Args:
        logits: (n,h,w) float32.
        way: See `upscaling`.
        boxes: n times xyxy, from `mask_statistics`.
        threshold: Logits above it belong to the mask.
        at_once: Masks drawn together, in the box around all of theirs; None: one on a CPU, which saves pixels, and
            many on a GPU, which saves round trips.

    Yields:
        n masks of the picture.
    """
    if at_once is None:
        at_once = 1 if logits.device.type == "cpu" else max(1, GPU_PIXELS // (way.size[0] * way.size[1]))
    for start in range(0, len(logits), at_once):
        some = [tuple(int(side) for side in box) for box in boxes[start : start + at_once]]
        left, top = (min(box[side] for box in some) for side in (0, 1))
        right, bottom = (max(box[side] for box in some) for side in (2, 3))
        drawn = pack_columns(draw_masks(logits[start : start + at_once], way, (left, top, right, bottom), threshold))
        for bits, (x1, y1, x2, y2) in zip(drawn, some, strict=True):
            if not bits.any():  # an empty mask has a box, too
                yield PackedMask(bits[:0, :1], 0, 0, 0, way.size)
                continue
            width, height = x2 - x1 + 1, y2 - y1 + 1
            if (width, height) != (right - left + 1, bottom - top + 1):
                bits = cut_columns(bits, x1 - left, y1 - top, width, height)
            yield PackedMask(bits, x1, y1, height, way.size)


def _portions(count: int, pixels_each: int, device: torch.device) -> Iterator[slice]:
    """Slices of `count` things that are worth computing together."""
    step = max(1, (CPU_PIXELS if device.type == "cpu" else GPU_PIXELS) // max(1, pixels_each))
    return (slice(start, start + step) for start in range(0, count, step))


def _above(values: Tensor, cut: float) -> Tensor:
    # On a CPU numpy compares four times as fast as PyTorch 2.15 does, and finds nonzero entries six times as fast.
    return torch.from_numpy(values.numpy() > cut) if values.device.type == "cpu" else values > cut


def _places(marks: Tensor) -> Tensor:
    """Where marks are set, as indices into the flattened tensor."""
    if marks.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(marks.numpy()))
    return marks.flatten().nonzero()[:, 0]


def _divide(values: Tensor, by: int) -> tuple[Tensor, Tensor]:
    quotient = torch.div(values, by, rounding_mode="floor")
    return quotient, values - quotient * by
