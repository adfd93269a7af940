"""Parameter groups, learning-rate schedules and the moving average of the weights.

Source: appendix A (AdamW, layer-wise decay 0.8 for ViT-H/L, warm-up then steps); no weight decay on biases, norms
and embeddings as in SAM 2's training code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

BLOCK = re.compile(
    r"(?:vision_encoder|image_encoder)\.(?:\w+\.)*?(?:layers|blocks|stages)\.(\d+)(?:\.(?:layers|blocks)\.(\d+))?\."
)
STEM = re.compile(r"(?:vision_encoder|image_encoder)\.(?:\w*pos_embed|patch_embed|stem)")


def block_depths(names: list[str]) -> dict[str, int]:
    """Depth of every image-encoder parameter that belongs to the stem (0) or to a block (1, 2, ...), in network order.

    Nested stages (`stages.1.blocks.0`) count block by block. Neck, prompt encoder and decoder are not in the result.
    """
    keys: dict[str, tuple[int, int]] = {}
    for name in names:
        found = BLOCK.search(name)
        if found:
            keys[name] = (int(found.group(1)), int(found.group(2) or 0))
    order = {key: depth + 1 for depth, key in enumerate(sorted(set(keys.values())))}
    depths = {name: order[key] for name, key in keys.items()}
    depths.update({name: 0 for name in names if name not in keys and STEM.search(name)})
    return depths


def parameter_groups(
    module: nn.Module,
    lr: float,
    weight_decay: float,
    layer_decay: float = 1.0,
    lr_multipliers: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """AdamW groups of all trainable parameters.

    Args:
        module: what is trained; parameters with `requires_grad=False` are left out.
        lr: peak learning rate; kept per group as `base_lr`.
        weight_decay: for matrices and convolutions; vectors (biases, norms) and embeddings get none.
        layer_decay: block i of L in the image encoder gets `lr * layer_decay ** (L + 1 - i)`; 1 switches it off.
        lr_multipliers: regular expression -> factor for the parameters whose name it finds; the first match counts,
            0 freezes.

    Returns:
        Groups with `params`, `lr`, `base_lr`, `weight_decay`.

    Raises:
        ValueError: nothing is left to train.
    """
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    depths = block_depths([name for name, _ in named])
    n_blocks = max(depths.values(), default=0)
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in named:
        factor = layer_decay ** (n_blocks + 1 - depths[name]) if name in depths else 1.0
        for pattern, multiplier in (lr_multipliers or {}).items():
            if re.search(pattern, name):
                factor *= multiplier
                break
        if factor == 0.0:
            parameter.requires_grad_(False)
            continue
        decay = 0.0 if parameter.ndim < 2 or id(parameter) in embeddings else weight_decay
        key = (factor, decay)
        if key not in groups:
            groups[key] = {"params": [], "lr": lr * factor, "base_lr": lr * factor, "weight_decay": decay}
        groups[key]["params"].append(parameter)
    if not groups:
        raise ValueError("nothing to train: every parameter is frozen")
    return list(groups.values())


def lr_factor(
    schedule: str,
    progress: float,
    step: int,
    warmup_steps: int,
    final: float = 0.01,
    milestones: tuple[float, ...] = (2 / 3, 0.963),
) -> float:
    """Factor on the peak learning rate.

    Args:
        schedule: `"cosine"` to `final`, `"step"` (divided by ten at each milestone) or `"constant"`.
        progress: how much of the training is done, in [0, 1].
        step: number of the step, from 0; the first `warmup_steps` rise linearly.
        warmup_steps: length of the warm-up.
        final: last factor of the cosine.
        milestones: progress at which `"step"` divides; the default is the paper's 60k and 86,666 of 90k.

    Raises:
        ValueError: unknown schedule.
    """
    progress = min(max(progress, 0.0), 1.0)
    if schedule == "cosine":
        factor = final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress))
    elif schedule == "step":
        factor = 0.1 ** sum(progress >= milestone for milestone in milestones)
    elif schedule == "constant":
        factor = 1.0
    else:
        raise ValueError(f"schedule must be 'cosine', 'step' or 'constant', got {schedule!r}")
    return factor * min(1.0, (step + 1) / max(1, warmup_steps))


BATCH_NORM = ("running_mean", "running_var")


class WeightAverage:
    """Exponential moving average of a module's trainable parameters and of batch norm's statistics.

    The decay rises as (1 + n) / (10 + n), so that a short run is not dominated by its first weights.

    Args:
        module: the module to follow (unwrapped).
        decay: final decay, in [0, 1).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.decay = decay
        self.updates = 0
        self._live = {name: p for name, p in module.named_parameters() if p.requires_grad}
        # batch norm's statistics belong to the weights they were gathered with, so they are averaged alike
        self._live |= {name: b for name, b in module.named_buffers() if name.endswith(BATCH_NORM)}
        self.average = {name: p.detach().float().clone() for name, p in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Takes one step towards the current weights."""
        self.updates += 1
        weight = 1.0 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        current = [p.detach().float() for p in self._live.values()]
        torch._foreach_lerp_(list(self.average.values()), current, weight)

    def state_dict(self) -> dict[str, Any]:
        """Averages and count."""
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`, in place.

        Raises:
            ValueError: the parameters are not the same.
        """
        if set(state["average"]) != set(self.average):
            raise ValueError("state holds averages of other parameters than this module has")
        self.updates = int(state["updates"])
        for name, value in state["average"].items():
            self.average[name].copy_(value)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges averages and live weights; a second call restores them."""
        for name, parameter in self._live.items():
            live = parameter.detach().float().clone()
            parameter.copy_(self.average[name])
            self.average[name] = live
