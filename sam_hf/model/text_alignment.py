"""Where in a picture a phrase is, before any mask is drawn: image cells and phrases compared in CLIP's joint space.

The decoder answers every phrase with masks and says how good they are, but not whether the phrase is true of anything
in the picture. Here a linear map takes each cell of the image embedding into CLIP's joint space; its cosine with the
phrase, scaled, is the log-odds that the cell lies on what the phrase names. The same of a mask's mean cell says
whether the phrase suits the mask. It costs one matrix product per phrase.

image embedding (B,C,h,w), phrases (B,P,D) -> log-odds per cell (B,P,h,w), per mask (B,P)

Source: not in the Segment Anything paper; CLIPSeg's dense matching and CLIP's matching, on SAM's own features.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

SHARPNESS = 2.0  # of the soft maximum: one cell is a little evidence, a whole object more


class SamTextAlignment(nn.Module):
    """Compares phrases with cells of the image embedding; comparisons are in float32 whatever the weights' dtype.

    Args:
        channels: C of the image embedding.
        text_width: D, width of CLIP's joint space.
    """

    def __init__(self, channels: int, text_width: int):
        super().__init__()
        self.projection = nn.Conv2d(channels, text_width, kernel_size=1)
        self.log_scale, self.bias = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """The start of training: a cell is rarely on what a phrase names."""
        init.constant_(self.log_scale, math.log(10.0))
        init.constant_(self.bias, -3.0)

    def forward(self, image_embeddings: Tensor, text_embeds: Tensor) -> Tensor:
        """Log-odds that a cell lies on what a phrase names: (B,C,h,w), (B,P,D) -> (B,P,h,w) float32."""
        cells = self.cells(image_embeddings)
        return self.compare(cells.flatten(2).mT, text_embeds).unflatten(-1, cells.shape[-2:])

    def cells(self, image_embeddings: Tensor) -> Tensor:
        """Cells in the joint space: (B,C,h,w) -> (B,D,h,w) float32, unit norm."""
        weight, bias = self.projection.weight.float(), self.projection.bias.float()
        return F.normalize(F.conv2d(image_embeddings.float(), weight, bias), dim=1)

    @staticmethod
    def presence(maps: Tensor) -> Tensor:
        """Log-odds that a phrase is true of something in the picture: maps (...,h,w) -> (...), their soft maximum."""
        return (SHARPNESS * maps).flatten(-2).logsumexp(dim=-1) / SHARPNESS

    def regions(self, cells: Tensor, shares: Tensor) -> Tensor:
        """Mean cells of regions.

        Args:
            cells: (B,D,h,w), of `cells`.
            shares: (B,R,h,w), how much of each cell belongs to each region.

        Returns:
            (B,R,D) float32 unit norm; zeros for an empty region.
        """
        return F.normalize(torch.einsum("bdhw,brhw->brd", cells, shares.float()), dim=-1)

    def compare(self, seen: Tensor, text_embeds: Tensor) -> Tensor:
        """Log-odds that a phrase is true of what was seen: (B,R,D), (B,P,D), unit norm -> (B,P,R) float32."""
        cosines = text_embeds.float() @ seen.float().mT
        return self.log_scale.float().exp() * cosines + self.bias.float()


__all__ = ["SamTextAlignment"]
