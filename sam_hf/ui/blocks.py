"""The app as `gr.Blocks`: a header, the canvas, and the API that the canvas is a client of."""

import html
import json
import os
from typing import Any

import gradio as gr
from gradio.exceptions import InvalidPathError
from gradio.processing_utils import async_move_files_to_cache

import sam_hf
from sam_hf.ui.api import Api
from sam_hf.ui.checkpoints import Checkpoints
from sam_hf.ui.pictures import PictureStore
from sam_hf.ui.static_files import STATIC, STATIC_URL

TITLE = "sam_hf: segment anything"
NOTE = (
    "The embedded checkpoint is small and was trained on synthetic scenes like the examples: on photographs it is far "
    "behind SAM. Start the app with <code>--model facebook/sam-vit-base</code> for those."
)
SECONDS_OF_FILES = 2 * 3600
CSS = """
.sam-header { display: flex; flex-wrap: wrap; align-items: baseline; gap: .25rem .6rem; padding: .1rem .2rem; }
.sam-header h1 { font-size: 1.15rem; font-weight: 700; margin: 0; }
.sam-header small { opacity: .65; }
.sam-chip { font-size: .75rem; padding: .1rem .55rem; border-radius: 1rem;
  background: var(--background-fill-secondary); border: 1px solid var(--border-color-primary); }
.sam-note { flex-basis: 100%; margin: 0; font-size: .8rem; opacity: .85; }
"""


class AppBlocks(gr.Blocks):
    """Gradio's blocks, with two differences for endpoints of `gr.api`: nothing is fetched from addresses, and nobody's
    answers are kept as state of a session."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
        """See `gr.Blocks`; what a request may not name is refused with a sentence."""
        _refuse_addresses(inputs)
        inputs = [*inputs, *(block.value for block in block_fn.inputs[len(inputs) :])]  # defaults, as in Python
        try:
            return await super().preprocess_data(block_fn, inputs, *args, **kwargs)
        except InvalidPathError:
            raise gr.Error("image: this file was not uploaded here", print_exception=False) from None
        except (ValueError, TypeError):
            raise gr.Error("the request does not have the arguments of this endpoint", print_exception=False) from None

    async def postprocess_data(self, block_fn: Any, predictions: Any, state: Any) -> list[Any]:
        """See `gr.Blocks`; an endpoint's answer goes to who asked and nowhere else."""
        if block_fn.postprocess or not isinstance(predictions, dict | list) or len(block_fn.outputs) != 1:
            return await super().postprocess_data(block_fn, predictions, state)
        if isinstance(predictions, list) and any(not isinstance(one, dict) for one in predictions):
            return await super().postprocess_data(block_fn, predictions, state)  # Gradio's own signals
        return [await async_move_files_to_cache(predictions, block_fn.outputs[0], postprocess=True)]


def build(checkpoints: Checkpoints, pictures: PictureStore | None = None, max_queue: int = 100) -> gr.Blocks:
    """Builds the app; nothing is loaded yet, see `Checkpoints.start`.

    Args:
        checkpoints: What can be chosen; the first is the default.
        pictures: What is open; None: a store of its own.
        max_queue: How many requests may wait; who comes then is told that it is busy.

    Raises:
        ValueError: If `max_queue` is not positive.
    """
    from sam_hf.ui.canvas import PromptCanvas

    if max_queue < 1:
        raise ValueError(f"max_queue must be 1 or more, got {max_queue}")
    gr.set_static_paths([STATIC])
    shown = examples()
    api = Api(checkpoints, pictures, {example["name"]: STATIC / "examples" / example["file"] for example in shown})
    kept = (600, SECONDS_OF_FILES)
    with AppBlocks(title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=kept) as demo:
        gr.HTML(header(checkpoints), padding=False)
        PromptCanvas(static_url=STATIC_URL, examples=shown, default_checkpoint=checkpoints.default)
        api.register()
    demo.pictures, demo.prepare = api.pictures, api.prepare
    # Gradio sums up all that it has answered after each answer, which takes longer than a click.
    os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000")
    return demo.queue(max_size=max_queue, default_concurrency_limit=1, api_open=False)


def page_look() -> dict[str, Any]:
    """Arguments for `launch` that make the page look as it does; nothing of it comes from other servers."""
    font = ["ui-sans-serif", "system-ui", "sans-serif"]
    theme = gr.themes.Soft(primary_hue="indigo", font=font, font_mono=["ui-monospace", "monospace"])
    return {"theme": theme, "css": CSS, "footer_links": ["api", "settings"]}


def header(checkpoints: Checkpoints) -> str:
    """The head of the page."""
    where = f"{checkpoints.device} · {str(checkpoints.dtype).removeprefix('torch.')}"
    names = html.escape(", ".join(checkpoints.names))
    note = f'<p class="sam-note">{NOTE}</p>' if checkpoints.only_embedded else ""
    chips = f'<span class="sam-chip">{names}</span> <span class="sam-chip">{html.escape(where)}</span>'
    return f'<header class="sam-header"><h1>sam_hf</h1><small>{sam_hf.__version__}</small> {chips}{note}</header>'


def examples() -> list[dict[str, Any]]:
    """Pictures to begin with: name, title, file, url and size [H, W] of each; the first opens by itself."""
    listed = json.loads((STATIC / "examples" / "examples.json").read_text(encoding="utf-8"))
    return [{**one, "url": f"{STATIC_URL}/examples/{one['file']}"} for one in listed]


def _refuse_addresses(value: Any) -> None:
    """Gradio fetches files that are named by address, with whatever this machine can reach."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting += one
        elif isinstance(one, dict):
            path, url = one.get("path"), one.get("url")
            foreign = isinstance(path, str) and "://" in path[:40]
            if isinstance(url, str) and "://" in url[:40] and f"file={path}" not in url:
                foreign = True
            if foreign:
                words = "image: addresses of pictures are not fetched; upload the file instead"
                raise gr.Error(words, print_exception=False)
            waiting += one.values()
