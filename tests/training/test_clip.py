"""The small CLIP: what counts as true, the loss, the folder, and what appendix D.5 makes of it."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sam_hf import SamConfig, SamModel
from sam_hf.model.text_encoder import SamTokenizer
from sam_hf.training import clip as small_clip
from sam_hf.training.crop_dataset import CropCollate, CropDataset, parse_phrase, truth, warped

TEXT = {"context_length": 8, "vocab_size": 600, "width": 16, "heads": 2, "layers": 1}
RESNET = {"embed_dim": 16, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}, "text_cfg": TEXT}
VIT = RESNET | {"vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8}}


def attributes(nouns, colour=None, possible_nouns=(), possible_colours=()):
    return SimpleNamespace(
        nouns=nouns,
        possible_nouns=frozenset((*nouns, *possible_nouns)),
        colour=colour,
        possible_colours=frozenset((*possible_colours, *([colour] if colour else []))),
        pattern=None,
        second_colour=None,
    )


TRUCK = attributes(("fire truck", "truck", "vehicle"), "red")
CAR = attributes(("car", "vehicle"), "red", possible_nouns=("truck",), possible_colours=("orange",))


@pytest.mark.parametrize(
    ("phrase", "nouns", "expected"),
    [
        ("red fire truck", TRUCK.nouns, ("fire truck", {"red"})),
        ("the big red truck inside the blue box", TRUCK.nouns, ("truck", {"red"})),
        ("a red and white striped car", CAR.nouns, ("car", {"red", "white", "striped"})),
        ("vehicle", CAR.nouns, ("vehicle", set())),
    ],
)
def test_phrases_are_taken_apart(phrase, nouns, expected):
    assert parse_phrase(phrase, nouns) == expected


def test_truth_knows_sure_possible_and_false():
    assert truth("vehicle", frozenset({"red"}), CAR) == (True, True)
    assert truth("truck", frozenset(), CAR) == (False, True)
    assert truth("car", frozenset({"orange"}), CAR) == (False, True)
    assert truth("fire truck", frozenset(), CAR) == (False, False)
    assert truth("vehicle", frozenset({"blue"}), CAR) == (False, False)


def scene(index):
    image = np.full((32, 32, 3), 40, np.uint8)
    things = []
    for k, (phrases, facts) in enumerate(((("red truck", "the fire truck"), TRUCK), (("red car",), CAR))):
        mask = np.zeros((32, 32), bool)
        mask[4 : 4 + 8 * (k + 1), 4:14] = True
        image[mask] = (200, 30 + 100 * k, (index * 40) % 255)
        things.append(SimpleNamespace(mask=mask, phrases=phrases, attributes=facts))
    return SimpleNamespace(image=image, objects=things)


@pytest.fixture(scope="module")
def batch():
    dataset = CropDataset(scene, crops=2, size=32, seed=1)
    return CropCollate(SamTokenizer(600, 8))([dataset[i] for i in range(3)])


def test_batches_know_what_else_is_true(batch):
    assert batch["images"].shape == (6, 3, 32, 32) and batch["input_ids"].shape == (6, 8)
    assert batch["positive"].diagonal().all() and not (batch["positive"] & batch["ignore"]).any()
    # either object occurs once per scene: each phrase is true of all three of its kind
    assert (batch["positive"].sum(1) == 3).all()
    with pytest.raises(ValueError, match="phrase"):
        CropCollate(SamTokenizer(600, 8))([[]])


def test_loss_ignores_possible_and_accepts_every_positive(batch):
    torch.manual_seed(0)
    module = small_clip.ClipForTraining(small_clip.build_clip(RESNET))
    out = module(**batch)
    out["loss"].backward()
    missing = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert out["loss"].isfinite() and not missing
    # against a plain formula: log of the share of each positive, averaged, both ways
    with torch.no_grad():
        features = module.clip(image=small_clip.normalise_crops(batch["images"]), text=batch["input_ids"])
        logits = features["logit_scale"] * features["text_features"] @ features["image_features"].t()
        expected = 0.0
        for scores, good, skip in (
            (logits, batch["positive"], batch["ignore"]),
            (logits.t(), batch["positive"].t(), batch["ignore"].t()),
        ):
            for row, right, left_out in zip(scores.exp(), good, skip, strict=True):
                expected += -(row[right] / row[~left_out].sum()).log().mean() / 12
    torch.testing.assert_close(out["loss"].detach(), expected, rtol=1e-3, atol=1e-4)


def test_a_crop_is_told_from_what_is_nearly_true_of_it():
    torch.manual_seed(0)
    module = small_clip.ClipForTraining(small_clip.build_clip(RESNET)).eval()
    dataset = CropDataset(scene, crops=2, size=32, rivals=3, seed=1)
    samples = dataset[0]
    for sample in samples:
        assert len(set(sample["rivals"])) == 3
        for phrase in sample["rivals"]:
            assert not any(truth(*parse_phrase(phrase, TRUCK.nouns + CAR.nouns), sample["attributes"]))
    batch = CropCollate(SamTokenizer(600, 8))([samples])
    assert batch["rival_of"].tolist() == [0, 0, 0, 1, 1, 1] and batch["rival_ids"].shape == (6, 8)
    with torch.no_grad():
        with_rivals = module(**batch)["loss"]
        rivals = module.clip.encode_text(batch.pop("rival_ids"), normalize=True).reshape(2, 3, -1)
        batch.pop("rival_of")
        features = module.clip(image=small_clip.normalise_crops(batch["images"]), text=batch["input_ids"])
        texts, images, scale = (features[name] for name in ("text_features", "image_features", "logit_scale"))
        crops = scale * images @ texts.t()
        crops = crops.masked_fill(batch["ignore"].t(), -torch.inf)
        among = torch.cat([crops, scale * torch.einsum("nd,nrd->nr", images, rivals)], 1).log_softmax(1)
        more = (crops.log_softmax(1) - among[:, :2]).diagonal().mean() / 2  # each crop has one phrase here
        torch.testing.assert_close(with_rivals - module(**batch)["loss"], more, rtol=1e-3, atol=1e-5)


def test_warping_moves_a_crop_and_its_mask_alike_and_leaves_shapes_alone(monkeypatch):
    image, mask = np.zeros((48, 48, 3), np.uint8), np.zeros((48, 48), bool)
    mask[14:34, 18:26] = True
    image[mask] = 250
    rng = np.random.default_rng(0)
    for _ in range(20):
        picture, moved = warped(image, mask, rng)
        agreement = (moved & (picture[..., 0] > 125)).sum() / (moved | (picture[..., 0] > 125)).sum()
        assert agreement > 0.85 and 0.7 < moved.sum() / mask.sum() < 1.4 and (moved != mask).any()
    plain, bent = (CropDataset(scene, crops=2, size=32, warp=warp, seed=1)[0] for warp in (0.0, 1.0))
    assert all((one["mask"] != other["mask"]).any() for one, other in zip(plain, bent, strict=True))
    monkeypatch.setattr(TRUCK, "nouns", (*TRUCK.nouns, "shape"))
    monkeypatch.setattr(CAR, "nouns", (*CAR.nouns, "shape"))
    plain, bent = (CropDataset(scene, crops=2, size=32, warp=warp, seed=1)[0] for warp in (0.0, 1.0))
    assert all((one["image"] == other["image"]).all() for one, other in zip(plain, bent, strict=True))


def test_every_pair_can_be_asked_by_itself(batch, tmp_path):
    torch.manual_seed(0)
    clip = small_clip.build_clip(RESNET).eval()
    plain, pairwise = small_clip.ClipForTraining(copy.deepcopy(clip)), small_clip.ClipForTraining(clip, pairwise=0.5)
    assert plain.clip.logit_bias is None and clip.logit_bias.item() == small_clip.PAIR_BIAS
    rivals = {"rival_ids": batch["input_ids"][:2].flip(0), "rival_of": torch.tensor([1, 4])}
    with torch.no_grad():
        more = pairwise(**batch, **rivals)["loss"] - plain(**batch, **rivals)["loss"]
        features = clip(image=small_clip.normalise_crops(batch["images"]), text=batch["input_ids"])
        texts, images, scale = (features[name] for name in ("text_features", "image_features", "logit_scale"))
        odds = scale * texts @ images.t() - 12.0
        surprise = torch.where(batch["positive"], -odds, odds).exp().log1p()[~batch["ignore"]].sum()
        # of rivals only their own crop is known not to be what they say
        surprise += sum((scale * texts[1 - i] @ images[crop] - 12.0).exp().log1p() for i, crop in enumerate((1, 4)))
    torch.testing.assert_close(more, 0.5 * surprise / 6, rtol=1e-3, atol=1e-4)
    clip.logit_bias.data.fill_(-3.0)
    small_clip.save_clip(clip, tmp_path / "clip")
    assert small_clip.load_clip(tmp_path / "clip").logit_bias.item() == -3.0


def test_phrases_are_read_once_and_no_further_than_they_go():
    clip = small_clip.build_clip(RESNET).eval()
    phrases = ["red car", "a big red truck", "car", "red car", ""]
    for some in (phrases, phrases[:1]):
        ids = SamTokenizer(600, 8)(some)["input_ids"]
        with torch.no_grad():
            expected = clip.encode_text(ids, normalize=True)
            torch.testing.assert_close(small_clip.phrase_vectors(clip, ids), expected)
    small_clip.phrase_vectors(clip, ids).sum().backward()
    assert clip.token_embedding.weight.grad.isfinite().all()


def test_folder_is_an_open_clip_folder(tmp_path, batch):
    import open_clip

    clip = small_clip.build_clip(RESNET).eval()
    means = small_clip.modality_means(clip, [batch])
    small_clip.save_clip(clip, tmp_path / "clip", means)
    images = small_clip.normalise_crops(batch["images"])
    with torch.no_grad():
        expected = clip.encode_image(images)
        for loaded in (
            open_clip.create_model(f"local-dir:{tmp_path / 'clip'}").eval(),
            small_clip.load_clip(tmp_path / "clip"),
        ):
            torch.testing.assert_close(loaded.encode_image(images), expected)
    image_mean, text_mean = small_clip.load_means(tmp_path / "clip")
    torch.testing.assert_close((image_mean, text_mean), means)
    with pytest.raises(OSError, match="has no open_clip_config.json"):
        small_clip.load_clip(tmp_path)


def test_text_tower_moves_into_the_prompt_encoder(batch):
    clip = small_clip.build_clip(RESNET).eval()
    vision = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 32, "patch_size": 8}
    vision |= {"output_channels": 8, "num_pos_feats": 4, "window_size": 0, "global_attn_indexes": []}
    decoder = {"mlp_dim": 8, "num_attention_heads": 1, "iou_head_hidden_dim": 8}
    config = SamConfig(vision_config=vision, mask_decoder_config=decoder, text_config={"embed_dim": 16, **TEXT})
    model = SamModel(config).eval()
    small_clip.copy_text_tower(clip, model)
    with torch.no_grad():
        torch.testing.assert_close(
            model.get_text_embeds(batch["input_ids"][None])[0], clip.encode_text(batch["input_ids"], normalize=True)
        )
    other = copy.deepcopy(RESNET)
    other["text_cfg"]["width"] = 32
    with pytest.raises(ValueError, match="does not fit"):
        small_clip.copy_text_tower(small_clip.build_clip(other), model)
    plain = SamModel(SamConfig(vision_config=vision, mask_decoder_config=decoder))
    with pytest.raises(ValueError, match="text_config"):
        small_clip.copy_text_tower(clip, plain)


@pytest.mark.parametrize("config", [RESNET, VIT], ids=["resnet", "vit"])
def test_masked_attention_of_the_last_layer(config, batch):
    torch.manual_seed(0)
    visual = small_clip.build_clip(config).eval().visual
    images = torch.randn(2, 3, 64, 64) if config is RESNET else torch.randn(2, 3, 32, 32)
    if config is RESNET:  # at 32 px its last map is a single cell, on which a mask has nothing to choose
        visual = (
            small_clip.build_clip(config | {"vision_cfg": config["vision_cfg"] | {"image_size": 64}}).eval().visual
        )
    everything = torch.ones(2, *images.shape[-2:], dtype=torch.bool)
    half = everything.clone()
    half[..., : images.shape[-1] // 2] = False
    with torch.no_grad():
        plain = visual(images)
        torch.testing.assert_close(small_clip.masked_image_features(visual, images, everything), plain)
        torch.testing.assert_close(small_clip.masked_image_features(visual, images, ~everything), plain)
        assert (small_clip.masked_image_features(visual, images, half) - plain).abs().max() > 1e-3
    with pytest.raises(ValueError, match="Linear"):
        small_clip.masked_image_features(torch.nn.Linear(1, 1), images, everything)


def test_crop_encoder_gives_unit_vectors_and_stays_frozen(batch):
    clip = small_clip.build_clip(VIT)
    for masked in (False, True):
        encoder = small_clip.CropEncoder(clip, masked_attention=masked)
        vectors = encoder(batch["images"].unflatten(0, (2, 3)), batch["masks"].unflatten(0, (2, 3)))
        assert vectors.shape == (2, 3, 16) and not vectors.requires_grad
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(2, 3))
    assert all(parameter.requires_grad for parameter in clip.parameters())
