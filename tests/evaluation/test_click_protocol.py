import numpy as np
import pytest

from sam_hf.evaluation.click_protocol import interior_point, next_click, rough_mask, tight_box
from sam_hf.evaluation.scores import mask_iou


def drawn(picture: str) -> np.ndarray:
    return np.array([[cell == "#" for cell in line] for line in picture.split()])


def test_the_first_click_is_the_middle_of_the_thickest_place():
    mask = drawn("""
        ..........
        ######....
        ######....
        ######....
        ######....
        ######....
        ..........
        .......###""")
    x, y = interior_point(mask)
    assert y == 3 and x in (2, 3)


def test_the_rim_of_the_picture_is_a_boundary():
    # without the padding the deepest pixel of a half plane would lie on the rim
    assert interior_point(np.ones((5, 9), bool))[1] == 2
    half = np.zeros((9, 20), bool)
    half[:, :5] = True
    assert interior_point(half)[0] == 2


def test_a_click_on_a_ring_lies_on_the_ring():
    rows, columns = np.mgrid[:41, :41]
    distance = np.hypot(rows - 20, columns - 20)
    ring = (distance > 10) & (distance < 18)
    x, y = interior_point(ring)
    assert ring[y, x] and 13 <= distance[y, x] <= 15


@pytest.mark.parametrize(
    ("missing", "extra", "expected"),
    [
        ((slice(2, 9), slice(2, 9)), None, ((5, 5), 1)),
        (None, (slice(30, 37), slice(30, 37)), ((33, 33), 0)),
        # both: the deeper mistake wins ...
        ((slice(2, 9), slice(2, 9)), (slice(30, 33), slice(30, 33)), ((5, 5), 1)),
        # ... also when the shallower one has more pixels: 2 x 20 against 5 x 5
        ((slice(2, 7), slice(2, 7)), (slice(30, 32), slice(18, 38)), ((4, 4), 1)),
    ],
)
def test_the_next_click_goes_into_the_worst_mistake_with_its_label(missing, extra, expected):
    target = np.zeros((40, 40), bool)
    target[2:20, 2:20] = True
    prediction = target.copy()
    if missing:
        prediction[missing] = False
    if extra:
        prediction[extra] = True
    assert next_click(target, prediction) == expected


def test_a_perfect_prediction_is_clicked_inside_the_object():
    target = np.zeros((20, 20), bool)
    target[5:12, 5:12] = True
    assert next_click(target, target) == ((8, 8), 1)


def test_boxes_end_on_the_last_pixel():
    mask = np.zeros((10, 12), bool)
    mask[3:6, 2:9] = True
    assert tight_box(mask) == (2, 3, 8, 5)
    mask[:] = False
    mask[9, 11] = True
    assert tight_box(mask) == (11, 9, 11, 9)


def test_rough_masks_are_worse_but_recognisable_and_repeatable():
    rows, columns = np.mgrid[:64, :64]
    disc = np.hypot(rows - 30, columns - 34) < 14
    kinds = set()
    for seed in range(30):
        rough, kind = rough_mask(disc, np.random.default_rng(seed))
        again, _ = rough_mask(disc, np.random.default_rng(seed))
        kinds.add(kind)
        assert (rough == again).all()
        assert 0.5 < mask_iou(rough, disc) < 0.95
        if kind == "eroded":
            assert (rough <= disc).all()
        if kind == "dilated":
            assert (rough >= disc).all()
    assert kinds == {"eroded", "dilated", "shifted"}


def test_a_hair_thin_object_never_vanishes():
    line = np.zeros((20, 20), bool)
    line[19, :] = True
    for seed in range(30):
        assert rough_mask(line, np.random.default_rng(seed))[0].any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interior_point(np.zeros((4, 4), bool)), "mask: expected at least one true pixel"),
        (lambda: tight_box(np.zeros((4, 4), bool)), "mask: expected at least one true pixel"),
        (lambda: rough_mask(np.zeros((4, 4), bool), np.random.default_rng(0)), "mask: expected at least one"),
        (lambda: next_click(np.zeros((4, 4), bool), np.zeros((4, 4), bool)), "mask: expected at least one"),
        (lambda: next_click(np.ones((4, 4), bool), np.ones((4, 5), bool)), r"prediction: .*\(4, 4\).*\(4, 5\)"),
        (lambda: interior_point(np.ones((4, 4))), "mask: expected a boolean array .* float64"),
        (lambda: rough_mask(np.ones((4, 4), bool), np.random.default_rng(0), 0.0), "strength"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
