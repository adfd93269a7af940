"""The TinyViT image encoder: timm's numbers with timm's weights, any image size, and a whole model around it."""

import pytest
import torch
from timm.models.tiny_vit import TinyVit

from sam_hf import SamModel, SamTinyViTConfig, SamVisionConfig, SamVisionModel
from sam_hf.model.tiny_vit_encoder import SamTinyViTEncoder

TOLERANCE = 1e-4  # of the range of the values compared
SIZES = {
    "embed_dims": (8, 16, 24, 32),
    "depths": (2, 1, 2, 1),
    "num_heads": (1, 2, 3, 4),
    "window_sizes": (3, 3, 4, 3),
    "strides": (2, 2, 2),  # timm's are fixed; MobileSAM's last is 1
    "output_channels": 16,
    "num_pos_feats": 8,
}


def make_encoder(draw, seed=0, **changes):
    return draw(SamTinyViTEncoder(SamTinyViTConfig(**(SIZES | changes))), seed).eval()


def timm_of(encoder):
    """timm's model with the weights of ours; the names differ in the head and neck only."""
    theirs = TinyVit(
        num_classes=0,
        embed_dims=SIZES["embed_dims"],
        depths=SIZES["depths"],
        num_heads=SIZES["num_heads"],
        window_sizes=SIZES["window_sizes"],
    )
    weights = {name: value for name, value in encoder.state_dict().items() if not name.startswith("neck.")}
    report = theirs.load_state_dict(weights, strict=False)
    assert not report.unexpected_keys and all(name.startswith("head.") for name in report.missing_keys)
    return theirs.eval()


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("image_size", [64, 96, 200])
def test_parity_with_timm(image_size, attention, draw, deviation):
    encoder = make_encoder(draw, image_size=image_size)
    encoder.set_attn_implementation(attention)
    pixels = torch.randn(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(1))
    features = []
    encoder.neck.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
    output = encoder(pixels).last_hidden_state
    theirs = timm_of(encoder).forward_features(pixels)
    assert deviation(features[0].permute(0, 3, 1, 2), theirs) < TOLERANCE
    assert output.shape == (2, 16, *theirs.shape[2:])
    assert encoder.config.patch_size == 32


@torch.no_grad()
def test_weights_do_not_depend_on_the_image_size(draw, deviation):
    encoders = [make_encoder(draw, image_size=size, strides=(2, 2, 1)) for size in (64, 96, 144)]
    weights = encoders[0].state_dict()
    for encoder, cells in zip(encoders, (4, 6, 9), strict=True):
        encoder.load_state_dict(weights)  # strict
        size = encoder.config.image_size
        assert encoder(torch.randn(1, 3, size, size)).last_hidden_state.shape == (1, 16, cells, cells)
    with pytest.raises(ValueError, match="pixel_values.*64, 64"):
        encoders[0](torch.randn(1, 3, 96, 96))


@torch.no_grad()
def test_hidden_states_and_attentions(draw):
    encoder = make_encoder(draw, image_size=64)
    output = encoder(torch.randn(2, 3, 64, 64), output_hidden_states=True, output_attentions=True)
    assert [tuple(state.shape[1:]) for state in output.hidden_states] == [
        (8, 16, 16),
        (8, 16, 16),
        (16, 8, 8),
        (24, 4, 4),
        (32, 2, 2),
    ]
    assert len(output.attentions) == 4  # blocks of the attention stages
    for weights in output.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


@torch.no_grad()
def test_whole_model_and_its_vision_part_round_trip(make_model, make_prompts, deviation, tmp_path, caplog):
    model = make_model(tiny_vit=True)
    assert model.config.model_type == "sam_hf"
    model.save_pretrained(tmp_path)
    loaded = SamModel.from_pretrained(tmp_path).eval()
    pixels = torch.randn(2, 3, 72, 72, generator=torch.Generator().manual_seed(1))
    prompts = make_prompts(model.config, ["points"])
    assert deviation(loaded(pixels, **prompts).pred_masks, model(pixels, **prompts).pred_masks) < 1e-6
    assert isinstance(SamVisionConfig.from_pretrained(tmp_path), SamTinyViTConfig)
    vision, report = SamVisionModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert deviation(vision.eval()(pixels)[0], model.get_image_embeddings(pixels)) < 1e-6
    vision.save_pretrained(tmp_path / "vision")
    again = SamVisionModel.from_pretrained(tmp_path / "vision").eval()
    assert deviation(again(pixels)[0], vision(pixels)[0]) < 1e-6
    assert not caplog.records


def test_stages_must_be_described_alike():
    for name in ("depths", "num_heads", "window_sizes", "strides"):
        with pytest.raises(ValueError, match=name):
            SamTinyViTConfig(**(SIZES | {name: SIZES[name][:-1]}))


def test_fresh_residual_branches_start_closed(make_config):
    encoder = SamModel(make_config(tiny_vit=True)).vision_encoder
    for name, weight in encoder.named_parameters():
        assert weight.isfinite().all()
        if name.startswith("stages.0.") and name.endswith("conv3.bn.weight"):
            assert not weight.any()
        elif name.endswith("bn.weight"):
            assert (weight == 1).all()
        elif name.endswith("conv.weight") or name.endswith("qkv.weight"):
            assert 0.005 < weight.std() < 1.5, name
