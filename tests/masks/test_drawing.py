"""Overlays, prompts and cut-outs."""

import cv2
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


def _nested(count: int) -> list[np.ndarray]:
    """Squares in squares, the largest first."""
    yy, xx = np.mgrid[:200, :200]
    return [np.maximum(abs(yy - 100), abs(xx - 100)) < 98 - 6 * step for step in range(count)]


def test_overlay_many_gives_neighbours_colours_that_are_told_apart():
    masks = _nested(15)
    index = drawing.index_map(masks, (200, 200))
    assert [int((index == number).sum()) for number in range(1, 16)] == [
        int((mask & ~inner).sum()) for mask, inner in zip(masks, [*masks[1:], np.zeros_like(masks[0])], strict=True)
    ]
    colors = drawing.distinct_colors(index, 15)
    assert len(np.unique(colors, axis=0)) >= 7
    lab = cv2.cvtColor(colors[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    assert np.linalg.norm(lab[1:] - lab[:-1], axis=1).min() >= drawing.EASILY_TOLD_APART
    grey = np.full((200, 200, 3), 100, dtype=np.uint8)
    picture = drawing.overlay_many(grey, iter(masks), opacity=0.5)
    # Between two outlines the tint of the upper mask alone, however many lie below it.
    assert abs(picture[100, 100].astype(int) - (100 + colors[-1].astype(int)) / 2).max() <= 1
    assert picture[0, 0].tolist() == [100, 100, 100] and (grey == 100).all()


def test_overlay_many_of_nothing_and_of_empty_masks(image):
    for masks in ([], [np.zeros((60, 80), dtype=bool)]):
        np.testing.assert_array_equal(drawing.overlay_many(image, masks), image)
    assert drawing.index_map([], (3, 4)).tolist() == [[0] * 4] * 3


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
    with pytest.raises(ValueError, match="mask must have the image's size"):
        drawing.index_map([mask], (60, 79))
    with pytest.raises(ValueError, match="opacity"):
        drawing.overlay_many(image, [mask], opacity=-0.1)
    with pytest.raises(ValueError, match="opacity"):
        drawing.overlay(image, [mask], opacity=2)
