"""The text branch's alignment: cells and masks compared with phrases, saved and loaded, absent unless asked for."""

import pytest
import torch

from sam_hf import SamConfig, SamModel
from sam_hf.model.text_alignment import SamTextAlignment

TEXT = {"embed_dim": 8, "context_length": 6, "vocab_size": 600, "width": 8, "heads": 1, "layers": 1}


@pytest.fixture(scope="module")
def model(make_model):
    return make_model(text=TEXT | {"alignment": True})


def _embeddings(model, cells=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(1, model.prompt_encoder.hidden_size, cells, cells, generator=generator)
    return image, torch.nn.functional.normalize(torch.randn(1, 2, 8, generator=generator), dim=-1)


def test_compared_by_hand():
    torch.manual_seed(0)
    alignment = SamTextAlignment(6, 4)
    image, text = torch.randn(2, 6, 3, 3), torch.nn.functional.normalize(torch.randn(2, 5, 4), dim=-1)
    maps = alignment(image, text)
    assert maps.shape == (2, 5, 3, 3)
    cell = torch.nn.functional.normalize(alignment.projection(image)[1, :, 2, 0], dim=0)
    torch.testing.assert_close(maps[1, 3, 2, 0], 10.0 * (cell @ text[1, 3]) - 3.0)
    assert (alignment.presence(maps) >= maps.flatten(2).amax(-1)).all()


@torch.no_grad()
def test_the_model_answers_for_cells_and_for_masks(model, make_model):
    image, text = _embeddings(model)
    maps = model.get_text_alignment(image, text)
    masks = torch.full((1, 2, 36, 36), -1.0)
    masks[:, :, 4:8, 8:12] = 1.0  # one cell
    torch.testing.assert_close(model.get_text_alignment(image, text, masks), maps[:, :, 1, 2])
    with pytest.raises(ValueError, match="masks"):
        model.get_text_alignment(image, text, masks[:, :1])
    with pytest.raises(ValueError, match="text_embeds"):
        model.get_text_alignment(image, text[..., :-1])
    with pytest.raises(ValueError, match="alignment"):
        make_model(text=TEXT).get_text_alignment(image, text)
    with pytest.raises(ValueError, match="no text branch"):
        make_model().get_text_alignment(image, text)


@torch.no_grad()
def test_saved_loaded_and_absent_unless_asked_for(model, make_model, tmp_path):
    model.save_pretrained(tmp_path)
    again, found = SamModel.from_pretrained(tmp_path, output_loading_info=True)
    image, text = _embeddings(model)
    assert not found["missing_keys"]
    assert torch.equal(again.get_text_alignment(image, text), model.get_text_alignment(image, text))
    assert SamConfig(text_config=TEXT).text_config.alignment is False
    assert not any("text_alignment" in name for name in make_model(text=TEXT).state_dict())


def test_added_to_a_checkpoint_without_one_it_starts_fresh(make_model, make_config, tmp_path):
    make_model(text=TEXT).save_pretrained(tmp_path)
    config = make_config(text=TEXT | {"alignment": True})
    model, found = SamModel.from_pretrained(tmp_path, config=config, output_loading_info=True)
    alignment = model.prompt_encoder.text_alignment
    assert all("text_alignment" in name for name in found["missing_keys"]) and found["missing_keys"]
    assert alignment.bias.item() == -3.0 and alignment.log_scale.exp().item() == pytest.approx(10.0)
    assert alignment.projection.weight.std() > 0


def test_half_precision_compares_in_float32(model):
    image, text = _embeddings(model)
    half = SamTextAlignment(model.prompt_encoder.hidden_size, 8)
    half.load_state_dict(model.prompt_encoder.text_alignment.state_dict())
    maps = half.bfloat16()(image.bfloat16(), text.bfloat16())
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps, model.get_text_alignment(image, text), atol=0.2, rtol=0)
