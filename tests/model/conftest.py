"""Small random models for the model's own tests: every weight matters, every window is padded."""

import pytest
import torch

VISION = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 72,
    "patch_size": 8,  # 9 x 9 cells: windows of 4 need padding
    "output_channels": 16,
    "num_pos_feats": 8,
    "window_size": 4,
    "global_attn_indexes": [1],
}
TINY_VIT = {
    "model_type": "sam_tiny_vit",
    "embed_dims": [8, 16, 24],
    "depths": [1, 1, 1],
    "num_heads": [1, 2, 3],
    "window_sizes": [3, 4, 3],
    "strides": [2, 1],
    "image_size": 72,
    "output_channels": 16,
    "num_pos_feats": 8,
}
DECODER = {"mlp_dim": 24, "num_attention_heads": 2, "iou_head_hidden_dim": 12}
TEXT = {"embed_dim": 12, "context_length": 12, "vocab_size": 700, "width": 16, "heads": 2, "layers": 2}


def _draw(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Fill all weights and statistics so that no term of the computation vanishes or dominates."""
    generator = torch.Generator().manual_seed(seed)
    linear = {
        f"{name}.weight"
        for name, layer in module.named_modules()
        if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d, torch.nn.ConvTranspose2d))
    }
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if not tensor.is_floating_point() or name.endswith("attn_mask"):
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(noise.abs() + 0.5)
            elif ("norm" in name or ".bn." in name) and name.endswith("weight"):
                tensor.copy_(1 + 0.2 * noise)
            elif name in linear or "proj" in name and tensor.ndim == 2:
                tensor.copy_(noise * (1.5 / tensor[0].numel()) ** 0.5)
            elif name.endswith("positional_embedding"):
                tensor.copy_(noise)
            else:
                tensor.copy_(0.3 * noise)
    return module


@pytest.fixture(scope="session")
def draw():
    """draw(module, seed): random weights in place, the module back."""
    return _draw


@pytest.fixture(scope="session")
def make_config():
    """make_config(vision={...}, text=True|{...}, tiny_vit=True, ...): a small SamConfig with changes."""
    from sam_hf import SamConfig

    def make(vision=None, decoder=None, text=None, tiny_vit=False, **others):
        return SamConfig(
            vision_config=(TINY_VIT if tiny_vit else VISION) | (vision or {}),
            mask_decoder_config=DECODER | (decoder or {}),
            text_config=TEXT if text is True else text,
            **others,
        )

    return make


@pytest.fixture(scope="session")
def make_model(make_config):
    """make_model(seed=0, **config changes): a small SamModel in eval mode."""
    from sam_hf import SamModel

    def make(seed=0, **changes):
        return _draw(SamModel(make_config(**changes)), seed).eval()

    return make


@pytest.fixture(scope="session")
def make_prompts():
    """make_prompts(config, kinds, batch, prompts, seed): a dictionary of the prompts named in `kinds`."""

    def make(config, kinds, batch=2, prompts=3, points=2, seed=0, mask_per_prompt=True):
        generator = torch.Generator().manual_seed(seed)
        side = config.vision_config.image_size
        low = 4 * config.prompt_encoder_config.image_embedding_size
        made = {}
        if "points" in kinds:
            made["input_points"] = side * torch.rand(batch, prompts, points, 2, generator=generator)
            made["input_labels"] = torch.randint(0, 2, (batch, prompts, points), generator=generator)
        if "boxes" in kinds:
            corners = (side * torch.rand(batch, prompts, 2, 2, generator=generator)).sort(dim=2).values
            made["input_boxes"] = corners.flatten(2)
        if "masks" in kinds:
            shape = (batch, prompts, 1, low, low) if mask_per_prompt else (batch, 1, low, low)
            made["input_masks"] = 4 * torch.randn(shape, generator=generator)
        if "text" in kinds:
            vectors = torch.randn(batch, prompts, config.text_config.embed_dim, generator=generator)
            made["text_embeds"] = torch.nn.functional.normalize(vectors, dim=-1)
        return made

    return make


@pytest.fixture(scope="session")
def deviation():
    """deviation(ours, theirs, spread): the largest difference, relative to the range of theirs or to `spread`."""

    def measure(ours: torch.Tensor, theirs: torch.Tensor, spread: float | None = None) -> float:
        assert ours.shape == theirs.shape
        return float((ours - theirs).abs().max() / (spread or theirs.max() - theirs.min()))

    return measure
