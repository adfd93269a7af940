"""The small image encoder: TinyViT, a convolutional stage and then windowed attention with learned offsets.

(B,3,S,S) normalised pixels -> (B,C,h,w) image embedding, h = w = S / patch_size. It has no absolute positions, so the
same weights serve every image size; the embedded checkpoint and MobileSAM use it.

Source: TinyViT (Wu et al., 2022); as the encoder of SAM, MobileSAM (Zhang et al., 2023), whose last stage keeps its
resolution. Not part of the Segment Anything paper. Differs in: the strides are free, and attention weights can be
asked for.
"""

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import attend
from .configuration_sam import SamTinyViTConfig
from .cpu_inference import convolve, feed_forward, is_cpu_inference, linear
from .image_encoder import (
    SamVisionEncoderOutput,
    SamVisionNeck,
    check_pixel_values,
    window_partition,
    window_unpartition,
)
from .layers import DropPath, drop_path_rates
from .pretrained_sam import SamPreTrainedModel, captures_outputs


class ConvNorm(nn.Module):
    """Convolution without bias, then batch norm, then an activation if one is given."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, features: Tensor, activation: nn.Module | None = None) -> Tensor:
        return convolve(self.conv, self.bn, features, activation)


class SamTinyViTStem(nn.Module):
    """Two convolutions of stride 2: (B,3,S,S) -> (B,C0,S/4,S/4)."""

    def __init__(self, config: SamTinyViTConfig):
        super().__init__()
        width = config.embed_dims[0]
        self.conv1 = ConvNorm(config.num_channels, width // 2, 3, stride=2)
        self.act = ACT2FN[config.hidden_act]
        self.conv2 = ConvNorm(width // 2, width, 3, stride=2)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.conv2(self.conv1(pixel_values, self.act))


class SamTinyViTConvLayer(GradientCheckpointingLayer):
    """MBConv: expand, depthwise 3x3, project, residual. (B,C,h,w) -> (B,C,h,w)."""

    def __init__(self, config: SamTinyViTConfig, drop_path_rate: float):
        super().__init__()
        width = config.embed_dims[0]
        expanded = int(width * config.mbconv_expand_ratio)
        self.conv1 = ConvNorm(width, expanded)
        self.conv2 = ConvNorm(expanded, expanded, 3, groups=expanded)
        self.conv3 = ConvNorm(expanded, width)
        self.act = ACT2FN[config.hidden_act]
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, features: Tensor, output_attentions: bool = False) -> Tensor:
        branch = self.conv3(self.conv2(self.conv1(features, self.act), self.act))
        return self.act(features + self.drop_path(branch))


class SamTinyViTDownsample(nn.Module):
    """1x1, strided depthwise 3x3, 1x1: (B,C,h,w) -> (B,C',h/stride,w/stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, hidden_act: str):
        super().__init__()
        self.conv1 = ConvNorm(in_channels, out_channels)
        self.conv2 = ConvNorm(out_channels, out_channels, 3, stride=stride, groups=out_channels)
        self.conv3 = ConvNorm(out_channels, out_channels)
        self.act = ACT2FN[hidden_act]

    def forward(self, features: Tensor) -> Tensor:
        return self.conv3(self.conv2(self.conv1(features, self.act), self.act))


class SamTinyViTAttention(nn.Module):
    """Pre-norm attention inside a window, with one learned bias per head and absolute offset (|dy|, |dx|)."""

    def __init__(self, config: SamTinyViTConfig, stage: int):
        super().__init__()
        width = config.embed_dims[stage]
        self.config = config
        self.num_heads = config.num_heads[stage]
        self.window_size = config.window_sizes[stage]
        self.scale = (width // self.num_heads) ** -0.5
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(self.num_heads, self.window_size**2))

    def forward(self, features: Tensor, output_attentions: bool = False) -> tuple[Tensor, Tensor | None]:
        """(B,h,w,C) -> the same shape, and the weights (B * windows * heads, tokens, tokens) if asked for."""
        height, width, channels = features.shape[1:]
        fill = None
        if height % self.window_size or width % self.window_size:
            # Windows are filled up with zeros in front of the norm: one token tells what becomes of them.
            fill = self.qkv(self.norm(features.new_zeros(1, channels)))[0]
        qkv = window_partition(linear(self.qkv, self.norm(features)), self.window_size, fill)
        # (batch, tokens, heads * (q | k | v)) -> each (batch, heads, tokens, head_dim); heads outermost, as published
        batch, tokens = qkv.shape[0], self.window_size**2  # batch: B * windows
        qkv = qkv.reshape(batch, tokens, self.num_heads, 3, -1)
        query, key, value = qkv.permute(3, 0, 2, 1, 4).unbind(0)
        attended, weights = attend(
            query,
            key,
            value,
            self.offset_bias(),
            scale=self.scale,
            implementation=self.config._attn_implementation,
            need_weights=output_attentions,
        )
        windows = attended.transpose(1, 2).reshape(batch, self.window_size, self.window_size, channels)
        return linear(self.proj, window_unpartition(windows, self.window_size, height, width)), weights

    def offset_bias(self) -> Tensor:
        """(1, heads, tokens, tokens)."""
        side = self.window_size
        positions = torch.arange(side, device=self.attention_biases.device)
        offsets = (positions[:, None] - positions[None, :]).abs()  # (side, side)
        index = offsets[:, None, :, None] * side + offsets[None, :, None, :]  # (side, side, side, side)
        return self.attention_biases[:, index.reshape(side * side, side * side)][None]


class SamTinyViTMLP(nn.Module):
    """Pre-norm MLP over channels-last features."""

    def __init__(self, width: int, hidden_width: int, hidden_act: str):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden_width)
        self.fc2 = nn.Linear(hidden_width, width)
        self.act = ACT2FN[hidden_act]

    def forward(self, features: Tensor) -> Tensor:
        return feed_forward(self.fc1, self.act, self.fc2, self.norm(features))


class SamTinyViTLayer(GradientCheckpointingLayer):
    """Windowed attention, a depthwise convolution across windows, MLP. (B,h,w,C) -> (B,h,w,C)."""

    def __init__(self, config: SamTinyViTConfig, stage: int, drop_path_rate: float):
        super().__init__()
        width = config.embed_dims[stage]
        self.attn = SamTinyViTAttention(config, stage)
        self.local_conv = ConvNorm(width, width, config.local_conv_size, groups=width)
        self.mlp = SamTinyViTMLP(width, int(width * config.mlp_ratio), config.hidden_act)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, features: Tensor, output_attentions: bool = False) -> Tensor:
        attended, _ = self.attn(features, output_attentions)
        features = features + self.drop_path(attended)
        features = self.local_conv(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return features + self.drop_path(self.mlp(features))


class SamTinyViTStage(nn.Module):
    """Downsampling (but for the first stage) and then blocks; maps go in and out as (B,C,h,w)."""

    def __init__(self, config: SamTinyViTConfig, stage: int, rates: list[float]):
        super().__init__()
        self.is_convolutional = stage == 0
        if self.is_convolutional:
            self.blocks = nn.ModuleList(SamTinyViTConvLayer(config, rate) for rate in rates)
        else:
            widths, stride = config.embed_dims[stage - 1 : stage + 1], config.strides[stage - 1]
            self.downsample = SamTinyViTDownsample(*widths, stride, config.hidden_act)
            self.blocks = nn.ModuleList(SamTinyViTLayer(config, stage, rate) for rate in rates)

    def forward(self, features: Tensor, output_attentions: bool) -> Tensor:
        if self.is_convolutional:
            for block in self.blocks:
                features = block(features)
            return features
        features = self.downsample(features).permute(0, 2, 3, 1)
        for block in self.blocks:
            features = block(features, output_attentions)
        return features.permute(0, 3, 1, 2)


class SamTinyViTEncoder(SamPreTrainedModel):
    """The TinyViT image encoder."""

    config: SamTinyViTConfig
    main_input_name = "pixel_values"
    _can_record_outputs = {"hidden_states": SamTinyViTStage, "attentions": SamTinyViTAttention}

    def __init__(self, config: SamTinyViTConfig):
        super().__init__(config)
        rates = drop_path_rates(config.drop_path_rate, sum(config.depths))
        self.patch_embed = SamTinyViTStem(config)
        self.stages = nn.ModuleList()
        for stage, depth in enumerate(config.depths):
            first = sum(config.depths[:stage])
            self.stages.append(SamTinyViTStage(config, stage, rates[first : first + depth]))
        self.neck = SamVisionNeck(config)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.patch_embed

    @captures_outputs
    def forward(self, pixel_values: Tensor | None = None, **kwargs) -> tuple | SamVisionEncoderOutput:
        """Embed images: (B,3,S,S) -> `last_hidden_state` (B,C,h,w). See `SamVisionEncoder.forward`."""
        if pixel_values is None:
            raise ValueError("`pixel_values` is missing: an image encoder needs images (B,3,S,S)")
        check_pixel_values(pixel_values, self.config.num_channels, self.config.image_size)
        output_attentions = kwargs.get("output_attentions", self.config.output_attentions)
        pixel_values = pixel_values.to(self.patch_embed.conv1.conv.weight.dtype)
        if is_cpu_inference(pixel_values):  # where convolutions are faster so, and no later permutation is a copy
            pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        features = self.patch_embed(pixel_values)
        for stage in self.stages:
            features = stage(features, output_attentions)
        return SamVisionEncoderOutput(last_hidden_state=self.neck(features.permute(0, 2, 3, 1)))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Weights of a stack with batch norm: its residual branches start closed, convolutions keep the variance."""
        super()._init_weights(module)
        if isinstance(module, ConvNorm):
            init.kaiming_normal_(module.conv.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, SamTinyViTConvLayer):
            init.zeros_(module.conv3.bn.weight)
        elif isinstance(module, SamTinyViTAttention):
            init.zeros_(module.attention_biases)


__all__ = ["SamTinyViTEncoder"]
