"""The two-way transformer: tokens and image embedding attend to each other, both ways, in every block.

tokens (B,P,T,C) and image (B*P,h*w,C) -> the same shapes, updated.

Source: Segment Anything, App. A "Lightweight mask decoder", Fig. 14. Differs in: dropout, which the paper has and
Meta's release has not; padding tokens can be hidden; `attention_similarity` and `target_embedding` are PerSAM's
(Zhang et al., 2023), as in transformers.
"""

from torch import Tensor, nn

from .attention import attend
from .configuration_sam import SamMaskDecoderConfig
from .layers import SamMLPBlock


class SamAttention(nn.Module):
    """Multi-head attention whose inner width may be narrower than its tokens."""

    def __init__(self, config: SamMaskDecoderConfig, downsample_rate: int | None = None):
        super().__init__()
        self.config = config
        rate = config.attention_downsample_rate if downsample_rate is None else downsample_rate
        inner = config.hidden_size // rate
        if inner % config.num_attention_heads != 0:
            raise ValueError(
                f"`num_attention_heads` must divide hidden_size / attention_downsample_rate = {inner}; "
                f"got {config.num_attention_heads}"
            )
        self.num_attention_heads = config.num_attention_heads
        self.scaling = (inner // config.num_attention_heads) ** -0.5
        self.q_proj = nn.Linear(config.hidden_size, inner)
        self.k_proj = nn.Linear(config.hidden_size, inner)
        self.v_proj = nn.Linear(config.hidden_size, inner)
        self.out_proj = nn.Linear(inner, config.hidden_size)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """(n,Tq,C), (n,Tk,C), (n,Tk,C) -> (n,Tq,C); `bias` is added to the logits (n,heads,Tq,Tk)."""
        attended, _ = attend(
            self.separate_heads(self.q_proj(query)),
            self.separate_heads(self.k_proj(key)),
            self.separate_heads(self.v_proj(value)),
            bias,
            scale=self.scaling,
            implementation=self.config._attn_implementation,
        )
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def separate_heads(self, hidden_states: Tensor) -> Tensor:
        """(n,T,heads*d) -> (n,heads,T,d)."""
        return hidden_states.unflatten(-1, (self.num_attention_heads, -1)).transpose(1, 2)


class SamTwoWayAttentionBlock(nn.Module):
    """Tokens to tokens, tokens to image, MLP on tokens, image to tokens; layer norm after each."""

    def __init__(self, config: SamMaskDecoderConfig, skip_first_layer_pe: bool = False):
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.skip_first_layer_pe = skip_first_layer_pe
        self.self_attn = SamAttention(config, downsample_rate=1)
        self.layer_norm1 = nn.LayerNorm(width, eps=eps)
        self.cross_attn_token_to_image = SamAttention(config)
        self.layer_norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = SamMLPBlock(config)
        self.layer_norm3 = nn.LayerNorm(width, eps=eps)
        self.layer_norm4 = nn.LayerNorm(width, eps=eps)
        self.cross_attn_image_to_token = SamAttention(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        query_point_embedding: Tensor,
        key_point_embedding: Tensor,
        attention_similarity: Tensor | None = None,
        token_bias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Update tokens and image once.

        Args:
            queries: Tokens, (n,T,C).
            keys: Image, (n,h*w,C).
            query_point_embedding: The tokens as they came in: their positions, (n,T,C).
            key_point_embedding: Positions of the image, (n,h*w,C).
            attention_similarity: Added to the logits of tokens-to-image, broadcastable to (n,heads,T,h*w).
            token_bias: -inf at padding tokens, (n,1,1,T).

        Returns:
            Tokens, image, and what the image took from the tokens, (n,1,h*w,C).
        """
        if self.skip_first_layer_pe:  # the first block's tokens are nothing but their positions
            queries = self.dropout(self.self_attn(queries, queries, queries, token_bias))
        else:
            query = queries + query_point_embedding
            queries = queries + self.dropout(self.self_attn(query, query, queries, token_bias))
        queries = self.layer_norm1(queries)

        attended = self.cross_attn_token_to_image(
            queries + query_point_embedding, keys + key_point_embedding, keys, attention_similarity
        )
        queries = self.layer_norm2(queries + self.dropout(attended))
        queries = self.layer_norm3(queries + self.dropout(self.mlp(queries)))

        attended = self.cross_attn_image_to_token(
            keys + key_point_embedding, queries + query_point_embedding, queries, token_bias
        )
        keys = self.layer_norm4(keys + self.dropout(attended))
        return queries, keys, attended.unsqueeze(1)


class SamTwoWayTransformer(nn.Module):
    """The blocks, and a last look of the tokens at the image."""

    def __init__(self, config: SamMaskDecoderConfig):
        super().__init__()
        self.layers = nn.ModuleList(
            SamTwoWayAttentionBlock(config, skip_first_layer_pe=index == 0)
            for index in range(config.num_hidden_layers)
        )
        self.final_attn_token_to_image = SamAttention(config)
        self.layer_norm_final_attn = nn.LayerNorm(config.hidden_size)

    def forward(
        self,
        point_embeddings: Tensor,
        image_embeddings: Tensor,
        image_positional_embeddings: Tensor,
        attention_similarity: Tensor | None = None,
        target_embedding: Tensor | None = None,
        token_bias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run all blocks.

        Args:
            point_embeddings: Output and prompt tokens, (n,T,C).
            image_embeddings: (n,h*w,C).
            image_positional_embeddings: (1 or n,h*w,C).
            attention_similarity: See `SamTwoWayAttentionBlock.forward`.
            target_embedding: Added to tokens and their positions before every block, broadcastable to (n,T,C).
            token_bias: See `SamTwoWayAttentionBlock.forward`.

        Returns:
            Tokens (n,T,C) and image (n,h*w,C).
        """
        if target_embedding is not None:  # in PerSAM's code tokens and positions are one tensor here, both get the sum
            point_embeddings = point_embeddings + target_embedding
        queries, keys = point_embeddings, image_embeddings
        for index, layer in enumerate(self.layers):
            if target_embedding is not None and index > 0:
                queries = queries + target_embedding
            queries, keys, _ = layer(
                queries, keys, point_embeddings, image_positional_embeddings, attention_similarity, token_bias
            )
        attended = self.final_attn_token_to_image(queries + point_embeddings, keys + image_positional_embeddings, keys)
        return self.layer_norm_final_attn(queries + attended), keys
