"""Finds SAM's weights inside what training code saves around them, and brings them under the names of their layout.

Fine-tuned checkpoints wrap the weights in `{"model": ..., "optimizer": ...}` and prefix their names with "module."
(DataParallel), "_orig_mod." (torch.compile) or the name of an attribute. All of it is taken off, and said.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from sam_hf.hub.meta_names import TIE, TIED

__all__ = ["find_weights", "settle"]

ANCHOR = "prompt_encoder.no_mask_embed.weight"  # the one name that all layouts share
WRAPPERS = re.compile(r"(?<![^.])(module|_orig_mod)\.")
DEEPEST = 4


def find_weights(content: Any, key: str | None = None) -> tuple[dict[str, Tensor], list[str]]:
    """The weights in what a file holds, without prefixes, and notes on what was around them.

    Args:
        content: Nested dictionaries with tensors.
        key: Where they are, dots between the steps; needed only where there are several models.

    Raises:
        ValueError: There are none or several, or prefixes hide which are meant.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"expected weights by name, got a {type(content).__name__}")
    places = {place: held for place, held in _places(content) if any(name.endswith(ANCHOR) for name in held)}
    if key is not None:
        if key not in places:
            raise ValueError(f"key: there are SAM's weights under {sorted(places)}; got {key!r}")
        places = {key: places[key]}
    if not places:
        raise ValueError(f"there are no SAM weights in it: no name ends in {ANCHOR!r}, {_first_names(content)}")
    if len(places) > 1:
        raise ValueError(f"there are several models, under {sorted(places)}: say which by key")
    ((place, held),) = places.items()
    notes = [f"the weights were under {place!r}"] if place else []
    tensors = {name: value for name, value in held.items() if isinstance(value, Tensor)}
    if len(tensors) < len(held):
        left = [name for name in held if name not in tensors]
        notes.append(f"{', '.join(map(repr, left[:5]))} is no weight, and was left out")
    return _without_prefixes(tensors, notes), notes


def settle(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], list[str]]:
    """Weights of which every one is SAM's: what can be computed is left out, what was split is put together.

    Returns:
        The weights, contiguous; Meta's `pixel_mean` and `pixel_std`, as far as they were there; and notes.

    Raises:
        ValueError: A weight is of a kind that is no plain number, or two that must agree do not.
    """
    notes: list[str] = []
    settled, pixels = {}, {}
    for name, tensor in weights.items():
        if name in ("pixel_mean", "pixel_std"):
            pixels[name] = tensor
        elif not name.endswith((".attention_bias_idxs", ".attn.ab")):  # TinyViT's tables, made from other weights
            settled[name] = tensor.detach()
    for name, tensor in (settled | pixels).items():
        plain = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta
        counts = name.endswith(".num_batches_tracked") or name in pixels  # these may be integers
        if not plain or tensor.itemsize < 2 or not (tensor.is_floating_point() or counts) or tensor.is_complex():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ValueError(f"the weight {name!r} is quantized, sparse, empty or no floating point number: {kind}")
    if TIE in settled and TIED in settled and not _same(settled[TIE], settled[TIED]):
        raise ValueError(
            f"{TIE!r} and {TIED!r} are one matrix in SAM, but differ here: such a checkpoint cannot be converted"
        )
    if TIE in settled or TIED in settled:
        settled[TIE] = settled[TIED] = settled.get(TIE, settled.get(TIED))
    if _join_split_attention(settled):
        notes.append("query, key and value were apart (as SlimSAM's training code has them), and were joined")
    return {name: tensor.contiguous() for name, tensor in settled.items()}, pixels, notes


def _places(content: Mapping) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Mappings that hold tensors, and where; one that is held several times is looked into once."""
    waiting, seen = [("", content, 0)], {id(content)}
    while waiting:
        place, held, depth = waiting.pop(0)
        names = {name: value for name, value in held.items() if isinstance(name, str)}
        if any(isinstance(value, Tensor) for value in names.values()):
            yield place, names
        for name, value in names.items() if depth < DEEPEST else ():
            if isinstance(value, Mapping) and id(value) not in seen:
                seen.add(id(value))
                waiting.append((f"{place}.{name}" if place else name, value, depth + 1))


def _without_prefixes(tensors: dict[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    bare = {WRAPPERS.sub("", name): value for name, value in tensors.items()}
    anchors = [name for name in bare if name.endswith(ANCHOR)]
    if len(bare) < len(tensors) or len(anchors) > 1:
        raise ValueError(f"several models are in one list of weights, told apart by prefixes only: {anchors}")
    prefix = anchors[0].removesuffix(ANCHOR)
    outside = [name for name in bare if not name.startswith(prefix)]
    if outside:
        raise ValueError(
            f"{len(outside)} weights lie beside the model {prefix!r}: {', '.join(map(repr, outside[:3]))}; "
            "they would be lost, so nothing is converted"
        )
    taken = sorted({found[0] for name in tensors for found in WRAPPERS.finditer(name)} | ({prefix} - {""}))
    if taken:
        notes.append(f"names began with, or had in them, {', '.join(map(repr, taken))}, which was taken off")
    return {name.removeprefix(prefix): value for name, value in bare.items()}


def _join_split_attention(weights: dict[str, Tensor]) -> bool:
    """Joins `attn.q`, `attn.k` and `attn.v` of Meta's layout into its `attn.qkv`, in place."""
    blocks = [found for name in weights if (found := re.fullmatch(r"(image_encoder\..*\.attn\.)q\.(\w+)", name))]
    for block in blocks:
        names = [f"{block[1]}{part}.{block[2]}" for part in "qkv"]
        if any(name not in weights for name in names) or len({weights[name].shape for name in names}) > 1:
            raise ValueError(
                f"{names[0]!r} and its key and value are of different widths: a globally pruned SlimSAM, which "
                "transformers has no place for; its uniform checkpoints can be converted"
            )
        weights[f"{block[1]}qkv.{block[2]}"] = torch.cat([weights.pop(name) for name in names])
    return bool(blocks)


def _same(first: Tensor, second: Tensor) -> bool:
    return first.dtype == second.dtype and torch.equal(first, second)


def _first_names(content: Mapping) -> str:
    names = [str(name) for _, held in _places(content) for name in held] or list(map(str, content))
    if any(".trunk." in name or name.startswith("sam_") for name in names):
        return "but some are SAM 2's, which is another model"
    if any(name.startswith(("patch_embed.", "blocks.", "layers.")) for name in names):
        return "it holds an image encoder alone"
    return f"the first are {', '.join(map(repr, names[:3]))}" if names else "it is empty"
