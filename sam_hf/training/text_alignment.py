"""A second lesson for the text branch: the image embedding against the phrases, cell by cell and object by object.

The decoder has to find a phrase's object through attention, and a small model that starts from nothing stays long
where phrases mean nothing to it. Here each cell's log-odds of lying on the phrase's object (`model.text_alignment`)
are held against the truth. The mean over the object's cells must also match its own phrase better than the other
phrases of the batch do, and better than *rivals*: phrases that are true of nothing in its image. So the image encoder
learns what phrases talk about, and the decoder finds it there. And the soft maximum over a picture's cells must say
whether the phrase is true of anything in it. A checkpoint that keeps the map (`text_config.alignment`) says with it
where a phrase is, and whether it is there at all; `SamForTextAlignment` trains the map alone.

Source: not in the Segment Anything paper; the dense matching is CLIPSeg's idea as a loss, the other CLIP's on regions.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_hf.model.text_alignment import SamTextAlignment
from sam_hf.training import losses


class SamForTextAlignment(nn.Module):
    """A step that trains a finished model's alignment and nothing else of it.

    Args:
        model: A `SamModel` whose `text_config.alignment` is True; all other parameters are frozen.

    Raises:
        ValueError: the model has no alignment.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if model.prompt_encoder.text_alignment is None:
            raise ValueError("model: expected one with text_config.alignment, got one without")
        self.model = model.requires_grad_(False)
        model.prompt_encoder.text_alignment.requires_grad_(True)

    def train(self, mode: bool = True) -> SamForTextAlignment:
        """What is frozen stays as at inference."""
        super().train(mode)
        self.model.eval()
        return self

    def forward(
        self,
        pixel_values: Tensor,
        masks: Tensor,
        valid: Tensor,
        absent: Tensor,
        has_text: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        rival_ids: Tensor | None = None,
        rival_mask: Tensor | None = None,
    ) -> dict[str, Any]:
        """Loss of a batch of `SceneDataset`; see `promptable.SamForPromptableTraining.forward`.

        Returns:
            {"loss": mean over the phrases, "metrics": the same of all, present and absent phrases; NaN if none}.
        """
        with torch.no_grad():
            embeddings = self.model.get_image_embeddings(pixel_values)
            text = self.model.get_text_embeds(input_ids, attention_mask)
            rivals = None if rival_ids is None else self.model.get_text_embeds(rival_ids, rival_mask)
        low = 4 * embeddings.shape[-1]
        truth = F.interpolate(masks.float(), size=(low, low), mode="area") > 0.5
        told = valid & has_text
        with torch.autocast(device_type=embeddings.device.type, enabled=False):
            alignment = self.model.prompt_encoder.text_alignment
            losses_of = alignment_loss(
                alignment, embeddings.float(), text, truth & ~absent[..., None, None], told, rivals
            )
            loss = mean_of_told(losses_of, told)
        there = told & ~absent
        metrics = {
            "text_alignment": loss.detach(),
            "text_alignment_present": losses_of.detach()[there].mean(),
            "text_alignment_absent": losses_of.detach()[told & absent].mean(),
        }
        return {"loss": loss, "metrics": metrics}


def mean_of_told(losses_of: Tensor, told: Tensor) -> Tensor:
    """Mean of `alignment_loss` (B,P) over the places `told` (B,P) that have a phrase."""
    return losses_of.sum() / mean_over_processes(told.sum()).clamp(min=1.0)


def mean_over_processes(count: Tensor) -> Tensor:
    """Mean of a count over data-parallel processes, so that each mask weighs the same whichever process has it."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return count
    total = count.detach().clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()


def alignment_loss(
    alignment: SamTextAlignment,
    embeddings: Tensor,
    text_embeds: Tensor,
    masks: Tensor,
    told: Tensor,
    rivals: Tensor | None = None,
) -> Tensor:
    """Balanced cross-entropy and dice of the cells' log-odds, a contrastive loss of objects against phrases, and
    whether a phrase is true of anything.

    Args:
        alignment: What is trained.
        embeddings: Image embeddings (B,C,h,w).
        text_embeds: (B,P,D) unit norm.
        masks: Where the phrases' objects are, (B,P,4h,4w) bool; nowhere for absent ones.
        told: Which places have a phrase, (B,P) bool.
        rivals: Vectors (B,R,D) of phrases that are true of nothing in the image; NaN where there is none.

    Returns:
        (B,P) float32; 0 where there is no phrase.
    """
    cells = alignment.cells(embeddings)  # (B,D,h,w)
    text = text_embeds.float().nan_to_num(0.0)
    logits = alignment.compare(cells.flatten(2).mT, text).unflatten(-1, cells.shape[-2:])  # (B,P,h,w)
    shares = F.avg_pool2d(masks.float(), 4)  # how much of each cell is object, (B,P,h,w)
    dense = losses.balanced_bce_loss(logits, shares) + losses.dice_loss(logits, shares)
    area = shares.sum(dim=(-2, -1))
    regions = alignment.regions(cells, shares)  # (B,P,D)
    matched = (told & (area > 0)).flatten()
    there = F.binary_cross_entropy_with_logits(alignment.presence(logits), (area > 0).float(), reduction="none")
    loss = torch.where(told, dense + there, 0.0)
    if rivals is not None:
        loss = loss + torch.where(told, _false_alarms(alignment, cells, rivals.float())[:, None], 0.0)
    if matched.sum() > 1:
        contrast = torch.zeros_like(loss).flatten()
        nearby = None if rivals is None else rivals.float().repeat_interleave(text.shape[1], dim=0)[matched]
        contrast[matched] = _contrast(
            alignment.log_scale.exp(), regions.flatten(0, 1)[matched], text.flatten(0, 1)[matched], nearby
        )
        loss = loss + contrast.unflatten(0, loss.shape)
    return loss


def _false_alarms(alignment: SamTextAlignment, cells: Tensor, rivals: Tensor) -> Tensor:
    """Mean loss (B,) of rivals (B,R,D) being taken for present; 0 where an image has none."""
    missing = rivals.isnan().any(dim=-1)
    maps = alignment.compare(cells.flatten(2).mT, rivals.nan_to_num(0.0)).unflatten(-1, cells.shape[-2:])
    losses_of = F.softplus(alignment.presence(maps)).masked_fill(missing, 0.0)  # (B,R)
    return losses_of.sum(dim=-1) / (~missing).sum(dim=-1).clamp(min=1)


def _contrast(scale: Tensor, regions: Tensor, text: Tensor, rivals: Tensor | None) -> Tensor:
    """CLIP's symmetric loss of n objects and their phrases, (n,D) each -> (n,); equal phrases are no rivals.

    `rivals` (n,R,D) join the phrases that an object chooses from.
    """
    logits = scale * regions @ text.T
    same = (text @ text.T > 0.999) & ~torch.eye(len(text), dtype=torch.bool, device=text.device)
    logits = logits.masked_fill(same, -torch.inf)
    rows = torch.arange(len(text), device=text.device)
    among = logits
    if rivals is not None:
        missing = rivals.isnan().any(dim=-1)
        beside = scale * torch.einsum("nd,nrd->nr", regions, rivals.nan_to_num(0.0))
        among = torch.cat([logits, beside.masked_fill(missing, -torch.inf)], dim=1)
    return 0.5 * (F.cross_entropy(among, rows, reduction="none") + F.cross_entropy(logits.T, rows, reduction="none"))
