"""The prompts of one training step: the simulated first prompt of every mask, and how clicks and masks are added in
later rounds.

Different prompts of one call may be of different kinds; what a prompt does not have is padded the way
`SamModel.forward` takes it (points with label -10, boxes of four -10, masks and text vectors of NaN), and padding
never changes an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from sam_hf.training import prompt_sampling as sampling


@dataclass(frozen=True)
class Prompts:
    """Arguments of `SamModel.forward`, in resized pixels; `None` where no prompt of the call has such a part.

    Attributes:
        points: (B, P, N, 2) xy.
        labels: (B, P, N) 1, 0 or -10.
        boxes: (B, P, 4) xyxy.
        masks: (B, P, 1, 4h, 4w) logits.
        text: (B, P, D) unit vectors.
    """

    points: torch.Tensor | None = None
    labels: torch.Tensor | None = None
    boxes: torch.Tensor | None = None
    masks: torch.Tensor | None = None
    text: torch.Tensor | None = None

    def arguments(self) -> dict[str, torch.Tensor]:
        """Keyword arguments for `SamModel.forward`, absent parts left out."""
        named = {
            "input_points": self.points,
            "input_labels": self.labels,
            "input_boxes": self.boxes,
            "input_masks": self.masks,
            "text_embeds": self.text,
        }
        return {name: value for name, value in named.items() if value is not None}

    def with_point(self, point: torch.Tensor, label: torch.Tensor) -> Prompts:
        """The same prompts with one more point each: `point` (B, P, 2), `label` (B, P)."""
        points, labels = point.unsqueeze(2), label.unsqueeze(2)
        if self.points is not None:
            points = torch.cat([self.points, points], dim=2)
            labels = torch.cat([self.labels, labels], dim=2)
        return Prompts(points, labels, self.boxes, self.masks, self.text)

    def with_masks(self, masks: torch.Tensor | None) -> Prompts:
        """The same prompts with other mask prompts (B, P, 1, 4h, 4w)."""
        return Prompts(self.points, self.labels, self.boxes, masks, self.text)


def draw_kinds(
    weights: Mapping[str, float], has_text: torch.Tensor, absent: torch.Tensor
) -> tuple[list[str], torch.Tensor]:
    """Which kind of first prompt each mask gets.

    Args:
        weights: kind -> relative probability.
        has_text: (B, P) bool; kinds with a "text" part are only drawn where it is true.
        absent: (B, P) bool; these have no mask to point at and get `"text"`.

    Returns:
        names: the kinds that may occur.
        kinds: (B, P) index into `names`. A mask for which nothing can be drawn gets `"point"`.
    """
    names = list(weights)
    names += [name for name in ("point", "text") if name not in weights]
    with_text = torch.tensor(["text" in name.split("+") for name in names], device=has_text.device)
    base = torch.tensor([float(weights.get(name, 0.0)) for name in names], device=has_text.device)
    probabilities = base * (has_text.unsqueeze(-1) | ~with_text)  # (B,P,K)
    fallback = torch.zeros_like(base)
    fallback[names.index("point")] = 1.0
    probabilities = torch.where(probabilities.sum(-1, keepdim=True) > 0, probabilities, fallback)
    kinds = torch.multinomial(probabilities.flatten(0, 1), 1).reshape(has_text.shape)
    return names, torch.where(absent, torch.full_like(kinds, names.index("text")), kinds)


def first_prompts(
    names: list[str],
    kinds: torch.Tensor,
    masks: torch.Tensor,
    low_masks: torch.Tensor,
    text: torch.Tensor | None,
    image_size: int,
    box_noise: float = sampling.BOX_NOISE,
    box_noise_kind: str = "normal",
    middle_clicks: float = 0.0,
) -> Prompts:
    """Simulates the first prompt of every mask.

    Args:
        names: kinds, as `draw_kinds` returns them.
        kinds: (B, P) index into `names`.
        masks: (B, P, H, W) ground truth at the best resolution there is; boxes and first points come from it.
        low_masks: (B, P, 4h, 4w) the same at the decoder's resolution.
        text: (B, P, D) unit vectors or None.
        image_size: side of the model's input.
        box_noise: fraction of the side, see `prompt_sampling.jitter_boxes`.
        box_noise_kind: `"normal"` or `"uniform"`.
        middle_clicks: fraction of the first points that lie in the mask's middle.

    Returns:
        The prompts; parts that no mask of this call got are None.
    """

    def has(part: str) -> torch.Tensor:
        table = torch.tensor([part in name.split("+") for name in names], device=kinds.device)
        return table[kinds]  # (B,P)

    one, several, box, mask, phrase = (has(part) for part in ("point", "points", "box", "mask", "text"))
    prompts = Prompts()
    if bool((one | several).any()):
        prompts = prompts.with_point(sampling.sample_points(masks, image_size, middle_clicks), _label(one | several))
        if bool(several.any()):
            prompts = prompts.with_point(sampling.sample_points(low_masks, image_size), _label(several))
            third = several & (torch.rand(several.shape, device=several.device) < 0.5)
            prompts = prompts.with_point(sampling.sample_points(low_masks, image_size), _label(third))
    boxes = None
    if bool(box.any()):
        tight = sampling.tight_boxes(masks, image_size)
        noisy = sampling.jitter_boxes(tight, image_size, box_noise, box_noise_kind)
        boxes = torch.where(box.unsqueeze(-1), noisy, torch.full_like(noisy, sampling.NO_BOX))
    rough = None
    if bool(mask.any()):
        rough = sampling.rough_masks(low_masks)
        rough = torch.where(mask[..., None, None, None], rough, torch.full_like(rough, torch.nan))
    vectors = None
    if text is not None and bool(phrase.any()):
        vectors = torch.where(phrase.unsqueeze(-1), text, torch.full_like(text, torch.nan))
    return Prompts(prompts.points, prompts.labels, boxes, rough, vectors)


def _label(active: torch.Tensor) -> torch.Tensor:
    return torch.where(active, 1, sampling.NO_POINT)
