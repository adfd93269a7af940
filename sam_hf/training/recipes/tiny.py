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
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from sam_hf.model.atomic_saving import replaced_whole
from sam_hf.model.configuration_sam import SamConfig, SamTextConfig, SamTinyViTConfig
from sam_hf.model.modeling_sam import SamModel
from sam_hf.training.clip import CLIP_CONFIG, copy_text_tower, load_clip, save_clip
from sam_hf.training.presets import FROM_SCRATCH
from sam_hf.training.recipes.stages import (
    AlignmentStage,
    ClipStage,
    Stage,
    Stretch,
    run_alignment_stage,
    run_clip_stage,
    run_stage,
)
from sam_hf.training.resolution import at_resolution
from sam_hf.training.trainer import process_state

IMAGE_SIZE = 256
TEXT = SamTextConfig(embed_dim=CLIP_CONFIG["embed_dim"], alignment=True, **CLIP_CONFIG["text_cfg"])


MASKS = replace(
    FROM_SCRATCH,
    first_prompts={"point": 0.7, "box": 0.2, "mask": 0.1},
    first_prompts_single={"box": 0.5, "points": 0.25, "mask": 0.1, "mask+point": 0.15},
)
"""From scratch, without text."""

WITH_TEXT = replace(
    FROM_SCRATCH,
    rounds=(1, 3),
    first_prompts={"point": 0.4, "box": 0.1, "mask": 0.1, "text": 0.4},
    first_prompts_single={
        "box": 0.3,
        "points": 0.15,
        "mask": 0.1,
        "mask+point": 0.1,
        "text": 0.15,
        "text+point": 0.2,
    },
    text_alignment=0.5,
)
"""From scratch with phrases among the prompts: real ones, since the generator knows them (`benchmarks/text_mix.py`
sets them beside the image vectors of the paper's appendix D.5)."""

TOWER = {r"prompt_encoder\.text_encoder\.": 0.5}  # the text tower goes on learning, at half the rate

FINAL = replace(
    WITH_TEXT,
    mask_losses={"focal": 20.0, "dice": 1.0},
    rounds=(2, 4),
    first_prompts={"point": 0.38, "box": 0.1, "mask": 0.07, "text": 0.45},
    first_prompts_single={
        "box": 0.35,
        "points": 0.15,
        "mask": 0.1,
        "mask+point": 0.1,
        "text": 0.1,
        "text+point": 0.2,
    },
    mask_prompt_drop=0.1,
    middle_clicks=0.5,
    iou_loss="mse",
    iou_weight=2.0,
    text_alignment=0.4,
)
"""At the end the paper's losses: class-balanced cross-entropy, which leaves "predict nothing" behind, weighs a little
foreground as much as all the background and so draws masks too large. The scores learn their mean (squared error), not
their median: the mask with the highest expected IoU is the one to show. Half the clicks are where people click."""

# Written for `torchrun --nproc_per_node=2` on two CPU cores: `batch` is per process.
STAGES: tuple[Stretch, ...] = (
    ClipStage("0-clip", minutes=16),
    Stage("1-masks-128", 128, minutes=25, batch=6, lr=1.5e-3, schedule="constant", options=MASKS, seed=1),
    Stage(
        "2-all-192",
        192,
        minutes=40,
        batch=4,
        prompts=7,
        absent=1,
        text=True,
        options=WITH_TEXT,
        lr=1.5e-3,
        warmup=50,
        schedule="constant",
        lr_multipliers=TOWER,
        seed=2,
    ),
    Stage(
        "3-all-256",
        256,
        minutes=235,
        batch=3,
        prompts=5,
        absent=1,
        rivals=16,
        text=True,
        options=FINAL,
        lr=1.2e-3,
        warmup=60,
        lr_multipliers=TOWER,
        seed=3,
    ),
    AlignmentStage("4-alignment", 256, minutes=6, seed=4),
    ClipStage("5-clip", minutes=60, warmup=50, ema=0.998, seed=101, goes_on=True),
    ClipStage("6-clip", 256, minutes=35, rivals=2, ema=0.997, seed=108, goes_on=True),
    ClipStage("7-clip", 256, minutes=38, rivals=2, warmup=40, ema=0.997, seed=109, goes_on=True),
    ClipStage("8-clip", 256, minutes=8, rivals=4, pairwise=0.1, lr=6e-4, warmup=60, ema=0.997, seed=211, goes_on=True),
    ClipStage(
        "9-clip",
        256,
        minutes=46,
        scenes=56,
        crops=10,
        rivals=4,
        warp=0.5,
        pairwise=0.1,
        lr=9e-4,
        warmup=60,
        ema=0.997,
        seed=212,
        goes_on=True,
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
        initializer_range=0.05,  # about torch's own for these widths; the first steps learn faster than from 0.02
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


def train(
    output_dir: str | Path,
    stages: Sequence[Stretch] = STAGES,
    resume: bool = True,
    config: SamConfig | None = None,
    clip_config: dict[str, Any] | None = None,
    init_from: str | Path | None = None,
    **options: Any,
) -> Path | None:
    """Runs the stages in order and writes the checkpoint.

    Args:
        output_dir: gets one folder per stage and, at the end, `checkpoint/` (float16 weights + processor) and, where
            there was a `ClipStage`, `checkpoint-clip/` (float16).
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
        ValueError: there are no stages, two share a name, or one goes on from none.
    """
    names = [stage.name for stage in stages]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"stages must be a non-empty sequence with distinct names, got {names}")
    clips = [stage for stage in stages if isinstance(stage, ClipStage)]
    if clips and clips[0].goes_on:
        raise ValueError(f"stage {clips[0].name!r} goes on from an earlier ClipStage, but there is none")
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
            start, clip_folder = clip_folder if stage.goes_on else None, folder / "clip"
            if not clip_folder.exists():
                if not run_clip_stage(stage, folder, resume=resume, clip_config=clip_config, start=start, **options):
                    return None
            if not stage.goes_on:
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
        if isinstance(stage, AlignmentStage):
            complete = run_alignment_stage(stage, model, folder, resume=resume, **options)
        else:
            complete = run_stage(stage, model, folder, resume=resume, clip_folder=clip_folder, **options)
        if not complete:
            return None
        if processes.is_main_process:
            with replaced_whole(done) as partial:
                model.save_pretrained(partial)
    if processes.is_main_process:
        write_checkpoint(at_resolution(model, config.vision_config.image_size), output_dir / "checkpoint")
        if clip_folder is not None:
            save_clip(load_clip(clip_folder).half(), output_dir / "checkpoint-clip")
    processes.wait_for_everyone()
    return output_dir / "checkpoint"


def _plain(value: Any) -> Any:
    """Mappings and tuples as JSON knows them."""
    if hasattr(value, "items"):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def write_checkpoint(model: SamModel, folder: Path) -> Path:
    """Writes weights in float16, to be loaded as float32, and the processor.

    The folder works with every `from_pretrained` of this package.
    """
    from sam_hf.model.image_processing_sam import SamImageProcessor
    from sam_hf.model.processing_sam import SamProcessor

    size, low = model.config.vision_config.image_size, 4 * model.config.prompt_encoder_config.image_embedding_size
    images = SamImageProcessor(
        size={"longest_edge": size},
        pad_size={"height": size, "width": size},
        mask_size={"longest_edge": low},
        mask_pad_size={"height": low, "width": low},
    )
    with replaced_whole(folder) as partial:
        model.eval().half().save_pretrained(partial)
        # What dtype="auto", the default of from_pretrained, is to mean: half precision is slow on CPUs.
        config = json.loads((partial / "config.json").read_text())
        (partial / "config.json").write_text(
            json.dumps(config | {"dtype": "float32"}, indent=2, sort_keys=True) + "\n"
        )
        SamProcessor(images, text_config=model.config.text_config).save_pretrained(partial)
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
