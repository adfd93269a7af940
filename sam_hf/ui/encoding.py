"""Encoding, the dear part: one at a time, found again where it was done before, on ZeroGPU's GPU where there is one.

Everybody else's clicks go on meanwhile: whoever waits for an encode waits here, and few may wait.
"""

import threading
from typing import Any

import numpy as np
import torch

from sam_hf.inference.embedding_store import ImageEmbedding, content_key
from sam_hf.inference.predictor import SamPredictor
from sam_hf.model.image_loading import load_image_tensor
from sam_hf.ui.checkpoints import Checkpoint, Checkpoints, on_zero_gpu

GPU_SECONDS = 30
BUSY = "busy encoding other people's pictures, try again in a moment"


class Busy(RuntimeError):
    """Too many wait already."""


class Encoder:
    """Encodes pictures, one at a time.

    Args:
        checkpoints: Whose encoders; on ZeroGPU they are looked up by name in the process that has the GPU.
        waiting: How many may wait.
    """

    def __init__(self, checkpoints: Checkpoints, waiting: int = 4):
        self._checkpoints = checkpoints
        self._one_at_a_time = threading.Lock()
        self._places = threading.BoundedSemaphore(waiting + 1)
        self._on_gpu = None
        if on_zero_gpu():  # now: ZeroGPU wants to know at the start what will ask for its GPU
            import spaces

            self._on_gpu = spaces.GPU(duration=GPU_SECONDS)(self._encode_on_cuda)

    def find(self, checkpoint: Checkpoint, picture: Any) -> ImageEmbedding | None:
        """The embedding of a picture that was encoded before; nobody waits for that."""
        return checkpoint.predictor.find(picture)

    def encode(self, checkpoint: Checkpoint, picture: Any) -> ImageEmbedding:
        """The embedding of a picture.

        Args:
            checkpoint: Which encoder.
            picture: See `PictureFile.open`.

        Raises:
            Busy: Too many wait already.
        """
        if not self._places.acquire(blocking=False):
            raise Busy(BUSY)
        try:
            with self._one_at_a_time:
                if self._on_gpu is None:
                    return checkpoint.predictor.encode(picture)
                return self._encode_elsewhere(checkpoint, picture)
        finally:
            self._places.release()

    def _encode_elsewhere(self, checkpoint: Checkpoint, picture: Any) -> ImageEmbedding:
        """The GPU's process is forked for the call: a picture goes there, arrays come back, nothing else does."""
        predictor = checkpoint.predictor
        settings = str(predictor.processor.image_processor.to_dict())
        pixels = load_image_tensor(picture, where="the picture")
        key = content_key(pixels, settings, f"{predictor.revision} {predictor.dtype}")

        def encode() -> ImageEmbedding:
            features, original, resized = self._on_gpu(checkpoint.name, picture)
            with torch.inference_mode():
                tensor = torch.from_numpy(features).to(predictor.dtype)
            return ImageEmbedding(tensor, original, resized, key, predictor.revision)

        return predictor.store.get_or_encode(key, encode)

    def _encode_on_cuda(self, name: str, picture: Any) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
        known = self._checkpoints.get(name)
        predictor = known.on_gpu or SamPredictor(known.predictor.model.to("cuda"), known.predictor.processor)
        embedding = predictor.encode(picture)
        return embedding.tensor.float().cpu().numpy(), embedding.original_size, embedding.input_size
