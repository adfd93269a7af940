"""The base class of every model here: loading, saving, and what the rest of transformers asks of a model."""

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.output_capturing import capture_outputs

from .checkpoint_names import resolve
from .configuration_sam import SamConfig
from .optimization import Optimization, optimize

SHARD = "2GB"  # the whole of ViT-H in one file is more than some file systems and connections take

# Collects hidden states and attentions while a decorated `forward` runs, if the caller asked for them.
captures_outputs = capture_outputs(tie_last_hidden_states=False)


class SamPreTrainedModel(PreTrainedModel):
    """Weights and configuration of a SAM model, from a folder or the Hub and back."""

    config: SamConfig
    base_model_prefix = "sam"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    # Whole on one device: these read the weights of their embeddings directly, without a call that could fetch them.
    _no_split_modules = ["SamVisionLayer", "SamTinyViTStage", "SamPromptEncoder", "SamMaskDecoder"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    optimization: Optimization | None = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs) -> "SamPreTrainedModel":
        """Load a checkpoint: a Hub id, a folder, or "tiny", the checkpoint inside this package.

        Takes every argument of `transformers.PreTrainedModel.from_pretrained`.
        """
        return super().from_pretrained(resolve(pretrained_model_name_or_path), *args, **kwargs)

    def save_pretrained(self, save_directory, *args, max_shard_size: int | str = SHARD, **kwargs):
        """Write weights, in files of at most 2 GB unless told otherwise, configuration, and the code where needed.

        Takes every argument of `transformers.PreTrainedModel.save_pretrained`; see `SamConfig.save_pretrained`.
        """
        return super().save_pretrained(save_directory, *args, max_shard_size=max_shard_size, **kwargs)

    def push_to_hub(self, repo_id: str, *, max_shard_size: int | str | None = SHARD, **kwargs) -> str:
        """Save and upload; takes every argument of `transformers.PreTrainedModel.push_to_hub`.

        `sam_hf.hub.publishing.publish` uploads processor, card and examples along with the model.
        """
        return super().push_to_hub(repo_id, max_shard_size=max_shard_size, **kwargs)

    def optimize(self, *, dtype: torch.dtype | str | None = None, compile: bool | str = False) -> "SamPreTrainedModel":
        """Make inference fast, in place; asking again for the same changes nothing.

        The model is put into eval mode, into the number format asked for, and onto torch's fused attention. The names
        of the weights stay, so it saves as before (in the new number format). On a CPU nothing else is needed for
        speed: float32 kernels are chosen without asking.

        Args:
            dtype: "bfloat16", "float16" (GPU only), "float32", or torch's own; None: as it is. Half precision changes
                the logits in their third digit, so edges of masks move here and there. On a CPU bfloat16 pays where
                the processor multiplies it (AVX512-BF16, AMX), and attention stays in float32.
            compile: GPU only. True, or a mode of torch.compile without CUDA graphs ("default",
                "max-autotune-no-cudagraphs"): the blocks of the image encoder are compiled, which takes a minute or
                more at the first image and again at the first one of another batch size. Rounding changes, no more.

        Returns:
            This model. `model.optimization` says what was done.

        Raises:
            ValueError: An unknown `dtype` or `compile`, or one that would slow this model down on its device.

        Example:
            >>> model = SamModel.from_pretrained("tiny").optimize(dtype="bfloat16")
        """
        self.optimization = optimize(self, dtype, compile)
        return self

    def _initialize_weights(self, module: nn.Module, *args, **kwargs) -> None:
        """Fresh weights for whatever a checkpoint has not filled.

        For classes outside transformers, transformers 5.23 leaves out every module without weights of its own, in case
        its initialisation overwrites loaded ones. Ours uses transformers' functions, which see to that themselves.
        """
        super()._initialize_weights(module)

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        """Every attention here asks its configuration at each call; transformers would judge by our source text."""
        return True

    def set_attn_implementation(self, attn_implementation: str | dict[str, str], *args, **kwargs) -> None:
        """Switch every attention between "eager" and "sdpa", or those of one part: `{"vision_config": "eager"}`.

        Takes every argument of `transformers.PreTrainedModel.set_attn_implementation`.

        Raises:
            ValueError: There is no such implementation, or no such part.
        """
        parts = getattr(self.config, "sub_configs", {})
        wanted = attn_implementation
        if not isinstance(wanted, dict):
            wanted = dict.fromkeys(["", *parts], wanted)
        unknown = set(wanted) - {"", *parts}
        if unknown:
            raise ValueError(f"`attn_implementation` may name the parts {sorted(parts)}; got {sorted(unknown)}")
        for part in set(wanted) - {"", "vision_config"}:
            # These parts are no PreTrainedModel; transformers would set them "in the dark" and warn.
            part_config = getattr(self.config, part)
            part_config._attn_implementation = self.get_correct_attn_implementation(wanted[part])
        super().set_attn_implementation(attn_implementation, *args, **kwargs)

    def _set_gradient_checkpointing(self, *args, **kwargs) -> None:
        """Only transformer blocks are checkpointed; the text tower has its own switch."""
        super()._set_gradient_checkpointing(*args, **kwargs)
        for module in self.modules():
            if isinstance(module, nn.Module) and hasattr(module, "set_grad_checkpointing"):
                module.set_grad_checkpointing(kwargs.get("enable", args[0] if args else True))


__all__ = ["SamPreTrainedModel"]
