"""Meta's own modules (segment-anything 1.0) with our weights: the same answers; where transformers differs, Meta's.

Meta decodes one image and prompts that are all of one kind and length. A ragged call of ours must equal Meta's calls
one prompt at a time, each with nothing but what that prompt has.
"""

import itertools

import pytest
import torch
from meta_twin import VITS, meta_of

from sam_hf import SamConfig, SamModel

TOLERANCE = 1e-4  # of the range of the values compared
IOU_RANGE = 1.0
EXACT = 1e-5  # of the range; ours against ours: float32 rounding, no more
KINDS = ("points", "boxes", "masks")
COMBINATIONS = [kinds for count in range(4) for kinds in itertools.combinations(KINDS, count)]


def ask_meta(meta, embedding, points=None, labels=None, box=None, mask=None, multimask=True):
    """Masks and scores of prompts of one image; points (P,N,2), labels (P,N), box (P,4), mask (P,1,4h,4w)."""
    sparse, dense = meta.prompt_encoder(None if points is None else (points, labels), box, mask)
    return meta.mask_decoder(embedding[None], meta.prompt_encoder.get_dense_pe(), sparse, dense, multimask)


@pytest.fixture(scope="module")
def ours(make_model):
    # Meta's two-way blocks have torch's default epsilon; transformers', and so our default, is 1e-6. On weights as
    # small as these the difference would be most of what is measured.
    return make_model(decoder={"layer_norm_eps": 1e-5})


@pytest.fixture(scope="module")
def meta(ours):
    return meta_of(ours)


@pytest.fixture(scope="module")
def embeddings():
    return torch.randn(2, 16, 9, 9, generator=torch.Generator().manual_seed(7))


def ragged_prompts(config, make_prompts, present):
    """Prompts with everything, then padding put wherever `present` (B,P,3) says that a kind is absent."""
    batch, prompts = present.shape[:2]
    full = make_prompts(config, KINDS, batch=batch, prompts=prompts, points=3)
    full["input_labels"][:, 1::2, 0] = -1  # Meta's own "not a point", in some
    for image, prompt in itertools.product(range(batch), range(prompts)):
        has_points, has_box, has_mask = present[image, prompt]
        kept = 1 + prompt % 3 if has_points else 0
        full["input_labels"][image, prompt, kept:] = -10
        if not has_box:
            full["input_boxes"][image, prompt] = -10
        if not has_mask:
            full["input_masks"][image, prompt] = float("nan")
    return full


def unpadded(prompts, image, prompt):
    """What one prompt really has, as arguments of `ask_meta`."""
    labels = prompts["input_labels"][image, prompt]
    real = labels != -10
    box, mask = prompts["input_boxes"][image, prompt], prompts["input_masks"][image, prompt]
    return {
        "points": prompts["input_points"][image, prompt][real][None] if real.any() else None,
        "labels": labels[real][None] if real.any() else None,
        "box": None if (box == -10).all() else box[None],
        "mask": None if mask.isnan().all() else mask[None],
    }


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_image_embeddings(attention, ours, meta, deviation):
    ours.set_attn_implementation(attention)
    pixels = torch.randn(2, 3, 72, 72, generator=torch.Generator().manual_seed(3))
    assert deviation(ours.get_image_embeddings(pixels), meta.image_encoder(pixels)) < TOLERANCE
    assert deviation(ours.get_image_wide_positional_embeddings(), meta.prompt_encoder.get_dense_pe()) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("kinds", COMBINATIONS, ids=lambda kinds: "+".join(kinds) or "nothing")
def test_prompts_of_one_image(kinds, multimask, ours, meta, embeddings, make_prompts, deviation):
    prompts = make_prompts(ours.config, kinds, batch=1, points=3)
    if "points" in kinds:
        prompts["input_labels"][0, :, 1] = -1
    flat = {
        "points": prompts.get("input_points"),
        "labels": prompts.get("input_labels"),
        "box": prompts.get("input_boxes"),
        "mask": prompts.get("input_masks"),
    }
    theirs = ask_meta(
        meta, embeddings[0], **{k: None if v is None else v[0] for k, v in flat.items()}, multimask=multimask
    )
    mine = ours(image_embeddings=embeddings[:1], **prompts, multimask_output=multimask)
    assert deviation(mine.pred_masks[0], theirs[0]) < TOLERANCE
    assert deviation(mine.iou_scores[0], theirs[1], IOU_RANGE) < TOLERANCE
    sparse, dense = ours.get_prompt_embeddings(**prompts)
    points = (flat["points"][0], flat["labels"][0]) if "points" in kinds else None
    masks = flat["mask"][0] if "masks" in kinds else None
    their_sparse, their_dense = meta.prompt_encoder(points, flat["box"][0] if "boxes" in kinds else None, masks)
    if sparse is not None:
        assert deviation(sparse[0], their_sparse) < TOLERANCE
    dense = dense.reshape(-1, *their_dense.shape[1:])  # ours keeps one map where all prompts share it
    assert deviation(dense.expand_as(their_dense), their_dense) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("multimask", [True, False])
def test_ragged_call_equals_single_unpadded_calls(
    multimask, attention, ours, meta, embeddings, make_prompts, deviation
):
    """Every subset of point, box and mask side by side in one call, the empty one too, in another order per image."""
    ours.set_attn_implementation(attention)
    subsets = torch.tensor(list(itertools.product([False, True], repeat=3)))
    present = torch.stack([subsets, subsets.flip(0).roll(1, 0)])  # (B=2, P=8, 3)
    prompts = ragged_prompts(ours.config, make_prompts, present)
    mine = ours(image_embeddings=embeddings, **prompts, multimask_output=multimask)
    for image, prompt in itertools.product(range(2), range(8)):
        theirs = ask_meta(meta, embeddings[image], **unpadded(prompts, image, prompt), multimask=multimask)
        assert deviation(mine.pred_masks[image, prompt], theirs[0][0]) < TOLERANCE
        assert deviation(mine.iou_scores[image, prompt], theirs[1][0], IOU_RANGE) < TOLERANCE


@torch.no_grad()
def test_more_padding_never_changes_an_answer(ours, embeddings, make_prompts, deviation):
    plain = make_prompts(ours.config, ["points"])
    expected = ours(image_embeddings=embeddings, **plain)
    for extra in (1, 5):
        padded = {
            "input_points": torch.nn.functional.pad(plain["input_points"], (0, 0, 0, extra), value=3.0),
            "input_labels": torch.nn.functional.pad(plain["input_labels"], (0, extra), value=-10),
        }
        nothing = {
            "input_boxes": torch.full((2, 3, 4), -10.0),
            "input_masks": torch.full((2, 3, 1, 36, 36), float("nan")),
        }
        for prompts in (padded, padded | nothing, plain | nothing):
            got = ours(image_embeddings=embeddings, **prompts)
            assert deviation(got.pred_masks, expected.pred_masks) < EXACT
            assert deviation(got.iou_scores, expected.iou_scores, IOU_RANGE) < EXACT


@torch.no_grad()
def test_many_prompts_and_images_equal_single_calls(ours, make_prompts, deviation):
    pixels = torch.randn(2, 3, 72, 72, generator=torch.Generator().manual_seed(3))
    present = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(2)) < 0.6
    prompts = ragged_prompts(ours.config, make_prompts, present)
    together = ours(pixels, **prompts)
    for image, prompt in itertools.product(range(2), range(5)):
        one = {name: value[image : image + 1, prompt : prompt + 1] for name, value in prompts.items()}
        alone = ours(pixels[image : image + 1], **one)
        assert deviation(together.pred_masks[image, prompt], alone.pred_masks[0, 0]) < EXACT
        assert deviation(together.iou_scores[image, prompt], alone.iou_scores[0, 0], IOU_RANGE) < EXACT


@torch.no_grad()
def test_non_square_images_through_the_whole_model(ours, meta, deviation):
    """Meta's `Sam.forward`, which normalises and pads by itself."""
    generator = torch.Generator().manual_seed(4)
    sizes = [(72, 40), (30, 72)]
    images = [255 * torch.rand(3, *size, generator=generator) for size in sizes]
    points = 30 * torch.rand(2, 2, 1, 2, generator=generator)
    asked = [
        {
            "image": image,
            "original_size": size,
            "point_coords": points[index],
            "point_labels": torch.ones(2, 1),
        }
        for index, (image, size) in enumerate(zip(images, sizes, strict=True))
    ]
    theirs = meta(asked, multimask_output=True)
    pixels = torch.zeros(2, 3, 72, 72)
    for canvas, image in zip(pixels, images, strict=True):
        canvas[:, : image.shape[1], : image.shape[2]] = (image - meta.pixel_mean) / meta.pixel_std
    mine = ours(pixels, input_points=points)
    for index, answer in enumerate(theirs):
        assert deviation(mine.pred_masks[index], answer["low_res_logits"]) < TOLERANCE
        assert deviation(mine.iou_scores[index], answer["iou_predictions"], IOU_RANGE) < TOLERANCE


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", VITS)
def test_real_sizes(name, draw, make_prompts, deviation):
    """1024 pixels; prompts of every kind in one ragged call."""
    config = SamConfig(vision_config=VITS[name], mask_decoder_config={"layer_norm_eps": 1e-5})
    model = draw(SamModel(config), 0).eval()
    meta = meta_of(model)
    pixels = torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(0))
    theirs = meta.image_encoder(pixels)
    assert deviation(model.get_image_embeddings(pixels), theirs) < TOLERANCE
    present = torch.tensor(list(itertools.product([False, True], repeat=3)))[None]
    prompts = ragged_prompts(model.config, make_prompts, present)
    mine = model(image_embeddings=theirs, **prompts)
    for prompt in range(8):
        masks, scores = ask_meta(meta, theirs[0], **unpadded(prompts, 0, prompt))
        assert deviation(mine.pred_masks[0, prompt], masks[0]) < TOLERANCE
        assert deviation(mine.iou_scores[0, prompt], scores[0], IOU_RANGE) < TOLERANCE
