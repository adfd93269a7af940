"""One image file in; everything in it out: an overlay, SA-1B's JSON, and pictures of the masks if they are wanted.

The JSON has the layout of SA-1B's files, so that its readers take it; what is not in that layout stands under the key
`sam_hf`. The overlay tints each pixel by the smallest mask there. The index picture holds the `id` of that mask, 0
where there is none: 8 bits with a palette up to 255 masks, 16 bits beyond.

Source: layout of SA-1B (paper §5, data set card): `image` and `annotations`, scores as fractions, boxes xywh.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sam_hf.inference.image_files import open_image
from sam_hf.inference.mask_generation import SamAutomaticMaskGenerator
from sam_hf.inference.result_files import encode_json, encode_png, masks_folder, write_together
from sam_hf.inference.text.naming import name_masks
from sam_hf.masks import drawing, rle
from sam_hf.masks.mask_pictures import index_picture
from sam_hf.model.image_loading import as_bytes, load_image_tensor

SA1B_NAME = re.compile(r"sa_(\d+)")


def everything_file(
    generator: SamAutomaticMaskGenerator,
    path: Path,
    folder: Path,
    name: str,
    number: int = 1,
    index: bool = False,
    masks: bool = False,
    about: dict[str, Any] | None = None,
    text: Sequence[str] = (),
    clip: Any = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Finds everything in one image file and writes the results.

    Args:
        generator: Does the work; its records hold RLE.
        path: The image.
        folder: Existing folder for the results.
        name: On which the names of the results build.
        number: `image_id` of an image that is not called sa_<id>.
        index: Also write the index picture.
        masks: Also write one picture per mask, into a folder of their own.
        about: What else goes under the key `sam_hf`.
        text: Names that the masks get, see `SamAutomaticMaskGenerator.generate`; none: they get none.
        clip: See there.
        report: Is told how many prompts are done, of how many.

    Returns:
        What went into the JSON file.

    Raises:
        ValueError: If the image or a name cannot be used.
        OSError: If the results cannot be written.
    """
    image = open_image(path)
    pixels = as_bytes(load_image_tensor(image, where=f"the image {str(path)!r}"))
    picture = pixels.permute(1, 2, 0).numpy()  # (3,H,W) -> (H,W,3)
    records: list[dict[str, Any]] = []
    for progress in generator.stream(image, previews=False):
        report(progress.done, progress.total)
        records = progress.records  # the last ones are all
    if text:
        records = name_masks(generator.prepare_names(text, clip), pixels, records, text)
    records = sorted(records, key=lambda record: -record["area"])  # the order of drawing, and of the ids
    named = SA1B_NAME.fullmatch(path.stem)
    result = {
        "image": {
            "image_id": int(named[1]) if named else number,
            "width": picture.shape[1],
            "height": picture.shape[0],
            "file_name": path.name,
        },
        "annotations": [_annotation(record, place) for place, record in enumerate(records, start=1)],
        "sam_hf": {"source": str(path)} | (about or {}),
    }
    contents = dict(_pictures(picture, records, folder, name, index, masks))
    obsolete = _other_masks(masks_folder(folder, name), contents) if masks else []
    contents[folder / f"{name}.json"] = encode_json(result, indent=None)  # last: where it stands the pictures do too
    write_together(contents, obsolete)
    return result


def _annotation(record: dict[str, Any], place: int) -> dict[str, Any]:
    annotation = {
        "id": place,
        "segmentation": record["segmentation"],
        "area": int(record["area"]),
        "bbox": [float(side) for side in record["bbox"]],
        "predicted_iou": round(float(record["predicted_iou"]), 6),
        "stability_score": round(float(record["stability_score"]), 6),
        "crop_box": [float(side) for side in record["crop_box"]],
        "point_coords": [[float(value) for value in point] for point in record["point_coords"]],
    }
    if "label" in record:
        annotation |= {"label": record["label"], "label_probability": round(record["label_probability"], 6)}
    return annotation


def _pictures(
    picture: np.ndarray, records: Sequence[dict[str, Any]], folder: Path, name: str, index: bool, masks: bool
) -> Iterator[tuple[Path, bytes]]:
    """Place and bytes of each picture, largest masks first; one mask at a time is decoded."""

    def decoded() -> Iterator[np.ndarray]:
        return (rle.decode(record["segmentation"]) for record in records)

    yield folder / f"{name}_overlay.png", encode_png(drawing.overlay_many(picture, decoded()))
    if index:
        numbers = drawing.index_map(decoded(), picture.shape[:2])
        colors = drawing.distinct_colors(numbers, len(records))
        yield folder / f"{name}_index.png", encode_png(index_picture(numbers, colors))
    digits = max(3, len(str(len(records))))
    for place, mask in enumerate(decoded() if masks else [], start=1):
        yield masks_folder(folder, name) / f"{place:0{digits}}.png", encode_png(mask * np.uint8(255))


def _other_masks(folder: Path, contents: dict[Path, bytes]) -> list[Path]:
    """Masks of an earlier run that found more."""
    return [place for place in folder.glob("*.png") if place.stem.isdecimal() and place not in contents]
