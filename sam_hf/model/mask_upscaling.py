"""From the two-way transformer to mask logits, for inference: `SamMaskDecoder.read_out` in the image tokens' layout.

image tokens (n,h*w,C), output tokens (n,5,C) -> mask logits (n,M,4h,4w)

A transposed convolution of kernel and stride 2 is a linear layer from a cell to its four parts, so that nothing is
permuted but the logits, and some rows of the map at a time are enough.

Source: Segment Anything, App. A, as mask_decoder.py.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .cpu_inference import multiply
from .few_token_attention import product, working_bytes
from .mask_decoder import SamMaskDecoder


class MaskUpscaling:
    """A decoder's masks; made for one call, because it holds a rearranged copy of two layers' weights.

    Args:
        decoder: Whose masks.
        size: (h,w) of the image tokens.
        kinds: Mask tokens 0..3 whose masks are wanted.
    """

    def __init__(self, decoder: SamMaskDecoder, size: tuple[int, int], kinds: list[int]):
        self._norm = decoder.upscale_layer_norm
        self._hypernetworks = [(1 + kind, decoder.output_hypernetworks_mlps[kind]) for kind in kinds]
        self._size = size
        # From a cell to its parts (y,x): (4*out,in) and (4*out,).
        self._first, self._second = (
            (layer.weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous(), layer.bias.repeat(4))
            for layer in (decoder.upscale_conv1, decoder.upscale_conv2)
        )

    def __call__(self, image: Tensor, tokens: Tensor) -> Tensor:
        """Image tokens (n,h*w,C) and output tokens (n,5,C) -> logits (n,M,4h,4w)."""
        (height, width), count, norm = self._size, len(image), self._norm
        hyper = torch.stack([network(tokens[:, place]) for place, network in self._hypernetworks], dim=1)  # (n,M,C/8)
        masks = image.new_empty(count, hyper.shape[1], height, 2, 2, width, 2, 2)
        image = image.unflatten(1, self._size)  # (n,h,w,C)
        # A row of cells grows to 16 parts of C/8 channels each.
        row_bytes = count * width * 16 * hyper.shape[-1] * image.element_size()
        step = max(1, working_bytes(image.device) // row_bytes)
        for start in range(0, height, step):
            rows = slice(start, start + step)
            parts = multiply(image[:, rows].flatten(0, 2), *self._first).unflatten(1, (4, -1)).flatten(0, 1)
            parts = F.gelu(F.layer_norm(parts, norm.normalized_shape, norm.weight, norm.bias, norm.eps))
            parts = F.gelu(multiply(parts, *self._second)).view(count, -1, hyper.shape[-1])  # (n,step*w*16,C/8)
            logits = product(hyper, parts.transpose(1, 2)).unflatten(2, (-1, width, 2, 2, 2, 2))
            # Behind height and width stand the parts (y,x) of a cell and the parts (y,x) of those. Place by place,
            # because one permutation of all would copy pairs of numbers.
            for outer, inner in ((0, 0), (0, 1), (1, 0), (1, 1)):
                masks[:, :, rows, ..., outer, inner] = logits[..., outer, :, inner].permute(0, 1, 2, 4, 5, 3)
        return masks.view(count, -1, 4 * height, 4 * width)
