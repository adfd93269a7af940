"""Names of checkpoints: the embedded one is called "tiny", everything else is a Hub id or a folder."""

import os
from pathlib import Path
from typing import TypeVar

EMBEDDED_NAME = "tiny"
EMBEDDED_FOLDER = Path(__file__).resolve().parent.parent / "checkpoints" / EMBEDDED_NAME

Name = TypeVar("Name", str, os.PathLike)


def resolve(name: Name) -> Name | str:
    """The folder of the embedded checkpoint for the name "tiny"; any other name as it is, "~" written out.

    A folder called "tiny" in the working directory does not shadow the name; write "./tiny" for that. Remote code,
    which runs outside this package, has no embedded checkpoint, and leaves the name alone.
    """
    if name == EMBEDDED_NAME and EMBEDDED_FOLDER.is_dir():
        return str(EMBEDDED_FOLDER)
    return type(name)(os.path.expanduser(name)) if str(name).startswith("~") else name
