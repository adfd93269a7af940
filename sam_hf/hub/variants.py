"""Which SAM a checkpoint is, told from the shapes of its weights.

A `.pth` has no configuration. What its tensors say is taken from them; what they do not say is Meta's (eight heads in
the decoder) or MobileSAM's (1024 pixels, strides 2, 2, 1), and a note says so where that may be wrong.

Source: the build functions of segment-anything, MobileSAM and SlimSAM. Differs in: nobody has to say which one it is.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sam_hf.model.configuration_sam import SamConfig, SamTinyViTConfig

__all__ = [
    "META_DECODER_EPS",
    "TRANSFORMERS_DECODER_EPS",
    "VARIANTS",
    "check_name",
    "check_variant",
    "describe",
    "infer_config",
    "meta_differences",
    "variant_of",
]

META_DECODER_EPS = 1e-5
TRANSFORMERS_DECODER_EPS = 1e-6
"""Epsilon of the layer norms in the two-way blocks: torch's default in Meta's code, another one in transformers'."""
META_DECODER_HEADS = 8
MOBILE_SAM_SIZE = 1024

# What Meta's and MobileSAM's code have built in, and no tensor tells; a shape that differs would not load there.
META_SETTINGS = (
    ("mask_decoder_config.num_attention_heads", META_DECODER_HEADS),
    ("mask_decoder_config.layer_norm_eps", META_DECODER_EPS),
    ("mask_decoder_config.hidden_act", "relu"),
    ("prompt_encoder_config.layer_norm_eps", 1e-6),
    ("prompt_encoder_config.hidden_act", "gelu"),
    ("vision_config.hidden_act", "gelu"),
    ("image_processor.image_mean", (123.675 / 255, 116.28 / 255, 103.53 / 255)),
    ("image_processor.image_std", (58.395 / 255, 57.12 / 255, 57.375 / 255)),
    ("image_processor.rescale_factor", 1 / 255),
    ("image_processor.do_rescale", True),
    ("image_processor.do_normalize", True),
)
VIT_SETTINGS = (("vision_config.layer_norm_eps", 1e-6),)
TINY_VIT_SETTINGS = (("vision_config.image_size", MOBILE_SAM_SIZE), ("vision_config.strides", (2, 2, 1)))

VARIANTS = {
    "vit_b": (768, 12, 3072),
    "vit_l": (1024, 24, 4096),
    "vit_h": (1280, 32, 5120),
    "slimsam_50": (384, 12, 1536),
    "slimsam_77": (168, 12, 696),
    "vit_t": (64, 128, 160, 320),
}
"""Width, blocks and MLP width of the ViTs; widths of the stages of MobileSAM's TinyViT."""
SYNONYMS = {
    **{"base": "vit_b", "large": "vit_l", "huge": "vit_h", "default": "vit_h"},
    **{"mobile_sam": "vit_t", "mobilesam": "vit_t", "vit_tiny": "vit_t"},
    **{"vit_p50": "slimsam_50", "slimsam_50_uniform": "slimsam_50"},
    **{"vit_p77": "slimsam_77", "slimsam_77_uniform": "slimsam_77"},
}


def infer_config(
    weights: Mapping[str, Tensor], *, epsilon: float = META_DECODER_EPS, size: int | None = None
) -> tuple[SamConfig, list[str]]:
    """The configuration of weights under Meta's or MobileSAM's names, and notes on what they do not tell.

    Args:
        weights: By name; only shapes are looked at.
        epsilon: Of the layer norms in the decoder's blocks, by whose code the weights were made.
        size: Side of the input in pixels, for those that do not say.

    Raises:
        ValueError: A weight is missing that would tell, or they contradict each other.
    """
    if "image_encoder.patch_embed.seq.0.c.weight" in weights:
        vision, notes = _tiny_vit(weights, size)
    elif "image_encoder.patch_embed.proj.weight" in weights:
        vision, notes = _vit(weights, size), []
    else:
        raise ValueError("the image encoder is neither SAM's ViT nor MobileSAM's TinyViT, or is missing")
    decoder = _decoder(weights) | {"layer_norm_eps": epsilon}
    inner = _shape(weights, "mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight")[0]
    if inner % META_DECODER_HEADS:
        raise ValueError(
            f"the decoder's attention is {inner} wide, which {META_DECODER_HEADS} heads, Meta's number, do not "
            "divide: say how many it has by a config.json (config)"
        )
    if decoder["hidden_size"] != 256:
        notes.append(f"the weights do not tell the decoder's number of heads; {META_DECODER_HEADS} assumed, as Meta's")
    prompts = {
        "mask_input_channels": _shape(weights, "prompt_encoder.mask_downscaling.3.weight", 4)[0],
        "num_point_embeddings": _count(weights, r"prompt_encoder\.point_embeddings\.(\d+)\.weight"),
    }
    vision["output_channels"] = _shape(weights, "image_encoder.neck.0.weight", 4)[0]
    vision["num_pos_feats"] = _shape(weights, "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix")[1]
    return SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder), notes


def variant_of(config: SamConfig) -> str | None:
    """The published variant that a configuration has the sizes of, if any."""
    vision = config.vision_config
    if isinstance(vision, SamTinyViTConfig):
        sizes = tuple(vision.embed_dims)
    else:
        sizes = (vision.hidden_size, vision.num_hidden_layers, vision.mlp_dim)
    return next((name for name, published in VARIANTS.items() if published == sizes), None)


def describe(config: SamConfig) -> str:
    """A variant in words: its name, sizes and input."""
    vision, name = config.vision_config, variant_of(config) or "custom"
    if isinstance(vision, SamTinyViTConfig):
        sizes = f"TinyViT, widths {'/'.join(map(str, vision.embed_dims))}"
    else:
        sizes = f"ViT, width {vision.hidden_size}, {vision.num_hidden_layers} blocks, MLP {vision.mlp_dim}"
    return f"{name} ({sizes}, {vision.image_size} px)"


def meta_differences(config: SamConfig, images: Any) -> list[str]:
    """What changes masks in Meta's code, or MobileSAM's, where its settings are not the checkpoint's; one note each.

    Args:
        config: The checkpoint's.
        images: Its image processor.
    """
    is_tiny = isinstance(config.vision_config, SamTinyViTConfig)
    code = "MobileSAM's code" if is_tiny else "Meta's code"
    notes = []
    for name, expected in META_SETTINGS + (TINY_VIT_SETTINGS if is_tiny else VIT_SETTINGS):
        part, field = name.split(".")
        here = getattr(images if part == "image_processor" else getattr(config, part), field)
        if not _alike(here, expected):
            notes.append(
                f"{name} is {_shown(here)} here, and {_shown(expected)} in {code}: masks differ there; converted "
                "back, they are the same"
            )
    return notes


def _alike(here: Any, expected: Any) -> bool:
    if isinstance(expected, tuple) and isinstance(here, (list, tuple)):
        return len(here) == len(expected) and all(map(_alike, here, expected))
    if isinstance(expected, float) and isinstance(here, (int, float)):
        return math.isclose(here, expected, rel_tol=1e-5)
    return here == expected


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def check_name(variant: str | None) -> None:
    """Refuses a variant that there is none of.

    Raises:
        ValueError: It has another name.
    """
    if variant is not None and _spelt(variant) not in VARIANTS:
        raise ValueError(f"variant: expected one of {', '.join(VARIANTS)}; got {variant!r}")


def _spelt(variant: str) -> str:
    spelt = str(variant).lower().replace("-", "_")
    return SYNONYMS.get(spelt, spelt)


def check_variant(given: str | None, config: SamConfig, name: str) -> None:
    """Refuses a checkpoint that is not the variant it was said to be.

    Raises:
        ValueError: It is another one, which is named; or `given` is no variant.
    """
    if given is None:
        return
    check_name(given)
    wanted = _spelt(given)
    if wanted != variant_of(config):
        raise ValueError(f"{name!r} is no {wanted}: its weights are those of {describe(config)}")


def _vit(weights: Mapping[str, Tensor], size: int | None) -> dict[str, Any]:
    hidden, channels, patch, _ = _shape(weights, "image_encoder.patch_embed.proj.weight", 4)
    blocks = _count(weights, r"image_encoder\.blocks\.(\d+)\.norm1\.weight")
    tables = [f"image_encoder.blocks.{index}.attn.rel_pos_h" for index in range(blocks)]
    sides = [(_shape(weights, table)[0] + 1) // 2 for table in tables if table in weights]
    if len(sides) not in (0, blocks):
        raise ValueError(f"{blocks - len(sides)} of {blocks} blocks have no relative positions")
    positions = "image_encoder.pos_embed" in weights
    if positions:
        cells = _shape(weights, "image_encoder.pos_embed", 4)[1]
    else:
        cells = max(sides, default=0) if size is None else size // patch
    if not sides:
        raise ValueError("there are no relative positions, which tell heads and windows: give a config.json (config)")
    heads = hidden // _shape(weights, tables[0])[1]
    windows = _windows(sides, cells)
    return windows | {
        "hidden_size": hidden,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "num_channels": channels,
        "image_size": cells * patch,
        "patch_size": patch,
        "mlp_dim": _shape(weights, "image_encoder.blocks.0.mlp.lin1.weight")[0],
        "qkv_bias": "image_encoder.blocks.0.attn.qkv.bias" in weights,
        "use_abs_pos": positions,
        "use_rel_pos": True,
    }


def _windows(sides: list[int], cells: int) -> dict[str, Any]:
    """Which blocks attend globally, and the window of the others, from the maps that their tables are made for."""
    others = sorted({side for side in sides if side != cells})
    if len(others) > 1:
        raise ValueError(
            f"the map has {cells} x {cells} cells, but blocks have relative positions for maps of {others}: "
            "one window size was expected; positions that are resized at run time are not supported"
        )
    return {
        "window_size": others[0] if others else 0,
        "global_attn_indexes": [index for index, side in enumerate(sides) if side == cells],
    }


def _tiny_vit(weights: Mapping[str, Tensor], size: int | None) -> tuple[dict[str, Any], list[str]]:
    stages = _count(weights, r"image_encoder\.layers\.(\d+)\.blocks\.0\..*")
    stem = _shape(weights, "image_encoder.patch_embed.seq.2.c.weight", 4)[0]
    channels = _shape(weights, "image_encoder.patch_embed.seq.0.c.weight", 4)[1]
    expand = _shape(weights, "image_encoder.layers.0.blocks.0.conv1.c.weight", 4)[0] / stem
    widths, depths, heads, windows, ratio, kernel = [stem], [], [max(1, stem // 32)], [7], 4.0, 3
    for stage in range(stages):
        depths.append(_count(weights, rf"image_encoder\.layers\.{stage}\.blocks\.(\d+)\..*"))
        if stage == 0:
            continue  # convolutions: no attention
        block = f"image_encoder.layers.{stage}.blocks.0."
        hidden, width = _shape(weights, block + "mlp.fc1.weight")
        number, offsets = _shape(weights, block + "attn.attention_biases")
        widths.append(width)
        heads.append(number)
        windows.append(math.isqrt(offsets))
        ratio, kernel = hidden / width, _shape(weights, block + "local_conv.c.weight", 4)[2]
    size = MOBILE_SAM_SIZE if size is None else size
    strides = [2] * (stages - 2) + [1]
    vision = {
        "model_type": SamTinyViTConfig.model_type,
        "embed_dims": widths,
        "depths": depths,
        "num_heads": heads,
        "window_sizes": windows,
        "strides": strides,
        "mlp_ratio": ratio,
        "mbconv_expand_ratio": expand,
        "local_conv_size": kernel,
        "num_channels": channels,
        "image_size": size,
    }
    said = f"{size} px and strides {', '.join(map(str, strides))}"
    return vision, [f"the weights do not tell the size of the input and the strides; {said} assumed, as MobileSAM's"]


def _decoder(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    blocks = "mask_decoder.transformer.layers."
    width = _shape(weights, "mask_decoder.iou_token.weight")[1]
    return {
        "hidden_size": width,
        "mlp_dim": _shape(weights, blocks + "0.mlp.lin1.weight")[0],
        "num_hidden_layers": _count(weights, r"mask_decoder\.transformer\.layers\.(\d+)\.norm1\.weight"),
        "num_attention_heads": META_DECODER_HEADS,
        "attention_downsample_rate": width // _shape(weights, blocks + "0.cross_attn_token_to_image.q_proj.weight")[0],
        "num_multimask_outputs": _shape(weights, "mask_decoder.mask_tokens.weight")[0] - 1,
        "iou_head_depth": _count(weights, r"mask_decoder\.iou_prediction_head\.layers\.(\d+)\.weight"),
        "iou_head_hidden_dim": _shape(weights, "mask_decoder.iou_prediction_head.layers.0.weight")[0],
    }


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    """Different numbers at the group of a pattern; they must be 0, 1, 2, ..."""
    found = {int(match[1]) for name in weights if (match := re.fullmatch(pattern, name))}
    if found != set(range(len(found))) or not found:
        raise ValueError(f"the numbers of the weights {pattern.replace(chr(92), '')} have gaps: {sorted(found)}")
    return len(found)


def _shape(weights: Mapping[str, Tensor], name: str, rank: int = 2) -> tuple[int, ...]:
    if name not in weights:
        raise ValueError(f"the weight {name!r} is missing")
    shape = tuple(weights[name].shape)
    if len(shape) != rank or 0 in shape:
        raise ValueError(f"the weight {name!r} must have {rank} dimensions, none of them 0; got the shape {shape}")
    return shape
