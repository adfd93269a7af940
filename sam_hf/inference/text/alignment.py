"""Where phrases are in a picture by the checkpoint's own alignment, and whether they suit masks.

`model.text_alignment` compares cells of the image embedding with phrases. Here its answers are brought to the
picture: maps without the padding of the model's input, peaks in original pixels, and figures for SAM's masks.
"""

from collections.abc import Sequence

import numpy as np
import torch

from sam_hf.inference.text.instances import Request
from sam_hf.model.image_operations import height_width
from sam_hf.model.text_alignment import SamTextAlignment


class AlignedPhrases:
    """P phrases and one picture.

    Args:
        request: Whose predictor and picture.
        phrases: At least one.

    Attributes:
        maps: (P,h,w) float32, log-odds of each cell of the picture, the padding cut off.
    """

    @torch.inference_mode()
    def __init__(self, request: Request, phrases: Sequence[str]):
        self._model, self._features = request.predictor.model, request.embedding.tensor
        self._vectors = request.predictor.text_vectors(phrases)  # (P,D)
        maps = self._model.get_text_alignment(self._features, self._vectors[None])[0]
        padded = np.array(height_width(request.predictor.processor.image_processor.pad_size))
        size, resized = np.array(request.embedding.original_size), np.array(request.embedding.input_size)
        side = padded / np.array(maps.shape[-2:])  # of a cell, model's pixels
        height, width = np.ceil(resized / side).astype(int)  # cells that hold some of the picture
        self.maps = maps[:, :height, :width].cpu().numpy()
        self._side, self._last = side * size / resized, size - 0.5  # original pixels, yx

    def presence(self, index: int) -> float:
        """Log-odds that a phrase is true of something in the picture."""
        return float(SamTextAlignment.presence(torch.from_numpy(self.maps[index])))

    def peak(self, index: int) -> tuple[float, float]:
        """xy of the middle of the cell that a phrase suits best, original pixels."""
        place = np.unravel_index(self.maps[index].argmax(), self.maps.shape[1:])
        y, x = np.minimum((np.array(place) + 0.5) * self._side, self._last)
        return float(x), float(y)

    @torch.inference_mode()
    def suits(self, index: int, low_res_logits: np.ndarray) -> np.ndarray:
        """Log-odds (n,) that a phrase is true of what each of n masks (n,4h,4w), logits, shows."""
        masks = torch.from_numpy(np.ascontiguousarray(low_res_logits)).to(self._features.device)[None]
        vectors = self._vectors[index].expand(1, masks.shape[1], -1)
        return self._model.get_text_alignment(self._features, vectors, masks)[0].cpu().numpy()
