"""A random model whose masks and scores differ from point to point."""

import pytest


@pytest.fixture(scope="session")
def vary():
    """Gives a model weights with which every point has its own mask."""
    import torch

    def fill(model):
        generator = torch.Generator().manual_seed(10)
        with torch.no_grad():
            for name, weight in [*model.named_parameters(), *model.named_buffers()]:
                noise = torch.randn(weight.shape, generator=generator)
                if "positional_embedding" in name:
                    weight.copy_(0.4 * noise)
                elif weight.ndim > 1:
                    weight.copy_(noise * (2.5 / weight[0].numel()) ** 0.5)
                else:
                    weight.copy_(0.1 * noise + ("norm" in name and name.endswith("weight")))

    return fill


@pytest.fixture(scope="session")
def varied_sam(vary):
    """A small plain ViT (input 64 px) and its processor, which resizes with PIL as Meta does; all scores above 0."""
    import torch

    from sam_hf import SamConfig, SamImageProcessorPil, SamModel, SamProcessor

    vision = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64, "patch_size": 8}
    vision |= {"output_channels": 64, "num_pos_feats": 32, "window_size": 4, "global_attn_indexes": [1]}
    prompts = {"hidden_size": 64}
    decoder = {"hidden_size": 64, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    model = SamModel(
        SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    ).eval()
    vary(model)
    with torch.no_grad():
        head = model.mask_decoder.iou_prediction_head.proj_out
        head.weight.mul_(0.1)
        head.bias.fill_(0.5)
    sizes = {"size": {"longest_edge": 64}, "pad_size": {"height": 64, "width": 64}}
    sizes |= {"mask_size": {"longest_edge": 32}, "mask_pad_size": {"height": 32, "width": 32}}
    return model, SamProcessor(SamImageProcessorPil(**sizes))
