"""Overlays, prompts and cut-outs."""

import numpy as np
import pytest

from sam_hf.masks import drawing, regions


@pytest.fixture
def image() -> np.ndarray:
    return np.full((60, 80, 3), 100, dtype=np.uint8)


@pytest.fixture
def mask() -> np.ndarray:
    mask = np.zeros((60, 80), dtype=bool)
    mask[10:50, 20:60] = True
    return mask


def test_contours_trace_regions_and_holes(mask):
    mask[25:35, 35:45] = False
    outlines = regions.contours(mask)
    assert len(outlines) == 2
    assert all(mask[outline[:, 1], outline[:, 0]].all() for outline in outlines)
    assert regions.contours(np.zeros((4, 4), dtype=bool)) == []


def test_overlay_tints_inside_only_and_leaves_the_image_alone(image, mask):
    before = image.copy()
    picture = drawing.overlay(image, [mask], opacity=0.5)
    np.testing.assert_array_equal(image, before)
    assert picture[0, 0].tolist() == [100, 100, 100]
    expected = np.rint((100 + np.array(drawing.PALETTE[0])) / 2)
    assert picture[30, 40].tolist() == expected.tolist()
    assert not np.array_equal(picture[10, 30], picture[30, 40])  # the outline


def test_overlay_of_several_masks_uses_several_colours(image, mask):
    other = np.roll(mask, 20, axis=1)
    picture = drawing.overlay(image, [mask, other])
    assert len({tuple(picture[30, 25]), tuple(picture[30, 75]), tuple(picture[2, 2])}) == 3


def test_overlay_of_an_empty_mask_is_the_image(image):
    np.testing.assert_array_equal(drawing.overlay(image, [np.zeros((60, 80), dtype=bool)]), image)


def test_points_show_their_label_and_far_ones_do_no_harm(image):
    points = np.array([[20.0, 30.0], [60.0, 30.0], [1e12, -5e9]])
    picture = drawing.draw_prompts(image, points, np.array([1, 0, 1]), np.array([5.0, 5.0, 70.0, 50.0]))
    near_first = picture[25:36, 15:26].reshape(-1, 3).tolist()
    near_second = picture[25:36, 55:66].reshape(-1, 3).tolist()
    assert list(drawing.FOREGROUND) in near_first and list(drawing.BACKGROUND) not in near_first
    assert list(drawing.BACKGROUND) in near_second and list(drawing.FOREGROUND) not in near_second
    assert picture[5, 40].tolist() != [100, 100, 100]  # the box


def test_cut_out_is_cropped_and_hides_nothing(image, mask):
    mask[10:20, 20:30] = False
    cut = drawing.cut_out(image, mask)
    assert cut.shape == (40, 40, 4)
    assert cut[0, 0].tolist() == [0, 0, 0, 0]
    assert cut[20, 20].tolist() == [100, 100, 100, 255]
    assert (cut[..., 3] == 255).sum() == mask.sum()


def test_cut_out_of_nothing_is_one_transparent_pixel(image):
    assert drawing.cut_out(image, np.zeros((60, 80), dtype=bool)).tolist() == [[[0, 0, 0, 0]]]


def test_wrong_inputs_are_named(image, mask):
    with pytest.raises(ValueError, match="image must be uint8"):
        drawing.overlay(image.astype(float), [mask])
    with pytest.raises(ValueError, match=r"mask must have the image's size \(60, 80\), got \(50, 80\)"):
        drawing.overlay(image, [mask[:50]])
    with pytest.raises(ValueError, match="opacity"):
        drawing.overlay(image, [mask], opacity=2)
