"""Grids of points that everything mode asks about.

Points are xy in [0,1], to be scaled by the width and height of the picture or crop that they lie on.

Source: §4 "Fully automatic stage" and App. B of the paper; segment-anything 1.0's grids, point by point.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np


def point_grid(points_per_side: int) -> np.ndarray:
    """A regular grid, half a step away from the border, row by row.

    Args:
        points_per_side: n, at least 1.

    Returns:
        (n*n,2) float64 xy in [0,1].

    Raises:
        ValueError: If `points_per_side` is below 1.
    """
    if points_per_side < 1:
        raise ValueError(f"points_per_side: expected at least 1, got {points_per_side}")
    offset = 1 / (2 * points_per_side)
    side = np.linspace(offset, 1 - offset, points_per_side)
    return np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)


def layer_point_grids(points_per_side: int, n_layers: int, downscale_factor: float = 1) -> list[np.ndarray]:
    """The grid of the picture and those of its layers of crops, each sparser by a factor.

    Args:
        points_per_side: Of layer 0.
        n_layers: Layers of crops beyond it.
        downscale_factor: Layer i has int(points_per_side / factor**i) points a side, and at least one.

    Returns:
        `n_layers` + 1 grids as in `point_grid`.
    """
    return [point_grid(max(1, int(points_per_side / downscale_factor**layer))) for layer in range(n_layers + 1)]


def read_point_grids(point_grids: Sequence[Any], n_layers: int) -> list[np.ndarray]:
    """Grids of the caller's own.

    Args:
        point_grids: One per layer, (n,2) xy in [0,1].
        n_layers: Layers of crops.

    Returns:
        The same as float64.

    Raises:
        TypeError: If it is not a sequence of grids of numbers.
        ValueError: If there are too few or too many grids, one is empty, or a point lies outside [0,1].
    """
    if not isinstance(point_grids, list | tuple):
        got = type(point_grids).__name__
        raise TypeError(f"point_grids: expected a list with one grid (n, 2) per layer, got {got}")
    if len(point_grids) != n_layers + 1:
        raise ValueError(f"point_grids: expected crop_n_layers + 1 = {n_layers + 1} grids, got {len(point_grids)}")
    grids = []
    for layer, given in enumerate(point_grids):
        try:
            grid = np.array(given, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"point_grids[{layer}]: expected numbers of shape (n, 2)") from error
        if grid.ndim != 2 or grid.shape[1] != 2 or len(grid) == 0:
            raise ValueError(f"point_grids[{layer}]: expected shape (n, 2) with n >= 1, got {grid.shape}")
        if not ((grid >= 0) & (grid <= 1)).all():
            wrong = grid[~((grid >= 0) & (grid <= 1)).all(axis=1)][0].tolist()
            raise ValueError(f"point_grids[{layer}]: expected points in [0,1], got {wrong}")
        grids.append(grid)
    return grids
