"""Files of weights, their shapes and their numbers: what is damaged, or of another network, is refused by name.

Source: the description of the safetensors format. Differs in: a name that stands twice in a header, or in two files of
one checkpoint, is refused too.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

LONGEST_HEADER = 100_000_000  # bytes; safetensors' own limit
CHECKED_TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
FLOATS = ("F32", "F64", "F16", "BF16")  # the same, as a header says it
BLOCK = re.compile(r"vision_encoder\.(layers|stages)\.\d+\.(blocks\.\d+\.)?")


class Shape(tuple[int, ...]):
    """The sizes of a weight in a file; `number_format` is what the header says of its numbers, such as "F16"."""

    number_format = ""

    @classmethod
    def of(cls, entry: dict[str, Any]) -> "Shape":
        """From the header's entry for a weight."""
        shape = cls(entry["shape"])
        shape.number_format = str(entry["dtype"])
        return shape


def check_weight_files(files: list[Any]) -> dict[str, Shape]:
    """Refuse files of weights that are cut short, damaged, or contradict themselves or each other.

    Args:
        files: Safetensors files of one checkpoint.

    Returns:
        The shape of every weight in them, from the headers.

    Raises:
        ValueError: Naming the file.
    """
    shapes: dict[str, Shape] = {}
    for file in map(Path, files):
        header = _header(file)
        twice = next((name for name in header if name in shapes), None)
        if twice is not None:
            raise ValueError(f"the weight {twice!r} of {str(file)!r} is in another file of the checkpoint as well")
        shapes |= {name: Shape.of(entry) for name, entry in header.items()}
    return shapes


def _header(file: Path) -> dict[str, dict[str, Any]]:
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(8)
        if start == b"version ":
            raise ValueError(
                f"{str(file)!r} is a pointer of Git LFS and not the weights: fetch them with git lfs pull"
            )
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(size - 8, LONGEST_HEADER):
            said = "is empty" if size == 0 else f"has no header of safetensors in its {size} bytes"
            raise ValueError(f"{str(file)!r} {said}: cut short or not weights")
        raw = opened.read(length)
    try:
        header = json.loads(raw, object_pairs_hook=_no_name_twice)
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if end > size - 8 - length:
            raise ValueError(f"cut short: {end} bytes of weights announced, {size - 8 - length} there")
        with safe_open(file, framework="pt"):  # gaps, overlaps, unknown types of numbers
            pass
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{str(file)!r} is damaged, or no safetensors file: {first_lines(error)}") from error
    return header


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the name {name!r} stands twice in its header")
        found[name] = value
    return found


def check_reads_pickles(name: Any) -> None:
    """Refuse to read a pickle with a torch whose `weights_only` has known holes.

    Source: the advisories CVE-2025-32434 and CVE-2026-24747.

    Args:
        name: Of the file or the checkpoint.

    Raises:
        ValueError: This torch is older than 2.10.
    """
    if tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2]) < (2, 10):
        raise ValueError(
            f"reading {str(name)!r} needs torch 2.10 or later, this is {torch.__version__}: before, even its safe "
            "way to read a pickle could be made to run code (CVE-2026-24747)"
        )


def check_shapes(shapes: dict[str, Shape], model: nn.Module, name: Any) -> None:
    """Refuse weights whose shapes or formats are not those of the model, before memory is taken for either.

    Numbers of any format would be turned into the model's: whole ones in silence into what they never were.

    Args:
        shapes: What the files hold.
        model: What the configuration describes.
        name: Of the checkpoint.

    Raises:
        ValueError: Naming the first.
    """
    places = model.state_dict()
    expected = {key: tuple(weight.shape) for key, weight in places.items()}
    wrong = [key for key in sorted(expected) if shapes.get(key, expected[key]) != expected[key]]
    if wrong:
        key = wrong[0]
        raise ValueError(
            f"the weights of {str(name)!r} do not fit its config.json: {key!r} has the shape {shapes[key]}, the "
            f"configuration says {expected[key]}" + (f"; so with {len(wrong) - 1} more" if wrong[1:] else "")
        )
    _check_blocks(set(places), shapes, name)
    for key in sorted(set(places) & set(shapes)):
        if places[key].is_floating_point() and shapes[key].number_format not in FLOATS:
            raise ValueError(
                f"{key!r} of {str(name)!r} is stored as {shapes[key].number_format}: expected floating point, one of "
                f"{', '.join(FLOATS)} (quantized weights are not read)"
            )


def _check_blocks(places: set[str], shapes: dict[str, Shape], name: Any) -> None:
    """Refuse a vision encoder with whole blocks more than the files have: a layer count is quickly written down.

    Single weights may be missing. An encoder of which nothing is there is another architecture's, or starts afresh.
    """
    wanted, found = ({block[0] for key in keys if (block := BLOCK.match(key))} for keys in (places, shapes))
    absent = sorted(wanted - found, key=lambda block: (len(block), block))
    if found and absent:
        raise ValueError(
            f"the weights of {str(name)!r} do not fit its config.json: no weight of {absent[0].rstrip('.')!r} is "
            f"there, one of {len(wanted)} blocks that the configuration says; {len(absent)} of them are missing"
        )


def check_some_loaded(model: nn.Module, missing: set[str], unexpected: set[str], name: Any) -> None:
    """Refuse the weights of another architecture.

    Args:
        model: What was to be loaded.
        missing: Weights of it that the files did not have.
        unexpected: Weights in the files that it does not have.
        name: Of the checkpoint.

    Raises:
        ValueError: Not one weight has come from the files.
    """
    if all(key in missing for key, _ in model.named_parameters()):
        got = f"such as {min(unexpected)!r}" if unexpected else "none at all"
        raise ValueError(
            f"the weights of {str(name)!r} are those of another architecture ({got}): no weight of "
            f"{type(model).__name__} is among them"
        )


def check_finite(model: nn.Module, name: Any) -> None:
    """Refuse weights that are not numbers.

    Raises:
        ValueError: One is NaN or infinite.
    """
    for key, weight in model.state_dict().items():
        if (
            not isinstance(weight, torch.Tensor)
            or weight.is_meta
            or weight.dtype not in CHECKED_TYPES
            or not weight.numel()
        ):
            continue
        low, high = weight.detach().aminmax()  # both are NaN if one number is
        if not (low.isfinite() and high.isfinite()):
            dtype = str(weight.dtype).removeprefix("torch.")
            raise ValueError(f"the checkpoint {str(name)!r} is damaged: {key!r} is not finite in {dtype}")


def first_lines(error: BaseException) -> str:
    """What an error says first, on one line."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__
