"""Image files that strangers may name: found, checked before they are decoded, and opened upright.

Only files are read, never addresses; only formats that Pillow decodes in its own, well-worn code; and only up to a
number of pixels that is looked up in the header, before a small file can unpack into gigabytes. What a decoder says
about a broken file stays out of our messages, since it can carry memory addresses.
"""

import os
import struct
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
MAX_PIXELS = 50_000_000


def find_images(paths: Iterable[str | os.PathLike]) -> tuple[list[Path], list[str]]:
    """The image files that were named, a folder standing for the images directly in it.

    A file named twice counts once. In a folder, links that lead out of it are passed over: whoever names a folder does
    not expect files from elsewhere.

    Returns:
        The files in the order given, and one sentence for each name that leads to none: an address, a file that does
        not exist, a folder without images. One bad name among many is no reason to leave the others undone.

    Raises:
        ValueError: If no name leads to a file.
    """
    found: dict[Path, Path] = {}  # by where it really lies
    problems: list[str] = []
    for named in paths:
        try:
            for file in _named_files(named):
                found.setdefault(file.resolve(), file)
        except ValueError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"cannot look at {os.fspath(named)!r:.200}: {error.strerror}")
    if not found:
        raise ValueError("; ".join(problems) or "expected at least one image, got none")
    return list(found.values()), problems


def find_image(named: str | os.PathLike) -> Path:
    """The one image file that was named.

    Raises:
        ValueError: If the name is an address, or there is no such file.
    """
    text = os.fspath(named)
    if text.lower().startswith(("http://", "https://", "ftp://", "file://", "data:")):
        raise ValueError(f"{text!r:.200} is an address: download the picture and give the file instead")
    path = Path(named)
    if not path.is_file():
        raise ValueError(f"the image {text!r} {'is not a file' if path.exists() else 'does not exist'}")
    return path


def open_image(path: str | os.PathLike) -> Image.Image:
    """Opens and decodes one image, turned upright by its EXIF orientation; its mode is kept.

    Raises:
        ValueError: If the file cannot be read, is no image of an accepted format, is damaged, or is too large.
    """
    name = os.fspath(path)
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images and goes on; our own bound decides, so its warning is not needed.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            image.close()
            raise Image.DecompressionBombError
        with image:
            image.load()  # the first frame of an animation
            return ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise ValueError(f"{name!r} is not an image of a known format ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{name!r} has more than {MAX_PIXELS // 1_000_000} megapixels: scale it down") from None
    except OSError as error:
        reason = error.strerror if error.strerror else "it is damaged or cut short"
        raise ValueError(f"cannot read the image {name!r}: {reason}") from None
    except (SyntaxError, ValueError, IndexError, KeyError, TypeError, EOFError, struct.error):
        # Every decoder fails in its own way on a broken file.
        raise ValueError(f"cannot read the image {name!r}: it is damaged") from None


def open_mask(path: str | os.PathLike) -> np.ndarray:
    """Opens a mask drawn as an image: where it is bright it is inside; of a cut-out, where it is opaque.

    Returns:
        (H,W) booleans.

    Raises:
        ValueError: If it cannot be opened, or nothing is inside.
    """
    image = open_image(path)
    colored = len(image.getbands()) > 1 or image.mode == "P"
    values = np.asarray(image.convert("RGBA") if colored else image)
    if colored:
        opacity = values[..., 3]
        values = opacity if opacity.min() < 255 else values[..., :3].max(axis=2)
    # Half of the brightest value, so that masks of 0 and 1, 0 and 255, and 16 bits all mean what they look like.
    mask = values > values.max() / 2
    if not mask.any():
        raise ValueError(f"the mask {os.fspath(path)!r} is empty: nothing in it is bright")
    return mask


def _named_files(named: str | os.PathLike) -> list[Path]:
    path = Path(named)
    if not path.is_dir():
        return [find_image(named)]
    inside = _images_in(path)
    if not inside:
        raise ValueError(f"the folder {str(path)!r} holds no image ({', '.join(sorted(SUFFIXES))})")
    return inside


def _images_in(folder: Path) -> list[Path]:
    home = folder.resolve()
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    return [path for path in files if path.resolve().parent == home]
