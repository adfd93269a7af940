"""How the embedded checkpoint is made: `python -m sam_hf.training.recipes.tiny --output DIR` (or `sam-hf train tiny`).

A short list of stages, each a resolution, a length and what a step does. A stage that is complete is skipped, one
that was interrupted goes on from its last checkpoint, so the same command is repeated until it says it is done. The
weights handed from stage to stage are the averaged ones.
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
from sam_hf.model.text_encoder import SamTokenizer
from sam_hf.training.clip import (
    CLIP_CONFIG,
    ClipForTraining,
    CropEncoder,
    build_clip,
    copy_text_tower,
    load_clip,
    load_means,
    modality_means,
    save_clip,
)
from sam_hf.training.crop_dataset import CropCollate, CropDataset
from sam_hf.training.presets import FROM_SCRATCH, PromptableConfig
from sam_hf.training.promptable import SamForPromptableTraining
from sam_hf.training.resolution import at_resolution
from sam_hf.training.scene_dataset import SceneDataset, stack_samples
from sam_hf.training.trainer import Trainer, TrainerConfig, process_state

IMAGE_SIZE = 256
TEXT = SamTextConfig(embed_dim=CLIP_CONFIG["embed_dim"], **CLIP_CONFIG["text_cfg"])


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
        text: whether phrases are among the prompts; the text tower comes from an earlier `ClipStage`.
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


@dataclass(frozen=True)
class ClipStage:
    """Training of the small CLIP whose text tower the later stages use.

    Attributes:
        name: folder name.
        size: side of the scenes the crops come from, in pixels.
        minutes, steps: length, whichever is reached first; at least one.
        scenes: scenes per step, up to five crops each.
        lr: peak learning rate.
        warmup: steps.
        ema: decay of the averaged weights.
        seed: of scenes and crops.
    """

    name: str
    size: int = 128
    minutes: float | None = None
    steps: int | None = None
    scenes: int = 48
    lr: float = 1e-3
    warmup: int = 50
    ema: float = 0.995
    seed: int = 100


WITH_TEXT = replace(
    FROM_SCRATCH,
    first_prompts={"point": 0.4, "box": 0.15, "mask": 0.1, "text": 0.35},
    first_prompts_single={
        "box": 0.3,
        "points": 0.15,
        "mask": 0.1,
        "mask+point": 0.05,
        "text": 0.15,
        "text+point": 0.2,
        "text+box": 0.05,
    },
    text_sources={"text": 0.7, "image": 0.1, "interpolation": 0.2},
)
"""From scratch with phrases among the prompts, most of them real ones: the generator knows them."""

STAGES: tuple[Stage | ClipStage, ...] = (
    ClipStage("0-clip", minutes=12),
    Stage("1-masks-128", size=128, minutes=25, batch=12, prompts=6, lr=1e-3, seed=1),
    Stage("2-all-128", size=128, minutes=30, prompts=7, absent=1, text=True, options=WITH_TEXT, lr=8e-4, seed=2),
    Stage(
        "3-all-256",
        size=256,
        minutes=33,
        batch=6,
        prompts=7,
        absent=1,
        text=True,
        options=replace(WITH_TEXT, rounds=(2, 5)),
        lr=4e-4,
        seed=3,
    ),
)


def tiny_config(image_size: int = IMAGE_SIZE, text: SamTextConfig | None = TEXT) -> SamConfig:
    """Shape of the embedded model: a small TinyViT of stride 8 (so that masks have half the image's resolution),
    SAM's decoder at half width."""
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
        model = SamModel(config)
        if config.text_config is not None:
            # CLIP vectors have unit norm, so their components are small: scale them up to the size of the type
            # embedding
            torch.nn.init.normal_(model.prompt_encoder.text_projection.weight)
        return model


def run_clip_stage(
    stage: ClipStage,
    folder: str | Path,
    mixed_precision: str = "no",
    num_workers: int = 1,
    font: str | None = None,
    resume: bool = True,
    clip_config: dict[str, Any] | None = None,
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
        **trainer_options: more fields of `TrainerConfig`.

    Returns:
        True when it is complete, False when it was interrupted.
    """
    torch.manual_seed(stage.seed)
    clip = build_clip(clip_config)
    generator = SceneGenerator(size=stage.size, split="train", seed=stage.seed, font=font)
    dataset = CropDataset(generator, size=clip.sam_hf_config["vision_cfg"]["image_size"], seed=stage.seed)
    text = clip.sam_hf_config["text_cfg"]
    collate = CropCollate(SamTokenizer(text["vocab_size"], text["context_length"]))
    config = TrainerConfig(
        output_dir=folder,
        max_steps=stage.steps,
        max_minutes=stage.minutes,
        batch_size=stage.scenes,
        lr=stage.lr,
        warmup_steps=stage.warmup,
        ema_decay=stage.ema,
        mixed_precision=mixed_precision,
        num_workers=num_workers,
        seed=stage.seed,
        **trainer_options,
    )
    trainer = Trainer(ClipForTraining(clip), dataset, config, collate=collate)
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
    """
    tokenizer = crop_encoder = means = None
    crop_size = None
    if stage.text:
        text = model.config.text_config
        tokenizer = SamTokenizer(vocab_size=text.vocab_size, context_length=text.context_length)
        if stage.options.uses_image_vectors:
            if clip_folder is None:
                raise ValueError(f"stage {stage.name!r} prompts with image vectors: clip_folder must be given")
            clip = load_clip(clip_folder)
            crop_encoder, means = CropEncoder(clip), load_means(clip_folder)
            crop_size = clip.sam_hf_config["vision_cfg"]["image_size"]
    dataset = SceneDataset(
        SceneGenerator(size=stage.size, split="train", seed=stage.seed, font=font),
        prompts=stage.prompts,
        absent=stage.absent,
        tokenizer=tokenizer,
        crop_size=crop_size,
        max_area=stage.options.max_area,
        seed=stage.seed,
    )
    options = replace(stage.options, seed=stage.seed)
    multipliers = dict(stage.lr_multipliers)
    multipliers.setdefault(r"prompt_encoder\.text_encoder\.", 0.0)
    trainer = Trainer(
        SamForPromptableTraining(model, options, crop_encoder, means),
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
    stages: Sequence[Stage | ClipStage] = STAGES,
    resume: bool = True,
    config: SamConfig | None = None,
    clip_config: dict[str, Any] | None = None,
    init_from: str | Path | None = None,
    **options: Any,
) -> Path | None:
    """Runs the stages in order and writes the checkpoint.

    Args:
        output_dir: gets one folder per stage and, at the end, `checkpoint/` (float16 weights + processor).
        stages: what to do; stages whose folder holds a finished model are skipped.
        resume: False starts over: the stages' folders are emptied.
        config: shape of the model; default `tiny_config()`.
        clip_config: shape of the small CLIP, see `clip.build_clip`; its text part must match `config.text_config`.
        init_from: a folder with weights to start from instead of random ones (missing ones, e.g. of the text
            branch, stay random).
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
    clip_folder = None
    processes = process_state()
    for stage in stages:
        folder = output_dir / stage.name
        if not resume and processes.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)
        processes.wait_for_everyone()
        if isinstance(stage, ClipStage):
            clip_folder = folder / "clip"
            if not clip_folder.exists():
                if not run_clip_stage(stage, folder, resume=resume, clip_config=clip_config, **options):
                    return None
            copy_text_tower(load_clip(clip_folder), model)
            continue
        model = at_resolution(model, stage.size)
        done = folder / "model"
        if done.exists():
            model.load_state_dict(SamModel.from_pretrained(done).state_dict())
            continue
        if processes.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "stage.json").write_text(json.dumps(_plain(asdict(stage)), indent=1) + "\n")
        if not run_stage(stage, model, folder, resume=resume, clip_folder=clip_folder, **options):
            return None
        if processes.is_main_process:
            save_atomically(model, done)
    if processes.is_main_process:
        write_checkpoint(at_resolution(model, config.vision_config.image_size), output_dir / "checkpoint")
    processes.wait_for_everyone()
    return output_dir / "checkpoint"


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
    SamProcessor(images, text_config=model.config.text_config).save_pretrained(folder)
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
