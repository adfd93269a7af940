"""MobileSAM's own file: its layout, its numbers, and the way back into its own code.

The reference below is MobileSAM's published encoder written once more, as functions of the weights under the names of
its file. Attention and MLP are timm's modules, which MobileSAM took its from.
"""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from timm.models.tiny_vit import Attention
from torch import nn
from transformers import AutoModel, AutoProcessor

from sam_hf import SamConfig, SamModel, SamPredictor
from sam_hf.hub.conversion import convert
from sam_hf.hub.meta_names import to_meta_names
from sam_hf.hub.variants import check_variant, infer_config
from sam_hf.model.checkpoint_names import EMBEDDED_FOLDER

SIZES = {
    "model_type": "sam_tiny_vit",
    "embed_dims": [8, 12, 16, 32],
    "depths": [2, 1, 2, 1],
    "num_heads": [1, 2, 4, 2],
    "window_sizes": [7, 3, 4, 3],
    "image_size": 112,  # 14, 7 and 7 cells: most windows are padded
    "output_channels": 32,
    "num_pos_feats": 16,
}
PUBLISHED = {"model_type": "sam_tiny_vit"}


def mobile_sam_weights(sizes, seed=0):
    """Random weights as mobile_sam.pt names them, the classifier included that its encoder never asks."""
    torch.manual_seed(seed)
    model = SamModel(SamConfig(vision_config=sizes, mask_decoder_config={"layer_norm_eps": 1e-5}))
    generator = torch.Generator().manual_seed(seed)
    weights = {name: weight.clone() for name, weight in to_meta_names(model.state_dict()).items()}
    for name, weight in weights.items():
        if name.endswith("running_var"):
            weight.copy_(torch.rand(weight.shape, generator=generator) + 0.5)
        elif name.endswith("num_batches_tracked"):
            weight.fill_(7)
        elif weight.ndim == 1 or name.endswith("attention_biases"):
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
        else:
            weight.add_(weight[0].numel() ** -0.5 * torch.randn(weight.shape, generator=generator))
    width = model.config.vision_config.embed_dims[-1]
    for name, shape in {"norm_head.weight": (width,), "norm_head.bias": (width,), "head.bias": (1000,)}.items():
        weights[f"image_encoder.{name}"] = torch.randn(shape, generator=generator)
    weights["image_encoder.head.weight"] = torch.randn(1000, width, generator=generator)
    return weights


class Reference:
    """MobileSAM's image encoder: (B,3,S,S) -> (B,C,S/16,S/16)."""

    def __init__(self, weights, sizes):
        prefix = "image_encoder."
        self.weights = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
        self.depths, self.windows, self.heads = sizes["depths"], sizes["window_sizes"], sizes["num_heads"]

    def conv_bn(self, name, x, stride=1):
        weight, bn = self.weights[f"{name}.c.weight"], f"{name}.bn."
        x = F.conv2d(x, weight, None, stride, weight.shape[2] // 2, groups=x.shape[1] // weight.shape[1])
        statistics = [self.weights[bn + part] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *statistics, training=False, eps=1e-5)

    def three(self, name, x, stride=1):
        x = F.gelu(self.conv_bn(f"{name}.conv1", x))
        return self.conv_bn(f"{name}.conv3", F.gelu(self.conv_bn(f"{name}.conv2", x, stride)))

    def norm(self, name, x):
        return F.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], 1e-5)

    def linear(self, name, x):
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def attention(self, name, x, stage):
        """timm's attention inside windows that are filled up with zeros; (B,h,w,C)."""
        side, (batch, height, width, channels) = self.windows[stage], x.shape
        heads = self.heads[stage]
        attention = Attention(channels, channels // heads, heads, attn_ratio=1, resolution=(side, side))
        own = {part.removeprefix(name + "."): w for part, w in self.weights.items() if part.startswith(name + ".")}
        attention.load_state_dict(own)
        x = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
        rows, columns = x.shape[1] // side, x.shape[2] // side
        x = x.view(batch, rows, side, columns, side, channels).transpose(2, 3).reshape(-1, side * side, channels)
        attention.eval()  # returns nothing
        x = attention(x).view(batch, rows, columns, side, side, channels).transpose(2, 3)
        return x.reshape(batch, rows * side, columns * side, channels)[:, :height, :width]

    def block(self, name, x, stage):
        x = x + self.attention(f"{name}.attn", x.permute(0, 2, 3, 1), stage).permute(0, 3, 1, 2)
        x = self.conv_bn(f"{name}.local_conv", x).permute(0, 2, 3, 1)
        hidden = F.gelu(self.linear(f"{name}.mlp.fc1", self.norm(f"{name}.mlp.norm", x)))
        return (x + self.linear(f"{name}.mlp.fc2", hidden)).permute(0, 3, 1, 2)

    def layer_norm_2d(self, name, x):
        mean, variance = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
        x = (x - mean) / (variance + 1e-6).sqrt()
        return self.weights[f"{name}.weight"][:, None, None] * x + self.weights[f"{name}.bias"][:, None, None]

    def __call__(self, x):
        x = self.conv_bn("patch_embed.seq.0", x, stride=2)
        x = self.conv_bn("patch_embed.seq.2", F.gelu(x), stride=2)
        for stage, depth in enumerate(self.depths):
            for index in range(depth):
                name = f"layers.{stage}.blocks.{index}"
                x = F.gelu(x + self.three(name, x)) if stage == 0 else self.block(name, x, stage)
            if stage < len(self.depths) - 1:  # into the last stage the resolution is kept
                x = self.three(f"layers.{stage}.downsample", x, stride=1 if stage == len(self.depths) - 2 else 2)
        x = self.layer_norm_2d("neck.1", F.conv2d(x, self.weights["neck.0.weight"]))
        return self.layer_norm_2d("neck.3", F.conv2d(x, self.weights["neck.2.weight"], padding=1))


def same(first, second):
    return set(first) == set(second) and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]) for name in first
    )


@torch.no_grad()
def test_its_layout_its_numbers_and_back(tmp_path):
    weights = mobile_sam_weights(SIZES)
    torch.save(weights, tmp_path / "mobile.pt")
    config = SamConfig(vision_config=SIZES, mask_decoder_config={"layer_norm_eps": 1e-5})
    done = convert(tmp_path / "mobile.pt", tmp_path / "folder", config=config)
    assert done.layout == "sam_hf" and "TinyViT" in done.variant
    model = SamModel.from_pretrained(tmp_path / "folder").eval()
    pixels = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(1))
    expected = Reference(weights, SIZES)(pixels)
    assert expected.shape == (2, 32, 7, 7)
    assert (model.get_image_embeddings(pixels) - expected).abs().max() < 1e-5 * (expected.max() - expected.min())
    convert(tmp_path / "folder", tmp_path / "back.pt")
    assert same(torch.load(tmp_path / "back.pt", weights_only=True), weights)
    convert(tmp_path / "back.pt", tmp_path / "again")  # its record says what the tensors do not
    assert SamModel.from_pretrained(tmp_path / "again").config.vision_config.image_size == 112


def test_the_published_file_is_recognised():
    """Its shapes, written down from MobileSAM's own build function; no values."""
    published = {
        "model_type": "sam_tiny_vit",
        "embed_dims": [64, 128, 160, 320],
        "depths": [2, 2, 6, 2],
        "num_heads": [2, 4, 5, 10],
        "window_sizes": [7, 7, 14, 7],
        "strides": [2, 2, 1],
        "image_size": 1024,
    }
    with torch.device("meta"):
        weights = to_meta_names(SamModel(SamConfig(vision_config=published)).state_dict())
    config, notes = infer_config(weights)
    for name, value in published.items():
        assert getattr(config.vision_config, name) == value, name
    vision, decoder = config.vision_config, config.mask_decoder_config
    assert (vision.mlp_ratio, vision.mbconv_expand_ratio, vision.local_conv_size, vision.patch_size) == (4, 4, 3, 16)
    assert (vision.output_channels, vision.num_pos_feats, config.prompt_encoder_config.image_size) == (256, 128, 1024)
    assert (decoder.num_attention_heads, decoder.mlp_dim, decoder.layer_norm_eps) == (8, 2048, 1e-5)
    assert len(notes) == 1 and "1024 px and strides 2, 2, 1 assumed" in notes[0]
    check_variant("mobile_sam", config, "mobile_sam.pt")
    with pytest.raises(ValueError, match=r"no vit_b: its weights are those of vit_t \(TinyViT, widths 64/128/160/320"):
        check_variant("vit_b", config, "mobile_sam.pt")


def test_its_processor_and_its_layouts(tmp_path):
    """Widths and depths are small; what no tensor tells is MobileSAM's."""
    with torch.random.fork_rng(devices=[]):
        weights = mobile_sam_weights(SIZES)
    torch.save(weights, tmp_path / "mobile_sam.pt")
    convert(tmp_path / "mobile_sam.pt", tmp_path / "folder")
    assert AutoModel.from_pretrained(tmp_path / "folder").config.vision_config.image_size == 1024
    images = AutoProcessor.from_pretrained(tmp_path / "folder").image_processor
    assert images.size == {"longest_edge": 1024} and images.pad_size == {"height": 1024, "width": 1024}
    assert list(images.image_mean) == pytest.approx([123.675 / 255, 116.28 / 255, 103.53 / 255])
    assert list(images.image_std) == pytest.approx([58.395 / 255, 57.12 / 255, 57.375 / 255])
    assert SamPredictor.from_pretrained(tmp_path / "folder", device="cpu").processor.target_size == 1024
    with pytest.raises(ValueError, match="stock transformers has no SAM with the TinyViT"):
        convert(tmp_path / "mobile_sam.pt", tmp_path / "stock", to="transformers")


@torch.no_grad()
def test_embedded_checkpoint_to_its_layout_and_back(tmp_path):
    done = convert("tiny", tmp_path / "tiny.pth", drop_text=True)
    assert any("classifier" in note for note in done.notes)
    written = torch.load(tmp_path / "tiny.pth", weights_only=True)
    assert written["image_encoder.head.weight"].shape[0] == 1000
    convert(tmp_path / "tiny.pth", tmp_path / "back", text_from="tiny")
    assert same(load_file(tmp_path / "back/model.safetensors"), load_file(EMBEDDED_FOLDER / "model.safetensors"))
    assert not (tmp_path / "back/unused_weights.safetensors").exists()
    ours, back = (SamModel.from_pretrained(name).state_dict() for name in ("tiny", tmp_path / "back"))
    assert same(ours, back)


@pytest.mark.slow
@torch.no_grad()
def test_published_size(tmp_path):
    weights = mobile_sam_weights(PUBLISHED)
    torch.save(weights, tmp_path / "mobile_sam.pt")
    convert(tmp_path / "mobile_sam.pt", tmp_path / "folder")
    model = SamModel.from_pretrained(tmp_path / "folder").eval()
    vision = model.config.vision_config
    sizes = {name: getattr(vision, name) for name in ("depths", "window_sizes", "num_heads")}
    pixels = torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(1))
    expected = Reference(weights, sizes)(pixels)
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        got = model.get_image_embeddings(pixels)
        assert (got - expected).abs().max() < 1e-4 * (expected.max() - expected.min())
    assert isinstance(model.vision_encoder, nn.Module) and got.shape == (1, 256, 64, 64)
