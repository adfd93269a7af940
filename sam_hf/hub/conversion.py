"""Converts checkpoints, both ways and without a loss: Meta's `.pth`, transformers' folder, ours with text or TinyViT.

`convert("sam_vit_b_01ec64.pth", "sam-vit-b")` makes a folder that `SamModel.from_pretrained`, stock transformers and
`SamPredictor` load; `convert("sam-vit-b", "sam.pth")` makes a file that segment-anything (MobileSAM's code, for a
TinyViT) loads. Values are moved, never computed with: they come back bit by bit, in their number format.

A `.pth` says nothing about what its tensors do not show. Ours therefore has a record beside them (configuration,
settings of the image processor, where the weights come from), which other readers do not look at and which makes the
way back exact.

Source: transformers' conversion script for SAM. Differs in: both directions, any size, MobileSAM, half precision,
shards, wrapped checkpoints; the epsilon of the decoder's norms is Meta's 1e-5, where that script leaves 1e-6.
"""

import functools
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sam_hf.hub.checkpoint_reading import TEXT, Checkpoint, read_checkpoint, textless
from sam_hf.hub.conversion_facts import facts_with_text, facts_without_text
from sam_hf.hub.converted_files import (
    check_apart,
    is_file_layout,
    plan_target,
    write_folder,
    write_meta_file,
)
from sam_hf.hub.meta_names import to_meta_names
from sam_hf.hub.variants import check_name, describe, meta_differences
from sam_hf.hub.weight_files import MAX_BYTES
from sam_hf.model.checkpoint_checks import config_named
from sam_hf.model.checkpoint_files import CALIBRATION, TRAINING
from sam_hf.model.configuration_sam import SamConfig, SamTextConfig, SamTinyViTConfig
from sam_hf.model.modeling_sam import SamModel
from sam_hf.model.processing_sam import SamProcessor
from sam_hf.model.weight_checks import CHECKED_TYPES, check_finite

__all__ = ["Conversion", "convert"]

ALIGNMENT = "prompt_encoder.text_alignment."
CLASSES = 1000  # of the classifier that MobileSAM's code expects in its file and never asks


@dataclass(frozen=True)
class Conversion:
    """What a conversion has done.

    Args:
        target: The file or folder written.
        layout: "meta", "transformers" or "sam_hf".
        variant: What was recognised, in words.
        parameters: Numbers in the model.
        dtype: Their format, or formats.
        notes: What a user should know, one sentence each.
    """

    target: str
    layout: str
    variant: str
    parameters: int
    dtype: str
    notes: tuple[str, ...]


def convert(
    source: str | os.PathLike,
    target: str | os.PathLike,
    to: str | None = None,
    *,
    drop_text: bool = False,
    text_from: str | os.PathLike | None = None,
    variant: str | None = None,
    config: str | os.PathLike | SamConfig | None = None,
    key: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    overwrite: bool = False,
    max_bytes: int = MAX_BYTES,
) -> Conversion:
    """Converts a checkpoint.

    Args:
        source: A `.pth`, `.pt`, `.bin` or `.safetensors` file, a folder, a Hub id, or "tiny".
        target: Where to; a name ending in .pth or .pt is a file, any other a folder.
        to: "meta": a file in Meta's layout, which for a TinyViT is MobileSAM's. "transformers": a folder that stock
            transformers loads. "sam_hf": a folder with whatever the checkpoint has. None: "meta" or "sam_hf", by the
            target's name.
        drop_text: Leave the text branch out, where the layout has no place for it.
        text_from: Folder of a checkpoint whose text branch is added; its alignment and its calibration only where
            both have the same image encoder, weight by weight.
        variant: What the source is said to be ("vit_b", "vit_l", "vit_h", "vit_t", "slimsam_50", "slimsam_77").
        config: A config.json, its folder, or a configuration, for a file whose tensors do not say enough.
        key: Which model of a file with several, e.g. "ema".
        revision: Branch, tag or commit of a Hub id.
        token: For the Hub; None: the one of the login.
        overwrite: Replace the target.
        max_bytes: Size from which a file, or a folder's files of weights together, are refused.

    Raises:
        ValueError: The source is damaged, incomplete, no SAM, or asks to run code; the layout cannot hold it; the
            target is taken or cannot be written. Then nothing has changed.

    Example:
        >>> convert("mobile_sam.pt", "mobile-sam").variant
        'vit_t (TinyViT, widths 64/128/160/320, 1024 px)'
    """
    given = Path(target).expanduser()
    is_file = is_file_layout(given, to)
    check_name(variant)
    # What is replaced is what a link leads to; "." has no name to write beside.
    place = Path(os.path.realpath(given)) if given.is_symlink() or given.name in ("", "..") else given
    check_apart(place, {"source": source, "text_from": text_from, "config": config})
    plan_target(place, is_file, overwrite)
    options = {"token": token, "max_bytes": max_bytes}
    checkpoint = read_checkpoint(source, config=config, key=key, variant=variant, revision=revision, **options)
    if text_from is not None:
        checkpoint = _with_text(checkpoint, read_checkpoint(text_from, **options))
    layout = "meta" if is_file else to or "sam_hf"
    checkpoint = _fit(checkpoint, layout, drop_text)
    model = _fill(checkpoint)
    if is_file:
        checkpoint = _write_meta(checkpoint, model, place)
    else:
        loaded_in = checkpoint.config.dtype or _widest(model)
        facts = (json.dumps(checkpoint.facts, indent=1, ensure_ascii=False) + "\n").encode()
        more = checkpoint.files | {TRAINING: facts}
        write_folder(place, model, checkpoint.processor, loaded_in, checkpoint.unused, more)
    dtype = ", ".join(sorted({str(weight.dtype).removeprefix("torch.") for weight in model.parameters()}))
    kept = () if dtype == "float32" else (f"the weights are {dtype}, and stay so",)
    return Conversion(
        target=str(target),
        layout="transformers" if layout == "sam_hf" and not checkpoint.config.is_extended else layout,
        variant=describe(checkpoint.config),
        parameters=sum(weight.numel() for weight in model.parameters()),
        dtype=dtype,
        notes=checkpoint.notes + kept,
    )


def _with_text(checkpoint: Checkpoint, other: Checkpoint) -> Checkpoint:
    """A checkpoint with the text branch of another one.

    The alignment compares phrases with what the other's image encoder made of pictures, and the calibration is of
    what came of that: with another encoder they would say anything.
    """
    text = {name: weight for name, weight in other.weights.items() if name.startswith(TEXT)}
    if other.config.text_config is None or not text:
        raise ValueError(f"text_from: {other.name!r} has no text branch")
    widths = [each.config.prompt_encoder_config.hidden_size for each in (other, checkpoint)]
    if widths[0] != widths[1]:
        raise ValueError(f"text_from: the text branch of {other.name!r} is for {widths[0]} channels, not {widths[1]}")
    text_config, files = other.config.text_config, checkpoint.files | other.files
    notes = (*checkpoint.notes, f"the text branch is that of {other.name!r}; it was trained with its decoder")
    if not _same_encoder(checkpoint, other):
        lost = [what for what, had in (("alignment", text_config.alignment), ("calibration", other.files)) if had]
        if lost:
            notes += (f"its {' and '.join(lost)} stayed behind, being of another image encoder",)
        text = {name: weight for name, weight in text.items() if not name.startswith(ALIGNMENT)}
        text_config = SamTextConfig(**text_config.to_dict() | {"alignment": False})
        # Nor are curves kept of a text branch that is replaced.
        files = {} if checkpoint.config.text_config is not None else checkpoint.files
    return replace(
        checkpoint,
        config=_changed(checkpoint.config, text_config=text_config),
        weights=textless(checkpoint.weights) | text,
        processor=SamProcessor(checkpoint.processor.image_processor, text_config=text_config),
        files=files,
        facts=facts_with_text(checkpoint.facts, other.facts),
        notes=notes,
    )


def _same_encoder(first: Checkpoint, second: Checkpoint) -> bool:
    """Whether the image encoders of two checkpoints have the same weights, bit by bit."""
    one, other = (
        {name: weight for name, weight in each.weights.items() if name.startswith("vision_encoder.")}
        for each in (first, second)
    )
    return one.keys() == other.keys() and all(
        weight.dtype == other[name].dtype and torch.equal(weight, other[name]) for name, weight in one.items()
    )


def _fit(checkpoint: Checkpoint, layout: str, drop_text: bool) -> Checkpoint:
    """What of a checkpoint goes into a layout; what would be lost has to be given up in so many words."""
    if checkpoint.config.text_config is not None and (drop_text or layout != "sam_hf"):
        count = len(checkpoint.weights) - len(textless(checkpoint.weights))
        if not drop_text:
            raise ValueError(
                f"the layout {layout!r} has no place for the text branch of {checkpoint.name!r} ({count} weights): "
                "pass drop_text to leave it out, or choose the layout 'sam_hf'"
            )
        checkpoint = replace(
            checkpoint,
            config=_changed(checkpoint.config, text_config=None),
            weights=textless(checkpoint.weights),
            processor=SamProcessor(checkpoint.processor.image_processor),
            files={name: content for name, content in checkpoint.files.items() if name != CALIBRATION},
            facts=facts_without_text(checkpoint.facts),
            notes=(*checkpoint.notes, f"the text branch ({count} weights) was left out"),
        )
    if layout == "transformers" and checkpoint.config.is_extended:
        raise ValueError(
            f"stock transformers has no SAM with the TinyViT encoder of {checkpoint.name!r}: choose the layout "
            "'sam_hf', which it loads with trust_remote_code=True"
        )
    return checkpoint


def _fill(checkpoint: Checkpoint) -> SamModel:
    """The model with the weights themselves, not copies; every one has its place, and every place its weight."""
    with config_named(checkpoint.name), torch.device("meta"):
        model = SamModel(checkpoint.config)
    empty = model.state_dict()
    places = {name: tuple(place.shape) for name, place in empty.items()}
    shapes = {name: tuple(weight.shape) for name, weight in checkpoint.weights.items()}
    for problem, names in (
        ("lacks", sorted(set(places) - set(shapes))),
        ("has no place for", sorted(set(shapes) - set(places))),
        ("has another shape for", sorted(name for name in places if shapes.get(name, places[name]) != places[name])),
    ):
        if names:
            first = f"{names[0]!r} {shapes.get(names[0], '')}".strip()
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            read_as = f"read as {describe(checkpoint.config)}, it"
            raise ValueError(f"{checkpoint.name!r} is no whole SAM: {read_as} {problem} {first}{more}")
    for name, weight in checkpoint.weights.items():
        if empty[name].is_floating_point() and weight.dtype not in CHECKED_TYPES:
            raise ValueError(f"{checkpoint.name!r} is quantized, or no SAM: {name!r} is stored as {weight.dtype}")
    model.load_state_dict(checkpoint.weights, assign=True)
    model.tie_weights()
    check_finite(model, checkpoint.name)
    return model.eval()


def _widest(model: SamModel) -> torch.dtype:
    """The number format that holds every weight of a model."""
    return functools.reduce(torch.promote_types, (weight.dtype for weight in model.parameters()))


def _write_meta(checkpoint: Checkpoint, model: SamModel, place: Path) -> Checkpoint:
    """Writes Meta's layout; returns the checkpoint with notes on what its readers will see differently."""
    weights = to_meta_names({name: checkpoint.weights[name] for name in model.state_dict()})
    notes, config = list(checkpoint.notes), checkpoint.config
    unused, blank = checkpoint.unused, {}
    if isinstance(config.vision_config, SamTinyViTConfig) and not unused:
        blank = _blank_classifier(config, model.dtype)
        notes.append("MobileSAM's code expects a classifier that it never asks: one of zeros was put in")
    notes += meta_differences(config, checkpoint.processor.image_processor)
    record = {
        "config": json.loads(config.to_json_string(use_diff=False)),
        "image_processor": checkpoint.processor.to_dict()["image_processor"],
        "blank_classifier": bool(blank),
        "training": checkpoint.facts,
    }
    write_meta_file(place, weights | unused | blank, record)
    return replace(checkpoint, notes=tuple(notes))


def _blank_classifier(config: SamConfig, dtype: torch.dtype) -> dict[str, Tensor]:
    width = config.vision_config.embed_dims[-1]
    return {
        "image_encoder.norm_head.weight": torch.ones(width, dtype=dtype),
        "image_encoder.norm_head.bias": torch.zeros(width, dtype=dtype),
        "image_encoder.head.weight": torch.zeros(CLASSES, width, dtype=dtype),
        "image_encoder.head.bias": torch.zeros(CLASSES, dtype=dtype),
    }


def _changed(config: SamConfig, **fields: Any) -> SamConfig:
    return SamConfig(
        vision_config=config.vision_config,
        prompt_encoder_config=config.prompt_encoder_config,
        mask_decoder_config=config.mask_decoder_config,
        initializer_range=config.initializer_range,
        dtype=config.dtype,
        **fields,
    )
