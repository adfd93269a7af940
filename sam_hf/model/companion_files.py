"""Files beside a checkpoint's weights that are of these weights only: what the training says, when a phrase is absent.

Once there are other weights, what they say is not so any more.
"""

import os
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import safe_open

from .checkpoint_checks import check_folder, files_of_weights
from .checkpoint_files import CALIBRATION, EVALUATIONS, TRAINING

EARLIER = ".earlier"


def told_of(folder: str | os.PathLike, saved: Path, variant: str | None = None) -> tuple[list[Path], bool]:
    """What lies beside a folder's weights and is of them, and whether another folder holds these weights.

    Args:
        folder: Of a checkpoint; what is none has nothing beside it.
        saved: Another one.
        variant: Of the weights' file names, as in transformers.

    Returns:
        The files, none where there are no weights; and whether the weights are the same, as far as the number format
        in `saved` tells.
    """
    names = (TRAINING, CALIBRATION, *EVALUATIONS) if str(folder) else ()
    found = [file for name in names if (file := Path(folder) / name).is_file()]
    try:
        if not found or not files_of_weights(Path(folder), variant):
            return [], False
    except (OSError, ValueError):
        return found, False
    return found, _same_weights(Path(folder), saved, variant)


def set_aside(files: list[Path]) -> list[str]:
    """Rename files, so that nobody takes them for facts on what lies beside them now; returns their new names."""
    for file in files:
        file.replace(file.with_name(file.name + EARLIER))
    return [file.name + EARLIER for file in files]


def _same_weights(folder: Path, saved: Path, variant: str | None) -> bool:
    try:
        check_folder(folder, config=False, variant=variant)
        with ExitStack() as opened:
            here, there = (
                {
                    name: file
                    for path in files_of_weights(place, variant)
                    for file in [opened.enter_context(safe_open(path, framework="pt"))]
                    for name in file.keys()
                }
                for place in (saved, folder)
            )
            if set(here) != set(there):
                return False
            for name, file in there.items():
                weight = here[name].get_tensor(name)
                if not torch.equal(file.get_tensor(name).to(weight.dtype), weight):
                    return False
    except (OSError, ValueError, RuntimeError):  # gone, damaged, of another shape
        return False
    return True
