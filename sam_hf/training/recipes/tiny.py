"""How the embedded checkpoint is made: `python -m sam_hf.training.recipes.tiny --output DIR` (or `sam-hf train tiny`).

A short list of stages, each a resolution, a length and what a step does. A stage that is complete is skipped, one that was interrupted goes on from
its last checkpoint, so the same command is repeated until it says it is done. The weights handed from stage to stage are the averaged ones.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from sam_hf.data.synthetic import SceneGenerator
from sam_hf.model.configuration_sam import SamConfig, SamTextConfig, SamTinyViTConfig
from sam_hf.model.modeling_sam import SamModel
from sam_hf.training.presets import FROM_SCRATCH, PromptableConfig
from sam_hf.training.promptable import SamForPromptableTraining
from sam_hf.training.resolution import at_resolution
from sam_hf.training.scene_dataset import SceneDataset, stack_samples
from sam_hf.training.trainer import Trainer, TrainerConfig

IMAGE_SIZE = 256
TEXT = SamTextConfig(embed_dim=128, context_length=24, vocab_size=8192, width=128, heads=4, layers=3)


@dataclass(frozen=True)
class Stage:
    """One stretch of training at one resolution.

    Attributes:
        name: folder name; a stage is known by it, so give a changed stage a new one.
        size: image side in pixels.
        minutes, steps: length, whichever is reached first; at least one.
        batch: images per step.
        prompts: masks per image.
        absent: how many of them are phrases of absent objects (needs `text`).
        text: whether phrases are among the prompts; also whether the text tower's projection learns.
        options: what a step does.
        lr: peak learning rate.
        warmup: steps.
        schedule: see `optimization.lr_factor`.
        ema: decay of the averaged weights.
        lr_multipliers: see `optimization.parameter_groups`; the text tower is frozen unless said otherwise here.
        seed: of scenes and prompts; each stage should have its own.
    """

    name: str
    size: int
    minutes: float | None = None
    steps: int | None = None
    batch: int = 12
    prompts: int = 5
    absent: int = 0
    text: bool = False
    options: PromptableConfig = FROM_SCRATCH
    lr: float = 1e-3
    warmup: int = 100
    schedule: str = "cosine"
    ema: float = 0.998
    lr_multipliers: dict[str, float] = field(default_factory=dict)
    seed: int = 0


STAGES: tuple[Stage, ...] = (
    Stage("1-masks-128", size=128, minutes=60, batch=12, prompts=6, lr=1e-3, seed=1),
    Stage(
        "2-masks-256",
        size=256,
        minutes=40,
        batch=6,
        prompts=6,
        lr=4e-4,
        seed=2,
        options=replace(FROM_SCRATCH, rounds=(2, 5)),
    ),
)


def tiny_config(image_size: int = IMAGE_SIZE, text: SamTextConfig | None = TEXT) -> SamConfig:
    """Shape of the embedded model: a small TinyViT of stride 8 (so that masks have half the image's resolution), SAM's decoder at half width."""
    vision = SamTinyViTConfig(
        embed_dims=(32, 64, 128, 160),
        depths=(2, 2, 4, 2),
        num_heads=(1, 2, 4, 5),
        window_sizes=(8, 8, 16, 8),
        strides=(2, 1, 1),
        output_channels=128,
        num_pos_feats=64,
        image_size=image_size,
    )
    decoder = {"hidden_size": 128, "mlp_dim": 512, "num_attention_heads": 4, "iou_head_hidden_dim": 128}
    return SamConfig(
        vision_config=vision,
        mask_decoder_config=decoder,
        text_config=text.to_dict() if text is not None else None,
    )


def new_model(config: SamConfig, seed: int = 0) -> SamModel:
    """A fresh model; the same weights for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SamModel(config)


def run_stage(
    stage: Stage,
    model: SamModel,
    folder: str | Path,
    mixed_precision: str = "no",
    num_workers: int = 1,
    font: str | None = None,
    resume: bool = True,
    **trainer_options: Any,
) -> bool:
    """Trains `model` (in place) for one stage.

    Args:
        stage: what to do.
        model: a model of the stage's image size.
        folder: of the stage; `TrainerConfig.output_dir`.
        mixed_precision: `"no"` or `"bf16"`.
        num_workers: processes that draw scenes.
        font: emoji font, see `SceneGenerator`.
        resume: continue from the last checkpoint in `folder`.
        **trainer_options: more fields of `TrainerConfig`.

    Returns:
        True when the stage is complete (the model then holds the averaged weights), False when it was interrupted.
    """
    tokenizer = None
    if stage.text:
        from sam_hf.model.text_encoder import SamTokenizer

        text = model.config.text_config
        tokenizer = SamTokenizer(vocab_size=text.vocab_size, context_length=text.context_length)
    dataset = SceneDataset(
        SceneGenerator(size=stage.size, split="train", seed=stage.seed, font=font),
        prompts=stage.prompts,
        absent=stage.absent,
        tokenizer=tokenizer,
        max_area=stage.options.max_area,
        seed=stage.seed,
    )
    multipliers = dict(stage.lr_multipliers)
    multipliers.setdefault(r"prompt_encoder\.text_encoder\.", 0.0)
    trainer = Trainer(
        SamForPromptableTraining(model, replace(stage.options, seed=stage.seed)),
        dataset,
        TrainerConfig(
            output_dir=folder,
            max_steps=stage.steps,
            max_minutes=stage.minutes,
            batch_size=stage.batch,
            lr=stage.lr,
            warmup_steps=stage.warmup,
            schedule=stage.schedule,
            ema_decay=stage.ema,
            lr_multipliers=multipliers,
            mixed_precision=mixed_precision,
            num_workers=num_workers,
            seed=stage.seed,
            **trainer_options,
        ),
        collate=stack_samples,
    )
    complete = trainer.train(resume=resume)
    if complete:
        trainer.load_average()
    return complete


def train(
    output_dir: str | Path,
    stages: Sequence[Stage] = STAGES,
    resume: bool = True,
    config: SamConfig | None = None,
    init_from: str | Path | None = None,
    **options: Any,
) -> Path | None:
    """Runs the stages in order and writes the checkpoint.

    Args:
        output_dir: gets one folder per stage and, at the end, `checkpoint/` (float16 weights + processor).
        stages: what to do; stages whose folder holds a finished model are skipped.
        resume: False starts over: the stages' folders are emptied.
        config: shape of the model; default `tiny_config()`.
        init_from: a folder with weights to start from instead of random ones (missing ones, e.g. of the text branch, stay random).
        **options: passed to `run_stage`.

    Returns:
        The checkpoint's folder, or None when training was interrupted (run the same call again to go on).

    Raises:
        ValueError: there are no stages or two share a name.
    """
    names = [stage.name for stage in stages]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"stages must be a non-empty sequence with distinct names, got {names}")
    output_dir = Path(output_dir)
    config = config or tiny_config()
    model = new_model(config)
    if init_from is not None:
        model.load_state_dict(SamModel.from_pretrained(init_from).state_dict(), strict=False)
    for stage in stages:
        folder = output_dir / stage.name
        if not resume:
            shutil.rmtree(folder, ignore_errors=True)
        model = at_resolution(model, stage.size)
        done = folder / "model"
        if done.exists():
            model.load_state_dict(SamModel.from_pretrained(done).state_dict())
            continue
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "stage.json").write_text(json.dumps(_plain(asdict(stage)), indent=1) + "\n")
        if not run_stage(stage, model, folder, resume=resume, **options):
            return None
        save_atomically(model, done)
    return write_checkpoint(at_resolution(model, config.vision_config.image_size), output_dir / "checkpoint")


def _plain(value: Any) -> Any:
    """Mappings and tuples as JSON knows them."""
    if hasattr(value, "items"):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def save_atomically(model: SamModel, folder: Path) -> None:
    """`save_pretrained` into a folder that exists only once it is complete."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)


def write_checkpoint(model: SamModel, folder: Path) -> Path:
    """Writes weights in float16 and the processor; the folder works with every `from_pretrained` of this package."""
    from sam_hf.model.image_processing_sam import SamImageProcessor
    from sam_hf.model.processing_sam import SamProcessor

    save_atomically(model.eval().half(), folder)
    size = model.config.vision_config.image_size
    images = SamImageProcessor(size={"longest_edge": size}, pad_size={"height": size, "width": size})
    text = model.config.text_config
    options = {} if text is None else {"vocab_size": text.vocab_size, "context_length": text.context_length}
    SamProcessor(images, **options).save_pretrained(folder)
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 0 done, 3 interrupted."""
    parser = argparse.ArgumentParser(description="Train the embedded checkpoint on synthetic scenes.")
    parser.add_argument("--output", required=True, type=Path, help="folder for stages, metrics and the checkpoint")
    parser.add_argument("--restart", action="store_true", help="forget earlier sessions in that folder")
    parser.add_argument("--mixed-precision", default="no", choices=("no", "bf16"))
    parser.add_argument("--workers", default=1, type=int, help="processes that draw scenes")
    parser.add_argument("--font", default=None, help="colour-emoji font")
    parser.add_argument("--minutes", default=None, type=float, help="share this many minutes among the stages")
    parser.add_argument("--init-from", default=None, type=Path, help="folder of a model to start from")
    given = parser.parse_args(arguments)
    stages = STAGES
    if given.minutes is not None:
        total = sum(stage.minutes or 0.0 for stage in stages)
        stages = tuple(replace(stage, minutes=given.minutes * (stage.minutes or 0.0) / total) for stage in stages)
    checkpoint = train(
        given.output,
        stages,
        resume=not given.restart,
        init_from=given.init_from,
        mixed_precision=given.mixed_precision,
        num_workers=given.workers,
        font=given.font,
    )
    if checkpoint is None:
        print("interrupted; the same command goes on from here")
        return 3
    print(f"checkpoint: {checkpoint}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
