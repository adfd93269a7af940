"""Views show the mask they are asked for, for masks and pictures of every kind, and refuse what is none."""

import numpy as np
import pytest
import torch

from sam_hf.inference.text.views import MEAN_COLOUR, VIEWS, make_views

SIZE = 32


def scene(height=60, width=80):
    """A busy picture with a red block, 20 wide and 10 high, and the block's mask."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[..., 0] //= 4  # nothing else is red
    mask = np.zeros((height, width), bool)
    mask[25:35, 30:50] = True
    pixels[mask] = (255, 0, 0)
    return torch.from_numpy(pixels).permute(2, 0, 1), mask


def one(picture, mask, view, size=SIZE, **options):
    """(size,size,3) int64, one view of one mask."""
    return make_views(picture, [mask], size, (view,), **options)[0, 0].permute(1, 2, 0).long().numpy()


def is_red(view):
    return (view[..., 0] > 200) & (view[..., 1:].max(-1) < 60)


def test_views_come_in_order_as_bytes_and_always_the_same():
    picture, mask = scene()
    other = np.roll(mask, 7, axis=0)
    before = picture.clone()
    drawn = make_views(picture, [mask, other], SIZE, VIEWS)
    assert drawn.shape == (2, 4, 3, SIZE, SIZE) and drawn.dtype == torch.uint8
    assert torch.equal(drawn, make_views(picture, [mask, other], SIZE, VIEWS))
    assert torch.equal(drawn.flip(1), make_views(picture, [mask, other], SIZE, VIEWS[::-1]))
    assert torch.equal(drawn[1:], make_views(picture, [other], SIZE, VIEWS))
    assert torch.equal(picture, before)
    assert make_views(picture, [], SIZE).shape == (0, 3, 3, SIZE, SIZE)


def test_crop_keeps_the_aspect_and_its_margin():
    picture, mask = scene()
    rows, columns = np.nonzero(is_red(one(picture, mask, "crop", 64, margin=1.6)))
    width, height = np.ptp(columns) + 1, np.ptp(rows) + 1
    assert width == pytest.approx(64 / 1.6, abs=2) and height == pytest.approx(width / 2, abs=2)
    assert columns.mean() == pytest.approx(31.5, abs=1.5) and rows.mean() == pytest.approx(31.5, abs=1.5)
    assert is_red(one(picture, mask, "crop", margin=1.0)).any(axis=0).sum() == SIZE


def test_beyond_the_picture_is_the_mean_colour():
    picture = torch.zeros(3, 60, 80, dtype=torch.uint8)
    mask = np.zeros((60, 80), bool)
    mask[:20, :20] = True
    view = one(picture, mask, "crop", 40, margin=2.0)  # the mask's corner is the crop's middle less a quarter
    assert (view[:9] == MEAN_COLOUR).all() and (view[:, :9] == MEAN_COLOUR).all()
    assert (view[11:, 11:] == 0).all()


def test_dimmed_keeps_the_inside_and_darkens_and_blurs_the_rest():
    picture, mask = scene()
    crop, dimmed = (one(picture, mask, view, 64, margin=2.0) for view in ("crop", "dimmed"))
    inside = slice(18, 44)
    assert (dimmed[26:38, inside] == crop[26:38, inside]).all() and is_red(dimmed[26:38, inside]).all()
    assert dimmed[:20].max() <= 26
    assert dimmed[:20, :, 1].std() < 0.1 * crop[:20, :, 1].std()


def test_blurred_is_the_whole_picture_sharp_in_the_mask_only():
    picture, mask = scene(96, 96)
    mask[:] = False
    mask[32:64, 32:64] = True
    whole = one(picture, np.ones((96, 96), bool), "blurred", 96)
    view = one(picture, mask, "blurred", 96)
    assert (whole == picture.permute(1, 2, 0).numpy()).all()
    assert (view[32:64, 32:64] == whole[32:64, 32:64]).all()
    assert view[:20, :, 1].std() < 0.1 * whole[:20, :, 1].std()
    assert view[:20, :, 1].mean() == pytest.approx(whole[..., 1].mean(), rel=0.1)


def test_circle_goes_around_the_box_and_spares_what_is_inside():
    picture = torch.full((3, 100, 200), 90, dtype=torch.uint8)
    mask = np.zeros((100, 200), bool)
    mask[40:60, 80:120] = True
    view = one(picture, mask, "circle", 100)  # the box is now x 40..60, y 40..60
    rows, columns = np.nonzero(is_red(view))
    assert columns.min() in range(37, 41) and columns.max() in range(59, 63)
    assert rows.min() in range(37, 41) and rows.max() in range(59, 63)
    assert (view[44:56, 44:56] == 90).all() and (view[:30] == 90).all()


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("size", [(60, 80), (2, 300), (300, 2), (1, 1)])
def test_masks_of_a_pixel_at_the_rim_or_everywhere(view, size):
    picture = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    whole, corner, last = np.ones(size, bool), np.zeros(size, bool), np.zeros(size, bool)
    corner[0, 0] = last[-1, -1] = True
    drawn = make_views(picture, [whole, corner, last], SIZE, (view,))
    assert drawn.shape == (3, 1, 3, SIZE, SIZE)
    assert all(len(drawn[index].unique()) > 1 for index in range(3))


def test_a_pixel_shows_what_is_around_it():
    picture, _ = scene()
    mask = np.zeros((60, 80), bool)
    mask[40, 40] = True
    assert len(np.unique(one(picture, mask, "crop").reshape(-1, 3), axis=0)) > 50


def test_a_thin_line_in_a_large_picture_does_not_vanish():
    picture = torch.full((3, 640, 640), 200, dtype=torch.uint8)
    mask = np.zeros((640, 640), bool)
    mask[:, 320] = True
    view = one(picture, mask, "dimmed")
    assert view[SIZE // 2].max() > view[SIZE // 2, 2].max() + 5


def test_a_box_is_its_rectangle():
    picture, mask = scene()
    assert torch.equal(make_views(picture, [mask], SIZE, VIEWS), make_views(picture, [[30, 25, 50, 35]], SIZE, VIEWS))
    edge = np.zeros((60, 80), bool)
    edge[50:, 70:] = True
    beyond = np.array([70.4, 50.9, 400.0, 99.5])  # rounded outwards, cut off at the picture
    assert torch.equal(make_views(picture, [edge], SIZE), make_views(picture, [beyond], SIZE))
    assert torch.equal(make_views(picture, [mask], SIZE), make_views(picture, [torch.from_numpy(mask)], SIZE))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((60, 80), bool), r"masks\[1\].*at least one pixel"),
        (np.ones((80, 60), bool), r"masks\[1\]: expected a mask \(60, 80\) bool.*got \(80, 60\) bool"),
        (np.ones((60, 80), np.uint8), r"masks\[1\].*got \(60, 80\) uint8"),
        (np.ones((1, 60, 80), bool), r"got \(1, 60, 80\) bool"),
        ([90, 10, 120, 30], r"masks\[1\].*at least one pixel"),
        ([50, 10, 20, 30], r"masks\[1\].*at least one pixel"),
        ([0, 0, float("nan"), 5], "finite"),
    ],
)
def test_what_is_no_mask_is_refused_by_its_place(given, message):
    picture, mask = scene()
    with pytest.raises(ValueError, match=message):
        make_views(picture, [mask, given], SIZE)


def test_other_arguments_are_refused_by_name():
    picture, mask = scene()
    with pytest.raises(TypeError, match="picture must be a tensor"):
        make_views(picture.numpy(), [mask], SIZE)
    for wrong in (picture.float(), picture[:2], picture[None], picture[:, :0]):
        with pytest.raises(ValueError, match="picture must be"):
            make_views(wrong, [mask], SIZE)
    for views in ("crop", (), ("crop", "zoom")):
        with pytest.raises(ValueError, match="views: expected a list of crop, dimmed, blurred, circle"):
            make_views(picture, [mask], SIZE, views)
    for size in (0, 2.5, True):
        with pytest.raises(ValueError, match="size"):
            make_views(picture, [mask], size)
    for margin in (0.9, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="margin"):
            make_views(picture, [mask], SIZE, margin=margin)
