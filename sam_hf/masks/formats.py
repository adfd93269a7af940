"""The masks of one picture as files that other programs read: every format by its function, and by its name.

`export` gives one file whatever the format; several become a ZIP, whose entries have safe names and fixed dates, so
that the same masks give the same bytes. What each format keeps and loses is in docs/formats.md.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from io import BytesIO
from typing import Any, NamedTuple
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import numpy as np

from sam_hf.masks.json_formats import file_name, to_coco, to_geojson, to_labelme, to_sa1b
from sam_hf.masks.labeled_mask import LabeledMask, check_sizes, safe_file_name, safe_file_names
from sam_hf.masks.mask_pictures import cut_out, encode_png, index_png, mask_png
from sam_hf.masks.svg import to_svg
from sam_hf.masks.yolo import YoloLabels, to_yolo

__all__ = [
    "EXPORTS",
    "ExportedFile",
    "LabeledMask",
    "YoloLabels",
    "cut_out",
    "export",
    "export_suffix",
    "index_png",
    "mask_png",
    "to_coco",
    "to_geojson",
    "to_labelme",
    "to_sa1b",
    "to_svg",
    "to_yolo",
    "to_zip",
    "zip_files",
]

# Files of a ZIP that hold all masks, and their formats.
ALL_MASKS = {
    "index.png": "index_png",
    "coco.json": "coco",
    "coco_rle.json": "coco_rle",
    "sa1b.json": "sa1b",
    "labelme.json": "labelme",
    "objects.geojson": "geojson",
    "objects.svg": "svg",
}
LARGEST_ZIP = 512 * 2**20  # bytes; it is made in memory
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
    suffix = export_suffix(file_format, len(masks))
    job = _job(masks, image, size, image_name)
    return ExportedFile(job.stem + suffix, EXPORTS[file_format].write(job))


def export_suffix(file_format: str, count: int) -> str:
    """What the name of a file with so many masks ends with, such as "_coco.json".

    Raises:
        ValueError: If there is no such format.
    """
    if file_format not in EXPORTS:
        raise ValueError(f"format: expected one of {', '.join(EXPORTS)}; got {file_format!r:.40}")
    return "_mask.png" if file_format == "png" and count == 1 else EXPORTS[file_format].suffix


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
    job = _job(masks, image, size, image_name)
    return zip_files(_all_files(job, dict(more or {})))


def union(masks: Iterable[LabeledMask], size: Sequence[int]) -> np.ndarray:
    """(H,W) bool: what lies in any of the masks of a picture of that size (H,W)."""
    together = np.zeros(tuple(size), dtype=bool)
    for one in masks:
        together |= one.mask
    return together


def zip_files(contents: Mapping[str, bytes] | Iterable[tuple[str, bytes]]) -> bytes:
    """A ZIP of files by their names, at most two folders deep.

    Args:
        contents: By name, or names and contents, which are taken one by one.

    Raises:
        ValueError: If a name leads elsewhere than into the folder where the ZIP is unpacked, or is there twice; or the
            ZIP would be larger than `LARGEST_ZIP`.
    """
    seen: set[str] = set()
    buffer = BytesIO()
    with ZipFile(buffer, "w", ZIP_DEFLATED) as archive:
        for name, content in contents.items() if isinstance(contents, Mapping) else contents:
            parts = name.split("/")
            if not 1 <= len(parts) <= 3 or any(part != safe_file_name(part, 255) for part in parts):
                raise ValueError(f"name: expected that of a plain file, got {name!r:.80}")
            if name.casefold() in seen:
                raise ValueError(f"name: {name!r:.80} is there twice")
            seen.add(name.casefold())
            entry = ZipInfo(name, NO_DATE)
            entry.compress_type, entry.external_attr = ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, content)
            if buffer.tell() > LARGEST_ZIP:
                raise ValueError(
                    f"the ZIP would be larger than {LARGEST_ZIP // 2**20} MB: export fewer objects at once"
                )
    return buffer.getvalue()


class _Job(NamedTuple):
    masks: Sequence[LabeledMask]
    image: np.ndarray | None
    size: tuple[int, int]
    image_name: str
    stem: str


def _job(masks: Sequence[LabeledMask], image: np.ndarray | None, size: Sequence[int], image_name: str) -> _Job:
    size = check_sizes(masks, size)
    if image is not None and image.shape[:2] != size:
        raise ValueError(f"image must have the size {size}, got {image.shape[:2]}")
    name = file_name(image_name)
    return _Job(masks, image, size, image_name, safe_file_name(name.rpartition(".")[0] or name))


def _text(write: Callable[..., Any]) -> Callable[[_Job], bytes]:
    def run(job: _Job) -> bytes:
        content = write(job.masks, job.size, job.image_name)
        return (content if isinstance(content, str) else json.dumps(content, ensure_ascii=False) + "\n").encode()

    return run


def _named(job: _Job) -> Iterator[tuple[str, np.ndarray]]:
    names = safe_file_names(one.name for one in job.masks)
    for name, one in zip(names, job.masks, strict=True):
        yield name, one.mask


def _all_files(job: _Job, more: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Names and contents, each made when the one before is written: together they may be large."""
    for name, mask in _named(job):
        yield f"masks/{name}.png", mask_png(mask)
    if job.image is not None:
        for name, mask in _named(job):
            yield f"cutouts/{name}.png", encode_png(cut_out(job.image, mask))
    for name, file_format in ALL_MASKS.items():
        yield name, EXPORTS[file_format].write(job)
    for name, content in _yolo_files(job).items():
        yield f"yolo/{name}", content
    yield from more.items()


def _masks(job: _Job) -> bytes:
    """The mask; of several a ZIP."""
    if len(job.masks) == 1:
        return mask_png(job.masks[0].mask)
    return zip_files((f"{name}.png", mask_png(mask)) for name, mask in _named(job))


def _cutout(job: _Job) -> bytes:
    """What all masks show together."""
    if job.image is None:
        raise ValueError("image: a cut-out needs the picture")
    if not job.masks:
        raise ValueError("masks: a cut-out needs at least one")
    return encode_png(cut_out(job.image, union(job.masks, job.size)))


def _yolo_files(job: _Job) -> dict[str, bytes]:
    labels = to_yolo(job.masks, job.size)
    texts = {f"labels/{job.stem}.txt": labels.labels, "classes.txt": labels.classes_txt, "data.yaml": labels.data_yaml}
    return {name: text.encode() for name, text in texts.items()}


class _Export(NamedTuple):
    suffix: str
    write: Callable[[_Job], bytes]


EXPORTS: dict[str, _Export] = {
    "png": _Export("_masks.zip", _masks),
    "index_png": _Export("_index.png", lambda job: index_png(job.masks, job.size)),
    "cutout": _Export("_cutout.png", _cutout),
    "zip": _Export(".zip", lambda job: to_zip(job.masks, job.image, job.size, job.image_name)),
    "coco": _Export("_coco.json", _text(to_coco)),
    "coco_rle": _Export("_coco_rle.json", _text(partial(to_coco, polygons=False))),
    "sa1b": _Export("_sa1b.json", _text(to_sa1b)),
    "yolo": _Export("_yolo.zip", lambda job: zip_files(_yolo_files(job))),
    "labelme": _Export(".json", _text(to_labelme)),  # labelme looks for the name of the picture
    "svg": _Export(".svg", _text(to_svg)),
    "geojson": _Export(".geojson", _text(to_geojson)),
}
