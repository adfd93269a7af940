"""A CLIP to learn from: any open_clip model with its own text tower, and what its crops have to look like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sam_hf.model.clip_loading import FOLDER, load_clip, loading_error, resolve
from sam_hf.model.configuration_sam import SamTextConfig
from sam_hf.model.text_encoder import import_open_clip
from sam_hf.training.clip import load_means

TEXT_FIELDS = ("context_length", "vocab_size", "width", "heads", "layers")


@dataclass(frozen=True)
class PretrainedClip:
    """Both towers of a CLIP, in eval mode, float32.

    Attributes:
        name: What it was asked for by.
        model: An open_clip model.
        text_config: The shape of its text tower.
        image_size: Side of its pictures in pixels.
        mean, std: What they are normalised by.
        means: (image mean, text mean), (D,) each, where its folder has them.
    """

    name: str
    model: nn.Module
    text_config: SamTextConfig
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    means: tuple[torch.Tensor, torch.Tensor] | None = None


def load_pretrained_clip(name: str, cache_dir: str | None = None) -> PretrainedClip:
    """Loads a CLIP, once its text tower is known to be of the right kind.

    Args:
        name: "ARCH/TAG" of open_clip, e.g. "ViT-L-14-336-quickgelu/openai"; "hf-hub:org/x"; a folder with
            `open_clip_config.json`; or "tiny", the small CLIP inside this package. See `clip_loading`.
        cache_dir: Where downloads are kept.

    Raises:
        ImportError: open_clip is not installed.
        ValueError: There is no such CLIP, it cannot be loaded, or its text tower is not CLIP's kind.
        OSError: There is no such folder, or the weights cannot be fetched.
    """
    open_clip = import_open_clip()
    source, _ = resolve(name)
    try:
        config = open_clip.get_model_config(source)
    except Exception as error:  # whatever the Hub, the network or the file says
        raise loading_error(name, source, error) from error
    text_config = text_config_of(config, name)
    clip, _, mean, std = load_clip(name, torch.device("cpu"), cache_dir=cache_dir)
    size = clip.visual.image_size
    height, width = size if isinstance(size, tuple | list) else (size, size)
    if height != width:
        raise ValueError(f"clip: expected one for square pictures, {name!r} takes {height} x {width}")
    means = load_means(source.removeprefix(FOLDER)) if source.startswith(FOLDER) else None
    return PretrainedClip(name, clip.eval().requires_grad_(False), text_config, height, mean, std, means)


def text_config_of(config: dict[str, Any], name: str) -> SamTextConfig:
    """The text branch's configuration for an open_clip model configuration.

    Raises:
        ValueError: The text tower or its tokenizer is not CLIP's.
    """
    text = dict(config["text_cfg"])
    foreign = text.get("hf_model_name") or text.get("hf_tokenizer_name")
    if foreign:
        raise ValueError(f"clip: expected a CLIP with open_clip's own text tower; {name!r} uses {foreign!r}")
    known = {field: text.pop(field) for field in TEXT_FIELDS if field in text}
    return SamTextConfig(
        embed_dim=config["embed_dim"], quick_gelu=config.get("quick_gelu", False), tower=text or None, **known
    )
