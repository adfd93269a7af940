"""Small layers that several parts of the network share: layer norm on channels, MLP, stochastic depth."""

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from .cpu_inference import feed_forward


class SamLayerNorm(nn.LayerNorm):
    """Layer norm over the channels of (B,C,H,W) maps (`channels_first`) or (B,H,W,C) ones (`channels_last`)."""

    def __init__(self, normalized_shape: int, *, eps: float = 1e-6, data_format: str = "channels_last"):
        super().__init__(normalized_shape, eps=eps)
        if data_format not in ("channels_first", "channels_last"):
            raise ValueError(f"`data_format` must be 'channels_first' or 'channels_last'; got {data_format!r}")
        self.data_format = data_format

    def forward(self, features: Tensor) -> Tensor:
        if self.data_format == "channels_last":
            return super().forward(features)
        return super().forward(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SamMLPBlock(nn.Module):
    """Linear, activation, linear, of a vision or mask-decoder configuration."""

    def __init__(self, config):
        super().__init__()
        self.lin1 = nn.Linear(config.hidden_size, config.mlp_dim)
        self.lin2 = nn.Linear(config.mlp_dim, config.hidden_size)
        self.act = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: Tensor) -> Tensor:
        return feed_forward(self.lin1, self.act, self.lin2, hidden_states)


class SamFeedForward(nn.Module):
    """ReLU MLP of `num_layers` linear layers: the hypernetworks and the IoU head."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int):
        super().__init__()
        self.proj_in = nn.Linear(input_dim, hidden_dim)
        self.layers = nn.ModuleList([nn.Linear(hidden_dim, hidden_dim) for _ in range(num_layers - 2)])
        self.proj_out = nn.Linear(hidden_dim, output_dim)

    def forward(self, hidden_states: Tensor) -> Tensor:
        hidden_states = self.proj_in(hidden_states).relu()
        for layer in self.layers:
            hidden_states = layer(hidden_states).relu()
        return self.proj_out(hidden_states)


class DropPath(nn.Module):
    """Stochastic depth: while training, a residual branch is dropped for a whole image with probability `rate`.

    Source: Segment Anything, App. A (drop path 0.4 / 0.6); Huang et al., 2016.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return branch
        keep = 1.0 - self.rate
        per_image = torch.rand((branch.shape[0],) + (1,) * (branch.ndim - 1), device=branch.device) < keep
        return branch * per_image.to(branch.dtype) / keep

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


def drop_path_rates(last: float, depth: int) -> list[float]:
    """Rates that rise linearly from 0 at the first block to `last` at block `depth`."""
    return [last * index / max(depth - 1, 1) for index in range(depth)]
