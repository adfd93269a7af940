"""From a heat map to SAM's masks: regions, prompts, doubts, geometry, evidence."""

import numpy as np
import pytest

from sam_hf.inference.text import dense
from sam_hf.inference.text.dense import DenseGrounding
from sam_hf.inference.text.instances import mask_iou

DISCS = [("red", 40, 40, 22), ("blue", 110, 70, 26), ("red", 60, 95, 15)]


@pytest.fixture(scope="module")
def scene(draw):
    return draw(DISCS)


@pytest.mark.parametrize("options", [{}, {"views": ()}], ids=str)
def test_phrases_find_their_objects(colour_clip, ask, scene, options):
    image, (first, blue, second) = scene
    found = DenseGrounding(colour_clip, **options)(ask(image, ["red disc", "a blue thing"]))
    assert len(found) == 2
    best = max(found[1].instances, key=lambda one: one.score)
    assert len(found[1].instances) == 1 and mask_iou(best.mask, blue) > 0.9
    reds = found[0].instances
    assert len(reds) == 2  # a plural's worth
    assert sorted(max(mask_iou(one.mask, mask) for one in reds) > 0.9 for mask in (first, second)) == [True, True]
    for one in (*reds, best):
        assert 0 < one.score <= 1 and one.text_probability > 0.5 and one.predicted_iou > 0.5 and one.stability > 0.5
        x, y = one.point
        assert one.mask[int(y), int(x)]
        assert one.low_res_logits.shape == (128, 128) and one.low_res_logits.dtype == np.float32


def test_cells_have_a_scale_of_their_own(colour_clip, ask, scene):
    request = ask(scene[0], ["blue"])
    heat = [DenseGrounding(colour_clip, scale=scale)(request)[0].heat_map for scale in (None, 20.0, 2.0)]
    np.testing.assert_array_equal(heat[0], heat[1])
    assert heat[2].max() < heat[0].max()


def test_absent_phrases_have_less_evidence(colour_clip, ask, scene):
    found = DenseGrounding(colour_clip)(ask(scene[0], ["red", "blue", "green", "dragon"]))
    present, absent = [one.evidence for one in found[:2]], [one.evidence for one in found[2:]]
    assert min(present) > 2 > 0 > max(absent)
    assert all(one.evidence == -np.inf for one in found if not one.instances)


def test_one_picture_is_looked_at_once(colour_clip, ask, scene):
    asked = ask(scene[0], ["red", "blue", "green"])
    DenseGrounding(colour_clip)(asked)
    assert colour_clip.calls["dense"] == 1


def test_a_phrase_asked_again_shows_clip_nothing_new(colour_clip, ask, scene):
    asked, answers = [], []
    for phrase in ("red", "blue", "red"):
        before = colour_clip.calls["pictures"]
        answers += DenseGrounding(colour_clip)(ask(scene[0], [phrase]))
        asked.append(colour_clip.calls["pictures"] - before)
    assert asked[0] > 0 and asked[1] > 0 and asked[2] == 0
    fresh = DenseGrounding(type(colour_clip)())(ask(scene[0], ["red"]))
    for found in (answers[2], *fresh):
        assert found.evidence == pytest.approx(answers[0].evidence)
        for one, first in zip(found.instances, answers[0].instances, strict=True):
            assert one.score == pytest.approx(first.score) and (one.mask == first.mask).all()


def test_the_heat_map_covers_the_picture_in_sams_frame(colour_clip, ask, scene):
    image, masks = scene
    (found,) = DenseGrounding(colour_clip)(ask(image, ["blue"]))
    heat = found.heat_map
    assert heat.dtype == np.float32 and heat.shape == (96, 128)  # 120 x 160 in a frame of 128, without padding
    assert heat.min() >= 0 and heat.max() <= 1
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert masks[1][round((row + 0.5) * 1.25), round((column + 0.5) * 1.25)]


def test_only_the_best_is_sought_where_one_is_wanted(colour_clip, ask, scene):
    (found,) = DenseGrounding(colour_clip)(ask(scene[0], ["red"], several=(False,)))
    assert len(found.instances) == 1


def test_negatives_win_their_region(colour_clip, ask, scene):
    plain, against = (
        DenseGrounding(colour_clip)(ask(scene[0], ["red blue"], negatives=names))[0] for names in ((), ("blue",))
    )
    assert any(mask_iou(one.mask, scene[1][1]) > 0.9 for one in plain.instances)
    assert against.instances and not any(mask_iou(one.mask, scene[1][1]) > 0.5 for one in against.instances)


class TestGeometry:
    def test_a_point_says_which(self, colour_clip, ask, scene):
        (found,) = DenseGrounding(colour_clip)(ask(scene[0], ["red"], points=[[60, 95]]))
        assert [mask_iou(one.mask, scene[1][2]) > 0.9 for one in found.instances] == [True]
        assert found.evidence > 2

    def test_a_background_point_says_which_not(self, colour_clip, ask, scene):
        (found,) = DenseGrounding(colour_clip)(ask(scene[0], ["red"], points=[[60, 95]], labels=[0]))
        assert [mask_iou(one.mask, scene[1][0]) > 0.9 for one in found.instances] == [True]

    def test_a_box_says_where_to_look(self, colour_clip, ask, scene):
        (found,) = DenseGrounding(colour_clip)(ask(scene[0], ["red"], box=[35, 70, 90, 118]))
        assert [mask_iou(one.mask, scene[1][2]) > 0.9 for one in found.instances] == [True]

    def test_what_is_pointed_at_but_something_else_has_no_evidence(self, colour_clip, ask, scene):
        (found,) = DenseGrounding(colour_clip)(ask(scene[0], ["blue"], points=[[60, 95]]))
        assert found.evidence < 0 and all(one.text_probability < 0.1 for one in found.instances)


def test_a_doubtful_region_is_asked_again_without_its_logits_and_then_dropped(
    colour_clip, ask, scene, tiny, monkeypatch
):
    asked, state = [], {}
    answered = type(tiny).decode_batch

    def watched(self, embedding, points=None, labels=None, boxes=None, mask_input=None, **rest):
        asked.append((len(points), mask_input is not None))
        answer = answered(self, embedding, points, labels, boxes, mask_input, **rest)
        return answer._replace(scores=np.full_like(answer.scores, 0.3 if state["doubts"](mask_input) else 0.8))

    monkeypatch.setattr(type(tiny), "decode_batch", watched)
    request, grounding = ask(scene[0], ["red"]), DenseGrounding(colour_clip)
    for state["doubts"], calls, count in (
        (lambda logits: logits is not None, [(2, True), (2, False)], 2),
        (lambda logits: True, [(2, True), (2, False)], 0),
        (lambda logits: False, [(2, True)], 2),
    ):
        asked.clear()
        (found,) = grounding(request)
        assert asked == calls and len(found.instances) == count


def test_regions_are_few_and_the_hottest(colour_clip):
    heat = np.zeros((60, 80), dtype=np.float32)
    for index in range(20):
        row, column = divmod(index, 5)
        heat[15 * row + 2 : 15 * row + 8, 15 * column + 2 : 15 * column + 8] = 0.5 + index / 50
    heat[58, 78] = 1.0  # a speck
    regions = DenseGrounding(colour_clip, max_regions=3, relative=0.3)._regions(heat)
    assert [round(region.heat, 2) for region in regions] == [0.88, 0.86, 0.84]
    assert regions[0].box == (62, 47, 68, 53)
    assert len(DenseGrounding(colour_clip, max_regions=99, relative=0.75)._regions(heat)) == 7
    assert DenseGrounding(colour_clip)._regions(heat * 0.04) == []  # below the absolute bound


def test_the_prompt_is_the_region_in_original_pixels(colour_clip, ask, scene):
    request = ask(scene[0], ["red"])
    heat = np.zeros((96, 128), dtype=np.float32)
    heat[8:24, 16:40] = 0.6
    heat[12, 20] = 1.0
    heat[60:80, 60:90] = 0.9  # another region is outside of this one
    grounding = DenseGrounding(colour_clip, mask_logit=3.0)
    _, region = grounding._regions(heat)
    region = region if region.box[0] == 16 else grounding._regions(heat)[0]
    prompt = grounding._prompt(request, dense.Geometry(request), heat, region)
    np.testing.assert_allclose(prompt.box, [20, 10, 50, 30])
    np.testing.assert_allclose(prompt.points, [[25.625, 15.625]])
    assert prompt.labels.tolist() == [1] and prompt.logits.shape == (1, 128, 128)
    assert prompt.logits[0, 12, 20] == 3 and prompt.logits[0, 70, 70] == prompt.logits[0, 120, 5] == -3
    assert prompt.logits.min() == -3 and prompt.logits.max() == 3


@pytest.mark.parametrize(
    "options",
    [{"relative": 1.5}, {"absolute": -0.1}, {"max_regions": 0}, {"mask_logit": -1.0}],
    ids=str,
)
def test_options_out_of_range_are_refused_by_name(colour_clip, options):
    ((name, _),) = options.items()
    with pytest.raises(ValueError, match=name):
        DenseGrounding(colour_clip, **options)
