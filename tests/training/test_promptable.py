"""One training step: which rounds it plays, what it feeds, what it back-propagates."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sam_hf import SamConfig, SamModel
from sam_hf.model.text_alignment import SamTextAlignment
from sam_hf.training import losses, presets
from sam_hf.training.first_prompts import Prompts, draw_kinds, first_prompts
from sam_hf.training.promptable import SamForPromptableTraining, round_plan
from sam_hf.training.text_alignment import alignment_loss

SIDE = 32
TEXT = {"embed_dim": 8, "context_length": 6, "vocab_size": 600, "width": 8, "heads": 1, "layers": 1}


class Recorder(nn.Module):
    """Stands for a SamModel: fixed logits and scores as leaves, and a record of how it was called."""

    def __init__(self, prompts=2, low=16):
        super().__init__()
        self.logits = nn.Parameter(torch.randn(1, prompts, 4, low, low))
        self.scores = nn.Parameter(torch.rand(1, prompts, 4))
        self.encoded, self.calls, self.low = 0, [], low

    def get_image_embeddings(self, pixel_values):
        self.encoded += 1
        return torch.zeros(pixel_values.shape[0], 4, self.low // 4, self.low // 4)

    def forward(self, image_embeddings, multimask_output, **prompts):
        self.calls.append((multimask_output, prompts))
        kept = slice(1, 4) if multimask_output else slice(0, 1)
        return SimpleNamespace(pred_masks=self.logits[:, :, kept], iou_scores=self.scores[:, :, kept])


def batch(prompts=2):
    masks = torch.zeros(1, prompts, SIDE, SIDE, dtype=torch.uint8)
    masks[:, 0, 4:20, 4:20] = 1
    masks[:, 1, 16:30, 8:28] = 1
    return {"pixel_values": torch.zeros(1, 3, SIDE, SIDE), "masks": masks}


@pytest.fixture
def model():
    torch.manual_seed(0)
    vision = {
        "model_type": "sam_tiny_vit",
        "embed_dims": [8, 8, 16, 16],
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 1, 2, 2],
        "window_sizes": [4, 4, 4, 4],
        "strides": [2, 1, 1],
        "output_channels": 16,
        "num_pos_feats": 8,
        "image_size": SIDE,
    }
    decoder = {"mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    return SamModel(SamConfig(vision_config=vision, mask_decoder_config=decoder, text_config=TEXT))


def test_paper_plan_is_eleven_rounds_two_of_them_without_a_point():
    for step in range(20):
        single, new_point = round_plan(presets.SAM1_PAPER, step)
        assert not single and len(new_point) == 10
        assert new_point.count(False) == 2 and new_point[-1] is False
        assert (single, new_point) == round_plan(presets.SAM1_PAPER, step)
    places = {tuple(round_plan(presets.SAM1_PAPER, step)[1]) for step in range(40)}
    assert len(places) > 3
    lengths = {len(round_plan(presets.FROM_SCRATCH, step)[1]) for step in range(40)}
    assert lengths == {1, 2, 3}


def test_images_are_encoded_once_and_the_single_mask_token_serves_later_rounds():
    torch.manual_seed(0)
    recorder = Recorder()
    out = SamForPromptableTraining(recorder, replace(presets.SAM1_PAPER, rounds=(4, 4), no_point_rounds=1))(**batch())
    assert recorder.encoded == 1
    assert [multimask for multimask, _ in recorder.calls] == [True, False, False, False]
    assert out["losses"].shape == out["ious"].shape == out["oracle_ious"].shape == (4,)
    assert (out["oracle_ious"] >= out["ious"] - 1e-6).all()


def test_previous_logits_of_the_best_predicted_mask_come_back_without_gradient():
    torch.manual_seed(0)
    recorder = Recorder()
    SamForPromptableTraining(recorder, replace(presets.SAM1_PAPER, rounds=(3, 3)))(**batch())
    fed = recorder.calls[1][1]["input_masks"]
    best = recorder.scores[0, :, 1:].argmax(-1) + 1
    for prompt in range(2):
        torch.testing.assert_close(fed[0, prompt, 0], recorder.logits.detach()[0, prompt, best[prompt]])
    assert not fed.requires_grad


def test_each_later_click_corrects_the_current_prediction():
    torch.manual_seed(0)
    recorder = Recorder()
    data = batch()
    config = replace(presets.SAM1_PAPER, rounds=(3, 3), no_point_rounds=0, first_prompts={"point": 1.0})
    SamForPromptableTraining(recorder, config)(**data)
    truth = torch.nn.functional.avg_pool2d(data["masks"].float(), 2)[0] > 0.5
    points, labels = recorder.calls[1][1]["input_points"], recorder.calls[1][1]["input_labels"]
    assert points.shape == (1, 2, 2, 2) and (labels[..., 0] == 1).all()
    predicted = recorder.calls[1][1]["input_masks"][0, :, 0] > 0
    for prompt in range(2):
        x, y = ((points[0, prompt, 1] + 0.5) / 2).floor().long().tolist()
        assert predicted[prompt, y, x] != truth[prompt, y, x]
        assert labels[0, prompt, 1] == truth[prompt, y, x]


def test_only_the_lowest_mask_loss_of_three_is_back_propagated():
    torch.manual_seed(0)
    recorder = Recorder()
    data = batch()
    config = replace(presets.SAM1_PAPER, rounds=(1, 1), no_point_rounds=0, iou_weight=0.0)
    SamForPromptableTraining(recorder, config)(**data)["loss"].backward()
    truth = torch.nn.functional.avg_pool2d(data["masks"].float(), 2) > 0.5
    loss = 20 * losses.focal_loss(recorder.logits, truth[:, :, None])
    loss = loss + losses.dice_loss(recorder.logits, truth[:, :, None])
    best = loss[..., 1:].argmin(-1) + 1
    touched = recorder.logits.grad.abs().sum((-2, -1)) > 0
    assert torch.equal(touched, torch.nn.functional.one_hot(best, 4).bool())


def test_phrases_alone_may_have_a_loss_of_their_own():
    data = batch()
    text = torch.nn.functional.normalize(torch.randn(1, 2, 8), dim=-1)
    config = replace(presets.SAM1_PAPER, rounds=(1, 1), no_point_rounds=0, iou_weight=0.0)

    def loss(kind, **options):
        torch.manual_seed(0)
        chosen = replace(config, first_prompts={kind: 1.0}, **options)
        return SamForPromptableTraining(Recorder(), chosen)(**data, text_embeds=text)["loss"].detach()

    entropy = {"bce": 1.0, "dice": 1.0}
    assert loss("text", text_mask_losses=entropy) == loss("text", mask_losses=entropy) != loss("text")
    for kind in ("text+point", "box"):
        assert loss(kind, text_mask_losses=entropy) == loss(kind)
    with pytest.raises(ValueError, match="text_mask_losses"):
        replace(config, text_mask_losses={"lovasz": 1.0})


@pytest.mark.parametrize(("on", "count"), [("best", 1), ("all", 3)])
def test_which_scores_are_supervised(on, count):
    torch.manual_seed(0)
    recorder = Recorder()
    config = replace(presets.SAM1_PAPER, rounds=(1, 1), no_point_rounds=0, iou_on=on)
    SamForPromptableTraining(recorder, config)(**batch())["loss"].backward()
    assert ((recorder.scores.grad != 0).sum(-1) == count).all()


def test_invalid_slots_and_huge_masks_do_not_count():
    torch.manual_seed(0)
    recorder = Recorder(prompts=4)
    data = batch(prompts=4)
    data["masks"][:, 3] = 1
    valid = torch.tensor([[True, True, False, True]])
    config = replace(presets.SAM1_PAPER, rounds=(1, 1), no_point_rounds=0)
    SamForPromptableTraining(recorder, config)(**data, valid=valid)["loss"].backward()
    assert (recorder.logits.grad.abs().sum((0, 2, 3, 4)) > 0).tolist() == [True, True, False, False]


def test_absent_phrases_are_taught_a_low_score_and_get_text_only(model):
    torch.manual_seed(0)
    recorder = Recorder()
    data = batch()
    data["masks"][:, 1] = 0
    absent = torch.tensor([[False, True]])
    text = torch.nn.functional.normalize(torch.randn(1, 2, 8), dim=-1)
    config = replace(presets.SAM1_PAPER, rounds=(2, 2), no_point_rounds=0, absent_mask_weight=0.0)
    out = SamForPromptableTraining(recorder, config)(**data, absent=absent, text_embeds=text)
    out["loss"].backward()
    prompts = recorder.calls[0][1]
    torch.testing.assert_close(prompts["text_embeds"][0, 1], text[0, 1])
    assert prompts["text_embeds"][0, 0].isnan().all()
    assert "input_points" not in prompts or prompts["input_labels"][0, 1, 0] == -10
    assert (recorder.scores.grad[0, 1, 1:] > 0).all()  # descending lowers the score
    assert recorder.logits.grad[0, 1].abs().sum() == 0
    assert out["metrics"]["score_absent"] == recorder.scores[0, 1, 1:].max()


def test_kinds_follow_their_weights_and_need_a_phrase():
    torch.manual_seed(0)
    has_text = torch.zeros(4, 500, dtype=torch.bool)
    has_text[:2] = True
    absent = torch.zeros_like(has_text)
    names, kinds = draw_kinds({"point": 0.25, "text+point": 0.75}, has_text, absent)
    share = (kinds == names.index("text+point")).float().mean(1)
    assert share[:2].mean() == pytest.approx(0.75, abs=0.05) and (share[2:] == 0).all()
    names, kinds = draw_kinds({"text": 1.0}, has_text, absent)
    assert (kinds[2:] == names.index("point")).all()


def test_mixed_first_prompts_are_padded_as_the_model_expects():
    torch.manual_seed(0)
    names = ["point", "points", "box", "mask", "text", "text+point"]
    kinds = torch.arange(6)[None]
    masks = torch.zeros(1, 6, SIDE, SIDE, dtype=torch.uint8)
    masks[..., 8:20, 8:20] = 1
    text = torch.nn.functional.normalize(torch.randn(1, 6, 8), dim=-1)
    prompts = first_prompts(names, kinds, masks, masks[..., ::2, ::2].bool(), text, SIDE)
    assert prompts.labels[0, [0, 5]].tolist() == [[1, -10, -10]] * 2
    assert prompts.labels[0, 1, :2].tolist() == [1, 1]
    assert (prompts.labels[0, [2, 3, 4]] == -10).all()
    assert (prompts.boxes[0] != -10).all(-1).tolist() == [False, False, True, False, False, False]
    assert prompts.masks[0].isfinite().flatten(1).all(1).tolist() == [False, False, False, True, False, False]
    assert prompts.text[0].isfinite().all(1).tolist() == [False, False, False, False, True, True]
    assert Prompts().arguments() == {}


@pytest.mark.parametrize("name", ["sam1_paper", "sam2_style", "from_scratch"])
def test_every_parameter_learns_within_a_few_steps(model, name):
    torch.manual_seed(0)
    config = presets.PRESETS[name]
    rounds = (3, 3) if name != "from_scratch" else config.rounds
    kinds = {**config.first_prompts, "text": 0.3}
    module = SamForPromptableTraining(model, replace(config, rounds=rounds, first_prompts=kinds)).train()
    data = batch()
    data["pixel_values"] = torch.randn(1, 3, SIDE, SIDE)
    data["input_ids"] = torch.randint(1, 600, (1, 2, 6))
    data["attention_mask"] = torch.ones(1, 2, 6, dtype=torch.long)
    data = {key: value.repeat(3, *[1] * (value.ndim - 1)) for key, value in data.items()}
    # the gradients add up over the steps; the steps are real ones, since zero-initialised branches hold others back
    # at first
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    for step in range(6):
        out = module(**data, step=step)
        out["loss"].backward()
        optimizer.step()
        assert out["loss"].isfinite()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
    # zero, not missing, may be: a mask that was never the best of three, and background clicks before anything surplus
    # is predicted
    allowed = ("hypernetworks", "point_embed.0")
    zero = [n for n, p in model.named_parameters() if p.grad.abs().sum() == 0]
    assert not [n for n in zero if not any(part in n for part in allowed)]


def test_image_vectors_replace_text_as_in_appendix_d5(model):
    torch.manual_seed(0)
    data = batch()
    crops = torch.zeros(1, 2, 3, 4, 4, dtype=torch.uint8)
    vectors = torch.nn.functional.normalize(torch.randn(1, 2, 8), dim=-1)
    seen = []

    def encode(given, masks):
        seen.append((given, masks))
        return vectors

    recorder = Recorder()
    arguments = {"crops": crops, "crop_masks": torch.ones(1, 2, 4, 4, dtype=torch.bool)}
    config = replace(presets.TEXT_D5, rounds=(1, 1))
    SamForPromptableTraining(recorder, config, encode)(**data, **arguments)
    torch.testing.assert_close(recorder.calls[0][1]["text_embeds"], vectors)
    assert torch.equal(seen[0][0], crops)

    means = (torch.zeros(8), torch.full((8,), 3.0))
    gap = replace(config, text_gap="mean")
    SamForPromptableTraining(recorder, gap, encode, means)(**data, **arguments)
    moved = torch.nn.functional.normalize(vectors + 3.0, dim=-1)
    torch.testing.assert_close(recorder.calls[-1][1]["text_embeds"], moved)

    between = replace(config, text_sources={"interpolation": 1.0})
    text = torch.nn.functional.normalize(torch.randn(1, 2, 8), dim=-1)
    text[0, 1] = torch.nan
    has_text = torch.tensor([[True, False]])
    SamForPromptableTraining(recorder, between, encode)(**data, **arguments, text_embeds=text, has_text=has_text)
    mixed = recorder.calls[-1][1]["text_embeds"]
    torch.testing.assert_close(mixed.norm(dim=-1), torch.ones(1, 2))
    torch.testing.assert_close(mixed[0, 1], vectors[0, 1])
    between_both = torch.stack([mixed[0, 0], text[0, 0], vectors[0, 0]])
    assert torch.linalg.matrix_rank(between_both, rtol=1e-4).item() == 2

    with pytest.raises(ValueError, match="crop_encoder"):
        SamForPromptableTraining(recorder, config)
    with pytest.raises(ValueError, match="crop_masks"):
        SamForPromptableTraining(recorder, config, encode)(**data)


def test_dense_text_loss_reaches_the_image_encoder_and_counts_told_slots_only(model):
    torch.manual_seed(0)
    data = batch()
    data["pixel_values"] = torch.randn(1, 3, SIDE, SIDE)
    text = torch.nn.functional.normalize(torch.randn(1, 1, 8), dim=-1).expand(1, 2, 8)  # equal phrases: no rivals
    config = replace(presets.SAM1_PAPER, rounds=(1, 1), no_point_rounds=0, text_alignment=1.0)
    module = SamForPromptableTraining(model, config)
    values = []
    for has_text in ([[True, False]], [[False, True]], [[True, True]]):
        out = module(**data, text_embeds=text, has_text=torch.tensor(has_text))
        values.append(out["metrics"]["text_alignment"].item())
    assert values[2] == pytest.approx((values[0] + values[1]) / 2, rel=1e-4)
    out["loss"].backward()
    assert module.alignment.projection.weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="text branch"):
        recorder = Recorder()
        recorder.config = SimpleNamespace(text_config=None)
        SamForPromptableTraining(recorder, config)


def test_a_tiny_model_learns_one_picture(model):
    torch.manual_seed(0)
    data = batch()
    data["pixel_values"] = torch.randn(1, 3, SIDE, SIDE) * 0.1
    data["pixel_values"][:, 0] += data["masks"][:, 0]
    data["pixel_values"][:, 1] += data["masks"][:, 1]
    config = replace(presets.FROM_SCRATCH, first_prompts={"point": 1.0}, single_first=0.0, rounds=(1, 2))
    module = SamForPromptableTraining(model, config).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=5e-3)
    ious = []
    for step in range(60):
        out = module(**data, step=step)
        optimizer.zero_grad()
        out["loss"].backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        ious.append(float(out["metrics"]["iou_oracle"]))
    assert sum(ious[-10:]) / 10 > sum(ious[:5]) / 5 + 0.15
    assert module.preview(data).size[0] == 3 * 192


def test_bfloat16_autocast_keeps_the_loss_in_float32(model):
    torch.manual_seed(0)
    module = SamForPromptableTraining(model, replace(presets.FROM_SCRATCH, rounds=(2, 2)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = module(**batch())
    assert out["loss"].dtype == torch.float32 and out["loss"].isfinite()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_losses": {"lovasz": 1.0}}, "lovasz"),
        ({"first_prompts": {"scribble": 1.0}}, "scribble"),
        ({"first_prompts": {"point": 0.0}}, "first_prompts"),
        ({"rounds": (3, 2)}, "rounds"),
        ({"iou_loss": "l3"}, "iou_loss"),
        ({"single_first": 1.5}, "single_first"),
    ],
)
def test_options_are_checked_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(presets.SAM1_PAPER, **changes)


def test_rivals_are_told_apart_and_their_gaps_count_for_nothing(model):
    torch.manual_seed(0)
    alignment = SamTextAlignment(16, 8)
    embeddings, masks = torch.randn(1, 16, 4, 4), torch.zeros(1, 2, 16, 16, dtype=torch.bool)
    masks[:, 0, :8], masks[:, 1, 8:] = True, True
    text, rivals = (torch.nn.functional.normalize(torch.randn(1, n, 8), dim=-1) for n in (2, 3))
    told = torch.ones(1, 2, dtype=torch.bool)
    without = alignment_loss(alignment, embeddings, text, masks, told)
    assert (alignment_loss(alignment, embeddings, text, masks, told, rivals) > without).all()
    gaps = torch.full_like(rivals, torch.nan)
    torch.testing.assert_close(alignment_loss(alignment, embeddings, text, masks, told, gaps), without)
    rivals.requires_grad_()
    alignment_loss(alignment, embeddings, text, masks, told, torch.cat([rivals, gaps], dim=1)).sum().backward()
    assert torch.isfinite(rivals.grad).all() and (rivals.grad.abs().sum(-1) > 0).all()
