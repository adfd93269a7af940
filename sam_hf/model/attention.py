"""Scaled dot-product attention with an additive bias, in the two ways of `set_attn_implementation`.

`attend` takes any bias; `attend_on_map` the decomposed relative positions of tokens that lie on a map, and in
inference never holds the bias of a large one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .cpu_inference import attend_in_rows, is_cpu_inference

# Entries of a bias that inference holds at a time on a GPU: 256 MB in half precision.
BIAS_ENTRIES = 1 << 27
# Tokens from which attention on a CPU goes query by query; a window (196) is below, a map (4096) above.
MANY_TOKENS = 512


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


def attend_on_map(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rows: Tensor,
    columns: Tensor,
    *,
    scale: float,
    implementation: str | None,
    dropout: float = 0.0,
    need_weights: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """softmax(q k^T * scale + q . rows[dy] + q . columns[dx]) v, for tokens on an h x w map.

    Inference with the fused kernel takes the work in other portions, of the same result: on a CPU logits are float32
    whatever the weights' dtype, half precision would be slower; on other devices the queries come in blocks, since the
    bias of one 64 x 64 map with 12 heads fills 400 to 800 MB.

    Args:
        query: (B, heads, h * w, d).
        key: (B, heads, h * w, d).
        value: (B, heads, h * w, d).
        rows: One vector for each pair of rows (of the query, of the key), (h, h, d).
        columns: The same for columns, (w, w, d).
        scale: Multiplies q k^T, not the relative positions.
        implementation: As in `attend`.
        dropout: As in `attend`.
        need_weights: As in `attend`.

    Returns:
        As `attend`.
    """
    options = {"scale": scale, "implementation": implementation, "dropout": dropout, "need_weights": need_weights}
    fused = implementation != "eager" and not need_weights and dropout == 0.0
    dtype, on_cpu = value.dtype, fused and is_cpu_inference(query)
    if on_cpu:
        query, key, value, rows, columns = (tensor.float() for tensor in (query, key, value, rows, columns))
    grid = query.unflatten(2, (len(rows), len(columns)))  # (B, heads, h, w, d)
    by_row = torch.einsum("bnhwd,hkd->bnhwk", grid, rows).flatten(2, 3)  # (B, heads, h * w, h)
    by_column = torch.einsum("bnhwd,wkd->bnhwk", grid, columns).flatten(2, 3)  # (B, heads, h * w, w)
    tokens = query.shape[2]
    if on_cpu and tokens >= MANY_TOKENS:
        return attend_in_rows(query, key, value, by_row, by_column, scale).to(dtype), None
    step = tokens
    if fused and not (torch.is_grad_enabled() or torch.compiler.is_exporting()):
        step = max(1, BIAS_ENTRIES // (query.shape[0] * query.shape[1] * tokens))
    blocks = []
    for first in range(0, tokens, step):
        part = slice(first, first + step)
        bias = (by_row[:, :, part, :, None] + by_column[:, :, part, None, :]).flatten(3)  # (B, heads, step, h * w)
        attended, weights = attend(query[:, :, part], key, value, bias, **options)
        blocks.append(attended)
    return (torch.cat(blocks, dim=2) if len(blocks) > 1 else attended).to(dtype), weights
