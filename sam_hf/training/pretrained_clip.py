"""A CLIP to learn from: any open_clip model with its own text tower, and what its crops have to look like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sam_hf.model.configuration_sam import SamTextConfig
from sam_hf.training.clip import CONFIG_NAME, load_means

LOCAL, HUB = "local-dir:", "hf-hub:"
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
    """Loads a CLIP by open_clip's own way.

    Args:
        name: "ARCH/TAG" of open_clip, e.g. "ViT-L-14-336-quickgelu/openai"; "hf-hub:org/x"; a folder with
            `open_clip_config.json`; or "tiny", the small CLIP inside this package.
        cache_dir: Where downloads are kept.

    Raises:
        ImportError: open_clip is not installed.
        ValueError: There is no such CLIP, it cannot be loaded, or its text tower is not CLIP's kind.
    """
    try:
        import open_clip
    except ImportError as error:
        raise ImportError("training a text branch needs open_clip: `pip install open_clip_torch`") from error

    architecture, tag, folder = _locate(name)
    try:
        config = open_clip.get_model_config(architecture)
    except Exception as error:  # whatever the Hub, the network or the file says
        raise ValueError(f"clip: cannot read the configuration of {name!r}: {_first_line(error)}") from error
    if config is None:
        raise ValueError(f"clip: open_clip knows no architecture {architecture!r} (open_clip.list_models() has them)")
    if tag is not None:
        _check_tag(architecture, tag, config)
    text_config = text_config_of(config, name)
    try:
        model = open_clip.create_model(architecture, tag, cache_dir=cache_dir, require_pretrained=True)
    except Exception as error:
        raise ValueError(f"clip: cannot load the weights of {name!r}: {_first_line(error)}") from error
    size = model.visual.image_size
    height, width = size if isinstance(size, tuple | list) else (size, size)
    if height != width:
        raise ValueError(f"clip: expected one for square pictures, {name!r} takes {height} x {width}")
    preprocess = model.visual.preprocess_cfg
    means = None if folder is None else load_means(folder)
    model = model.float().eval().requires_grad_(False)
    return PretrainedClip(name, model, text_config, height, tuple(preprocess["mean"]), tuple(preprocess["std"]), means)


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


def _locate(name: str) -> tuple[str, str | None, Path | None]:
    """(open_clip's name, tag, folder)."""
    if name == "tiny":
        folder = Path(__file__).parents[1] / "checkpoints" / "clip"
        if not (folder / CONFIG_NAME).is_file():
            raise ValueError("clip: this installation has no embedded CLIP")
        return f"{LOCAL}{folder}", None, folder
    if name.startswith(HUB):
        return name, None, None
    folder = Path(name.removeprefix(LOCAL))
    if name.startswith(LOCAL) or folder.is_dir():
        if not (folder / CONFIG_NAME).is_file():
            raise ValueError(f"clip: the folder {str(folder)!r} holds no {CONFIG_NAME}")
        return f"{LOCAL}{folder}", None, folder
    architecture, slash, tag = name.rpartition("/")
    if not slash:
        raise ValueError(f"clip: expected ARCH/TAG, {HUB}org/name or a folder, got {name!r}")
    return architecture, tag, None


def _check_tag(architecture: str, tag: str, config: dict[str, Any]) -> None:
    """Raises a ValueError for a tag that is unknown or was trained with another activation."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag not in tags and not Path(tag).is_file():
        raise ValueError(f"clip: {architecture!r} has the pretrained tags {tags}, got {tag!r}")
    trained = open_clip.get_pretrained_cfg(architecture, tag) or {}
    if trained.get("quick_gelu", False) and not config.get("quick_gelu", False):
        # open_clip only warns, and the vectors come out subtly wrong
        raise ValueError(f"clip: {tag!r} weights use QuickGELU: ask for '{architecture}-quickgelu/{tag}'")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
