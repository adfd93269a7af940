"""Statistics and drawings of masks from low-resolution logits, against the two resizes of the whole picture."""

import pytest
import torch
import torch.nn.functional as F

from sam_hf.masks import upscaling as module
from sam_hf.masks.upscaling import draw_masks, mask_statistics, pack_masks, upscaling

SIZES = {  # low, padded, resized, original
    "as large as the input": (64, 256, (256, 256), (256, 256)),
    "wide photo": (64, 256, (171, 256), (480, 720)),
    "tall, smaller": (64, 256, (256, 100), (131, 51)),
    "much larger": (32, 64, (48, 64), (600, 800)),
    "a tenth": (64, 256, (256, 256), (25, 25)),
    "one pixel wide": (64, 256, (256, 3), (220, 1)),
    "one pixel": (16, 32, (32, 32), (1, 1)),
    "odd scale": (36, 72, (40, 72), (23, 41)),
    "no scale at all": (40, 40, (40, 40), (40, 40)),
    "coarser than the mask": (64, 48, (48, 30), (96, 60)),
}


def _logits(low: int, count: int = 5) -> torch.Tensor:
    """Blobs with holes and rough outlines; the last two masks are empty and full."""
    generator = torch.Generator().manual_seed(low)
    smooth = F.interpolate(torch.randn(count, 1, 7, 7, generator=generator), (low, low), mode="bicubic")[:, 0]
    logits = 9 * smooth - 4 + 0.5 * torch.randn(count, low, low, generator=generator)
    logits[-2], logits[-1] = -8.0, 8.0
    return logits


def _resized(logits, padded, resized, original):
    whole = F.interpolate(logits[:, None], (padded, padded), mode="bilinear", align_corners=False)
    whole = whole[..., : resized[0], : resized[1]]
    return F.interpolate(whole, original, mode="bilinear", align_corners=False)[:, 0]


def _box(mask: torch.Tensor) -> list[int]:
    rows, columns = mask.nonzero(as_tuple=True)
    return [int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())] if len(rows) else [0, 0, 0, 0]


@pytest.mark.parametrize("case", SIZES)
@pytest.mark.parametrize(("threshold", "offset"), [(0.0, 1.0), (0.3, 0.2), (-1.0, 0.0)])
def test_equal_to_the_two_resizes(case, threshold, offset):
    low, padded, resized, original = SIZES[case]
    logits = _logits(low)
    way = upscaling((low, low), (padded, padded), resized, original)
    assert way.size == original
    expected = _resized(logits, padded, resized, original)
    masks = expected > threshold
    # Rounding may decide otherwise about pixels that are on the threshold to 1e-5, of which there are next to none.
    ties = max(
        int(((expected - cut).abs() < 1e-5).sum()) for cut in (threshold - offset, threshold, threshold + offset)
    )
    assert ties <= 2
    found = mask_statistics(logits, way, threshold, offset)
    assert (found.areas - masks.sum((1, 2))).abs().max() <= ties
    inner, outer = ((expected > threshold + sign * offset).sum((1, 2)) for sign in (1, -1))
    outer_or_one = outer.clamp(min=1)
    torch.testing.assert_close(
        found.stability, inner / outer_or_one, rtol=0, atol=float((2 * ties / outer_or_one).max())
    )
    drawn = draw_masks(logits, way, (0, 0, original[1] - 1, original[0] - 1), threshold).transpose(1, 2)
    assert (drawn != masks).sum() <= ties
    assert found.boxes.tolist() == [_box(mask) for mask in drawn]  # to the pixel: what is measured is what is drawn
    assert found.areas.tolist() == drawn.sum((1, 2)).tolist()


def test_nothing_to_look_at():
    way = upscaling((8, 8), (32, 32), (32, 20), (50, 31))
    found = mask_statistics(torch.zeros(0, 8, 8), way)
    assert found.areas.shape == found.stability.shape == (0,) and found.boxes.shape == (0, 4)
    assert list(pack_masks(torch.zeros(0, 8, 8), way, [])) == []


def test_small_portions_change_nothing(monkeypatch):
    low, padded, resized, original = SIZES["wide photo"]
    logits, way = _logits(low), upscaling((low, low), (padded, padded), resized, original)
    expected = mask_statistics(logits, way)
    drawn = draw_masks(logits, way, (100, 50, 600, 400))
    monkeypatch.setattr(module, "CPU_PIXELS", 3000)
    for one, other in zip(mask_statistics(logits, way), expected, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(draw_masks(logits, way, (100, 50, 600, 400)), drawn)


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_packed_masks_are_the_drawn_ones(at_once):
    low, padded, resized, original = SIZES["wide photo"]
    logits, way = _logits(low), upscaling((low, low), (padded, padded), resized, original)
    logits[:3] -= torch.linspace(0, 9, low)[:, None]  # boxes of different heights
    found = mask_statistics(logits, way)
    packed = list(pack_masks(logits, way, found.boxes.tolist(), at_once=at_once))
    drawn = draw_masks(logits, way, (0, 0, original[1] - 1, original[0] - 1)).transpose(1, 2)
    assert len({mask.box for mask in packed}) > 3
    for mask, expected, box, area in zip(packed, drawn, found.boxes.tolist(), found.areas.tolist(), strict=True):
        assert (mask.to_array() == expected.numpy()).all()
        assert list(mask.box) == box and mask.area == area and mask.size == original


def test_inside_and_outside_of_inference_mode():
    """What is kept between calls must serve both."""
    sizes = ((12, 12), (48, 48), (48, 40), (61, 50))
    with torch.inference_mode():
        inside = mask_statistics(_logits(12), upscaling(*sizes))
    outside = mask_statistics(_logits(12).requires_grad_(False), upscaling(*sizes))
    assert torch.equal(inside.areas, outside.areas)


def test_wrong_sizes_are_named():
    with pytest.raises(ValueError, match=r"resized_size: expected at most padded_size \(32, 32\), got \(33, 32\)"):
        upscaling((8, 8), (32, 32), (33, 32), (50, 50))
    with pytest.raises(ValueError, match="positive"):
        upscaling((8, 8), (32, 32), (32, 0), (50, 50))
