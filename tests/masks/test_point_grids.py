"""Grids of points, against segment-anything's."""

import numpy as np
import pytest
from segment_anything.utils.amg import build_all_layer_point_grids

from sam_hf.masks.point_grids import layer_point_grids, point_grid, read_point_grids


@pytest.mark.parametrize(("points", "layers", "factor"), [(32, 0, 1), (32, 2, 2), (7, 1, 3), (1, 0, 1)])
def test_same_as_segment_anything(points, layers, factor):
    found = layer_point_grids(points, layers, factor)
    expected = build_all_layer_point_grids(points, layers, factor)
    assert len(found) == len(expected) == layers + 1
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_every_layer_has_a_point():
    assert [len(grid) for grid in layer_point_grids(3, 2, 2)] == [9, 1, 1]


def test_own_grids():
    grids = read_point_grids([[[0, 1]], np.array([[0.25, 0.5], [1, 0]], dtype=np.float32)], 1)
    assert [grid.tolist() for grid in grids] == [[[0.0, 1.0]], [[0.25, 0.5], [1.0, 0.0]]]
    assert all(grid.dtype == np.float64 for grid in grids)


@pytest.mark.parametrize(
    ("grids", "error", "message"),
    [
        ([[[0.5, 0.5]]], ValueError, r"expected crop_n_layers \+ 1 = 2 grids, got 1"),
        ([[[0.5, 0.5]], [[0.5, 1.5]]], ValueError, r"point_grids\[1\]: expected points in \[0,1\], got \[0.5, 1.5\]"),
        ([[[0.5, 0.5]], [[0.5, float("nan")]]], ValueError, r"point_grids\[1\]: expected points in \[0,1\]"),
        ([np.zeros((0, 2)), [[0, 0]]], ValueError, r"point_grids\[0\]: expected shape \(n, 2\) with n >= 1"),
        ([[0.5, 0.5], [[0, 0]]], ValueError, r"point_grids\[0\]: expected shape"),
        ([[["a", 0]], [[0, 0]]], TypeError, r"point_grids\[0\]: expected numbers"),
        (7, TypeError, "point_grids: expected a list"),
    ],
)
def test_grids_that_are_none(grids, error, message):
    with pytest.raises(error, match=message):
        read_point_grids(grids, 1)


def test_no_points_at_all():
    with pytest.raises(ValueError, match="points_per_side: expected at least 1, got 0"):
        point_grid(0)
