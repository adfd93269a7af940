"""When the mask decoder's fast twin may stand in for it: only where nobody could notice."""

import torch
from torch import Tensor, nn
from transformers.utils import output_capturing

from .layers import SamFeedForward, SamLayerNorm, SamMLPBlock
from .mask_decoder import SamMaskDecoder
from .pretrained_sam import SamPreTrainedModel
from .two_way_transformer import SamAttention, SamTwoWayAttentionBlock, SamTwoWayTransformer

_KNOWN = {
    SamMaskDecoder,
    SamTwoWayTransformer,
    SamTwoWayAttentionBlock,
    SamAttention,
    SamMLPBlock,
    SamFeedForward,
    SamLayerNorm,
    nn.ConvTranspose2d,
    nn.Dropout,
    nn.Embedding,
    nn.GELU,
    nn.LayerNorm,
    nn.Linear,
    nn.ModuleList,
}


def can_stand_in(model: SamPreTrainedModel) -> bool:
    """Whether `FastMaskDecoder` may do a `SamModel`'s decoding here and now, and nobody will notice.

    Not while gradients are recorded, a graph is traced or autocast chooses the precision; not when attention is
    spelt out ("eager"); and not when somebody hooked into, replaced, quantised or moved any part of the decoder.
    """
    if torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return False
    if torch.is_grad_enabled() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export():
        return False
    decoder = model.mask_decoder
    if type(decoder) is not SamMaskDecoder or decoder.config._attn_implementation == "eager":
        return False
    if nn.modules.module._has_any_global_hook():
        return False
    first = next(decoder.parameters())
    activations = [module.act for module in decoder.modules() if type(module) is SamMLPBlock]  # any kind, called as is
    return not torch.is_autocast_enabled(first.device.type) and all(
        (type(module) in _KNOWN or any(module is activation for activation in activations))
        and _is_untouched(module, first.dtype, first.device)
        for module in decoder.modules()
    )


def _is_untouched(module: nn.Module, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether calling this module in eval mode does what its class says, with plain weights of one kind."""
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    return (
        not module.training
        and "forward" not in vars(module)  # accelerate's hooks sit there
        # transformers leaves its own behind when attentions are first asked for; see `SamModel.forward`.
        and all(getattr(hook, "__module__", None) == output_capturing.__name__ for hook in hooks)
        and all(
            weight is None
            or type(weight) in (nn.Parameter, Tensor)
            and (weight.dtype, weight.device) == (dtype, device)
            for weight in module._parameters.values()
        )
    )
