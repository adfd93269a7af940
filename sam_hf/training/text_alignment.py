"""A second lesson for the text branch: the image embedding against the phrases, cell by cell and object by object.

The decoder has to find a phrase's object through attention, and a small model that starts from nothing stays long
where phrases mean nothing to it. Here a linear map takes each cell into CLIP's joint space, and its cosine with the
phrase says whether the cell lies on the object. The mean over the object's cells must also match its own phrase better
than the other phrases of the batch do, and better than *rivals*: phrases that are true of nothing in its image. So the
image encoder learns what phrases talk about, and the decoder finds it there. The map is thrown away after training.

Source: not in the Segment Anything paper; the dense matching is CLIPSeg's idea as a loss, the other CLIP's on regions.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_hf.training import losses


class TextAlignment(nn.Module):
    """Balanced cross-entropy and dice of the cosine maps, and a contrastive loss of objects against phrases.

    Args:
        channels: C of the image embedding.
        text_width: D, width of CLIP's joint space.
    """

    def __init__(self, channels: int, text_width: int):
        super().__init__()
        self.to_text = nn.Conv2d(channels, text_width, kernel_size=1)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.bias = nn.Parameter(torch.tensor(-3.0))

    def forward(
        self, embeddings: Tensor, text_embeds: Tensor, masks: Tensor, told: Tensor, rivals: Tensor | None = None
    ) -> Tensor:
        """Loss of each phrase; 0 where there is none.

        Args:
            embeddings: Image embeddings (B,C,h,w).
            text_embeds: (B,P,D) unit norm.
            masks: Where the phrases' objects are, (B,P,4h,4w) bool; nowhere for absent ones.
            told: Which places have a phrase, (B,P) bool.
            rivals: Vectors (B,R,D) of phrases that are true of nothing in the image; NaN where there is none.

        Returns:
            (B,P) float32.
        """
        cells = F.normalize(self.to_text(embeddings).float(), dim=1)  # (B,D,h,w)
        text = text_embeds.float().nan_to_num(0.0)
        logits = self.log_scale.exp() * torch.einsum("bdhw,bpd->bphw", cells, text) + self.bias
        shares = F.avg_pool2d(masks.float(), 4)  # how much of each cell is object, (B,P,h,w)
        dense = losses.balanced_bce_loss(logits, shares) + losses.dice_loss(logits, shares)
        area = shares.sum(dim=(-2, -1))
        regions = torch.einsum("bdhw,bphw->bpd", cells, shares) / area.clamp(min=1e-3)[..., None]  # (B,P,D)
        matched = (told & (area > 0)).flatten()
        loss = torch.where(told, dense, 0.0)
        if matched.sum() > 1:
            contrast = torch.zeros_like(loss).flatten()
            nearby = None if rivals is None else rivals.float().repeat_interleave(text.shape[1], dim=0)[matched]
            contrast[matched] = self._contrast(regions.flatten(0, 1)[matched], text.flatten(0, 1)[matched], nearby)
            loss = loss + contrast.unflatten(0, loss.shape)
        return loss

    def _contrast(self, regions: Tensor, text: Tensor, rivals: Tensor | None) -> Tensor:
        """CLIP's symmetric loss of n objects and their phrases, (n,D) each -> (n,); equal phrases are no rivals.

        `rivals` (n,R,D) join the phrases that an object chooses from.
        """
        regions = F.normalize(regions, dim=-1)
        logits = self.log_scale.exp() * regions @ text.T
        same = (text @ text.T > 0.999) & ~torch.eye(len(text), dtype=torch.bool, device=text.device)
        logits = logits.masked_fill(same, -torch.inf)
        rows = torch.arange(len(text), device=text.device)
        among = logits
        if rivals is not None:
            missing = rivals.isnan().any(dim=-1)
            beside = self.log_scale.exp() * torch.einsum("nd,nrd->nr", regions, rivals.nan_to_num(0.0))
            among = torch.cat([logits, beside.masked_fill(missing, -torch.inf)], dim=1)
        return 0.5 * (
            F.cross_entropy(among, rows, reduction="none") + F.cross_entropy(logits.T, rows, reduction="none")
        )
