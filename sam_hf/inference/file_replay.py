"""One prompt session and one image file in; masks, overlay, a JSON record and files of annotation tools out.

An image called `photo` gives `photo_overlay.png`, the folder `photo_masks` with a picture per object, files such as
`photo_coco.json` for the formats that were asked for, and `photo_replay.json`.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sam_hf.inference.image_files import open_image
from sam_hf.inference.predictor import SamPredictor
from sam_hf.inference.result_files import encode_json, encode_png, masks_folder, write_together
from sam_hf.inference.session import PromptSession, ReplayedObject, replay
from sam_hf.masks import drawing, rle
from sam_hf.masks.boxes import mask_to_xywh
from sam_hf.masks.formats import export, export_suffix, mask_png
from sam_hf.masks.labeled_mask import safe_file_name
from sam_hf.model.image_loading import as_bytes, load_image_tensor

if TYPE_CHECKING:
    from sam_hf.inference.text.segmenter import SamTextSegmenter

OURS = re.compile(r"\d{3,}_.+\.png", re.DOTALL)


def replay_places(folder: Path, name: str, session: PromptSession, formats: Sequence[str]) -> list[Path]:
    """Every file, or folder of files, that is written for an image of that name."""
    suffixes = ["_overlay.png", *(export_suffix(one, len(session.objects)) for one in formats), "_replay.json"]
    return [*(folder / f"{name}{suffix}" for suffix in suffixes), masks_folder(folder, name)]


def replay_file(
    predictor: SamPredictor,
    path: Path,
    session: PromptSession,
    folder: Path,
    name: str,
    formats: Sequence[str] = (),
    segmenter: "SamTextSegmenter | None" = None,
    model_name: str = "",
    report: Callable[[str], None] = lambda step: None,
) -> dict[str, Any]:
    """Does a session again on one image file and writes the results.

    Args:
        predictor: Does the work.
        path: The image.
        session: What to do.
        folder: Existing folder for the results.
        name: On which the names of the results build.
        formats: Names of `sam_hf.masks.formats.EXPORTS`.
        segmenter: See `session.decode_steps`.
        model_name: For the record.
        report: Is told what is being done.

    Returns:
        What went into the JSON file; per object `iou` with the mask that the session has, None where it has none.

    Raises:
        ValueError: If the image cannot be used, has another size than the session's, or a step cannot be answered.
        OSError: If the results cannot be written.
    """
    report("reading")
    image = open_image(path)
    pixels = as_bytes(load_image_tensor(image, where=f"the image {str(path)!r}"))
    picture = pixels.permute(1, 2, 0).numpy()  # (3,H,W) -> (H,W,3)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    report("encoding and decoding")
    try:
        objects = replay(predictor, image, session, segmenter)
    except ValueError as error:
        raise ValueError(f"{str(path)!r}: {error}") from error
    report("writing")
    digits = max(3, len(str(len(objects))))
    stems = [f"{place:0{digits}}_{safe_file_name(one.kept.name)}" for place, one in enumerate(objects, start=1)]
    result = {
        "image": str(path),
        "width": session.size[1],
        "height": session.size[0],
        "same_file": None if session.image_sha256 is None else session.image_sha256 == sha256,
        "model": model_name,
        "model_revision": predictor.revision,
        "session_checkpoint": session.checkpoint,
        "objects": [_record(one, f"{stem}.png") for one, stem in zip(objects, stems, strict=True)],
    }
    contents = {folder / f"{name}_overlay.png": encode_png(_overlay(picture, objects))}
    masks = masks_folder(folder, name)
    contents |= {masks / f"{stem}.png": mask_png(one.mask) for one, stem in zip(objects, stems, strict=True)}
    labeled = [one.kept.labeled(one.score, one.rle) for one in objects]
    for one in formats:
        place = folder / f"{name}{export_suffix(one, len(labeled))}"
        contents[place] = export(one, labeled, picture, session.size, path.name).content
    obsolete = [place for place in masks.glob("*.png") if OURS.fullmatch(place.name) and place not in contents]
    contents[folder / f"{name}_replay.json"] = encode_json(result)  # last: where it stands the others do too
    write_together(contents, obsolete)
    return result


def _overlay(picture: np.ndarray, objects: Sequence[ReplayedObject]) -> np.ndarray:
    shown = [one for one in objects if not one.kept.hidden]
    if len(shown) <= len(drawing.PALETTE):
        return drawing.overlay(picture, (one.mask for one in shown))
    shown.sort(key=lambda one: -rle.area(one.rle))
    return drawing.overlay_many(picture, (one.mask for one in shown))


def _record(one: ReplayedObject, mask_file: str) -> dict[str, Any]:
    mask = one.mask
    return {
        "name": one.kept.name,
        "segmentation": dict(one.rle),
        "area": int(mask.sum()),
        "bbox": mask_to_xywh(mask).tolist(),
        "predicted_iou": None if one.score is None else round(one.score, 6),
        "iou": None if one.iou is None else round(one.iou, 6),
        "mask": mask_file,
    }
