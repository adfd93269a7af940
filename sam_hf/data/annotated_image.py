"""One picture and its masks, not yet decoded: what every reader of real data gives.

Pictures stay files or bytes and masks stay run lengths or polygons until somebody asks for one, so a record of a
picture with hundreds of masks is small and cheap to pass around.

Frame: original pixels of the picture as it is stored, which is what its masks were drawn on (annotation files know
nothing of EXIF orientation; where only the upright picture has the annotated size, that one is taken).
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pycocotools import mask as coco_mask

from sam_hf.masks import rle
from sam_hf.model.image_loading import DEEP_PIL_MODES, load_image_tensor

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """A picture, its masks and, where there are any, phrases.

    Attributes:
        name: Where it comes from; error messages begin with it.
        image: A file, the bytes of one, or (H,W,3) uint8 RGB.
        size: (H,W), original pixels.
        masks: Each a COCO RLE (`size`, `counts`), a list of polygons `[x1, y1, x2, y2, ...]`, or an (H,W) array.
        phrases: For each mask the phrases that are true of it and of nothing else in the picture, best first; may be
            empty. Default: none at all.
        absent_phrases: Phrases that are true of nothing in the picture, as far as the data says.
    """

    name: str
    image: Path | bytes | np.ndarray
    size: tuple[int, int]
    masks: tuple[Any, ...]
    phrases: tuple[tuple[str, ...], ...] = ()
    absent_phrases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.phrases:
            object.__setattr__(self, "phrases", ((),) * len(self.masks))
        if len(self.phrases) != len(self.masks):
            raise ValueError(f"{self.name}: expected phrases for {len(self.masks)} masks, got {len(self.phrases)}")

    def pixels(self) -> np.ndarray:
        """The picture, (H,W,3) uint8 RGB; of 16 bits the upper 8.

        Raises:
            ValueError: It cannot be decoded, has more than `PIL.Image.MAX_IMAGE_PIXELS`, or is not of the annotated
                size.
        """
        pixels = self.image if isinstance(self.image, np.ndarray) else self._opened()
        if pixels.shape[:2] != self.size:
            raise ValueError(f"{self.name}: annotated for an image of {self.size} (H, W), got {pixels.shape[:2]}")
        return pixels

    def _opened(self) -> np.ndarray:
        source = io.BytesIO(self.image) if isinstance(self.image, bytes) else self.image
        try:
            with warnings.catch_warnings():
                # One worker must not unpack a small file into gigabytes, so what Pillow warns of is refused.
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                opened = Image.open(source)
            with opened:
                stored = opened.size[::-1] == self.size
                picture = opened if stored else ImageOps.exif_transpose(opened)
                if picture.mode in DEEP_PIL_MODES:  # Pillow would clip these to 8 bits
                    return load_image_tensor(np.asarray(picture), self.name).byte().permute(1, 2, 0).numpy()
                return np.asarray(picture.convert("RGB"))
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise ValueError(f"{self.name}: the image is too large: {error}") from error
        except (UnidentifiedImageError, OSError, EOFError, SyntaxError, ValueError, struct.error) as error:
            raise ValueError(f"{self.name}: the image cannot be decoded: {error}") from error

    def mask(self, index: int) -> np.ndarray:
        """Mask `index`, (H,W) bool.

        Raises:
            ValueError: It cannot be decoded, or has another size than the picture.
        """
        given = self.masks[index]
        if isinstance(given, np.ndarray):
            return given != 0
        return self._decoded(index, rle.decode, lambda runs: coco_mask.decode(runs).astype(bool))

    def area(self, index: int) -> int:
        """Pixels inside mask `index`; of run lengths they are counted without decoding.

        Raises:
            ValueError: As `mask`.
        """
        if isinstance(self.masks[index], np.ndarray):
            return int(np.count_nonzero(self.masks[index]))
        return int(self._decoded(index, rle.area, coco_mask.area))

    def _decoded(self, index: int, of_runs: Callable[[Any], Any], of_polygons: Callable[[Any], Any]) -> Any:
        given, where = self.masks[index], f"{self.name}: mask {index}"
        if isinstance(given, Mapping):
            if list(given.get("size", ())) != list(self.size):
                raise ValueError(f"{where} has size {given.get('size')}, the image {list(self.size)} (H, W)")
            try:
                return of_runs(given)
            except (ValueError, TypeError) as error:
                raise ValueError(f"{where}: {error}") from error
        if not isinstance(given, Sequence) or isinstance(given, str | bytes):
            raise ValueError(f"{where}: expected an RLE or a list of polygons, got {type(given).__name__}")
        # fewer than three corners enclose nothing, and pycocotools would take two for a box
        polygons = [list(polygon) for polygon in given if isinstance(polygon, Sequence) and len(polygon) >= 6]
        if not polygons:
            raise ValueError(f"{where}: expected a polygon of at least three corners, got {str(given)[:60]}")
        return of_polygons(coco_mask.merge(coco_mask.frPyObjects(polygons, *self.size)))


class AnnotatedImages(Protocol):
    """Pictures that can be asked for by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> AnnotatedImage: ...


class Skipping:
    """Iteration over an `AnnotatedImages` that passes over records that cannot be read.

    Attributes:
        on_error: "raise" stops at the first bad record, "skip" goes on.
        skipped: How many have been passed over.
    """

    def __init__(self, on_error: str = "raise"):
        self.on_error, self.skipped = check_on_error(on_error), 0

    def __iter__(self) -> Iterator[AnnotatedImage]:
        for index in range(len(self)):
            try:
                record = self[index]
            except ValueError:
                if self.on_error == "raise":
                    raise
                self.skipped += 1
                continue
            yield record


def check_on_error(on_error: str) -> str:
    """`on_error` itself.

    Raises:
        ValueError: It is neither "raise" nor "skip".
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error: expected "raise" or "skip", got {on_error!r}')
    return on_error
