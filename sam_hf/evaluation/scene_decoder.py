"""What the protocols need of a model: encode pictures once, answer many prompts given in original pixels.

The protocols only know the `Decode` callable, so a rule-based decoder, a peer's model or an oracle can be measured by
the same code. `SceneEncoder` makes such callables from a `SamModel` and its processor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch

__all__ = ["Decode", "Decoded", "SceneEncoder"]

PROMPTS = ("input_points", "input_labels", "input_boxes", "input_masks", "input_ids", "attention_mask")


@dataclass(frozen=True)
class Decoded:
    """Answer to P prompts on one picture.

    Args:
        masks: Boolean (P, M, H, W), original pixels.
        scores: Predicted IoU, float (P, M).
        logits: Low-resolution mask logits, float (P, M, 4h, 4w), to be fed back as `previous`.
    """

    masks: np.ndarray
    scores: np.ndarray
    logits: np.ndarray


class Decode(Protocol):
    """Answers P prompts on one picture; every argument is per prompt and in original pixels."""

    def __call__(
        self,
        *,
        points: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        boxes: np.ndarray | None = None,
        masks: np.ndarray | None = None,
        previous: np.ndarray | None = None,
        text: Sequence[str] | None = None,
        multimask: bool = True,
    ) -> Decoded:
        """Decode.

        Args:
            points: (P, N, 2), xy.
            labels: (P, N), 1 foreground, 0 background.
            boxes: (P, 4), xyxy.
            masks: Rough masks, boolean (P, H, W).
            previous: Logits of an earlier answer, (P, 4h, 4w); excludes `masks`.
            text: One phrase per prompt.
            multimask: True -> three masks per prompt, False -> one.
        """
        ...


class SceneEncoder:
    """Encodes pictures with a `SamModel` and hands out one `Decode` per picture.

    Args:
        model: A `SamModel`; device and dtype are its own. Put it in eval mode first.
        processor: Its `SamProcessor`.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model
        self.processor = processor
        self.device = next(model.parameters()).device
        self.dtype = next(model.parameters()).dtype
        self.image_size = int(model.config.vision_config.image_size)

    @property
    def understands_text(self) -> bool:
        """Whether the checkpoint has a text branch."""
        return getattr(self.model.config, "text_config", None) is not None

    @torch.inference_mode()
    def encode(self, images: Sequence[np.ndarray]) -> list[Decode]:
        """Run the image encoder once over a batch.

        Args:
            images: uint8 (H, W, 3) each; sizes may differ.

        Returns:
            One `Decode` per image.
        """
        inputs = self.processor(images=list(images), return_tensors="pt")
        pixels = inputs["pixel_values"].to(self.device, self.dtype)
        embeddings = self.model.get_image_embeddings(pixels)  # (B, C, h, w)
        sizes = torch.as_tensor(inputs["original_sizes"]).tolist()
        return [
            partial(self._decode, embeddings[index : index + 1], tuple(sizes[index])) for index in range(len(images))
        ]

    @torch.inference_mode()
    def _decode(
        self,
        embedding: torch.Tensor,
        original: tuple[int, int],
        *,
        points: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        boxes: np.ndarray | None = None,
        masks: np.ndarray | None = None,
        previous: np.ndarray | None = None,
        text: Sequence[str] | None = None,
        multimask: bool = True,
    ) -> Decoded:
        if masks is not None and previous is not None:
            raise ValueError("masks: expected either rough masks or `previous` logits, got both")
        inputs = self.processor(
            original_sizes=[original],
            input_points=None if points is None else [np.asarray(points, np.float32)],
            input_labels=None if labels is None else [np.asarray(labels)],
            input_boxes=None if boxes is None else [np.asarray(boxes, np.float32)],
            input_masks=None if masks is None else [np.asarray(masks)],
            text=None if text is None else [list(text)],
            return_tensors="pt",
        )
        prompts = {name: inputs[name].to(self.device) for name in PROMPTS if name in inputs}
        if previous is not None:  # low-resolution already: nothing to convert
            prompts["input_masks"] = torch.as_tensor(previous, device=self.device)[None, :, None]  # (1, P, 1, 4h, 4w)
        output = self.model(image_embeddings=embedding, multimask_output=multimask, **prompts)
        upsampled = self.processor.post_process_masks(
            output.pred_masks.float().cpu(), inputs["original_sizes"], inputs["reshaped_input_sizes"]
        )[0]  # (P, M, H, W)
        return Decoded(
            masks=np.asarray(upsampled, dtype=bool),
            scores=output.iou_scores[0].float().cpu().numpy(),
            logits=output.pred_masks[0].float().cpu().numpy(),
        )
