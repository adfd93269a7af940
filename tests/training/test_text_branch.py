"""The recipe for a text branch, on tiny checkpoints and a few pictures: from data on disk to a folder that loads."""

import json
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from sam_hf import SamModel, SamPredictor
from sam_hf.cli import main
from sam_hf.masks import rle
from sam_hf.training import clip as small_clip
from sam_hf.training.pretrained_clip import load_pretrained_clip
from sam_hf.training.recipes.text_branch import TextRun, text_model, train
from sam_hf.training.recipes.text_presets import PRESETS, Changes
from sam_hf.training.trainer import Trainer

TEXT = {"context_length": 8, "vocab_size": 600, "width": 16, "heads": 2, "layers": 1}
VIT = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": TEXT,
}
QUIET = {"progress": False, "preview_minutes": 0, "checkpoint_minutes": 0, "log_every": 1}


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    torch.manual_seed(0)
    return str(small_clip.save_clip(small_clip.build_clip(VIT), tmp_path_factory.mktemp("clip") / "clip"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four pictures, bright squares and dark discs on grey, in SA-1B's layout with phrases."""
    folder = tmp_path_factory.mktemp("data") / "pairs"
    folder.mkdir()
    rows, columns = np.mgrid[:72, :96]
    for number in range(4):
        square = (abs(rows - 25) < 15) & (abs(columns - 25 - 4 * number) < 15)
        disc = (rows - 45) ** 2 + (columns - 70) ** 2 < 18**2
        picture = np.full((72, 96, 3), 110 + 8 * number, np.uint8)
        picture[disc], picture[square] = 20, 240
        Image.fromarray(picture).save(folder / f"sa_{number}.jpg", quality=95)
        annotations = [
            {"segmentation": rle.encode(mask), "phrases": phrase}
            for mask, phrase in ((square, "bright square"), (disc & ~square, ["dark disc", "disc"]))
        ]
        content = {"image": {"width": 96, "height": 72}, "annotations": annotations, "absent_phrases": ["cat"]}
        (folder / f"sa_{number}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def run(tmp_path, plain_checkpoint, clip_folder, data):
    def make(preset="gap", **changes):
        fields = {"steps": 2, "batch": 2, "warmup": 1, "scale_range": None} | changes.pop("fields", {})
        places = {"model": str(plain_checkpoint), "clip": clip_folder, "data": str(data), "output": tmp_path / "run"}
        common = {"per_device": 2, "workers": 0, "preset": preset}
        asked = {name: changes.pop(name, None) for name in ("gap", "text_sources", "alignment")}
        return TextRun(**(places | common | changes), changes=Changes(fields=fields, **asked))

    return make


def weights(folder):
    return SamModel.from_pretrained(folder).state_dict()


def changed(before, after):
    return {name for name in after if name not in before or not torch.equal(before[name], after[name])}


def test_the_paper_trains_all_but_text_tower_and_positions(run, plain_checkpoint, clip_folder):
    asked = run("paper")
    folder = train(asked, **QUIET)
    base, result = weights(plain_checkpoint), weights(folder)
    new = changed(base, result)
    for part in ("vision_encoder.layers.0", "vision_encoder.neck", "mask_decoder", "prompt_encoder.text_projection"):
        assert any(name.startswith(part) for name in new), part
    assert not any("shared" in name for name in new)
    tower = small_clip.load_clip(clip_folder).state_dict()
    tower_names = [name for name in result if ".text_encoder." in name]
    assert tower_names
    for name in tower_names:
        assert torch.equal(result[name], tower[name.split(".text_encoder.")[1]]), name
    saved = json.loads((folder / "config.json").read_text())
    assert saved["model_type"] == "sam_hf" and saved["vision_config"]["drop_path_rate"] == 0.0
    predictor = SamPredictor.from_pretrained(folder)
    predictor.set_image(np.zeros((20, 30, 3), np.uint8))
    masks, scores, _ = predictor.predict(point_coords=np.array([[5, 5]]), point_labels=np.array([1]), text="disc")
    assert masks.shape[1:] == (20, 30) and np.isfinite(scores).all()
    facts = json.loads((folder / "training.json").read_text())
    assert facts["training_steps"] == 2 and facts["pictures_seen"] == 4 and facts["preset"] == "paper"
    assert str(asked.output.parent) not in json.dumps(facts) and facts["training_data"].endswith("4 pictures")
    assert "SA-1B Dataset Research License" in facts["licences"]["training_data"]
    assert facts["licences"]["clip"] == "of clip: its text tower is in this checkpoint"


def test_paper_preset_is_the_papers():
    paper = PRESETS["paper"]
    assert (paper.steps, paper.batch, paper.lr, paper.warmup) == (120_000, 128, 8e-4, 250)
    for layers, expected in ((12, (0.6, 0.6)), (24, (0.8, 0.4)), (32, (0.8, 0.4))):
        encoder = SimpleNamespace(model_type="sam_vision_model", num_hidden_layers=layers)
        settings = paper.for_encoder(encoder)
        assert (settings.layer_decay, settings.drop_path) == expected
        assert Changes(fields={"freeze_encoder": True}).of("paper").for_encoder(encoder).drop_path == 0
    assert [round(share * paper.steps) for share in paper.milestones] == [60_000, 86_666]
    assert dict(paper.options.text_sources) == {"image": 1.0} and paper.options.text_gap == "none"
    assert paper.scale_range == (0.1, 2.0) and paper.min_side == 100 and paper.masked_attention and paper.masks == 64
    assert PRESETS["interpolation"].negatives == 0.2 and not paper.needs_phrases


def test_an_alignment_is_learned_where_asked_for(run, tmp_path):
    for name, weight in (("with", 0.4), ("without", None)):
        asked = run("gap", output=tmp_path / name, alignment=weight)
        folder = train(asked, **QUIET)
        metrics = json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1])
        kept = SamModel.from_pretrained(folder).config.text_config.alignment
        assert kept == (weight is not None) == ("text_alignment" in metrics)
        assert SamPredictor.from_pretrained(folder).has_alignment == kept
    fresh = text_model(asked.model, load_pretrained_clip(asked.clip), seed=asked.seed, alignment=True).state_dict()
    name = "prompt_encoder.text_alignment.projection.weight"
    assert not torch.equal(weights(tmp_path / "with" / "checkpoint")[name], fresh[name])
    with pytest.raises(ValueError, match="text_alignment"):
        Changes(alignment=-1.0).of("gap")


def test_frozen_parts_stay_bit_for_bit(run, plain_checkpoint):
    folder = train(run("interpolation"), **QUIET)
    new = changed(weights(plain_checkpoint), weights(folder))
    assert new and not any(name.startswith("vision_encoder") for name in new)
    assert any(name.startswith("mask_decoder") for name in new)


def test_projection_alone_leaves_every_click_as_it_was(run, plain_checkpoint):
    folder = train(run("projection"), **QUIET)
    new = changed(weights(plain_checkpoint), weights(folder))
    assert new and all(name.startswith("prompt_encoder.text_") for name in new)
    inputs = {"pixel_values": torch.randn(1, 3, 64, 64), "input_points": torch.tensor([[[[20.0, 30.0]]]])}
    with torch.no_grad():
        before = SamModel.from_pretrained(plain_checkpoint).eval()(**inputs)
        after = SamModel.from_pretrained(folder).eval()(**inputs)
    torch.testing.assert_close(before.pred_masks, after.pred_masks)


def test_frozen_batch_norm_keeps_its_statistics(clip_folder):
    clip = load_pretrained_clip(clip_folder)
    from sam_hf.training.promptable import SamForPromptableTraining

    model = text_model("tiny", clip)
    model.vision_encoder.requires_grad_(False)
    module = SamForPromptableTraining(model).train()
    before = {name: value.clone() for name, value in model.vision_encoder.state_dict().items()}
    assert module.model.mask_decoder.training and not model.vision_encoder.training
    with torch.no_grad():
        model.vision_encoder(torch.randn(1, 3, 256, 256))
    assert not changed(before, model.vision_encoder.state_dict())


def test_loss_falls(run):
    fields = {
        "steps": 30,
        "warmup": 2,
        "lr": 2e-2,
        "freeze_encoder": False,
        "decoder_rate": 1.0,
        "schedule": "constant",
    }
    asked = run("interpolation", fields=fields, text_sources={"text": 1.0})
    train(asked, **QUIET)
    losses = [json.loads(line)["mask_loss"] for line in (asked.output / "metrics.jsonl").read_text().splitlines()]
    assert np.mean(losses[-4:]) < 0.9 * np.mean(losses[:4])


def test_an_interrupted_run_goes_on_to_the_same_weights(run, tmp_path, monkeypatch):
    fields = {"fields": {"steps": 3}}
    straight = train(run(**fields, output=tmp_path / "straight"), **QUIET)
    loop = Trainer._one_step

    def stop_after_two(self, batches):
        done = loop(self, batches)
        self._stop = self.step == 2
        return done

    asked = run(**fields)
    monkeypatch.setattr(Trainer, "_one_step", stop_after_two)
    assert train(asked, **QUIET) is None
    monkeypatch.undo()
    with pytest.raises(ValueError, match="holds a run with another options"):
        train(run("gap", gap="mean", **fields), **QUIET)
    assert {"images", "category_phrases"} <= set(json.loads((asked.output / "run.json").read_text()))
    assert not changed(weights(straight), weights(train(asked, **QUIET)))
    steps = [json.loads(line)["step"] for line in (asked.output / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]


def test_shards_and_synthetic_scenes_are_data_too(run, data, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for path in sorted(data.iterdir()):
            tar.add(path, path.name)
        tar.addfile(tarfile.TarInfo("broken.json"))
    folder = train(run("paper", data=str(tmp_path / "a.tar"), on_error="skip"), **QUIET)
    assert json.loads((folder / "training.json").read_text())["records_skipped"] >= 1
    synthetic = run("interpolation", data="synthetic", font=False, output=tmp_path / "scenes", fields={"steps": 1})
    assert (train(synthetic, **QUIET) / "model.safetensors").is_file()


def test_what_does_not_go_together_is_said(run, data, tmp_path, plain_checkpoint):
    with pytest.raises(ValueError, match=r"batch_size 3 must be a multiple of 1 process\(es\) x 2"):
        train(run(fields={"batch": 3}), **QUIET)
    silent = tmp_path / "silent"
    silent.mkdir()
    content = json.loads((data / "sa_0.json").read_text())
    for annotation in content["annotations"]:
        del annotation["phrases"]
    (silent / "sa_0.json").write_text(json.dumps(content))
    (silent / "sa_0.jpg").write_bytes((data / "sa_0.jpg").read_bytes())
    with pytest.raises(ValueError, match=r"'interpolation' .* needs phrases and found none in folder silent"):
        train(run("interpolation", data=str(silent)), **QUIET)
    with pytest.raises(ValueError, match="preset must be one of"):
        Changes().of("papers")


def test_a_base_that_would_answer_at_random_is_refused(plain_checkpoint, clip_folder, tmp_path):
    clip, model = load_pretrained_clip(clip_folder), SamModel.from_pretrained(plain_checkpoint)
    lacking = model.state_dict()
    del lacking["mask_decoder.iou_token.weight"]
    model.save_pretrained(tmp_path / "lacking", state_dict=lacking)
    with pytest.raises(ValueError, match="do not fit its configuration: .*iou_token"):
        text_model(str(tmp_path / "lacking"), clip)
    with torch.no_grad():
        model.mask_decoder.iou_token.weight[0, 0] = torch.nan
    model.save_pretrained(tmp_path / "damaged")
    with pytest.raises(ValueError, match=r"is damaged: 'mask_decoder\.iou_token\.weight' is not finite"):
        text_model(str(tmp_path / "damaged"), clip)
    torch.save(model.state_dict(), tmp_path / "damaged" / "pytorch_model.bin")
    (tmp_path / "damaged" / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        text_model(str(tmp_path / "damaged"), clip)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ViT-L-14-336/openai", 'use "ViT-L-14-336-quickgelu/openai"'),
        ("No-Such-Model/openai", 'expected "ARCHITECTURE/TAG"'),
        ("local-dir:absent", "there is no folder 'absent'"),
        ("ViT-B-16-SigLIP/webli", "expected a CLIP with open_clip's own text tower"),
    ],
)
def test_a_clip_that_cannot_be_used_is_said(name, said):
    with pytest.raises((ValueError, OSError), match=said):
        load_pretrained_clip(name)


def test_a_clips_own_size_mean_and_deviation_are_used(clip_folder, tmp_path):
    clip = load_pretrained_clip(clip_folder)
    assert clip.image_size == 32 and clip.mean == small_clip.IMAGE_MEAN and clip.text_config.vocab_size == 600
    grey = torch.full((1, 1, 3, 32, 32), 100, dtype=torch.uint8)
    everything = torch.ones(1, 1, 32, 32, dtype=torch.bool)
    ours = small_clip.CropEncoder(clip.model, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2))(grey, everything)
    images = (grey[0].float() / 255 - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / 0.2
    with torch.no_grad():
        torch.testing.assert_close(ours[0], clip.model.encode_image(images, normalize=True))
    one_by_one = small_clip.CropEncoder(clip.model, True, batch_size=1)
    many = torch.randint(0, 255, (1, 3, 3, 32, 32), dtype=torch.uint8)
    cut = torch.rand(1, 3, 32, 32) > 0.5
    torch.testing.assert_close(one_by_one(many, cut), small_clip.CropEncoder(clip.model, True)(many, cut))


def test_the_command_line(plain_checkpoint, clip_folder, data, tmp_path, capsys):
    words = ["train", "text", "--model", str(plain_checkpoint), "--clip", clip_folder]
    words += ["--output", str(tmp_path / "out")]
    words += ["--preset", "gap", "--steps", "2", "--batch-size", "1", "--workers", "0", "--jitter", "none"]
    words += ["--text-sources", "image=0.7,text=0.3", "--gap", "mean", "--min-side", "50"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--data", str(data)])
    assert ended.value.code == 0 and "checkpoint:" in capsys.readouterr().out
    facts = json.loads((tmp_path / "out" / "checkpoint" / "training.json").read_text())
    options = facts["settings"]["options"]
    assert options["text_sources"] == {"image": 0.7, "text": 0.3} and options["text_gap"] == "mean"
    assert facts["settings"]["scale_range"] is None and facts["settings"]["freeze_encoder"]
    for more, said in (
        (["--data", str(tmp_path / "absent")], "which does not exist"),
        (["--data", str(data), "--text-sources", "image"], "--text-sources expects"),
        (["--data", str(data), "--jitter", "big"], "--jitter expects"),
        (["--data", str(data), "--model", str(tmp_path)], "has no config.json"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*words, *more])
        assert ended.value.code == 2 and said in capsys.readouterr().err
