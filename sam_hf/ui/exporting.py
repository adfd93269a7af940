"""Objects on a picture as files that other programs read, and masks made tidy before."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import safetensors.numpy

from sam_hf.inference import json_fields as read
from sam_hf.inference.result_files import encode_json, encode_png
from sam_hf.inference.session import PromptSession, SessionObject
from sam_hf.masks import rle as run_lengths
from sam_hf.masks.boxes import mask_to_xywh
from sam_hf.masks.drawing import cut_out
from sam_hf.masks.packed import PackedMask
from sam_hf.masks.polygons import mask_to_polygons
from sam_hf.masks.regions import remove_small_regions
from sam_hf.ui.checkpoints import Checkpoint
from sam_hf.ui.pictures import OpenPicture
from sam_hf.ui.reading import clean_name

MOST_OBJECTS = 1024


def half_features(opened: OpenPicture) -> np.ndarray:
    """(1,C,h,w) little-endian float16: the image embedding as it travels."""
    return opened.embedding.tensor.float().cpu().numpy().astype("<f2")


def array_file(values: np.ndarray) -> bytes:
    """An array as .npy."""
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(values), allow_pickle=False)
    return file.getvalue()


def refine_mask(rle: Any, fill_holes: Any, drop_islands: Any, polygon_detail: Any) -> dict[str, Any]:
    """See `Api.refine`.

    Raises:
        ValueError: If the mask is none, or a number out of range.
    """
    holes = read.number(fill_holes, "fill_holes", 0, run_lengths.MOST_PIXELS)
    islands = read.number(drop_islands, "drop_islands", 0, run_lengths.MOST_PIXELS)
    detail = None if polygon_detail is None else read.number(polygon_detail, "polygon_detail", 0, 1)
    size = read.items(read.fields(rle, "rle", ("size", "counts"), ("size", "counts"))["size"], "rle.size", 2)
    mask = _tidied(run_lengths.decode(read.run_lengths(rle, "rle", size)), holes, islands)
    polygons = [] if detail is None else mask_to_polygons(mask, detail)
    return {
        "rle": run_lengths.encode(mask),
        "polygons": [ring.round(2).flatten().tolist() for polygon in polygons for ring in polygon.rings],
        "area": int(mask.sum()),
        "bbox": mask_to_xywh(mask).tolist(),
    }


@dataclass(frozen=True, eq=False)
class ExportedObject:
    """An object of a request: as a session keeps it, its mask, and its score if it has one."""

    kept: SessionObject
    mask: np.ndarray
    score: float | None


def export_objects(
    checkpoint: Checkpoint, opened: OpenPicture, objects: Any, format: Any, name: Any
) -> tuple[bytes, str]:
    """See `Api.export`.

    Returns:
        The file and its name.

    Raises:
        ValueError: If an object or the format is wrong, or there is nothing to export.
    """
    if not isinstance(format, str) or format not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}; got {read.shown(format)}")
    title = clean_name(read.text(name or "", "name", 255)) or opened.file.name or "picture"
    given = _read_objects(objects, opened.file.size)
    if not given and format not in WITHOUT_OBJECTS:
        raise ValueError(f"objects: expected at least one for the format {format}, got none")
    return FORMATS[format](checkpoint, opened, given, title)


def _read_objects(objects: Any, size: tuple[int, int]) -> list[ExportedObject]:
    given = []
    for index, value in enumerate(read.items([] if objects is None else objects, "objects", MOST_OBJECTS)):
        path = f"objects[{index}]"
        if not isinstance(value, Mapping):
            raise ValueError(f"{path}: expected an object, got {read.shown(value)}")
        score = value.get("score")
        score = None if score is None else read.number(score, f"{path}.score", -10, 10)
        kept = SessionObject.from_json({key: one for key, one in value.items() if key != "score"}, size, path)
        if kept.rle is None:
            raise ValueError(f"{path}.rle: missing; it is the mask that is exported")
        given.append(ExportedObject(kept, run_lengths.decode(kept.rle), score))
    return given


def _background(
    checkpoint: Checkpoint, opened: OpenPicture, objects: Sequence[ExportedObject], title: str
) -> tuple[bytes, str]:
    if objects:
        mask = np.logical_or.reduce([one.mask for one in objects])
    else:
        height, width = opened.file.size
        found = checkpoint.predictor.decode(opened.embedding, box=np.array([0, 0, width, height]))
        mask = found.masks[int(found.scores.argmax())]
    return encode_png(cut_out(opened.file.rgb(), mask)), f"{_stem(title)}_without_background.png"


def _session(
    checkpoint: Checkpoint, opened: OpenPicture, objects: Sequence[ExportedObject], title: str
) -> tuple[bytes, str]:
    kept = tuple(one.kept for one in objects)
    session = PromptSession(opened.file.size, kept, checkpoint.name, title, opened.file.sha256)
    return encode_json(session.to_json()), f"{_stem(title)}_session.json"


def _features_npy(
    checkpoint: Checkpoint, opened: OpenPicture, objects: Sequence[ExportedObject], title: str
) -> tuple[bytes, str]:
    return array_file(opened.embedding.tensor.float().cpu().numpy()), f"{_stem(title)}_embedding.npy"


def _features_safetensors(
    checkpoint: Checkpoint, opened: OpenPicture, objects: Sequence[ExportedObject], title: str
) -> tuple[bytes, str]:
    (height, width), (resized_height, resized_width) = opened.embedding.original_size, opened.embedding.input_size
    about = {"original_size": f"{height} {width}", "input_size": f"{resized_height} {resized_width}"}
    about |= {"checkpoint": checkpoint.name, "encoder": opened.embedding.revision}
    tensors = {"image_embeddings": np.ascontiguousarray(opened.embedding.tensor.float().cpu().numpy())}
    return safetensors.numpy.save(tensors, metadata=about), f"{_stem(title)}_embedding.safetensors"


def _tidied(mask: np.ndarray, holes: float, islands: float) -> np.ndarray:
    return remove_small_regions(PackedMask.from_array(mask), holes, islands)[0].to_array() if mask.any() else mask


def _stem(title: str) -> str:
    return PurePath(title).stem or "picture"


WITHOUT_OBJECTS = ("background", "session", "npy", "safetensors")
FORMATS = {
    "background": _background,
    "session": _session,
    "npy": _features_npy,
    "safetensors": _features_safetensors,
}
