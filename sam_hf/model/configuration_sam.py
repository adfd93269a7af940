"""Configurations: the sizes of the network, one class per part, in transformers' own names.

`SamConfig` composes a vision, a prompt-encoder and a mask-decoder configuration and, where a checkpoint has a text
branch, a `SamTextConfig`. Sizes that several parts share (image size, patch size, width of the embeddings, number of
Fourier features) are derived from the vision part; a contradiction raises.

A plain SAM (ViT encoder, no text) reports and saves `model_type == "sam"`, so stock transformers loads it; anything
more is `"sam_hf"`, so that stock transformers never loads half of it in silence.

Source: Segment Anything, §3, App. A; field names of transformers 5.23. Differs in: `scale` and `initializer_range`
have values that train from scratch (transformers' 384 and 1e-10 do not); dropout, drop path, text and TinyViT are new.
"""

import os
from pathlib import Path
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import logging

from .atomic_saving import saved_whole
from .checkpoint_checks import check_config, check_values, config_named, usable_fields
from .checkpoint_files import read_json
from .checkpoint_names import resolve
from .hub_access import with_config_cached
from .remote_code import MODELS, PROCESSORS, write_remote_code

logger = logging.get_logger(__name__)


class _FromFile:
    """What is said in a file is usable here before a configuration is made of it; see `usable_fields`."""

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """Make a configuration of the content of a config.json; see transformers."""
        return super().from_dict(usable_fields(config_dict), **kwargs)

    @classmethod
    def _dict_from_json_file(cls, json_file: str | os.PathLike) -> dict[str, Any]:
        return read_json(Path(json_file))


@strict
class SamPromptEncoderConfig(PreTrainedConfig):
    """Sizes of the prompt encoder.

    Args:
        hidden_size: Width of a prompt token.
        image_size: Side of the model's square input, pixels.
        patch_size: Input pixels per embedding cell.
        mask_input_channels: Channels inside the mask-prompt branch.
        num_point_embeddings: Learned types: background, foreground, box corner 1, box corner 2.
        hidden_act: Activation of the mask-prompt branch.
        layer_norm_eps: Epsilon of its layer norms.
    """

    base_config_key = "prompt_encoder_config"
    model_type = "sam_prompt_encoder"

    hidden_size: int = 256
    image_size: int = 1024
    patch_size: int = 16
    mask_input_channels: int = 16
    num_point_embeddings: int = 4
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6

    def __post_init__(self, **kwargs):
        self.image_embedding_size = self.image_size // self.patch_size
        kwargs.pop("image_embedding_size", None)
        super().__post_init__(**kwargs)


@strict
class SamMaskDecoderConfig(PreTrainedConfig):
    """Sizes of the mask decoder.

    Args:
        hidden_size: Width of tokens and image embedding.
        hidden_act: Activation of the two-way blocks' MLP.
        mlp_dim: Hidden width of that MLP.
        num_hidden_layers: Two-way blocks.
        num_attention_heads: Heads of every attention.
        attention_downsample_rate: hidden_size / inner width of the cross attentions.
        num_multimask_outputs: Masks of an ambiguous prompt (3 in the paper; one more token is the single mask).
        iou_head_depth: Layers of the IoU head.
        iou_head_hidden_dim: Hidden width of the IoU head.
        layer_norm_eps: Epsilon of the layer norms.
        dropout: Dropout in the two-way blocks while training (paper, App. A: 0.1; Meta's release has none).
    """

    base_config_key = "mask_decoder_config"
    model_type = "sam_mask_decoder"

    hidden_size: int = 256
    hidden_act: str = "relu"
    mlp_dim: int = 2048
    num_hidden_layers: int = 2
    num_attention_heads: int = 8
    attention_downsample_rate: int = 2
    num_multimask_outputs: int = 3
    iou_head_depth: int = 3
    iou_head_hidden_dim: int = 256
    layer_norm_eps: float = 1e-6
    dropout: float | int = 0.0


@strict
class SamVisionConfig(_FromFile, PreTrainedConfig):
    """Sizes of the ViT image encoder; the defaults are ViT-B.

    Args:
        hidden_size: Width of a patch token.
        output_channels: Channels of the image embedding.
        num_hidden_layers: Transformer blocks.
        num_attention_heads: Heads per block.
        num_channels: Channels of the input image.
        image_size: Side of the square input, pixels.
        patch_size: Side of a patch, pixels.
        hidden_act: Activation of the MLPs.
        layer_norm_eps: Epsilon of the layer norms.
        attention_dropout: Dropout of the attention weights while training.
        initializer_range: Standard deviation of fresh weights.
        qkv_bias: Whether query, key and value have a bias.
        mlp_ratio: mlp_dim / hidden_size, where mlp_dim is not given.
        use_abs_pos: Whether there is a learned absolute position per patch.
        use_rel_pos: Whether attention has decomposed relative positions.
        window_size: Side of an attention window, patches; 0 makes every block global.
        global_attn_indexes: Blocks that attend globally.
        num_pos_feats: Fourier frequencies of a point's position: half the prompt width.
        mlp_dim: Hidden width of the MLPs.
        scale: Standard deviation of the random Fourier matrix, per image side.
        drop_path_rate: Stochastic depth of the last block while training, rising linearly from 0
            (paper, App. A: 0.4 for ViT-H and L, 0.6 for ViT-B).
    """

    base_config_key = "vision_config"
    model_type = "sam_vision_model"

    hidden_size: int = 768
    output_channels: int = 256
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 1024
    patch_size: int = 16
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-06
    attention_dropout: float | int = 0.0
    initializer_range: float = 0.02
    qkv_bias: bool = True
    mlp_ratio: float = 4.0
    use_abs_pos: bool = True
    use_rel_pos: bool = True
    window_size: int = 14
    global_attn_indexes: list[int] | tuple[int, ...] = (2, 5, 8, 11)
    num_pos_feats: int = 128
    mlp_dim: int | None = None
    scale: float | int | None = 1.0
    drop_path_rate: float | int = 0.0

    def __post_init__(self, **kwargs):
        self.scale = 1.0 if self.scale is None else self.scale
        self.mlp_dim = int(self.hidden_size * self.mlp_ratio) if self.mlp_dim is None else self.mlp_dim
        super().__post_init__(**kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs) -> PreTrainedConfig:
        """Read the vision part of a config.json; a `SamTinyViTConfig` where that is what it describes."""
        name = resolve(pretrained_model_name_or_path)
        with config_named(name):
            fields, _ = cls.get_config_dict(name, **kwargs)
            if fields.get(cls.base_config_key, fields).get("model_type") == SamTinyViTConfig.model_type:
                return SamTinyViTConfig.from_pretrained(name, **kwargs)
            return super().from_pretrained(name, **kwargs)


@strict
class SamTinyViTConfig(_FromFile, PreTrainedConfig):
    """Sizes of the TinyViT image encoder (convolutional first stage, windowed attention after); defaults: MobileSAM's.

    Args:
        embed_dims: Width of each stage.
        depths: Blocks of each stage; stage 0 is convolutional (MBConv).
        num_heads: Attention heads of each stage (the first entry is unused).
        window_sizes: Side of the attention window of each stage, cells (the first entry is unused).
        strides: Downsampling in front of stages 1, 2, ...; the stem itself has stride 4.
        mlp_ratio: Hidden width / width of the attention stages' MLPs.
        mbconv_expand_ratio: Hidden width / width of the MBConv blocks.
        local_conv_size: Kernel of the depthwise convolution between attention and MLP.
        output_channels: Channels of the image embedding.
        num_channels: Channels of the input image.
        image_size: Side of the square input, pixels.
        hidden_act: Activation.
        initializer_range: Standard deviation of fresh linear weights.
        num_pos_feats: Fourier frequencies of a point's position.
        scale: Standard deviation of the random Fourier matrix, per image side.
        drop_path_rate: Stochastic depth of the last block while training, rising linearly from 0.
    """

    base_config_key = "vision_config"
    model_type = "sam_tiny_vit"

    embed_dims: list[int] | tuple[int, ...] = (64, 128, 160, 320)
    depths: list[int] | tuple[int, ...] = (2, 2, 6, 2)
    num_heads: list[int] | tuple[int, ...] = (2, 4, 5, 10)
    window_sizes: list[int] | tuple[int, ...] = (7, 7, 14, 7)
    strides: list[int] | tuple[int, ...] = (2, 2, 1)
    mlp_ratio: float | int = 4.0
    mbconv_expand_ratio: float | int = 4.0
    local_conv_size: int = 3
    output_channels: int = 256
    num_channels: int = 3
    image_size: int = 1024
    hidden_act: str = "gelu"
    initializer_range: float = 0.02
    num_pos_feats: int = 128
    scale: float | int = 1.0
    drop_path_rate: float | int = 0.0

    def __post_init__(self, **kwargs):
        stages = len(self.embed_dims)
        lengths = {"depths": len(self.depths), "num_heads": len(self.num_heads)}
        lengths |= {"window_sizes": len(self.window_sizes), "strides": len(self.strides) + 1}
        for name, length in lengths.items():
            if length != stages:
                raise ValueError(
                    f"`{name}` must describe the {stages} stages of `embed_dims` (strides: one fewer); got {length}"
                )
        for derived in ("patch_size", "hidden_size"):
            kwargs.pop(derived, None)
        self.patch_size = 4  # the stem's stride
        for stride in self.strides:
            self.patch_size *= stride
        self.hidden_size = self.embed_dims[-1]
        super().__post_init__(**kwargs)


# What open_clip's own text tower takes beside its sizes.
TOWER_OPTIONS = frozenset(
    """act_kwargs block_type embed_cls eos_id final_ln_after_pool ls_init_value mlp_ratio no_causal_mask norm_kwargs
    output_tokens pad_id pool_type proj_bias proj_type qk_norm scale_attn scale_attn_inner scale_fc scale_heads
    scaled_cosine_attn tokenizer_kwargs tokenizer_mode""".split()
)


@strict
class SamTextConfig(PreTrainedConfig):
    """The CLIP text tower of the prompt encoder: an open_clip architecture, by name or field by field.

    Args:
        model_name: An open_clip architecture, e.g. "ViT-L-14-336-quickgelu". Its sizes fill the other fields, which
            are saved, so that a saved configuration needs no look-up.
        embed_dim: D, width of CLIP's joint space.
        context_length: Tokens of a phrase, start and end included.
        vocab_size: Entries of the token table; under 49408, CLIP's own vocabulary cut after its first merges.
        width: Width of the tower.
        heads: Attention heads.
        layers: Transformer blocks.
        quick_gelu: Whether the activation is OpenAI's QuickGELU.
        tower: Further arguments of open_clip's `CLIPTextCfg`, of `TOWER_OPTIONS`. Those for a tower from another
            repository ("hf_model_name", ...) are refused: a checkpoint's weights are its own.
        alignment: Whether the branch also says where a phrase is, see `SamModel.get_text_alignment`.

    Raises:
        ImportError: `model_name` is given and open_clip is not installed.
        ValueError: open_clip does not know `model_name`, `tower` has an entry that is not allowed, or a size makes no
            sense.
    """

    base_config_key = "text_config"
    model_type = "sam_text"

    model_name: str | None = None
    embed_dim: int = 512
    context_length: int = 77
    vocab_size: int = 49408
    width: int = 512
    heads: int = 8
    layers: int = 12
    quick_gelu: bool = False
    tower: dict[str, Any] | None = None
    alignment: bool = False

    def __post_init__(self, **kwargs):
        resolved = kwargs.pop("resolved", False)  # set once the fields hold the named architecture
        if self.model_name is not None and not resolved:
            self._fill_from_open_clip()
        self.resolved = True
        refused = sorted(set(self.tower) - TOWER_OPTIONS) if isinstance(self.tower, dict) else []
        if refused:
            raise ValueError(
                f"`text_config.tower` has the entries {refused}, which are not allowed (see TOWER_OPTIONS): a text "
                "tower or tokenizer of another repository is not fetched"
            )
        sizes = {name: getattr(self, name) for name in ("embed_dim", "context_length", "vocab_size", "width", "heads")}
        for name, size in sizes.items():
            if isinstance(size, int) and size < 1:
                raise ValueError(f"`text_config.{name}` must be at least 1, got {size}")
        if isinstance(self.width, int) and isinstance(self.heads, int) and self.width % self.heads:
            raise ValueError(f"`text_config.width` must be a multiple of its heads, {self.heads}; got {self.width}")
        super().__post_init__(**kwargs)

    def _fill_from_open_clip(self):
        try:
            import open_clip
        except ImportError as error:
            raise ImportError(
                f"text_config names the open_clip architecture {self.model_name!r}: "
                "install it with `pip install open_clip_torch`, or give its sizes field by field"
            ) from error
        architecture = open_clip.get_model_config(self.model_name)
        if architecture is None:
            raise ValueError(
                f"`model_name` must be one of open_clip.list_models(), an architecture; got {self.model_name!r}"
            )
        text = dict(architecture["text_cfg"])
        if text.get("hf_model_name"):
            raise ValueError(
                f"`model_name` must name an architecture with open_clip's own text tower; {self.model_name!r} wraps "
                f"the Hugging Face model {text['hf_model_name']!r}"
            )
        self.embed_dim = architecture["embed_dim"]
        self.quick_gelu = architecture.get("quick_gelu", False)
        for field in ("context_length", "vocab_size", "width", "heads", "layers"):
            if field in text:
                setattr(self, field, text.pop(field))
        self.tower = text or None


VISION_CONFIGS = {config.model_type: config for config in (SamVisionConfig, SamTinyViTConfig)}


@strict
class SamConfig(_FromFile, PreTrainedConfig):
    """A whole Segment Anything model.

    Args:
        vision_config: `SamVisionConfig`, `SamTinyViTConfig`, or a dictionary of either (told by its `model_type`).
        prompt_encoder_config: `SamPromptEncoderConfig` or a dictionary; sizes it leaves out come from the vision part.
        mask_decoder_config: `SamMaskDecoderConfig` or a dictionary; likewise.
        text_config: `SamTextConfig` or a dictionary; None: no text branch, and not one parameter of it.
        initializer_range: Standard deviation of fresh weights outside the image encoder.
        tie_word_embeddings: The Fourier matrix of image and prompts is one and the same; leave it True.

    Raises:
        ValueError: Two parts contradict each other about a size they share.

    Example:
        >>> SamConfig(vision_config={"image_size": 512}).prompt_encoder_config.image_embedding_size
        32
    """

    # What auto classes look up; an instance without our extensions calls itself "sam" (see `to_dict`).
    model_type = "sam_hf"
    sub_configs = {
        "prompt_encoder_config": SamPromptEncoderConfig,
        "mask_decoder_config": SamMaskDecoderConfig,
        "vision_config": SamVisionConfig,
    }

    vision_config: dict | PreTrainedConfig | None = None
    prompt_encoder_config: dict | PreTrainedConfig | None = None
    mask_decoder_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs):
        if not isinstance(self.vision_config, PreTrainedConfig):
            fields = dict(self.vision_config or {})
            # The first checkpoints on the Hub name no type here, but the empty string.
            vision_type = fields.pop("model_type", "") or SamVisionConfig.model_type
            if vision_type not in VISION_CONFIGS:
                raise ValueError(
                    f"`vision_config['model_type']` must be one of {sorted(VISION_CONFIGS)}; got {vision_type!r}"
                )
            self.vision_config = VISION_CONFIGS[vision_type](**fields)
        vision = self.vision_config
        shared = {"hidden_size": vision.output_channels}
        self.mask_decoder_config = _complete(SamMaskDecoderConfig, self.mask_decoder_config, shared)
        shared |= {"image_size": vision.image_size, "patch_size": vision.patch_size}
        self.prompt_encoder_config = _complete(SamPromptEncoderConfig, self.prompt_encoder_config, shared)
        if isinstance(self.text_config, dict):
            self.text_config = SamTextConfig(**self.text_config)
        self._check_sizes()
        kwargs.pop("model_type", None)
        super().__post_init__(**kwargs)
        self.model_type = "sam_hf" if self.is_extended else "sam"

    @property
    def is_extended(self) -> bool:
        """Whether this model has parts that stock transformers' SamModel does not know."""
        return self.text_config is not None or not isinstance(self.vision_config, SamVisionConfig)

    def _check_sizes(self):
        vision, prompt, decoder = self.vision_config, self.prompt_encoder_config, self.mask_decoder_config
        for part in (vision, prompt, decoder, *([] if self.text_config is None else [self.text_config])):
            check_values(part)
        agreements = [
            ("prompt_encoder_config.image_size", prompt.image_size, "vision_config.image_size", vision.image_size),
            ("prompt_encoder_config.patch_size", prompt.patch_size, "vision_config.patch_size", vision.patch_size),
            ("prompt_encoder_config.hidden_size", prompt.hidden_size, "output_channels", vision.output_channels),
            ("mask_decoder_config.hidden_size", decoder.hidden_size, "output_channels", vision.output_channels),
            ("2 * vision_config.num_pos_feats", 2 * vision.num_pos_feats, "hidden_size", prompt.hidden_size),
        ]
        for name, value, other_name, other in agreements:
            if value != other:
                raise ValueError(f"`{name}` is {value} but `{other_name}` is {other}: the two must agree")

    def to_dict(self) -> dict[str, Any]:
        """The configuration as a dictionary, under the `model_type` that can read it."""
        return super().to_dict() | {"model_type": self.model_type}

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> None:
        """Write config.json and, where stock transformers has no such model, the source files that define it.

        Args:
            save_directory: Folder; made if needed.
            push_to_hub: Also upload it; see `push_to_hub` for `repo_id` (the folder's name) and the rest.
            **kwargs: For `push_to_hub`.
        """
        with saved_whole(save_directory) as part:
            if self.is_extended:
                self.auto_map = write_remote_code(part, MODELS | PROCESSORS)
            elif hasattr(self, "auto_map"):
                del self.auto_map  # of what it was loaded from; stock transformers needs none
            super().save_pretrained(part)
        if push_to_hub:  # from here, because transformers' own way leaves out files that were there before
            self.push_to_hub(**{"repo_id": os.path.basename(os.path.normpath(save_directory))} | kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs) -> "SamConfig":
        """Read config.json of a folder, a Hub repository or "tiny"; see transformers.

        Raises:
            OSError: There is none.
            ValueError: It is damaged, contradicts itself, or is another model's.
        """
        name = resolve(pretrained_model_name_or_path)
        with config_named(name):
            return super().from_pretrained(name, *args, **with_config_cached(name, kwargs))

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs):
        """Read config.json; the name "tiny" is the embedded checkpoint."""
        name = resolve(pretrained_model_name_or_path)
        config, kwargs = super().get_config_dict(name, **kwargs)
        for part in (*cls.sub_configs, "text_config"):
            if not isinstance(config.get(part) or {}, dict):
                kind = type(config[part]).__name__
                raise ValueError(f"config.json of {str(name)!r} is damaged: `{part}` must be an object, got a {kind}")
        vision = VISION_CONFIGS.get((config.get("vision_config") or {}).get("model_type"), SamVisionConfig)
        parts = {"": cls, **cls.sub_configs, "vision_config": vision, "text_config": SamTextConfig}
        known = {part: set(config().to_dict()) for part, config in parts.items()}
        for warning in check_config(config, known, name):
            logger.warning_once(warning)
        if config.get("model_type") == "sam":  # ours to read; without this, a warning at every load
            config["model_type"] = cls.model_type
            # Whatever its part calls itself (a SlimSAM: "vit_p77"): transformers' "sam" has one kind of encoder.
            vision_type = {"model_type": SamVisionConfig.model_type}
            config["vision_config"] = dict(config.get("vision_config") or {}) | vision_type
        return config, kwargs


def adopt(config: PreTrainedConfig) -> PreTrainedConfig:
    """Our configuration for transformers' own "sam" one, which is what its auto classes give; ours as it is."""
    if isinstance(config, (SamConfig, *VISION_CONFIGS.values())):
        return config
    adopted = (SamConfig if hasattr(config, "vision_config") else SamVisionConfig)(**config.to_dict())
    adopted._attn_implementation = config._attn_implementation
    return adopted


def _complete(config_class: type, given: dict | PreTrainedConfig | None, shared: dict[str, int]) -> PreTrainedConfig:
    """A sub-configuration from what was given, with the shared sizes where it is silent."""
    if isinstance(given, PreTrainedConfig):
        return given
    return config_class(**(shared | dict(given or {})))


__all__ = [
    "SamConfig",
    "SamMaskDecoderConfig",
    "SamPromptEncoderConfig",
    "SamTextConfig",
    "SamTinyViTConfig",
    "SamVisionConfig",
]
