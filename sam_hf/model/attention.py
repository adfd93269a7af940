"""Scaled dot-product attention with an additive bias, in the two ways of `set_attn_implementation`."""

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    *,
    scale: float,
    implementation: str | None,
    dropout: float = 0.0,
    need_weights: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """softmax(q k^T * scale + bias) v.

    Args:
        query: (B, heads, Tq, d).
        key: (B, heads, Tk, d).
        value: (B, heads, Tk, d).
        bias: Added to the logits, broadcastable to (B, heads, Tq, Tk); -inf hides a key. None: nothing is added.
        scale: Multiplies the logits.
        implementation: "eager" spells the formula out, softmax in float32; anything else is torch's fused kernel.
        dropout: Probability that a weight is dropped.
        need_weights: Return the weights too; only the spelt-out way has them.

    Returns:
        The attended values (B, heads, Tq, d), and the weights (B * heads, Tq, Tk) or None. The weights returned are
        the tensor that was used, so their gradient can be asked for.
    """
    if implementation != "eager" and not need_weights:
        if bias is not None:
            bias = bias.to(query.dtype)
        return F.scaled_dot_product_attention(query, key, value, bias, dropout, scale=scale), None
    logits = (query * scale) @ key.transpose(-2, -1)
    if bias is not None:
        logits = logits + bias
    weights = logits.softmax(dim=-1, dtype=torch.float32).to(query.dtype).flatten(0, 1)
    attended = F.dropout(weights, dropout, training=dropout > 0) @ value.flatten(0, 1)  # (B * heads, Tq, d)
    return attended.unflatten(0, value.shape[:2]), weights
