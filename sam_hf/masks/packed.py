"""A mask as bits of its box: a hundred masks of a photo in a few megabytes, cheap to measure, cut and encode.

The bits stand column by column, as run-length encoding wants them, so that the runs come out of eight pixels at a time
and already in order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sam_hf.masks.boxes import mask_to_xyxy

_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class PackedMask:
    """One mask of a picture.

    Attributes:
        bits: (w, h // 8 + 1) uint8: pixels of each column of the box, first one in the highest bit; what is beyond the
            box is 0, and there is always at least one such bit.
        left: First column of the box, original pixels.
        top: First row of the box.
        height: Rows of the box, h.
        size: (H,W) of the picture.
    """

    bits: np.ndarray
    left: int
    top: int
    height: int
    size: tuple[int, int]

    @classmethod
    def from_array(
        cls, part: np.ndarray, left: int = 0, top: int = 0, size: Sequence[int] | None = None
    ) -> "PackedMask":
        """Pack a mask, or a part of one that holds all of it, within the smallest box.

        Args:
            part: (h,w) booleans.
            left: Column of the picture where the part begins.
            top: Row of the picture where the part begins.
            size: (H,W) of the picture; None: that of the part.

        Raises:
            ValueError: If the part is not two-dimensional or does not lie within the picture.
        """
        part = np.asarray(part)
        if part.ndim != 2:
            raise ValueError(f"part must have shape (h, w), got {part.shape}")
        height, width = (int(side) for side in (part.shape if size is None else size))
        if left < 0 or top < 0 or top + part.shape[0] > height or left + part.shape[1] > width:
            raise ValueError(f"part {part.shape} at left {left}, top {top} does not fit in the size {(height, width)}")
        x1, y1, x2, y2 = mask_to_xyxy(part).tolist()
        columns = np.ascontiguousarray(part[y1:y2, x1:x2].T)
        bits = pack_columns(torch.from_numpy(columns != 0)[None])[0]
        return cls(bits, left + x1, top + y1, y2 - y1, (height, width))

    @property
    def width(self) -> int:
        """Columns of the box."""
        return len(self.bits)

    @property
    def box(self) -> tuple[int, int, int, int]:
        """xyxy of the outermost pixels, both ends inside: Meta's box. Zeros for an empty mask."""
        if self.width == 0:
            return 0, 0, 0, 0
        return self.left, self.top, self.left + self.width - 1, self.top + self.height - 1

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(_ONES[self.bits].sum())

    def part(self) -> np.ndarray:
        """The mask within its box, (h,w) bool."""
        return np.unpackbits(self.bits, axis=1, count=self.height).astype(bool).T

    def to_array(self) -> np.ndarray:
        """The whole mask, (H,W) bool."""
        mask = np.zeros(self.size, dtype=bool)
        mask[self.top : self.top + self.height, self.left : self.left + self.width] = self.part()
        return mask

    def moved(self, left: int, top: int, size: Sequence[int]) -> "PackedMask":
        """The same mask in the picture (H,W) of which this one's picture is the crop that begins at left, top."""
        return PackedMask(self.bits, self.left + left, self.top + top, self.height, (int(size[0]), int(size[1])))

    def run_lengths(self) -> list[int]:
        """COCO's uncompressed counts: lengths of the runs outside, inside, outside, ..., column by column.

        Bit-equal to what pycocotools finds.
        """
        height, width = self.size
        before = self.bits >> 1
        before[:, 1:] |= self.bits[:, :-1] << 7
        differs = (self.bits ^ before).ravel()  # a bit is set where its pixel differs from the one before
        places = np.flatnonzero(differs)
        column, byte = np.divmod(places, self.bits.shape[1])
        first = (self.left + column) * height + self.top + 8 * byte
        changes = (first[:, None] + np.arange(8))[np.unpackbits(differs[places][:, None], axis=1).view(bool)]
        if len(changes) > 1 and self.height == height:
            # A run that ends at the foot of a column may go on at the head of the next: two changes that cancel out.
            same = changes[1:] == changes[:-1]
            changes = changes[~(np.append(same, False) | np.append(False, same))]
        ends = np.concatenate([[0], changes, [height * width]])
        return np.diff(ends[:-1] if len(changes) and changes[-1] == height * width else ends).tolist()


def pack_columns(drawn: Tensor) -> np.ndarray:
    """Pack drawn masks on whatever device they are.

    Args:
        drawn: (n,w,h) bool, columns of the picture as rows.

    Returns:
        (n, w, h // 8 + 1) uint8, as in `PackedMask.bits`.
    """
    count, width, height = drawn.shape
    length = height // 8 + 1
    if drawn.device.type == "cpu":
        packed = np.zeros((count, width, length), dtype=np.uint8)
        packed[..., : (height + 7) // 8] = np.packbits(drawn.numpy(), axis=-1)
        return packed
    eights = F.pad(drawn, (0, 8 * length - height)).unflatten(-1, (length, 8))  # (n,w,length,8)
    values = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=drawn.device)
    return (eights * values).sum(-1, dtype=torch.uint8).cpu().numpy()


def cut_columns(bits: np.ndarray, left: int, top: int, width: int, height: int) -> np.ndarray:
    """A box out of packed columns; nothing of the mask may lie below it.

    Args:
        bits: (w,length) uint8.
        left: First column.
        top: First row.
        width: Columns.
        height: Rows.

    Returns:
        (width, height // 8 + 1) uint8.
    """
    whole, rest = divmod(top, 8)
    length = height // 8 + 1
    part = np.zeros((width, length + 1), dtype=np.uint8)
    taken = bits[left : left + width, whole : whole + length + 1]
    part[:, : taken.shape[1]] = taken
    if rest == 0:
        return part[:, :length]
    return (part[:, :length] << rest) | (part[:, 1:] >> (8 - rest))
