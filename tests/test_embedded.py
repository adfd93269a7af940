"""The embedded checkpoint: it is there, it is small, every door opens to it, and it segments what it has not seen."""

import numpy as np
import pytest

import sam_hf
from sam_hf import SamTextSegmenter
from sam_hf.data.glyphs import find_emoji_font
from sam_hf.evaluation.synthetic import evaluate

LIMIT = 25e6  # bytes


@pytest.fixture(scope="module")
def predictor():
    return sam_hf.SamPredictor.from_pretrained("tiny", device="cpu")


def test_it_is_small_and_safe():
    files = [path for path in sam_hf.EMBEDDED.parent.rglob("*") if path.is_file()]  # with the small CLIP
    assert sum(path.stat().st_size for path in files) < LIMIT
    wanted = {"config.json", "model.safetensors", "processor_config.json", "README.md", "text_calibration.json"}
    assert wanted <= {path.name for path in files if path.parent == sam_hf.EMBEDDED}
    assert {"open_clip_config.json", "open_clip_model.safetensors"} <= {path.name for path in files}
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pth", ".pkl")]


def test_every_door_opens():
    model = sam_hf.SamModel.from_pretrained("tiny")
    config = sam_hf.SamConfig.from_pretrained("tiny")
    processor = sam_hf.SamProcessor.from_pretrained("tiny")
    assert model.config.model_type == config.model_type == "sam_hf"
    assert model.dtype.is_floating_point and config.text_config is not None
    assert processor.image_processor.size["longest_edge"] == config.vision_config.image_size


def test_it_finds_a_disc_from_every_prompt(predictor):
    yy, xx = np.mgrid[:180, :240]
    disc = (yy - 90) ** 2 + (xx - 150) ** 2 < 45**2
    image = np.where(disc[..., None], (200, 40, 40), (70, 110, 80)).astype(np.uint8)
    embedding = predictor.encode(image)
    prompts = {
        "point": {"points": [[150, 90]]},
        "box": {"box": [105, 45, 195, 135]},
        "mask": {"mask_input": disc},
        "text": {"text": "red circle"},
        "text and point": {"text": "red circle", "points": [[150, 90]]},
    }
    for name, prompt in prompts.items():
        masks, scores, _ = predictor.decode(embedding, **prompt)
        best = masks[scores.argmax()]
        assert (best & disc).sum() / (best | disc).sum() > 0.7, name


@pytest.fixture(scope="module")
def segmenter(predictor):
    return SamTextSegmenter.from_pretrained("tiny", device="cpu")


@pytest.fixture(scope="module")
def discs():
    """A red disc on the left and a blue one on the right; their masks."""
    yy, xx = np.mgrid[:180, :240]
    red, blue = ((yy - 90) ** 2 + (xx - x) ** 2 < 36**2 for x in (60, 180))
    image = np.full((180, 240, 3), (225, 222, 214), dtype=np.uint8)
    image[red], image[blue] = (214, 40, 40), (40, 80, 210)
    return image, {"red circle": red, "blue circle": blue}


@pytest.mark.parametrize("grounding", ["auto", "learned", "dense", "proposals"])
def test_every_way_from_a_phrase_runs_without_a_network(segmenter, discs, grounding):
    image, things = discs
    answers = segmenter.segment(image, [*things, "accordion"], grounding=grounding)
    for answer, thing in zip(answers, things.values(), strict=False):
        assert answer.calibrated and not answer.absent
        mask = answer.instances[0].mask
        assert (mask & thing).sum() / (mask | thing).sum() > 0.7
    assert answers[-1].presence < min(answer.presence for answer in answers[:-1])


def test_what_is_not_there_is_absent(segmenter, discs):
    answers = segmenter.segment(discs[0], ["accordion", "green star", "striped ring", "dog"])
    assert [answer.absent for answer in answers] == [True] * 4


@pytest.mark.parametrize("font", [False, None], ids=["shapes", "emoji and shapes"])
def test_it_segments_held_out_scenes(predictor, font):
    if font is None:
        try:
            find_emoji_font(None)
        except FileNotFoundError as error:
            pytest.skip(str(error))
    results = evaluate(
        predictor.model, predictor.processor, scenes=12, seed=5, baselines=False, font=font, progress=False
    )
    means = {row: groups["all"]["all"]["mean"] for row, groups in results["rows"].items()}
    assert means["click_1"] > 0.6
    assert means["box"] > 0.72
    assert means["phrase"] > 0.42
    assert means["click_5"] > means["click_1"]
    assert means["phrase_click"] > means["phrase"]
