"""Reads a checkpoint of any layout into one form: a configuration, weights under our names, and a processor.

Values are moved, never computed with. A `.pth` says nothing about what its tensors do not show; where it was written
here, its record does, elsewhere the published networks do.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from sam_hf.hub.conversion_facts import facts_of
from sam_hf.hub.hub_folders import find_source
from sam_hf.hub.meta_names import is_unused, to_meta_names, to_our_names
from sam_hf.hub.variants import META_DECODER_EPS, TRANSFORMERS_DECODER_EPS, check_variant, infer_config
from sam_hf.hub.weight_files import MAX_BYTES, folder_weights, read_folder_weights, read_json, read_weight_file
from sam_hf.hub.wrapped_weights import find_weights, settle
from sam_hf.model.checkpoint_files import CALIBRATION, PROCESSOR_FILES, TRAINING, UNUSED_WEIGHTS
from sam_hf.model.checkpoint_names import resolve
from sam_hf.model.configuration_sam import SamConfig
from sam_hf.model.image_processing_sam import SamImageProcessor
from sam_hf.model.processing_sam import SamProcessor
from sam_hf.terminal import first_line

__all__ = ["Checkpoint", "read_checkpoint", "textless"]

TEXT = "prompt_encoder.text_"
SETTINGS = (
    *("do_resize", "do_rescale", "do_normalize", "do_pad", "do_convert_rgb", "resample", "rescale_factor"),
    *("image_mean", "image_std", "size", "pad_size", "mask_size", "mask_pad_size"),
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory, whatever layout it came from.

    Args:
        name: Where it came from.
        config: What it is.
        weights: By our names; mapped from the file where that is possible.
        processor: What prepares its inputs.
        unused: Weights that no part of the model reads, by their own names.
        files: Further files that belong to it, by name.
        facts: Where it comes from, and what its training says of itself.
        notes: What a user should know, one sentence each.
    """

    name: str
    config: SamConfig
    weights: dict[str, Tensor]
    processor: SamProcessor
    unused: dict[str, Tensor] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_checkpoint(
    source: str | os.PathLike,
    *,
    config: str | os.PathLike | SamConfig | None = None,
    key: str | None = None,
    variant: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    max_bytes: int = MAX_BYTES,
) -> Checkpoint:
    """Reads a checkpoint of any layout; arguments and errors as in `conversion.convert`."""
    name = os.fspath(source)
    place = find_source(name, revision, token)
    try:
        record: dict[str, Any] = {}
        said: list[str] = []
        if place.is_dir():
            content, said = read_folder_weights(place, max_bytes)
            if config is None and (place / "config.json").is_file():
                config = place / "config.json"
        else:
            content, record = read_weight_file(place, max_bytes)
        weights, notes = find_weights(content, key)
        weights, pixels, more = settle(weights)
        notes += said + more
        unused = {weight: tensor for weight, tensor in weights.items() if is_unused(weight)}
        weights = {weight: tensor for weight, tensor in weights.items() if weight not in unused}
        if record.get("blank_classifier") is True:  # zeros, put in because MobileSAM's code wants to find one
            unused = {}
        epsilon = TRANSFORMERS_DECODER_EPS
        if any(weight.startswith("image_encoder.") for weight in weights):
            weights, epsilon = to_our_names(weights), META_DECODER_EPS
        if config is not None:
            config = _read_config(config)
        elif record.get("config") is not None:
            config = _recorded_config(record["config"], f"the record in {name!r}")
        else:
            config, more = infer_config(to_meta_names(textless(weights)), epsilon=epsilon)
            notes += more
        check_variant(variant, config, name)
    except ValueError as error:
        raise ValueError(str(error) if name in str(error) else f"{name!r}: {error}") from None
    files = {}
    if place.is_dir():
        if (place / UNUSED_WEIGHTS).is_file():
            unused |= read_weight_file(place / UNUSED_WEIGHTS, max_bytes)[0]
        if (place / CALIBRATION).is_file():
            files[CALIBRATION] = (place / CALIBRATION).read_bytes()
    with _sentence(f"{name!r} has settings of an image processor that cannot be used"):
        processor = _processor(config, place, record.get("image_processor"), pixels)
    facts = _facts(name, place, record.get("training"), config.text_config is not None)
    return Checkpoint(name, config, weights, processor, unused, files, facts, tuple(notes))


def textless(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights without those of the text branch."""
    return {name: weight for name, weight in weights.items() if not name.startswith(TEXT)}


def _facts(name: str, place: Path, recorded: Any, has_text: bool) -> dict[str, Any]:
    """Facts for a model card; `recorded` are those in a `.pth` that was written here."""
    on_hub = not Path(resolve(name)).expanduser().exists()
    known = recorded if isinstance(recorded, dict) else {}
    if place.is_dir() and (place / TRAINING).is_file():
        known = read_json(place / TRAINING)
    shown = name if on_hub else Path(os.path.abspath(Path(name).expanduser())).name
    files = folder_weights(place)[1] if place.is_dir() else [place]
    return facts_of(shown, place.name if on_hub else None, files, known, has_text)


def _processor(
    config: SamConfig, place: Path, settings: dict[str, Any] | None, pixels: dict[str, Tensor]
) -> SamProcessor:
    """The source's own; where it has none, SAM's, for the model's size and with the source's mean and deviation."""
    if place.is_dir() and any((place / name).is_file() for name in PROCESSOR_FILES):
        processor = SamProcessor.from_pretrained(place)
        return SamProcessor(processor.image_processor, text_config=config.text_config)
    side = config.vision_config.image_size
    low = 4 * config.prompt_encoder_config.image_embedding_size
    known = {
        "size": {"longest_edge": side},
        "pad_size": {"height": side, "width": side},
        "mask_size": {"longest_edge": low},
        "mask_pad_size": {"height": low, "width": low},
    }
    for name, setting in (("pixel_mean", "image_mean"), ("pixel_std", "image_std")):
        if name in pixels:  # Meta's are of pixels from 0 to 255
            known[setting] = [round(value / 255, 6) for value in pixels[name].flatten().tolist()]
    settings = {name: value for name, value in dict(settings or {}).items() if name in SETTINGS}
    return SamProcessor(SamImageProcessor(**known | settings), text_config=config.text_config)


def _read_config(config: str | os.PathLike | SamConfig) -> SamConfig:
    if isinstance(config, SamConfig):
        return config
    path = Path(config).expanduser()
    path = path / "config.json" if path.is_dir() else path
    with _sentence(f"{str(path)!r} is no configuration of a SAM"):
        read_json(path)
        return SamConfig.from_pretrained(path)


def _recorded_config(fields: Any, where: str) -> SamConfig:
    with _sentence(f"{where} is no configuration of a SAM"):
        return SamConfig.from_dict(dict(fields))


@contextmanager
def _sentence(problem: str) -> Iterator[None]:
    """What libraries say about broken settings, behind what it means."""
    try:
        yield
    except (
        StrictDataclassError,
        AttributeError,
        TypeError,
        ValueError,
        LookupError,
        OSError,
        ArithmeticError,
    ) as error:
        raise ValueError(f"{problem}: {first_line(error)}") from None
