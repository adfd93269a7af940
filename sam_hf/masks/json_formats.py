"""Labelled masks in the formats of annotation tools: COCO, SA-1B, labelme and GeoJSON, as values for JSON.

All take the masks of one picture, its size (H,W) and, where the format has a place for it, the name of its file. What
each format keeps and loses is in docs/formats.md. Coordinates are original pixels, see `polygons` for their frame.
"""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from sam_hf.masks import rle
from sam_hf.masks.boxes import mask_to_xywh, mask_to_xyxy
from sam_hf.masks.labeled_mask import LabeledMask, check_sizes, clean_text, safe_file_name
from sam_hf.masks.mask_pictures import mask_png
from sam_hf.masks.packed import PackedMask
from sam_hf.masks.polygons import INSET, Polygon, TooRagged, mask_to_polygons

LABELME_VERSION = "5.4.1"  # the first with masks in shapes is 5.3
SOFTWARE = "sam_hf"


def to_coco(
    masks: Sequence[LabeledMask], size: Sequence[int], image_name: str = "", polygons: bool = True
) -> dict[str, Any]:
    """COCO's instances: one picture, a category per name, an annotation per mask.

    Args:
        masks: In the order of the annotations' ids.
        size: (H,W) of the picture.
        image_name: Of its file.
        polygons: Polygons, where they can say it: they know no holes, so a mask with holes is in run lengths all the
            same, and so is one that is empty or mere noise. False: compressed run lengths throughout.

    Raises:
        ValueError: If a mask has another size.

    Source: the data format of cocodataset.org; differs in that run lengths do not mean a crowd.
    """
    height, width = check_sizes(masks, size)
    names = list(dict.fromkeys(one.label for one in masks))
    annotations = []
    for place, one in enumerate(masks, start=1):
        mask = one.mask
        annotation: dict[str, Any] = {
            "id": place,
            "image_id": 1,
            "category_id": names.index(one.label) + 1,
            "segmentation": _coco_segmentation(mask, one.detail, polygons),
            "area": int(mask.sum()),
            "bbox": mask_to_xywh(mask).tolist(),
            "iscrowd": 0,
        }
        if one.score is not None:
            annotation["score"] = round(float(one.score), 6)
        annotations.append(annotation)
    return {
        "info": {"description": SOFTWARE, "version": "1.0"},
        "licenses": [],
        "images": [{"id": 1, "width": width, "height": height, "file_name": file_name(image_name)}],
        "categories": [{"id": place, "name": name, "supercategory": ""} for place, name in enumerate(names, start=1)],
        "annotations": annotations,
    }


def to_sa1b(masks: Sequence[LabeledMask], size: Sequence[int], image_name: str = "", image_id: int = 1) -> dict:
    """SA-1B's layout, as everything mode writes it: boxes from the first to the last pixel; names are `label`.

    What is not known of a mask is null: its score, its stability; `point_coords` is empty then.

    Args:
        masks: In the order of the ids.
        size: (H,W) of the picture.
        image_name: Of its file.
        image_id: Of the picture.

    Raises:
        ValueError: If a mask has another size.

    Source: §5 of the paper and the data set card.
    """
    height, width = check_sizes(masks, size)
    annotations = []
    for place, one in enumerate(masks, start=1):
        packed = PackedMask.from_array(one.mask)
        left, top, right, bottom = packed.box
        annotations.append(
            {
                "id": place,
                "segmentation": rle.encode_packed(packed),
                "area": packed.area,
                "bbox": [float(side) for side in (left, top, right - left, bottom - top)],
                "predicted_iou": None if one.score is None else round(float(one.score), 6),
                "stability_score": None if one.stability_score is None else round(float(one.stability_score), 6),
                "crop_box": [0.0, 0.0, float(width), float(height)],
                "point_coords": [] if one.point is None else [[float(value) for value in one.point]],
                "label": one.label,
            }
        )
    image = {"image_id": image_id, "width": width, "height": height, "file_name": file_name(image_name)}
    return {"image": image, "annotations": annotations}


def to_labelme(masks: Sequence[LabeledMask], size: Sequence[int], image_name: str = "") -> dict[str, Any]:
    """labelme's file: polygons, those of one mask under one `group_id`; a mask with holes is a picture.

    labelme draws outlines together with the pixels they run through, so they run through the mask's own. An empty mask
    has no shape. The picture itself is not in the file: labelme looks for `imagePath` beside it.

    Args:
        masks: In the order of the shapes.
        size: (H,W) of the picture.
        image_name: Of its file.

    Raises:
        ValueError: If a mask has another size.

    Source: `shapes_to_label` of labelme 5.
    """
    height, width = check_sizes(masks, size)
    shapes = []
    for group, one in enumerate(masks, start=1):
        mask = one.mask
        polygons = mask_to_polygons(mask, one.detail, INSET)
        shape = {"label": one.label, "group_id": group, "description": "", "flags": {}}
        if any(polygon.holes for polygon in polygons):
            left, top, right, bottom = mask_to_xyxy(mask).tolist()
            png = mask_png(mask[top:bottom, left:right])
            corners = [[float(left), float(top)], [float(right - 1), float(bottom - 1)]]  # both ends inside
            picture = base64.b64encode(png).decode("ascii")
            shapes.append(shape | {"shape_type": "mask", "points": corners, "mask": picture})
        else:
            shapes.extend(
                shape | {"shape_type": "polygon", "points": polygon.outer.tolist(), "mask": None}
                for polygon in polygons
            )
    return {
        "version": LABELME_VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": file_name(image_name),
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }


def to_geojson(masks: Sequence[LabeledMask], size: Sequence[int], image_name: str = "") -> dict[str, Any]:
    """A GeoJSON collection with a feature per mask, in pixels instead of degrees: x right, y down.

    Outlines turn as the standard wants it (counterclockwise where y goes up), holes the other way round. An empty mask
    has no geometry.

    Args:
        masks: In the order of the features.
        size: (H,W) of the picture.
        image_name: Of its file.

    Raises:
        ValueError: If a mask has another size.

    Source: RFC 7946; differs in the units of coordinates, for which it asks for an arrangement between those involved.
    """
    height, width = check_sizes(masks, size)
    features = []
    for place, one in enumerate(masks, start=1):
        mask = one.mask
        polygons = mask_to_polygons(mask, one.detail)
        left, top, right, bottom = mask_to_xyxy(mask).tolist()
        feature: dict[str, Any] = {"type": "Feature", "id": place, "geometry": _geometry(polygons)}
        if polygons:
            feature["bbox"] = [left, top, right, bottom]
        score = None if one.score is None else round(float(one.score), 6)
        properties = {"name": one.label, "color": one.color, "score": score, "area": int(mask.sum())}
        features.append(feature | {"properties": properties})
    image = {"file_name": file_name(image_name), "width": width, "height": height}
    frame = "pixels; x right, y down, the corner of the first pixel is (0, 0)"
    return {"type": "FeatureCollection", "features": features, SOFTWARE: {"image": image, "coordinates": frame}}


def file_name(name: str) -> str:
    """The name of a picture's file as it goes into an annotation file, which others join to a folder: never a path."""
    stem, dot, suffix = clean_text(name).replace("\\", "/").rpartition("/")[2].rpartition(".")
    if not stem or not suffix.isalnum() or len(suffix) > 8:
        whole = stem + dot + suffix
        return safe_file_name(whole) if whole.strip(" .") else "image"
    return f"{safe_file_name(stem)}.{suffix}"


def _coco_segmentation(mask: np.ndarray, detail: float, polygons: bool) -> Any:
    try:
        found = mask_to_polygons(mask, detail) if polygons else []
    except TooRagged:
        found = []
    if not found or any(polygon.holes for polygon in found):
        return rle.encode(mask)
    return [polygon.outer.ravel().tolist() for polygon in found]


def _geometry(polygons: Sequence[Polygon]) -> dict[str, Any] | None:
    if not polygons:
        return None
    closed = [[np.vstack([ring, ring[:1]]).tolist() for ring in polygon.rings] for polygon in polygons]
    if len(closed) == 1:
        return {"type": "Polygon", "coordinates": closed[0]}
    return {"type": "MultiPolygon", "coordinates": closed}
