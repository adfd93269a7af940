"""The same random weights in transformers' SamModel and in ours: the same answers; each loads what the other saved."""

import itertools
import json
import logging

import pytest
import torch
import transformers
from meta_twin import VITS

from sam_hf import SamConfig, SamModel, SamVisionConfig, SamVisionModel

TOLERANCE = 1e-4  # of the range of the values compared
IOU_RANGE = 1.0
COMBINATIONS = [kinds for count in range(4) for kinds in itertools.combinations(("points", "boxes", "masks"), count)]


def stock_of(model, attn_implementation=None):
    """transformers' model with the configuration and weights of ours."""
    config = transformers.SamConfig(**model.config.to_dict())
    if attn_implementation is not None:
        config._attn_implementation = attn_implementation
    stock = transformers.SamModel(config)
    stock.load_state_dict(model.state_dict())  # strict: every key, no other
    return stock.eval()


@pytest.fixture(scope="module")
def ours(make_model):
    return make_model()


@pytest.fixture(scope="module")
def stock(ours):
    return stock_of(ours)


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(2, 3, 72, 72, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def embeddings(stock, pixels):
    return stock.get_image_embeddings(pixels)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    "vision",
    [
        {},
        {"use_rel_pos": False, "use_abs_pos": False, "qkv_bias": False},
        {"window_size": 3},
        {"global_attn_indexes": [0, 1, 2], "num_attention_heads": 4},
        {"window_size": 16, "hidden_act": "relu", "mlp_dim": 20},
    ],
    ids=["padded windows", "no positions", "full windows", "all global", "window over the map"],
)
def test_image_embeddings(vision, attention, make_model, deviation, pixels):
    model = make_model(vision=vision)
    model.set_attn_implementation(attention)
    theirs = stock_of(model, attention).get_image_embeddings(pixels)
    assert deviation(model.get_image_embeddings(pixels), theirs) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("kinds", COMBINATIONS, ids=lambda kinds: "+".join(kinds) or "nothing")
def test_masks_and_scores(
    kinds, multimask, attention, make_config, make_prompts, deviation, ours, stock, pixels, embeddings
):
    ours.set_attn_implementation(attention)
    prompts = make_prompts(ours.config, kinds, mask_per_prompt=False)
    for image in ({"pixel_values": pixels}, {"image_embeddings": embeddings}):
        mine = ours(**image, **prompts, multimask_output=multimask)
        theirs = stock(**image, **prompts, multimask_output=multimask)
        assert deviation(mine.pred_masks, theirs.pred_masks) < TOLERANCE
        assert deviation(mine.iou_scores, theirs.iou_scores, IOU_RANGE) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("kinds", COMBINATIONS[1:], ids="+".join)
def test_prompt_embeddings(kinds, make_prompts, deviation, ours, stock):
    prompts = make_prompts(ours.config, kinds, mask_per_prompt=False)
    if "points" in kinds:
        prompts["input_labels"][0, 0, 0] = -1
    mine, theirs = ours.get_prompt_embeddings(**prompts), stock.get_prompt_embeddings(**prompts)
    assert (mine[0] is None) == (theirs[0] is None)
    if theirs[0] is not None:
        assert deviation(mine[0], theirs[0]) < TOLERANCE
    assert deviation(mine[1], theirs[1]) < TOLERANCE
    positions = ours.get_image_wide_positional_embeddings(), stock.get_image_wide_positional_embeddings()
    assert deviation(*positions) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("target_shape", [(1, 1, 16), (2, 3, 1, 16), (2, 1, 1, 16), (2, 3, 8, 16)])
@pytest.mark.parametrize("similarity_shape", [None, (6, 1, 1, 81), (1, 1, 8, 81), (6, 2, 8, 81)])
def test_personalisation(target_shape, similarity_shape, make_prompts, deviation, ours, stock, embeddings):
    """`attention_similarity` and `target_embedding`, in every shape that transformers broadcasts; T = 5 + 2 + 1."""
    generator = torch.Generator().manual_seed(1)
    inputs = make_prompts(ours.config, ["points"]) | {"image_embeddings": embeddings}
    inputs["target_embedding"] = torch.randn(target_shape, generator=generator)
    plain = ours(**inputs)
    if similarity_shape is not None:
        inputs["attention_similarity"] = 2 * torch.randn(similarity_shape, generator=generator)
        assert deviation(ours(**inputs).pred_masks, plain.pred_masks) > 10 * TOLERANCE
    mine, theirs = ours(**inputs), stock(**inputs)
    assert deviation(mine.pred_masks, theirs.pred_masks) < TOLERANCE
    assert deviation(mine.iou_scores, theirs.iou_scores, IOU_RANGE) < TOLERANCE


@torch.no_grad()
def test_hidden_states_and_attentions(make_model, make_prompts, deviation, pixels):
    model = make_model()
    model.set_attn_implementation("eager")
    stock = stock_of(model, "eager")
    asked = {"output_hidden_states": True, "output_attentions": True}
    inputs = make_prompts(model.config, ["points"]) | {"pixel_values": pixels}
    mine, theirs = model(**inputs, **asked), stock(**inputs, **asked)
    assert set(mine.keys()) == set(theirs.keys())
    for name in ("vision_hidden_states", "vision_attentions", "mask_decoder_attentions"):
        assert len(mine[name]) == len(theirs[name]) > 0
        for one, other in zip(mine[name], theirs[name], strict=True):
            assert deviation(one, other) < TOLERANCE
    for one, other in zip(model(**inputs, return_dict=False), stock(**inputs, return_dict=False), strict=True):
        assert deviation(one, other) < TOLERANCE
    assert model(**inputs).vision_attentions is None
    model.config.output_attentions = True
    assert len(model(**inputs).vision_attentions) == len(model(**inputs).mask_decoder_attentions) + 1 == 3
    model.config.output_attentions = False
    model.set_attn_implementation("sdpa")  # the weights can be asked for there too
    for one, other in zip(model(**inputs, **asked).vision_attentions, theirs.vision_attentions, strict=True):
        assert deviation(one, other) < TOLERANCE


@torch.no_grad()
def test_vision_model(make_config, draw, deviation, pixels, tmp_path):
    model = draw(SamVisionModel(make_config().vision_config), 0).eval()
    stock = transformers.SamVisionModel(transformers.SamVisionConfig(**model.config.to_dict())).eval()
    stock.load_state_dict(model.state_dict())
    asked = {"output_hidden_states": True}
    mine, theirs = model(pixels, **asked), stock(pixels, **asked)
    assert deviation(mine.last_hidden_state, theirs.last_hidden_state) < TOLERANCE
    assert [state.shape for state in mine.hidden_states] == [state.shape for state in theirs.hidden_states]
    model.save_pretrained(tmp_path)
    reloaded = transformers.SamVisionModel.from_pretrained(tmp_path).eval()
    assert deviation(mine[0], reloaded(pixels)[0]) < TOLERANCE


def _load(model_class, folder):
    model, report = model_class.from_pretrained(folder, output_loading_info=True)
    assert not any(report[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return model.eval()


@torch.no_grad()
def test_each_loads_what_the_other_saved(ours, stock, make_prompts, deviation, pixels, tmp_path, caplog):
    inputs = make_prompts(ours.config, ["points", "boxes"]) | {"pixel_values": pixels}
    theirs = stock(**inputs).pred_masks
    stock.save_pretrained(tmp_path / "stock")
    ours.save_pretrained(tmp_path / "ours")
    with caplog.at_level(logging.WARNING):
        for folder, model_class in (("stock", SamModel), ("ours", transformers.SamModel), ("ours", SamModel)):
            assert deviation(_load(model_class, tmp_path / folder)(**inputs).pred_masks, theirs) < TOLERANCE
        vision = _load(SamVisionModel, tmp_path / "stock")
    assert deviation(vision(pixels)[0], stock.get_image_embeddings(pixels)) < TOLERANCE
    assert not caplog.records
    saved = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert saved["model_type"] == "sam" and saved["architectures"] == ["SamModel"]
    assert type(transformers.AutoModel.from_pretrained(tmp_path / "ours")) is transformers.SamModel


def test_configuration_round_trip(make_config, tmp_path):
    config = make_config(vision={"drop_path_rate": 0.3}, decoder={"dropout": 0.2}, initializer_range=0.03)
    config.save_pretrained(tmp_path)
    assert SamConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
    assert SamVisionConfig.from_pretrained(tmp_path).to_dict() == config.vision_config.to_dict()
    stock = transformers.SamConfig.from_pretrained(tmp_path)
    stock.save_pretrained(tmp_path)
    again = SamConfig.from_pretrained(tmp_path)
    for part in ("vision_config", "prompt_encoder_config", "mask_decoder_config"):
        assert getattr(again, part).to_dict() == getattr(config, part).to_dict()


def test_first_configurations_on_the_hub():
    """Sub-configurations written by transformers 4.29: an empty model_type, and fields of that time."""
    relics = {"model_type": "", "torch_dtype": None, "tf_legacy_loss": False, "max_length": 20, "pruned_heads": {}}
    vision = {"image_size": 64, "initializer_factor": 1.0, "intermediate_size": 6144, "projection_dim": 512}
    config = SamConfig(
        vision_config=relics | vision | {"dropout": 0.0, "initializer_range": 1e-10},
        prompt_encoder_config=relics | {"image_size": 64, "image_embedding_size": 4, "layer_norm_eps": 1e-6},
        mask_decoder_config=relics,
        initializer_range=0.02,
        transformers_version="4.29.0.dev0",
    )
    assert config.model_type == "sam"
    assert isinstance(config.vision_config, SamVisionConfig)


def test_contradictory_sizes_are_refused(make_config):
    assert make_config(vision={"image_size": 64}).prompt_encoder_config.image_embedding_size == 8
    with pytest.raises(ValueError, match="prompt_encoder_config.image_size"):
        make_config(prompt_encoder_config={"image_size": 64})
    with pytest.raises(ValueError, match="num_pos_feats"):
        make_config(vision={"num_pos_feats": 4})
    with pytest.raises(ValueError, match="model_type"):
        make_config(vision={"model_type": "swin"})


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", VITS)
def test_real_sizes(name, draw, make_prompts, deviation):
    model = draw(SamModel(SamConfig(vision_config=VITS[name])), 0).eval()
    stock = stock_of(model)
    pixels = torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(0))
    theirs = stock.get_image_embeddings(pixels)
    assert deviation(model.get_image_embeddings(pixels), theirs) < TOLERANCE
    for kinds in COMBINATIONS:
        prompts = make_prompts(model.config, kinds, batch=1, prompts=2, mask_per_prompt=False)
        mine, other = model(image_embeddings=theirs, **prompts), stock(image_embeddings=theirs, **prompts)
        assert deviation(mine.pred_masks, other.pred_masks) < TOLERANCE
        assert deviation(mine.iou_scores, other.iou_scores, IOU_RANGE) < TOLERANCE
