"""A text branch for any SAM checkpoint: `sam-hf train text --model facebook/sam-vit-base --clip ARCH/TAG --data DATA
--output DIR` (on several devices: `torchrun ... -m sam_hf.training.recipes.text_command` and the same options).

The checkpoint gets CLIP's text tower, frozen, and a fresh projection; it learns from masks alone, or from masks and
phrases where there are some. The result is a folder that `SamModel` and `SamProcessor` load, with `training.json`, the
facts for its model card. The same command goes on where an interrupted run stood.

Source: Segment Anything, §7.5 and App. D.5, which leave open how CLIP's width becomes the decoder's (here: one linear
layer and a learned type); `text_presets` says what else is ours.
"""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sam_hf.model.atomic_saving import replaced_whole
from sam_hf.model.configuration_sam import SamConfig
from sam_hf.model.modeling_sam import SamModel
from sam_hf.model.processing_sam import SamProcessor
from sam_hf.model.text_encoder import SamTokenizer
from sam_hf.training.clip import MEANS_NAME, CropEncoder, can_mask_attention, copy_text_tower, load_means
from sam_hf.training.masks_dataset import MaskSampler, MasksCollate
from sam_hf.training.modality_gap import measure_means
from sam_hf.training.pretrained_clip import PretrainedClip, load_pretrained_clip
from sam_hf.training.promptable import SamForPromptableTraining
from sam_hf.training.recipes.text_presets import Changes, TextSettings
from sam_hf.training.recipes.tiny import new_model
from sam_hf.training.record_sources import DataSource, open_data
from sam_hf.training.trainer import Trainer, TrainerConfig, process_state

TEXT_WEIGHTS = "prompt_encoder.text_"
RUN_NAME, FACTS_NAME = "run.json", "training.json"


@dataclass(frozen=True)
class TextRun:
    """What is trained on what, and where the result goes.

    Attributes:
        model: "tiny", a Hub id or a folder; a text branch it has is replaced.
        clip: See `load_pretrained_clip`.
        data, images, category_phrases, font: See `open_data`.
        output: Folder for metrics, checkpoints and, in `checkpoint/`, the result.
        preset: One of `text_presets.PRESETS`.
        changes: What differs from it.
        per_device: Pictures per process and forward pass; what a step's batch needs more is accumulated.
        minutes: Stop after this much training time, earlier sessions included.
        mixed_precision: "no", "bf16" or "fp16".
        workers: Processes that read data.
        on_error: What to do with a record that cannot be read, "raise" or "skip".
        seed: Of everything.
    """

    model: str
    clip: str
    data: str
    output: Path
    preset: str = "paper"
    changes: Changes = field(default_factory=Changes)
    images: str | None = None
    category_phrases: bool = False
    font: str | bool | None = None
    per_device: int = 1
    minutes: float | None = None
    mixed_precision: str = "no"
    workers: int = 1
    on_error: str = "raise"
    seed: int = 0


def train(run: TextRun, resume: bool = True, **trainer_options: Any) -> Path | None:
    """Trains the branch and writes the checkpoint.

    Args:
        run: See `TextRun`.
        resume: Go on with the run in `run.output`, if there is one; False starts over.
        **trainer_options: More fields of `TrainerConfig`.

    Returns:
        The checkpoint's folder, or None when training was interrupted (the same call goes on).

    Raises:
        ValueError: Something asked for does not exist or does not go together; the message says what.
        OSError: The SAM checkpoint cannot be found.
    """
    settings, processes = run.changes.of(run.preset), process_state()
    together = processes.num_processes * run.per_device
    if run.per_device < 1 or settings.batch % together:
        raise ValueError(
            f"batch_size {settings.batch} must be a multiple of {processes.num_processes} process(es) x "
            f"{run.per_device} picture(s) per device"
        )
    clip = load_pretrained_clip(run.clip)
    if settings.masked_attention and not can_mask_attention(clip.model.visual):
        settings = replace(settings, masked_attention=False)
        print(f"masked attention is off: the image tower of {run.clip} ends without an attending output token")
    settings = settings.for_encoder(SamConfig.from_pretrained(run.model).vision_config)
    model = text_model(run.model, clip, settings.drop_path, run.seed, settings.options.text_alignment > 0)
    size = model.config.vision_config.image_size
    source = open_data(run.data, run.images, run.category_phrases, size, run.font, run.seed)
    said, absent = source.phrases() if settings.needs_phrases else (set(), set())
    if settings.needs_phrases and not said:
        raise ValueError(
            f"data: the preset {run.preset!r} with these options needs phrases and found none in {source.summary} "
            '(for COCO: category_phrases; without phrases: the presets "gap", "projection" and "paper")'
        )
    collate = MasksCollate()
    if settings.needs_phrases:
        tokenizer = SamTokenizer(clip.text_config.vocab_size, clip.text_config.context_length)
        collate = MasksCollate(tokenizer, settings.negatives, said | absent)
    _prepare_folder(run, settings, resume)
    trainer = _trainer(run, settings, model, clip, source, collate, trainer_options)
    if not trainer.train(resume=resume):
        return None
    trainer.load_average()
    folder = run.output / "checkpoint"
    if processes.is_main_process:
        write_text_checkpoint(model, run.model, folder, _facts(run, settings, source, trainer))
    processes.wait_for_everyone()
    return folder


def text_model(
    base: str, clip: PretrainedClip, drop_path: float = 0.0, seed: int = 0, alignment: bool = False
) -> SamModel:
    """The weights of a checkpoint, float32, with CLIP's text tower and a fresh projection, and a fresh alignment if
    asked for.

    Raises:
        OSError: There is no such checkpoint, or only a pickle, which could run code.
        ValueError: It is not what its configuration says, or not finite.
    """
    source, found = SamModel.from_pretrained(base, dtype=torch.float32, output_loading_info=True)
    fields = copy.deepcopy(source.config.to_dict())
    fields["text_config"] = clip.text_config.to_dict() | {"alignment": alignment}
    fields["vision_config"]["drop_path_rate"] = drop_path
    model = new_model(SamConfig(**fields), seed)
    weights = {name: value for name, value in source.state_dict().items() if not name.startswith(TEXT_WEIGHTS)}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    missing = (name for name in (*missing, *found["missing_keys"]) if not name.startswith(TEXT_WEIGHTS))
    wrong = sorted({*unexpected, *missing})
    if wrong:
        raise ValueError(f"model: the weights of {base!r} do not fit its configuration: {wrong[:4]}")
    copy_text_tower(clip.model, model)
    return model


def write_text_checkpoint(model: SamModel, base: str, folder: Path, facts: dict[str, Any] | None = None) -> None:
    """Writes the model, float32, a processor that prepares pictures as that of `base` does, and a model card's facts.

    The folder exists only once it is complete.
    """
    # drop path belongs to the training, not to the checkpoint
    model.config.vision_config.drop_path_rate = SamConfig.from_pretrained(base).vision_config.drop_path_rate
    with replaced_whole(folder) as partial:
        model.eval().save_pretrained(partial)
        images = SamProcessor.from_pretrained(base).image_processor
        SamProcessor(images, text_config=model.config.text_config).save_pretrained(partial)
        if facts is not None:
            (partial / FACTS_NAME).write_text(json.dumps(facts, indent=1) + "\n")


def _trainer(
    run: TextRun,
    settings: TextSettings,
    model: SamModel,
    clip: PretrainedClip,
    source: DataSource,
    collate: MasksCollate,
    trainer_options: dict[str, Any],
) -> Trainer:
    processes = process_state()
    if processes.device.type == "cpu":
        # The attention's learned biases need gradients, which torch's fused kernel on CPUs gives on its slow path.
        model.set_attn_implementation("eager")
    options = replace(settings.options, seed=run.seed)
    encoder = means = None
    if options.uses_image_vectors:
        encoder = CropEncoder(clip.model, settings.masked_attention, clip.mean, clip.std)
        if options.text_gap != "none":
            means = clip.means or _measured_means(run, settings, clip, encoder, source)
    sampler = MaskSampler(
        model.config.vision_config.image_size,
        4 * model.config.prompt_encoder_config.image_embedding_size,
        masks=settings.masks,
        min_side=settings.min_side,
        max_area=options.max_area,
        scale_range=settings.scale_range,
        crop_size=clip.image_size if encoder else None,
        with_phrases=settings.needs_phrases,
    )
    # Shards are streams: a session that goes on makes a pass of its own.
    steps = [int(path.name.split("-")[1]) for path in run.output.glob("checkpoint-*[0-9]")]
    place = (processes.process_index, processes.num_processes, max(steps, default=0))
    return Trainer(
        SamForPromptableTraining(model, options, encoder, means),
        source.dataset(sampler, run.seed, run.on_error, *place),
        _trainer_config(run, settings, trainer_options),
        collate=collate,
    )


def _trainer_config(run: TextRun, settings: TextSettings, more: dict[str, Any]) -> TrainerConfig:
    return TrainerConfig(
        output_dir=run.output,
        max_steps=settings.steps,
        max_minutes=run.minutes,
        batch_size=run.per_device,
        accumulate=settings.batch // (process_state().num_processes * run.per_device),
        lr=settings.lr,
        layer_decay=settings.layer_decay,
        lr_multipliers=settings.rates(),
        schedule=settings.schedule,
        milestones=settings.milestones,
        warmup_steps=settings.warmup,
        ema_decay=settings.ema,
        mixed_precision=run.mixed_precision,
        num_workers=run.workers,
        seed=run.seed,
        **more,
    )


def _measured_means(
    run: TextRun, settings: TextSettings, clip: PretrainedClip, encoder: CropEncoder, source: DataSource
) -> tuple[torch.Tensor, torch.Tensor]:
    """Modality means, measured once per run: a session that goes on reads the file."""
    processes, path = process_state(), run.output / MEANS_NAME
    if processes.is_main_process and not path.exists():
        means = measure_means(source.records(), clip, encoder, settings.min_side, processes.device, run.seed)
        save_file({"image": means[0], "text": means[1]}, path)
    processes.wait_for_everyone()
    return load_means(run.output)


def _prepare_folder(run: TextRun, settings: TextSettings, resume: bool) -> None:
    """Makes the output folder; a new run empties it of an earlier one, a resumed one must be the same run.

    Raises:
        ValueError: The folder holds a run of something else.
    """
    processes, path = process_state(), run.output / RUN_NAME
    # how long it takes, and how it is shared out, may change from session to session
    lasting = {name: value for name, value in asdict(settings).items() if name != "steps"}
    about = {"model": run.model, "clip": run.clip, "data": Path(run.data).name, "seed": run.seed, **lasting}
    about |= {"images": run.images and Path(run.images).name, "category_phrases": run.category_phrases}
    about = json.loads(json.dumps(about))
    if resume and path.is_file():
        earlier = json.loads(path.read_text())
        changed = sorted(name for name in about if earlier.get(name) != about[name])
        if changed:
            raise ValueError(
                f"output: {str(run.output)!r} holds a run with another {', '.join(changed)}; "
                "take another folder, or start over (--no-resume)"
            )
    processes.wait_for_everyone()
    if processes.is_main_process:
        run.output.mkdir(parents=True, exist_ok=True)
        if not resume:
            for old in (*run.output.glob("checkpoint*"), run.output / "previews"):
                shutil.rmtree(old, ignore_errors=True)
            (run.output / MEANS_NAME).unlink(missing_ok=True)
        path.write_text(json.dumps(about, indent=1) + "\n")
    processes.wait_for_everyone()


def _facts(run: TextRun, settings: TextSettings, source: DataSource, trainer: Trainer) -> dict[str, Any]:
    """What a model card says about the training; names only, no machine's paths."""
    learned = sorted({name.split(".")[1] for name, p in trainer.plain_module.named_parameters() if p.requires_grad})
    base, clip = (Path(name).name if Path(name).exists() else name for name in (run.model, run.clip))
    words = "its text tower is in this checkpoint"
    return {
        "base_model": base,
        "clip": clip,
        "training_data": source.summary,
        "licences": {
            "base_model": f"of {base}: its weights are in this checkpoint",
            "clip": f"MIT (OpenAI): {words}" if clip.endswith("/openai") else f"of {clip}: {words}",
            "training_data": source.licence,
        },
        "preset": run.preset,
        "settings": json.loads(json.dumps(asdict(settings))),
        "learned_parts": learned,
        "frozen": ["text tower", *(["image encoder"] if settings.freeze_encoder else [])],
        "training_steps": trainer.step,
        "training_minutes": round(trainer.minutes, 1),
        "pictures_seen": trainer.step * settings.batch,
        "records_skipped": trainer.dataset.skipped,
        "processes": process_state().num_processes,
        "mixed_precision": run.mixed_precision,
        "training_command": f"sam-hf train text --model {base} --clip {clip} --data {Path(run.data).name} "
        f"--preset {run.preset} (options: see settings)",
    }
