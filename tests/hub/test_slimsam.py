"""SlimSAM: ViTs whose widths are no multiples of each other, configured as on the Hub, loaded as transformers does."""

import json

import pytest
import torch
import transformers

from sam_hf import SamConfig, SamModel, SamVisionConfig
from sam_hf.hub.conversion import convert

PUBLISHED = {"slimsam_50": {"hidden_size": 384, "mlp_dim": 1536}, "slimsam_77": {"hidden_size": 168, "mlp_dim": 696}}
# The same unevenness, small: head width 7, MLP 4.14 times as wide.
SMALL = {
    "hidden_size": 42,
    "mlp_dim": 174,
    "num_attention_heads": 6,
    "num_hidden_layers": 3,
    "global_attn_indexes": [1],
    "image_size": 64,
    "patch_size": 8,
    "window_size": 3,
    "output_channels": 32,
    "num_pos_feats": 16,
}


def as_on_the_hub(vision, kind, **parts):
    """config.json as nielsr/slimsam-77-uniform and its copies have it."""
    return {
        "architectures": ["SamModel"],
        "initializer_range": 0.02,
        "mask_decoder_config": {"model_type": kind} | parts.get("decoder", {}),
        "model_type": "sam",
        "prompt_encoder_config": {"model_type": kind} | parts.get("prompts", {}),
        "torch_dtype": "float32",
        "transformers_version": "4.37.0.dev0",
        "vision_config": vision | {"model_type": kind},
    }


@torch.no_grad()
@pytest.mark.parametrize("kind", ["", "vit_p77"])
def test_loads_as_in_transformers(tmp_path, kind):
    sizes = {
        "decoder": {"hidden_size": 32, "mlp_dim": 24},
        "prompts": {"hidden_size": 32, "image_size": 64, "patch_size": 8},
    }
    torch.manual_seed(0)
    config = as_on_the_hub(SMALL, "", **sizes)
    config.pop("torch_dtype")
    stock = transformers.SamModel(transformers.SamConfig(**{k: v for k, v in config.items() if k.endswith("_config")}))
    for weight in stock.parameters():
        weight.add_(0.2 * torch.randn_like(weight))
    stock.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(as_on_the_hub(SMALL, kind, **sizes)))
    ours, report = SamModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    stock = transformers.SamModel.from_pretrained(tmp_path).eval()
    pixels, points = torch.randn(2, 3, 64, 64), torch.tensor([[[[9.0, 40.0]]], [[[33.0, 12.0]]]])
    expected = stock(pixels, input_points=points)
    got = ours.eval()(pixels, input_points=points)
    for name in ("pred_masks", "iou_scores"):
        assert (got[name] - expected[name]).abs().max() < 1e-5 * (expected[name].max() - expected[name].min())
    assert isinstance(SamVisionConfig.from_pretrained(tmp_path), SamVisionConfig)
    convert(tmp_path, tmp_path / "slim.pth")  # and by Meta's names, without a configuration
    weights = torch.load(tmp_path / "slim.pth", weights_only=True)
    torch.save(weights, tmp_path / "bare.pth")
    convert(tmp_path / "bare.pth", tmp_path / "folder")
    again = SamModel.from_pretrained(tmp_path / "folder").state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in ours.state_dict().items())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_widths(name):
    config = as_on_the_hub(PUBLISHED[name], "")
    parts = {key: value for key, value in config.items() if key.endswith("_config")}
    with torch.device("meta"):
        ours, stock = SamModel(SamConfig(**parts)), transformers.SamModel(transformers.SamConfig(**parts))
    shapes = [{key: weight.shape for key, weight in model.state_dict().items()} for model in (ours, stock)]
    assert shapes[0] == shapes[1]
    assert shapes[0]["vision_encoder.layers.0.mlp.lin1.weight"] == tuple(PUBLISHED[name].values())[::-1]


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(tmp_path, name):
    config = as_on_the_hub(PUBLISHED[name], "")
    parts = {key: value for key, value in config.items() if key.endswith("_config")}
    torch.manual_seed(0)
    stock = transformers.SamModel(transformers.SamConfig(**parts)).eval()
    for weight in stock.vision_encoder.parameters():
        weight.add_(0.02 * torch.randn_like(weight))
    stock.save_pretrained(tmp_path)
    pixels = torch.randn(1, 3, 1024, 1024)
    expected = stock.get_image_embeddings(pixels)
    got = SamModel.from_pretrained(tmp_path).eval().get_image_embeddings(pixels)
    assert (got - expected).abs().max() < 1e-4 * (expected.max() - expected.min())
