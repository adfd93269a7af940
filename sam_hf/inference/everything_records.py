"""Masks that everything mode has found: duplicates among crops, small regions, and the records users get.

Source: segment-anything 1.0's `SamAutomaticMaskGenerator.generate` and `postprocess_small_regions`; the layout of the
records is that of SA-1B's annotations.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from sam_hf.masks import rle
from sam_hf.masks.packed import PackedMask
from sam_hf.masks.regions import remove_small_regions


@dataclass(frozen=True, eq=False)
class FoundMask:
    """One mask, original pixels of the whole picture.

    Attributes:
        mask: Its pixels.
        predicted_iou: The model's estimate of its IoU.
        stability_score: IoU of the masks cut above and below the threshold.
        point: xy of the point that was asked about.
        crop_box: xyxy of the crop in which it was found.
    """

    mask: PackedMask
    predicted_iou: float
    stability_score: float
    point: tuple[float, float]
    crop_box: tuple[int, int, int, int]


def suppress_duplicates(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Greedy suppression of boxes.

    In float32, since bfloat16 cannot tell neighbouring pixels apart. torchvision's batched form with a single class,
    as Meta calls it: the plain one orders equal scores differently among many boxes.

    Args:
        boxes: (n,4) xyxy.
        scores: (n,), the better of two duplicates has the higher one.
        threshold: IoU above which two boxes are duplicates.

    Returns:
        Indices of those that stay, best first.
    """
    return batched_nms(boxes.float(), scores.float(), torch.zeros(len(boxes), device=boxes.device), threshold)


def without_duplicates_across_crops(found: Sequence[FoundMask], threshold: float) -> list[FoundMask]:
    """Of duplicates the one from the smallest crop, which has seen it best; smallest crops first."""
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (one.crop_box for one in found)]
    kept = suppress_duplicates(_boxes(found), 1 / torch.tensor(areas), threshold)
    return [found[index] for index in kept.tolist()]


def without_small_regions(
    found: Sequence[FoundMask], hole_area: float, island_area: float, threshold: float
) -> list[FoundMask]:
    """Mend holes and islands; of masks that became duplicates those stay that needed no mending, which come first.

    Args:
        found: The masks.
        hole_area: Holes with fewer pixels are filled.
        island_area: Islands with fewer pixels are dropped.
        threshold: IoU of boxes above which two masks are duplicates.
    """
    mended = [remove_small_regions(one.mask, hole_area, island_area) for one in found]
    found = [replace(one, mask=mask) for one, (mask, _) in zip(found, mended, strict=True)]
    unchanged = torch.tensor([float(not changed) for _, changed in mended])
    return [found[index] for index in suppress_duplicates(_boxes(found), unchanged, threshold).tolist()]


def record(found: FoundMask, output_mode: str) -> dict[str, Any]:
    """One mask in the form of SA-1B's annotations, numbers as Python's own.

    The box is Meta's: from the first to the last pixel, so that a mask of one pixel has width and height 0.

    Args:
        found: The mask.
        output_mode: "binary_mask", "uncompressed_rle" or "coco_rle".
    """
    if output_mode == "binary_mask":
        segmentation = found.mask.to_array()
    else:
        segmentation = rle.encode_packed(found.mask, compress=output_mode == "coco_rle")
    return {
        "segmentation": segmentation,
        "area": found.mask.area,
        "bbox": _xywh(found.mask.box),
        "predicted_iou": found.predicted_iou,
        "point_coords": [list(found.point)],
        "stability_score": found.stability_score,
        "crop_box": _xywh(found.crop_box),
    }


def _xywh(box: tuple[int, int, int, int]) -> list[int]:
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]


def _boxes(found: Sequence[FoundMask]) -> Tensor:
    return torch.tensor([one.mask.box for one in found], dtype=torch.float32).reshape(-1, 4)
