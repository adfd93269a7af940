"""The image encoder: a plain ViT with windowed and a few global attention blocks, and a convolutional neck.

(B,3,S,S) normalised pixels -> (B,C,h,w) image embedding, h = w = S / patch_size, once per image.

Source: Segment Anything, §3 "Image encoder" and App. A; the backbone is ViTDet's (Li et al., 2022), the decomposed
relative positions MViTv2's (Li et al., 2022). Differs in: stochastic depth, which Meta's release leaves out; one
attention class serves "eager" and "sdpa", so that `set_attn_implementation` reaches the encoder too.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput

from .attention import attend, attend_on_map
from .configuration_sam import SamVisionConfig
from .cpu_inference import is_cpu_inference, linear
from .layers import DropPath, SamLayerNorm, SamMLPBlock, drop_path_rates
from .pretrained_sam import SamPreTrainedModel, captures_outputs


@dataclass
class SamVisionEncoderOutput(ModelOutput):
    """What an image encoder returns.

    Args:
        image_embeds: Unused; transformers' field.
        last_hidden_state: The image embedding, (B,C,h,w).
        hidden_states: On request, the input and the output of every block, each (B,h,w,hidden_size).
        attentions: On request, the weights of every block, (B * windows * heads, tokens, tokens).
    """

    image_embeds: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class SamPatchEmbeddings(nn.Module):
    """Non-overlapping patches, each through one linear map: (B,3,S,S) -> (B,h,w,hidden_size)."""

    def __init__(self, config: SamVisionConfig):
        super().__init__()
        self.image_size = config.image_size
        self.num_channels = config.num_channels
        self.projection = nn.Conv2d(
            config.num_channels, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_size
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        check_pixel_values(pixel_values, self.num_channels, self.image_size)
        patches = self.projection(pixel_values.to(self.projection.weight.dtype))
        return patches.permute(0, 2, 3, 1)  # (B, hidden, h, w) -> (B, h, w, hidden)


def check_pixel_values(pixel_values: Tensor, num_channels: int, image_size: int) -> None:
    """Refuse images that are not (B, num_channels, image_size, image_size)."""
    if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != (num_channels, image_size, image_size):
        raise ValueError(
            f"`pixel_values` must have shape (B, {num_channels}, {image_size}, {image_size}), the size this model was "
            f"made for (SamProcessor prepares it); got {tuple(pixel_values.shape)}"
        )


class SamVisionAttention(nn.Module):
    """Multi-head self-attention with decomposed relative positions, over all tokens of a map or window."""

    def __init__(self, config: SamVisionConfig, window_size: int):
        super().__init__()
        self.config = config
        self.window_size = window_size
        side = window_size or config.image_size // config.patch_size
        head_dim = config.hidden_size // config.num_attention_heads
        self.num_attention_heads = config.num_attention_heads
        self.scale = head_dim**-0.5
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.qkv_bias)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.use_rel_pos = config.use_rel_pos
        if self.use_rel_pos:
            self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, head_dim))
            self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, head_dim))

    def forward(self, hidden_states: Tensor, output_attentions: bool = False) -> tuple[Tensor, Tensor | None]:
        """(B,h,w,hidden) -> the same shape, and the weights (B * windows * heads, tokens, tokens) if asked for."""
        height, width = hidden_states.shape[1:3]
        fill = None
        if self.window_size and (height % self.window_size or width % self.window_size):
            # The published network fills the windows up with zeros, which take part in the attention. All that is left
            # of a zero behind qkv is the bias, so nothing but real tokens need go through it.
            fill = self.qkv(hidden_states.new_zeros(1, hidden_states.shape[-1]))[0]
        spelt_out = output_attentions or self.config._attn_implementation == "eager"
        if is_cpu_inference(hidden_states) and not spelt_out:
            # Image by image, and no window reaches beyond its band of rows: what is worked on stays in cache.
            attended, weights = torch.empty_like(hidden_states), None
            band = self.window_size or height
            for image, result in zip(hidden_states.split(1), attended.split(1), strict=True):
                for first in range(0, height, band):
                    result[:, first : first + band], _ = self.mix(image[:, first : first + band], fill)
        else:
            attended, weights = self.mix(hidden_states, fill, output_attentions)
        return linear(self.proj, attended), weights

    def mix(
        self, hidden_states: Tensor, fill: Tensor | None, output_attentions: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """What `forward` does, but for the last projection; `fill` (3 * hidden,) stands in for missing tokens."""
        height, width = hidden_states.shape[1:3]
        qkv = linear(self.qkv, hidden_states)
        if self.window_size:
            qkv = window_partition(qkv, self.window_size, fill)
        batch, rows, columns, _ = qkv.shape  # batch: B * windows
        qkv = qkv.reshape(batch, rows * columns, 3, self.num_attention_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (batch, heads, tokens, head_dim)
        options = {
            "scale": self.scale,
            "implementation": self.config._attn_implementation,
            "dropout": self.config.attention_dropout if self.training else 0.0,
            "need_weights": output_attentions,
        }
        if self.use_rel_pos:
            row_vectors = relative_positions(self.rel_pos_h, rows)
            column_vectors = relative_positions(self.rel_pos_w, columns)
            attended, weights = attend_on_map(query, key, value, row_vectors, column_vectors, **options)
        else:
            attended, weights = attend(query, key, value, None, **options)
        attended = attended.transpose(1, 2).reshape(batch, rows, columns, -1)  # heads back into channels
        if self.window_size:
            attended = window_unpartition(attended, self.window_size, height, width)
        return attended, weights


def relative_positions(table: Tensor, size: int) -> Tensor:
    """Entries (size, size, head_dim) of a table of the 2 * size - 1 offsets between two rows (or columns)."""
    positions = torch.arange(size, device=table.device)
    return table[positions[:, None] - positions[None, :] + size - 1]


class SamVisionLayer(GradientCheckpointingLayer):
    """A pre-norm transformer block; `window_size` 0 attends globally."""

    def __init__(self, config: SamVisionConfig, window_size: int, drop_path_rate: float = 0.0):
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attn = SamVisionAttention(config, window_size)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = SamMLPBlock(config)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, hidden_states: Tensor, output_attentions: bool = False) -> Tensor:
        attended, _ = self.attn(self.layer_norm1(hidden_states), output_attentions)
        hidden_states = hidden_states + self.drop_path(attended)
        return hidden_states + self.drop_path(self.mlp(self.layer_norm2(hidden_states)))


def window_partition(hidden_states: Tensor, size: int, fill: Tensor | None = None) -> Tensor:
    """(B,h,w,C) -> (B * windows, size, size, C), the bottom and right windows filled up with `fill` (C,) or zeros."""
    batch, height, width, channels = hidden_states.shape
    below, right = -height % size, -width % size
    if fill is None:
        hidden_states = F.pad(hidden_states, (0, 0, 0, right, 0, below))
    else:
        hidden_states = torch.cat([hidden_states, fill.expand(batch, height, right, channels)], dim=2)
        hidden_states = torch.cat([hidden_states, fill.expand(batch, below, width + right, channels)], dim=1)
    rows, columns = (height + below) // size, (width + right) // size
    windows = hidden_states.reshape(batch, rows, size, columns, size, channels).transpose(2, 3)
    return windows.reshape(-1, size, size, channels)


def window_unpartition(windows: Tensor, size: int, height: int, width: int) -> Tensor:
    """(B * windows, size, size, C) -> (B, height, width, C), without the fill of `window_partition`."""
    rows, columns = -(-height // size), -(-width // size)
    windows = windows.reshape(-1, rows, columns, size, size, windows.shape[-1]).transpose(2, 3)
    return windows.reshape(-1, rows * size, columns * size, windows.shape[-1])[:, :height, :width]


class SamVisionNeck(nn.Module):
    """1x1 and 3x3 convolution, each with layer norm: (B,h,w,hidden_size) -> (B,C,h,w)."""

    def __init__(self, config):
        super().__init__()
        channels = config.output_channels
        self.conv1 = nn.Conv2d(config.hidden_size, channels, kernel_size=1, bias=False)
        self.layer_norm1 = SamLayerNorm(channels, data_format="channels_first")
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.layer_norm2 = SamLayerNorm(channels, data_format="channels_first")

    def forward(self, hidden_states: Tensor) -> Tensor:
        hidden_states = self.layer_norm1(self.conv1(hidden_states.permute(0, 3, 1, 2)))
        return self.layer_norm2(self.conv2(hidden_states))


class SamVisionEncoder(SamPreTrainedModel):
    """The ViT image encoder."""

    config: SamVisionConfig
    main_input_name = "pixel_values"
    _can_record_outputs = {"hidden_states": SamVisionLayer, "attentions": SamVisionAttention}

    def __init__(self, config: SamVisionConfig):
        super().__init__(config)
        side = config.image_size // config.patch_size
        self.patch_embed = SamPatchEmbeddings(config)
        self.pos_embed = nn.Parameter(torch.zeros(1, side, side, config.hidden_size)) if config.use_abs_pos else None
        rates = drop_path_rates(config.drop_path_rate, config.num_hidden_layers)
        self.layers = nn.ModuleList(
            SamVisionLayer(config, 0 if index in config.global_attn_indexes else config.window_size, rate)
            for index, rate in enumerate(rates)
        )
        self.neck = SamVisionNeck(config)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.patch_embed

    @captures_outputs
    def forward(self, pixel_values: Tensor | None = None, **kwargs) -> tuple | SamVisionEncoderOutput:
        """Embed images.

        Args:
            pixel_values: (B,3,S,S), normalised, padded at the bottom and right. Any float dtype.
            **kwargs: `output_hidden_states`, `output_attentions`, `return_dict`.

        Returns:
            `last_hidden_state` is the image embedding (B,C,h,w).
        """
        if pixel_values is None:
            raise ValueError("`pixel_values` is missing: an image encoder needs images (B,3,S,S)")
        output_attentions = kwargs.get("output_attentions", self.config.output_attentions)
        hidden_states = self.patch_embed(pixel_values)
        if self.pos_embed is not None:
            hidden_states = hidden_states + self.pos_embed
        for layer in self.layers:
            hidden_states = layer(hidden_states, output_attentions)
        return SamVisionEncoderOutput(last_hidden_state=self.neck(hidden_states))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Positions, absolute and relative, start at zero, as in Meta's code."""
        super()._init_weights(module)
        if isinstance(module, SamVisionAttention) and module.use_rel_pos:
            init.zeros_(module.rel_pos_h)
            init.zeros_(module.rel_pos_w)
        elif module is self and self.pos_embed is not None:
            init.zeros_(self.pos_embed)


__all__ = ["SamVisionEncoder", "SamVisionEncoderOutput"]
