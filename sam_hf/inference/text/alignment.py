"""Where phrases are in a picture by the checkpoint's own alignment, and whether they suit masks.

`model.text_alignment` compares cells of the image embedding with phrases. Here its answers are brought to the
picture: maps without the padding of the model's input, peaks in original pixels, and figures for SAM's masks.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from sam_hf.inference.text.instances import Request
from sam_hf.model.image_operations import height_width


class AlignedPhrases:
    """P phrases and one picture.

    Args:
        request: Whose predictor and picture.
        phrases: At least one.

    Attributes:
        maps: (P,h,w) float32, log-odds of each cell that holds some of the picture.
    """

    @torch.inference_mode()
    def __init__(self, request: Request, phrases: Sequence[str]):
        predictor, embedding = request.predictor, request.embedding
        self._alignment = predictor.model.prompt_encoder.text_alignment
        self._vectors = predictor.text_vectors(phrases)[None]  # (1,P,D)
        cells = self._alignment.cells(embedding.tensor.to(predictor.device, predictor.dtype))  # (1,D,h,w)
        padded = np.array(height_width(predictor.processor.image_processor.pad_size))
        size, resized = np.array(embedding.original_size), np.array(embedding.input_size)
        self._extent = resized * np.array(cells.shape[-2:]) / padded  # of the picture, yx, in cells
        height, width = np.ceil(self._extent).astype(int)
        self._cells = cells[..., :height, :width]
        maps = self._alignment.compare(self._cells.flatten(2).mT, self._vectors).unflatten(-1, (height, width))[0]
        self.maps = maps.cpu().numpy()
        self._presence = self._alignment.presence(maps).tolist()
        self._side, self._last = size / self._extent, size - 0.5  # of a cell, and the last pixel; original, yx

    def presence(self, index: int) -> float:
        """Log-odds that a phrase is true of something in the picture."""
        return self._presence[index]

    def peak(self, index: int) -> tuple[float, float]:
        """xy of the middle of the cell that a phrase suits best, original pixels."""
        place = np.unravel_index(self.maps[index].argmax(), self.maps.shape[1:])
        y, x = np.minimum((np.array(place) + 0.5) * self._side, self._last)
        return float(x), float(y)

    def heat_map(self, index: int) -> np.ndarray:
        """(h,w) float32 in [0,1], where a phrase is; the picture and no more, whatever of it the last cells hold."""
        places = (
            (np.arange(count) + 0.5) * extent / count - 0.5
            for count, extent in zip(self.maps.shape[1:], self._extent, strict=True)
        )
        rows, columns = places
        down = np.stack([np.interp(rows, np.arange(len(rows)), column) for column in self.maps[index].T], axis=1)
        odds = np.stack([np.interp(columns, np.arange(len(columns)), row) for row in down])
        return (1 / (1 + np.exp(-odds))).astype(np.float32)

    @torch.inference_mode()
    def suits(self, index: int, low_res_logits: np.ndarray) -> np.ndarray:
        """Log-odds (n,) that a phrase is true of what each of n masks (n,4h,4w), logits, shows of the picture."""
        height, width = self._cells.shape[-2:]
        masks = torch.from_numpy(low_res_logits[:, : 4 * height, : 4 * width] > 0)
        bottom, right = np.ceil(4 * self._extent).astype(int)
        masks[:, bottom:], masks[:, :, right:] = False, False  # what the model says of the padding
        shares = F.avg_pool2d(masks.float()[None], 4).to(self._cells.device)  # (1,n,h,w)
        seen = self._alignment.regions(self._cells, shares)
        return self._alignment.compare(seen, self._vectors[:, [index]])[0, 0].cpu().numpy()
