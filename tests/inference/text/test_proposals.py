"""Everything mode's masks ranked by phrases: found once per picture, judged one by one, chosen by geometry."""

import copy

import numpy as np
import pytest
import torch

from sam_hf.inference.text import proposals
from sam_hf.inference.text.instances import mask_iou
from sam_hf.inference.text.placement import Extent, Geometry, distinct, shared
from sam_hf.inference.text.proposals import ProposalGrounding

DISCS = [("red", 40, 40, 22), ("blue", 110, 70, 26), ("red", 60, 95, 15)]


@pytest.fixture(scope="module")
def scene(draw):
    return draw(DISCS)


@pytest.fixture
def grounding(colour_clip):
    return ProposalGrounding(colour_clip, points_per_side=6)


class TestGrounding:
    def test_phrases_find_their_objects(self, grounding, ask, scene):
        image, (first, blue, second) = scene
        reds, blues, greens = grounding(ask(image, ["red disc", "a blue thing", "green cup"]))
        assert [mask_iou(one.mask, blue) > 0.9 for one in blues.instances] == [True]
        assert len(reds.instances) == 2
        assert all(max(mask_iou(one.mask, mask) for one in reds.instances) > 0.9 for mask in (first, second))
        for one in (*reds.instances, *blues.instances):
            assert one.score == pytest.approx(one.text_probability * one.predicted_iou, abs=1e-6)
            assert one.text_probability > 0.9 and one.stability >= 0.7
            # The logits are of this very mask.
            cut = one.low_res_logits[:96, :128] > 0  # 120 x 160 in a frame of 128
            rows, columns = (np.mgrid[:96, :128] * 1.25 + 0.6).astype(int)
            assert mask_iou(cut, one.mask[rows, columns]) > 0.9
        assert reds.evidence > 2 and blues.evidence > 2 and greens.evidence < -2

    def test_a_second_phrase_costs_its_text(self, grounding, ask, scene, colour_clip, monkeypatch):
        generated = []
        generate = proposals.SamAutomaticMaskGenerator.generate
        watched = lambda *args, **options: generated.append(1) or generate(*args, **options)  # noqa: E731
        monkeypatch.setattr(proposals.SamAutomaticMaskGenerator, "generate", watched)
        (first,) = grounding(ask(scene[0], ["red"]))
        pictures = colour_clip.calls["pictures"]
        grounding(ask(scene[0], ["blue"]))
        (again,) = grounding(ask(scene[0], ["red"]))
        assert len(generated) == 1 and colour_clip.calls["pictures"] == pictures > 0
        assert again.evidence == first.evidence
        grounding(ask(scene[0][::-1].copy(), ["blue"]))
        assert len(generated) == 2

    def test_logits_of_all_instances_come_from_one_decode(self, grounding, ask, scene, tiny, monkeypatch):
        decoded = []
        decode = tiny.decode_batch
        watched = lambda *args, **options: decoded.append(options["points"]) or decode(*args, **options)  # noqa: E731
        monkeypatch.setattr(tiny, "decode_batch", watched)
        (reds,) = grounding(ask(scene[0], ["red"]))
        assert [len(points) for points in decoded] == [len(reds.instances)] == [2]

    def test_other_weights_find_other_masks(self, tiny):
        predictor = copy.deepcopy(tiny)
        before = predictor.revision, predictor.decoder_revision
        assert before == (tiny.revision, tiny.decoder_revision)
        with torch.no_grad():
            predictor.model.prompt_encoder.point_embed[1].weight.add_(1.0)
        assert predictor.revision == before[0] and predictor.decoder_revision != before[1]

    def test_proposals_are_bounded(self, colour_clip, ask, scene):
        views = ProposalGrounding(colour_clip, points_per_side=6, views=("crop",))
        views(ask(scene[0], ["red"], max_proposals=2))
        assert colour_clip.calls["pictures"] == 2
        (found,) = ProposalGrounding(colour_clip, points_per_side=6, max_instances=1)(ask(scene[0], ["red"]))
        assert len(found.instances) == 1

    def test_a_point_a_box_and_a_mask_say_which(self, grounding, ask, scene):
        image, (_, _, second) = scene
        rough = np.zeros(image.shape[:2], dtype=bool)
        rough[85:105, 50:70] = True
        for geometry in (
            {"points": [[60, 95]]},
            {"points": [[40, 40]], "labels": [0]},
            {"box": [35, 70, 90, 118]},
            {"mask_input": rough},
            {"points": torch.tensor([[60.0, 95.0]]), "box": np.array([35, 70, 90, 118])},
        ):
            (found,) = grounding(ask(image, ["red"], **geometry))
            least = 0.5 if "mask_input" in geometry else 0.9  # a rough mask may come back as rough as it was
            assert [mask_iou(one.mask, second) > least for one in found.instances] == [True], geometry

    def test_what_is_pointed_at_is_answered_even_beside_all_proposals(self, colour_clip, ask, scene):
        nothing = ProposalGrounding(colour_clip, points_per_side=2, pred_iou_thresh=1.0, stability_score_thresh=1.0)
        (without,) = nothing(ask(scene[0], ["red"]))
        assert without.instances == [] and without.evidence == -np.inf
        (found,) = nothing(ask(scene[0], ["red"], points=[[60, 95]]))
        assert [mask_iou(one.mask, scene[1][2]) > 0.8 for one in found.instances] == [True]

    def test_old_pictures_make_room(self, colour_clip, ask, scene):
        small = ProposalGrounding(colour_clip, points_per_side=4, views=("crop",), max_bytes=1)
        small(ask(scene[0], ["red"]))
        before = colour_clip.calls["pictures"]
        small(ask(scene[0], ["red"]))
        assert colour_clip.calls["pictures"] == 2 * before

    def test_wrong_options_are_refused_before_any_picture(self, colour_clip):
        for options, error, words in (
            ({"iou_power": -1}, ValueError, "iou_power"),
            ({"also": 0}, ValueError, "also"),
            ({"max_instances": 0}, ValueError, "max_instances"),
            ({"points_per_site": 3}, TypeError, "points_per_side"),
            ({"pred_iou_thresh": 2}, ValueError, "pred_iou_thresh"),
        ):
            with pytest.raises(error, match=words):
                ProposalGrounding(colour_clip, **options)


class TestGeometry:
    @pytest.fixture
    def fits(self, ask, scene):
        """fits(mask, **geometry)."""
        return lambda mask, **geometry: Geometry(ask(scene[0], ["red"], **geometry)).fits(mask)

    @pytest.fixture
    def square(self):
        mask = np.zeros((120, 160), dtype=bool)
        mask[20:40, 30:50] = True
        return mask

    def test_all_foreground_and_no_background_points(self, fits, square):
        assert fits(square) and fits(square, points=[[30, 20], [49.9, 39.9]])
        assert not fits(square, points=[[30, 20], [50, 30]])
        assert fits(square, points=[[30, 20], [50, 30]], labels=[1, 0])
        assert not fits(square, points=[[30, 20], [40, 30]], labels=[1, 0])
        assert fits(square, points=[[35, 25], [-10, -10]], labels=[1, -10])

    def test_points_beyond_the_border_ask_about_the_border(self, fits):
        edge = np.zeros((120, 160), dtype=bool)
        edge[50:60, 150:] = True
        assert fits(edge, points=[[170, 55]])
        assert not fits(edge, points=[[170, 70]])

    def test_three_quarters_in_the_box(self, fits, square):
        assert fits(square, box=[0, 0, 160, 120]) and fits(square, box=[30, 20, 45, 40])
        assert not fits(square, box=[30, 20, 44, 40]) and not fits(square, box=[100, 100, 120, 110])

    def test_half_of_the_smaller_in_the_mask_given(self, fits, square):
        given = np.zeros((120, 160), dtype=bool)
        given[20:40, 40:140] = True
        assert fits(square, mask_input=given)  # half of the square
        given[:, 40] = False
        assert not fits(square, mask_input=given)
        given[:] = False
        given[25:30, 35:40] = True
        assert fits(square, mask_input=given)
        logits = np.full((1, 128, 128), -5.0, dtype=np.float32)
        logits[0, 20:24, 28:32] = 5.0  # the same place in a frame of 0.8
        assert fits(square, mask_input=logits) and not fits(np.roll(square, 60, axis=1), mask_input=logits)

    def test_an_empty_mask_never_fits(self, fits, square):
        assert not fits(square & False)

    def test_parts_and_groups_are_no_further_objects(self):
        masks = np.zeros((5, 20, 20), dtype=bool)
        masks[0, :10, :10] = True
        masks[1, :4, :4] = True  # a part of it
        masks[2, :10, :20] = True  # two things in one
        masks[3, :10, 11:] = True  # the other one
        kept = distinct([0, 1, 4, 2, 3], lambda index: masks[index], share=0.8, most=9)
        assert [index for index, _ in kept] == [0, 3]
        assert [index for index, _ in distinct([1, 0, 3], lambda index: masks[index], 0.8, most=1)] == [1]

    def test_what_two_masks_share(self):
        outer, inner = np.zeros((2, 12, 12), dtype=bool)
        inner[2:6, 2:7] = True  # 20 pixels
        outer[2:6, 2:6] = True  # of which 16
        inner[9, 9] = True
        inner, outer, nothing = (Extent.of(mask) for mask in (inner, outer, outer & False))
        assert (inner.area, inner.box) == (21, (2, 2, 10, 10))
        assert shared(inner, outer) == shared(outer, inner) == 1.0  # of the smaller one
        other = Extent.of(np.roll(outer.mask, 3, axis=1))
        assert shared(other, outer) == 0.25 and shared(other, inner) == 0.5
        assert shared(nothing, outer) == shared(outer, nothing) == 0.0
