"""What the model refuses: each wrong input is named, with what was expected and what came."""

import pytest
import torch

EMBEDDINGS = torch.zeros(2, 16, 9, 9)
POINTS = torch.zeros(2, 3, 2, 2)
LABELS = torch.ones(2, 3, 2)
BOXES = torch.zeros(2, 3, 4)
IDS = torch.ones(2, 3, 12, dtype=torch.long)


@pytest.fixture(scope="module")
def model(make_model):
    return make_model(text=True)


WRONG = {
    "neither image nor embedding": ({"image_embeddings": None}, "pixel_values.*image_embeddings.*neither"),
    "both": ({"pixel_values": torch.zeros(2, 3, 72, 72)}, "pixel_values.*image_embeddings.*both"),
    "embeddings of another batch": ({"image_embeddings": EMBEDDINGS[:1]}, "input_points.*1, any, any, 2.*2, 3, 2, 2"),
    "embeddings of another size": ({"image_embeddings": torch.zeros(2, 16, 8, 8)}, "image_embeddings.*9, 9.*8, 8"),
    "embeddings without batch": ({"image_embeddings": EMBEDDINGS[0]}, "image_embeddings.*16, 9, 9"),
    "points without prompts": ({"input_points": POINTS[:, 0]}, r"input_points.*\(B, P, N, 2\).*got \(2, 2, 2\)"),
    "points of three numbers": ({"input_points": torch.zeros(2, 3, 2, 3)}, "input_points.*got"),
    "points for another batch": ({"input_points": POINTS[:1]}, r"input_points.*got \(1, 3, 2, 2\)"),
    "labels of another count": ({"input_labels": LABELS[..., :1]}, r"input_labels.*\(2, 3, 2\).*got \(2, 3, 1\)"),
    "labels without prompts": ({"input_labels": LABELS[:, 0]}, "input_labels"),
    "labels without points": ({"input_points": None}, "input_labels.*input_points.*missing"),
    "boxes without prompts": ({"input_boxes": BOXES[:, 0]}, r"input_boxes.*\(B, P, 4\).*got \(2, 4\)"),
    "boxes of three numbers": ({"input_boxes": BOXES[..., :3]}, "input_boxes"),
    "boxes for another batch": ({"input_boxes": BOXES[:1]}, "input_boxes"),
    "two objects by points, three by boxes": (
        {"input_points": POINTS[:, :2], "input_labels": LABELS[:, :2], "input_boxes": BOXES},
        "agree.*`input_points` 2.*`input_boxes` 3",
    ),
    "masks of the image's size": (
        {"input_masks": torch.zeros(2, 1, 72, 72)},
        r"input_masks.*36, 36.*got \(2, 1, 72, 72\)",
    ),
    "masks without channel": ({"input_masks": torch.zeros(2, 36, 36)}, "input_masks"),
    "a mask without batch": ({"input_masks": torch.zeros(36, 36)}, "input_masks"),
    "masks of three channels": ({"input_masks": torch.zeros(2, 3, 36, 36)}, "input_masks"),
    "masks for another batch": ({"input_masks": torch.zeros(1, 1, 36, 36)}, "input_masks"),
    "masks of another count": ({"input_masks": torch.zeros(2, 4, 1, 36, 36)}, "agree.*`input_masks` 4"),
    "ids without prompts": ({"input_ids": IDS[:, 0]}, r"input_ids.*\(B, P, T\).*got \(2, 12\)"),
    "ids longer than the context": ({"input_ids": torch.ones(2, 3, 13, dtype=torch.long)}, "input_ids.*12.*13"),
    "ids for another batch": ({"input_ids": IDS[:1]}, "B, P, D"),
    "text of another count": ({"input_ids": IDS[:, :1]}, "agree.*`text` 1"),
    "mask of other ids": ({"input_ids": IDS, "attention_mask": IDS[..., :5]}, "attention_mask.*2, 3, 12"),
    "ids and vectors": ({"input_ids": IDS, "text_embeds": torch.zeros(2, 3, 12)}, "input_ids.*text_embeds.*both"),
    "vectors of another width": ({"text_embeds": torch.zeros(2, 3, 8)}, "text_embeds.*12.*8"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_wrong_prompts(changes, message, model):
    inputs = {"image_embeddings": EMBEDDINGS, "input_points": POINTS, "input_labels": LABELS} | changes
    with pytest.raises(ValueError, match=message) as caught:
        model(**inputs)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("tiny_vit", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 64, 64), (2, 1, 72, 72), (3, 72, 72), (2, 3, 72, 80)])
def test_wrong_images(shape, tiny_vit, make_model):
    model = make_model(tiny_vit=tiny_vit)
    for encode in (model, model.get_image_embeddings, model.vision_encoder):
        with pytest.raises(ValueError, match=r"pixel_values.*\(B, 3, 72, 72\).*got"):
            encode(torch.zeros(shape))
    with pytest.raises(ValueError, match="pixel_values.*missing"):
        model.vision_encoder()


@torch.no_grad()
def test_unusual_prompts_that_are_answered(model):
    """Far outside the image, only background, no prompt at all: accepted, finite."""
    far = torch.full((2, 3, 2, 2), 1e5)
    for inputs in (
        {"input_points": far},
        {"input_points": -far},
        {"input_points": POINTS, "input_labels": torch.zeros(2, 3, 2)},
        {"input_boxes": far.flatten(2)},
        {"input_boxes": torch.zeros(2, 3, 4)},  # of no area
        {},
    ):
        output = model(image_embeddings=EMBEDDINGS, **inputs)
        assert output.pred_masks.isfinite().all() and output.iou_scores.isfinite().all()


@torch.no_grad()
def test_broken_numbers_are_not_taken_for_absence(model):
    """One NaN in a mask or a vector is no "absent": it shows in the answer, and in no other prompt's."""
    masks = torch.zeros(1, 2, 1, 36, 36)
    masks[0, 1, 0, 5, 5] = float("nan")
    output = model(image_embeddings=EMBEDDINGS[:1], input_masks=masks)
    assert output.pred_masks[0, 0].isfinite().all() and output.pred_masks[0, 1].isnan().any()
    vectors = torch.ones(1, 2, 12) / 12**0.5
    vectors[0, 1, 3] = float("nan")
    output = model(image_embeddings=EMBEDDINGS[:1], text_embeds=vectors)
    assert output.pred_masks[0, 0].isfinite().all() and output.pred_masks[0, 1].isnan().any()
