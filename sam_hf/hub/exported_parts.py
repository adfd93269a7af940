"""The parts of a model that are exported, as modules: tensors in, tensors out, no Python between.

vision_encoder               picture -> image embedding
prompt_encoder_mask_decoder  image embedding, points -> masks: the decoder in one piece, as transformers.js calls it
decoder_per_image            image embedding, rough mask -> what every click on it shares
decoder_per_click            that, points, box and text -> masks, for half the work of the decoder in one piece
text_encoder                 token ids -> the vector of a phrase
text_alignment               image embedding, vectors of phrases -> where in the picture they are, before any mask
meta_decoder                 image embedding, points, rough mask -> masks in the picture's size, as Meta's demo asks

Each part says what goes in and out (`inputs`, `outputs`): shape, unit and frame, in the letters of the package, with
C = 256, h = w = 64 and S = 1024 for Meta's models. Nothing is kept between calls. Labels of points everywhere: 1 on
the object, 0 beside it, 2 and 3 upper left and lower right corner of a box, -1 not a point, -10 padding.

Source: transformers.js 3 and optimum for the names of the first two; `segment_anything.utils.onnx.SamOnnxModel` for
the last. Differs in: box corners are understood by all decoders, padding never changes an answer, and a text vector
of zeros is no text.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.export import Dim

from sam_hf.hub.exported_decoder import HIDDEN, ExportedDecoder
from sam_hf.model.modeling_sam import SamModel
from sam_hf.model.prompt_encoder import PADDING

BATCH, PROMPTS, POINTS = Dim("batch", max=4096), Dim("prompts", max=65536), Dim("points", max=4096)
POINTS_TEXT = "xy of points and box corners, pixels of the resized picture (its longest side is S)"
LABELS_TEXT = "1 on the object, 0 beside it, 2 and 3 upper left and lower right corner of a box, -10 padding"
MASKS_TEXT = "mask logits, threshold 0, on the padded square"
SCORES_TEXT = "the model's estimate of each mask's IoU"
POSITIONS_TEXT = "Fourier features of the cells' centres"
ALL_MASKS = "; mask 0 is for prompts without doubt, 1..3 are the readings of an ambiguous one"


class Part(nn.Module, ABC):
    """What the exported parts have in common.

    Attributes:
        name: Of the part and its files.
        inputs: Name -> shape in letters, and meaning; in the order of `forward`'s arguments.
        outputs: The same of what `forward` returns.
        dynamic: Input name -> which axes may have any length.
    """

    name: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    dynamic: dict[str, dict[int, Dim]]

    def __init__(self, model: SamModel):
        super().__init__()
        self.side = model.config.prompt_encoder_config.image_embedding_size
        self.channels = model.config.prompt_encoder_config.hidden_size
        self.image_size = model.config.vision_config.image_size

    @abstractmethod
    def examples(self) -> tuple[Tensor, ...]:
        """Arguments to trace `forward` with.

        Axes of any length have an odd one here, 3, 5 or 7, which no other axis has: torch.export takes axes that agree
        by chance for the same.
        """

    def _embedding(self, count: int) -> Tensor:
        return torch.zeros(count, self.channels, self.side, self.side)

    def _points(self, *lead: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(*lead, 5, 2), torch.ones(*lead, 5, dtype=torch.long)


class VisionEncoder(Part):
    name = "vision_encoder"
    inputs = {"pixel_values": "(B,3,S,S) pictures, normalised, padded at the bottom and right"}
    outputs = {
        "image_embeddings": "(B,C,h,w) image embedding",
        "image_positional_embeddings": f"(B,C,h,w) {POSITIONS_TEXT}",
    }
    dynamic = {"pixel_values": {0: BATCH}}

    def __init__(self, model: SamModel):
        super().__init__(model)
        self.encoder = model.vision_encoder
        self.positions = Positions(model)

    def examples(self) -> tuple[Tensor, ...]:
        channels = self.encoder.config.num_channels
        return (torch.zeros(3, channels, self.image_size, self.image_size),)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        embeddings = self.encoder(pixel_values)[0].float()
        positions = self.positions().transpose(1, 2).unflatten(2, (self.side, self.side))
        return embeddings, positions.float().expand(embeddings.shape[0], -1, -1, -1)


class TextEncoder(Part):
    name = "text_encoder"
    inputs = {"input_ids": "(P,T) token ids with start and end, filled up with 0 to the whole context length T"}
    outputs = {"text_embeds": "(P,D) unit vectors in CLIP's joint space"}
    dynamic = {"input_ids": {0: PROMPTS}}

    def __init__(self, model: SamModel):
        super().__init__(model)
        self.tower = model.prompt_encoder.text_encoder
        self.length = model.config.text_config.context_length

    def examples(self) -> tuple[Tensor, ...]:
        return (torch.ones(7, self.length, dtype=torch.long),)

    def forward(self, input_ids: Tensor) -> Tensor:
        return nn.functional.normalize(self.tower(input_ids).float(), dim=-1)


class TextAlignment(Part):
    name = "text_alignment"
    inputs = {
        "image_embeddings": "(1,C,h,w) of one picture",
        "text_embeds": "(P,D) from text_encoder",
    }
    outputs = {
        "text_maps": "(P,h,w) log-odds that a cell lies on what the phrase names, threshold 0, on the padded square",
        "presence": "(P) log-odds that the phrase is true of something in the picture, as the maps alone tell",
    }
    dynamic = {"text_embeds": {0: PROMPTS}}

    def __init__(self, model: SamModel):
        super().__init__(model)
        self.alignment = model.prompt_encoder.text_alignment
        self.text_width = model.config.text_config.embed_dim

    def examples(self) -> tuple[Tensor, ...]:
        return self._embedding(1), torch.ones(7, self.text_width)

    def forward(self, image_embeddings: Tensor, text_embeds: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.alignment(image_embeddings, text_embeds[None])[0]
        return maps, self.alignment.presence(maps)


class OnePieceDecoder(Part):
    name = "prompt_encoder_mask_decoder"
    inputs = {
        "image_embeddings": "(B,C,h,w) from vision_encoder",
        "image_positional_embeddings": "(B,C,h,w) from vision_encoder",
        "input_points": f"(B,P,N,2) {POINTS_TEXT}",
        "input_labels": f"(B,P,N) {LABELS_TEXT}",
    }
    outputs = {"iou_scores": f"(B,P,3) {SCORES_TEXT}", "pred_masks": f"(B,P,3,4h,4w) {MASKS_TEXT}"}
    dynamic = {
        "image_embeddings": {0: BATCH},
        "image_positional_embeddings": {0: BATCH},
        "input_points": {0: BATCH, 1: PROMPTS, 2: POINTS},
        "input_labels": {0: BATCH, 1: PROMPTS, 2: POINTS},
    }

    def __init__(self, model: SamModel):
        super().__init__(model)
        self.prompts, self.rough = PromptTokens(model, pad=True), RoughMask(model)
        self.decoder = ExportedDecoder(model.mask_decoder, (self.side, self.side))

    def examples(self) -> tuple[Tensor, ...]:
        return self._embedding(3), self._embedding(3), *self._points(3, 7)

    def forward(
        self, image_embeddings: Tensor, image_positional_embeddings: Tensor, input_points: Tensor, input_labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        count = input_points.shape[1]
        tokens, bias = self.prompts(input_points.flatten(0, 1), input_labels.flatten(0, 1))
        image, positions = (
            maps.to(tokens.dtype).flatten(2).transpose(1, 2)[:, None].expand(-1, count, -1, -1).flatten(0, 1)
            for maps in (image_embeddings, image_positional_embeddings)
        )  # (B*P,h*w,C)
        scores, masks = self.decoder(tokens, bias, image + self.rough.none(), positions)
        lead = input_points.shape[:2]
        return scores[:, 1:].unflatten(0, lead).float(), masks[:, 1:].unflatten(0, lead).float()


class PerImage(Part):
    name = "decoder_per_image"
    inputs = {
        "image_embeddings": "(1,C,h,w) of one picture",
        "mask_input": "(1,1,4h,4w) logits of a rough mask, such as one of pred_masks; anything if there is none",
        "has_mask_input": "(1) 1 or 0: whether there is a rough mask",
    }
    outputs = {
        "image_tokens": "(1,h*w,C) for decoder_per_click, as the others",
        "image_positions": f"(1,h*w,C) {POSITIONS_TEXT}",
        "first_keys": "(heads,d,h*w)",
        "first_values": "(heads,h*w,d)",
        "first_queries": "(heads,h*w,d)",
    }
    dynamic = {}

    def __init__(self, model: SamModel):
        super().__init__(model)
        self.positions, self.rough = Positions(model), RoughMask(model)
        self.decoder = ExportedDecoder(model.mask_decoder, (self.side, self.side))

    def examples(self) -> tuple[Tensor, ...]:
        return self._embedding(1), torch.zeros(1, 1, 4 * self.side, 4 * self.side), torch.ones(1)

    def forward(self, image_embeddings: Tensor, mask_input: Tensor, has_mask_input: Tensor) -> tuple[Tensor, ...]:
        dense = self.rough(mask_input, has_mask_input)
        image = image_embeddings.to(dense.dtype).flatten(2).transpose(1, 2) + dense
        positions = self.positions()
        made = (image, positions, *self.decoder.project_image(image, positions))
        return tuple(tensor.float() for tensor in made)


class PerClick(Part):
    name = "decoder_per_click"
    outputs = {
        "iou_scores": f"(P,4) {SCORES_TEXT}{ALL_MASKS}",
        "pred_masks": f"(P,4,4h,4w) {MASKS_TEXT}{ALL_MASKS}",
    }

    def __init__(self, model: SamModel):
        super().__init__(model)
        self.prompts = PromptTokens(model, pad=True)
        self.decoder = ExportedDecoder(model.mask_decoder, (self.side, self.side))
        self.text_width = model.config.text_config.embed_dim if model.config.text_config is not None else None
        self.heads = model.mask_decoder.transformer.layers[0].cross_attn_token_to_image.num_attention_heads
        self.inner = model.mask_decoder.transformer.layers[0].cross_attn_token_to_image.k_proj.out_features
        self.inputs = {name: f"{text.split()[0]} from decoder_per_image" for name, text in PerImage.outputs.items()}
        self.inputs |= {"input_points": f"(P,N,2) {POINTS_TEXT}", "input_labels": f"(P,N) {LABELS_TEXT}"}
        self.dynamic = {name: {0: PROMPTS, 1: POINTS} for name in ("input_points", "input_labels")}
        if self.text_width is not None:
            self.inputs["text_embeds"] = "(P,D) from text_encoder; zeros where there is no text"
            self.dynamic["text_embeds"] = {0: PROMPTS}

    def examples(self) -> tuple[Tensor, ...]:
        cells, each = self.side * self.side, self.inner // self.heads
        tokens = torch.zeros(1, cells, self.channels)
        keys, values = torch.zeros(self.heads, each, cells), torch.zeros(self.heads, cells, each)
        text = () if self.text_width is None else (torch.zeros(7, self.text_width),)
        return tokens, tokens.clone(), keys, values, values.clone(), *self._points(7), *text

    def forward(
        self,
        image_tokens: Tensor,
        image_positions: Tensor,
        first_keys: Tensor,
        first_values: Tensor,
        first_queries: Tensor,
        input_points: Tensor,
        input_labels: Tensor,
        text_embeds: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        tokens, bias = self.prompts(input_points, input_labels, text_embeds)
        image, positions, *first = (
            tensor.to(tokens.dtype)
            for tensor in (image_tokens, image_positions, first_keys, first_values, first_queries)
        )
        scores, masks = self.decoder(tokens, bias, image, positions, tuple(first))
        return scores.float(), masks.float()


class MetaDecoder(Part):
    """Up to the low-resolution masks; `onnx_graphs.append_resizing` makes `masks` of them."""

    name = "meta_decoder"
    inputs = {
        "image_embeddings": "(1,C,h,w) image embedding",
        "point_coords": f"(P,N,2) {POINTS_TEXT}; without a box, the last one is (0, 0) with label -1",
        "point_labels": "(P,N) as float: 1 on the object, 0 beside it, 2 and 3 corners of a box, -1 not a point",
        "mask_input": "(1,1,4h,4w) logits of a rough mask; anything if there is none",
        "has_mask_input": "(1) 1 or 0: whether there is a rough mask",
        "orig_im_size": "(2) height and width of the original picture, as float",
    }
    outputs = {
        "masks": "(P,M,H,W) mask logits, threshold 0, in original pixels",
        "iou_predictions": f"(P,M) {SCORES_TEXT}",
        "low_res_masks": f"(P,M,4h,4w) {MASKS_TEXT}",
    }
    dynamic = {"point_coords": {0: PROMPTS, 1: POINTS}, "point_labels": {0: PROMPTS, 1: POINTS}}

    def __init__(self, model: SamModel, single_mask: bool = False):
        super().__init__(model)
        self.single_mask = single_mask
        self.prompts, self.rough = PromptTokens(model, pad=False), RoughMask(model)
        self.positions = Positions(model)
        self.decoder = ExportedDecoder(model.mask_decoder, (self.side, self.side))
        self.register_buffer("single", torch.eye(1, self.decoder.count))  # 1 for mask 0

    def examples(self) -> tuple[Tensor, ...]:
        points, labels = self._points(7)
        return (
            self._embedding(1),
            points,
            labels.float(),
            torch.zeros(1, 1, 4 * self.side, 4 * self.side),
            torch.ones(1),
        )

    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
    ) -> tuple[Tensor, Tensor]:
        tokens, bias = self.prompts(point_coords, point_labels)
        dense = self.rough(mask_input, has_mask_input)
        image = image_embeddings.to(dense.dtype).flatten(2).transpose(1, 2) + dense
        scores, masks = self.decoder(tokens, bias, image, self.positions())
        if self.single_mask:  # Meta's rule: up to two points are ambiguous, and get the best of masks 1..3
            best = (scores.float() + (point_coords.shape[1] - 2.5) * 1000.0 * self.single).argmax(dim=1, keepdim=True)
            scores = scores.gather(1, best)
            masks = masks.gather(1, best[:, :, None, None].expand(-1, -1, *masks.shape[2:]))
        return scores.float(), masks.float()


class PromptTokens(nn.Module):
    """Points, box corners and text -> prompt tokens and whether they are hidden.

    Args:
        model: Whose prompt encoder.
        pad: Add the "not a point" token to prompts that have points and no box, as Meta's own predictor does.
    """

    def __init__(self, model: SamModel, pad: bool):
        super().__init__()
        encoder = model.prompt_encoder
        self.pad, self.image_size = pad, model.config.prompt_encoder_config.image_size
        self.fourier = encoder.shared_embedding
        self.register_buffer("kinds", torch.cat([embedding.weight for embedding in encoder.point_embed]))
        self.register_buffer("not_a_point", encoder.not_a_point_embed.weight.clone())
        self.has_text = encoder.text_encoder is not None
        if self.has_text:
            self.text_projection, self.text_embed = encoder.text_projection, encoder.text_embed

    def forward(self, points: Tensor, labels: Tensor, text_embeds: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Points (n,N,2) resized pixels, labels (n,N), text (n,D) -> tokens (n,T',C), bias (n,T')."""
        visible = labels != PADDING
        tokens = self.fourier(points + 0.5, (self.image_size, self.image_size))  # (n,N,C), from the pixel's centre
        for kind in range(len(self.kinds)):
            tokens = torch.where((labels == kind)[..., None], tokens + self.kinds[kind], tokens)
        tokens = torch.where((labels == -1)[..., None], self.not_a_point, tokens)
        if self.pad:
            padded = visible.any(dim=1, keepdim=True) & ~(labels >= 2).any(dim=1, keepdim=True)
            tokens = torch.cat([tokens, self.not_a_point.expand(tokens.shape[0], 1, -1)], dim=1)
            visible = torch.cat([visible, padded], dim=1)
        if text_embeds is not None:
            given = text_embeds.abs().sum(dim=1, keepdim=True) > 0  # false for zeros, and for PyTorch's NaN
            vectors = torch.where(given, text_embeds, 0.0).to(tokens.dtype)
            tokens = torch.cat([tokens, (self.text_projection(vectors) + self.text_embed.weight)[:, None]], dim=1)
            visible = torch.cat([visible, given], dim=1)
        return tokens, torch.where(visible, 0.0, HIDDEN).to(tokens.dtype)


class RoughMask(nn.Module):
    """A rough mask (1,1,4h,4w) -> dense embedding (1,h*w,C), or the learned "no mask" (1,1,C)."""

    def __init__(self, model: SamModel):
        super().__init__()
        self.embed, self.no_mask = model.prompt_encoder.mask_embed, model.prompt_encoder.no_mask_embed

    def none(self) -> Tensor:
        return self.no_mask.weight[None]

    def forward(self, mask: Tensor, has_mask: Tensor) -> Tensor:
        embedding = self.embed(mask.to(self.no_mask.weight.dtype)).flatten(2).transpose(1, 2)
        return torch.where(has_mask[:, None, None] > 0.5, embedding, self.none())


class Positions(nn.Module):
    """Fourier features of the cells' centres, (1,h*w,C); computed, because stored they would be 4 MB."""

    def __init__(self, model: SamModel):
        super().__init__()
        self.fourier, self.side = model.shared_image_embedding, model.config.prompt_encoder_config.image_embedding_size

    def forward(self) -> Tensor:
        device = self.fourier.positional_embedding.device
        centres = (torch.arange(self.side, dtype=torch.float32, device=device) + 0.5) / self.side
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        return self.fourier(torch.stack([x, y], dim=-1)).flatten(0, 1)[None]


PARTS = {
    part.name: part
    for part in (VisionEncoder, OnePieceDecoder, PerImage, PerClick, TextEncoder, TextAlignment, MetaDecoder)
}


def missing_parts(model: SamModel) -> dict[str, str]:
    """Names of the parts that a model lacks, and what it lacks for them."""
    text = model.config.text_config
    missing = {} if text is not None else {TextEncoder.name: "text branch"}
    return missing if text is not None and text.alignment else missing | {TextAlignment.name: "text alignment"}
