"""Text prompts: from what people write to token ids, one phrase per prompt.

Accepted are, for B images: one string (B = 1), a list of B strings (one prompt per image), or ``[image][prompt]``
lists of strings, ragged; None in place of an image or prompt means no text there. Control characters count as spaces.
Refused by name are empty phrases and phrases that are not Unicode text (lone surrogates). A phrase with more tokens
than the text tower takes is cut, with a warning that quotes what was cut off.

Source: §7.5 and App. D.5 of the paper name CLIP's tokeniser and nothing else; the rest is this package's.
"""

import unicodedata
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

QUOTED_CHARACTERS = 160
NO_TEXT_BRANCH = (
    "text: this checkpoint has no text branch (its processor has text_config=None). Load a checkpoint that has one, "
    'such as the embedded "tiny", or pass `text_config=model.config.text_config.to_dict()` to SamProcessor if the '
    "model has one; sam_hf.SamTextSegmenter takes phrases on any checkpoint, by a CLIP"
)


class UnreadablePhrase(ValueError):
    """A phrase that names nothing, such as a blank one or a bare "left": it is at fault, and nothing else."""


_SAID: ContextVar[set[str] | None] = ContextVar("cuts that were said", default=None)


@contextmanager
def cuts_said_once() -> Iterator[None]:
    """Within it what is cut off a phrase is said once, however often and in whatever batch the phrase is encoded."""
    before = _SAID.set(set())
    try:
        yield
    finally:
        _SAID.reset(before)


@lru_cache(maxsize=8)
def tokenizer_for(vocab_size: int, context_length: int) -> Any:
    """The tokenizer of a text tower; built once per process, since its vocabulary takes a moment to read."""
    from .text_encoder import SamTokenizer

    return SamTokenizer(vocab_size=vocab_size, context_length=context_length)


def read_texts(text: Any, n_images: int) -> list[list[str | None] | None] | None:
    """Check phrases -> per image and prompt one phrase or None; None if there is no text at all.

    Raises:
        ValueError: If their number is wrong, or one is empty or no Unicode text.
        TypeError: If something is not a string.
    """
    if isinstance(text, np.ndarray):
        text = text.tolist()
    if isinstance(text, str):
        if n_images != 1:
            raise ValueError(f"text: expected one text (or list of texts) per image, got 1 for {n_images} images")
        text = [text]
    if not isinstance(text, (list, tuple)):
        raise TypeError(f"text: expected a string, a list of strings or lists of strings, got {type(text).__name__}")
    if len(text) != n_images:
        raise ValueError(
            f"text: expected one text (or list of texts) per image, {n_images}, got {len(text)}"
            + ("; for several texts on one image write [[...]]" if n_images == 1 else "")
        )
    read = []
    for i, entry in enumerate(text):
        entry = entry.tolist() if isinstance(entry, np.ndarray) else entry
        if entry is None or isinstance(entry, (list, tuple)):
            image = [_checked(phrase, f"text[{i}][{p}]") for p, phrase in enumerate(entry or [])]
            read.append(image or None)
        else:
            read.append([_checked(entry, f"text[{i}]")])
    return read if any(phrase is not None for image in read if image for phrase in image) else None


def _checked(phrase: Any, where: str) -> str | None:
    if phrase is None:
        return None
    if not isinstance(phrase, str):
        raise TypeError(f"{where}: expected a string, got {type(phrase).__name__}")
    if any(0xD800 <= ord(character) <= 0xDFFF for character in phrase):
        raise UnreadablePhrase(f"{where}: expected Unicode text, got a lone surrogate in {phrase!r:.60}")
    phrase = "".join(" " if unicodedata.category(character) == "Cc" else character for character in phrase).strip()
    if not phrase:
        raise UnreadablePhrase(f"{where}: expected a phrase, got an empty text; pass None for no text")
    return phrase


def encode_texts(read: list, n_prompts: int, text_config: Mapping[str, Any] | None) -> tuple[Tensor, Tensor]:
    """Phrases -> input_ids and attention_mask (B,P,T) int64; rows without text are all zero.

    Raises:
        ValueError: If there is no text branch, or a phrase has no tokens.
    """
    if text_config is None:
        raise ValueError(NO_TEXT_BRANCH)
    context_length = int(text_config.get("context_length") or 77)
    tokenizer = tokenizer_for(int(text_config.get("vocab_size") or 49408), context_length)
    input_ids = torch.zeros(len(read), n_prompts, context_length, dtype=torch.int64)
    attention_mask = torch.zeros_like(input_ids)
    for i, image in enumerate(read):
        for p, phrase in enumerate(image or []):
            if phrase is None:
                continue
            tokens = tokenizer.encode(phrase)
            if not tokens:
                raise UnreadablePhrase(f"text: expected a phrase, got no token from {phrase!r:.60}")
            if len(tokens) > context_length - 2:
                _warn_of_cut(tokenizer, tokens, context_length - 2, f"text[{i}][{p}]")
            encoded = tokenizer([phrase])
            input_ids[i, p] = encoded["input_ids"][0]
            attention_mask[i, p] = encoded["attention_mask"][0]
    return input_ids, attention_mask


def _warn_of_cut(tokenizer: Any, tokens: list[int], kept: int, where: str) -> None:
    cut, said = tokenizer.decode(list(tokens[kept:])).strip(), _SAID.get()
    if said is not None:
        if cut in said:
            return
        said.add(cut)
        where = "text"
    warnings.warn(
        f"{where}: the text has {len(tokens)} tokens, {kept} fit; this was cut off: {quoted(cut)}",
        UserWarning,
        stacklevel=2,
    )


def quoted(cut: str) -> str:
    """What was cut off a phrase, in quotes; of much the beginning and its length."""
    return repr(cut if len(cut) <= QUOTED_CHARACTERS else f"{cut[:QUOTED_CHARACTERS]}... ({len(cut)} characters)")
