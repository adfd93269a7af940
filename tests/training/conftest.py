"""The smallest model of the embedded checkpoint's kind."""

import pytest


@pytest.fixture(scope="session")
def small_config():
    """Function of the text branch's fields -> `SamConfig`: a TinyViT of stride 8, 48 px input, width 8 throughout."""
    from sam_hf import SamConfig

    vision = {
        "model_type": "sam_tiny_vit",
        "embed_dims": [8, 8, 8, 8],
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 1, 1, 1],
        "window_sizes": [4, 4, 4, 4],
        "strides": [2, 1, 1],
        "output_channels": 8,
        "num_pos_feats": 4,
        "image_size": 48,
    }
    decoder = {"mlp_dim": 8, "num_attention_heads": 1, "iou_head_hidden_dim": 8}
    return lambda **text: SamConfig(vision_config=vision, mask_decoder_config=decoder, text_config=text)
