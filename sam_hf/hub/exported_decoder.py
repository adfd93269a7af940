"""The mask decoder written for export: `SamMaskDecoder`'s numbers in operations that any ONNX runtime has.

image tokens (n or 1,h*w,C), tokens (n,T,C) -> predicted IoU (n,K), mask logits (n,K,4h,4w), K = 4 mask tokens

Read sam_hf/model/mask_decoder.py first. This is the same network by the identities of few_token_attention.py and
mask_upscaling.py: tokens come to the image and no image token is projected, and a transposed convolution of stride 2
is a linear layer. Unlike there, nothing is written in place, nothing depends on the device, and every weight is a
constant matrix behind a product, which is what quantisation looks for. At ViT-B's sizes one point costs 2.0 GFLOP
instead of 3.6, and 1.6 when `first_block` was computed beforehand (docs/export.md).

Source: Segment Anything, App. A. Differs in: hidden tokens get -10000 instead of minus infinity, which float16 and
browsers' GPUs handle alike and which no logit comes near.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_hf.model.mask_decoder import SamMaskDecoder
from sam_hf.model.two_way_transformer import SamAttention, SamTwoWayAttentionBlock

HIDDEN = -10000.0


class TokensFromImage(nn.Module):
    """`SamAttention` for tokens as queries and the image as keys and values."""

    def __init__(self, attention: SamAttention):
        super().__init__()
        self.heads, self.scaling = attention.num_attention_heads, attention.scaling
        self.q_proj, self.out_proj = attention.q_proj, attention.out_proj
        self.register_buffer("key", attention.k_proj.weight.unflatten(0, (self.heads, -1)).clone())  # (heads,d,C)
        by_head = attention.v_proj.weight.unflatten(0, (self.heads, -1))
        self.register_buffer("value", by_head.transpose(1, 2).contiguous())  # (heads,C,d)
        self.register_buffer("value_bias", attention.v_proj.bias.clone())

    def forward(self, query: Tensor, placed: Tensor, image: Tensor) -> Tensor:
        """Tokens (n,T,C), image tokens (n or 1,h*w,C) with and without positions -> (n,T,C)."""
        query = separate_heads(self.q_proj(query) * self.scaling, self.heads)  # (n,heads,T,d)
        query = (query @ self.key).flatten(1, 2)  # (n,heads*T,C)
        weights = (query @ placed.transpose(1, 2)).softmax(dim=-1)  # (n,heads*T,h*w)
        seen = (weights @ image).unflatten(1, (self.heads, -1))  # (n,heads,T,C)
        return self.out_proj((seen @ self.value).transpose(1, 2).flatten(2) + self.value_bias)

    def of_projected(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """The same with keys (heads,d,h*w) and values (heads,h*w,d) made beforehand."""
        query = separate_heads(self.q_proj(query) * self.scaling, self.heads)  # (n,heads,T,d)
        attended = (query @ keys).softmax(dim=-1) @ values  # (n,heads,T,d)
        return self.out_proj(attended.transpose(1, 2).flatten(2) + self.value_bias)


class ImageFromTokens(nn.Module):
    """`SamAttention` for the image as queries and tokens as keys and values."""

    def __init__(self, attention: SamAttention):
        super().__init__()
        self.heads, self.scaling = attention.num_attention_heads, attention.scaling
        self.k_proj, self.v_proj = attention.k_proj, attention.v_proj
        self.register_buffer("query", attention.q_proj.weight.unflatten(0, (self.heads, -1)).clone())  # (heads,d,C)
        self.register_buffer("query_bias", attention.q_proj.bias.unflatten(0, (self.heads, -1, 1)).clone())
        by_head = attention.out_proj.weight.unflatten(1, (self.heads, -1))
        self.register_buffer("out", by_head.permute(1, 2, 0).contiguous())  # (heads,d,C)
        self.register_buffer("out_bias", attention.out_proj.bias / self.heads)  # weights of a head sum to one

    def forward(self, placed: Tensor, queries: Tensor, positions: Tensor, bias: Tensor) -> Tensor:
        """Image tokens with positions (n or 1,h*w,C), tokens (n,T,C), bias (n,T) -> (n,h*w,C)."""
        key = separate_heads(self.k_proj(queries + positions) * self.scaling, self.heads)  # (n,heads,T,d)
        logits = placed @ (key @ self.query).flatten(1, 2).transpose(1, 2)  # (n,h*w,heads*T)
        constant = (key @ self.query_bias).squeeze(-1) + bias[:, None]  # (n,heads,T)
        return self._mix(logits.unflatten(2, (self.heads, -1)) + constant[:, None], queries)

    def of_projected(self, image_queries: Tensor, queries: Tensor, positions: Tensor, bias: Tensor) -> Tensor:
        """The same with the image's queries (heads,h*w,d) made beforehand."""
        key = separate_heads(self.k_proj(queries + positions) * self.scaling, self.heads)  # (n,heads,T,d)
        logits = image_queries @ key.transpose(2, 3) + bias[:, None, None]  # (n,heads,h*w,T)
        return self._mix(logits.transpose(1, 2), queries)

    def _mix(self, logits: Tensor, queries: Tensor) -> Tensor:
        """What each cell takes from the tokens, for logits (n,h*w,heads,T)."""
        value = separate_heads(self.v_proj(queries), self.heads)
        features = (value @ self.out + self.out_bias).flatten(1, 2)  # (n,heads*T,C)
        return logits.softmax(dim=-1).flatten(2) @ features


class Block(nn.Module):
    """`SamTwoWayAttentionBlock`."""

    def __init__(self, block: SamTwoWayAttentionBlock):
        super().__init__()
        self.block = block
        self.from_image = TokensFromImage(block.cross_attn_token_to_image)
        self.from_tokens = ImageFromTokens(block.cross_attn_image_to_token)

    def among_tokens(self, queries: Tensor, positions: Tensor, bias: Tensor) -> Tensor:
        """Tokens (n,T,C) look at each other."""
        block, heads = self.block, self.block.self_attn.num_attention_heads
        query = queries if block.skip_first_layer_pe else queries + positions
        attention = block.self_attn
        projected = separate_heads(attention.q_proj(query) * attention.scaling, heads)
        key = separate_heads(attention.k_proj(query), heads)
        logits = projected @ key.transpose(2, 3) + bias[:, None, None]  # (n,heads,T,T)
        attended = logits.softmax(dim=-1) @ separate_heads(attention.v_proj(queries), heads)
        attended = attention.out_proj(attended.transpose(1, 2).flatten(2))
        return block.layer_norm1(attended if block.skip_first_layer_pe else queries + attended)

    def digest(self, queries: Tensor, attended: Tensor) -> Tensor:
        """Tokens (n,T,C) after what they took from the image: layer norm, MLP."""
        block = self.block
        queries = block.layer_norm2(queries + attended)
        hidden = block.mlp.lin2(block.mlp.act(block.mlp.lin1(queries)))
        return block.layer_norm3(queries + hidden)


class ExportedDecoder(nn.Module):
    """Two-way transformer, upscaling, hypernetworks and IoU head; shares most weights with the decoder it is made of.

    Args:
        decoder: Any `SamMaskDecoder`, in eval mode.
        size: Cells (h,w) of an image.
    """

    def __init__(self, decoder: SamMaskDecoder, size: tuple[int, int]):
        super().__init__()
        self.size, self.count = size, decoder.num_mask_tokens
        self.blocks = nn.ModuleList(Block(block) for block in decoder.transformer.layers)
        self.last_look = TokensFromImage(decoder.transformer.final_attn_token_to_image)
        self.last_norm = decoder.transformer.layer_norm_final_attn
        self.register_buffer("output_tokens", torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])[None])
        self.iou_head, self.hypernetworks = decoder.iou_prediction_head, decoder.output_hypernetworks_mlps
        self.upscale_norm = decoder.upscale_layer_norm
        for name, layer in (("first", decoder.upscale_conv1), ("second", decoder.upscale_conv2)):
            # From a cell to its parts (y,x): (in,4*out) and (4*out,).
            self.register_buffer(f"upscale_{name}", layer.weight.permute(0, 2, 3, 1).flatten(1).contiguous())
            self.register_buffer(f"upscale_{name}_bias", layer.bias.repeat(4))

    def forward(
        self,
        prompts: Tensor,
        bias: Tensor,
        image: Tensor,
        positions: Tensor,
        first_block: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Decode.

        Args:
            prompts: Prompt tokens, (n,T',C).
            bias: 0 where they are prompts, HIDDEN where they are padding, (n,T').
            image: Image tokens with the dense embedding, (n or 1,h*w,C).
            positions: Their positions, (n or 1,h*w,C).
            first_block: What `project_image` made of them, for n or 1 equal to 1.

        Returns:
            Predicted IoU (n,4) and mask logits (n,4,4h,4w): token 0 is the single mask, 1..3 those of an ambiguous
            prompt.
        """
        outputs = self.output_tokens.expand(prompts.shape[0], -1, -1)
        tokens = torch.cat([outputs, prompts], dim=1)  # (n,T,C)
        bias = F.pad(bias, (1 + self.count, 0))
        queries, placed = tokens, image + positions
        for index, block in enumerate(self.blocks):
            queries = block.among_tokens(queries, tokens, bias)
            if index == 0 and first_block is not None:
                keys, values, image_queries = first_block
                queries = block.digest(queries, block.from_image.of_projected(queries + tokens, keys, values))
                taken = block.from_tokens.of_projected(image_queries, queries, tokens, bias)
            else:
                queries = block.digest(queries, block.from_image(queries + tokens, placed, image))
                taken = block.from_tokens(placed, queries, tokens, bias)
            image = block.block.layer_norm4(image + taken)  # (n,h*w,C)
            placed = image + positions
        last = 1 + self.count  # only the output tokens are read
        queries, tokens = queries[:, :last], tokens[:, :last]
        queries = self.last_norm(queries + self.last_look(queries + tokens, placed, image))
        return self.iou_head(queries[:, 0]), self._masks(queries, image)

    def project_image(self, image: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the first block needs of an image whatever the prompts: image tokens and positions, (1,h*w,C).

        Returns:
            Keys (heads,d,h*w) and values (heads,h*w,d) for tokens that look at the image, and queries (heads,h*w,d)
            of the image that looks at tokens. Values and keys lack their bias: a softmax does not see a key's, a
            value's is added later.
        """
        block, placed = self.blocks[0].block, (image + positions)[0]
        to_image, to_tokens = block.cross_attn_token_to_image, block.cross_attn_image_to_token
        heads = to_image.num_attention_heads
        keys = placed @ to_image.k_proj.weight.T  # (h*w,heads*d)
        values = image[0] @ to_image.v_proj.weight.T
        queries = to_tokens.q_proj(placed)
        keys, values, queries = (cells.unflatten(1, (heads, -1)) for cells in (keys, values, queries))
        return keys.permute(1, 2, 0), values.transpose(0, 1), queries.transpose(0, 1)

    def _masks(self, tokens: Tensor, image: Tensor) -> Tensor:
        """Output tokens (n,5,C), image tokens (n,h*w,C) -> logits (n,4,4h,4w)."""
        (height, width), norm = self.size, self.upscale_norm
        hyper = [network(tokens[:, 1 + index]) for index, network in enumerate(self.hypernetworks)]
        # Rows of one matrix, so that products come with their bias: (n*h*w,C) -> (n*h*w,4*C/4) -> (n*h*w*4,4*C/8).
        parts = torch.addmm(self.upscale_first_bias, image.flatten(0, 1), self.upscale_first)
        parts = parts.unflatten(1, (4, -1)).flatten(0, 1)
        parts = gelu(F.layer_norm(parts, norm.normalized_shape, norm.weight, norm.bias, norm.eps))
        parts = gelu(torch.addmm(self.upscale_second_bias, parts, self.upscale_second))
        parts = parts.reshape(tokens.shape[0], height * width * 16, -1)  # (n,h*w*16,C/8)
        logits = torch.stack(hyper, dim=1) @ parts.transpose(1, 2)  # (n,4,h*w*16)
        # Behind height and width stand the parts (y,x) of a cell and the parts (y,x) of those.
        logits = logits.unflatten(2, (height, width, 2, 2, 2, 2)).permute(0, 1, 2, 4, 6, 3, 5, 7)
        return logits.reshape(-1, self.count, 4 * height, 4 * width)


def gelu(features: Tensor) -> Tensor:
    """`F.gelu`, its factors in the order in which onnxruntime recognises it and makes one operation of the five."""
    return features * (torch.erf(features / math.sqrt(2)) + 1) * 0.5


def separate_heads(features: Tensor, heads: int) -> Tensor:
    """(n,T,heads*d) -> (n,heads,T,d)."""
    return features.unflatten(-1, (heads, -1)).transpose(1, 2)
