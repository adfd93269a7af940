"""One switch for speed: `model.optimize(dtype=..., compile=...)`.

What costs nothing is always on: in inference on a CPU the encoders choose their kernels by themselves (see
`cpu_inference`). What is left to a user is a choice: a shorter number format, which changes the masks a little, and a
compilation, which takes its time at the first image.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

# Modes of torch.compile whose results stay valid after the next call, which those with CUDA graphs do not promise.
COMPILE_MODES = ("default", "max-autotune-no-cudagraphs")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Optimization:
    """What `optimize` has made of a model.

    Args:
        dtype: Number format of the weights.
        attention: "sdpa", torch's fused kernel.
        compile: Mode of torch.compile for the blocks of the image encoder; None: not compiled.
    """

    dtype: torch.dtype
    attention: str
    compile: str | None


def optimize(model: nn.Module, dtype: torch.dtype | str | None, compile: bool | str) -> Optimization:
    """Bring a model into its state for fast inference, in place; see `SamPreTrainedModel.optimize`."""
    wanted = _dtype_of(dtype, model)
    mode = {True: "default", False: None}.get(compile, compile)
    if mode is not None and mode not in COMPILE_MODES:
        raise ValueError(f"`compile` must be True, False or one of {list(COMPILE_MODES)}; got {compile!r}")
    if mode is not None and model.device.type == "cpu":
        raise ValueError(
            "`compile` is for a GPU; on a CPU it makes the image encoder slower than it is without (float32: half as "
            f"fast), so leave it False or move the model first; got compile={compile!r}"
        )
    state = Optimization(wanted, "sdpa", mode)
    model.eval()
    if dtype is not None:
        model.to(wanted)
    model.set_attn_implementation("sdpa")
    if getattr(model, "optimization", None) != state:
        compile_blocks(model, mode)
    return state


def compile_blocks(model: nn.Module, mode: str | None, backend: str = "inductor") -> None:
    """Compile the transformer blocks of the image encoder at their next call, or undo it (`mode` None).

    Block by block, so that blocks of one kind share one compilation, and in place, so that no weight is renamed.
    """
    for block in getattr(model, "vision_encoder", model).modules():
        if isinstance(block, GradientCheckpointingLayer):
            block._compiled_call_impl = None  # what nn.Module.compile sets
            if mode is not None:
                block.compile(backend=backend, **({} if mode == "default" else {"mode": mode}))


def _dtype_of(dtype: torch.dtype | str | None, model: nn.Module) -> torch.dtype:
    """The number format that was asked for; None: the model's own."""
    wanted = model.dtype if dtype is None else DTYPES.get(dtype, dtype) if isinstance(dtype, str) else dtype
    if wanted not in DTYPES.values():
        raise ValueError(f"`dtype` must be None or one of {list(DTYPES)}; got {dtype!r}")
    if wanted == torch.float16 and model.device.type == "cpu":
        raise ValueError(
            f'`dtype` float16 is slower than float32 on a CPU; use "bfloat16" or leave it float32; got {dtype!r}'
        )
    return wanted


__all__ = ["Optimization"]
