"""Colour-emoji glyphs: finding the font, rendering on demand, and what each glyph is called."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .colors import describe_colours
from .glyph_table import GlyphEntry
from .scene import Attributes

FONT_VARIABLE = "SAM_HF_EMOJI_FONT"
_FILE_NAME = "NotoColorEmoji.ttf"
_FOLDERS = (
    "/usr/share/fonts/truetype/noto",
    "/usr/share/fonts/noto",
    "/usr/share/fonts/google-noto-emoji",
    "/usr/share/fonts/google-noto-color-emoji-fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/Library/Fonts",
    "~/Library/Fonts",
)
_PIXELS = 109  # the only size at which the bitmap font can be drawn
_LEVELS = 4
# Beyond people's use of it, "object" says nothing: everything is one.
_SILENT_CATEGORIES = frozenset({"object"})


def find_emoji_font(path: str | os.PathLike | None = None) -> Path:
    """Find Noto Color Emoji: the argument, then the environment variable, then fontconfig and the usual folders.

    Raises:
        FileNotFoundError: If the named file is missing, or nothing was found.
    """
    for source, named in (("font", path), (FONT_VARIABLE, os.environ.get(FONT_VARIABLE))):
        if named:
            if not Path(named).expanduser().is_file():
                raise FileNotFoundError(f"{source}: expected a font file, got {str(named)!r}, which does not exist")
            return Path(named).expanduser()
    for folder in _FOLDERS:
        candidate = Path(folder).expanduser() / _FILE_NAME
        if candidate.is_file():
            return candidate
    if shutil.which("fc-match"):
        answer = subprocess.run(
            ["fc-match", "-f", "%{file}", "Noto Color Emoji"], capture_output=True, text=True, check=False
        ).stdout.strip()
        if Path(answer).name == _FILE_NAME and Path(answer).is_file():
            return Path(answer)
    raise FileNotFoundError(
        f"no colour-emoji font found: install the system package fonts-noto-color-emoji, name {_FILE_NAME} with font= "
        f"or the environment variable {FONT_VARIABLE}, or pass font=False for scenes of shapes only"
    )


@dataclass(frozen=True, eq=False)
class Glyph:
    """A rendered emoji.

    Attributes:
        entry: Its row in the table.
        levels: (h,w,4) uint8 RGBA with premultiplied colour; each level is half as large as the one before.
        attributes: Its nouns and colours.
    """

    entry: GlyphEntry
    levels: tuple[np.ndarray, ...]
    attributes: Attributes


def glyph_nouns(entry: GlyphEntry) -> tuple[str, ...]:
    """All nouns that are true of a glyph, categories included."""
    return (*entry.nouns, *(c for c in entry.categories if c not in _SILENT_CATEGORIES and c not in entry.nouns))


class GlyphAtlas:
    """Renders glyphs when first asked for, and keeps them.

    What it returns depends on the font alone, so sharing an atlas between generators or threads changes nothing.

    Args:
        font: Path of a colour-bitmap emoji font.
    """

    def __init__(self, font: str | os.PathLike):
        self.font = Path(font)
        self._rendered: dict[str, Glyph] = {}
        self._face: ImageFont.FreeTypeFont | None = None

    def __getstate__(self) -> dict:
        return {"font": self.font, "_rendered": {}, "_face": None}  # a font face cannot be pickled, glyphs are cheap

    def __call__(self, entry: GlyphEntry) -> Glyph:
        """The glyph of a table entry.

        Raises:
            ValueError: If the font draws nothing for it.
        """
        glyph = self._rendered.get(entry.character)
        if glyph is None:
            glyph = self._rendered[entry.character] = self._render(entry)
        return glyph

    def _render(self, entry: GlyphEntry) -> Glyph:
        if self._face is None:
            self._face = ImageFont.truetype(str(self.font), _PIXELS)
        picture = Image.new("RGBA", (160, 160))
        # Drawing on clear black leaves colour multiplied by alpha: the premultiplied form that warping needs.
        ImageDraw.Draw(picture).text((10, 5), entry.character, font=self._face, embedded_color=True)
        rgba = np.array(picture)
        rows, columns = np.nonzero(rgba[..., 3].any(1))[0], np.nonzero(rgba[..., 3].any(0))[0]
        if len(rows) == 0:
            raise ValueError(
                f"font: {self.font} has no glyph for U+{ord(entry.character):X} ({entry.nouns[0]}); use a newer one"
            )
        rgba = rgba[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        opaque = rgba[rgba[..., 3] > 200][:, :3]
        colour, possible = describe_colours(opaque)
        nouns = glyph_nouns(entry)
        levels = [np.pad(rgba, ((2, 2), (2, 2), (0, 0)))]
        while len(levels) < _LEVELS:
            h, w = levels[-1].shape[:2]
            levels.append(cv2.resize(levels[-1], (max(w // 2, 1), max(h // 2, 1)), interpolation=cv2.INTER_AREA))
        attributes = Attributes(nouns, frozenset(nouns), colour, possible)
        return Glyph(entry, tuple(levels), attributes)
