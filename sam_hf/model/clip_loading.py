"""From a name to a CLIP: open_clip's architectures and tags, Hub repositories, folders, the embedded one.

open_clip finds, fetches and builds; what is added here is that a wrong name is answered with what to write instead,
and that no model comes out whose answers would be random.
"""

import difflib
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from .checkpoint_files import CLIP_CONFIG as CONFIG_NAME
from .checkpoint_names import EMBEDDED_FOLDER, EMBEDDED_NAME
from .text_encoder import import_open_clip

EMBEDDED_CLIP = EMBEDDED_FOLDER.parent / "clip"
A_CLIP = 'a CLIP, such as "ViT-B-16-quickgelu/openai" (any name of open_clip, a folder, or "tiny", the embedded one)'
HUB, FOLDER = "hf-hub:", "local-dir:"
PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


class LoadedClip(NamedTuple):
    """What `ClipEncoder` is made of; mean and deviation per channel, on the scale to 1."""

    clip: nn.Module
    tokenizer: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_clip(
    name: str, device: torch.device, dtype: torch.dtype = torch.float32, cache_dir: str | os.PathLike | None = None
) -> LoadedClip:
    """Builds a CLIP and loads its weights.

    Args:
        name: "ARCHITECTURE/TAG", "hf-hub:ORG/NAME", a folder, "local-dir:FOLDER", or "tiny"; see `ClipEncoder`.
        device: Where it goes.
        dtype: float32, float16 or bfloat16; layer norms stay float32, as open_clip wants it.
        cache_dir: Where open_clip keeps what it fetches.

    Raises:
        ImportError: If open_clip is not installed.
        ValueError: If the name or dtype means nothing, or the weights do not fit or are damaged.
        OSError: If the folder does not exist or the weights cannot be fetched.
    """
    open_clip = import_open_clip()
    if dtype not in PRECISIONS:
        raise ValueError(f"dtype must be torch.float32, torch.float16 or torch.bfloat16 for a CLIP, got {dtype}")
    source, tag = resolve(name)
    cache_dir = None if cache_dir is None else os.fspath(cache_dir)
    try:
        # Built and filled on the CPU: an accelerator then holds one copy of the weights, never two.
        clip = open_clip.create_model(
            source, pretrained=tag, precision=PRECISIONS[dtype], cache_dir=cache_dir, require_pretrained=True
        )
        tokenizer = open_clip.get_tokenizer(source, cache_dir=cache_dir)
    except Exception as error:  # open_clip and huggingface_hub raise a dozen kinds
        raise loading_error(name, source, error) from error
    damaged = next((key for key, weight in clip.named_parameters() if not weight.isfinite().all()), None)
    if damaged is not None:
        raise ValueError(f"the CLIP {name!r} is damaged: its weight {damaged!r} is not finite")
    settings = open_clip.get_model_preprocess_cfg(clip)
    return LoadedClip(clip.to(device), tokenizer, tuple(settings["mean"]), tuple(settings["std"]))


def resolve(name: str) -> tuple[str, str | None]:
    """What open_clip calls a model: architecture and tag, or a source with its prefix and None.

    Raises:
        ValueError: If the name means nothing; the message says what would.
        OSError: If the folder does not exist or holds no model.
    """
    if not isinstance(name, str | os.PathLike):
        raise TypeError(f"name must be a string or a path, got {type(name).__name__}")
    name = os.fspath(name)
    if name == EMBEDDED_NAME:
        if not (EMBEDDED_CLIP / CONFIG_NAME).is_file():
            raise OSError(
                f'CLIP "{EMBEDDED_NAME}": this installation has no embedded CLIP in {str(EMBEDDED_CLIP)!r}; '
                'name another, such as "ViT-B-16-quickgelu/openai" or a folder'
            )
        return f"{FOLDER}{EMBEDDED_CLIP}", None
    if name.startswith(HUB):
        if name.count("/") != 1 or name.endswith("/") or name.startswith(f"{HUB}/"):
            raise ValueError(f'CLIP {name!r}: expected "{HUB}ORGANISATION/NAME"')
        return name, None
    if name.startswith(FOLDER) or (name and Path(name).is_dir()):
        return _folder(name.removeprefix(FOLDER)), None
    return _architecture_and_tag(name)


def _folder(folder: str) -> str:
    if not Path(folder).is_dir():
        raise OSError(f"CLIP: there is no folder {folder!r}")
    if not (Path(folder) / CONFIG_NAME).is_file():
        raise OSError(
            f"CLIP: the folder {folder!r} has no {CONFIG_NAME}; expected a folder in open_clip's form, with that file "
            "and the weights"
        )
    return f"{FOLDER}{folder}"


def _architecture_and_tag(name: str) -> tuple[str, str]:
    """A tag may be a file, so it may hold slashes; "ViT-B/32" is OpenAI's way to write "ViT-B-32"."""
    open_clip = import_open_clip()
    known = open_clip.list_models()
    cuts = [place for place, character in enumerate(name) if character == "/"]
    for place in [*cuts, len(name)]:
        architecture, tag = name[:place].replace("/", "-"), name[place + 1 :]
        if architecture in known:
            break
    else:
        close = difflib.get_close_matches(name.split("/")[0], known, n=3, cutoff=0.5)
        meant = f'; did you mean "{close[0]}/TAG"?' if close else ""
        raise ValueError(
            f'CLIP {name!r}: expected "ARCHITECTURE/TAG" with an architecture of open_clip, such as '
            f'"ViT-B-16-quickgelu/openai", a folder that exists, or "{HUB}ORGANISATION/NAME"{meant}'
        )
    if not os.path.isfile(tag):
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        if not open_clip.is_pretrained_cfg(architecture, tag):
            got = f"got the tag {tag!r}" if tag else "got no tag"
            some = ", ".join(tags) if tags else "none: give a file with weights instead"
            raise ValueError(f'CLIP {name!r}: expected "{architecture}/TAG", {got}; its tags are {some}')
        _check_activation(open_clip, architecture, tag)
    return architecture, tag


def _check_activation(open_clip: Any, architecture: str, tag: str) -> None:
    """OpenAI's weights want QuickGELU; with GELU they load, and everything they say is a little wrong."""
    wanted = bool(open_clip.get_pretrained_cfg(architecture, tag).get("quick_gelu"))
    built = bool(open_clip.get_model_config(architecture).get("quick_gelu"))
    if wanted == built:
        return
    words = ("QuickGELU", "GELU") if wanted else ("GELU", "QuickGELU")
    other = f"{architecture}-quickgelu" if wanted else architecture.removesuffix("-quickgelu")
    known = other != architecture and open_clip.is_pretrained_cfg(other, tag)
    hint = f'; use "{other}/{tag}"' if known else ""
    raise ValueError(f'CLIP "{architecture}/{tag}": these weights want {words[0]}, the model has {words[1]}{hint}')


def loading_error(name: str, source: str, error: Exception) -> Exception:
    """What to raise where open_clip could not read what `resolve` made of a name: a ValueError or an OSError."""
    first = str(error).strip().split("\n")[0][:300]
    if source.startswith(FOLDER):
        return ValueError(f"CLIP {name!r}: the folder does not hold weights that fit its {CONFIG_NAME}: {first}")
    if source.startswith(HUB) or "download" in str(error).lower():
        return OSError(
            f"CLIP {name!r}: its files cannot be fetched: {first}. Without network, give a folder in open_clip's "
            "form, or a cache_dir that holds them"
        )
    return ValueError(f"CLIP {name!r}: it cannot be loaded: {first}")
