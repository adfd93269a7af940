"""segment-anything's model with our weights: what parity tests and benchmarks hold ours against."""

from __future__ import annotations

import re
from functools import partial

from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

from sam_hf import SamModel

VITS = {
    "vit-b": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "global_attn_indexes": [2, 5, 8, 11],
    },
    "vit-l": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "global_attn_indexes": [5, 11, 17, 23],
    },
    "vit-h": {
        "hidden_size": 1280,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "global_attn_indexes": [7, 15, 23, 31],
    },
}
"""`SamVisionConfig` of the three models that Meta released."""

META_NAMES = [
    (r"^vision_encoder\.", "image_encoder."),
    (r"patch_embed\.projection\.", "patch_embed.proj."),
    (r"^(image_encoder\.)layers\.", r"\1blocks."),
    (r"neck\.conv1\.", "neck.0."),
    (r"neck\.layer_norm1\.", "neck.1."),
    (r"neck\.conv2\.", "neck.2."),
    (r"neck\.layer_norm2\.", "neck.3."),
    (r"shared_embedding\.positional_embedding", "pe_layer.positional_encoding_gaussian_matrix"),
    (r"\.point_embed\.", ".point_embeddings."),
    (r"mask_embed\.conv1\.", "mask_downscaling.0."),
    (r"mask_embed\.layer_norm1\.", "mask_downscaling.1."),
    (r"mask_embed\.conv2\.", "mask_downscaling.3."),
    (r"mask_embed\.layer_norm2\.", "mask_downscaling.4."),
    (r"mask_embed\.conv3\.", "mask_downscaling.6."),
    (r"upscale_conv1\.", "output_upscaling.0."),
    (r"upscale_layer_norm\.", "output_upscaling.1."),
    (r"upscale_conv2\.", "output_upscaling.3."),
    (r"((?:mlps\.\d|iou_prediction_head)\.)layers\.0\.", r"\1layers.1."),
    (r"((?:mlps\.\d|iou_prediction_head)\.)proj_in\.", r"\1layers.0."),
    (r"((?:mlps\.\d|iou_prediction_head)\.)proj_out\.", r"\1layers.2."),
    (r"layer_norm_final_attn\.", "norm_final_attn."),
    (r"layer_norm(\d)\.", r"norm\1."),
]


class OurEncoder(nn.Module):
    """An image encoder of ours as Meta's `Sam` wants it: it returns a tensor and knows its size."""

    def __init__(self, encoder: nn.Module, img_size: int):
        super().__init__()
        self.encoder, self.img_size = encoder, img_size

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.encoder(pixel_values)[0]


def meta_of(model: SamModel, *, our_encoder: bool = False, our_epsilon: bool = False) -> Sam:
    """Meta's model with the sizes and weights of ours; text, which Meta's has not, is left out.

    Args:
        model: Any `SamModel`.
        our_encoder: Keep our image encoder itself; a must for one that is no ViT.
        our_epsilon: Give Meta's two-way blocks our layer norms' epsilon; theirs is 1e-5, whatever the weights' is.
    """
    vision, decoder = model.config.vision_config, model.config.mask_decoder_config
    cells, width = model.config.prompt_encoder_config.image_embedding_size, decoder.hidden_size
    prompts = PromptEncoder(
        embed_dim=width,
        image_embedding_size=(cells, cells),
        input_image_size=(vision.image_size, vision.image_size),
        mask_in_chans=16,
    )
    transformer = TwoWayTransformer(
        depth=decoder.num_hidden_layers,
        embedding_dim=width,
        mlp_dim=decoder.mlp_dim,
        num_heads=decoder.num_attention_heads,
    )
    for norm in transformer.layers.modules():
        if our_epsilon and isinstance(norm, nn.LayerNorm):
            norm.eps = decoder.layer_norm_eps
    masks = MaskDecoder(
        transformer_dim=width,
        transformer=transformer,
        num_multimask_outputs=3,
        iou_head_depth=3,
        iou_head_hidden_dim=decoder.iou_head_hidden_dim,
    )
    encoder = OurEncoder(model.vision_encoder, vision.image_size) if our_encoder else _vit(vision, width)
    sam = Sam(encoder, prompts, masks)
    weights = {key: value for key, value in model.state_dict().items() if not key.startswith("prompt_encoder.text_")}
    del weights["shared_image_embedding.positional_embedding"]  # once, in the prompt encoder
    kept = {key: weights.pop(key) for key in list(weights) if our_encoder and key.startswith("vision_encoder.")}
    for pattern, replacement in META_NAMES:
        weights = {re.sub(pattern, replacement, key): value for key, value in weights.items()}
    weights |= {key.replace("vision_encoder.", "image_encoder.encoder.", 1): value for key, value in kept.items()}
    sam.load_state_dict(weights)
    return sam.eval()


def _vit(vision, width: int) -> ImageEncoderViT:
    return ImageEncoderViT(
        img_size=vision.image_size,
        patch_size=vision.patch_size,
        embed_dim=vision.hidden_size,
        depth=vision.num_hidden_layers,
        num_heads=vision.num_attention_heads,
        out_chans=width,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=vision.window_size,
        global_attn_indexes=vision.global_attn_indexes,
    )
