"""Checks of a grounding's options, where they are given and not where they are first used.

A single string in place of several is refused: its letters would be taken for words.
"""

import math
import operator
from collections.abc import Sequence
from numbers import Real
from typing import Any


def check_shares(zero: bool = True, **options: Any) -> None:
    """Raises unless each is a number in [0,1], or in (0,1]; None is left out, as everywhere here.

    Raises:
        TypeError, ValueError: Naming the option, what was expected and what came, as everywhere here.
    """
    expected = "a number in [0,1]" if zero else "a number in (0,1]"
    for name, value in _given(options):
        if _number(name, value, expected) > 1 or value < 0 or (value == 0 and not zero):
            raise ValueError(f"{name}: expected {expected}, got {value!r}")


def check_numbers(positive: bool = False, **options: Any) -> None:
    """Raises unless each is a finite number of at least 0, or above it."""
    expected = "a number above 0" if positive else "a number of at least 0"
    for name, value in _given(options):
        if _number(name, value, expected) < 0 or (positive and value == 0):
            raise ValueError(f"{name}: expected {expected}, got {value!r}")


def check_counts(least: int = 1, **options: Any) -> None:
    """Raises unless each is a whole number of at least `least`; NumPy's count as well."""
    for name, value in _given(options):
        try:
            whole = operator.index(value)
        except TypeError:
            raise TypeError(f"{name}: expected a whole number, got {value!r}") from None
        if isinstance(value, bool) or whole < least:
            raise ValueError(f"{name}: expected {least} or more, got {value!r}")


def check_choice(choices: Sequence[str], **options: Any) -> None:
    """Raises unless each is one of `choices`."""
    for name, value in _given(options):
        if value not in choices:
            raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")


def check_words(choices: Sequence[str] = (), empty: bool = False, **options: Any) -> None:
    """Raises unless each is a list of strings, of `choices` if there are any; `empty`: it may hold none."""
    expected = f"a list of {', '.join(choices)}" if choices else "a list of strings"
    for name, value in _given(options):
        if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
            raise TypeError(f"{name}: expected {expected}, got {value!r}")
        if not all(isinstance(word, str) for word in value):
            raise TypeError(f"{name}: expected {expected}, got {list(value)!r}")
        if (not value and not empty) or (choices and not set(value) <= set(choices)):
            raise ValueError(f"{name}: expected {expected}, got {list(value)!r}")


def check_templates(**options: Any) -> None:
    """Raises unless each is a list of sentences with "{}" where the phrase goes."""
    check_words(**options)
    for name, value in _given(options):
        if wrong := [sentence for sentence in value if "{}" not in sentence]:
            raise ValueError(f'{name}: expected sentences with "{{}}" where the phrase goes, got {wrong[0]!r}')


def _given(options: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in options.items() if value is not None]


def _number(name: str, value: Any, expected: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected {expected}, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name}: expected {expected}, got {value!r}")
    return float(value)
