"""The text side of the prompt encoder: CLIP's tokenizer and CLIP's text tower, both open_clip's.

A phrase -> token ids (T,) -> a unit-norm vector (D,) in CLIP's joint space of images and texts.

Source: Segment Anything, §3 "Prompt encoder" (free-form text through an off-the-shelf CLIP text encoder), §7.5 and
App. D.5. Never released by Meta. open_clip is imported only when text is used.
"""

import re
from typing import Any

import torch
from torch import Tensor, nn

from .configuration_sam import SamTextConfig

CLIP_VOCABULARY = 49408
_BYTES = 512  # the vocabulary's first entries: every byte, and every byte that ends a word
_SPECIAL = 2  # and its last: start and end of text
# Options of open_clip's tower that change what it computes, but not which weights it has.
WEIGHTLESS_OPTIONS = {"no_causal_mask", "pad_id", "eos_id", "pool_type", "final_ln_after_pool", "act_kwargs"}


def import_open_clip() -> Any:
    """open_clip, or an ImportError that says what to install: a model without text branch works without it."""
    try:
        import open_clip
    except ImportError as error:
        raise ImportError("text prompts need open_clip: `pip install open_clip_torch`") from error
    return open_clip


class SamTokenizer:
    """CLIP's byte-pair encoding, its vocabulary optionally cut to the first merges.

    A cut vocabulary spells rarer words out in shorter pieces, so any text still has an encoding, and the token table
    of a small tower stays small.

    Args:
        vocab_size: Entries kept, start and end of text included; at most 49408, CLIP's own.
        context_length: Tokens of an encoded phrase, start and end included.

    Raises:
        ImportError: open_clip is not installed.
        ValueError: `vocab_size` is out of range.
    """

    def __init__(self, vocab_size: int = CLIP_VOCABULARY, context_length: int = 77):
        open_clip = import_open_clip()
        if not _BYTES + _SPECIAL <= vocab_size <= CLIP_VOCABULARY:
            raise ValueError(
                f"`vocab_size` must lie between {_BYTES + _SPECIAL} and {CLIP_VOCABULARY}; got {vocab_size}"
            )
        if context_length < 3:
            raise ValueError(f"`context_length` must leave room for start, a token and end; got {context_length}")
        self.vocab_size = vocab_size
        self.context_length = context_length
        self.start_id, self.end_id = vocab_size - 2, vocab_size - 1
        self._bpe = open_clip.SimpleTokenizer(context_length=context_length)
        merges = vocab_size - _BYTES - _SPECIAL
        self._bpe.bpe_ranks = {pair: rank for pair, rank in self._bpe.bpe_ranks.items() if rank < merges}

    @property
    def vocabulary(self) -> list[str]:
        """Entries by their ids, without start and end, in CLIP's spelling of bytes."""
        entries = sorted(self._bpe.encoder, key=self._bpe.encoder.__getitem__)
        return entries[: self.start_id]

    @property
    def merges(self) -> list[tuple[str, str]]:
        """Pairs of entries in the order in which they are joined."""
        return sorted(self._bpe.bpe_ranks, key=self._bpe.bpe_ranks.__getitem__)

    def encode(self, text: str) -> list[int]:
        """Token ids of a phrase, without start and end, of any length.

        CLIP's control words, typed by a user, are words like any others; spelled so that only cleaning makes them out
        of something else ("&lt;"), they are left out.
        """
        ids = self._bpe.encode(re.sub(r"<(start_of_text|end_of_text)>", r"\1", text, flags=re.IGNORECASE))
        return [token for token in ids if token < self.start_id]

    def decode(self, ids: list[int]) -> str:
        """The text of token ids, without start and end."""
        return self._bpe.decode(ids).strip()

    def __call__(self, texts: list[str]) -> dict[str, Tensor]:
        """Encode phrases, each cut or filled up to the context length.

        Args:
            texts: n phrases.

        Returns:
            `input_ids` (n, T) and `attention_mask` (n, T), 1 at tokens and 0 at the fill.
        """
        input_ids = torch.zeros(len(texts), self.context_length, dtype=torch.long)
        attention_mask = torch.zeros_like(input_ids)
        for row, text in enumerate(texts):
            ids = [self.start_id, *self.encode(text)[: self.context_length - 2], self.end_id]
            input_ids[row, : len(ids)] = torch.tensor(ids)
            attention_mask[row, : len(ids)] = 1
        return {"input_ids": input_ids, "attention_mask": attention_mask}


def build_text_tower(config: SamTextConfig) -> nn.Module:
    """open_clip's text transformer of a configuration: token ids (n, T) -> vectors (n, D), not yet unit-norm.

    Without open_clip it is its weights alone, so that a checkpoint with a text branch still takes points, boxes and
    masks, and is saved whole; phrases raise an ImportError.

    Raises:
        ImportError: open_clip is not installed, and only open_clip knows what weights such a tower has.
    """
    try:
        open_clip = import_open_clip()
    except ImportError:
        if set(config.tower or {}) - WEIGHTLESS_OPTIONS:
            raise
        return SamTextTowerWeights(config)
    sizes = {name: getattr(config, name) for name in ("context_length", "vocab_size", "width", "heads", "layers")}
    build = open_clip.model._build_text_tower
    return build(config.embed_dim, sizes | (config.tower or {}), quick_gelu=config.quick_gelu)


class SamTextTowerWeights(nn.Module):
    """The weights of open_clip's text transformer under their names, without the computation."""

    attn_mask = None

    def __init__(self, config: SamTextConfig):
        super().__init__()
        width = config.width
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(config.context_length, width))
        self.transformer = nn.Module()
        self.transformer.width, self.transformer.layers = width, config.layers
        self.transformer.resblocks = nn.ModuleList(self._block(width, config.heads) for _ in range(config.layers))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, config.embed_dim))

    @staticmethod
    def _block(width: int, heads: int) -> nn.Module:
        mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})
        attention = nn.MultiheadAttention(width, heads)
        return nn.ModuleDict({"ln_1": nn.LayerNorm(width), "attn": attention, "ln_2": nn.LayerNorm(width), "mlp": mlp})

    def forward(self, input_ids: Tensor) -> Tensor:
        """Raise an ImportError: this takes open_clip."""
        import_open_clip()
        raise ImportError("open_clip was installed after this model was loaded: load it again to use text")
