"""The same network at another image size, for stages that start small and finish at the final resolution."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F

from sam_hf.model.configuration_sam import SamConfig
from sam_hf.model.modeling_sam import SamModel


def config_at_resolution(config: SamConfig, size: int) -> SamConfig:
    """`config` with another image size; every size that follows from it follows.

    Raises:
        ValueError: `size` is not a multiple of the patch size.
    """
    patch = config.vision_config.patch_size
    if size < patch or size % patch:
        raise ValueError(f"size must be a positive multiple of the patch size {patch}, got {size}")
    fields = copy.deepcopy(config.to_dict())
    fields["vision_config"]["image_size"] = size
    for name in ("image_size", "patch_size", "image_embedding_size"):
        fields["prompt_encoder_config"].pop(name, None)  # derived from the vision part
    return SamConfig(**fields)


def at_resolution(model: SamModel, size: int) -> SamModel:
    """A copy of `model` for images of another size, with the same weights.

    Point positions are normalised by the image size, convolutions and windows take any size; only a ViT's absolute
    positions (2-D) and relative positions of its global blocks (1-D) depend on it and are resampled, as ViTDet does
    between pre-training and detection.

    Args:
        model: the model; it is not changed and shares no memory with the result.
        size: new side of the input in pixels, a multiple of the patch size.

    Returns:
        A model in the same dtype, device and mode.

    Raises:
        ValueError: `size` does not fit, or a weight depends on the size in a way not known here.
    """
    resized = SamModel(config_at_resolution(model.config, size)).to(device=model.device, dtype=model.dtype)
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    for name, target in resized.state_dict().items():
        if name in state and state[name].shape != target.shape:
            state[name] = _resample(name, state[name], target.shape)
    resized.load_state_dict(state)
    return resized.train(model.training)


def _resample(name: str, value: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    if name.endswith("pos_embed") and value.ndim == 4:  # (1, h, w, C)
        grid = value.float().permute(0, 3, 1, 2)
        grid = F.interpolate(grid, shape[1:3], mode="bicubic", align_corners=False)
        return grid.permute(0, 2, 3, 1).to(value.dtype)
    if name.endswith(("rel_pos_h", "rel_pos_w")):  # (2h - 1, C)
        line = F.interpolate(value.float().t()[None], shape[0], mode="linear", align_corners=False)
        return line[0].t().to(value.dtype)
    raise ValueError(f"weight {name!r} has shape {tuple(value.shape)} but {tuple(shape)} is needed at the new size")
