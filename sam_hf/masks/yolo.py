"""Labelled masks as YOLO's segmentation labels: a text file with one line per mask, a class and one closed outline.

The format knows neither holes nor several parts. Both are joined to one outline by bridges, there and back along the
same line: what is drawn twice is inside twice, which the even-odd rule of cv2.fillPoly counts as outside, so holes
stay holes; only the pixels under a bridge through the background are drawn.

Source: `verify_image_label`, `polygon2mask` and `merge_multi_segment` of ultralytics 8; differs in joining each part
where it is nearest to all before it, not to the one before it.
"""

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sam_hf.masks.labeled_mask import LabeledMask, check_sizes
from sam_hf.masks.polygons import INSET, TIDY, TooRagged, mask_to_polygons

MOST_JOINED = 2000  # outlines of a mask; joining them takes the square of their number
COMPARED = 2000  # corners of an outline that a bridge may begin at


class YoloLabels(NamedTuple):
    """The files of one picture.

    Attributes:
        labels: Lines `class x1 y1 x2 y2 ...`, coordinates as shares of width and height, in [0,1].
        classes: Names of the classes by their numbers.
        classes_txt: One name per line.
        data_yaml: The file that training is given; expects the folders images/ and labels/ beside it.
    """

    labels: str
    classes: tuple[str, ...]
    classes_txt: str
    data_yaml: str


def to_yolo(masks: Sequence[LabeledMask], size: Sequence[int], classes: Sequence[str] | None = None) -> YoloLabels:
    """YOLO's labels; an empty mask has no line.

    Args:
        masks: In the order of the lines.
        size: (H,W) of the picture.
        classes: Names by number, for labels that agree with those of other pictures; None: those of the masks, in
            order of appearance.

    Raises:
        ValueError: If a mask has another size, or a name that `classes` lacks.
        TooRagged: If a mask has more outlines than `MOST_JOINED`.
    """
    height, width = check_sizes(masks, size)
    names = tuple(dict.fromkeys(one.label for one in masks) if classes is None else classes)
    missing = [one.label for one in masks if one.label not in names]
    if missing:
        raise ValueError(f"classes: expected the names of all masks, {missing[0]!r} is missing")
    digits = max(6, len(str(max(height, width))) + 2)  # a hundredth of a pixel
    lines = []
    for one in masks:
        rings = [ring for polygon in mask_to_polygons(one.mask, one.detail, INSET) for ring in polygon.rings]
        if len(rings) > MOST_JOINED:
            raise TooRagged(f"mask: YOLO joins its {len(rings):,} islands and holes, at most {MOST_JOINED:,}: {TIDY}")
        if rings:
            outline = join_rings(rings) / (width, height)
            numbers = " ".join(f"{value:.{digits}f}" for value in outline.ravel().tolist())
            lines.append(f"{names.index(one.label)} {numbers}\n")
    yaml = ["path: .", "train: images", "val: images", "names:" if names else "names: {}"]
    yaml += [f"  {number}: {_quoted(name)}" for number, name in enumerate(names)]
    return YoloLabels("".join(lines), names, "".join(f"{name}\n" for name in names), "\n".join([*yaml, ""]))


def join_rings(rings: Sequence[np.ndarray]) -> np.ndarray:
    """One ring that runs along all, joined there and back where they are nearest to each other.

    Args:
        rings: (N,2) xy each, at least one; the first is begun with, the rest follow in their order.

    Returns:
        (M,2).
    """
    joined = rings[0]
    for ring in rings[1:]:
        at, begins = _nearest(joined, ring)
        around = np.roll(ring, -begins, axis=0)
        joined = np.concatenate([joined[: at + 1], around, around[:1], joined[at:]])
    return joined


def _nearest(first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    """Which corners of two rings are closest; of long rings only some are compared."""
    steps = [-(-len(ring) // COMPARED) for ring in (first, second)]
    some, others = first[:: steps[0]], second[:: steps[1]]
    distances = ((some[:, None] - others[None]) ** 2).sum(axis=-1)
    at, begins = np.unravel_index(distances.argmin(), distances.shape)
    return int(at) * steps[0], int(begins) * steps[1]


def _quoted(name: str) -> str:
    """A YAML string; JSON's are, but for line breaks of Unicode and signs that YAML wants escaped."""
    return re.sub(
        "[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]",
        lambda found: f"\\u{ord(found[0]):04x}",
        json.dumps(name, ensure_ascii=False),
    )
