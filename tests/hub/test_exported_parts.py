"""The modules that are exported against the model they are made of, and Meta's decoder against Meta's own."""

import pytest
import torch
from meta_twin import meta_of
from segment_anything.utils.onnx import SamOnnxModel

from sam_hf import SamConfig, SamModel
from sam_hf.hub.exported_parts import (
    MetaDecoder,
    OnePieceDecoder,
    Part,
    PerClick,
    PerImage,
    TextAlignment,
    TextEncoder,
    VisionEncoder,
)

SIDE, LOW = 64, 32  # of the checkpoints in tests/conftest.py
PROMPTS = 3


def awaken(model):
    """Every weight matters: fresh biases are zero and fresh norms one."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module")
def with_text(text_checkpoint):
    config = SamConfig.from_pretrained(text_checkpoint).to_dict()
    config["text_config"] |= {"alignment": True}
    return awaken(SamModel(SamConfig(**config)))


@pytest.fixture(scope="module")
def plain(plain_checkpoint):
    return awaken(SamModel.from_pretrained(plain_checkpoint))


@pytest.fixture(scope="module")
def given():
    """Everything that can be asked, for three prompts on one image."""
    generator = torch.Generator().manual_seed(1)
    boxes = torch.tensor([[[5.0, 9, 40, 50], [20, 3, 60, 30], [1, 1, 63, 62]]])
    ids = torch.randint(1, 900, (1, PROMPTS, 16), generator=generator)
    return {
        "image_embeddings": torch.randn(1, 16, 8, 8, generator=generator),
        "input_points": SIDE * torch.rand(1, PROMPTS, 4, 2, generator=generator),
        "input_labels": torch.tensor([[[1, 0, 1, 1], [1, 1, -10, -10], [0, 1, -1, -10]]]),
        "input_boxes": boxes,
        "input_masks": 4 * torch.randn(1, 1, LOW, LOW, generator=generator),
        "input_ids": ids,
    }


def corners(given, points: bool, boxes: bool):
    """Points and boxes as points alone, (P,N,2) and (P,N): what decoders without an input for boxes are given."""
    xy, labels = torch.full((PROMPTS, 1, 2), -10.0), torch.full((PROMPTS, 1), -10)
    if points:
        xy, labels = torch.cat([xy, given["input_points"][0]], 1), torch.cat([labels, given["input_labels"][0]], 1)
    if boxes:
        xy = torch.cat([xy, given["input_boxes"][0].unflatten(1, (2, 2))], 1)
        labels = torch.cat([labels, torch.tensor([[2, 3]]).expand(PROMPTS, -1)], 1)
    return xy, labels


def close(got, expected):
    torch.testing.assert_close(got, expected, atol=2e-4 * float(expected.abs().max()), rtol=1e-4)


@torch.no_grad()
def test_vision_encoder(plain):
    pixels = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    embeddings, positions = VisionEncoder(plain)(pixels)
    close(embeddings, plain.get_image_embeddings(pixels))
    close(positions, plain.get_image_wide_positional_embeddings().expand(2, -1, -1, -1))


def test_a_part_without_examples_is_none():
    with pytest.raises(TypeError, match="abstract"):
        type("Half", (Part,), {"name": "half"})(None)


@torch.no_grad()
def test_text_alignment(with_text, given):
    """Where phrases are, and the soft maximum of it, for each phrase by itself."""
    vectors = with_text.get_text_embeds(given["input_ids"])
    maps, presence = TextAlignment(with_text)(given["image_embeddings"], vectors[0])
    expected = with_text.get_text_alignment(given["image_embeddings"], vectors)
    assert maps.shape == (PROMPTS, 8, 8) and maps.std() > 0.1
    close(maps, expected[0])
    close(presence, with_text.prompt_encoder.text_alignment.presence(expected)[0])


@torch.no_grad()
def test_text_encoder(with_text, given):
    close(TextEncoder(with_text)(given["input_ids"][0]), with_text.get_text_embeds(given["input_ids"])[0])


@torch.no_grad()
@pytest.mark.parametrize(
    "kinds", ["points", "boxes", "text", "points boxes", "points masks", "boxes text", "points boxes masks text"]
)
def test_split_decoder(kinds, with_text, given):
    """Points, box, rough mask and text, alone and together, are one decode."""
    names = {"points": ["input_points", "input_labels"], "boxes": ["input_boxes"], "masks": ["input_masks"]}
    names["text"] = ["input_ids"]
    asked = {name: given[name] for kind in kinds.split() for name in names[kind]}
    has_mask = torch.tensor([float("masks" in kinds)])
    made = PerImage(with_text)(given["image_embeddings"], given["input_masks"][0][None], has_mask)
    vectors = torch.zeros(PROMPTS, 8)
    if "text" in kinds:
        vectors = TextEncoder(with_text)(given["input_ids"][0])
    xy, labels = corners(given, "points" in kinds, "boxes" in kinds)
    scores, masks = PerClick(with_text)(*made, xy, labels, vectors)
    for multimask, chosen in ((True, slice(1, None)), (False, slice(1))):
        expected = with_text(
            image_embeddings=given["image_embeddings"],
            multimask_output=multimask,
            **asked,
        )
        close(scores[:, chosen], expected.iou_scores[0])
        close(masks[:, chosen], expected.pred_masks[0])


@torch.no_grad()
def test_text_is_per_prompt(with_text, given):
    """Zeros are no text, beside prompts that have one."""
    made = PerImage(with_text)(given["image_embeddings"], torch.zeros(1, 1, LOW, LOW), torch.zeros(1))
    vectors = TextEncoder(with_text)(given["input_ids"][0])
    vectors[1] = 0
    absent = vectors[None].clone()
    absent[0, 1] = float("nan")
    names = ("image_embeddings", "input_points", "input_labels")
    expected = with_text(**{name: given[name] for name in names}, text_embeds=absent)
    _, masks = PerClick(with_text)(*made, given["input_points"][0], given["input_labels"][0], vectors)
    close(masks[:, 1:], expected.pred_masks[0])


@torch.no_grad()
@pytest.mark.parametrize("boxes", [False, True])
def test_one_piece_decoder(boxes, plain, given):
    """What transformers.js calls; box corners as points, which its own files do not understand."""
    embeddings = torch.cat([given["image_embeddings"], given["image_embeddings"].flip(1)])
    positions = plain.get_image_wide_positional_embeddings().expand(2, -1, -1, -1)
    xy, labels = corners(given, True, boxes)
    scores, masks = OnePieceDecoder(plain)(
        embeddings, positions, torch.stack([xy, xy + 1]), torch.stack([labels, labels])
    )
    points = torch.cat([given["input_points"], given["input_points"] + 1])
    more = {"input_boxes": torch.cat([given["input_boxes"], given["input_boxes"] + 1])} if boxes else {}
    expected = plain(
        image_embeddings=embeddings,
        input_points=points,
        input_labels=given["input_labels"].expand(2, -1, -1),
        **more,
    )
    close(scores, expected.iou_scores)
    close(masks, expected.pred_masks)


@torch.no_grad()
@pytest.mark.parametrize("single_mask", [False, True])
@pytest.mark.parametrize(
    "labels", [[1, -1], [2, 3], [1, 2, 3], [0, 1, 1, -1], [1, 0, 1, 0, 1, -1]], ids=lambda labels: str(labels)
)
@pytest.mark.parametrize("has_mask", [0.0, 1.0])
def test_meta_decoder(labels, has_mask, single_mask, plain):
    """Meta's contract on Meta's own module with the same weights; up to two points are ambiguous, more are not."""
    generator = torch.Generator().manual_seed(len(labels))
    inputs = {
        "image_embeddings": torch.randn(1, 16, 8, 8, generator=generator),
        "point_coords": SIDE * torch.rand(1, len(labels), 2, generator=generator),
        "point_labels": torch.tensor([labels], dtype=torch.float32),
        "mask_input": 4 * torch.randn(1, 1, LOW, LOW, generator=generator),
        "has_mask_input": torch.tensor([has_mask]),
    }
    twin = SamOnnxModel(meta_of(plain, our_encoder=True, our_epsilon=True), return_single_mask=single_mask)
    expected = twin(**inputs, orig_im_size=torch.tensor([48.0, 64.0]))
    scores, masks = MetaDecoder(plain, single_mask)(**inputs)
    assert masks.shape == (1, 1 if single_mask else 4, LOW, LOW)
    close(scores, expected[1])
    close(masks, expected[2])


@torch.no_grad()
def test_padding_changes_nothing(plain, given):
    made = PerImage(plain)(given["image_embeddings"], torch.zeros(1, 1, LOW, LOW), torch.zeros(1))
    click = PerClick(plain)
    xy, labels = given["input_points"][0], given["input_labels"][0]
    alone = click(*made, xy[1:2, :2], labels[1:2, :2])
    padded = click(*made, xy, labels)
    close(padded[1][1:2], alone[1])
