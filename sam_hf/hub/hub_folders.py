"""From the name of a checkpoint to its files on this machine: a file, a folder, "tiny", or a Hub id to be fetched.

A file of the Hub is absent only where the Hub has said so, now or when it was asked before: what was merely not
reached may be the processor's mean, or the safetensors that go before a pickle.
"""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from sam_hf.hub.weight_files import FOLDER_WEIGHTS, is_plain_name, read_json
from sam_hf.model.checkpoint_files import CALIBRATION, CONFIG, PROCESSOR_FILES, TRAINING, UNUSED_WEIGHTS
from sam_hf.model.checkpoint_names import resolve
from sam_hf.model.configuration_sam import SamTinyViTConfig
from sam_hf.model.hub_access import pinned
from sam_hf.terminal import first_line

__all__ = ["find_source"]


def find_source(name: str, revision: str | None = None, token: str | bool | None = None) -> Path:
    """The file or folder of a checkpoint.

    Args:
        name: A path, "tiny", or a Hub id, whose weights are fetched if they are not cached; safetensors if there are
            any.
        revision: Branch, tag or commit of a Hub id.
        token: For the Hub; None: the one of the login.

    Raises:
        ValueError: There is no such file or folder, or the Hub does not give it whole.
    """
    place = Path(resolve(name)).expanduser()
    if place.exists():
        return place
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or place.suffix in (".pth", ".pt", ".bin", ".safetensors"):
        raise ValueError(f"there is no file or folder {name!r}")
    try:
        with pinned(name, {"revision": revision, "token": token}) as options:  # all files of one commit
            return _fetch(name, options)
    except Exception as error:  # the Hub's client fails in as many ways as a network does
        reason = first_line(error)
        raise ValueError(f"{name!r} is no file or folder here, and the Hub does not give it: {reason}") from error


def _fetch(name: str, options: dict[str, Any]) -> Path:
    """Brings the files that a checkpoint consists of.

    Raises:
        OSError: One cannot be had, or it cannot be told whether there is one.
    """

    def get(file: str) -> Path | None:
        try:
            return Path(hf_hub_download(name, file, **options))
        except LocalEntryNotFoundError as error:
            known = try_to_load_from_cache(name, file, revision=options.get("revision"))
            if known is not None and not isinstance(known, str):  # the Hub has said that there is none
                return None
            raise OSError(f"the Hub was not reached, and the cache does not tell whether there is a {file}") from error
        except EntryNotFoundError:
            return None

    described = get(CONFIG)
    if described is None:
        raise OSError("it has no config.json")
    config = read_json(described)
    vision = config.get("vision_config")
    if get(PROCESSOR_FILES[0]) is None or "image_processor" not in read_json(described.with_name(PROCESSOR_FILES[0])):
        get(PROCESSOR_FILES[1])
    if isinstance(vision, dict) and vision.get("model_type") == SamTinyViTConfig.model_type:
        get(UNUSED_WEIGHTS)  # no other checkpoint has these two
    if config.get("text_config") is not None:
        get(CALIBRATION)
    with suppress(OSError):  # words for a card: a copy in the cache that was made without them is whole
        get(TRAINING)
    for file in FOLDER_WEIGHTS:
        found = get(file)
        if found is not None:
            shards = read_json(found).get("weight_map") if file.endswith(".json") else None
            for shard in sorted(set(filter(is_plain_name, shards.values()))) if isinstance(shards, dict) else ():
                get(shard)  # a name that is not plain is refused when the folder is read
            break
    return described.parent
