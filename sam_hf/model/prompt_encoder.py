"""The prompt encoder: points, boxes, masks and text become tokens and a dense map of the decoder's width.

points (B,P,N,2), boxes (B,P,4), text (B,P,T) or (B,P,D) -> sparse tokens (B,P,T',C)
masks (B,P,1,4h,4w) -> dense embedding (B,P,C,h,w)

The tokens stand in this order: points, the "not a point" token where there are no boxes, two box corners, text.
A prompt may lack what others in the same call have (see `SamPromptEncoder.forward`); such tokens are hidden from the
decoder's attention, so an answer never depends on what else was asked.

Source: Segment Anything, §3 "Prompt encoder", App. A; Fourier positions of Tancik et al., 2020; text: §7.5, App. D.5.
Differs in: absent prompts inside a batch; Fourier features are computed in float32 whatever the weights' dtype; and
the text branch, whose 768-to-256 map the paper leaves open: one linear layer plus a learned type, like every other
prompt's.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

from .configuration_sam import SamConfig, SamPromptEncoderConfig
from .layers import SamLayerNorm
from .text_alignment import SamTextAlignment
from .text_encoder import build_text_tower

PADDING = -10  # label of a padding point; four of it are a padding box


class SamPositionalEmbedding(nn.Module):
    """Random Fourier features of positions: (...,2) xy -> (...,2 * num_pos_feats)."""

    def __init__(self, config):
        super().__init__()
        self.scale = config.scale
        self.positional_embedding = nn.Parameter(self.scale * torch.randn(2, config.num_pos_feats))

    def forward(self, input_coords: Tensor, input_shape: tuple[int, int] | None = None) -> Tensor:
        """Encode xy positions, in [0, 1] or, with `input_shape` (H,W), in pixels of that frame."""
        # In float32: half precision has eleven bits or eight, and a 1024-pixel side alone needs ten.
        coordinates = input_coords.float()
        if input_shape is not None:
            height, width = input_shape
            coordinates = coordinates / coordinates.new_tensor([width, height])
        angles = 2 * math.pi * ((2 * coordinates - 1) @ self.positional_embedding.float())
        features = torch.cat([angles.sin(), angles.cos()], dim=-1)
        return features.to(self.positional_embedding.dtype)


class SamMaskEmbedding(nn.Module):
    """A mask prompt downscaled to the image embedding: (n,1,4h,4w) logits -> (n,C,h,w)."""

    def __init__(self, config: SamPromptEncoderConfig):
        super().__init__()
        channels = config.mask_input_channels
        self.conv1 = nn.Conv2d(1, channels // 4, kernel_size=2, stride=2)
        self.layer_norm1 = SamLayerNorm(channels // 4, eps=config.layer_norm_eps, data_format="channels_first")
        self.conv2 = nn.Conv2d(channels // 4, channels, kernel_size=2, stride=2)
        self.layer_norm2 = SamLayerNorm(channels, eps=config.layer_norm_eps, data_format="channels_first")
        self.conv3 = nn.Conv2d(channels, config.hidden_size, kernel_size=1)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, masks: Tensor) -> Tensor:
        hidden_states = self.activation(self.layer_norm1(self.conv1(masks)))
        hidden_states = self.activation(self.layer_norm2(self.conv2(hidden_states)))
        return self.conv3(hidden_states)


class SamPromptEncoder(nn.Module):
    """Embeds every kind of prompt."""

    def __init__(self, config: SamConfig):
        super().__init__()
        self.shared_embedding = SamPositionalEmbedding(config.vision_config)
        text_config, config = config.text_config, config.prompt_encoder_config
        self.hidden_size = config.hidden_size
        self.image_embedding_size = (config.image_embedding_size, config.image_embedding_size)
        self.input_image_size = config.image_size
        self.point_embed = nn.ModuleList(
            nn.Embedding(1, config.hidden_size) for _ in range(config.num_point_embeddings)
        )
        self.not_a_point_embed = nn.Embedding(1, config.hidden_size)
        self.mask_embed = SamMaskEmbedding(config)
        self.no_mask_embed = nn.Embedding(1, config.hidden_size)
        self.text_encoder, self.text_alignment = None, None
        if text_config is not None:
            self.text_encoder = build_text_tower(text_config)
            self.text_projection = nn.Linear(text_config.embed_dim, config.hidden_size)
            self.text_embed = nn.Embedding(1, config.hidden_size)
            if text_config.alignment:
                self.text_alignment = SamTextAlignment(config.hidden_size, text_config.embed_dim)

    def forward(
        self,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_boxes: Tensor | None = None,
        input_masks: Tensor | None = None,
        text_embeds: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor]:
        """Embed the prompts of one call.

        Args:
            input_points: (B,P,N,2) xy, resized pixels.
            input_labels: (B,P,N): 1 foreground, 0 background, -1 not a point, -10 padding.
            input_boxes: (B,P,4) xyxy, resized pixels; a row of -10 is no box.
            input_masks: (B,P,1,4h,4w) logits, all NaN where a prompt has none; or (B,1,4h,4w), one for all P.
            text_embeds: (B,P,D) unit norm, CLIP's joint space, all NaN where a prompt has none.

        Returns:
            Sparse tokens (B,P,T',C), None without points, boxes and text; and the dense embedding, (B,P,C,h,w), or
            (B,C,h,w) where all P prompts share it.
        """
        tokens = []
        if input_points is not None:
            tokens.append(self._embed_points(input_points, input_labels, pad=input_boxes is None))
        if input_boxes is not None:
            tokens.append(self._embed_boxes(input_boxes, has_points=_has_points(input_labels)))
        if text_embeds is not None:
            tokens.append(self._embed_text(text_embeds))
        sparse_embeddings = torch.cat(tokens, dim=2) if tokens else None
        batch_size = sparse_embeddings.shape[0] if tokens else 1
        return sparse_embeddings, self._embed_masks(input_masks, batch_size)

    def visible_tokens(
        self,
        input_labels: Tensor | None = None,
        input_boxes: Tensor | None = None,
        text_embeds: Tensor | None = None,
    ) -> Tensor | None:
        """Which of the sparse tokens are prompts and not padding: (B,P,T') bool; None where there are no tokens."""
        visible = []
        if input_labels is not None:
            visible.append(input_labels != PADDING)
            if input_boxes is None:  # the "not a point" token goes with the points
                visible.append(_has_points(input_labels))
        if input_boxes is not None:
            no_box = _is_padding_box(input_boxes)
            # The two corners; without a box, the first place holds the "not a point" token of a prompt's points.
            first = ~no_box if input_labels is None else ~no_box | _has_points(input_labels)
            visible += [first, ~no_box]
        if text_embeds is not None:
            visible.append(~_is_absent_text(text_embeds))
        return torch.cat(visible, dim=-1) if visible else None

    def _embed_points(self, points: Tensor, labels: Tensor, pad: bool) -> Tensor:
        """(B,P,N,2), (B,P,N) -> (B,P,N,C), and one "not a point" token more if `pad`."""
        points = points.float() + 0.5  # to the centre of the pixel
        if pad:
            points = F.pad(points, (0, 0, 0, 1))
            labels = F.pad(labels, (0, 1), value=-1)
        labels = labels[..., None]
        embedding = self.shared_embedding(points, (self.input_image_size, self.input_image_size))
        background, foreground = self.point_embed[0].weight, self.point_embed[1].weight
        embedding = torch.where(labels == 0, embedding + background, embedding)
        embedding = torch.where(labels == 1, embedding + foreground, embedding)
        embedding = torch.where(labels == -1, self.not_a_point_embed.weight, embedding)
        return torch.where(labels == PADDING, 0.0, embedding)

    def _embed_boxes(self, boxes: Tensor, has_points: Tensor | None) -> Tensor:
        """(B,P,4) -> (B,P,2,C): the corners, or the "not a point" token and nothing where there is no box."""
        corners = boxes.float().unflatten(-1, (2, 2)) + 0.5  # to the centre of the pixel
        embedding = self.shared_embedding(corners, (self.input_image_size, self.input_image_size))
        embedding = embedding + torch.stack([self.point_embed[2].weight[0], self.point_embed[3].weight[0]])
        no_box = _is_padding_box(boxes)[..., None]  # (B,P,1,1)
        if has_points is None:
            return torch.where(no_box, 0.0, embedding)
        instead = torch.cat([self.not_a_point_embed.weight, torch.zeros_like(self.not_a_point_embed.weight)])
        return torch.where(no_box, instead, embedding)

    def _embed_masks(self, masks: Tensor | None, batch_size: int) -> Tensor:
        """(B,P,1,4h,4w) -> (B,P,C,h,w); (B,1,4h,4w) -> (B,C,h,w); None -> the learned "no mask", (B,C,h,w)."""
        no_mask = self.no_mask_embed.weight.reshape(-1, 1, 1)
        if masks is None:
            return no_mask.expand(batch_size, -1, *self.image_embedding_size)
        flat = masks.flatten(0, -4).to(no_mask.dtype)  # (n,1,4h,4w)
        absent = flat.isnan().flatten(1).all(dim=1)[:, None, None, None]  # a mask with some NaN is no absent one
        embedding = self.mask_embed(torch.where(absent, 0.0, flat))
        embedding = torch.where(absent, no_mask, embedding)
        return embedding.unflatten(0, masks.shape[:-3])

    def _embed_text(self, text_embeds: Tensor) -> Tensor:
        """(B,P,D) -> (B,P,1,C)."""
        vectors = torch.where(_is_absent_text(text_embeds), 0.0, text_embeds).to(self.text_projection.weight.dtype)
        return (self.text_projection(vectors) + self.text_embed.weight[0]).unsqueeze(2)


def _has_points(labels: Tensor | None) -> Tensor | None:
    """Whether a prompt has any point: (B,P,N) -> (B,P,1)."""
    return None if labels is None else (labels != PADDING).any(dim=-1, keepdim=True)


def _is_padding_box(boxes: Tensor) -> Tensor:
    """Whether a prompt has no box: (B,P,4) -> (B,P,1)."""
    return (boxes == PADDING).all(dim=-1, keepdim=True)


def _is_absent_text(text_embeds: Tensor) -> Tensor:
    """Whether a prompt has no text: (B,P,D) -> (B,P,1)."""
    return text_embeds.isnan().all(dim=-1, keepdim=True)
