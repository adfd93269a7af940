"""The checkpoints that an app offers: named at its start, loaded once in the background, shared by everybody.

Nobody can make the app load another: a name from a request is looked up, never opened.
"""

import copy
import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from sam_hf.inference.embedding_store import EmbeddingStore
from sam_hf.inference.predictor import SamPredictor, read_device, read_dtype
from sam_hf.inference.text.segmenter import SamTextSegmenter, find_calibration
from sam_hf.model.checkpoint_names import EMBEDDED_NAME
from sam_hf.ui.browser_decoder import BrowserDecoder, BrowserDecoders

logger = logging.getLogger(__name__)
STORE_BYTES = 2**26


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        name: What requests call it: as given at the start; of a folder its last part.
        source: "tiny", a Hub id or a folder.
        predictor: Answers prompts.
        clip: What reads phrases where the checkpoint has no text branch, see `SamTextSegmenter`.
        on_gpu: On ZeroGPU, a copy that encodes there.
    """

    name: str
    source: str
    predictor: SamPredictor
    clip: str | None
    on_gpu: SamPredictor | None = None

    @property
    def has_text(self) -> bool:
        """Whether it has a text branch of its own."""
        return self.predictor.model.config.text_config is not None

    @cached_property
    def segmenter(self) -> SamTextSegmenter:
        """Finds phrases: by the checkpoint's text branch, else by a CLIP."""
        clip = None if self.has_text else self.clip
        return SamTextSegmenter(self.predictor, clip, calibration=find_calibration(self.source))

    def describe(self) -> dict[str, Any]:
        """For the page: name, title, has_text, device, dtype, parameters (how many numbers its weights have)."""
        weights = sum(weight.numel() for weight in self.predictor.model.parameters())
        return {
            "name": self.name,
            "title": f"{self.name} (embedded, small)" if self.source == EMBEDDED_NAME else self.name,
            "has_text": self.has_text,
            "device": str(self.predictor.device),
            "dtype": str(self.predictor.dtype).removeprefix("torch."),
            "parameters": weights,
        }


class NotReady(RuntimeError):
    """A checkpoint is not there yet, or could not be loaded; the message is a sentence for whoever asked."""


class Checkpoints:
    """The checkpoints of one app.

    Args:
        sources: "tiny", Hub ids and folders; the first is the default.
        device: Where models run; None: the best there is, chosen by accelerate.
        dtype: Their precision; None: float32.
        clip: What reads phrases for checkpoints without a text branch.
        decoders: Of browsers; None: those kept in the user's cache folder.

    Raises:
        ValueError: If there are none, two have one name, or `device` or `dtype` does not exist.
    """

    def __init__(
        self,
        sources: Sequence[str] = (EMBEDDED_NAME,),
        device: str | None = None,
        dtype: str | None = None,
        clip: str | None = EMBEDDED_NAME,
        decoders: BrowserDecoders | None = None,
    ):
        if not sources:
            raise ValueError("sources: expected at least one checkpoint, got none")
        self._sources = {_name(source): str(source) for source in sources}
        if len(self._sources) < len(sources):
            raise ValueError(f"sources: expected different names, got {', '.join(map(_name, sources))}")
        self.device, self.dtype, self._clip = choose_device(device), read_dtype(dtype), clip
        self.decoders = BrowserDecoders() if decoders is None else decoders
        self.store = EmbeddingStore(STORE_BYTES)
        self._loaded: dict[str, Checkpoint] = {}
        self._failed: dict[str, str] = {}
        self._events = {name: threading.Event() for name in self._sources}
        self._thread: threading.Thread | None = None

    @property
    def names(self) -> list[str]:
        """What requests may ask for."""
        return list(self._sources)

    @property
    def default(self) -> str:
        """What the page begins with."""
        return self.names[0]

    @property
    def only_embedded(self) -> bool:
        """Whether there is nothing but the small embedded checkpoint."""
        return set(self._sources.values()) == {EMBEDDED_NAME}

    def start(self) -> "Checkpoints":
        """Begins to load in the background; again and again does no harm. On ZeroGPU it ends first: what lies on the
        GPU when the app starts is there at once in each call, what comes later is copied in each."""
        if self._thread is None and on_zero_gpu():
            self._load_all()
            self._thread = threading.Thread(target=self._export_all, name="sam_hf-exporting", daemon=True)
            self._thread.start()
        elif self._thread is None:
            self._thread = threading.Thread(target=self._load_and_export, name="sam_hf-loading", daemon=True)
            self._thread.start()
        return self

    def get(self, name: Any, timeout: float = 120.0) -> Checkpoint:
        """A checkpoint; waits while it is being loaded.

        Args:
            name: One of `names`; None: the default.
            timeout: Seconds to wait.

        Raises:
            ValueError: If there is none of that name.
            NotReady: If it is still being loaded, or could not be.
        """
        name = self.default if name is None else name
        if not isinstance(name, str) or name not in self._sources:
            raise ValueError(f"checkpoint: expected one of {', '.join(self.names)}; got {name!r:.80}")
        self.start()
        if not self._events[name].wait(timeout):
            raise NotReady(f"the checkpoint {name} is still loading, try again in a moment")
        if name in self._failed:
            raise NotReady(f"the checkpoint {name} could not be loaded; the server's log says why")
        return self._loaded[name]

    def is_loading(self, name: Any) -> bool:
        """Whether a checkpoint is there later but not now; begins to load."""
        name = self.default if name is None else name
        self.start()
        return isinstance(name, str) and name in self._events and not self._events[name].is_set()

    def decoder(self, name: Any) -> BrowserDecoder:
        """What a browser needs to decode for a checkpoint; see `BrowserDecoders.get` and `get`."""
        chosen = self.get(name)
        return self.decoders.get(chosen.source, chosen.predictor)

    def made_decoder(self, name: Any) -> BrowserDecoder | None:
        """The same if it is there already."""
        return self.decoders.made(self.get(name, timeout=0).predictor)

    def describe(self) -> list[dict[str, Any]]:
        """Of each checkpoint what `Checkpoint.describe` says, and `state`: "loading", "ready" or "failed"."""
        return [self._describe(name) for name in self._sources]

    def _describe(self, name: str) -> dict[str, Any]:
        if name in self._loaded:
            return {**self._loaded[name].describe(), "state": "ready"}
        unknown = {"has_text": None, "device": str(self.device), "dtype": str(self.dtype).removeprefix("torch.")}
        state = "failed" if name in self._failed else "loading"
        return {"name": name, "title": name, **unknown, "parameters": None, "state": state}

    def _load_and_export(self) -> None:
        self._load_all()
        self._export_all()

    def _load_all(self) -> None:
        for name, source in self._sources.items():
            try:
                predictor = SamPredictor.from_pretrained(source, self.device, self.dtype, self.store)
                on_gpu = _copy_on_gpu(predictor) if on_zero_gpu() else None
                self._loaded[name] = Checkpoint(name, source, predictor, self._clip, on_gpu)
            except Exception as error:  # whatever it is, the other checkpoints are to be loaded
                logger.error("cannot load the checkpoint %s: %s", source, error)
                self._failed[name] = str(error)
            self._events[name].set()

    def _export_all(self) -> None:
        for name in self._loaded:
            try:
                self.decoder(name)
            except Exception as error:  # browsers will ask the server instead
                logger.warning("no decoder for browsers of %s: %s", name, error)


def on_zero_gpu() -> bool:
    """Whether this is a Space that gets a GPU for the length of a call."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "true", "t")


def _copy_on_gpu(predictor: SamPredictor) -> SamPredictor | None:
    """None where the package `spaces` has not put its stand-in in CUDA's place."""
    if not torch.cuda.is_available():
        return None
    return SamPredictor(copy.deepcopy(predictor.model).to("cuda"), predictor.processor)


def choose_device(device: str | None) -> torch.device:
    """The device of a name; None: what accelerate finds here, CUDA and Apple's GPU first.

    On ZeroGPU there is a GPU only while something is encoded, so models live on the CPU.

    Raises:
        ValueError: If there is no such device.
    """
    if device is not None:
        return read_device(device)
    if on_zero_gpu():
        return torch.device("cpu")
    from accelerate import PartialState

    return PartialState().device


def _name(source: str) -> str:
    folder = Path(source).expanduser()
    return folder.resolve().name if source != EMBEDDED_NAME and folder.is_dir() else source
