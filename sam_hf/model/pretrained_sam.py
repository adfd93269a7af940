"""The base class of every model here: loading, saving, and what the rest of transformers asks of a model."""

from torch import nn
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.output_capturing import capture_outputs

from .checkpoint_names import resolve
from .configuration_sam import SamConfig

# Collects hidden states and attentions while a decorated `forward` runs, if the caller asked for them.
captures_outputs = capture_outputs(tie_last_hidden_states=False)


class SamPreTrainedModel(PreTrainedModel):
    """Weights and configuration of a SAM model, from a folder or the Hub and back."""

    config: SamConfig
    base_model_prefix = "sam"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _no_split_modules = ["SamVisionLayer", "SamTinyViTStage", "SamTwoWayAttentionBlock"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs) -> "SamPreTrainedModel":
        """Load a checkpoint: a Hub id, a folder, or "tiny", the checkpoint inside this package.

        Takes every argument of `transformers.PreTrainedModel.from_pretrained`.
        """
        return super().from_pretrained(resolve(pretrained_model_name_or_path), *args, **kwargs)

    def _set_gradient_checkpointing(self, *args, **kwargs) -> None:
        """Only transformer blocks are checkpointed; the text tower has its own switch."""
        super()._set_gradient_checkpointing(*args, **kwargs)
        for module in self.modules():
            if isinstance(module, nn.Module) and hasattr(module, "set_grad_checkpointing"):
                module.set_grad_checkpointing(kwargs.get("enable", args[0] if args else True))


__all__ = ["SamPreTrainedModel"]
