"""The mask decoder: image embedding and prompts become masks and an estimate of each mask's IoU.

image (B,C,h,w), sparse tokens (B,P,T',C), dense (B,P,C,h,w) -> mask logits (B,P,M,4h,4w), predicted IoU (B,P,M)

Source: Segment Anything, §3 "Mask decoder" and "Resolving ambiguity", App. A. Token 0 is the single mask, tokens 1..3
the masks of an ambiguous prompt. Differs in: padding tokens are hidden from attention (see prompt_encoder).
"""

import torch
from torch import Tensor, nn

from .configuration_sam import SamMaskDecoderConfig
from .layers import SamFeedForward, SamLayerNorm
from .two_way_transformer import SamTwoWayTransformer


class SamMaskDecoder(nn.Module):
    """Two-way transformer, upscaling, one hypernetwork per mask token, IoU head."""

    def __init__(self, config: SamMaskDecoderConfig):
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.num_mask_tokens = config.num_multimask_outputs + 1
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(self.num_mask_tokens, width)
        self.transformer = SamTwoWayTransformer(config)
        self.upscale_conv1 = nn.ConvTranspose2d(width, width // 4, kernel_size=2, stride=2)
        self.upscale_layer_norm = SamLayerNorm(width // 4, data_format="channels_first")
        self.upscale_conv2 = nn.ConvTranspose2d(width // 4, width // 8, kernel_size=2, stride=2)
        self.activation = nn.GELU()
        self.output_hypernetworks_mlps = nn.ModuleList(
            SamFeedForward(width, width, width // 8, 3) for _ in range(self.num_mask_tokens)
        )
        self.iou_prediction_head = SamFeedForward(
            width, config.iou_head_hidden_dim, self.num_mask_tokens, config.iou_head_depth
        )

    def forward(
        self,
        image_embeddings: Tensor,
        image_positional_embeddings: Tensor,
        sparse_prompt_embeddings: Tensor | None,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
        attention_similarity: Tensor | None = None,
        target_embedding: Tensor | None = None,
        visible_tokens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Predict masks.

        Args:
            image_embeddings: (B,C,h,w).
            image_positional_embeddings: (1 or B,C,h,w).
            sparse_prompt_embeddings: (B,P,T',C), or None: no points, boxes or text.
            dense_prompt_embeddings: (B,P,C,h,w), or (B,C,h,w) or (1,C,h,w) shared by the prompts.
            multimask_output: True: the three masks of tokens 1..3; False: the one of token 0.
            attention_similarity: Broadcastable to (B*P,heads,T,h*w), see `SamTwoWayAttentionBlock.forward`.
            target_embedding: Broadcastable to (B,P,T,C), see `SamTwoWayTransformer.forward`.
            visible_tokens: (B,P,T') bool, False at padding; None: all are prompts.

        Returns:
            Mask logits (B,P,M,4h,4w), threshold 0.0, and predicted IoU (B,P,M), nominally in [0, 1], not clamped.
        """
        batch_size, channels, height, width = image_embeddings.shape
        if sparse_prompt_embeddings is not None:
            num_prompts = sparse_prompt_embeddings.shape[1]
        else:
            num_prompts = dense_prompt_embeddings.shape[1] if dense_prompt_embeddings.ndim == 5 else 1
        tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = tokens.expand(batch_size * num_prompts, -1, -1)
        num_output_tokens = tokens.shape[1]
        if sparse_prompt_embeddings is not None:
            tokens = torch.cat([tokens, sparse_prompt_embeddings.flatten(0, 1).to(tokens.dtype)], dim=1)

        if dense_prompt_embeddings.ndim == 4:
            dense_prompt_embeddings = dense_prompt_embeddings.unsqueeze(1)
        image = image_embeddings.unsqueeze(1) + dense_prompt_embeddings  # (B, 1 or P, C, h, w)
        # One memory layout, so that an embedding gives the same numbers fresh from the encoder and out of a store.
        image = image.expand(batch_size, num_prompts, -1, -1, -1).flatten(0, 1).contiguous()
        positions = image_positional_embeddings
        if positions.shape[0] > 1:
            positions = positions.repeat_interleave(num_prompts, dim=0)
        if attention_similarity is not None:
            attention_similarity = attention_similarity.to(tokens.dtype)
        if target_embedding is not None:
            sizes = (batch_size, num_prompts, *target_embedding.shape[-2:])
            target_embedding = target_embedding.to(tokens.dtype).broadcast_to(sizes).flatten(0, 1)

        tokens, image = self.transformer(
            tokens,
            image.flatten(2).transpose(1, 2),  # (B*P, C, h, w) -> (B*P, h*w, C)
            positions.flatten(2).transpose(1, 2),
            attention_similarity,
            target_embedding,
            padding_bias(visible_tokens, num_output_tokens, tokens.dtype),
        )
        image = image.transpose(1, 2).reshape(-1, channels, height, width)
        masks, iou_scores = self.read_out(tokens, image, multimask_output)
        return masks.unflatten(0, (batch_size, num_prompts)), iou_scores.unflatten(0, (batch_size, num_prompts))

    def read_out(self, tokens: Tensor, image: Tensor, multimask_output: bool) -> tuple[Tensor, Tensor]:
        """Masks (n,M,4h,4w) and predicted IoU (n,M) from the transformer's tokens (n,T,C) and image (n,C,h,w)."""
        chosen = range(1, self.num_mask_tokens) if multimask_output else range(1)
        upscaled = self.activation(self.upscale_layer_norm(self.upscale_conv1(image)))
        upscaled = self.activation(self.upscale_conv2(upscaled))  # (n, C/8, 4h, 4w)
        weights = torch.stack(
            [self.output_hypernetworks_mlps[index](tokens[:, 1 + index]) for index in chosen], dim=1
        )  # (n, M, C/8)
        masks = (weights @ upscaled.flatten(2)).unflatten(2, upscaled.shape[2:])
        iou_scores = self.iou_prediction_head(tokens[:, 0])
        return masks, iou_scores[:, chosen.start : chosen.stop]


def padding_bias(visible: Tensor | None, num_output_tokens: int, dtype: torch.dtype) -> Tensor | None:
    """(B,P,T') bool -> attention bias (B*P,1,1,T) of 0 and -inf; the output tokens in front are always visible."""
    if visible is None:
        return None
    visible = visible.flatten(0, 1)
    visible = torch.cat([visible.new_ones(visible.shape[0], num_output_tokens), visible], dim=1)
    bias = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return bias.masked_fill(~visible, float("-inf"))[:, None, None, :]
