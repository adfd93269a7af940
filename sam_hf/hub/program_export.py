"""Exported programs of a model's parts, and packages compiled from them ahead of time by AOTInductor.

A `SamModel` -> FILE.pt2, either torch.export's (runs wherever torch runs) or compiled (machine code for this kind of
processor or GPU, no Python needed to run it: torch/csrc/inductor/aoti_package/model_package_loader.h). Both keep the
model's device and precision, take any number of pictures, and are loaded by `load_program`.

Source: torch.export and torch._inductor.aoti_compile_and_package; the parts are exported_parts.py's.
"""

import copy
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sam_hf.hub.exported_parts import PARTS, VisionEncoder
from sam_hf.hub.onnx_export import check_request, example_inputs, made_folder, traced_inputs
from sam_hf.model.modeling_sam import SamModel
from sam_hf.terminal import first_line


def export_program(
    model: SamModel,
    path: str | os.PathLike,
    part: str = VisionEncoder.name,
    *,
    compiled: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a part of a model as one file.

    Args:
        model: On the device and in the precision that the part shall run in; it is left as it is.
        path: The file, FILE.pt2; its folder is made.
        part: A name out of `PARTS`. Meta's decoder ends at the low-resolution masks here.
        compiled: Compile it for this device. On a CPU that takes a C++ compiler, and a minute.
        overwrite: Replace the file if it is there already.

    Returns:
        The file.

    Raises:
        TypeError: `model` is no `SamModel`.
        ValueError: There is no such part, `path` is not FILE.pt2, or is there already.
        OSError: There is no C++ compiler, or it failed.

    Example:
        >>> encoder = load_program(export_program(model, "encoder.pt2", compiled=True))
        >>> image_embeddings, positions = encoder(pixel_values)
    """
    check_request(model, [part], ["float32"])
    path = Path(path)
    if path.suffix != ".pt2":
        raise ValueError(f"`path` must end in .pt2; got {path.name!r}")
    if path.exists() and not overwrite:
        raise ValueError(f"{path.name!r} is there already: choose another name, or overwrite")
    if compiled and model.device.type == "cpu":
        require_compiler()
    folder = path.parent
    with torch.no_grad(), made_folder(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as workplace:
        made = PARTS[part](copy.deepcopy(model).eval().requires_grad_(False)).eval()
        inputs = tuple(example.to(model.device) for example in example_inputs(made))
        shapes = tuple(made.dynamic.get(name) for name in traced_inputs(made))
        program = torch.export.export(made, inputs, dynamic_shapes=shapes)
        temporary = Path(workplace) / path.name
        if compiled:
            _compile(program, temporary)
        else:
            torch.export.save(program, temporary)
        os.replace(temporary, path)
    return path


def load_program(path: str | os.PathLike) -> Callable[..., Any]:
    """What `export_program` wrote, as a function: a part's inputs in order -> its outputs.

    A .pt2 is a program, and a compiled one machine code: loading it can run whatever its maker put in. Load only files
    that come from somebody you trust; weights alone travel as safetensors.

    Raises:
        ValueError: It is no such file, is damaged, or was compiled for another kind of machine.
        OSError: It cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            compiled = any("/aotinductor/" in name for name in archive.namelist())
    except zipfile.BadZipFile as error:
        raise ValueError(f"{os.fspath(path)!r} is no exported program (.pt2), or damaged") from error
    try:
        if compiled:
            return torch._inductor.aoti_load_package(os.fspath(path))
        return torch.export.load(path).module()
    except Exception as error:  # another kind of archive fails wherever torch first misses something
        which = "was compiled for another machine, or is damaged" if compiled else "is no exported program, or damaged"
        raise ValueError(f"{os.fspath(path)!r} {which}: {first_line(error)}") from error


def require_compiler() -> None:
    """Raise an OSError that says what to install, if there is no C++ compiler."""
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "cl"]
    if not any(shutil.which(name) for name in wanted):
        raise OSError(f"compiling needs a C++ compiler ({' or '.join(wanted)}): install one, or set CXX to yours")


def _compile(program: torch.export.ExportedProgram, path: Path) -> None:
    import torch._inductor

    try:
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    except Exception as error:  # whatever a compiler of the user's machine has to say
        raise OSError(f"the compiler failed: {first_line(error)}") from error
