"""From the name of a checkpoint to its files on this machine: a file, a folder, "tiny", or a Hub id to be fetched."""

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from sam_hf.hub.weight_files import FOLDER_WEIGHTS
from sam_hf.model.checkpoint_names import resolve

__all__ = ["find_source"]

DESCRIPTIONS = ["config.json", "*processor_config.json", "unused_weights.safetensors", "text_calibration.json"]
WEIGHTS = (
    ["model*.safetensors", "model.safetensors.index.json"],
    ["pytorch_model*.bin", "pytorch_model.bin.index.json"],
)


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
    for weights in WEIGHTS:
        try:
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=DESCRIPTIONS + weights))
        except LocalEntryNotFoundError as error:
            raise ValueError(
                f"{name!r} is no file or folder here, and the Hub cannot be reached nor is it cached"
            ) from error
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise ValueError(f"cannot fetch {name!r} from the Hub: {str(error).strip().splitlines()[0]}") from error
        if any((folder / file).is_file() for file in FOLDER_WEIGHTS):
            break
    return folder
