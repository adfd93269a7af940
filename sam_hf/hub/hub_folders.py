"""From the name of a checkpoint to its files on this machine: a file, a folder, "tiny", or a Hub id to be fetched."""

import re
from pathlib import Path

from transformers.utils import cached_file

from sam_hf.hub.weight_files import FOLDER_WEIGHTS, is_plain_name, read_json
from sam_hf.model.checkpoint_names import resolve

__all__ = ["find_source"]

BESIDE = ("processor_config.json", "preprocessor_config.json", "unused_weights.safetensors", "text_calibration.json")


def find_source(name: str, revision: str | None = None) -> Path:
    """The file or folder of a checkpoint.

    Args:
        name: A path, "tiny", or a Hub id, whose weights are fetched if they are not cached; safetensors if there are
            any.
        revision: Branch, tag or commit of a Hub id.

    Raises:
        ValueError: There is no such file or folder, or the Hub does not give it.
    """
    place = Path(resolve(name)).expanduser()
    if place.exists():
        return place
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or place.suffix in (".pth", ".pt", ".bin", ".safetensors"):
        raise ValueError(f"there is no file or folder {name!r}")
    try:
        return _fetch(name, revision)
    except Exception as error:  # the Hub's client fails in as many ways as a network does
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{name!r} is no file or folder here, and the Hub does not give it: {reason}") from error


def _fetch(name: str, revision: str | None) -> Path:
    folder = Path(cached_file(name, "config.json", revision=revision)).parent
    commit = folder.name if re.fullmatch(r"[0-9a-f]{40}", folder.name) else revision  # all files of one commit

    def get(file: str) -> Path | None:
        found = cached_file(name, file, revision=commit, _raise_exceptions_for_missing_entries=False)
        return None if found is None else Path(found)

    for file in BESIDE:
        get(file)
    for file in FOLDER_WEIGHTS:
        found = get(file)
        if found is not None:
            shards = read_json(found).get("weight_map") if file.endswith(".json") else None
            for shard in sorted(set(shards.values())) if isinstance(shards, dict) else ():
                if is_plain_name(shard):  # what is not is refused when the folder is read
                    get(shard)
            break
    return folder
