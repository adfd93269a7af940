"""Values out of JSON that a stranger wrote: each is checked before it is used, and what is wrong is said by its path.

A path reads `objects[2].steps[0].points[1]`; of the outermost value it is empty. All functions raise a `ValueError`
that names the path, what was expected and what came. What came is shown shortened: it may be megabytes.
"""

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sam_hf.masks import rle

SHOWN = 60  # characters


def parse(text: str | bytes, longest: int, name: str) -> Any:
    """The value of a JSON text.

    Args:
        text: UTF-8 if bytes.
        longest: Characters or bytes that are looked at at all.
        name: What error messages call it.

    Raises:
        ValueError: It is no JSON, nested too deeply, too long, or holds NaN or Infinity, which JSON has not.
    """
    if len(text) > longest:
        raise ValueError(f"{name}: expected at most {longest:,} characters, got {len(text):,}")
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError(f"{name}: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{name}: not JSON: {error}") from None


def fields(value: Any, path: str, known: Collection[str], required: Collection[str] = ()) -> Mapping[str, Any]:
    """An object with no keys but known ones, and all those that are required."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{_said(path)}: expected an object, got {shown(value)}")
    for key in value:
        if key not in known:
            raise ValueError(f"{join(path, shown(key).strip(chr(39)))}: unknown key; known are {', '.join(known)}")
    for key in required:
        if key not in value:
            raise ValueError(f"{join(path, key)}: missing")
    return value


def items(value: Any, path: str, most: int) -> Sequence[Any]:
    """A list of at most so many values."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"{_said(path)}: expected a list, got {shown(value)}")
    if len(value) > most:
        raise ValueError(f"{_said(path)}: expected at most {most}, got {len(value)}")
    return value


def number(value: Any, path: str, least: float, most: float) -> float:
    """A finite number within bounds; neither a boolean nor a text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{_said(path)}: expected a number, got {shown(value)}")
    if not (isinstance(value, int) or math.isfinite(value)) or not least <= value <= most:
        raise ValueError(f"{_said(path)}: expected a number from {least:g} to {most:g}, got {shown(value)}")
    return float(value)


def whole(value: Any, path: str, least: int, most: int) -> int:
    """A whole number within bounds; 2.0 is one."""
    given = number(value, path, least, most)
    if given != int(given):
        raise ValueError(f"{_said(path)}: expected a whole number, got {shown(value)}")
    return int(given)


def numbers(value: Any, path: str, count: int, bound: float) -> tuple[float, ...]:
    """So many finite numbers, none of them farther from 0 than the bound."""
    given = items(value, path, count)
    if len(given) != count:
        raise ValueError(f"{_said(path)}: expected {count} numbers, got {len(given)}")
    return tuple(number(one, f"{path}[{index}]", -bound, bound) for index, one in enumerate(given))


def flag(value: Any, path: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{_said(path)}: expected true or false, got {shown(value)}")
    return value


def text(value: Any, path: str, longest: int) -> str:
    """A text of at most so many characters, all of which can be written as UTF-8."""
    if not isinstance(value, str):
        raise ValueError(f"{_said(path)}: expected a text, got {shown(value)}")
    if len(value) > longest:
        raise ValueError(f"{_said(path)}: expected at most {longest} characters, got {len(value)}")
    if re.search(r"[\ud800-\udfff]", value):
        raise ValueError(f"{_said(path)}: holds half of a character, a lone surrogate")
    return value


def matching(value: Any, path: str, pattern: str, expected: str) -> str:
    """A text that a pattern describes in full."""
    if not re.fullmatch(pattern, text(value, path, 1000)):
        raise ValueError(f"{_said(path)}: expected {expected}, got {shown(value)}")
    return value


def run_lengths(value: Any, path: str, size: Sequence[int]) -> dict[str, Any]:
    """A mask of that size (H,W) in COCO's run lengths, see `rle.checked`."""
    given = fields(value, path, ("size", "counts"), ("size", "counts"))
    try:
        return rle.checked(given, size)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def join(path: str, key: str) -> str:
    """The path of an object's key."""
    return f"{path}.{key}" if path else key


def shown(value: Any) -> str:
    """A value as a message shows it: shortened, on one line."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**SHOWN:
        return "a number of too many digits"  # which Python would refuse to write out
    said = repr(value[: SHOWN + 1] if isinstance(value, str | bytes) else value)
    return said if len(said) <= SHOWN else f"{said[: SHOWN - 3]}..."


def _said(path: str) -> str:
    return path or "session"


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")
