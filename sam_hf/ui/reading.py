"""Pictures from strangers: bytes -> upright RGB, or one sentence that says what is wrong with the file.

Nothing is decoded before its format is known and its header has promised few enough pixels. What a decoder says about
a broken file never reaches a message, and neither does a path: both tell strangers about this machine.
"""

import hashlib
import re
import struct
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from sam_hf.inference.image_files import FORMATS, MAX_PIXELS
from sam_hf.model.image_loading import as_bytes, load_image_tensor, upright

MAX_BYTES = 20 * 2**20
READ = "PNG, JPEG, WebP, TIFF, BMP and GIF"
# What else people open, by how it begins; `None`: anywhere in the first kilobyte.
FOREIGN = (
    (
        re.compile(rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!DOCTYPE svg[^>]*>\s*)?<svg\b", re.DOTALL),
        "an SVG drawing",
    ),
    (re.compile(rb"....ftyp(heic|heix|hevc|heim|heis|mif1|msf1)", re.DOTALL), "a HEIC picture"),
    (re.compile(rb"....ftyp(avif|avis)", re.DOTALL), "an AVIF picture"),
    (re.compile(rb"%PDF-"), "a PDF document"),
    (re.compile(rb"....ftyp|\x1aE\xdf\xa3", re.DOTALL), "a film"),
)


@dataclass(frozen=True, eq=False)
class PictureFile:
    """A picture as it came, known to be readable.

    Attributes:
        content: The file's bytes; at most `MAX_BYTES`.
        name: What it was called; any text of one line, never a path to open.
        size: (H,W) upright, original pixels.
        sha256: Of `content`, hexadecimal.
    """

    content: bytes
    name: str
    size: tuple[int, int]
    sha256: str

    def open(self) -> Any:
        """The picture as `SamPredictor.encode` takes it, see `decode`."""
        return decode(self.content)

    def rgb(self) -> np.ndarray:
        """(H,W,3) uint8."""
        return to_rgb(self.open())


def read_picture(content: bytes, name: str = "") -> tuple[PictureFile, Any]:
    """Reads a picture that anybody may have sent.

    Args:
        content: The file.
        name: What it was called.

    Returns:
        The file, and the picture as `PictureFile.open` gives it.

    Raises:
        ValueError: If it is empty, too large, no picture of a known format, or damaged.
    """
    picture = decode(content)
    size = tuple(picture.shape[-2:]) if isinstance(picture, torch.Tensor) else (picture.height, picture.width)
    return PictureFile(content, clean_name(name), size, hashlib.sha256(content).hexdigest()), picture


def decode(content: bytes) -> Any:
    """The picture in a file, upright.

    Returns:
        (3,H,W) uint8, transparency on white; or a PIL image where it has more than 8 bits, all levels kept. As a
        tensor a nearly black one would be taken for one on the scale to 1.

    Raises:
        ValueError: See `read_picture`.
    """
    if len(content) == 0:
        raise ValueError("the file is empty")
    check_bytes(len(content))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata, and of large pictures: our own bound decides
            image = Image.open(BytesIO(content), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            image = upright(image, "the picture")  # of several frames the first
    except UnidentifiedImageError:
        raise ValueError(_unknown(content)) from None
    except Image.DecompressionBombError:
        raise ValueError(f"the picture has more than {MAX_PIXELS // 10**6} megapixels: scale it down first") from None
    except (OSError, SyntaxError, ValueError, IndexError, KeyError, TypeError, EOFError, struct.error, OverflowError):
        # every decoder fails in its own way on a broken file
        raise ValueError("the picture is damaged or cut short and cannot be read") from None
    pixels = load_image_tensor(image, where="the picture")  # refuses NaN and the like
    return pixels if pixels.dtype == torch.uint8 else image


def to_rgb(picture: Any) -> np.ndarray:
    """(H,W,3) uint8 of what `decode` gives."""
    return as_bytes(load_image_tensor(picture, where="the picture")).permute(1, 2, 0).numpy()


def check_bytes(count: int) -> None:
    """Refuses files that are too large.

    Raises:
        ValueError: If there are more than `MAX_BYTES`.
    """
    if count > MAX_BYTES:
        largest = MAX_BYTES // 2**20
        raise ValueError(f"the picture has {count / 2**20:.1f} MB, more than the {largest} MB that are taken")


def read_upload(path: object, folders: list[Path]) -> bytes:
    """The bytes of a file that was uploaded.

    Args:
        path: Where the request says that it lies.
        folders: Where such files may lie; links that lead out of them are not followed.

    Raises:
        ValueError: If it lies elsewhere, is gone or too large.
    """
    if not isinstance(path, str) or not path or "\0" in path:
        raise ValueError("image: expected an uploaded file, or {'picture': id} of one that was opened before")
    try:
        real = Path(path).resolve()
        if not any(real.is_relative_to(folder.resolve()) for folder in folders):
            raise ValueError("image: this file was not uploaded here; addresses of pictures are not fetched either")
        check_bytes(real.stat().st_size)
        return real.read_bytes()
    except OSError:
        raise ValueError("this upload has expired, open the picture again") from None


def clean_name(name: object) -> str:
    """A file's name as text of one line, without folders; for showing and for naming results."""
    text = name if isinstance(name, str) else ""
    text = re.sub(r"[\x00-\x1f\x7f\u2028\u2029\ud800-\udfff]", "", re.split(r"[/\\]", text)[-1]).strip()
    return text[:255]


def _unknown(content: bytes) -> str:
    for pattern, what in FOREIGN:
        if pattern.match(content[:1024]):
            return f"this is {what}; {READ} are read: save it as one of these"
    return f"this is no picture of a known format; {READ} are read"
