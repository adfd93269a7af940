"""What the processor says of prompts about B images, said of what the caller of a predictor gave."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

_NAMES = {"points": "points", "labels": "labels", "boxes": "boxes", "masks": "mask_input"}


def in_our_words(message: str) -> str:
    """The processor's message about images, said about the P prompts on one image."""
    message = re.sub(r"input_(points|labels|boxes|masks)(\[0\])?", lambda found: _NAMES[found[1]], message)
    return _one_level_less(re.sub(r"^text\[0\]", "text", message))


@contextmanager
def said_of_one_prompt() -> Iterator[None]:
    """Within it, what is wrong with a batch of one prompt is said of that prompt.

    Raises:
        ValueError: The one that was raised, in other words.
    """
    try:
        yield
    except ValueError as error:
        message = _one_level_less(str(error))
        if message == str(error):
            raise
        raise ValueError(message) from error


def _one_level_less(message: str) -> str:
    def less(found: re.Match) -> str:
        return f"nested lists {found[1]}, {int(found[2]) - 1} levels, got {int(found[3]) - 1} levels"

    return re.sub(r"nested lists \[\w+\](.*), (\d+) levels, got (\d+) levels", less, message)
