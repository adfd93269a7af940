"""From what a request names to an encoded picture: who waits, for what, and in which line.

There is one line for encoding and none for pictures that are known. Whoever waits for a checkpoint to be loaded, or
for their turn to encode, waits without a thread, so that everybody else's clicks go on.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import anyio
from anyio import to_thread
from gradio.utils import get_upload_folder

from sam_hf.inference import json_fields as read
from sam_hf.inference.embedding_store import ImageEmbedding
from sam_hf.ui.checkpoints import Checkpoint, Checkpoints, NotReady, on_zero_gpu
from sam_hf.ui.encoding import Busy, Encoder
from sam_hf.ui.exporting import half_features
from sam_hf.ui.pictures import OpenPicture, PictureStore
from sam_hf.ui.reading import PictureFile, read_picture, read_upload, to_rgb
from sam_hf.ui.served_files import display_copy, serve

LONGEST_LOADING = 600  # seconds


class Opening:
    """Opens pictures.

    Args:
        checkpoints: What may be asked for.
        pictures: Where they are kept.
        examples: Picture files by the name that requests call them.
    """

    def __init__(self, checkpoints: Checkpoints, pictures: PictureStore, examples: Mapping[str, Path]):
        self._checkpoints, self._pictures, self._examples = checkpoints, pictures, examples
        self._encoder = Encoder(checkpoints)
        self._reading, self._encoding = anyio.CapacityLimiter(2), anyio.CapacityLimiter(1)
        self._patient = threading.BoundedSemaphore(2)  # who may wait for a checkpoint with a thread

    async def open(self, image: Any, checkpoint: str | None) -> AsyncIterator[dict[str, Any]]:
        """See `Api.embed`."""
        yield {"stage": "loading"}
        chosen = await self.when_loaded(checkpoint)
        yield {"stage": "reading"}
        file, picture, embedding = await to_thread.run_sync(self._look_up, image, chosen, limiter=self._reading)
        yield {"stage": "encoding"}
        if embedding is None:
            if self._encoding.available_tokens < 1:
                picture = None  # those who wait do not all keep theirs in memory
            picture, embedding = await to_thread.run_sync(self._encode, chosen, file, picture, limiter=self._encoding)
        opened = OpenPicture(file, chosen.name, embedding)
        yield await to_thread.run_sync(self._ready, opened, picture, limiter=self._reading)

    async def when_loaded(self, checkpoint: str | None) -> Checkpoint:
        """The checkpoint of a name, when it is there; see `Checkpoints.get`."""
        end = time.monotonic() + LONGEST_LOADING
        while self._checkpoints.is_loading(checkpoint) and time.monotonic() < end:
            await asyncio.sleep(0.2)
        return self._checkpoints.get(checkpoint, timeout=0)

    def loaded(self, checkpoint: str | None) -> Checkpoint:
        """The checkpoint of a name; two may wait a moment for it, the others are told that it is not there yet."""
        seconds = 5 if self._checkpoints.is_loading(checkpoint) and self._patient.acquire(blocking=False) else 0
        try:
            return self._checkpoints.get(checkpoint, timeout=seconds)
        finally:
            if seconds:
                self._patient.release()

    def opened(self, image: Any, checkpoint: str | None) -> tuple[Checkpoint, OpenPicture]:
        """The checkpoint and the encoded picture that a request names."""
        chosen = self.loaded(checkpoint)
        if isinstance(image, dict) and "picture" in image:
            opened = self._pictures.get(image["picture"])
            if opened.checkpoint == chosen.name:
                return chosen, opened
        file, picture, embedding = self._look_up(image, chosen)
        if embedding is None:
            embedding = self._encoder.encode(chosen, picture)
        return chosen, OpenPicture(file, chosen.name, embedding)

    def prepare(self) -> None:
        """Encodes the examples, so that who opens the page need not wait for that."""
        if on_zero_gpu():  # nobody has asked for its GPU
            return
        for path in self._examples.values():
            with contextlib.suppress(Busy, NotReady):  # people come first
                chosen = self._checkpoints.get(None, LONGEST_LOADING)
                self._encoder.encode(chosen, read_picture(path.read_bytes(), path.name)[1])

    def _read(self, image: Any) -> tuple[PictureFile, Any]:
        """The file and the picture that a request names."""
        if not isinstance(image, dict):
            raise ValueError(f"image: expected an uploaded file or {{'picture': id}}, got {read.shown(image)}")
        if "picture" in image:
            file = self._pictures.get(image["picture"]).file
            return file, file.open()
        if "example" in image:
            path = self._examples.get(image["example"]) if isinstance(image["example"], str) else None
            if path is None:
                raise ValueError(f"image.example: expected one of {', '.join(self._examples) or 'none at all'}")
            return read_picture(path.read_bytes(), path.name)
        content = read_upload(image.get("path"), [Path(get_upload_folder())])
        return read_picture(content, image.get("orig_name") or Path(image["path"]).name)

    def _look_up(self, image: Any, chosen: Checkpoint) -> tuple[PictureFile, Any, ImageEmbedding | None]:
        file, picture = self._read(image)
        return file, picture, self._encoder.find(chosen, picture)

    def _encode(self, chosen: Checkpoint, file: PictureFile, picture: Any) -> tuple[Any, ImageEmbedding]:
        picture = file.open() if picture is None else picture
        return picture, self._encoder.encode(chosen, picture)

    def _ready(self, opened: OpenPicture, picture: Any) -> dict[str, Any]:
        """The last step of opening a picture; without reading its file again."""
        file, embedding = opened.file, opened.embedding
        shown, ending = display_copy(to_rgb(picture))
        features = half_features(opened)
        return {
            "stage": "ready",
            "picture": self._pictures.add(opened),
            "size": list(embedding.original_size),
            "resized": list(embedding.input_size),
            "image": serve(shown, f"picture.{ending}"),
            "embedding": serve(features.tobytes(), "embedding.f16.bin"),
            "shape": list(features.shape),
            "checkpoint": opened.checkpoint,
            "name": file.name,
        }
