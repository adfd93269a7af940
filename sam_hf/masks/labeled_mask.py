"""A mask with what people call it, and names made fit for files that others read.

Names and colours come from strangers: here they become text without control characters, colours of one form, and file
names that no system takes for anything but a plain file.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sam_hf.masks import rle

COLOR = re.compile("#[0-9a-fA-F]{6}")
UNNAMED = "object"
LONGEST_FILE_NAME = 100  # bytes of UTF-8, without the suffix
# Names that Windows keeps for devices, with any suffix.
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³")}


class LabeledMask:
    """One object of a picture. Its mask is held as run lengths: hundreds on a large photo are a few megabytes.

    Args:
        mask: (H,W) booleans, original pixels, or any numbers of which the nonzero ones are inside; or its COCO run
            lengths, see `rle.decode`. Those of strangers want `rle.checked` first.
        name: Any text.
        color: "#rrggbb".
        score: Estimate of the mask's IoU, or None.
        detail: Of polygons, see `polygons.mask_to_polygons`.
        stability_score: IoU of the masks cut above and below the threshold, or None.
        point: xy that was asked about, original pixels, or None.

    Raises:
        ValueError: If the mask is not two-dimensional, or another value not of its kind.
    """

    def __init__(
        self,
        mask: np.ndarray | Mapping[str, Any],
        name: str = "",
        color: str = "#0072b2",
        score: float | None = None,
        detail: float = 1.0,
        stability_score: float | None = None,
        point: Sequence[float] | None = None,
    ):
        if not isinstance(name, str):
            raise ValueError(f"name must be a text, got {type(name).__name__}")
        if not isinstance(color, str) or not COLOR.fullmatch(color):
            raise ValueError(f"color must be of the form #rrggbb, got {color!r:.60}")
        for called, value in (("score", score), ("stability_score", stability_score)):
            if value is not None and not np.isfinite(value):
                raise ValueError(f"{called} must be a finite number or None, got {value}")
        if not 0.0 <= detail <= 1.0:
            raise ValueError(f"detail must lie between 0 and 1, got {detail}")
        self._runs = mask if isinstance(mask, Mapping) else rle.encode(mask)
        self.name, self.color, self.score, self.detail = name, color, score, detail
        self.stability_score, self.point = stability_score, point

    @property
    def mask(self) -> np.ndarray:
        """(H,W) bool, original pixels; unpacked anew each time, so ask once and let go."""
        return rle.decode(self._runs)

    @property
    def size(self) -> tuple[int, int]:
        """(H,W) of the picture."""
        height, width = self._runs["size"]
        return int(height), int(width)

    @property
    def label(self) -> str:
        """The name as one line of clean text; "object" where nothing is left of it."""
        return clean_text(self.name) or UNNAMED

    @property
    def rgb(self) -> tuple[int, int, int]:
        """The colour, 0 to 255."""
        return tuple(int(self.color[start : start + 2], 16) for start in (1, 3, 5))


def check_sizes(masks: Iterable[LabeledMask], size: Sequence[int]) -> tuple[int, int]:
    """The size (H,W) of a picture that all masks have.

    Raises:
        ValueError: If one has another.
    """
    height, width = (int(side) for side in size)
    for index, one in enumerate(masks):
        if one.size != (height, width):
            raise ValueError(f"masks[{index}] must have the picture's size {(height, width)}, got {one.size}")
    return height, width


def clean_text(text: str) -> str:
    """One line of text without control characters, halves of characters, what XML does not allow, and signs that turn
    the direction of reading around."""
    # Other signs without a width stay, since they hold emoji and Indic words together.
    return " ".join("".join(c for c in text if c.isspace() or not _is_control(c)).split())


def _is_control(character: str) -> bool:
    turns = "\u202a" <= character <= "\u202e" or "\u2066" <= character <= "\u2069"
    return turns or unicodedata.category(character) in ("Cc", "Cs") or character in "\ufffe\uffff"


def safe_file_name(name: str, longest: int = LONGEST_FILE_NAME) -> str:
    """A name, without suffix, that is a plain file's on every system; "object" where nothing is left of it.

    It stays the same if done again. No separators, drives, streams, wildcards, dots or spaces at the ends, names of
    devices or unseen signs; and not too long.

    Args:
        name: Any text.
        longest: Bytes of UTF-8.
    """
    name = clean_text("".join(c for c in name if unicodedata.category(c) != "Cf"))
    name = unicodedata.normalize("NFC", "".join("_" if c in '/\\:*?"<>|' else c for c in name))
    while len(name.encode()) > longest:
        name = name[:-1]
    name = name.rstrip(" .").lstrip(" .-~")
    if not name.strip("_"):
        return UNNAMED
    return f"_{name}" if name.split(".")[0].strip().casefold() in DEVICES else name


def safe_file_names(names: Iterable[str]) -> list[str]:
    """`safe_file_name` of each, with a number where one is there already, whatever the case of letters."""
    taken: set[str] = set()
    unique = []
    for wanted in map(safe_file_name, names):
        name, number = wanted, 2
        while unicodedata.normalize("NFKC", name).casefold() in taken:
            name, number = f"{wanted}-{number}", number + 1
        taken.add(unicodedata.normalize("NFKC", name).casefold())
        unique.append(name)
    return unique
