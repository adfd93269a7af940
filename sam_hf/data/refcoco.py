"""RefCOCO, RefCOCO+ and RefCOCOg: expressions by which people told one object of a COCO picture from the others.

What is read is what everybody has on disk: `refs(unc).p` (or google, umd), `instances.json` and the pictures of
train2014. The expressions come as a pickle; it is read without running it (`plain_pickle`).

Source: Yu et al. 2016 (RefCOCO, RefCOCO+), Mao et al. 2016 (RefCOCOg); layout of lichengunc/refer.
"""

import os
from collections import defaultdict
from pathlib import Path

from sam_hf.data.plain_pickle import read_plain_pickle
from sam_hf.data.text_samples import TextSample, annotated_sample, read_json, with_absent_phrases

__all__ = ["DATA_SETS", "read_refcoco"]

# Who split each data set, the usual one first.
DATA_SETS = {"refcoco": ("unc", "google"), "refcoco+": ("unc",), "refcocog": ("umd", "google")}
PICTURE_FOLDERS = ("images/mscoco/images/train2014", "images/train2014", "train2014", "images")


def read_refcoco(
    root: str | os.PathLike,
    dataset: str = "refcoco",
    split: str = "val",
    split_by: str | None = None,
    images: str | os.PathLike | None = None,
    absent: bool = False,
) -> list[TextSample]:
    """Reads a split.

    Args:
        root: Folder that holds the folders "refcoco", "refcoco+", "refcocog", or one of these itself.
        dataset: Which of them.
        split: "train", "val", "testA", "testB" ("test" with RefCOCOg); "test" takes testA and testB together.
        split_by: "unc", "google" or "umd"; None: the usual one, unc or, for RefCOCOg, umd.
        images: Folder of the pictures; None: train2014 in one of the usual places in or beside `root`.
        absent: After the phrases of each picture also give one about another picture, which names a category of COCO
            that is not in this one. The data set itself has none.

    Returns:
        One sample per sentence, with the one mask that it names, picture by picture. The group is the split (or
        "absent").

    Raises:
        ValueError: If an argument is unknown, a file is missing or broken, or nothing is in the split.
    """
    if dataset not in DATA_SETS:
        raise ValueError(f"dataset: expected one of {', '.join(DATA_SETS)}, got {dataset!r}")
    if split_by is None:
        split_by = DATA_SETS[dataset][0]
    if split_by not in DATA_SETS[dataset]:
        raise ValueError(f"split_by: expected one of {', '.join(DATA_SETS[dataset])} for {dataset}, got {split_by!r}")
    folder = _annotation_folder(Path(root), dataset)
    refs = read_plain_pickle(folder / f"refs({split_by}).p")
    instances = read_json(folder / "instances.json")
    pictures = _picture_folder(folder, images)
    try:
        chosen = [ref for ref in refs if _in_split(ref["split"], split)]
        sizes = {image["id"]: image for image in instances["images"]}
        annotations = {annotation["id"]: annotation for annotation in instances["annotations"]}
        names = {category["id"]: category["name"] for category in instances["categories"]}
        present = defaultdict(set)
        for annotation in annotations.values():
            present[annotation["image_id"]].add(names[annotation["category_id"]])
        samples, kinds = [], []
        for ref in sorted(chosen, key=lambda ref: (ref["image_id"], ref["ref_id"])):
            annotation = annotations[ref["ann_id"]]
            said = _samples_of(ref, annotation, sizes[ref["image_id"]], pictures)
            name = names[annotation["category_id"]]
            kinds += [name if f" {name} " in f" {sample.phrase.lower()} " else None for sample in said]
            samples += said
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"root: expected the files of {dataset} in {os.fspath(folder)!r}; something is missing in them: {error!r}"
        ) from None
    if not samples:
        known = sorted({ref["split"] for ref in refs})
        raise ValueError(f"split: expected one of {', '.join(known)} in {dataset} ({split_by}), got {split!r}")
    return with_absent_phrases(samples, kinds, present) if absent else samples


def _annotation_folder(root: Path, dataset: str) -> Path:
    for folder in (root / dataset, root):
        if (folder / "instances.json").is_file():
            return folder
    raise ValueError(
        f"root: expected {dataset}/instances.json and {dataset}/refs(...).p below {os.fspath(root)!r}, found none"
    )


def _picture_folder(folder: Path, images: str | os.PathLike | None) -> Path:
    if images is not None:
        if not Path(images).is_dir():
            raise ValueError(f"images: expected a folder of COCO's train2014 pictures, got {os.fspath(images)!r}")
        return Path(images)
    places = [base / name for base in (folder, folder.parent) for name in PICTURE_FOLDERS]
    for place in places:
        if place.is_dir():
            return place
    raise ValueError(
        f"images: expected COCO's train2014 pictures in {os.fspath(folder.parent / PICTURE_FOLDERS[0])!r} or "
        f"{os.fspath(folder.parent / 'train2014')!r}, found neither; say where they are"
    )


def _in_split(found: str, wanted: str) -> bool:
    return found == wanted or (wanted == "test" and found.startswith("test"))


def _samples_of(ref: dict, annotation: dict, image: dict, pictures: Path) -> list[TextSample]:
    size = (int(image["height"]), int(image["width"]))
    # The name in `ref` has the annotation's number at its end; the picture's is in instances.json.
    path = pictures / Path(image["file_name"]).name
    said = [sentence.get("sent") or sentence["raw"] for sentence in ref["sentences"]]
    masks = [annotation["segmentation"]]
    return [annotated_sample(phrase, int(ref["image_id"]), ref["split"], path, size, masks) for phrase in said]
