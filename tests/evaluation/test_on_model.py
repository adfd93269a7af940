"""The examination of a real, untrained model: every row is measured, and every frame is right."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sam_hf.evaluation.photos import Photo, available_photos, contact_sheet
from sam_hf.evaluation.provenance import fingerprint
from sam_hf.evaluation.report import format_table, read_report
from sam_hf.evaluation.scene_decoder import SceneEncoder
from sam_hf.evaluation.scores import mask_iou
from sam_hf.evaluation.summary import ROWS
from sam_hf.evaluation.synthetic import evaluate, main
from sam_hf.model.configuration_sam import SamConfig, SamTextConfig, SamVisionConfig
from sam_hf.model.image_processing_sam import SamImageProcessor
from sam_hf.model.modeling_sam import SamModel
from sam_hf.model.processing_sam import SamProcessor

SIDE = 64


def small_model(text):
    torch.manual_seed(0)
    vision = SamVisionConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=8,
        output_channels=16,
        num_pos_feats=8,
        window_size=4,
        global_attn_indexes=[0],
    )
    tower = SamTextConfig(embed_dim=8, context_length=48, vocab_size=1000, width=16, heads=2, layers=1)
    decoder = {"mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    return SamModel(
        SamConfig(vision_config=vision, mask_decoder_config=decoder, text_config=tower.to_dict() if text else None)
    )


def small_processor(model):
    images = SamImageProcessor(
        size={"longest_edge": SIDE},
        pad_size={"height": SIDE, "width": SIDE},
        mask_size={"longest_edge": SIDE // 2},
        mask_pad_size={"height": SIDE // 2, "width": SIDE // 2},
    )
    return SamProcessor(images, text_config=model.config.text_config)


def examined(text, **options):
    model = small_model(text)
    defaults = {"scenes": 3, "font": False, "progress": False, "baselines": False, "command": "test"}
    return evaluate(model, small_processor(model), **(defaults | options))


@pytest.fixture(scope="module")
def results():
    pytest.importorskip("skimage")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sam_hf.evaluation.synthetic.PRACTICE_SCENES", 2)
        return examined(True, baselines=True)


def test_every_row_is_measured_and_json_able(results):
    assert set(results["rows"]) == set(ROWS)
    assert all(0 <= row["all"]["all"]["mean"] <= 1 for row in results["rows"].values())
    assert results["absent"]["n_absent"] > 0
    assert results["setup"]["scenes"] == 3 and results["setup"]["size"] == SIDE
    assert len(results["setup"]["fingerprint"]) == 64 and results["setup"]["versions"]["torch"]
    json.dumps(results, allow_nan=False)
    assert "not measured" not in format_table(results)


def test_the_same_seed_gives_the_same_numbers_whatever_the_batch(results):
    again = examined(True, batch_size=2)
    assert len(again["rows"]) == len(ROWS) - 2  # the baselines are left out
    for name, row in again["rows"].items():
        assert row["all"]["all"]["mean"] == pytest.approx(results["rows"][name]["all"]["all"]["mean"], abs=2e-3)
    assert again["counts"] == results["counts"]
    other = examined(False, seed=1)["rows"]["rough_mask_before"]["all"]["all"]["mean"]
    assert other != results["rows"]["rough_mask_before"]["all"]["all"]["mean"]


def test_a_model_without_text_is_measured_without_phrases():
    results = examined(False)
    assert {name for name in ROWS if name.startswith("phrase")}.isdisjoint(results["rows"])
    assert results["absent"] is None and results["rows"]["click_5"]["all"]["all"]["n"] > 0
    assert "not measured" in format_table(results)


def test_the_model_comes_back_in_the_mode_it_was_in():
    model = small_model(False).train()
    evaluate(model, small_processor(model), scenes=1, font=False, progress=False, baselines=False)
    assert model.training
    with pytest.raises(ValueError, match="scenes: expected a positive number, got 0"):
        evaluate(model, small_processor(model), scenes=0)
    with pytest.raises(ValueError, match="workers: expected 0 or more"):
        evaluate(model, small_processor(model), workers=-1)


def test_prompts_and_masks_change_frames_exactly_once():
    """An oblong picture, larger than the model's: what goes in as a mask comes out as the same mask."""
    model = small_model(False).eval()
    seen = {}

    def echo(image_embeddings, multimask_output, **prompts):
        seen.update(prompts)
        return SimpleNamespace(pred_masks=prompts["input_masks"], iou_scores=torch.ones(1, 1, 1))

    decode = SceneEncoder(model, small_processor(model)).encode([np.zeros((96, 192, 3), np.uint8)])[0]
    model.forward = echo
    rows, columns = np.mgrid[:96, :192]
    disc = np.hypot(rows - 60, columns - 140) < 30
    answer = decode(
        points=np.array([[[141, 60]]]), labels=np.array([[1]]), boxes=np.array([[111, 30, 171, 90]]), masks=disc[None]
    )
    assert answer.masks.shape == (1, 1, 96, 192)
    assert mask_iou(answer.masks[0, 0], disc) > 0.95
    # 192 pixels become 64: a third
    assert torch.allclose(seen["input_points"], torch.tensor([[[[47.0, 20.0]]]]))
    assert torch.allclose(seen["input_boxes"], torch.tensor([[[37.0, 10.0, 57.0, 30.0]]]))
    fed_back = decode(points=np.array([[[141, 60]]]), labels=np.array([[1]]), previous=answer.logits[:, 0])
    assert np.array_equal(fed_back.logits, answer.logits)
    with pytest.raises(ValueError, match="masks: expected either"):
        decode(masks=disc[None], previous=answer.logits[:, 0])


def test_the_fingerprint_is_of_the_weights():
    model, same = small_model(False), small_model(False)
    assert fingerprint(model) == fingerprint(same)
    with torch.no_grad():
        next(same.parameters())[0] += 1e-3
    assert fingerprint(model) != fingerprint(same)
    assert fingerprint(model) != fingerprint(small_model(False).to(torch.bfloat16))


def test_the_module_evaluates_a_folder_and_names_nothing_of_this_machine(tmp_path, capsys):
    model = small_model(False)
    model.save_pretrained(tmp_path / "mine")
    small_processor(model).save_pretrained(tmp_path / "mine")
    output = tmp_path / "results.json"
    arguments = ["--model", str(tmp_path / "mine"), "--scenes", "1", "--no-baselines", "--output", str(output)]
    try:
        assert main(arguments) == 0
    except FileNotFoundError as error:  # the module looks for the emoji font; this machine has none
        pytest.skip(str(error))
    assert "| 1 click" in capsys.readouterr().out
    setup = read_report(output)["setup"]
    assert setup["model"] == "mine" and "--model mine --scenes 1" in setup["command"]
    assert str(tmp_path) not in output.read_text()


@pytest.mark.parametrize("text", [True, False])
def test_photos_are_drawn(text):
    pytest.importorskip("skimage")
    model = small_model(text).eval()
    sheet = contact_sheet(model, small_processor(model), photos=available_photos()[:2], width=60)
    assert sheet.width == 240 and sheet.height > 60
    assert len(sheet.getcolors(1 << 20)) > 1000  # photographs, not an empty page


def test_a_photo_that_is_not_in_the_wheel_is_left_out(monkeypatch):
    pytest.importorskip("skimage")
    missing = Photo("no_such_photo.png", (1, 1), (0, 0, 2, 2), (1, 1, 1, 1), "nothing")
    monkeypatch.setattr("sam_hf.evaluation.photos.PHOTOS", (missing,))
    assert available_photos() == ()
    with pytest.raises(ValueError, match="photos: expected at least one"):
        contact_sheet(None, None)


def test_several_processes_measure_the_same():
    alone, shared = (examined(True, batch_size=2, workers=workers) for workers in (0, 2))
    assert alone["rows"] == shared["rows"] and alone["absent"] == shared["absent"]
