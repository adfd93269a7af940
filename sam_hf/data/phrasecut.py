"""PhraseCut: phrases (name, attributes, relations) of Visual Genome pictures with all instances that they name.

Source: Wu et al. 2020, "PhraseCut: Language-based Image Segmentation in the Wild"; files of VGPhraseCut_v0. A polygon
    is drawn as the benchmark's own evaluation draws it: corners cut to whole pixels, the outline inside.
"""

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from sam_hf.data.annotated_image import AnnotatedImage
from sam_hf.data.text_samples import TextSample, read_json, with_absent_phrases

__all__ = ["SPLITS", "polygons_mask", "read_phrasecut"]

SPLITS = ("train", "val", "test", "miniv")


def read_phrasecut(
    root: str | os.PathLike, split: str = "test", images: str | os.PathLike | None = None, absent: bool = False
) -> list[TextSample]:
    """Reads a split.

    Args:
        root: Folder with `refer_{split}.json` and `image_data_split.json` (or `image_data_split3000.json`).
        split: "train", "val", "test" or "miniv".
        images: Folder of the pictures, named by their Visual Genome ids; None: `images` in `root`.
        absent: After the phrases of each picture also give one about another picture, naming what no phrase about this
            one mentions; that it is really absent is not certain. The data set itself has none.

    Returns:
        One sample per phrase with a mask per instance, picture by picture. The group is what tells the instances from
        the rest: "name", "attribute", "relation" or "verbose"; "other" where that is not said; or "absent".

    Raises:
        ValueError: If the split is unknown, or a file is missing or broken.
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    root = Path(root)
    pictures = root / "images" if images is None else Path(images)
    if not pictures.is_dir():
        raise ValueError(f"images: expected a folder of Visual Genome pictures, {os.fspath(pictures)!r} is none")
    tasks = read_json(root / f"refer_{split}.json")
    listed = sorted(root.glob("image_data_split*.json"))
    if not listed:
        raise ValueError(f"root: expected image_data_split.json in {os.fspath(root)!r}, found none")
    try:
        sizes = {image["image_id"]: (int(image["height"]), int(image["width"])) for image in read_json(listed[0])}
        ordered = sorted(tasks, key=lambda task: task["image_id"])  # a stable sort: tasks keep their order
        samples = [_sample(task, sizes[task["image_id"]], pictures) for task in ordered]
        kinds = [(task.get("phrase_structure") or {}).get("name") for task in ordered]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"root: expected PhraseCut's files in {os.fspath(root)!r}; something is missing in them: {error!r}"
        ) from None
    if not absent:
        return samples
    present = defaultdict(set)
    for sample, kind in zip(samples, kinds, strict=True):
        present[sample.image_id].update((kind, *sample.phrase.lower().split()))
    return with_absent_phrases(samples, kinds, present)


def _sample(task: dict, size: tuple[int, int], pictures: Path) -> TextSample:
    path, polygons = pictures / f"{int(task['image_id'])}.jpg", task["Polygons"]
    picture = AnnotatedImage(f"picture {task['image_id']}", path, size, ())
    return TextSample(
        phrase=task["phrase"],
        image_id=int(task["image_id"]),
        absent=False,
        group=(task.get("phrase_structure") or {}).get("type") or "other",
        path=path,
        open_picture=picture.pixels,
        draw_masks=lambda: [polygons_mask(instance, size) for instance in polygons],
    )


def polygons_mask(polygons: Any, size: tuple[int, int]) -> np.ndarray:
    """Draws one instance.

    Args:
        polygons: Polygons of points [x,y] in pixels; those of a single point are passed over.
        size: (H,W).

    Returns:
        (H,W) bool, the union.

    Raises:
        ValueError: If these are no points.
    """
    height, width = size
    canvas = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(canvas)
    try:
        for polygon in polygons:
            if len(polygon) > 1:
                draw.polygon([(int(x), int(y)) for x, y in polygon], outline=1, fill=1)
    except (TypeError, ValueError):
        raise ValueError(f"Polygons: expected polygons of [x, y] points, got {polygons!r:.80}") from None
    return np.asarray(canvas, dtype=bool)
