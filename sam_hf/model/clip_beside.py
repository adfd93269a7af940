"""The CLIP that a checkpoint comes with: the folder "clip" beside its weights, here or on the Hub.

Whether there is one is told by its configuration, which is small; its weights are fetched when they are asked for. The
embedded checkpoint's CLIP lies where the package keeps it, and has a name: "tiny".
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn
from transformers.utils import cached_file

from .checkpoint_files import CLIP_CONFIG, CLIP_FOLDER, CLIP_WEIGHTS, read_json
from .checkpoint_names import EMBEDDED_FOLDER, EMBEDDED_NAME
from .clip_loading import EMBEDDED_CLIP
from .hub_access import fetched_by, scrubbed

# open_clip's names of options that name a repository, or what its loader is told.
FOREIGN = ("hf_", "timm_", "tokenizer_kwargs", "pretrained")
QUIET = {"_raise_exceptions_for_gated_repo": False, "_raise_exceptions_for_missing_entries": False}


def has_clip_beside(model: nn.Module) -> bool:
    """Whether a CLIP lies beside a `SamModel`'s files.

    Of a checkpoint from the Hub this may be one request, the first time; if the Hub does not answer, and the cache
    does not tell, there is none.
    """
    source, options = _source(model)
    if source == str(EMBEDDED_FOLDER):
        return (EMBEDDED_CLIP / CLIP_CONFIG).is_file()
    return _file(source, CLIP_CONFIG, options | QUIET | {"_raise_exceptions_for_connection_errors": False}) is not None


def clip_beside(model: nn.Module) -> str | None:
    """The name of the CLIP beside a `SamModel`'s files, for `load_clip`; None if there is none.

    Raises:
        OSError: There is one, and its weights cannot be fetched.
        ValueError: See `check_clip`.
    """
    if not has_clip_beside(model):
        return None
    source, options = _source(model)
    if source == str(EMBEDDED_FOLDER):
        return EMBEDDED_NAME
    folder = Path(_file(source, CLIP_CONFIG, options)).parent
    try:
        _file(source, CLIP_WEIGHTS, options)
    except OSError as error:
        reason = scrubbed(str(error).strip().split("\n")[0], options.get("token"))
        raise OSError(
            f"the CLIP of {source!r} cannot be loaded: {reason}; give another one as `clip`, or ask for the grounding "
            '"learned", which needs none'
        ) from error
    check_clip(folder)
    return str(folder)


def check_clip(folder: Path) -> None:
    """Refuse a CLIP that nobody should load without having asked for it by name.

    Raises:
        ValueError: Its towers or its tokenizer come from another repository, whose code open_clip might run, or its
            weights are no safetensors.
    """
    if not (folder / CLIP_WEIGHTS).is_file():
        raise ValueError(
            f"the CLIP in {str(folder)!r} has no {CLIP_WEIGHTS}; others, which may be pickles, are not read from "
            "beside a checkpoint"
        )
    foreign = sorted(key for key in _keys(read_json(folder / CLIP_CONFIG)) if key.startswith(FOREIGN))
    if foreign:
        raise ValueError(
            f"{CLIP_CONFIG} in {str(folder)!r} has the entries {foreign}, which lead to other repositories and their "
            "code: only CLIPs of open_clip's own parts are loaded from beside a checkpoint; name this one as `clip`, "
            "if you trust its author"
        )


def _keys(part: Any) -> Iterator[str]:
    for key, value in part.items() if isinstance(part, dict) else ():
        yield key
        yield from _keys(value)


def _source(model: nn.Module) -> tuple[str, dict[str, Any]]:
    """A folder, or a Hub id and how its files were fetched; of a copy of a model, what its configuration says."""
    name = str(getattr(model, "name_or_path", "") or "")
    options = fetched_by(model)
    if options is None:
        options = {"revision": getattr(model.config, "_commit_hash", None)}
    return name, {option: value for option, value in options.items() if value is not None}


def _file(source: str, name: str, options: dict[str, Any]) -> str | None:
    """A file of the CLIP on this machine, fetched if need be."""
    if os.path.isdir(source):
        path = Path(source, options.get("subfolder", ""), CLIP_FOLDER, name)
        return str(path) if path.is_file() else None
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source):  # a model that was built and not loaded
        return None
    subfolder = "/".join(part for part in (options.get("subfolder"), CLIP_FOLDER) if part)
    return cached_file(source, name, **options | {"subfolder": subfolder})
