"""Names and writing of result files: nothing overwritten unasked, nothing half written.

The files of one image are written under temporary names beside their places and renamed when all of them are there,
the JSON last: where it stands, the rest does too. An interruption leaves neither a cut-short file nor a temporary one.

An image called `photo` gives `photo_overlay.png`, `photo_mask.png`, `photo_cutout.png` and `photo.json`; with several
masks, `photo_1_overlay.png` and so on, the mask that the model thinks best first. Everything in it gives
`photo_overlay.png` and `photo.json`, and if asked for `photo_index.png` and the folder `photo_masks`.
"""

import json
import os
import secrets
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sam_hf.masks.mask_pictures import encode_png as encode_png

PROPOSALS = 3  # masks that the model gives for an ambiguous prompt


def name_results(images: Sequence[Path]) -> list[str]:
    """One name per image, on which its result files build.

    It is the stem, `photo` for photo.jpg; where two images share it (whatever the case of letters, since some file
    systems ignore it) the suffix stays, `photo.jpg` and `photo.png`; and a number follows where that is shared too.
    """
    stems = Counter(image.stem.casefold() for image in images)
    names: list[str] = []
    taken: set[str] = set()
    for image in images:
        name = wanted = image.stem if stems[image.stem.casefold()] == 1 else image.name
        number = 2
        while name.casefold() in taken:
            name, number = f"{wanted}-{number}", number + 1
        taken.add(name.casefold())
        names.append(name)
    return names


def result_places(folder: Path, name: str, several: bool) -> list[Path]:
    """Every file that is written for an image of that name, in the order of writing."""
    pictures = [place for base in result_bases(name, several) for place in picture_places(folder, base)]
    return [*pictures, folder / f"{name}.json"]


def result_bases(name: str, several: bool) -> list[str]:
    """What the names of one mask's pictures begin with, per mask."""
    return [f"{name}_{number + 1}" for number in range(PROPOSALS)] if several else [name]


def picture_places(folder: Path, base: str) -> list[Path]:
    """Overlay, mask and cut-out of one mask."""
    return [folder / f"{base}_{kind}.png" for kind in ("overlay", "mask", "cutout")]


def everything_places(folder: Path, name: str, index: bool, masks: bool) -> list[Path]:
    """What is written for everything in an image of that name: files, and the folder of the masks if wanted."""
    pictures = [folder / f"{name}_{kind}.png" for kind in ("overlay", *(["index"] if index else []))]
    return [*pictures, *([masks_folder(folder, name)] if masks else []), folder / f"{name}.json"]


def masks_folder(folder: Path, name: str) -> Path:
    """Where one picture per mask goes."""
    return folder / f"{name}_masks"


def check_places(results: Iterable[Path], inputs: Iterable[Path], overwrite: bool) -> None:
    """Refuses to write over anything that must stay.

    Args:
        results: Every file, or folder of files, that is going to be written.
        inputs: Files that are read; these are never written over, whatever `overwrite` says.
        overwrite: Whether earlier results may be replaced.

    Raises:
        ValueError: Naming the first such file.
    """
    read = {place for path in inputs for place in (path.resolve(), path.resolve().parent)}
    for path in results:
        if path.resolve() in read:
            raise ValueError(f"a result would replace the input {str(path)!r}: choose another output folder")
        if path.exists() and not overwrite:
            raise ValueError(f"{str(path)!r} exists already: pass --overwrite or choose another output folder")


def prepare_folder(folder: Path) -> None:
    """Makes a folder and makes sure that it can be written into.

    Raises:
        ValueError: If it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"cannot write into the folder {str(folder)!r}: {error.strerror}") from None


def encode_json(content: Any, indent: int | None = 2) -> bytes:
    """A value as the content of a JSON file; indented for people to read, or on one line (None)."""
    text = json.dumps(content, indent=indent, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace")  # file names may be any bytes


def write_together(contents: Mapping[Path, bytes], obsolete: Iterable[Path] = ()) -> None:
    """Writes several files so that, to whoever looks, each is either absent (or old) or whole.

    Args:
        contents: Bytes per place; put into place in this order. The folder of a place is made if it is missing.
        obsolete: Files of an earlier run that the new ones do not replace; removed before these are put into place.

    Raises:
        OSError: If the disk refuses; then nothing new is left behind but the files already renamed.
    """
    parts = {place: place.parent / f".sam_hf-{secrets.token_hex(8)}.part" for place in contents}
    made = [folder for folder in dict.fromkeys(place.parent for place in contents) if not folder.exists()]
    try:
        for folder in made:
            folder.mkdir()
        for place, part in parts.items():
            with part.open("xb") as file:
                file.write(contents[place])
        for place in obsolete:
            place.unlink(missing_ok=True)
        for place, part in parts.items():
            os.replace(part, place)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
        for folder in made:
            with suppress(OSError):  # it holds files by now, or could not be made
                folder.rmdir()
