"""Names of weights: Meta's layout and MobileSAM's on one side, transformers' (which is ours) on the other.

One table, read in both directions. Meta writes `image_encoder.blocks.3.norm1.weight` where transformers writes
`vision_encoder.layers.3.layer_norm1.weight`; MobileSAM has Meta's names outside its image encoder.

Source: the released code of segment-anything and MobileSAM, whose modules give these names. Differs from transformers'
conversion script in: it also goes back, and a name that is in no table is refused instead of passed on.
"""

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

__all__ = ["TIE", "TIED", "is_unused", "to_meta_names", "to_our_names"]

# "#" is a number, "@" a number that is one higher in our name, "*" the rest.
NAMES = (
    ("image_encoder.pos_embed", "vision_encoder.pos_embed"),
    ("image_encoder.patch_embed.proj.*", "vision_encoder.patch_embed.projection.*"),
    ("image_encoder.blocks.#.norm#.*", "vision_encoder.layers.#.layer_norm#.*"),
    ("image_encoder.blocks.#.attn.*", "vision_encoder.layers.#.attn.*"),
    ("image_encoder.blocks.#.mlp.*", "vision_encoder.layers.#.mlp.*"),
    ("image_encoder.neck.0.*", "vision_encoder.neck.conv1.*"),
    ("image_encoder.neck.1.*", "vision_encoder.neck.layer_norm1.*"),
    ("image_encoder.neck.2.*", "vision_encoder.neck.conv2.*"),
    ("image_encoder.neck.3.*", "vision_encoder.neck.layer_norm2.*"),
    # MobileSAM's TinyViT, which downsamples at the end of a stage; ours at the start of the next one.
    ("image_encoder.patch_embed.seq.0.c.*", "vision_encoder.patch_embed.conv1.conv.*"),
    ("image_encoder.patch_embed.seq.0.bn.*", "vision_encoder.patch_embed.conv1.bn.*"),
    ("image_encoder.patch_embed.seq.2.c.*", "vision_encoder.patch_embed.conv2.conv.*"),
    ("image_encoder.patch_embed.seq.2.bn.*", "vision_encoder.patch_embed.conv2.bn.*"),
    ("image_encoder.layers.@.downsample.conv#.c.*", "vision_encoder.stages.@.downsample.conv#.conv.*"),
    ("image_encoder.layers.@.downsample.conv#.bn.*", "vision_encoder.stages.@.downsample.conv#.bn.*"),
    ("image_encoder.layers.#.blocks.#.conv#.c.*", "vision_encoder.stages.#.blocks.#.conv#.conv.*"),
    ("image_encoder.layers.#.blocks.#.conv#.bn.*", "vision_encoder.stages.#.blocks.#.conv#.bn.*"),
    ("image_encoder.layers.#.blocks.#.local_conv.c.*", "vision_encoder.stages.#.blocks.#.local_conv.conv.*"),
    ("image_encoder.layers.#.blocks.#.local_conv.bn.*", "vision_encoder.stages.#.blocks.#.local_conv.bn.*"),
    ("image_encoder.layers.#.blocks.#.attn.*", "vision_encoder.stages.#.blocks.#.attn.*"),
    ("image_encoder.layers.#.blocks.#.mlp.*", "vision_encoder.stages.#.blocks.#.mlp.*"),
    # The prompt encoder; its Fourier matrix is the image's too, and Meta has it once.
    ("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", "shared_image_embedding.positional_embedding"),
    ("prompt_encoder.point_embeddings.#.*", "prompt_encoder.point_embed.#.*"),
    ("prompt_encoder.not_a_point_embed.*", "prompt_encoder.not_a_point_embed.*"),
    ("prompt_encoder.no_mask_embed.*", "prompt_encoder.no_mask_embed.*"),
    ("prompt_encoder.mask_downscaling.0.*", "prompt_encoder.mask_embed.conv1.*"),
    ("prompt_encoder.mask_downscaling.1.*", "prompt_encoder.mask_embed.layer_norm1.*"),
    ("prompt_encoder.mask_downscaling.3.*", "prompt_encoder.mask_embed.conv2.*"),
    ("prompt_encoder.mask_downscaling.4.*", "prompt_encoder.mask_embed.layer_norm2.*"),
    ("prompt_encoder.mask_downscaling.6.*", "prompt_encoder.mask_embed.conv3.*"),
    # The mask decoder.
    ("mask_decoder.iou_token.*", "mask_decoder.iou_token.*"),
    ("mask_decoder.mask_tokens.*", "mask_decoder.mask_tokens.*"),
    ("mask_decoder.transformer.layers.#.norm#.*", "mask_decoder.transformer.layers.#.layer_norm#.*"),
    ("mask_decoder.transformer.layers.#.self_attn.*", "mask_decoder.transformer.layers.#.self_attn.*"),
    ("mask_decoder.transformer.layers.#.mlp.*", "mask_decoder.transformer.layers.#.mlp.*"),
    (
        "mask_decoder.transformer.layers.#.cross_attn_token_to_image.*",
        "mask_decoder.transformer.layers.#.cross_attn_token_to_image.*",
    ),
    (
        "mask_decoder.transformer.layers.#.cross_attn_image_to_token.*",
        "mask_decoder.transformer.layers.#.cross_attn_image_to_token.*",
    ),
    ("mask_decoder.transformer.final_attn_token_to_image.*", "mask_decoder.transformer.final_attn_token_to_image.*"),
    ("mask_decoder.transformer.norm_final_attn.*", "mask_decoder.transformer.layer_norm_final_attn.*"),
    ("mask_decoder.output_upscaling.0.*", "mask_decoder.upscale_conv1.*"),
    ("mask_decoder.output_upscaling.1.*", "mask_decoder.upscale_layer_norm.*"),
    ("mask_decoder.output_upscaling.3.*", "mask_decoder.upscale_conv2.*"),
)
TIE = "shared_image_embedding.positional_embedding"
TIED = "prompt_encoder.shared_embedding.positional_embedding"
"""The Fourier matrix stands under two names here, the image's and the prompts'; the values are the same."""

# MobileSAM's file holds the classifier that its encoder was made from; no part of the model reads it.
UNUSED = ("image_encoder.norm_head.", "image_encoder.head.")

Value = TypeVar("Value")


def is_unused(name: str) -> bool:
    """Whether a weight of MobileSAM's file is read by no part of the model."""
    return name.startswith(UNUSED)


def to_our_names(weights: Mapping[str, Value]) -> dict[str, Value]:
    """Meta's or MobileSAM's names -> transformers', which are ours; the Fourier matrix under both of its names.

    Raises:
        ValueError: Some names are in no table.
    """
    depth = 1 + max((_number(name) for name in weights if name.startswith(IOU_HEAD + "layers.")), default=-1)
    renamed = _rename(weights, [*NAMES, *_head_names(depth)])
    if TIE in renamed:
        renamed[TIED] = renamed[TIE]
    return renamed


def to_meta_names(weights: Mapping[str, Value]) -> dict[str, Value]:
    """Our names -> Meta's or MobileSAM's, by the kind of image encoder. Text has no name there.

    Raises:
        ValueError: Some names are in no table.
    """
    depth = 2 + len([name for name in weights if re.fullmatch(re.escape(IOU_HEAD) + r"layers\.\d+\.weight", name)])
    pairs = [(ours, meta) for meta, ours in [*NAMES, *_head_names(depth)]]
    once = {(TIE if name == TIED else name): value for name, value in weights.items()}
    return _rename(once, pairs, step=-1)


IOU_HEAD = "mask_decoder.iou_prediction_head."
HYPERNETWORKS = "mask_decoder.output_hypernetworks_mlps.#."


def _head_names(iou_depth: int) -> list[tuple[str, str]]:
    """Names of the MLPs, which Meta counts through, and whose first and last layer transformers names."""
    pairs = []
    for mlp, depth in ((HYPERNETWORKS, 3), (IOU_HEAD, iou_depth)):
        ours = ["proj_in", *(f"layers.{index}" for index in range(depth - 2)), "proj_out"]
        pairs += [(f"{mlp}layers.{index}.*", f"{mlp}{name}.*") for index, name in enumerate(ours)]
    return pairs


def _number(name: str) -> int:
    """The layer that a weight of the IoU head lies in."""
    found = re.match(r"layers\.(\d+)\.", name.removeprefix(IOU_HEAD))
    return int(found[1]) if found else -1


def _rename(weights: Mapping[str, Value], pairs: Iterable[tuple[str, str]], step: int = 1) -> dict[str, Value]:
    patterns = [(_pattern(old), old, new) for old, new in pairs]
    renamed, unknown = {}, []
    for name, value in weights.items():
        for pattern, old, new in patterns:
            found = pattern.fullmatch(name)
            if found:
                renamed[_fill(old, new, found.groups(), step)] = value
                break
        else:
            unknown.append(name)
    if unknown:
        shown = ", ".join(map(repr, unknown[:3])) + (f" and {len(unknown) - 3} more" if len(unknown) > 3 else "")
        raise ValueError(
            f"{len(unknown)} of {len(weights)} weights belong to no part of SAM: {shown}; "
            "a variant with parts of its own (HQ-SAM, adapters, LoRA) cannot be converted without losing them"
        )
    return renamed


def _pattern(template: str) -> re.Pattern:
    escaped = re.escape(template)
    return re.compile(escaped.replace(r"\#", r"(\d+)").replace("@", r"(\d+)").replace(r"\*", "(.+)"))


def _fill(old: str, new: str, found: tuple[str, ...], step: int) -> str:
    """The new name: what stood at the marks of the old one, put at the marks of the new one."""
    marks = re.findall(r"[#@*]", old)
    values = iter(str(int(value) + step) if mark == "@" else value for mark, value in zip(marks, found, strict=True))
    return re.sub(r"[#@*]", lambda mark: next(values), new)
