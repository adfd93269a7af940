"""Which phrases to ask: synthetic scenes, or a public data set in a folder, by the same name on every command line."""

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ..data.lvis import read_lvis
from ..data.phrasecut import read_phrasecut
from ..data.refcoco import DATA_SETS as REFCOCO
from ..data.refcoco import read_refcoco
from ..data.synthetic import SceneGenerator
from ..data.text_samples import TextSample, by_picture, scene_samples
from .provenance import font_name

__all__ = ["DATA", "INSTANCES", "Pictures", "open_pictures"]

DATA = ("synthetic", *REFCOCO, "phrasecut", "lvis")
# How many instances the phrases of each name: RefCOCO's and the scenes' tell one thing from the others.
INSTANCES = {"synthetic": "one", **dict.fromkeys(REFCOCO, "one"), "phrasecut": "all", "lvis": "all"}
SPLITS = {"synthetic": "test", **dict.fromkeys(REFCOCO, "val"), "phrasecut": "test", "lvis": "val"}
SCENES = 200
# Where phrases of what is not there come from, if not from the data set itself.
OTHERS = "taken from other pictures, at most one for each: "
ABSENT = {
    **dict.fromkeys(REFCOCO, OTHERS + "they name a category of COCO that the picture has no annotation of"),
    "phrasecut": OTHERS + "they name what no phrase about the picture mentions, which may be there all the same",
}


class Pictures(NamedTuple):
    """Phrases, picture by picture.

    Attributes:
        phrases: Of each picture; opened as they are walked through.
        count: How many pictures.
        facts: For the report: which data, which split, which part of it.
    """

    phrases: Iterable[Sequence[TextSample]]
    count: int
    facts: dict


def open_pictures(
    data: str,
    root: str | os.PathLike | None = None,
    *,
    split: str | None = None,
    split_by: str | None = None,
    images: str | os.PathLike | None = None,
    limit: int | None = None,
    seed: int = 0,
    size: int = 256,
    font: str | os.PathLike | bool | None = None,
) -> Pictures:
    """Opens phrases to evaluate on.

    Args:
        data: One of `DATA`.
        root: Folder of a public data set; see its reader.
        split: Of the data set; None: test scenes, RefCOCO's val, PhraseCut's test, LVIS' val.
        split_by: Of RefCOCO, see `read_refcoco`.
        images: Where the pictures are, if not in the usual place below `root`.
        limit: At most so many pictures, drawn by `seed`; None: all, or 200 scenes.
        seed: Of that draw, or of the scenes.
        size: Side of the scenes in pixels.
        font: Of the scenes, see `SceneGenerator`.

    Raises:
        ValueError: An argument is unknown or missing, the reader refuses the files, or a picture is not there.
        FileNotFoundError: There is no emoji font for scenes and `font` is not False.
    """
    if data not in DATA:
        raise ValueError(f"data: expected one of {', '.join(DATA)}, got {data!r}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit: expected a positive number, got {limit}")
    split = SPLITS[data] if split is None else split
    facts = {"data": data, "split": split, "seed": seed, "absent_phrases": ABSENT.get(data)}
    if data == "synthetic":
        generator = SceneGenerator(size=size, split=split, seed=seed, font=font)
        count = SCENES if limit is None else limit
        scenes = (scene_samples(generator(index), index) for index in range(count))
        # A scene may have nothing to say: no object that a phrase tells from the others, nothing absent.
        return Pictures(filter(None, scenes), count, facts | {"size": size, "font": font_name(font)})
    if root is None:
        raise ValueError(f"root: expected the folder of {data}, got none")
    if data in REFCOCO:
        samples = read_refcoco(root, data, split, split_by, images, absent=True)
        facts["split_by"] = split_by or REFCOCO[data][0]
    elif data == "phrasecut":
        samples = read_phrasecut(root, split, images, absent=True)
    else:
        samples = read_lvis(root, split, images)
    spoken = [sample for sample in samples if sample.phrase.strip()]
    pictures = list(by_picture(spoken))
    facts |= {"blank_phrases": len(samples) - len(spoken), "pictures_in_split": len(pictures)}
    if limit is not None and limit < len(pictures):
        chosen = np.sort(np.random.default_rng(seed).choice(len(pictures), limit, replace=False))
        pictures = [pictures[index] for index in chosen]
    _check_files(pictures)
    return Pictures(pictures, len(pictures), facts)


def _check_files(pictures: Sequence[Sequence[TextSample]]) -> None:
    """A picture that is not there is better noticed now than after hours."""
    missing = [samples[0].path for samples in pictures if samples[0].path and not samples[0].path.is_file()]
    if missing:
        raise ValueError(
            f"images: {len(missing)} of {len(pictures)} pictures do not exist, such as {os.fspath(missing[0])!r}"
        )
