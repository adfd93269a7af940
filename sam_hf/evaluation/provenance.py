"""Where a number comes from: command, versions, machine, and exactly which weights."""

import hashlib
import os
import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cv2
import torch

from ..data.glyphs import find_emoji_font

__all__ = ["describe_run", "fingerprint", "font_name", "portable_name"]

PACKAGES = ("torch", "transformers", "open_clip_torch", "numpy", "scikit-image")


def fingerprint(model: torch.nn.Module) -> str:
    """SHA-256 over names, shapes, dtypes and bytes of a model's weights; independent of device and file format."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype};".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def portable_name(checkpoint: str) -> str:
    """A checkpoint's name without the folders above it where it is an absolute path; those mean nothing elsewhere."""
    return os.path.basename(os.path.normpath(checkpoint)) if os.path.isabs(checkpoint) else checkpoint


def font_name(font: str | os.PathLike | bool | None) -> str | None:
    """Which font drew the glyphs: file name and digest, since another release draws them differently."""
    if font is False:
        return None
    path = Path(find_emoji_font(font))
    return f"{path.name} sha256:{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version(), "opencv": cv2.__version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    from .. import __version__

    return found | {"sam_hf": __version__}


def describe_run(model: Any, *, name: str | None = None, command: str | None = None) -> dict:
    """What has to be known to repeat a measurement.

    Args:
        model: The model that was measured, where it was measured.
        name: What it was called; None -> its `name_or_path`, without the folders above it.
        command: Command line; None -> this process's.

    Returns:
        JSON-able: "model", "fingerprint", "parameters", "image_size", "dtype", "device", "command", "versions".
    """
    weight = next(model.parameters())
    device = weight.device.type
    if device == "cuda":
        device = torch.cuda.get_device_name(weight.device)
    called = name if name is not None else str(getattr(model, "name_or_path", "") or type(model).__name__)
    return {
        "model": portable_name(called),
        "fingerprint": fingerprint(model),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "image_size": int(model.config.vision_config.image_size),
        "dtype": str(weight.dtype).removeprefix("torch."),
        "device": device,
        "command": command if command is not None else shlex.join(["python", *sys.argv]),
        "versions": _versions(),
    }
