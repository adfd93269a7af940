"""Where a converted checkpoint goes: what may be replaced, and how it is written so that it is there whole or not.

Everything is written beside the target and renamed when it is complete.
"""

import json
import os
import secrets
import zipfile
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from sam_hf.hub.conversion_facts import ORIGIN
from sam_hf.hub.weight_files import RECORD, read_json
from sam_hf.model.atomic_saving import replaced_whole, saved_whole
from sam_hf.model.checkpoint_files import (
    CALIBRATION,
    CONFIG,
    PROCESSOR_FILES,
    SAFETENSORS,
    TRAINING,
    UNUSED_WEIGHTS,
)
from sam_hf.model.modeling_sam import SamModel
from sam_hf.model.processing_sam import SamProcessor
from sam_hf.model.remote_code import MODELS, PROCESSORS, source_files
from sam_hf.terminal import first_line

__all__ = [
    "LAYOUTS",
    "check_apart",
    "is_file_layout",
    "plan_target",
    "write_folder",
    "write_meta_file",
]

LAYOUTS = ("meta", "transformers", "sam_hf")
FILE_ENDINGS = (".pth", ".pt")


def is_file_layout(target: Path, to: str | None) -> bool:
    """Whether the target is a Meta file and not a folder.

    Raises:
        ValueError: The layout is unknown, or contradicts the target's name.
    """
    if to is not None and to not in LAYOUTS:
        raise ValueError(f"to: expected one of {', '.join(LAYOUTS)}; got {to!r}")
    named_file = target.suffix in FILE_ENDINGS
    if to in ("transformers", "sam_hf") and named_file:
        raise ValueError(f"target: the layout {to!r} is a folder, and {str(target)!r} is named like a file")
    if to is None and not named_file and target.suffix in (".safetensors", ".bin", ".ckpt", ".onnx"):
        raise ValueError(f"target: expected a folder, or a file ending in .pth or .pt; got {str(target)!r}")
    return to == "meta" or named_file


def plan_target(target: Path, is_file: bool, overwrite: bool) -> None:
    """Refuses a target that is taken.

    Raises:
        ValueError: It exists and `overwrite` is not given, or holds what a conversion would not put there.
    """
    if not os.path.lexists(target):
        return
    if is_file and target.is_dir():
        raise ValueError(f"target: a file is to be written, and {str(target)!r} is a folder")
    if not is_file and not target.is_dir():
        raise ValueError(f"target: a folder is to be written, and {str(target)!r} is a file")
    try:
        held = [] if is_file else sorted(os.listdir(target))
    except OSError as error:
        raise ValueError(f"target: cannot look into {str(target)!r}: {error.strerror}") from None
    if not overwrite and (is_file or held):
        raise ValueError(f"target: {str(target)!r} exists already: pass overwrite, or choose another name")
    if held and target.samefile(Path.cwd()):
        raise ValueError(f"target: {str(target)!r} is the working folder, and not empty: choose another name")
    ours = _converted_files()
    # A training's own may be all there is of that training.
    if TRAINING in held and ORIGIN in read_json(target / TRAINING):
        ours.add(TRAINING)
    foreign = [name for name in held if name not in ours and not SAFETENSORS.fullmatch(name)]
    if foreign:
        raise ValueError(
            f"target: {str(target)!r} also holds {foreign[0]!r}, which is no part of a converted checkpoint and would "
            "be lost: choose another name"
        )


def _converted_files() -> set[str]:
    """What a converted folder consists of, beside weights; one with anything else in it is never replaced."""
    described = {CONFIG, *PROCESSOR_FILES, UNUSED_WEIGHTS, CALIBRATION, "__pycache__"}
    return described | {file.name for file in source_files(MODELS | PROCESSORS)}


def check_apart(target: Path, sources: Mapping[str, Any]) -> None:
    """Refuses a target in whose place a source lies, which would be lost.

    Args:
        target: What is written.
        sources: Paths, names of the Hub or None, by argument.

    Raises:
        ValueError: One is the target, or in it.
    """
    there = Path(os.path.realpath(target))
    for argument, source in sources.items():
        if not isinstance(source, (str, os.PathLike)) or not (place := Path(source).expanduser()).exists():
            continue
        found = Path(os.path.realpath(place))
        if found == there:
            raise ValueError(f"target: {str(target)!r} is the {argument} itself")
        if there in found.parents:
            raise ValueError(
                f"target: the {argument} {os.fspath(source)!r} lies in {str(target)!r}, and would be lost"
            )


def write_folder(
    target: Path,
    model: SamModel,
    processor: SamProcessor,
    dtype: torch.dtype | str,
    unused: Mapping[str, Tensor],
    more: Mapping[str, bytes],
) -> None:
    """Writes a transformers folder: configuration, weights, processor.

    Args:
        target: The folder; one that is there is replaced.
        model: Filled with the weights.
        processor: What prepares its inputs.
        dtype: What the model is to be loaded in; its file keeps the format of every weight, which may be narrower.
        unused: Weights of the source that have no place in the model.
        more: Further files by name.

    Raises:
        ValueError: The disk refuses; then nothing has changed.
    """
    empty = target.is_dir() and not os.listdir(target)  # it may be the working folder: it stays, and is filled
    with _refusals(target), (saved_whole if empty else replaced_whole)(target) as place:
        aside = Path(place)
        model.save_pretrained(aside)
        config = read_json(aside / CONFIG) | {"dtype": str(dtype).removeprefix("torch.")}
        (aside / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        processor.save_pretrained(aside)
        if unused:
            save_file({name: _alone(tensor) for name, tensor in unused.items()}, aside / UNUSED_WEIGHTS)
        for name, content in more.items():
            (aside / name).write_bytes(content)


def write_meta_file(target: Path, weights: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Writes a `.pth` as torch.save does, and our record into it.

    Args:
        target: The file; one that is there is replaced.
        weights: By Meta's names.
        record: What no tensor says; torch and Meta's code do not look at it.

    Raises:
        ValueError: The disk refuses; then nothing has changed.
    """
    aside = target.with_name(f".sam_hf-{secrets.token_hex(8)}.part")
    with _refusals(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            torch.save({name: _alone(tensor) for name, tensor in weights.items()}, aside)
            with zipfile.ZipFile(aside, "a") as archive:
                root = archive.namelist()[0].split("/")[0]
                archive.writestr(f"{root}/{RECORD}", json.dumps(record))
            os.replace(aside, target)
        finally:
            aside.unlink(missing_ok=True)


def _alone(tensor: Tensor) -> Tensor:
    """The tensor in a storage of its own size: torch.save writes whole storages, which several tensors may share."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


@contextmanager
def _refusals(target: Path):
    """What a disk says in its several ways, as one sentence."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:  # torch's writer says it by a RuntimeError
        reason = getattr(error, "strerror", None) or first_line(error)
        raise ValueError(f"target: cannot write {str(target)!r}: {reason}") from error
