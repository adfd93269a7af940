"""Reads a pickle as data only.

A pickle is a program: `pickle.load` runs whatever its author wrote into it. Here it may build numbers, text and
containers, and numpy's numbers, which come back as Python's; anything else is refused before it is called.

Source: Python's documentation, "Restricting Globals". Differs in: numpy's own constructors are not called either.
"""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["read_plain_pickle"]

CONTAINERS = {
    **{(module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in (set, frozenset)},
    ("collections", "OrderedDict"): dict,
}
NUMBER_KINDS = "biufSU"  # of numpy: booleans, integers, floats, bytes, text


class _Refused(pickle.UnpicklingError):
    """What a pickle holds beside plain values."""


class _NumberType:
    """What numpy's `dtype` was pickled as: its code, and the byte order that follows as state."""

    def __init__(self, code: Any, align: Any = None, copy: Any = None):
        self._code, self._order = _text(code), "="

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1:
            self._order = _text(state[1])

    def dtype(self) -> np.dtype:
        order = self._order if self._order in "<>=" else "="
        try:
            found = np.dtype(self._code).newbyteorder(order)
        except TypeError:
            found = None
        if found is None or found.kind not in NUMBER_KINDS:
            raise _Refused(f"numpy type {self._code!r:.40}")
        return found


def _number(kind: Any, data: Any = None) -> Any:
    """numpy's `scalar`, as a Python value."""
    if not isinstance(kind, _NumberType) or not isinstance(data, bytes) or len(data) != kind.dtype().itemsize:
        raise _Refused("a broken numpy number")
    return np.frombuffer(data, kind.dtype())[0].item()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """`_codecs.encode`, by which protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise _Refused("a broken byte string")
    return text.encode("latin1")


NUMPY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
STAND_INS = {
    ("numpy", "dtype"): _NumberType,
    ("_codecs", "encode"): _encode,
    **{(module, "scalar"): _number for module in NUMPY_MODULES},
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        allowed = CONTAINERS.get((module, name)) or STAND_INS.get((module, name))
        if allowed is None:
            raise _Refused(f"{module}.{name}")
        return allowed

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("a reference outside the file")


def read_plain_pickle(path: str | os.PathLike) -> Any:
    """Reads a pickle of plain values, whichever Python wrote it.

    Args:
        path: The file.

    Returns:
        Dictionaries, lists, tuples, sets, numbers, text, None. Byte strings, which are Python 2's text, become text
        by UTF-8, with U+FFFD where they are no UTF-8; numpy's numbers become Python's.

    Raises:
        ValueError: If the file cannot be read, is no pickle, or holds anything else, which is then not run.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {os.fspath(path)!r}: {error.strerror}") from None
    try:
        # "bytes" keeps Python 2's text as it is until the end: the bytes of numpy's numbers are no text.
        return _plain(_PlainUnpickler(io.BytesIO(content), encoding="bytes").load(), {})
    except _Refused as error:
        raise ValueError(
            f"{os.fspath(path)!r}: expected a pickle of plain numbers, text and containers, got {error}; "
            "a pickle can run code, so nothing else is read"
        ) from None
    except Exception as error:  # every broken pickle fails in its own way
        raise ValueError(f"{os.fspath(path)!r} is no pickle, or damaged ({type(error).__name__})") from None


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if not isinstance(value, str):
        raise _Refused(f"{type(value).__name__} for text")
    return value


def _plain(value: Any, seen: dict[int, Any]) -> Any:
    """The value with text for bytes; what occurs in several places, by `seen`, stays one object however nested."""
    if id(value) in seen:
        return seen[id(value)]
    if isinstance(value, dict):
        plain = {_plain(key, seen): _plain(item, seen) for key, item in value.items()}
    elif isinstance(value, list | tuple | set | frozenset):
        plain = type(value)(_plain(item, seen) for item in value)
    elif isinstance(value, bytes):
        plain = _text(value)
    elif value is None or isinstance(value, str | int | float | bool | complex):
        plain = value
    else:
        raise _Refused(type(value).__name__)
    seen[id(value)] = plain
    return plain
