"""Stages of a recipe: what one stretch of training is, and how it is run, resumed and stored."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from sam_hf.data.synthetic import SceneGenerator
from sam_hf.model.modeling_sam import SamModel
from sam_hf.model.text_encoder import SamTokenizer
from sam_hf.training.clip import (
    ClipForTraining,
    CropEncoder,
    build_clip,
    load_clip,
    load_means,
    modality_means,
    save_clip,
)
from sam_hf.training.crop_dataset import CropCollate, CropDataset
from sam_hf.training.presets import FROM_SCRATCH, PromptableConfig
from sam_hf.training.promptable import SamForPromptableTraining
from sam_hf.training.scene_dataset import SceneDataset, stack_samples
from sam_hf.training.text_alignment import SamForTextAlignment
from sam_hf.training.trainer import Trainer, TrainerConfig, process_state


@dataclass(frozen=True)
class Stretch:
    """What all stages have in common.

    Attributes:
        name: folder name; a stage is known by it, so give a changed stage a new one.
        size: side of the scenes in pixels.
        minutes, steps: length, whichever is reached first; at least one.
        lr: peak learning rate.
        warmup: steps.
        ema: decay of the averaged weights.
        seed: of scenes and choices; each stage should have its own.
    """

    name: str
    size: int = 128
    minutes: float | None = None
    steps: int | None = None
    lr: float = 1e-3
    warmup: int = 100
    ema: float = 0.998
    seed: int = 0


@dataclass(frozen=True)
class Stage(Stretch):
    """One stretch of training at one resolution.

    Attributes:
        batch: images per step and process.
        prompts: masks per image.
        absent: how many of them are phrases of absent objects (needs `text`).
        rivals: how many more such phrases each image is told apart from, see `text_alignment` (needs `text`).
        text: whether phrases are among the prompts; the text tower comes from an earlier `ClipStage`.
        options: what a step does.
        schedule: see `optimization.lr_factor`.
        lr_multipliers: see `optimization.parameter_groups`; the text tower is frozen unless said otherwise here.
    """

    batch: int = 12
    prompts: int = 5
    absent: int = 0
    rivals: int = 0
    text: bool = False
    options: PromptableConfig = FROM_SCRATCH
    schedule: str = "cosine"
    lr_multipliers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ClipStage(Stretch):
    """Training of the small CLIP whose text tower the later stages use, on crops of the scenes.

    Attributes:
        scenes: scenes per step.
        crops: of each scene, at most.
        rivals: how many phrases that are nearly true of it each crop is told from.
        warp: probability of warping a crop, see `CropDataset`.
        pairwise: see `ClipForTraining`.
        goes_on: start from the weights of the `ClipStage` before; the text branch keeps the tower it has. The CLIP
            itself is what such a stage is for: it is shipped beside the checkpoint.
    """

    warmup: int = 50
    ema: float = 0.995
    seed: int = 100
    scenes: int = 48
    crops: int = 5
    rivals: int = 0
    warp: float = 0.0
    pairwise: float = 0.0
    goes_on: bool = False


@dataclass(frozen=True)
class AlignmentStage(Stretch):
    """Training of the alignment of a finished model, and of nothing else in it: see `SamForTextAlignment`.

    Attributes:
        batch: images per step and process.
        prompts: phrases per image.
        absent: how many of them are of absent things.
        rivals: how many more of those each image is told apart from.
    """

    lr: float = 5e-4
    warmup: int = 30
    ema: float = 0.99
    batch: int = 4
    prompts: int = 12
    absent: int = 4
    rivals: int = 8


def run_clip_stage(
    stage: ClipStage,
    folder: str | Path,
    mixed_precision: str = "no",
    num_workers: int = 1,
    font: str | None = None,
    resume: bool = True,
    clip_config: dict[str, Any] | None = None,
    start: str | Path | None = None,
    **trainer_options: Any,
) -> bool:
    """Trains the small CLIP and writes it to `folder/clip` as an open_clip folder.

    Args:
        stage: what to do.
        folder: of the stage.
        mixed_precision: `"no"` or `"bf16"`.
        num_workers: processes that draw scenes.
        font: emoji font.
        resume: continue from the last checkpoint in `folder`.
        clip_config: see `clip.build_clip`.
        start: open_clip folder with the weights to start from; None: random ones.
        **trainer_options: more fields of `TrainerConfig`.

    Returns:
        True when it is complete, False when it was interrupted.
    """
    torch.manual_seed(stage.seed)
    clip = build_clip(clip_config) if start is None else load_clip(start)
    generator = SceneGenerator(size=stage.size, split="train", seed=stage.seed, font=font)
    side = clip.sam_hf_config["vision_cfg"]["image_size"]
    dataset = CropDataset(
        generator, crops=stage.crops, size=side, rivals=stage.rivals, warp=stage.warp, seed=stage.seed
    )
    text = clip.sam_hf_config["text_cfg"]
    collate = CropCollate(SamTokenizer(text["vocab_size"], text["context_length"]))
    config = _trainer_config(stage, folder, mixed_precision, num_workers, **trainer_options)
    trainer = Trainer(ClipForTraining(clip, pairwise=stage.pairwise), dataset, config, collate=collate)
    if not trainer.train(resume=resume):
        return False
    trainer.load_average()
    if not process_state().is_main_process:
        process_state().wait_for_everyone()
        return True
    unseen = [collate([dataset[2**31 + 32 * part + i] for i in range(32)]) for part in range(4)]
    clip = clip.cpu()
    save_clip(clip, Path(folder) / "clip", modality_means(clip, unseen))
    process_state().wait_for_everyone()
    return True


def run_stage(
    stage: Stage,
    model: SamModel,
    folder: str | Path,
    mixed_precision: str = "no",
    num_workers: int = 1,
    font: str | None = None,
    resume: bool = True,
    clip_folder: str | Path | None = None,
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
        clip_folder: the small CLIP, for the image vectors of appendix D.5.
        **trainer_options: more fields of `TrainerConfig`.

    Returns:
        True when the stage is complete (the model then holds the averaged weights), False when it was interrupted.

    Raises:
        ValueError: the stage prompts with image vectors and `clip_folder` is missing.
    """
    # The learned biases of the attention need gradients, which torch's fused kernel on CPUs gives on its slow path.
    model.set_attn_implementation("eager")
    dataset, crop_encoder, means = _stage_data(stage, model, font, clip_folder)
    options = replace(stage.options, seed=stage.seed)
    multipliers = dict(stage.lr_multipliers)
    multipliers.setdefault(r"prompt_encoder\.text_encoder\.", 0.0)
    trainer = Trainer(
        SamForPromptableTraining(model, options, crop_encoder, means),
        dataset,
        _trainer_config(
            stage,
            folder,
            mixed_precision,
            num_workers,
            schedule=stage.schedule,
            lr_multipliers=multipliers,
            **trainer_options,
        ),
        collate=stack_samples,
    )
    complete = trainer.train(resume=resume)
    if complete:
        trainer.load_average()
    return complete


def run_alignment_stage(
    stage: AlignmentStage,
    model: SamModel,
    folder: str | Path,
    mixed_precision: str = "no",
    num_workers: int = 1,
    font: str | None = None,
    resume: bool = True,
    **trainer_options: Any,
) -> bool:
    """Trains the alignment of `model`, in place; see `run_stage`."""
    text = model.config.text_config
    dataset = SceneDataset(
        SceneGenerator(size=stage.size, split="train", seed=stage.seed, font=font, absent=stage.absent + stage.rivals),
        prompts=stage.prompts,
        absent=stage.absent,
        rivals=stage.rivals,
        tokenizer=SamTokenizer(vocab_size=text.vocab_size, context_length=text.context_length),
        seed=stage.seed,
    )
    config = _trainer_config(stage, folder, mixed_precision, num_workers, **trainer_options)
    trainer = Trainer(SamForTextAlignment(model), dataset, config, collate=stack_samples)
    complete = trainer.train(resume=resume)
    if complete:
        trainer.load_average()
    return complete


def _trainer_config(
    stage: Stretch,
    folder: str | Path,
    mixed_precision: str,
    num_workers: int,
    **more: Any,
) -> TrainerConfig:
    return TrainerConfig(
        output_dir=folder,
        max_steps=stage.steps,
        max_minutes=stage.minutes,
        batch_size=stage.scenes if isinstance(stage, ClipStage) else stage.batch,
        lr=stage.lr,
        warmup_steps=stage.warmup,
        ema_decay=stage.ema,
        mixed_precision=mixed_precision,
        num_workers=num_workers,
        seed=stage.seed,
        **more,
    )


def _stage_data(
    stage: Stage, model: SamModel, font: str | None, clip_folder: str | Path | None
) -> tuple[SceneDataset, CropEncoder | None, tuple[torch.Tensor, torch.Tensor] | None]:
    """The scenes of a stage and, where it prompts with image vectors, what makes those: (data, encoder, means)."""
    tokenizer = crop_encoder = means = crop_size = None
    if stage.text:
        text = model.config.text_config
        tokenizer = SamTokenizer(vocab_size=text.vocab_size, context_length=text.context_length)
    if stage.text and stage.options.uses_image_vectors:
        if clip_folder is None:
            raise ValueError(f"stage {stage.name!r} prompts with image vectors: clip_folder must be given")
        clip = load_clip(clip_folder)
        crop_encoder, means = CropEncoder(clip), load_means(clip_folder)
        crop_size = clip.sam_hf_config["vision_cfg"]["image_size"]
    dataset = SceneDataset(
        SceneGenerator(
            size=stage.size,
            split="train",
            seed=stage.seed,
            font=font,
            absent=stage.absent + stage.rivals if stage.rivals else None,
        ),
        prompts=stage.prompts,
        absent=stage.absent,
        rivals=stage.rivals,
        tokenizer=tokenizer,
        crop_size=crop_size,
        max_area=stage.options.max_area,
        seed=stage.seed,
    )
    return dataset, crop_encoder, means
