"""Reads the weights of a file or folder as data: nothing that a file says is executed.

A `.pth` is a pickle, which is a program; torch reads it with `weights_only=True` and there is no second try. A file
that asks for more is refused, with the names of what it asked for.

Source: torch's `weights_only` documentation and the advisories CVE-2025-32434 and CVE-2026-24747, for which reason
torch 2.10 is asked for.
"""

import json
import os
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sam_hf.model import checkpoint_files
from sam_hf.model.checkpoint_files import PICKLES, WEIGHTS, WEIGHTS_INDEX
from sam_hf.model.weight_checks import check_reads_pickles, check_weight_files
from sam_hf.terminal import first_line

__all__ = [
    "FOLDER_WEIGHTS",
    "MAX_BYTES",
    "RECORD",
    "folder_weights",
    "is_plain_name",
    "read_folder_weights",
    "read_json",
    "read_weight_file",
]

MAX_BYTES = 16 << 30  # ViT-H in float32 with both states of Adam is 7.7 GB
MAX_JSON_BYTES = 64 << 20
FOLDER_WEIGHTS = (WEIGHTS, WEIGHTS_INDEX, *PICKLES)
RECORD = "sam_hf.json"
"""Beside the tensors of a `.pth` that we write: what no tensor says. Other readers do not look there."""

# What a checkpoint may name: tensors, their storages, numbers and containers.
PLAIN = re.compile(
    r"torch\._utils\._rebuild_\w+|torch\.\w+Storage|torch\.storage\.\w+|torch\.(float|bfloat|int|uint|bool|complex)\w*|"
    r"torch\.Size|torch\.device|collections\.OrderedDict|(__builtin__|builtins)\.(frozen)?set"
)


def read_weight_file(path: Path, max_bytes: int = MAX_BYTES) -> tuple[Any, dict[str, Any]]:
    """Reads one file of weights.

    Args:
        path: `.safetensors`, or whatever torch.save has written.
        max_bytes: Larger files are refused, and so are files that would unfold to more.

    Returns:
        What is in it, tensors on the CPU, mapped from the file where that is possible; and the record that we write
        into a `.pth`, empty elsewhere.

    Raises:
        ValueError: It cannot be read, is damaged or too large, or asks to run code, which is then not run.
    """
    _check_size(path, max_bytes)
    if path.suffix == ".safetensors":
        return _read_safetensors(path), {}
    check_reads_pickles(path)
    is_zip = zipfile.is_zipfile(path)
    record = _read_record(path, max_bytes) if is_zip else {}
    try:
        with warnings.catch_warnings():  # torch's remarks on odd files; what is wrong is said below
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # a broken or malicious file fails in many ways, and every one of them is final
        raise ValueError(_why_refused(path, error)) from None
    total = _size_of(content)
    if total > max_bytes:
        raise ValueError(f"{str(path)!r} unfolds to {total >> 20} MB of tensors, over the cap of {max_bytes >> 20} MB")
    return content, record


def folder_weights(folder: Path) -> tuple[str, list[Path]]:
    """The files that a transformers folder's weights are in.

    Returns:
        The name of the one that leads to them, out of `FOLDER_WEIGHTS`, and the files.

    Raises:
        ValueError: There are none, or a shard is missing.
    """
    found = next((name for name in FOLDER_WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise ValueError(f"the folder {str(folder)!r} holds no weights: expected one of {', '.join(FOLDER_WEIGHTS)}")
    names = [found]
    if found.endswith(".index.json"):
        shards = read_json(folder / found).get("weight_map")
        if not isinstance(shards, dict) or not all(is_plain_name(shard) for shard in shards.values()):
            raise ValueError(f"{str(folder / found)!r} has no map from weights to files of its own folder")
        names = sorted(set(shards.values()))
    for name in names:
        if not (folder / name).is_file():
            raise ValueError(f"the folder {str(folder)!r} lacks the shard {name!r} that {found!r} names")
    return found, [folder / name for name in names]


def read_folder_weights(folder: Path, max_bytes: int = MAX_BYTES) -> tuple[dict[str, Tensor], list[str]]:
    """Reads the weights of a transformers folder, whole or in shards.

    Returns:
        Tensors by name, and notes on what they were read from.

    Raises:
        ValueError: There are none, a shard is missing, or a file cannot be used.
    """
    found, files = folder_weights(folder)
    size = sum(file.stat().st_size for file in files)
    if size > max_bytes:
        raise ValueError(f"the folder {str(folder)!r} has {size >> 20} MB, over the cap of {max_bytes >> 20} MB")
    weights: dict[str, Tensor] = {}
    for file in files:
        content, _ = read_weight_file(file, max_bytes)
        if not isinstance(content, Mapping):
            raise ValueError(f"{str(file)!r} holds a {type(content).__name__} instead of weights by name")
        twice = sorted(set(weights) & set(content), key=str)
        if twice:
            raise ValueError(f"the weight {twice[0]!r} of {str(file)!r} is in another shard as well")
        weights.update(content)
    unfolded = _size_of(weights)
    if unfolded > max_bytes:
        raise ValueError(f"{str(folder)!r} unfolds to {unfolded >> 20} MB, over the cap of {max_bytes >> 20} MB")
    promised = read_json(folder / found)["weight_map"] if found.endswith(".index.json") else ()
    lacking = sorted(set(promised) - set(weights))
    if lacking:
        raise ValueError(f"{found!r} promises {lacking[0]!r}, and {len(lacking) - 1} more, that no shard holds")
    notes = [f"the weights were in {len(files)} shards"] if len(files) > 1 else []
    return weights, notes + [f"the weights were a pickle, {found}"] * found.startswith("pytorch_model")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object out of a file that a stranger may have made.

    Raises:
        ValueError: It cannot be read, is too large, or is none.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"{str(path)!r} is too large for a description: {path.stat().st_size >> 20} MB")
        return checkpoint_files.read_json(path)
    except OSError as error:
        raise ValueError(f"cannot read {str(path)!r}: {error.strerror or first_line(error)}") from None


def _check_size(path: Path, max_bytes: int) -> None:
    try:
        size = path.stat().st_size
        with path.open("rb"):
            pass
    except OSError as error:
        raise ValueError(f"cannot read {str(path)!r}: {error.strerror}") from None
    if size == 0:
        raise ValueError(f"{str(path)!r} is empty")
    if size > max_bytes:
        raise ValueError(f"{str(path)!r} has {size >> 20} MB, over the cap of {max_bytes >> 20} MB")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    check_weight_files([path])
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{str(path)!r} is damaged, or no safetensors file: {first_line(error)}") from None


def _read_record(path: Path, max_bytes: int) -> dict[str, Any]:
    """Our record, after a look at the archive: torch stores its entries as they are, so compressed ones are a trap."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.filename.endswith("/constants.pkl") for entry in entries):
                raise ValueError(
                    f"{str(path)!r} is a TorchScript program, no checkpoint: refused, nothing of it was run"
                )
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise ValueError(f"{str(path)!r} has compressed entries, which torch.save never writes: refused")
            if sum(entry.file_size for entry in entries) > max_bytes:
                raise ValueError(f"{str(path)!r} unfolds to more than the cap of {max_bytes >> 20} MB")
            ours = [entry for entry in entries if entry.filename.split("/")[-1] == RECORD]
            record = json.loads(archive.read(ours[0])) if ours and ours[0].file_size <= MAX_JSON_BYTES else {}
    except (zipfile.BadZipFile, OSError, EOFError, RecursionError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{str(path)!r} is damaged ({type(error).__name__})") from None
    return record if isinstance(record, dict) else {}


def _why_refused(path: Path, error: Exception) -> str:
    """One sentence on a pickle that torch would not read, with the names of what it asked for."""
    asked = sorted({name for name in _asked_for(path) if not PLAIN.fullmatch(name)})
    if asked:
        return (
            f"{str(path)!r} is a pickle that asks for {', '.join(asked[:5])}, which is code and no weights: refused, "
            "nothing of it was run; ask for the state_dict or for safetensors"
        )
    return f"{str(path)!r} is damaged, or no checkpoint of torch.save ({type(error).__name__})"


def _asked_for(path: Path) -> Iterator[str]:
    """Names of the functions and classes in a pickle, read from its instructions without following them."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for entry in archive.infolist():
                    if entry.filename.endswith(".pkl"):
                        with archive.open(entry) as file:
                            yield from _globals(file)
        else:
            with path.open("rb") as file:
                for _ in range(5):  # torch's old format is several pickles, one behind the other
                    yield from _globals(file)
    except Exception:  # what cannot be taken apart has been refused already
        return


def _globals(file: BinaryIO) -> Iterator[str]:
    texts: list[str] = []
    memo: dict[Any, str] = {}
    for instruction, argument, _ in pickletools.genops(file):
        if instruction.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".")
        elif instruction.name == "STACK_GLOBAL" and len(texts) > 1:
            yield ".".join(texts[-2:])
        elif isinstance(argument, str) and "PUT" not in instruction.name:
            texts.append(argument)
        elif instruction.name == "MEMOIZE":
            memo[len(memo)] = texts[-1] if texts else ""
        elif "GET" in instruction.name and argument in memo:
            texts.append(memo[argument])


def _size_of(content: Any) -> int:
    """Bytes of the tensors in nested containers; each is looked into once, however often it is held."""
    waiting, seen, total = [content], set(), 0
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            total += value.numel() * value.element_size()
        elif isinstance(value, Mapping):
            waiting.extend(value.values())
        elif isinstance(value, (list, tuple, set, frozenset)):
            waiting.extend(value)
    return total


def is_plain_name(name: Any) -> bool:
    """Whether a shard's name leads to a file of weights in the folder itself."""
    return isinstance(name, str) and name == os.path.basename(name) and name.endswith((".safetensors", ".bin"))
