"""`sam-hf app`: the page on this machine, from the command line."""

import argparse
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Sequence
from typing import Any

from sam_hf.model.checkpoint_names import EMBEDDED_NAME
from sam_hf.terminal import clear_up_when_ended, say

PRECISIONS = ("float32", "float16", "bfloat16")


def main(arguments: Sequence[str] | None = None) -> int:
    """Open the app: a page to segment pictures on, and an API, on this machine only unless --host says otherwise."""
    options = parser().parse_args(arguments)
    clear_up_when_ended()
    with _private_folder():
        demo = make_demo(options)
        _serve(demo, options)
    return 0


def parser() -> argparse.ArgumentParser:
    """The options of `sam-hf app`."""
    words = argparse.ArgumentParser(prog="sam-hf app", description=main.__doc__)
    words.add_argument(
        "--model",
        action="append",
        metavar="MODEL",
        help='"tiny" (embedded, small; default), a Hub id or a folder; repeatable, the first is chosen at first',
    )
    words.add_argument("--clip", default=EMBEDDED_NAME, help="reads phrases for models without text; default: tiny")
    words.add_argument("--host", default="127.0.0.1", help="address to listen on; default: %(default)s")
    words.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    words.add_argument("--device", help="cpu, cuda, cuda:1, mps; default: the best there is")
    words.add_argument("--dtype", choices=PRECISIONS, help="precision of the models; default: float32")
    words.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="host, or host:port, that is ours too, as behind a proxy; repeatable",
    )
    words.add_argument("--mcp", action="store_true", help="serve the API to MCP clients as well")
    words.add_argument("--max-queue", type=int, default=100, help="requests that may wait; default: %(default)s")
    return words


def make_demo(options: argparse.Namespace) -> Any:
    """The app of these options; its checkpoints are loaded in the background.

    Raises:
        ImportError: Gradio, or what MCP needs, is not installed.
        ValueError: An option is out of range.
    """
    require_gradio(options.mcp)
    from transformers.utils import logging

    logging.disable_progress_bar()
    from sam_hf.ui.blocks import build
    from sam_hf.ui.checkpoints import Checkpoints

    checkpoints = Checkpoints(options.model or [EMBEDDED_NAME], options.device, options.dtype, options.clip)
    demo = build(checkpoints, max_queue=options.max_queue)
    checkpoints.start()
    threading.Thread(target=demo.prepare, name="sam_hf-examples", daemon=True).start()
    return demo


def require_gradio(mcp: bool = False) -> None:
    """Raise an ImportError that says what to install, if something is absent."""
    try:
        import gradio  # noqa: F401

        if mcp:
            import mcp  # noqa: F401
    except ImportError as error:
        more = ' "gradio[mcp]"' if error.name == "mcp" else ""
        raise ImportError(f'the app needs {error.name}: `pip install "sam_hf[app]"{more}`') from error


def _serve(demo: Any, options: argparse.Namespace) -> None:
    from sam_hf.ui.blocks import page_look
    from sam_hf.ui.safety import launch_options

    more = {"mcp_server": options.mcp, "quiet": True, "prevent_thread_lock": True, **page_look()}
    try:
        _, address, _ = demo.launch(**launch_options(options.host, options.port, options.allowed_host, **more))
    except OSError as error:  # the port is taken
        raise ValueError(f"cannot listen on {options.host}: {error}") from error
    say(f"sam-hf app: {address} (Ctrl-C ends it)")
    try:
        demo.block_thread()
    finally:
        demo.close(verbose=False)


class _private_folder:
    """A folder of our own for files on their way, gone with the app."""

    def __enter__(self) -> None:
        self._folder = None
        if "GRADIO_TEMP_DIR" not in os.environ:
            self._folder = os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="sam_hf-app-")

    def __exit__(self, *error: Any) -> None:
        if self._folder is not None:
            del os.environ["GRADIO_TEMP_DIR"]
            shutil.rmtree(self._folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
