"""A second, dense lesson for the text branch: every cell of the image embedding against every phrase of the image.

The decoder has to find a phrase's object through attention, and a small model that starts from nothing stays long
where phrases mean nothing to it. Here a linear map takes each cell into CLIP's joint space, and its cosine with the
phrase says whether the cell lies on the object: the image encoder learns what phrases talk about, and the decoder
finds it there. The map is thrown away after training.

Source: not in the Segment Anything paper; the dense image-text matching of MaskCLIP and CLIPSeg as a loss.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_hf.training import losses


class TextAlignment(nn.Module):
    """Balanced cross-entropy and dice of the cosine maps.

    Args:
        channels: C of the image embedding.
        text_width: D, width of CLIP's joint space.
    """

    def __init__(self, channels: int, text_width: int):
        super().__init__()
        self.to_text = nn.Conv2d(channels, text_width, kernel_size=1)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.bias = nn.Parameter(torch.tensor(-3.0))

    def forward(self, embeddings: Tensor, text_embeds: Tensor, masks: Tensor) -> Tensor:
        """Loss of each phrase.

        Args:
            embeddings: Image embeddings (B,C,h,w).
            text_embeds: (B,P,D) unit norm; NaN rows give a meaningless loss, to be masked by the caller.
            masks: Where the phrases' objects are, (B,P,4h,4w) bool; nowhere for absent ones.

        Returns:
            (B,P) float32.
        """
        cells = F.normalize(self.to_text(embeddings).float(), dim=1)  # (B,D,h,w)
        cosines = torch.einsum("bdhw,bpd->bphw", cells, text_embeds.float().nan_to_num(0.0))
        logits = self.log_scale.exp() * cosines + self.bias
        shares = F.avg_pool2d(masks.float(), 4)  # how much of each cell is object, (B,P,h,w)
        return losses.balanced_bce_loss(logits, shares) + losses.dice_loss(logits, shares)
