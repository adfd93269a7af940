import sys

import pytest

from sam_hf.evaluation.baselines import choose_felzenszwalb, felzenszwalb_regions, grabcut, region_under
from sam_hf.evaluation.click_protocol import interior_point, tight_box
from sam_hf.evaluation.scores import mask_iou


def test_grabcut_finds_what_is_plainly_there(scene):
    for thing in scene.objects[::2]:
        assert mask_iou(grabcut(scene.image, tight_box(thing.mask)), thing.mask) > 0.9


def test_grabcut_without_any_background_answers_with_the_box(scene):
    assert grabcut(scene.image, (0, 0, 63, 63)).all()


def test_grabcut_repeats_itself(scene):
    box = tight_box(scene.objects[0].mask)
    assert (grabcut(scene.image, box) == grabcut(scene.image, box)).all()


def test_grabcut_refuses_a_box_outside_the_picture(scene):
    with pytest.raises(ValueError, match="box: expected xyxy with an area inside the 64x64 image"):
        grabcut(scene.image, (70, 70, 80, 80))
    with pytest.raises(ValueError, match="image: expected uint8"):
        grabcut(scene.image / 255, (0, 0, 5, 5))


def test_felzenszwalb_finds_the_region_under_a_click(scene):
    pytest.importorskip("skimage")
    bar = scene.objects[2].mask
    regions = felzenszwalb_regions(scene.image, 100, 0.0)
    assert mask_iou(region_under(regions, interior_point(bar)), bar) > 0.9


def test_the_setting_is_the_best_of_the_candidates(scene):
    pytest.importorskip("skimage")
    setting, tried = choose_felzenszwalb([scene], settings=((100, 3.0), (100, 0.0)))
    assert setting == (100, 0.0) and tried["scale 100, sigma 0"] > tried["scale 100, sigma 3"] and len(tried) == 2
    with pytest.raises(ValueError, match="at least one object"):
        choose_felzenszwalb([])


def test_a_missing_scikit_image_is_explained(monkeypatch, scene):
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(ImportError, match="pip install scikit-image.*--no-baselines"):
        felzenszwalb_regions(scene.image, 100, 0.0)
