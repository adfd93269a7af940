"""Attention between few tokens and many image cells: `SamAttention`'s numbers from the cheaper side.

tokens (n,T,C), image tokens (n,h*w,C) -> what either side takes from the other; no image token is ever projected

With x the image tokens and A the attention weights, per head (x Wk) q^T = x (Wk q^T), A (x Wv) = (A x) Wv and
(A V) Wo = A (V Wo). A softmax does not see what is constant along it, so keys need no bias; its weights sum to one, so
a bias behind it may stand before it.

Source: Segment Anything, App. A, as two_way_transformer.py; for inference (`multiply` records no gradients on a CPU).
"""

import torch
from torch import Tensor, nn

from .cpu_inference import multiply
from .two_way_transformer import SamAttention

# What is worked on at once. A CPU's caches hold one prompt's image tokens, 4 MiB for ViT-B; a GPU wants many.
_CACHED_BYTES, _ACCELERATOR_BYTES = 2 << 20, 128 << 20


def working_bytes(device: torch.device) -> int:
    """How large the tensors of one step of decoding should be on this device."""
    return _CACHED_BYTES if device.type == "cpu" else _ACCELERATOR_BYTES


class ImageTokens:
    """Image tokens of few prompts on their way through the blocks.

    Attributes:
        cells: (n,h*w,C); at first perhaps (b,h*w,C), the same for n/b prompts.
        placed: (n,h*w,C), with positions.
    """

    def __init__(self, cells: Tensor, positions: Tensor, shape: tuple[int, ...]):
        self.cells, self._positions, self._shape = cells, positions, shape
        self._own = None  # what may be written to
        self.placed = cells.new_empty(shape)

    def place(self) -> None:
        """Add the positions to cells that were made elsewhere."""
        torch.add(self.cells, self._positions, out=self.placed)

    def take(self, weights: Tensor, features: Tensor, norm: nn.Module) -> None:
        """cells = norm(cells + weights (n,h*w,k) @ features (n,k,C)), some rows at a time, which stay in cache."""
        before, own = self.cells, self.placed.new_empty(self._shape) if self._own is None else self._own
        step = max(1, working_bytes(own.device) // (own[:, 0].numel() * own.element_size()))
        for start in range(0, own.shape[1], step):
            rows = slice(start, start + step)
            sums = product(weights[:, rows], features)  # (n,step,C)
            sums.unflatten(0, (len(before), -1)).add_(before[:, None, rows])
            own[:, rows] = norm(sums)
            torch.add(own[:, rows], self._positions[:, rows], out=self.placed[:, rows])
        self.cells = self._own = own


def has_few_tokens(attention: SamAttention, count: int) -> bool:
    """Whether so few tokens make this way the one with fewer multiplications: T <= 17 at SAM's widths."""
    inner, width = attention.q_proj.weight.shape
    return count * (attention.num_attention_heads * width - inner) < width * inner


def tokens_from_image(attention: SamAttention, query: Tensor, placed: Tensor, image: Tensor) -> Tensor:
    """`attention(query, placed, image)` for tokens (n,T,C) and image tokens (n,h*w,C) with and without positions."""
    heads = attention.num_attention_heads
    query = attention.separate_heads(attention.q_proj(query) * attention.scaling)  # (n,heads,T,d)
    query = _per_head(query, attention.k_proj.weight.unflatten(0, (heads, -1)))  # (n,heads,T,C)
    weights = product(query.flatten(1, 2), placed.transpose(1, 2)).softmax(dim=-1)  # (n,heads*T,h*w)
    seen = product(weights, image).unflatten(1, (heads, -1))  # (n,heads,T,C)
    value = _per_head(seen, attention.v_proj.weight.unflatten(0, (heads, -1)).transpose(1, 2))  # (n,heads,T,d)
    return attention.out_proj(value.transpose(1, 2).flatten(2) + attention.v_proj.bias)


def image_from_tokens(
    attention: SamAttention, placed: Tensor, queries: Tensor, positions: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`attention(placed, queries + positions, queries, bias)` for image tokens (n,h*w,C) and tokens (n,T,C), as
    the two factors of a product, see `mix_tokens`.
    """
    heads = attention.num_attention_heads
    key, value = keys_and_values(attention, queries, positions)
    from_key = _per_head(key, attention.q_proj.weight.unflatten(0, (heads, -1)))  # (n,heads,T,C)
    logits = product(from_key.flatten(1, 2), placed.transpose(1, 2)).unflatten(1, (heads, -1))
    constant = key @ attention.q_proj.bias.view(heads, -1, 1)  # (n,heads,T,1)
    logits += constant if bias is None else constant + bias.transpose(-1, -2)
    return mix_tokens(attention, logits, value)


def keys_and_values(attention: SamAttention, queries: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Scaled keys and values of tokens (n,T,C) for the image to look at, (n,heads,T,d)."""
    key = attention.k_proj(queries + positions) * attention.scaling
    return attention.separate_heads(key), attention.separate_heads(attention.v_proj(queries))


def mix_tokens(attention: SamAttention, logits: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """What each cell takes from the tokens, for logits (n,heads,T,h*w) and values (n,heads,T,d).

    Returns:
        Weights (n,h*w,heads*T) and features (n,heads*T,C), whose product it is.
    """
    heads = attention.num_attention_heads
    out = attention.out_proj.weight.unflatten(1, (heads, -1)).permute(1, 2, 0)  # (heads,d,C)
    value = _per_head(value, out) + attention.out_proj.bias / heads  # (n,heads,T,C)
    return logits.softmax(dim=2).flatten(1, 2).transpose(1, 2), value.flatten(1, 2)


def _per_head(features: Tensor, weights: Tensor) -> Tensor:
    """(n,heads,T,i) times (heads,i,o) -> (n,heads,T,o), contiguous."""
    count, _, tokens, _ = features.shape
    together = features.transpose(0, 1).flatten(1, 2) @ weights  # (heads,n*T,o)
    return together.unflatten(1, (count, tokens)).transpose(0, 1).contiguous()


def product(left: Tensor, right: Tensor) -> Tensor:
    """(n,r,k) times (n,k,c)."""
    if left.shape[0] == 1:
        return multiply(left[0], right[0].t()).unsqueeze(0)
    return left @ right
