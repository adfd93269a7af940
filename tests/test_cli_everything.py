"""`sam-hf everything`: what it writes, what it refuses, and what is left after an interruption."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from sam_hf import SamAutomaticMaskGenerator, SamPredictor, cli
from sam_hf.inference.text.clip_encoder import ClipEncoder
from sam_hf.masks import rle

# Random weights: few points, and any mask will do.
SMALL = ["--points-per-side", "2", "--pred-iou-thresh", "0", "--stability-score-thresh", "0"]
KEYS = {"id", "segmentation", "area", "bbox", "predicted_iou", "stability_score", "crop_box", "point_coords"}
NAMED = {"label", "label_probability"}


@pytest.fixture(scope="module")
def loaded(text_checkpoint):
    predictor = SamPredictor.from_pretrained(text_checkpoint, device="cpu")
    predictor.model.mask_decoder.iou_prediction_head.proj_out.bias.data.add_(1.0)  # any point is answered
    return predictor


@pytest.fixture
def workplace(tmp_path, monkeypatch, loaded):
    """An empty working directory, with the model loaded beforehand."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_load", lambda *arguments: loaded)
    return tmp_path


def _photo(path, seed: int = 0) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def _run(*arguments) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["everything", *map(str, arguments)])
    return ended.value.code


def _refused(capsys, *arguments) -> str:
    """Runs what must be refused: exit code 2 and one sentence."""
    assert _run(*arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sam-hf:")]
    return line


def _names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


class MugClip:
    """To which every picture is a mug."""

    image_size, width, logit_scale, templates, name = 32, 2, 20.0, ("{}",), "mugs"

    def texts(self, phrases, templates):
        return torch.tensor([[1.0, 0.0] if "mug" in phrase else [0.0, 1.0] for phrase in phrases])

    def pictures(self, pictures):
        return torch.tensor([[1.0, 0.0]]).expand(len(pictures), 2)


def test_names(workplace, monkeypatch, capsys):
    _photo("photo.png")
    load = classmethod(lambda cls, name, device=None: MugClip())
    monkeypatch.setattr(ClipEncoder, "from_pretrained", load)
    assert _run("photo.png", *SMALL, "--text", "cup", "--text", "red mug", "--clip", "some/clip") == 0
    content = json.loads((workplace / "out" / "photo.json").read_text())
    assert content["annotations"] and all(set(one) == KEYS | NAMED for one in content["annotations"])
    assert {one["label"] for one in content["annotations"]} == {"red mug"}
    for asked, message in (
        (["--text", "cup"], "clip: expected a CLIP, such as"),
        (["--text", "cup", "--text", "Cup", "--clip", "x"], "text[1]: expected different names"),
        (["--clip", "x"], "--clip expects names: add --text"),
    ):
        assert message in _refused(capsys, "photo.png", *SMALL, *asked, "--overwrite")


def test_overlay_json_index_and_masks(workplace, capsys):
    _photo("photo.png")
    assert _run("photo.png", *SMALL, "--index", "--masks") == 0
    out = workplace / "out"
    assert _names(out) == {"photo_overlay.png", "photo_index.png", "photo_masks", "photo.json"}
    content = json.loads((out / "photo.json").read_text())
    assert content["image"] == {"image_id": 1, "width": 60, "height": 40, "file_name": "photo.png"}
    records = content["annotations"]
    assert records and all(set(record) == KEYS for record in records)
    assert [record["id"] for record in records] == list(range(1, len(records) + 1))
    masks = [rle.decode(record["segmentation"]) for record in records]
    assert all(isinstance(record["segmentation"]["counts"], str) for record in records)
    assert [int(mask.sum()) for mask in masks] == [record["area"] for record in records]
    assert [record["area"] for record in records] == sorted((record["area"] for record in records), reverse=True)
    for number, mask in enumerate(masks, start=1):
        drawn = np.array(Image.open(out / "photo_masks" / f"{number:03}.png"))
        np.testing.assert_array_equal(drawn, mask * np.uint8(255))
    index = np.array(Image.open(out / "photo_index.png"))
    on_top = masks[-1]
    assert (index[on_top] == len(masks)).all() and (index[~np.any(masks, axis=0)] == 0).all()
    overlay, photo = np.array(Image.open(out / "photo_overlay.png")), np.array(Image.open("photo.png"))
    assert overlay.shape == photo.shape and not np.array_equal(overlay, photo)
    assert content["sam_hf"]["options"]["points_per_side"] == 2
    printed = capsys.readouterr().out
    assert f"photo.png: {len(masks)} mask" in printed and "photo_overlay.png" in printed


def test_options_reach_the_generator_and_the_json(workplace, monkeypatch, capsys):
    made = []
    make = SamAutomaticMaskGenerator.from_predictor

    def watched(predictor, **options):
        made.append(options)
        return make(predictor, **options)

    monkeypatch.setattr(SamAutomaticMaskGenerator, "from_predictor", watched)
    _photo("sa_12.png")
    options = ["--crop-layers", "1", "--points-per-batch", "3", "--min-mask-region-area", "5", "--json"]
    options += ["--preset", "sa1b", "--output-mode", "uncompressed_rle", "--checkpoint", "tiny"]
    assert _run("sa_12.png", *SMALL, *options) == 0
    expected = {"points_per_side": 2, "points_per_batch": 3, "crop_n_layers": 1, "pred_iou_thresh": 0.0}
    expected |= {"stability_score_thresh": 0.0, "min_mask_region_area": 5, "preset": "sa1b"}
    assert made == [expected | {"output_mode": "uncompressed_rle"}]
    content = json.loads((workplace / "out" / "sa_12.json").read_text())
    assert content == json.loads(capsys.readouterr().out)
    assert content["image"]["image_id"] == 12 and content["sam_hf"]["options"] == expected
    for record in content["annotations"]:
        assert isinstance(record["segmentation"]["counts"], list)
        assert rle.decode(record["segmentation"]).sum() == record["area"]


def test_nothing_found(workplace, capsys):
    _photo("photo.png")
    assert _run("photo.png", "--points-per-side", "2", "--pred-iou-thresh", "1", "--masks") == 0
    assert "photo.png: nothing found" in capsys.readouterr().out
    assert json.loads((workplace / "out" / "photo.json").read_text())["annotations"] == []
    overlay = np.array(Image.open(workplace / "out" / "photo_overlay.png"))
    np.testing.assert_array_equal(overlay, np.array(Image.open("photo.png")))


def test_a_broken_file_among_many(workplace, capsys):
    _photo("a.png", 1)
    (workplace / "b.png").write_text("not an image")
    _photo("c.png", 2)
    assert _run("a.png", "b.png", "c.png", *SMALL) == 1
    expected = {f"{name}{end}" for name in "ac" for end in ("_overlay.png", ".json")}
    assert _names(workplace / "out") == expected
    assert "1 of 3 images failed" in capsys.readouterr().err
    assert json.loads((workplace / "out" / "c.json").read_text())["image"]["image_id"] == 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--points-per-side", "0"], "points_per_side"),
        (["--points-per-batch", "0"], "points_per_batch"),
        (["--crop-layers", "-1"], "crop_n_layers"),
        (["--pred-iou-thresh", "nan"], "pred_iou_thresh"),
        (["--stability-score-thresh", "7"], "stability_score_thresh"),
        (["--min-mask-region-area", "-3"], "min_mask_region_area"),
        (["--preset", "nonsense"], "nonsense"),
        (["--output-mode", "binary_mask"], "binary_mask"),
    ],
)
def test_options_are_checked_before_the_model_is_loaded(workplace, monkeypatch, capsys, arguments, sentence):
    _photo("photo.png")
    monkeypatch.setattr(cli, "_load", lambda *given: pytest.fail("the model was loaded"))
    assert sentence in _refused(capsys, "photo.png", *arguments)
    assert not (workplace / "out").exists()


def test_earlier_results_stay_unless_asked_and_leave_nothing_behind(workplace, capsys):
    _photo("photo.png")
    assert _run("photo.png", *SMALL, "--masks") == 0
    stale = workplace / "out" / "photo_masks" / "999.png"
    stale.write_bytes(b"of an earlier run")
    assert "exists already" in _refused(capsys, "photo.png", *SMALL)
    (workplace / "out" / "photo_overlay.png").unlink()
    assert "photo_masks' exists already" in _refused(capsys, "photo.png", *SMALL, "--masks")
    assert stale.exists()
    assert _run("photo.png", *SMALL, "--masks", "--overwrite") == 0
    count = len(json.loads((workplace / "out" / "photo.json").read_text())["annotations"])
    assert _names(workplace / "out" / "photo_masks") == {f"{number:03}.png" for number in range(1, count + 1)}


def test_masks_are_not_written_over_by_their_own_masks(workplace, capsys):
    (workplace / "out" / "photo_masks").mkdir(parents=True)
    _photo("photo.png")
    _photo("out/photo_masks/001.png")
    arguments = ["photo.png", "out/photo_masks/001.png", *SMALL, "--masks", "--overwrite"]
    assert "would replace the input" in _refused(capsys, *arguments)


def test_an_interruption_in_the_midst_of_an_image(workplace, monkeypatch, capsys):
    for number in range(3):
        _photo(f"{number}.png", number)
    calls = []
    stream = SamAutomaticMaskGenerator.stream

    def interrupted(self, image, **options):
        calls.append(image)
        for progress in stream(self, image, **options):
            yield progress
            if len(calls) == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(SamAutomaticMaskGenerator, "stream", interrupted)
    assert _run("0.png", "1.png", "2.png", *SMALL) == 130
    errors = capsys.readouterr().err
    assert "1 of 3 images are finished, the last one '0.png'" in errors and "interrupted" in errors
    assert _names(workplace / "out") == {"0_overlay.png", "0.json"}
