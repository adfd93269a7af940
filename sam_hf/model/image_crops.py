"""Crops of an image and grids of points on them: what automatic mask generation asks the model about.

Source: App. B "Cropping" of the paper. Differs from transformers 5.23: options are checked by name, and where deeper
layers have sparser grids (``crop_n_points_downscale_factor`` > 1) the shorter grids repeat their own points, so that
the grids of all crops fit in one tensor. Repeated points give repeated masks, which the suppression of duplicates
removes; transformers stops with an error there.
"""

import math
from itertools import product

import torch
from torch import Tensor

from .mask_postprocessing import preprocess_shape


def check_crop_options(
    crop_n_layers: int, overlap_ratio: float, points_per_crop: int | None, downscale_factor: float
) -> None:
    """Refuse options that make no grid.

    Raises:
        ValueError: Naming the option.
    """
    if int(crop_n_layers) != crop_n_layers or crop_n_layers < 0:
        raise ValueError(f"crop_n_layers: expected a whole number of at least 0, got {crop_n_layers}")
    if not 0.0 <= overlap_ratio < 1.0:
        raise ValueError(f"overlap_ratio: expected a number in [0,1), got {overlap_ratio}")
    if points_per_crop is None or int(points_per_crop) != points_per_crop or points_per_crop < 1:
        raise ValueError(f"points_per_crop: expected a whole number of at least 1, got {points_per_crop}")
    if downscale_factor < 1:
        raise ValueError(f"crop_n_points_downscale_factor: expected a number of at least 1, got {downscale_factor}")


def layer_crops(size: tuple[int, int], n_layers: int, overlap_ratio: float) -> tuple[list[list[int]], list[int]]:
    """Crops of all layers: the image, then 4, 16, ... overlapping crops.

    Args:
        size: (H,W), original pixels.
        n_layers: Layers beyond the image itself.
        overlap_ratio: Overlap of neighbours in the first layer as a share of the short side.

    Returns:
        Boxes xyxy in original pixels, and the layer of each.
    """
    height, width = size
    boxes, layers = [[0, 0, width, height]], [0]
    for layer in range(1, n_layers + 1):
        per_side = 2**layer
        overlap = int(overlap_ratio * min(height, width) * (2 / per_side))
        crop_width = int(math.ceil((overlap * (per_side - 1) + width) / per_side))
        crop_height = int(math.ceil((overlap * (per_side - 1) + height) / per_side))
        lefts = [int((crop_width - overlap) * step) for step in range(per_side)]
        tops = [int((crop_height - overlap) * step) for step in range(per_side)]
        for left, top in product(lefts, tops):
            box = [left, top, min(left + crop_width, width), min(top + crop_height, height)]
            if box[2] > box[0] and box[3] > box[1]:  # an image of a few pixels has no room for all crops
                boxes.append(box)
                layers.append(layer)
    return boxes, layers


def point_grid(n_per_side: int) -> Tensor:
    """A grid of n*n points -> (n*n,2) xy in [0,1], row by row, half a step away from the border."""
    offset = 1 / (2 * n_per_side)
    side = torch.linspace(offset, 1 - offset, n_per_side)
    return torch.stack(torch.meshgrid(side, side, indexing="xy"), dim=-1).reshape(-1, 2)


def crops_with_points(
    image: Tensor,
    target_size: int,
    crop_n_layers: int = 0,
    overlap_ratio: float = 512 / 1500,
    points_per_crop: int = 32,
    crop_n_points_downscale_factor: float = 1,
) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
    """Cut an image into crops and lay a grid of points on each.

    Args:
        image: (C,H,W), original pixels.
        target_size: Longest side of a crop when the model sees it.
        crop_n_layers: See `layer_crops`.
        overlap_ratio: See `layer_crops`.
        points_per_crop: Points per side of the grid in layer 0.
        crop_n_points_downscale_factor: How much sparser the grid gets from layer to layer.

    Returns:
        Crop boxes (K,4) xyxy in original pixels, points (1,N,K,2) in resized pixels, K crops (C,h,w), labels (1,N,K).

    Raises:
        ValueError: See `check_crop_options`.
    """
    check_crop_options(crop_n_layers, overlap_ratio, points_per_crop, crop_n_points_downscale_factor)
    boxes, layers = layer_crops(tuple(image.shape[-2:]), crop_n_layers, overlap_ratio)
    grids = [
        point_grid(max(1, int(points_per_crop / crop_n_points_downscale_factor**layer)))
        for layer in range(crop_n_layers + 1)
    ]
    n_points = max(len(grid) for grid in grids)
    crops, points = [], []
    for (left, top, right, bottom), layer in zip(boxes, layers, strict=True):
        crops.append(image[:, top:bottom, left:right])
        height, width = preprocess_shape((bottom - top, right - left), target_size)
        grid = grids[layer] * torch.tensor([right - left, bottom - top])
        grid = grid * torch.tensor([width / (right - left), height / (bottom - top)])
        points.append(grid[torch.arange(n_points) % len(grid)])
    stacked = torch.stack(points, dim=1)[None]  # (1,N,K,2)
    labels = torch.ones(stacked.shape[:3], dtype=torch.int64)
    return torch.tensor(boxes, dtype=torch.float32), stacked, crops, labels
