"""Objects on a picture as files that other programs read, and masks made tidy before."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from sam_hf.inference import json_fields as read
from sam_hf.inference.result_files import encode_json, encode_png
from sam_hf.inference.session_format import LONGEST_NAME, MOST_OBJECTS, PromptSession, SessionObject
from sam_hf.masks import rle as run_lengths
from sam_hf.masks.boxes import mask_to_xywh
from sam_hf.masks.drawing import cut_out
from sam_hf.masks.formats import EXPORTS, export, to_zip, union
from sam_hf.masks.labeled_mask import LabeledMask
from sam_hf.masks.packed import PackedMask
from sam_hf.masks.polygons import mask_to_polygons
from sam_hf.masks.regions import remove_small_regions
from sam_hf.ui.checkpoints import Checkpoint
from sam_hf.ui.pictures import OpenPicture
from sam_hf.ui.reading import clean_name

# What one request may ask for: objects times the picture's pixels, runs of all masks, pixels of all boxes.
MOST_PIXELS_OF_MASKS, MOST_RUNS, MOST_PIXELS_OF_CUTOUTS = 10**10, 2_000_000, 600_000_000
MOST_REPLAYED = 4096  # steps of a session


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


class Asked(NamedTuple):
    """What is to be exported.

    Attributes:
        checkpoint: Whose embedding it is.
        opened: The picture.
        kept: The objects as a session keeps them; each has its RLE.
        scores: Of each, or None.
        title: What the picture is called.
    """

    checkpoint: Checkpoint
    opened: OpenPicture
    kept: list[SessionObject]
    scores: list[float | None]
    title: str

    def masks(self) -> list[LabeledMask]:
        """The objects as masks with names."""
        return [one.labeled(score) for one, score in zip(self.kept, self.scores, strict=True)]


def export_objects(
    checkpoint: Checkpoint, opened: OpenPicture, objects: Any, file_format: Any, name: Any
) -> tuple[bytes, str]:
    """See `Api.export`.

    Returns:
        The file and its name.

    Raises:
        ValueError: If an object or the format is wrong, or there is nothing to export.
    """
    if not isinstance(file_format, str) or file_format not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}; got {read.shown(file_format)}")
    title = clean_name(read.text(name or "", "name", LONGEST_NAME)) or opened.file.name or "picture"
    asked = Asked(checkpoint, opened, *_read_objects(objects, opened.file.size), title)
    if file_format in MORE_FORMATS:
        return MORE_FORMATS[file_format](asked)
    if not asked.kept:
        raise ValueError(f"objects: expected at least one for the format {file_format}, got none")
    picture = opened.file.rgb() if file_format == "cutout" else None
    made = export(file_format, asked.masks(), picture, opened.file.size, title)
    return made.content, made.name


def _read_objects(objects: Any, size: tuple[int, int]) -> tuple[list[SessionObject], list[float | None]]:
    kept, scores = [], []
    given = read.items([] if objects is None else objects, "objects", MOST_OBJECTS)
    _check_count(len(given), size)
    for index, value in enumerate(given):
        path = f"objects[{index}]"
        if not isinstance(value, Mapping):
            raise ValueError(f"{path}: expected an object, got {read.shown(value)}")
        score = value.get("score")
        scores.append(None if score is None else read.number(score, f"{path}.score", -10, 10))
        one = SessionObject.from_json({key: item for key, item in value.items() if key != "score"}, size, path)
        if one.rle is None:
            raise ValueError(f"{path}.rle: missing; it is the mask that is exported")
        kept.append(one)
    _check_runs([one.rle for one in kept])
    return kept, scores


def check_replay(session: PromptSession) -> None:
    """Refuses a session that would keep the server busy for many minutes.

    Raises:
        ValueError: If it has too many steps, or too many objects for so large a picture.
    """
    steps = sum(len(one.steps) for one in session.objects)
    if steps > MOST_REPLAYED:
        raise ValueError(f"session: expected at most {MOST_REPLAYED} steps in all, got {steps}; try `sam-hf replay`")
    _check_count(len(session.objects), session.size)
    _check_runs([one.rle for one in session.objects if one.rle is not None])


def _check_count(count: int, size: Sequence[int]) -> None:
    """Refuses what would keep the server busy for many minutes."""
    most = MOST_PIXELS_OF_MASKS // (size[0] * size[1])
    if count > most:
        raise ValueError(f"objects: expected at most {most} at once in a picture of this size, got {count}")


def _check_runs(masks: Sequence[Mapping[str, Any]]) -> None:
    """Refuses mere noise; of masks that `rle.checked` has passed."""
    if sum(map(run_lengths.run_count, masks)) > MOST_RUNS:
        raise ValueError("objects: their outlines are too ragged to be written together; fewer at once will do")


def _background(asked: Asked) -> tuple[bytes, str]:
    size = asked.opened.file.size
    if asked.kept:
        mask = union(asked.masks(), size)
    else:
        whole = np.array([0, 0, size[1], size[0]])
        found = asked.checkpoint.predictor.decode(asked.opened.embedding, box=whole)
        mask = found.masks[int(found.scores.argmax())]
    return encode_png(cut_out(asked.opened.file.rgb(), mask, tight=False)), f"{_stem(asked)}_without_background.png"


def _session(asked: Asked) -> tuple[bytes, str]:
    file = asked.opened.file
    session = PromptSession(file.size, tuple(asked.kept), asked.checkpoint.name, asked.title, file.sha256)
    return encode_json(session.to_json()), f"{_stem(asked)}_session.json"


def _zip(asked: Asked) -> tuple[bytes, str]:
    if not asked.kept:
        raise ValueError("objects: expected at least one for the format zip, got none")
    cut = sum(run_lengths.box_pixels(one.rle) for one in asked.kept)
    if cut > MOST_PIXELS_OF_CUTOUTS:
        raise ValueError(
            f"objects: their cut-outs would have {cut // 10**6} megapixels, at most {MOST_PIXELS_OF_CUTOUTS // 10**6} "
            "go into a ZIP: export fewer objects at once, or another format"
        )
    file, session = asked.opened.file, _session(asked)[0]
    return to_zip(asked.masks(), file.rgb(), file.size, asked.title, {"session.json": session}), f"{_stem(asked)}.zip"


def _features_npy(asked: Asked) -> tuple[bytes, str]:
    return array_file(asked.opened.embedding.tensor.float().cpu().numpy()), f"{_stem(asked)}_embedding.npy"


def _features_safetensors(asked: Asked) -> tuple[bytes, str]:
    embedding = asked.opened.embedding
    about = {name: " ".join(map(str, getattr(embedding, name))) for name in ("original_size", "input_size")}
    about |= {"checkpoint": asked.checkpoint.name, "encoder": embedding.revision}
    tensors = {"image_embeddings": np.ascontiguousarray(embedding.tensor.float().cpu().numpy())}
    return safetensors.numpy.save(tensors, metadata=about), f"{_stem(asked)}_embedding.safetensors"


def _tidied(mask: np.ndarray, holes: float, islands: float) -> np.ndarray:
    return remove_small_regions(PackedMask.from_array(mask), holes, islands)[0].to_array() if mask.any() else mask


def _stem(asked: Asked) -> str:
    return PurePath(asked.title).stem or "picture"


MORE_FORMATS: dict[str, Callable[[Asked], tuple[bytes, str]]] = {
    "zip": _zip,
    "session": _session,
    "background": _background,
    "npy": _features_npy,
    "safetensors": _features_safetensors,
}
FORMATS = tuple(dict.fromkeys([*EXPORTS, *MORE_FORMATS]))
