"""Stages at several resolutions, and the recipe from nothing to a loadable checkpoint."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sam_hf import SamConfig, SamModel, SamPredictor
from sam_hf.training.recipes import tiny
from sam_hf.training.resolution import at_resolution
from sam_hf.training.trainer import Trainer

CLIP = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 600, "width": 8, "heads": 1, "layers": 1},
}


@pytest.fixture(scope="module")
def config(small_config):
    return lambda **text: small_config(embed_dim=8, **CLIP["text_cfg"], **text)


def test_same_weights_at_another_resolution(config):
    model = SamModel(config()).eval()
    smaller = at_resolution(model, 32)
    assert smaller.config.prompt_encoder_config.image_embedding_size == 4
    for (name, a), b in zip(model.state_dict().items(), smaller.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    points = torch.tensor([[[[10.0, 12.0]]]])
    out = smaller(pixel_values=torch.randn(1, 3, 32, 32), input_points=points)
    assert out.pred_masks.shape == (1, 1, 3, 16, 16) and not smaller.training
    smaller.vision_encoder.requires_grad_(False).apply(lambda module: None)
    with torch.no_grad():
        next(smaller.parameters()).zero_()
    assert next(model.parameters()).abs().sum() > 0  # nothing is shared
    with pytest.raises(ValueError, match="multiple of the patch size 8"):
        at_resolution(model, 36)


def test_positions_of_a_vit_are_resampled():
    vision = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 1, "image_size": 64, "patch_size": 8}
    vision |= {"output_channels": 8, "num_pos_feats": 4, "window_size": 4, "global_attn_indexes": [1]}
    decoder = {"mlp_dim": 8, "num_attention_heads": 1, "iou_head_hidden_dim": 8}
    model = SamModel(SamConfig(vision_config=vision, mask_decoder_config=decoder)).eval()
    with torch.no_grad():
        model.vision_encoder.pos_embed.copy_(torch.linspace(0, 1, 8)[None, :, None, None].expand(1, 8, 8, 8))
    smaller = at_resolution(model, 32)
    rows = smaller.vision_encoder.pos_embed[0, :, 0, 0]
    assert rows.shape == (4,) and (rows.diff() > 0.15).all()
    assert smaller(pixel_values=torch.randn(1, 3, 32, 32), input_boxes=torch.tensor([[[2.0, 2.0, 20.0, 20.0]]]))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, config):
    folder = tmp_path_factory.mktemp("tiny")
    shared = {"steps": 2, "batch": 2, "prompts": 3, "warmup": 1}
    stages = (
        tiny.ClipStage("clip", size=48, steps=2, scenes=3),
        tiny.Stage("masks", size=32, seed=1, **shared),
        tiny.Stage("text", size=48, seed=2, text=True, absent=1, options=tiny.WITH_TEXT, **shared),
        tiny.ClipStage("more-clip", size=48, steps=1, scenes=3, lr=1e-4, goes_on=True),
    )
    options = {"config": config(), "clip_config": CLIP, "num_workers": 0, "font": False, "progress": False}
    return folder, stages, options, tiny.train(folder, stages, **options)


def test_the_recipe_ends_in_a_checkpoint_that_everything_loads(recipe):
    folder, stages, _, checkpoint = recipe
    predictor = SamPredictor.from_pretrained(checkpoint)
    predictor.set_image(np.zeros((20, 30, 3), np.uint8))
    masks, scores, _ = predictor.predict(point_coords=np.array([[5, 5]]), point_labels=np.array([1]), text="red box")
    assert masks.shape[1:] == (20, 30) and np.isfinite(scores).all()
    weights = load_file(checkpoint / "model.safetensors").values()
    assert {value.dtype for value in weights if value.is_floating_point()} == {torch.float16}
    trained = SamModel.from_pretrained(folder / "text" / "model").prompt_encoder.text_encoder
    from sam_hf.training.clip import load_clip

    first, last = (load_clip(folder / name / "clip").positional_embedding for name in ("clip", "more-clip"))
    torch.testing.assert_close(trained.positional_embedding, first)  # frozen, and not the later CLIP's
    assert 0 < (last - first).abs().max() < 1e-2  # which began where the first had ended
    shipped = load_clip(folder / "checkpoint-clip").positional_embedding
    torch.testing.assert_close(shipped, last, atol=1e-3, rtol=1e-3)


def test_running_it_again_trains_nothing_and_an_interrupted_stage_goes_on(recipe, monkeypatch):
    folder, stages, options, checkpoint = recipe
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/metrics.jsonl")}
    assert tiny.train(folder, stages, **options) == checkpoint
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/metrics.jsonl")} == before
    more = (*stages, tiny.Stage("last", size=48, steps=2, batch=1, prompts=2))
    monkeypatch.setattr(Trainer, "progress", lambda self: 0.0)
    monkeypatch.setattr(Trainer, "_loop", lambda self: None)  # as if stopped at once
    assert tiny.train(folder, more, **options) is None
    monkeypatch.undo()
    assert tiny.train(folder, more, **options) == checkpoint
    with pytest.raises(ValueError, match="distinct names"):
        tiny.train(folder, [stages[1], stages[1]])
    with pytest.raises(ValueError, match="'more-clip' goes on from an earlier ClipStage"):
        tiny.train(folder, [stages[-1]])


def test_a_stage_of_each_kind_stopped_in_its_middle_goes_on_from_there(tmp_path, monkeypatch, config):
    shared = {"size": 48, "steps": 2, "batch": 2, "warmup": 1, "prompts": 3, "absent": 1}
    stages = (
        tiny.ClipStage("clip", size=48, steps=2, scenes=3, rivals=2),
        tiny.Stage("text", seed=1, text=True, options=tiny.WITH_TEXT, **shared),
        tiny.AlignmentStage("alignment", seed=2, rivals=2, **shared),
    )
    options = {"clip_config": CLIP, "num_workers": 0, "font": False, "progress": False, "log_every": 1}
    whole = tiny.train(tmp_path / "whole", stages, config=config(alignment=True), **options)
    step, taken = Trainer._one_step, []

    def stopped(self, batches):
        taken.append((self.output_dir.name, self.step))
        self._stop = self.step == 0  # as a signal during the first of the two steps would
        return step(self, batches)

    monkeypatch.setattr(Trainer, "_one_step", stopped)
    again = [tiny.train(tmp_path / "parts", stages, config=config(alignment=True), **options) for _ in range(4)]
    assert again[:3] == [None] * 3 and again[3] is not None
    assert taken == [(name, number) for name in ("clip", "text", "alignment") for number in (0, 1)]
    once, parts = (load_file(checkpoint / "model.safetensors") for checkpoint in (whole, again[3]))
    for name, value in once.items():
        assert torch.equal(value, parts[name]), name
    before, after = (SamModel.from_pretrained(tmp_path / "whole" / name / "model") for name in ("text", "alignment"))
    changed = {name for name, value in after.state_dict().items() if not torch.equal(value, before.state_dict()[name])}
    assert changed and all(name.startswith("prompt_encoder.text_alignment.") for name in changed)
    lines = (tmp_path / "parts" / "alignment" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2] and "text_alignment_present" in lines[-1]
