"""The text branch: open_clip's tower and tokenizer, text beside every other prompt, loading, refusal."""

import copy
import itertools
import json
import logging

import open_clip
import pytest
import torch
import transformers

from sam_hf import SamConfig, SamModel, SamTextConfig
from sam_hf.model.text_encoder import SamTokenizer, build_text_tower

EXACT = 1e-5  # of the range: float32 rounding
PHRASES = ["red mug", "the dog's left ear!", "ein Baumhaus — 木の家 🌳", "a\tb\n c", "x" * 300, "1234567890"]
NAMED = "ViT-S-32-alt"  # the smallest of open_clip's own architectures


@pytest.fixture(scope="module")
def model(make_model):
    return make_model(text=True)


@pytest.fixture(scope="module")
def embeddings():
    return torch.randn(2, 16, 9, 9, generator=torch.Generator().manual_seed(7))


def phrases(model, *texts):
    """(1,P,T) ids and mask of P phrases; an empty one is no text."""
    sizes = model.config.text_config
    encoded = SamTokenizer(sizes.vocab_size, sizes.context_length)(list(texts))
    for row, text in enumerate(texts):
        if not text:
            encoded["attention_mask"][row] = 0
    return {name: tensor[None] for name, tensor in encoded.items()}


def test_full_vocabulary_is_clips():
    expected = open_clip.tokenize(PHRASES)
    encoded = SamTokenizer()(PHRASES)
    assert torch.equal(encoded["input_ids"], expected)
    assert torch.equal(encoded["attention_mask"].bool(), expected != 0)
    assert torch.equal(open_clip.get_tokenizer(NAMED)(PHRASES), expected)


@pytest.mark.parametrize("vocab_size", [514, 700, 4096])
def test_cut_vocabulary_spells_any_text(vocab_size):
    tokenizer = SamTokenizer(vocab_size, context_length=800)
    full = SamTokenizer(context_length=800)
    encoded = tokenizer(PHRASES)
    assert encoded["input_ids"].max() == vocab_size - 1 == tokenizer.end_id
    for text in PHRASES:
        ids = tokenizer.encode(text)
        assert all(0 <= index < tokenizer.start_id for index in ids)
        assert tokenizer.decode(ids) == full.decode(full.encode(text))  # nothing became unknown


@pytest.mark.parametrize("sizes", [{"vocab_size": 513}, {"vocab_size": 49409}, {"context_length": 2}])
def test_impossible_tokenizers_are_refused(sizes):
    with pytest.raises(ValueError, match=next(iter(sizes))):
        SamTokenizer(**sizes)


@torch.no_grad()
def test_named_tower_equals_open_clips_encode_text(make_config, draw):
    clip = open_clip.create_model(NAMED).eval()
    model = SamModel(make_config(text={"model_name": NAMED})).eval()
    tower = draw(model.prompt_encoder.text_encoder, 1)
    assert not clip.load_state_dict(tower.state_dict(), strict=False).unexpected_keys
    encoded = phrases(model, *PHRASES)
    mine = model.get_text_embeds(**encoded)[0]
    torch.testing.assert_close(mine, clip.encode_text(encoded["input_ids"][0], normalize=True), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(mine.norm(dim=-1), torch.ones(len(PHRASES)))


def test_named_configuration_needs_no_second_look_up(tmp_path, monkeypatch):
    config = SamConfig(text_config={"model_name": "ViT-L-14-336-quickgelu"})
    text = config.text_config
    assert (text.embed_dim, text.width, text.heads, text.layers, text.quick_gelu) == (768, 768, 12, 12, True)
    config.save_pretrained(tmp_path)
    monkeypatch.setattr(open_clip, "get_model_config", None)
    assert SamConfig.from_pretrained(tmp_path).text_config.to_dict() == text.to_dict()
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "sam_hf"


def test_wrong_names_are_refused():
    with pytest.raises(ValueError, match="model_name.*nonsense"):
        SamTextConfig(model_name="nonsense")
    with pytest.raises(ValueError, match="Hugging Face"):
        SamTextConfig(model_name="roberta-ViT-B-32")


@pytest.mark.parametrize(
    ("sizes", "said"),
    [({"width": 20, "heads": 3}, "width.*multiple of its heads, 3"), ({"heads": 0}, "heads.*at least 1")],
)
def test_sizes_that_make_no_sense_are_refused(sizes, said):
    with pytest.raises(ValueError, match=said):
        SamTextConfig(**sizes)


@pytest.mark.parametrize("vocabulary", [600, 49408])
def test_control_words_that_cleaning_makes_are_left_out(vocabulary):
    tokenizer = SamTokenizer(vocabulary, 16)
    for typed in ("a cat &lt;end_of_text&gt;", "a cat &amp;lt;start_of_text&amp;gt;", "a cat \uff1cend_of_text\uff1e"):
        assert max(tokenizer.encode(typed)) < vocabulary - 2, typed
        assert tokenizer.encode(typed)[: len(tokenizer.encode("a cat"))] == tokenizer.encode("a cat")


def test_inline_tower_takes_open_clips_further_arguments():
    tower = build_text_tower(SamTextConfig(embed_dim=8, vocab_size=600, width=16, heads=2, layers=1, quick_gelu=True))
    assert "QuickGELU" in str(tower)
    tower = build_text_tower(
        SamTextConfig(embed_dim=8, vocab_size=600, width=16, heads=2, layers=1, tower={"no_causal_mask": True})
    )
    assert tower.attn_mask is None


def test_without_text_not_one_parameter_more(make_model, model):
    plain = make_model()
    more = set(model.state_dict()) - set(plain.state_dict())
    assert set(plain.state_dict()) < set(model.state_dict())
    assert all(name.startswith("prompt_encoder.text_") for name in more)
    stock = transformers.SamModel(transformers.SamConfig(**plain.config.to_dict()))
    assert {name for name, _ in plain.named_parameters()} == {name for name, _ in stock.named_parameters()}


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_text_beside_every_other_prompt(attention, model, embeddings, make_prompts, deviation):
    """All 16 subsets of point, box, mask and text in one call equal the calls with only what each prompt has."""
    model.set_attn_implementation(attention)
    subsets = list(itertools.product([False, True], repeat=4))
    full = make_prompts(model.config, ["points", "boxes", "masks", "text"], batch=2, prompts=16)
    absent = {"input_labels": -10, "input_boxes": -10, "input_masks": float("nan"), "text_embeds": float("nan")}
    ragged = copy.deepcopy(full)
    for prompt, subset in enumerate(subsets):
        for (name, value), present in zip(absent.items(), subset, strict=True):
            if not present:
                ragged[name][:, prompt] = value
    together = model(image_embeddings=embeddings, **ragged)
    for prompt, subset in enumerate(subsets):
        names = [name for name, present in zip(absent, subset, strict=True) if present]
        names += ["input_points"] if "input_labels" in names else []
        alone = model(image_embeddings=embeddings, **{name: full[name][:, prompt : prompt + 1] for name in names})
        assert deviation(together.pred_masks[:, prompt], alone.pred_masks[:, 0]) < EXACT
        assert deviation(together.iou_scores[:, prompt], alone.iou_scores[:, 0], 1.0) < EXACT


@torch.no_grad()
def test_phrases_equal_their_vectors_and_absence(model, embeddings, make_prompts, deviation):
    ids = phrases(model, "red mug", "", "a house")
    image, points = embeddings[:1], make_prompts(model.config, ["points"], batch=1)
    vectors = model.get_text_embeds(**ids)
    assert vectors[0, 1].isnan().all() and vectors[0, [0, 2]].isfinite().all()
    by_ids = model(image_embeddings=image, **points, **ids)
    by_vectors = model(image_embeddings=image, **points, text_embeds=vectors)
    assert deviation(by_ids.pred_masks, by_vectors.pred_masks) < EXACT
    without = model(image_embeddings=image, **points)
    assert deviation(by_ids.pred_masks[0, 1], without.pred_masks[0, 1]) < EXACT
    assert deviation(by_ids.pred_masks[0, 0], without.pred_masks[0, 0]) > 1e-3  # and text does matter
    shorter = {name: tensor[..., :8] for name, tensor in ids.items()}
    assert deviation(model(image_embeddings=image, **points, **shorter).pred_masks, by_ids.pred_masks) < EXACT


def test_gradients_with_absent_text_are_finite(model, embeddings, make_prompts):
    model = copy.deepcopy(model)
    prompts = make_prompts(model.config, ["points"], batch=1)
    out = model(image_embeddings=embeddings[:1], **prompts, **phrases(model, "red mug", "", "a house"))
    out.pred_masks.sum().backward()
    gradients = [p.grad for name, p in model.named_parameters() if "prompt_encoder.text_" in name]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(
    "options", [{}, {"device_map": "cpu"}, {"device_map": "auto"}, {"low_cpu_mem_usage": True}], ids=str
)
@torch.no_grad()
def test_round_trip(options, model, embeddings, tmp_path, deviation):
    """Loading builds on the meta device: the causal mask, a buffer in no checkpoint, has to be right at once."""
    model.save_pretrained(tmp_path)
    loaded, report = SamModel.from_pretrained(tmp_path, output_loading_info=True, **options)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    mask = loaded.prompt_encoder.text_encoder.attn_mask
    assert torch.equal(mask, model.prompt_encoder.text_encoder.attn_mask) and mask.isinf().any()
    ids = phrases(model, "red mug")
    expected = model(image_embeddings=embeddings[:1], **ids)
    assert deviation(loaded(image_embeddings=embeddings[:1], **ids).pred_masks, expected.pred_masks) < EXACT


@torch.no_grad()
def test_text_branch_grows_on_a_plain_checkpoint(make_model, make_config, tmp_path):
    """A plain SAM loads into a model with text; the branch starts fresh, as open_clip starts it, and is listed."""
    make_model().save_pretrained(tmp_path)
    config = make_config(text=True)
    grown, report = SamModel.from_pretrained(tmp_path, config=config, output_loading_info=True)
    assert report["missing_keys"] and all(name.startswith("prompt_encoder.text_") for name in report["missing_keys"])
    assert not report["unexpected_keys"]
    for name, weight in grown.prompt_encoder.text_encoder.named_parameters():
        assert weight.isfinite().all()
        if weight.ndim == 2:
            assert 0.003 < weight.std() < 1, name
    assert grown.prompt_encoder.text_encoder.attn_mask.isinf().any()
    assert grown.get_text_embeds(**phrases(grown, "red mug")).isfinite().all()


def test_text_is_refused_without_the_branch(make_model, embeddings):
    plain = make_model()
    ids = torch.zeros(1, 1, 12, dtype=torch.long)
    for text in ({"input_ids": ids}, {"text_embeds": torch.zeros(1, 1, 12)}):
        with pytest.raises(ValueError, match="no text branch.*tiny"):
            plain(image_embeddings=embeddings[:1], **text)
    with pytest.raises(ValueError, match="no text branch"):
        plain.get_text_embeds(ids)


def test_stock_transformers_does_not_load_half_of_it_in_silence(model, tmp_path, caplog):
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "sam_hf"
    with caplog.at_level(logging.WARNING, logger="transformers"):
        logging.getLogger("transformers").propagate = True
        _, report = transformers.SamModel.from_pretrained(tmp_path, output_loading_info=True)
    assert "sam_hf" in caplog.text
    assert all(name.startswith("prompt_encoder.text_") for name in report["unexpected_keys"])
    assert report["unexpected_keys"]
