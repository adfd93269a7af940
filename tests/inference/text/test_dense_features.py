"""Features per patch are what the papers say, checked against open_clip's own blocks and plain matrix products."""

import math

import pytest
import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer

from sam_hf.inference.text.dense_features import (
    ATTENTIONS,
    dense_features,
    dense_size,
    gaussian_window,
    pool_tokens,
    resize_positions,
)

HEADS, WIDTH, LAYERS = 2, 16, 3
CUSTOM = {"qk_norm": True, "scale_heads": True, "scale_attn_inner": True, "scale_attn": True, "scale_fc": True}


def transformer(**options):
    torch.manual_seed(0)
    sizes = {"image_size": 32, "patch_size": 8, "width": WIDTH, "layers": LAYERS, "heads": HEADS, "mlp_ratio": 2.0}
    visual = VisionTransformer(**sizes, output_dim=12, **options).eval()
    with torch.no_grad():
        for weight in visual.parameters():  # biases and norms too: what is left out must show
            weight.add_(0.3 * torch.randn_like(weight))
    return visual


def resnet():
    torch.manual_seed(1)
    visual = ModifiedResNet([1, 1, 1, 1], output_dim=12, heads=4, image_size=64, width=8).eval()
    with torch.no_grad():
        for weight in visual.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return visual


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.fixture(params=[{}, {"ls_init_value": 0.5}, CUSTOM], ids=["default", "layer scale", "custom block"])
def visual(request):
    return transformer(**request.param)


def before(visual, images, count):
    """Tokens after some blocks, by open_clip."""
    tokens = visual._embeds(images)
    for block in visual.transformer.resblocks[:count]:
        tokens = block(tokens)
    return tokens


def projected(visual, tokens):
    return (visual.ln_post(tokens[:, 1:]) @ visual.proj).transpose(1, 2).unflatten(2, (4, 4))


def heads_of(block, tokens):
    """Queries, keys, values of a default block as lists over heads, (n,T,d)."""
    parts = (block.ln_1(tokens) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).split(WIDTH, dim=-1)
    return [part.split(WIDTH // HEADS, dim=-1) for part in parts]


def attended(a, b, values, bias=0.0):
    """The textbook product, one head."""
    return (a @ b.transpose(1, 2) / math.sqrt(WIDTH // HEADS) + bias).softmax(-1) @ values


@torch.no_grad()
def test_plain_is_open_clips_own_answer(visual, images):
    output = visual.forward_intermediates(images, indices=[LAYERS - 1], normalize_intermediates=True)
    tokens = output["image_intermediates"][0]  # (n,C,h,w)
    expected = torch.einsum("nchw,cd->ndhw", tokens, visual.proj)
    torch.testing.assert_close(dense_features(visual, images, "plain"), expected)


@torch.no_grad()
def test_value_is_attention_to_oneself_alone(visual, images):
    tokens = before(visual, images, LAYERS - 1)
    count = tokens.shape[1]
    alone = torch.full((count, count), -torch.inf).fill_diagonal_(0.0)
    expected = visual.transformer.resblocks[-1](tokens, attn_mask=alone)
    torch.testing.assert_close(dense_features(visual, images, "value"), projected(visual, expected))


@torch.no_grad()
def test_self_is_query_query_plus_key_key(images):
    visual = transformer()
    tokens, block = before(visual, images, LAYERS - 1), visual.transformer.resblocks[-1]
    mixed = [attended(q, q, v) + attended(k, k, v) for q, k, v in zip(*heads_of(block, tokens), strict=True)]
    tokens = tokens + block.attn.out_proj(torch.cat(mixed, dim=-1))
    expected = tokens + block.mlp(block.ln_2(tokens))
    torch.testing.assert_close(dense_features(visual, images, "self"), projected(visual, expected))


@pytest.mark.parametrize("sigma", [5.0, 1e6])
@torch.no_grad()
def test_nacl_is_key_key_with_a_window_and_nothing_else(images, sigma):
    visual = transformer()
    block = visual.transformer.resblocks[-1]
    _, keys, values = heads_of(block, before(visual, images, LAYERS - 1))
    # A window without end adds the same to every score, which a softmax does not see: plain key-key attention.
    window = gaussian_window((4, 4), sigma) if sigma == 5.0 else 0.0
    mixed = [attended(k[:, 1:], k[:, 1:], v[:, 1:], window) for k, v in zip(keys, values, strict=True)]
    expected = F.pad(block.attn.out_proj(torch.cat(mixed, dim=-1)), (0, 0, 1, 0))
    torch.testing.assert_close(dense_features(visual, images, "nacl", sigma), projected(visual, expected))


@torch.no_grad()
def test_rows_of_nacl_sum_to_one(images):
    visual = transformer()
    block = visual.transformer.resblocks[-1]
    block.attn.in_proj_weight[2 * WIDTH :] = 0  # every value is the bias, whatever the token
    alone = block.attn.out_proj(block.attn.in_proj_bias[2 * WIDTH :])
    expected = (visual.ln_post(alone) @ visual.proj)[None, :, None, None].expand(2, -1, 4, 4)
    torch.testing.assert_close(dense_features(visual, images, "nacl"), expected)


@torch.no_grad()
def test_surgery_reads_the_first_stream_and_leaves_it_alone(images):
    visual = transformer()
    blocks = visual.transformer.resblocks
    tokens = before(visual, images, LAYERS - 1)  # of three blocks, the later half is the last one
    mixed = [attended(v, v, v) for v in heads_of(blocks[-1], tokens)[2]]
    expected = tokens + blocks[-1].attn.out_proj(torch.cat(mixed, dim=-1))
    torch.testing.assert_close(dense_features(visual, images, "surgery"), projected(visual, expected))


@torch.no_grad()
def test_surgery_gathers_over_several_blocks(images):
    torch.manual_seed(3)
    visual = VisionTransformer(32, 8, WIDTH, 4, HEADS, 2.0, output_dim=12).eval()
    first = before(visual, images, 2)
    second = first
    for block in visual.transformer.resblocks[2:]:
        mixed = [attended(v, v, v) for v in heads_of(block, first)[2]]
        second = second + block.attn.out_proj(torch.cat(mixed, dim=-1))
        first = block(first)
    torch.testing.assert_close(dense_features(visual, images, "surgery"), projected(visual, second))


def test_window_is_one_at_home_and_falls_with_distance():
    window = gaussian_window((3, 5), sigma=2.0)
    assert window.shape == (15, 15) and torch.equal(window, window.T)
    assert torch.equal(window.diagonal(), torch.ones(15))
    assert window[0, 1] == pytest.approx(math.exp(-1 / 8))
    assert window[0, 14] == pytest.approx(math.exp(-(2**2 + 4**2) / 8))


def test_positions_stay_at_the_native_size_and_ramps_stay_ramps():
    positions = torch.randn(1 + 16, 6)
    assert resize_positions(positions, (4, 4), (4, 4)) is positions
    ramp = torch.arange(8.0)[None, :].expand(8, 8).reshape(64, 1)
    resized = resize_positions(torch.cat([torch.full((1, 1), 99.0), ramp]), (8, 8), (4, 16))
    assert resized.shape == (65, 1) and resized[0] == 99.0
    rows = resized[1:].reshape(4, 16)
    torch.testing.assert_close(rows, rows[:1].expand(4, 16))
    inner = rows[0, 4:12]  # away from the rim, where there is nothing to look at beyond
    torch.testing.assert_close(inner.diff(), torch.full((7,), 0.5))


@pytest.mark.parametrize("attention", ATTENTIONS)
@torch.no_grad()
def test_halves_of_a_picture_have_features_of_their_own(attention):
    visual = transformer()
    visual.positional_embedding.zero_()
    picture = torch.full((1, 3, 32, 64), -1.0)
    picture[..., 32:] = 1.0
    features = F.normalize(dense_features(visual, picture, attention)[0], dim=0)  # (D,4,8)
    left, right = features[..., :4].flatten(1).T, features[..., 4:].flatten(1).T
    within, across = min((left @ left.T).min(), (right @ right.T).min()), (left @ right.T).max()
    assert within > across + 0.01
    if attention != "nacl":  # whose window sees where a patch is
        torch.testing.assert_close(left, left[:1].expand_as(left), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("tower", [transformer, resnet])
@torch.no_grad()
def test_any_size_gives_a_grid_over_the_whole_picture(tower, attention):
    visual = tower()
    patch = 8 if tower is transformer else 32
    pictures = torch.randn(1, 3, 2 * patch - 3, 5 * patch + 1)
    features = dense_features(visual, pictures, attention)
    assert features.shape == (1, 12, 2, 6) and features.isfinite().all()
    enlarged = F.interpolate(pictures, (2 * patch, 6 * patch), mode="bilinear")
    torch.testing.assert_close(features, dense_features(visual, enlarged, attention))


@torch.no_grad()
def test_resnet_tower_projects_values_and_plain_is_its_pool():
    visual = resnet()
    images = torch.randn(2, 3, 64, 64)
    features = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(images)))))
    tokens = features.flatten(2).transpose(1, 2)
    everywhere = pool_tokens(visual.attnpool, tokens, (2, 2))
    torch.testing.assert_close(everywhere[:, 0], visual(images))
    plain = dense_features(visual, images, "plain")
    torch.testing.assert_close(plain.flatten(2).transpose(1, 2), everywhere[:, 1:])
    values = dense_features(visual, images, "value")
    place = visual.attnpool.c_proj(visual.attnpool.v_proj(features[1, :, 1, 0]))
    torch.testing.assert_close(values[1, :, 1, 0], place)
    for attention in ("self", "nacl", "surgery"):
        assert torch.equal(dense_features(visual, images, attention), values)


@pytest.mark.parametrize("attention", ATTENTIONS)
@torch.no_grad()
def test_bfloat16_is_near_float32(images, attention):
    visual = transformer()
    expected = F.normalize(dense_features(visual, images, attention), dim=1)
    low = dense_features(visual.to(torch.bfloat16), images.to(torch.bfloat16), attention)
    assert low.dtype == torch.bfloat16
    assert (F.normalize(low.float(), dim=1) * expected).sum(1).min() > 0.99


@pytest.mark.parametrize(
    ("picture", "size", "patch", "expected"),
    [
        ((500, 500), 336, 14, (336, 336)),
        ((300, 600), 336, 14, (238, 476)),
        ((100, 100), 33, 16, (32, 32)),
        ((1, 1), 224, 16, (224, 224)),
    ],
)
def test_pictures_keep_their_aspect_to_the_nearest_patch(picture, size, patch, expected):
    assert dense_size(picture, size, (patch, patch)) == expected


@pytest.mark.parametrize("picture", [(1, 20000), (20000, 1), (40, 3000)])
def test_panoramas_have_no_more_patches_than_squares(picture):
    height, width = dense_size(picture, 224, (16, 16))
    assert height % 16 == width % 16 == 0 and 0 < height * width <= 1.1 * 224**2
    assert (height > width) == (picture[0] > picture[1])


def test_what_has_no_dense_features_is_refused(images):
    with pytest.raises(ValueError, match="VisionTransformer without attentional pool.*ModifiedResNet.*Identity"):
        dense_features(torch.nn.Identity(), images)
    with pytest.raises(ValueError, match="attentional pool"):
        dense_features(transformer(attentional_pool=True, attn_pooler_heads=2), images)
    with pytest.raises(ValueError, match="plain, value, self, nacl, surgery; got 'gem'"):
        dense_features(transformer(), images, "gem")
    with pytest.raises(ValueError, match=r"\(n, 3, H, W\), got \(3, 32, 32\)"):
        dense_features(transformer(), images[0])
    with pytest.raises(ValueError, match="sigma"):
        dense_features(transformer(), images, sigma=0.0)
