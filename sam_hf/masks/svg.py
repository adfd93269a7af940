"""Labelled masks as an SVG drawing: one path per mask, filled by the even-odd rule, with its name as the title."""

from collections.abc import Sequence
from xml.sax.saxutils import escape

import numpy as np

from sam_hf.masks.labeled_mask import LabeledMask, check_sizes, clean_text
from sam_hf.masks.polygons import mask_to_polygons


def to_svg(masks: Sequence[LabeledMask], size: Sequence[int], image_name: str = "") -> str:
    """An SVG document of the picture's size in its pixels; nothing in it is fetched or run.

    An empty mask has no path.

    Args:
        masks: A later one lies on top.
        size: (H,W) of the picture.
        image_name: Of its file, for the title.

    Raises:
        ValueError: If a mask has another size.
    """
    height, width = check_sizes(masks, size)
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" fill-rule="evenodd" fill-opacity="0.5" stroke-width="1">',
        f"<title>{escape(clean_text(image_name))}</title>",
    ]
    for place, one in enumerate(masks, start=1):
        outlines = [ring for polygon in mask_to_polygons(one.mask, one.detail) for ring in polygon.rings]
        if outlines:
            path = "".join(map(_path, outlines))
            # The rule again, since programs that copy a path leave its parent's attributes behind.
            attributes = f'id="object-{place}" fill="{one.color}" stroke="{one.color}" fill-rule="evenodd"'
            lines.append(f'<path {attributes} d="{path}"><title>{escape(one.label)}</title></path>')
    return "\n".join([*lines, "</svg>", ""])


def _path(ring: np.ndarray) -> str:
    corners = [f"{_number(x)} {_number(y)}" for x, y in ring.tolist()]
    return f"M{'L'.join(corners)}Z"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.2f}"
