"""Files that people fetch from the app: written where Gradio serves from, under what is in them and a secret.

The folder is the app's own and is emptied after it; what is older than a while goes before. It holds uploads too, and
together they take no more than `MOST_BYTES`.
"""

import contextlib
import hashlib
import os
import re
import secrets
import tempfile
import threading
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from gradio.data_classes import FileData
from gradio.utils import get_upload_folder
from PIL import Image

LONGEST_SIDE = 2048
LOSSLESS_PIXELS = 300_000
MOST_BYTES = 8 * 2**30  # of all files that are kept at a time
FULL = "the server has no room for files at the moment, try again later"
SECRET = secrets.token_bytes(32)
_counting, _counted = threading.Lock(), {"bytes": 0, "until": 0.0}


class DiskFull(RuntimeError):
    """The app keeps as many files as it may."""


def serve(content: bytes, name: str) -> dict[str, Any]:
    """Puts a file where it can be fetched.

    Args:
        content: What is in it.
        name: What it is called when saved; characters that some file system refuses are replaced.

    Returns:
        Gradio's `FileData` as JSON has it.

    Raises:
        DiskFull: There is no room for it at the moment.
    """
    if not has_room(len(content)):
        raise DiskFull(FULL)
    # With a secret of this process: who knows what is in a file cannot find out whether somebody has it here.
    folder = Path(get_upload_folder()) / hashlib.blake2b(content, digest_size=32, key=SECRET).hexdigest()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / safe_name(name)
    if path.is_file():
        os.utime(path)  # files go by age
    else:  # two who ask for the same at once never see half of it
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".", suffix=".part", delete=False) as file:
            file.write(content)
        os.replace(file.name, path)
    return FileData(path=str(path), orig_name=path.name, size=len(content)).model_dump()


def has_room(count: int) -> bool:
    """Whether so many bytes more may be kept. All is counted anew every few seconds, and what is written between."""
    with _counting:
        if time.monotonic() > _counted["until"]:
            _counted.update(bytes=_bytes_in(get_upload_folder()), until=time.monotonic() + 5)
        if _counted["bytes"] + count > MOST_BYTES:
            return False
        _counted["bytes"] += count
        return True


def _bytes_in(folder: str) -> int:
    total = 0
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # gone meanwhile
                is_folder = entry.is_dir(follow_symlinks=False)
                total += _bytes_in(entry.path) if is_folder else entry.stat(follow_symlinks=False).st_size
    return total


def safe_name(name: str) -> str:
    """A file name that every system takes."""
    stem, dot, ending = re.sub(r"[^\w.-]+", "_", name).strip("._").rpartition(".")
    stem, ending = (stem, ending) if dot else (ending, "")
    return f"{stem[:80] or 'picture'}{f'.{ending[:16]}' if ending else ''}"


def display_copy(rgb: np.ndarray) -> tuple[bytes, str]:
    """A picture as a page shows it: upright, 8 bits, its longest side at most 2048 pixels.

    Args:
        rgb: (H,W,3) uint8.

    Returns:
        The file and its ending: PNG of small ones, whose hard edges JPEG would smear, else JPEG.
    """
    image = Image.fromarray(np.ascontiguousarray(rgb))
    if max(image.size) > LONGEST_SIDE:
        share = LONGEST_SIDE / max(image.size)
        size = tuple(max(1, round(side * share)) for side in image.size)
        image = image.resize(size, Image.Resampling.BOX if share < 0.5 else Image.Resampling.BILINEAR, reducing_gap=2)
    file = BytesIO()
    if image.width * image.height <= LOSSLESS_PIXELS:
        image.save(file, "PNG", compress_level=3)
        return file.getvalue(), "png"
    image.save(file, "JPEG", quality=92, subsampling=0)
    return file.getvalue(), "jpg"
