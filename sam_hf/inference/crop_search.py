"""All masks of one crop (or of the whole picture): points are asked about, and what is no good is dropped early.

A candidate passes predicted IoU before its mask is upscaled inside the decoder, stability, share and crop edges before
any pixel of the picture is drawn, and the suppression of duplicates before it is drawn and packed. Until then its
low-resolution logits are kept: of what is no duplicate by what is known so far all, of the rest as many as fit in
`HELD_BYTES`. Should a better mask drop out later and such a one be wanted after all, its point is asked again.
So memory depends on what is found, not on how many points are asked.

Source: `SamAutomaticMaskGenerator._process_crop` of segment-anything 1.0: same filters, same order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sam_hf.inference.everything_options import MaskGenerationOptions
from sam_hf.inference.everything_records import FoundMask, suppress_duplicates
from sam_hf.masks.packed import PackedMask
from sam_hf.masks.upscaling import mask_statistics, pack_masks, upscaling
from sam_hf.model.fast_decoding import FastMaskDecoder
from sam_hf.model.mask_postprocessing import touches_crop_edge
from sam_hf.model.modeling_sam import SamModel
from sam_hf.model.stand_in import can_stand_in

HELD_BYTES = 2**27  # low-resolution logits of candidates
CPU_DECODER_BYTES = 2**26  # image tokens of the prompts decoded at once; a CPU gains nothing from more


@dataclass(frozen=True)
class Crop:
    """Where to look.

    Attributes:
        box: xyxy, original pixels; the whole picture or a part of it.
        image_size: (H,W) of the picture, original pixels.
        input_size: (H,W) that the crop was resized to.
        padded_size: (H,W) of the square that the model sees, resized pixels.
        points: (n,2) xy, pixels of the crop.
    """

    box: tuple[int, int, int, int]
    image_size: tuple[int, int]
    input_size: tuple[int, int]
    padded_size: tuple[int, int]
    points: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """(H,W) of the crop, original pixels."""
        left, top, right, bottom = self.box
        return bottom - top, right - left


class _Candidates(NamedTuple):
    """What is kept of n masks: places among the crop's points, mask tokens, scores and boxes (in the crop)."""

    points: Tensor
    tokens: Tensor
    scores: Tensor
    stability: Tensor
    boxes: Tensor


class CropSearch:
    """Asks about the points of one crop and keeps the candidates.

    Args:
        model: In eval mode.
        embedding: (1,C,h,w) of the crop.
        crop: See `Crop`.
        options: What is good enough.
    """

    @torch.inference_mode()
    def __init__(self, model: SamModel, embedding: Tensor, crop: Crop, options: MaskGenerationOptions):
        self._model, self._crop, self._options = model, crop, options
        self._decoder: Any = FastMaskDecoder(model) if can_stand_in(model) else _PlainDecoder(model)
        self._images = self._decoder.prepare(embedding)
        low = (4 * embedding.shape[-2], 4 * embedding.shape[-1])
        self._way = upscaling(low, crop.padded_size, crop.input_size, crop.size, embedding.device)
        height, width = crop.size
        scale = np.array([crop.input_size[1] / width, crop.input_size[0] / height])
        self._prompts = torch.from_numpy((crop.points * scale).astype(np.float32)).to(embedding.device)
        self._at_once = options.points_per_batch
        if embedding.device.type == "cpu":
            each = embedding[0].numel() * embedding.element_size()
            self._at_once = min(self._at_once, max(1, CPU_DECODER_BYTES // each))
        self._parts: list[_Candidates] = []
        self._count = 0
        self._logits: list[tuple[Tensor, Tensor]] = []  # which candidates, and their (n,4h,4w)
        self._held, self._limit = 0, HELD_BYTES

    @torch.inference_mode()
    def ask(self, start: int, stop: int) -> None:
        """Ask about the points from `start` to `stop`."""
        for first in range(start, stop, self._at_once):
            self._ask(torch.arange(first, min(first + self._at_once, stop), device=self._prompts.device))
        if self._held > self._limit:
            self._forget_duplicates()

    @torch.inference_mode()
    def finish(self) -> list[FoundMask]:
        """The masks that remain, best predicted IoU first."""
        if self._count == 0:
            return []
        candidates = self._all()
        kept = suppress_duplicates(candidates.boxes, candidates.scores, self._options.box_nms_thresh)
        masks = self._draw(candidates, kept)
        points, scores, stability = (
            values[kept].cpu().tolist() for values in (candidates.points, candidates.scores, candidates.stability)
        )
        left, top = self._crop.box[:2]
        found = []
        for mask, point, score, stable in zip(masks, points, scores, stability, strict=True):
            x, y = self._crop.points[point].tolist()
            mask = mask.moved(left, top, self._crop.image_size)
            found.append(FoundMask(mask, score, stable, (x + left, y + top), self._crop.box))
        return found

    def _ask(self, points: Tensor) -> None:
        options = self._options
        attended = self._attend(points)
        scores = attended.iou_scores[0, :, 1:].float()  # (P,3): the masks of an ambiguous prompt
        good = scores > options.pred_iou_thresh if options.pred_iou_thresh > 0 else torch.ones_like(scores).bool()
        rows, kinds = good.nonzero().unbind(1)
        if len(rows) == 0:
            return
        logits = self._decoder.masks(attended, rows, kinds + 1).float()
        del attended
        statistics = mask_statistics(logits, self._way, options.mask_threshold, options.stability_score_offset)
        left, top, *_ = self._crop.box
        height, width = self._crop.image_size
        in_picture = statistics.boxes + statistics.boxes.new_tensor([left, top, left, top])
        good = ~touches_crop_edge(in_picture, self._crop.box, (0, 0, width, height))
        if options.stability_score_thresh > 0:
            good &= statistics.stability >= options.stability_score_thresh
        if options.max_area_share is not None:
            good &= statistics.areas < options.max_area_share * height * width
        kept = good.nonzero()[:, 0]
        if len(kept) == 0:
            return
        rows, kinds = rows[kept], kinds[kept]
        part = (points[rows], kinds + 1, scores[rows, kinds], statistics.stability[kept], statistics.boxes[kept])
        self._parts.append(_Candidates(*part))
        self._hold(torch.arange(self._count, self._count + len(kept), device=kept.device), logits[kept])
        self._count += len(kept)

    def _attend(self, points: Tensor) -> Any:
        prompts = self._prompts[points][None, :, None]  # (1,P,1,2)
        labels = torch.ones(prompts.shape[:-1], dtype=torch.long, device=prompts.device)
        return self._decoder.attend(self._images, self._model.get_prompt_embeddings(prompts, labels)[0])

    def _all(self) -> _Candidates:
        return _Candidates(*(torch.cat(values) for values in zip(*self._parts, strict=True)))

    def _hold(self, which: Tensor, logits: Tensor) -> None:
        self._logits.append((which, logits))
        self._held += logits.numel() * logits.element_size()

    def _forget_duplicates(self) -> None:
        """Let go of the logits of what is a duplicate by now; boxes and scores stay, for the final word."""
        candidates = self._all()
        kept = suppress_duplicates(candidates.boxes, candidates.scores, self._options.box_nms_thresh)
        which, logits = self._held_of(kept)
        self._logits, self._held = [], 0
        self._hold(which, logits)
        self._limit = max(HELD_BYTES, 2 * self._held)  # where most are no duplicates, looking often would not help

    def _held_of(self, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the wanted candidates whose logits are held, and the logits."""
        is_wanted = torch.zeros(self._count, dtype=torch.bool, device=wanted.device)
        is_wanted[wanted] = True
        parts = [(which[is_wanted[which]], logits[is_wanted[which]]) for which, logits in self._logits]
        return torch.cat([which for which, _ in parts]), torch.cat([logits for _, logits in parts])

    def _draw(self, candidates: _Candidates, kept: Tensor) -> list[PackedMask]:
        """The masks of some candidates, in their order, in pixels of the crop."""
        which, logits = self._held_of(kept)
        self._logits = []
        boxes = candidates.boxes.tolist()
        drawn: dict[int, PackedMask] = {}

        def draw(indices: list[int], some: Tensor) -> None:
            packed = pack_masks(some, self._way, [boxes[index] for index in indices], self._options.mask_threshold)
            drawn.update(zip(indices, packed, strict=True))

        draw(which.tolist(), logits)
        missing = [index for index in kept.tolist() if index not in drawn]
        for start in range(0, len(missing), self._at_once):
            indices = missing[start : start + self._at_once]
            attended = self._attend(candidates.points[indices])
            rows = torch.arange(len(indices), device=kept.device)
            draw(indices, self._decoder.masks(attended, rows, candidates.tokens[indices]).float())
        return [drawn[index] for index in kept.tolist()]


class _Asked(NamedTuple):
    iou_scores: Tensor
    masks: Tensor


class _PlainDecoder:
    """`FastMaskDecoder`'s calls by the decoder as it is, for one that is quantised, hooked or otherwise changed."""

    def __init__(self, model: SamModel):
        self._model = model

    def prepare(self, embedding: Tensor) -> Tensor:
        return embedding

    def attend(self, embedding: Tensor, sparse: Tensor) -> _Asked:
        masks, scores = self._model.mask_decoder(
            image_embeddings=embedding,
            image_positional_embeddings=self._model.get_image_wide_positional_embeddings(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=self._model.get_prompt_embeddings()[1],
            multimask_output=True,
        )
        return _Asked(torch.nn.functional.pad(scores, (1, 0)), masks[0])  # token 0 is not asked for

    def masks(self, asked: _Asked, prompts: Tensor, tokens: Tensor) -> Tensor:
        return asked.masks[prompts, tokens - 1]


def layer_points(grid: np.ndarray, box: Sequence[int]) -> np.ndarray:
    """A grid (n,2) xy in [0,1] on a crop, in its pixels."""
    left, top, right, bottom = box
    return grid * np.array([right - left, bottom - top], dtype=np.float64)
