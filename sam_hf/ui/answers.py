"""What a stranger is told when something goes wrong: one plain sentence, never a path or a library's own words.

What our own code refuses is said in its words, which name the argument, what was expected and what came. Anything
else goes to the server's log; who asked learns that it failed, and the next request finds everything as it was.
"""

import functools
import gc
import inspect
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import torch

from sam_hf.ui.checkpoints import NotReady
from sam_hf.ui.encoding import Busy
from sam_hf.ui.pictures import PictureGone
from sam_hf.ui.served_files import DiskFull

logger = logging.getLogger(__name__)
PACKAGE = Path(__file__).resolve().parent.parent
NO_MEMORY = "there is not enough memory for this; try a smaller picture or fewer points"
FAILED = "something went wrong on the server; the request was not carried out, and trying again may help"
# A path of several parts, or where something lies in memory.
PRIVATE = re.compile(r"(^|[\s'\"(=])(/[\w.~-]+){2,}|[A-Za-z]:\\\\?\w|\b0x[0-9a-fA-F]{6,}")


def sentence(error: BaseException) -> str:
    """What to tell whoever asked."""
    if isinstance(error, PictureGone | NotReady | Busy | DiskFull):
        return str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return NO_MEMORY
    if isinstance(error, RuntimeError) and re.search(r"not enough memory|out of memory|can't allocate", str(error)):
        return NO_MEMORY
    if isinstance(error, ImportError) and "pip install" in str(error):
        return "this server lacks a package for that; its owner can add it"
    if isinstance(error, ValueError | TypeError) and _is_ours(error) and not PRIVATE.search(str(error)):
        return str(error)
    return FAILED


def endpoint(function: Callable) -> Callable:
    """Makes what a function raises a `gr.Error` with one sentence."""
    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def steps_in_turn(*args: Any, **kwargs: Any) -> Any:
            try:
                async for step in function(*args, **kwargs):
                    yield step
            except Exception as error:
                raise _told(error, function.__name__) from None

        return steps_in_turn

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def answer_in_turn(*args: Any, **kwargs: Any) -> Any:
            try:
                return await function(*args, **kwargs)
            except Exception as error:
                raise _told(error, function.__name__) from None

        return answer_in_turn

    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def steps(*args: Any, **kwargs: Any) -> Any:
            try:
                yield from function(*args, **kwargs)
            except Exception as error:
                raise _told(error, function.__name__) from None

        return steps

    @functools.wraps(function)
    def answer(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise _told(error, function.__name__) from None

    return answer


def _told(error: Exception, where: str) -> gr.Error:
    if isinstance(error, gr.Error):
        return error
    words = sentence(error)
    if words in (FAILED, NO_MEMORY):
        logger.error("%s failed", where, exc_info=error)
    if words == NO_MEMORY:
        error.__traceback__ = None  # which holds on to what did not fit
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return gr.Error(words, print_exception=False)


def _is_ours(error: BaseException) -> bool:
    """Whether our own code raised it: its words were written for people."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and Path(last.tb_frame.f_code.co_filename).is_relative_to(PACKAGE)
