"""What can be chosen in everything mode: Meta's names and defaults, presets, and what is refused.

Source: `SamAutomaticMaskGenerator.__init__` of segment-anything 1.0; the preset "sa1b" is App. B of the paper.
"""

import difflib
import inspect
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

import numpy as np

from sam_hf.masks.point_grids import layer_point_grids, read_point_grids

MOST_CROP_LAYERS = 6  # 5461 crops
OUTPUT_MODES = ("binary_mask", "uncompressed_rle", "coco_rle")
# How SA-1B was made: the grid, two layers of crops with sparser grids, specks and pinholes mended, and no mask of
# nearly the whole picture.
PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "sa1b": MappingProxyType(
            {
                "points_per_side": 32,
                "crop_n_layers": 2,
                "crop_n_points_downscale_factor": 2,
                "min_mask_region_area": 100,
                "max_area_share": 0.95,
            }
        )
    }
)


@dataclass(frozen=True, eq=False)
class MaskGenerationOptions:
    """Options of everything mode.

    Attributes:
        points_per_side: The grid on the picture has this many points squared. None where `point_grids` is given.
        points_per_batch: Points that are asked about between two reports of `stream`, and at most so many at once;
            fewer take less memory on an accelerator.
        pred_iou_thresh: Masks stay whose predicted IoU is above it; 0: all.
        stability_score_thresh: Masks stay whose stability is at least this; 0: all.
        stability_score_offset: Stability is the IoU of the masks cut this far above and below the threshold.
        box_nms_thresh: Within a crop, of two masks whose boxes' IoU is above it the one with the lower predicted IoU
            is a duplicate.
        crop_n_layers: Layers of closer looks: 4, 16, ... overlapping crops.
        crop_nms_thresh: The same across crops, where the mask from the larger crop is the duplicate.
        crop_overlap_ratio: Overlap of neighbouring crops of the first layer, as a share of the picture's short side.
        crop_n_points_downscale_factor: Layer i has `points_per_side` divided by this to the i-th power.
        point_grids: Instead of `points_per_side`, one grid (n,2) per layer, xy in [0,1].
        min_mask_region_area: Holes and islands with fewer pixels are filled and dropped.
        output_mode: "binary_mask" (H,W) bool, "uncompressed_rle" or "coco_rle".
        max_area_share: Masks that cover this share of the picture or more are dropped; None: none is.
        mask_threshold: Logits above it belong to a mask.
        max_hole_area: Like `min_mask_region_area` for holes only, and up to this many pixels; None: none.
        max_sprinkle_area: The same for islands.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is out of range.
    """

    points_per_side: int | None = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: float = 1
    point_grids: Any = None
    min_mask_region_area: float = 0
    output_mode: str = "binary_mask"
    max_area_share: float | None = None
    mask_threshold: float = 0.0
    max_hole_area: float | None = None
    max_sprinkle_area: float | None = None

    def __post_init__(self) -> None:
        _check_whole("points_per_batch", self.points_per_batch, 1)
        _check_whole("crop_n_layers", self.crop_n_layers, 0, MOST_CROP_LAYERS)
        for name in ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh", "crop_nms_thresh"):
            _check_number(name, getattr(self, name), 0, 1)
        _check_number("stability_score_offset", self.stability_score_offset, 0)
        _check_number("crop_overlap_ratio", self.crop_overlap_ratio, 0, 1, below=True)
        _check_number("crop_n_points_downscale_factor", self.crop_n_points_downscale_factor, 1)
        _check_number("min_mask_region_area", self.min_mask_region_area, 0)
        _check_number("mask_threshold", self.mask_threshold, -math.inf)
        for name, limit in (("max_area_share", 1), ("max_hole_area", math.inf), ("max_sprinkle_area", math.inf)):
            if getattr(self, name) is not None:
                _check_number(name, getattr(self, name), 0, limit)
        if self.max_area_share == 0:
            raise ValueError("max_area_share: expected a number in (0,1] or None, got 0")
        if not isinstance(self.output_mode, str) or self.output_mode not in OUTPUT_MODES:
            raise ValueError(f"output_mode: expected one of {', '.join(OUTPUT_MODES)}; got {self.output_mode!r}")
        if (self.points_per_side is None) == (self.point_grids is None):
            got = "neither" if self.points_per_side is None else "both"
            raise ValueError(f"expected either points_per_side or point_grids (the other one None), got {got}")
        if self.points_per_side is not None:
            _check_whole("points_per_side", self.points_per_side, 1)
            factor = self.crop_n_points_downscale_factor
            grids = layer_point_grids(int(self.points_per_side), int(self.crop_n_layers), factor)
        else:
            grids = read_point_grids(self.point_grids, int(self.crop_n_layers))
        object.__setattr__(self, "_grids", tuple(grids))

    @property
    def layer_grids(self) -> tuple[np.ndarray, ...]:
        """One grid (n,2) per layer, xy in [0,1] of the crop."""
        return self._grids

    @property
    def hole_area(self) -> float:
        """Holes with fewer pixels than this are filled."""
        return max(self.min_mask_region_area, 0 if self.max_hole_area is None else math.floor(self.max_hole_area) + 1)

    @property
    def island_area(self) -> float:
        """Islands with fewer pixels than this are dropped."""
        most = 0 if self.max_sprinkle_area is None else math.floor(self.max_sprinkle_area) + 1
        return max(self.min_mask_region_area, most)


def read_options(
    options: Mapping[str, Any], preset: str | None = None, values: Sequence[Any] = ()
) -> MaskGenerationOptions:
    """Options by name, or by place, on top of a preset's, on top of the defaults.

    `point_grids` alone is enough: it takes the place of the default `points_per_side`.

    Args:
        options: By name.
        preset: See `PRESETS`.
        values: The first ones without their names, in Meta's order, which is that of the attributes.

    Raises:
        TypeError: If there is no such option, it is given twice, or it has the wrong type.
        ValueError: If an option is out of range or there is no such preset.
    """
    known = [field.name for field in fields(MaskGenerationOptions)]
    if len(values) > len(known):
        raise TypeError(f"expected at most {len(known)} options, got {len(values)}")
    for name in known[: len(values)]:
        if name in options:
            raise TypeError(f"{name}: given twice, by place and by name")
    options = dict(zip(known, values, strict=False)) | dict(options)
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise TypeError(f"unknown option {name!r}: {hint}")
    if preset is not None and (not isinstance(preset, str) or preset not in PRESETS):
        raise ValueError(f"preset: expected one of {', '.join(PRESETS)} or None; got {preset!r}")
    chosen = dict(PRESETS[preset]) if preset is not None else {}
    if options.get("point_grids") is not None:
        chosen["points_per_side"] = None
    return MaskGenerationOptions(**(chosen | options))


def show_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Lets `help` and editors see every option and its default where a function takes `*values` and `**options`."""
    signature = inspect.signature(function)
    own = [one for one in signature.parameters.values() if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    options = [
        inspect.Parameter(field.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=field.default)
        for field in fields(MaskGenerationOptions)
    ]
    function.__signature__ = signature.replace(parameters=sorted(own + options, key=lambda one: one.kind))
    return function


def check_options(preset: str | None = None, **options: Any) -> None:
    """Refuses options that `SamAutomaticMaskGenerator` would refuse; needs no model.

    Raises:
        TypeError, ValueError: See `read_options`.
    """
    read_options(options, preset)


def _check_whole(name: str, value: Any, least: int, most: float = math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name}: expected a whole number, got {value!r} ({type(value).__name__})")
    if not least <= value <= most:
        raise ValueError(f"{name}: expected at {f'least {least}' if value < least else f'most {most}'}, got {value}")


def _check_number(name: str, value: Any, least: float, most: float = math.inf, below: bool = False) -> None:
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a number, got {value!r} ({type(value).__name__})")
    if not math.isfinite(value) or not least <= value <= most or (below and value == most):
        end = ")" if below or math.isinf(most) else "]"
        where = "finite number" if math.isinf(least) else f"number in [{least:g},{most:g}{end}"
        raise ValueError(f"{name}: expected a {where}, got {value}")
