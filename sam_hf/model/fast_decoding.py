"""The mask decoder without gradients: SamMaskDecoder's numbers, a fraction of its work.

image (B,C,h,w), sparse tokens (B,P,T',C) -> tokens, image tokens and predicted IoU -> mask logits of those asked for

Read mask_decoder.py and two_way_transformer.py first: this is the same network, reordered by exact identities.
- Prompts of one image enter the first block with the same image tokens, whose projections are made once.
- Where tokens are few, they come to the image tokens and not these to them (few_token_attention.py).
- Only the output tokens are read after the last attention. The IoU head needs no mask, so masks can wait for it.
- Masks stay in the image tokens' layout to the end (mask_upscaling.py).

Source: Segment Anything, App. A, as the plain modules. Memory: image tokens of few prompts at a time, whatever P is.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cpu_inference import multiply
from .few_token_attention import (
    ImageTokens,
    has_few_tokens,
    image_from_tokens,
    keys_and_values,
    mix_tokens,
    tokens_from_image,
    working_bytes,
)
from .mask_decoder import padding_bias
from .mask_upscaling import MaskUpscaling
from .pretrained_sam import SamPreTrainedModel
from .two_way_transformer import SamAttention, SamTwoWayAttentionBlock

_TOKENS_AT_ONCE = 64  # prompts whose tokens go through the first block together
_WORTH_SHARING = 3  # prompts per image from which the first block's shared projections are cheaper than none


@dataclass
class PreparedImages:
    """Images to decode prompts on; `FastMaskDecoder.prepare` makes it.

    Attributes:
        embedding: (B,h*w,C), as the image encoder left it.
        tokens: (B,h*w,C), with the dense embedding that all prompts share; contiguous.
        positions: (1,h*w,C).
        size: (h,w).
        first_block: Projections for the first block, made when they are first needed: keys (B,heads,h*w,d) and values
            (B,heads,h*w,d) of tokens-to-image, queries (B,heads,d,h*w) of image-to-tokens.
    """

    embedding: Tensor
    tokens: Tensor
    positions: Tensor
    size: tuple[int, int]
    first_block: tuple[Tensor, Tensor, Tensor] | None = None


@dataclass
class Attended:
    """Prompts that have met their images, and masks still to be made.

    Attributes:
        tokens: (B*P,5,C), the IoU token and the four mask tokens.
        image: (B*P,h*w,C).
        iou_scores: (B,P,4), predicted IoU of all four masks.
        size: (h,w).
    """

    tokens: Tensor
    image: Tensor
    iou_scores: Tensor
    size: tuple[int, int]


def _for_inference(method: Callable) -> Callable:
    """Refuse to lose gradients silently; compute in the weights' precision even inside of autocast."""

    @wraps(method)
    def run(self, *args, **kwargs):
        if torch.is_grad_enabled():
            raise RuntimeError(
                "FastMaskDecoder records no gradients: use it under torch.no_grad() or torch.inference_mode(), "
                "or call the model, which decodes with gradients"
            )
        with torch.autocast(self._decoder.iou_token.weight.device.type, enabled=False):
            return method(self, *args, **kwargs)

    return run


class FastMaskDecoder:
    """A `SamModel`'s mask decoder for inference; it holds no weights and reads the model's at each call.

    Args:
        model: A `SamModel` in eval mode whose decoder is unchanged (see stand_in.py).

    Example:
        >>> decoder = FastMaskDecoder(model)
        >>> images = decoder.prepare(model.get_image_embeddings(pixel_values))
        >>> attended = decoder.attend(images, model.get_prompt_embeddings(points, labels)[0])
        >>> good = (attended.iou_scores.flatten(0, 1) > 0.88).nonzero()
        >>> logits = decoder.masks(attended, *good.unbind(dim=1))
    """

    def __init__(self, model: SamPreTrainedModel):
        self._model = model
        self._decoder = model.mask_decoder
        self._num_output_tokens = 1 + self._decoder.num_mask_tokens

    @_for_inference
    def prepare(self, image_embeddings: Tensor, dense: Tensor | None = None) -> PreparedImages:
        """What all prompts of an image share.

        Args:
            image_embeddings: (B,C,h,w).
            dense: (B or 1,C,h,w), a dense embedding that all prompts share; None: the learned "no mask".

        Raises:
            RuntimeError: Gradients are recorded.
        """
        image_embeddings = image_embeddings.to(self._model.dtype)
        positions = _cells_first(self._model.get_image_wide_positional_embeddings())
        embedding = _cells_first(image_embeddings)
        if dense is None:
            shared = self._model.prompt_encoder.no_mask_embed.weight  # (1,C)
        else:
            shared = _cells_first(dense.to(embedding.dtype))
        size = (image_embeddings.shape[-2], image_embeddings.shape[-1])
        # Contiguous at once: one memory layout, so that rounding does not depend on where the embedding came from.
        tokens = torch.add(embedding, shared, out=embedding.new_empty(embedding.shape))
        return PreparedImages(embedding, tokens, positions.contiguous(), size)

    @_for_inference
    def attend(
        self,
        images: PreparedImages,
        sparse: Tensor | None,
        dense: Tensor | None = None,
        visible: Tensor | None = None,
    ) -> Attended:
        """Let prompts and images attend to each other.

        Args:
            images: From `prepare`.
            sparse: (B,P,T',C), from `SamModel.get_prompt_embeddings`; None: neither points, boxes nor text.
            dense: (B,P,C,h,w), a dense embedding per prompt; None: what `prepare` was given.
            visible: (B,P,T') bool, False at padding; None: all are prompts.

        Raises:
            RuntimeError: Gradients are recorded.
        """
        batch_size, num_prompts = _count(images, sparse, dense)
        total = batch_size * num_prompts
        tokens = images.tokens.new_empty(total, self._num_output_tokens, images.tokens.shape[-1])
        image = images.tokens.new_empty(
            total if total > _prompts_at_once(images.tokens) else 0, *images.tokens.shape[1:]
        )
        for rows, some_tokens, some_image in self._stream(images, sparse, dense, visible):
            tokens[rows] = some_tokens
            if len(some_image) == total:
                image = some_image
            else:
                image[rows] = some_image
        iou_scores = self._decoder.iou_prediction_head(tokens[:, 0])
        return Attended(tokens, image, iou_scores.unflatten(0, (batch_size, num_prompts)), images.size)

    @_for_inference
    def masks(self, attended: Attended, prompts: Tensor, tokens: Tensor) -> Tensor:
        """Mask logits of some prompts' mask tokens; only prompts that occur are upscaled.

        Args:
            attended: From `attend`.
            prompts: (n,) integers, places in B*P.
            tokens: (n,) integers, mask token 0..3 each.

        Returns:
            (n,4h,4w), threshold 0.0.

        Raises:
            RuntimeError: Gradients are recorded.
            ValueError: There is no such prompt or token, or they are no pairs.
        """
        if prompts.ndim != 1 or prompts.shape != tokens.shape:
            raise ValueError(
                "`prompts` and `tokens` must both have shape (n,); "
                f"got {tuple(prompts.shape)} and {tuple(tokens.shape)}"
            )
        height, width = attended.size
        device = attended.image.device
        made = attended.image.new_empty(len(prompts), 4 * height, 4 * width)
        if len(prompts) == 0:
            return made
        rows, row_of = prompts.cpu().unique(return_inverse=True)
        kinds, kind_of = tokens.cpu().unique(return_inverse=True)
        _check_range("prompts", rows, len(attended.tokens))
        _check_range("tokens", kinds, self._decoder.num_mask_tokens)
        upscale = MaskUpscaling(self._decoder, attended.size, kinds.tolist())
        step = _prompts_at_once(attended.image)
        for start in range(0, len(rows), step):
            chosen = rows[start : start + step]
            first, last = int(chosen[0]), int(chosen[-1])
            if last - first == len(chosen) - 1:  # neighbours need no copy
                image = attended.image[first : last + 1]
            else:
                image = attended.image[chosen.to(device)]
            logits = upscale(image, attended.tokens[chosen.to(device)])
            places = ((row_of >= start) & (row_of < start + step)).nonzero()[:, 0]
            made[places.to(device)] = logits[(row_of[places] - start).to(device), kind_of[places].to(device)]
        return made

    @_for_inference
    def decode(
        self,
        image_embeddings: Tensor,
        sparse_prompt_embeddings: Tensor | None,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
        visible_tokens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Arguments and results of `SamMaskDecoder.forward`: mask logits (B,P,M,4h,4w), predicted IoU (B,P,M).

        Raises:
            RuntimeError: Gradients are recorded.
        """
        per_prompt = dense_prompt_embeddings.ndim == 5
        images = self.prepare(image_embeddings, None if per_prompt else dense_prompt_embeddings)
        prompts = (images, sparse_prompt_embeddings, dense_prompt_embeddings if per_prompt else None)
        batch_size, num_prompts = _count(*prompts)
        kinds = list(range(1, self._decoder.num_mask_tokens)) if multimask_output else [0]
        upscale = MaskUpscaling(self._decoder, images.size, kinds)
        shape = (batch_size * num_prompts, len(kinds), 4 * images.size[0], 4 * images.size[1])
        masks, iou_scores = images.tokens.new_empty(shape), images.tokens.new_empty(shape[:2])
        for rows, tokens, image in self._stream(*prompts, visible_tokens):
            masks[rows] = upscale(image, tokens)
            iou_scores[rows] = self._decoder.iou_prediction_head(tokens[:, 0])[:, kinds[0] : kinds[-1] + 1]
        return masks.unflatten(0, (batch_size, num_prompts)), iou_scores.unflatten(0, (batch_size, num_prompts))

    # --- the two-way transformer ---------------------------------------------------------------------------------

    def _stream(
        self, images: PreparedImages, sparse: Tensor | None, dense: Tensor | None, visible: Tensor | None
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Places in B*P, output tokens (n,5,C) and image tokens (n,h*w,C) of few prompts after few."""
        batch_size, num_prompts = _count(images, sparse, dense)
        output_tokens = torch.cat([self._decoder.iou_token.weight, self._decoder.mask_tokens.weight])
        tokens = output_tokens.expand(batch_size, num_prompts, -1, -1)
        if sparse is not None:
            tokens = torch.cat([tokens, sparse.to(tokens.dtype)], dim=2)  # (B,P,T,C)
        bias = padding_bias(visible, len(output_tokens), tokens.dtype)
        if bias is not None:
            bias = bias.unflatten(0, (batch_size, num_prompts))  # (B,P,1,1,T)
        dense = None if dense is None else dense.to(tokens.dtype)
        few = has_few_tokens(self._decoder.transformer.final_attn_token_to_image, tokens.shape[2])
        share = few and dense is None and num_prompts >= _WORTH_SHARING
        queries = tokens
        if share:
            queries = torch.empty_like(tokens)
            for part in _pieces(batch_size, num_prompts, _TOKENS_AT_ONCE):
                queries[part] = self._first_tokens(images, part[0], tokens[part], None if bias is None else bias[part])
        for part in _pieces(batch_size, num_prompts, _prompts_at_once(images.tokens)):
            of_images, of_prompts = part
            some_bias = None if bias is None else bias[part].flatten(0, 1)  # (n,1,1,T)
            some = (queries[part].flatten(0, 1), tokens[part].flatten(0, 1), some_bias)
            shape = (len(some[0]), *images.tokens.shape[1:])
            if share:
                image = ImageTokens(images.tokens[of_images], images.positions, shape)
                self._first_image(images, of_images, image, *some)
            else:
                cells = images.tokens[of_images].unsqueeze(1)
                if dense is not None:
                    cells = images.embedding[of_images].unsqueeze(1) + _cells_first(dense[part])
                cells = cells.expand(-1, of_prompts.stop - of_prompts.start, -1, -1).flatten(0, 1)
                image = ImageTokens(cells, images.positions, shape)
                image.place()
            start = of_images.start * num_prompts + of_prompts.start
            blocks = self._decoder.transformer.layers[1 if share else 0 :]
            yield slice(start, start + shape[0]), self._remaining(blocks, *some, image, few), image.cells

    def _first_tokens(self, images: PreparedImages, rows: slice, tokens: Tensor, bias: Tensor | None) -> Tensor:
        """Tokens (b,p,T,C) of some images through the first block, whose keys and values are the images' own."""
        layer = self._decoder.transformer.layers[0]
        attention = layer.cross_attn_token_to_image
        keys, values, _ = self._first_block(images)
        shape = tokens.shape
        positions = tokens.flatten(0, 1)  # (b*p,T,C)
        queries = _attend_to_tokens(layer, positions, positions, None if bias is None else bias.flatten(0, 1))
        query = attention.q_proj(queries + positions).reshape(shape[0], shape[1] * shape[2], -1)  # (b,p*T,I)
        attended = F.scaled_dot_product_attention(
            attention.separate_heads(query), keys[rows], values[rows], scale=attention.scaling
        )
        attended = attention.out_proj(attended.transpose(1, 2).flatten(2)).reshape(positions.shape)
        return _digest(layer, queries, attended).unflatten(0, shape[:2])

    def _first_image(
        self,
        images: PreparedImages,
        rows: slice,
        image: ImageTokens,
        queries: Tensor,
        positions: Tensor,
        bias: Tensor | None,
    ) -> None:
        """The image's side of the first block, for some images' prompts: tokens (b*p,T,C), bias (b*p,1,1,T)."""
        layer = self._decoder.transformer.layers[0]
        attention = layer.cross_attn_image_to_token
        query = self._first_block(images)[2][rows]  # (b,heads,d,h*w)
        key, value = keys_and_values(attention, queries, positions)  # (b*p,heads,T,d)
        key = key.unflatten(0, (len(query), -1)).transpose(1, 2)  # (b,heads,p,T,d)
        logits = (key.flatten(2, 3) @ query).unflatten(2, key.shape[2:4]).transpose(1, 2).flatten(0, 1)
        if bias is not None:
            logits += bias.transpose(-1, -2)  # (b*p,heads,T,h*w) and (b*p,1,T,1)
        image.take(*mix_tokens(attention, logits, value), layer.layer_norm4)

    def _first_block(self, images: PreparedImages) -> tuple[Tensor, Tensor, Tensor]:
        """See `PreparedImages.first_block`."""
        if images.first_block is None:
            layer = self._decoder.transformer.layers[0]
            to_image, to_tokens = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
            placed = images.tokens + images.positions
            key, value, query = (
                to_image.separate_heads(
                    multiply(cells.flatten(0, 1), projection.weight, projection.bias).unflatten(0, cells.shape[:2])
                )
                for projection, cells in (
                    (to_image.k_proj, placed),
                    (to_image.v_proj, images.tokens),
                    (to_tokens.q_proj, placed),
                )
            )
            images.first_block = (key.contiguous(), value.contiguous(), query.transpose(2, 3).contiguous())
        return images.first_block

    def _remaining(
        self,
        blocks: nn.ModuleList,
        queries: Tensor,
        positions: Tensor,
        bias: Tensor | None,
        image: ImageTokens,
        few: bool,
    ) -> Tensor:
        """Tokens (n,T,C) and image through blocks and the final attention; output tokens (n,5,C)."""
        transformer = self._decoder.transformer
        look = tokens_from_image if few else SamAttention.forward
        for layer in blocks:
            queries = _attend_to_tokens(layer, queries, positions, bias)
            attended = look(layer.cross_attn_token_to_image, queries + positions, image.placed, image.cells)
            queries = _digest(layer, queries, attended)
            to_tokens = layer.cross_attn_image_to_token
            if few:
                image.take(*image_from_tokens(to_tokens, image.placed, queries, positions, bias), layer.layer_norm4)
            else:
                attended = to_tokens(image.placed, queries + positions, queries, bias)
                image.cells = layer.layer_norm4(attended.add_(image.cells))
                image.place()
        queries, positions = queries[:, : self._num_output_tokens], positions[:, : self._num_output_tokens]
        attended = look(transformer.final_attn_token_to_image, queries + positions, image.placed, image.cells)
        return transformer.layer_norm_final_attn(queries + attended)


def _attend_to_tokens(
    layer: SamTwoWayAttentionBlock, queries: Tensor, positions: Tensor, bias: Tensor | None
) -> Tensor:
    """The first step of `SamTwoWayAttentionBlock.forward`: tokens to tokens."""
    if layer.skip_first_layer_pe:
        return layer.layer_norm1(layer.self_attn(queries, queries, queries, bias))
    query = queries + positions
    return layer.layer_norm1(queries + layer.self_attn(query, query, queries, bias))


def _digest(layer: SamTwoWayAttentionBlock, queries: Tensor, attended: Tensor) -> Tensor:
    """Its second and third step, after what the tokens took from the image: layer norm, MLP."""
    queries = layer.layer_norm2(queries + attended)
    return layer.layer_norm3(queries + layer.mlp(queries))


def _cells_first(features: Tensor) -> Tensor:
    """(...,C,h,w) -> (...,h*w,C)."""
    return features.flatten(-2).transpose(-1, -2)


def _count(images: PreparedImages, sparse: Tensor | None, dense: Tensor | None) -> tuple[int, int]:
    """B and P."""
    if sparse is not None:
        return images.tokens.shape[0], sparse.shape[1]
    return images.tokens.shape[0], 1 if dense is None else dense.shape[1]


def _prompts_at_once(image: Tensor) -> int:
    """How many prompts' image tokens (.,h*w,C) are worked on together."""
    return max(1, working_bytes(image.device) // (image[0].numel() * image.element_size()))


def _pieces(rows: int, columns: int, limit: int) -> Iterator[tuple[slice, slice]]:
    """Cut (rows, columns) into pieces of at most `limit` places: whole rows, or parts of a single one."""
    height = max(1, limit // max(columns, 1))
    for top in range(0, rows, height):
        for left in range(0, columns, limit):
            yield slice(top, min(top + height, rows)), slice(left, min(left + limit, columns))


def _check_range(name: str, values: Tensor, stop: int) -> None:
    """Refuse sorted places outside 0..stop-1."""
    if values[0] < 0 or values[-1] >= stop:
        raise ValueError(f"`{name}` must lie in 0..{stop - 1}; got {int(values[0])}..{int(values[-1])}")
