"""Inference on a CPU: the same formulas as everywhere else, on faster kernels and in pieces that stay in cache.

Nothing here is needed to understand the model. Each function equals the plain expression in its first line up to
rounding, holds no weights, and is used only where no gradient is asked for and nothing is being traced.

Source: not in the paper. torch multiplies float32 matrices with MKL, which reaches about half of what oneDNN does on
AMD processors; torch's own compiler calls the same oneDNN kernel.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import GELUActivation

# Logits held at a time by `attend_in_rows`: 4 MB in float32, which shares a processor's cache with keys and values.
LOGITS = 1 << 20
# Entries of an MLP's hidden layer held at a time by `feed_forward`.
HIDDEN = 3 << 20
# Multiplications below which a kernel of its own does not pay for its call.
SMALL = 1 << 22
_ONEDNN = torch.backends.mkldnn.is_available()
# x W^T + b, then an activation: (x, W, b, activation, its scalars, its algorithm).
_fused_linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if _ONEDNN else None
# The same of a convolution: (x, W, b, padding, stride, dilation, groups, activation, its scalars, its algorithm).
_fused_convolution = getattr(torch.ops.mkldnn, "_convolution_pointwise", None) if _ONEDNN else None


def is_cpu_inference(tensor: Tensor) -> bool:
    """Whether this tensor is on a CPU, in eager mode, with no gradient to follow."""
    return (
        not torch.compiler.is_compiling()
        and not torch.is_grad_enabled()
        and tensor.device.type == "cpu"
        and type(tensor) is Tensor  # no fake, quantised or distributed tensor
        and not torch.jit.is_tracing()
        and not torch.is_autocast_enabled("cpu")
    )


def linear(layer: nn.Module, inputs: Tensor, activation: nn.Module | None = None) -> Tensor:
    """activation(layer(inputs)), as one oneDNN kernel where `layer` is nothing but a linear map.

    Args:
        layer: `nn.Linear`, or whatever stands in its place (LoRA, a quantised layer, one with hooks): that is called.
        inputs: (..., in_features).
        activation: Applied to the result; None: nothing.

    Returns:
        (..., out_features).
    """
    fused = is_cpu_inference(inputs) and _is_plain(layer, nn.Linear, inputs)
    if fused and _has_kernel(inputs.dtype, inputs.shape[:-1].numel() * layer.weight.numel()):
        fusion, activation = _fusion(activation)
        outputs = _fused_linear(inputs.contiguous(), layer.weight, layer.bias, *fusion)
    else:
        outputs = layer(inputs)
    return outputs if activation is None else activation(outputs)


def convolve(layer: nn.Module, norm: nn.Module, inputs: Tensor, activation: nn.Module | None = None) -> Tensor:
    """activation(norm(layer(inputs))), the statistics of the batch norm multiplied into the convolution.

    Args:
        layer: `nn.Conv2d` without a bias.
        norm: `nn.BatchNorm2d`; while it is in training mode its statistics are the batch's, and nothing is fused.
        inputs: (B,C,h,w).
        activation: Applied to the result; None: nothing.

    Returns:
        (B,C',h',w').
    """
    plain = _is_plain(layer, nn.Conv2d, inputs) and _is_plain(norm, nn.BatchNorm2d, inputs) and not norm.training
    if plain and is_cpu_inference(inputs):
        scale = norm.weight.float() * (norm.running_var.float() + norm.eps).rsqrt()
        weight = (layer.weight.float() * scale[:, None, None, None]).to(inputs.dtype)
        bias = (norm.bias.float() - norm.running_mean.float() * scale).to(inputs.dtype)
        if _fused_convolution is not None and _has_kernel(inputs.dtype, inputs[:, 0].numel() * weight.numel()):
            fusion, activation = _fusion(activation)
            geometry = (layer.padding, layer.stride, layer.dilation, layer.groups)
            outputs = _fused_convolution(inputs, weight, bias, *geometry, *fusion)
        else:
            outputs = F.conv2d(inputs, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
    else:
        outputs = norm(layer(inputs))
    return outputs if activation is None else activation(outputs)


def feed_forward(first: nn.Module, activation: nn.Module, second: nn.Module, inputs: Tensor) -> Tensor:
    """second(activation(first(inputs))), in inference on a CPU some tokens at a time: (..., C) -> (..., C')."""
    if not is_cpu_inference(inputs):
        return second(activation(first(inputs)))
    step = max(1, HIDDEN // getattr(first, "out_features", HIDDEN))
    blocks = [linear(second, linear(first, block, activation)) for block in inputs.flatten(0, -2).split(step)]
    return torch.cat(blocks).unflatten(0, inputs.shape[:-1])


def _is_plain(layer: nn.Module, kind: type[nn.Module], inputs: Tensor) -> bool:
    """Whether `layer` is of this kind exactly, in the dtype of its inputs, and unchanged and unwatched."""
    return (
        type(layer) is kind
        and not (layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer))
        and type(layer.weight) is nn.Parameter
        and layer.weight.dtype == inputs.dtype
    )


def _fusion(activation: nn.Module | None) -> tuple[tuple[str, list, str], nn.Module | None]:
    """How oneDNN is told of an activation, and what is left to be called after it."""
    if type(activation) is GELUActivation and activation.act is F.gelu and not activation._forward_hooks:
        return ("gelu", [], "none"), None  # "none": not the approximation by tanh
    return ("none", [], ""), activation


def _has_kernel(dtype: torch.dtype, work: int = SMALL) -> bool:
    """Whether oneDNN multiplies this dtype here, and the work is worth its call."""
    if _fused_linear is None or not torch.backends.mkldnn.enabled or work < SMALL:
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def multiply(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """left right^T + bias, without a gradient on a CPU: (n,d), (m,d), (m,) -> (n,m)."""
    if left.device.type != "cpu" or left.dtype != torch.float32 or not _has_kernel(left.dtype):
        return F.linear(left, right, bias)
    return _fused_linear(left, right, bias, "none", [], "")


def attend_in_rows(
    query: Tensor, key: Tensor, value: Tensor, by_row: Tensor, by_column: Tensor, scale: float, logits: int = LOGITS
) -> Tensor:
    """softmax(q k^T * scale + by_row + by_column) v, some queries of one head at a time.

    The bias of a 64 x 64 map would be 67 MB a head; here it is added in place to the logits of a few queries. Torch's
    fused kernel, with that bias as its mask, takes 2.6 times as long on a Zen 5 core, mostly in its matrix products.

    Args:
        query: (B, heads, T, d) float32, T = h * w.
        key: (B, heads, T, d) float32.
        value: (B, heads, T, d) float32.
        by_row: What each query adds for the row of a key, (B, heads, T, h).
        by_column: The same for its column, (B, heads, T, w).
        scale: Multiplies q k^T.
        logits: Pairs of tokens whose logits exist at one time.

    Returns:
        (B, heads, T, d).
    """
    batch, heads, tokens, width = query.shape
    height, step = by_row.shape[-1], max(1, logits // tokens)
    attended = value.new_empty(batch, tokens, heads, width).transpose(1, 2)  # in memory as the projection wants it
    for index in range(batch * heads):
        place = divmod(index, heads)
        queries, keys, values = query[place] * scale, key[place].contiguous(), value[place].T.contiguous()
        for first in range(0, tokens, step):
            part = slice(first, first + step)
            pairs = multiply(queries[part], keys).unflatten(1, (height, -1))  # (step, h, w)
            pairs.add_(by_row[place][part, :, None]).add_(by_column[place][part, None, :])
            attended[place][part] = multiply(pairs.flatten(1).softmax(dim=-1), values)
    return attended
