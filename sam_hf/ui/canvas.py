"""The canvas: a picture, prompts and masks in the browser, as a Gradio component.

The page's code is in static/, as plain JavaScript modules that run as they are written. It talks to this app's API as
any other client does, and decodes clicks by itself (docs/app.md). Python sees a small value only:

    {"image": FileData or None, "session": {...} or None}

From Python it opens a picture and shows the objects of a session; to Python it tells the session as it stands, in the
form that `sam_hf.inference.session` reads.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData
from gradio_client.utils import is_file_obj_with_meta

from sam_hf.ui.static_files import STATIC

# Gradio runs this once; "change" and "submit" stand here because it looks for the names of events in the text.
LOAD = """
const root = (window.gradio_config?.root ?? location.origin).replace(/\\/$/, "");
const base = props.static_url.startsWith("/") ? root + props.static_url : props.static_url;
const start = element.querySelector("[data-part=start]");
const failed = (error) => { start.textContent = "The page could not be loaded: " + error.message; };
const bridge = { root, base, trigger, watch };
import(base + "/canvas.js").then((module) => module.mount(element, props, bridge)).catch(failed);
// events: "change", "submit"
"""
LARGEST_SESSION = 64 * 2**20  # bytes of JSON
MAYBE = [{"type": "object"}, {"type": "null"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "image": {"description": "the picture that is open, as FileData, or null", "anyOf": MAYBE},
        "session": {"description": "prompts and masks, see sam_hf.inference.session, or null", "anyOf": MAYBE},
    },
}


class PromptCanvas(gr.HTML):
    """A picture to segment by pointing.

    Args:
        value: `{"image", "session"}`, see the module; an image may be a path or FileData. None: nothing is open, and
            the first example opens by itself.
        static_url: Where the browser finds this package's static files, such as `/gradio_api/file=/.../ui/static`;
            the app must serve that folder (`gr.set_static_paths`).
        examples: Pictures to begin with: mappings with name, title, url and size [H, W].
        default_checkpoint: Name of the checkpoint that is chosen at first.
        **kwargs: For `gr.HTML`, such as `elem_id` and `visible`.

    Raises:
        ValueError: If `value` or an example is not of this form.
    """

    def __init__(
        self,
        value: Any = None,
        *,
        static_url: str,
        examples: Sequence[Mapping[str, Any]] = (),
        default_checkpoint: str = "tiny",
        **kwargs: Any,
    ):
        for index, example in enumerate(examples):
            missing = {"name", "title", "url", "size"} - set(example)
            if missing:
                raise ValueError(f"examples[{index}]: expected name, title, url and size; {sorted(missing)} lacking")
        super().__init__(
            value=value,
            html_template=(STATIC / "canvas.html").read_text(encoding="utf-8"),
            css_template="min-height: 24rem;",  # the look is canvas.css, which the page loads by itself
            js_on_load=LOAD,
            apply_default_css=False,
            static_url=static_url.rstrip("/"),
            examples=[{key: example[key] for key in ("name", "title", "url", "size")} for example in examples],
            default_checkpoint=default_checkpoint,
            **kwargs,
        )

    def preprocess(self, payload: Any) -> dict[str, Any] | None:
        """What the browser sent.

        Args:
            payload: From anybody, so nothing about it is taken for granted.

        Returns:
            image (FileData or None) and session (as it came; `PromptSession.from_json` checks it), or None.

        Raises:
            gr.Error: If it is not of this form, or too large.
        """
        if payload is None:
            return None
        if not isinstance(payload, dict) or not set(payload) <= {"image", "session"}:
            raise gr.Error("canvas: expected image and session", print_exception=False)
        image, session = payload.get("image"), payload.get("session")
        if session is not None and (not isinstance(session, dict) or len(json.dumps(session)) > LARGEST_SESSION):
            raise gr.Error("canvas: the session is not readable or too large", print_exception=False)
        if image is not None and not is_file_obj_with_meta(image):  # only of these Gradio checks where they are
            raise gr.Error("canvas: expected image as an uploaded file", print_exception=False)
        return {"image": image, "session": session}

    def postprocess(self, value: Any) -> dict[str, Any] | None:
        """What the browser is told.

        Args:
            value: See the class.

        Raises:
            ValueError: If it is not of this form.
        """
        if value is None:
            return None
        if not isinstance(value, Mapping) or not set(value) <= {"image", "session"}:
            raise ValueError(f"value: expected a mapping with image and session, got {type(value).__name__}")
        image = value.get("image")
        if isinstance(image, str | Path):
            image = FileData(path=str(image), orig_name=Path(image).name)
        if isinstance(image, FileData):
            image = image.model_dump()
        session = value.get("session")
        return {"image": image, "session": None if session is None else dict(session)}

    def api_info(self) -> dict[str, Any]:
        """The value's form, for the API's documentation."""
        return SCHEMA

    def example_payload(self) -> Any:
        """An example of what the browser sends."""
        return {"image": None, "session": None}

    def example_value(self) -> Any:
        """An example of what Python sends."""
        return {"image": None, "session": None}
