"""LVIS v1: nouns and all their instances in COCO pictures, and nouns that a picture surely does not show.

LVIS is annotated noun by noun: of each picture only some of its 1203 categories were looked for. Those found have
instances; `neg_category_ids` were looked for and are not there; about all others nothing is known. Where not every
instance was drawn (`not_exhaustive_category_ids`) a union of masks would be wrong, so these nouns are left out.

Source: Gupta, Dollár & Girshick 2019, "LVIS: A Dataset for Large Vocabulary Instance Segmentation"; files of v1.
"""

import os
import re
from collections import defaultdict
from pathlib import Path, PurePosixPath

from sam_hf.data.text_samples import TextSample, annotated_sample, read_json

__all__ = ["category_phrase", "read_lvis"]

FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}


def read_lvis(
    root: str | os.PathLike, split: str = "val", images: str | os.PathLike | None = None, absent: bool = True
) -> list[TextSample]:
    """Reads a split.

    Args:
        root: Folder with `lvis_v1_{split}.json`.
        split: "val" or "train"; the pictures of either lie in both train2017 and val2017.
        images: Folder that holds train2017 and val2017; None: `root`, `root`/images or `root`/coco.
        absent: Also give the nouns that are surely not there.

    Returns:
        One sample per picture and noun with a mask per instance, present nouns first, picture by picture. The group
        is how often the noun occurs in LVIS: "rare", "common" or "frequent".

    Raises:
        ValueError: If a file is missing or broken.
    """
    root = Path(root)
    path = root / f"lvis_v1_{split}.json"
    content = read_json(path)
    folder = _picture_folder(root, images)
    try:
        categories = {category["id"]: category for category in content["categories"]}
        homonyms = defaultdict(set)
        for key, category in categories.items():
            homonyms[category_phrase(category["name"])].add(key)
        drawn: dict[int, dict[int, list]] = defaultdict(lambda: defaultdict(list))
        for annotation in content["annotations"]:
            drawn[annotation["image_id"]][annotation["category_id"]].append(annotation["segmentation"])
        samples = []
        for image in sorted(content["images"], key=lambda image: image["id"]):
            present, missing = _nouns(image, drawn[image["id"]], categories, homonyms)
            samples += [_sample(image, category, masks, folder) for category, masks in present]
            samples += [_sample(image, category, [], folder) for category in missing if absent]
        return samples
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"root: expected LVIS v1 annotations in {os.fspath(path)!r}; something is missing in them: {error!r}"
        ) from None


def _nouns(
    image: dict, drawn: dict[int, list], categories: dict[int, dict], homonyms: dict[str, set[int]]
) -> tuple[list[tuple[dict, list]], list[dict]]:
    """What a picture shows, each with its segmentations, and what it does not.

    "bow" is a weapon and a ribbon: it names both, is unsure if either is, and absent only if both are.
    """
    unsure, negative = set(image.get("not_exhaustive_category_ids", ())), set(image.get("neg_category_ids", ()))
    present: dict[str, tuple[dict, list]] = {}
    for key, segmentations in drawn.items():
        words = category_phrase(categories[key]["name"])
        if not homonyms[words] & unsure:
            present.setdefault(words, (categories[key], []))[1].extend(segmentations)
    missing = {category_phrase(categories[key]["name"]): categories[key] for key in sorted(negative)}
    return list(present.values()), [category for words, category in missing.items() if homonyms[words] <= negative]


def category_phrase(name: str) -> str:
    """The words of a category: underscores are spaces, and what stands in brackets tells homonyms apart.

    "bow_(weapon)" -> "bow", "alarm_clock" -> "alarm clock".
    """
    return " ".join(re.sub(r"\(.*?\)", " ", name.replace("_", " ")).split())


def _picture_folder(root: Path, images: str | os.PathLike | None) -> Path:
    places = [root, root / "images", root / "coco"] if images is None else [Path(images)]
    for place in places:
        if (place / "val2017").is_dir() or (place / "train2017").is_dir():
            return place
    raise ValueError(f"images: expected a folder with train2017 and val2017, found none in {os.fspath(places[0])!r}")


def _sample(image: dict, category: dict, segmentations: list, folder: Path) -> TextSample:
    size = (int(image["height"]), int(image["width"]))
    # The address ends in the picture's split and name, such as val2017/000000397133.jpg.
    path = folder.joinpath(*PurePosixPath(image["coco_url"]).parts[-2:])
    group = FREQUENCIES.get(category.get("frequency"), "other")
    return annotated_sample(category_phrase(category["name"]), int(image["id"]), group, path, size, segmentations)
