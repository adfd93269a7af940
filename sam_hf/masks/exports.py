"""What an export button gives: labelled masks of a picture as one file, by the name of a format.

Several files become a ZIP, whose entries have safe names and fixed dates: the same masks give the same bytes.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any, NamedTuple
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import numpy as np

from sam_hf.masks import formats
from sam_hf.masks.labeled_mask import LabeledMask, check_sizes, safe_file_name, safe_file_names
from sam_hf.masks.mask_pictures import cut_out, encode_png, index_png, mask_png

# Files of a ZIP that hold all masks, and their formats.
ALL_MASKS = {
    "index.png": "index_png",
    "coco.json": "coco",
    "sa1b.json": "sa1b",
    "labelme.json": "labelme",
    "objects.geojson": "geojson",
    "objects.svg": "svg",
}
NO_DATE = (1980, 1, 1, 0, 0, 0)  # the first that a ZIP can hold


class ExportedFile(NamedTuple):
    """A file to save.

    Attributes:
        name: A plain file name.
        content: Its bytes.
    """

    name: str
    content: bytes


def export(
    file_format: str, masks: Sequence[LabeledMask], image: np.ndarray | None, size: Sequence[int], image_name: str = ""
) -> ExportedFile:
    """Masks in a format.

    Args:
        file_format: One of `EXPORTS`.
        masks: In order; a later one lies on top.
        image: (H,W,3) uint8, the picture; for "cutout" and "zip", which is without cut-outs if it is None.
        size: (H,W) of the picture.
        image_name: Of the picture's file; any text.

    Raises:
        ValueError: If there is no such format, a mask has another size, there are none where one is needed, or the
            picture is missing.
    """
    if file_format not in EXPORTS:
        raise ValueError(f"format: expected one of {', '.join(EXPORTS)}; got {file_format!r:.40}")
    size = check_sizes(masks, size)
    if image is not None and image.shape[:2] != size:
        raise ValueError(f"image must have the size {size}, got {image.shape[:2]}")
    return EXPORTS[file_format](_Job(masks, image, size, image_name, _stem(image_name)))


def to_zip(
    masks: Sequence[LabeledMask],
    image: np.ndarray | None,
    size: Sequence[int],
    image_name: str = "",
    more: Mapping[str, bytes] | None = None,
) -> bytes:
    """A ZIP with the masks in all formats.

    Args:
        masks: See `export`, as for the rest.
        image: See there.
        size: See there.
        image_name: See there.
        more: Further files by name, such as "session.json".
    """
    job = _Job(masks, image, check_sizes(masks, size), image_name, _stem(image_name))
    contents: dict[str, bytes] = {}
    names = safe_file_names(one.name for one in masks)
    contents |= {f"masks/{name}.png": mask_png(one.mask) for name, one in zip(names, masks, strict=True)}
    if image is not None:
        for name, one in zip(names, masks, strict=True):
            contents[f"cutouts/{name}.png"] = encode_png(cut_out(image, one.mask))
    for name, file_format in ALL_MASKS.items():
        contents[name] = EXPORTS[file_format](job).content
    contents |= {f"yolo/{name}": content for name, content in _yolo_files(job).items()}
    return zip_files(contents | dict(more or {}))


def zip_files(contents: Mapping[str, bytes]) -> bytes:
    """A ZIP of files by their names, at most two folders deep.

    Raises:
        ValueError: If a name leads elsewhere than into the folder where the ZIP is unpacked, or is there twice.
    """
    seen: set[str] = set()
    buffer = BytesIO()
    with ZipFile(buffer, "w", ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            parts = name.split("/")
            if not 1 <= len(parts) <= 3 or any(part != safe_file_name(part) for part in parts):
                raise ValueError(f"name: expected that of a plain file, got {name!r:.80}")
            if name.casefold() in seen:
                raise ValueError(f"name: {name!r:.80} is there twice")
            seen.add(name.casefold())
            entry = ZipInfo(name, NO_DATE)
            entry.compress_type, entry.external_attr = ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, content)
    return buffer.getvalue()


class _Job(NamedTuple):
    masks: Sequence[LabeledMask]
    image: np.ndarray | None
    size: tuple[int, int]
    image_name: str
    stem: str


def _stem(image_name: str) -> str:
    """What the names of files begin with: the picture's, without its suffix."""
    name = formats.file_name(image_name)
    return safe_file_name(name.rpartition(".")[0] or name)


def _json_file(write: Callable[..., Any], suffix: str) -> Callable[[_Job], ExportedFile]:
    def run(job: _Job) -> ExportedFile:
        content = write(job.masks, job.size, job.image_name)
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False) + "\n"
        return ExportedFile(f"{job.stem}{suffix}", text.encode())

    return run


def _masks_file(job: _Job) -> ExportedFile:
    """The mask; of several a ZIP."""
    if len(job.masks) == 1:
        return ExportedFile(f"{job.stem}_mask.png", mask_png(job.masks[0].mask))
    names = safe_file_names(one.name for one in job.masks)
    pictures = {f"{name}.png": mask_png(one.mask) for name, one in zip(names, job.masks, strict=True)}
    return ExportedFile(f"{job.stem}_masks.zip", zip_files(pictures))


def _index_file(job: _Job) -> ExportedFile:
    return ExportedFile(f"{job.stem}_index.png", index_png(job.masks, job.size))


def _cutout_file(job: _Job) -> ExportedFile:
    """What all masks show together."""
    if job.image is None:
        raise ValueError("image: a cut-out needs the picture")
    if not job.masks:
        raise ValueError("masks: a cut-out needs at least one")
    return ExportedFile(
        f"{job.stem}_cutout.png", encode_png(cut_out(job.image, np.any([one.mask for one in job.masks], axis=0)))
    )


def _yolo_files(job: _Job) -> dict[str, bytes]:
    labels = formats.to_yolo(job.masks, job.size)
    texts = {f"labels/{job.stem}.txt": labels.labels, "classes.txt": labels.classes_txt, "data.yaml": labels.data_yaml}
    return {name: text.encode() for name, text in texts.items()}


def _yolo_file(job: _Job) -> ExportedFile:
    return ExportedFile(f"{job.stem}_yolo.zip", zip_files(_yolo_files(job)))


def _zip_file(job: _Job) -> ExportedFile:
    return ExportedFile(f"{job.stem}.zip", to_zip(job.masks, job.image, job.size, job.image_name))


EXPORTS: dict[str, Callable[[_Job], ExportedFile]] = {
    "png": _masks_file,
    "index_png": _index_file,
    "cutout": _cutout_file,
    "zip": _zip_file,
    "coco": _json_file(formats.to_coco, "_coco.json"),
    "sa1b": _json_file(formats.to_sa1b, "_sa1b.json"),
    "yolo": _yolo_file,
    "labelme": _json_file(formats.to_labelme, ".json"),
    "svg": _json_file(formats.to_svg, ".svg"),
    "geojson": _json_file(formats.to_geojson, ".geojson"),
}
