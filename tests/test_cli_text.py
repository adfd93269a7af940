"""`sam-hf segment --text` where a phrase is looked for: instances, verdict, and what is refused."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from sam_hf import SamPredictor, cli
from sam_hf.inference.text.clip_encoder import ClipEncoder
from sam_hf.inference.text.instances import Found, make_instance
from sam_hf.inference.text.segmenter import SamTextSegmenter
from sam_hf.masks import rle


@pytest.fixture(scope="module")
def plain(plain_checkpoint):
    return SamPredictor.from_pretrained(plain_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def reading(text_checkpoint):
    return SamPredictor.from_pretrained(text_checkpoint, device="cpu")


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.png")
    return tmp_path


class TwoDogs:
    name = "dense"

    def __init__(self):
        self.asked = []

    def __call__(self, request):
        self.asked.append(request)
        masks = np.zeros((2, 40, 60), dtype=bool)
        masks[0, 5:15, 2:12] = masks[1, 20:30, 40:55] = True
        dogs = [make_instance(mask, np.zeros((32, 32)), 0.8, 0.9, 0.95, text_probability=0.7) for mask in masks]
        return [Found(dogs, 1.0) if "dog" in phrase else Found([], -np.inf) for phrase in request.phrases]


def _with_clip(monkeypatch) -> None:
    clip = SimpleNamespace(has_dense_features=True)
    monkeypatch.setattr(ClipEncoder, "from_pretrained", classmethod(lambda cls, name, device=None: clip))


def _run(*arguments) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return ended.value.code


def _refused(capsys, *arguments) -> str:
    assert _run(*arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sam-hf:")]
    return line


def _record(workplace):
    return json.loads((workplace / "out" / "photo.json").read_text())


def test_all_instances_of_a_phrase_on_a_plain_checkpoint(workplace, monkeypatch, plain, capsys):
    monkeypatch.setattr(cli, "_load", lambda *arguments: plain)
    _with_clip(monkeypatch)
    way = TwoDogs()
    monkeypatch.setattr(SamTextSegmenter, "_make", lambda self, name: way)
    asked = ["--text", "two dogs", "--negative-text", "cat", "--negative-text", "fox", "--clip", "tiny"]
    assert _run("segment", "photo.png", *asked) == 0
    assert (way.asked[0].phrases, way.asked[0].negatives) == (("dog",), ("cat", "fox"))
    record = _record(workplace)
    assert (record["grounding"], record["absent"], record["calibrated"]) == ("dense", False, False)
    assert record["prompts"]["negative_text"] == ["cat", "fox"]
    masks = [rle.decode(one["segmentation"]) for one in record["masks"]]
    assert [mask.sum() for mask in masks] == [100, 150] == [one["area"] for one in record["masks"]]
    assert record["masks"][0]["text_probability"] == 0.7 and record["masks"][0]["stability_score"] == 0.95
    drawn = np.array(Image.open(workplace / "out" / record["mask"]))
    np.testing.assert_array_equal(drawn > 0, masks[0] | masks[1])
    assert "2 instances" in capsys.readouterr().out


def test_geometry_and_phrase_go_together(workplace, monkeypatch, plain):
    monkeypatch.setattr(cli, "_load", lambda *arguments: plain)
    way = TwoDogs()
    monkeypatch.setattr(SamTextSegmenter, "_make", lambda self, name: way)
    rough = np.zeros((40, 60), dtype=np.uint8)
    rough[5:15, 2:12] = 255
    Image.fromarray(rough).save("rough.png")
    prompts = ["--point", "6,8", "--background-point", "30,30", "--box", "1,1,20,20", "--mask", "rough.png"]
    assert _run("segment", "photo.png", *prompts, "--text", "dogs", "--grounding", "dense") == 0
    (request,) = way.asked
    assert request.points.tolist() == [[6, 8], [30, 30]] and request.labels.tolist() == [1, 0]
    assert request.box == (1, 1, 20, 20) and request.mask_input.sum() == 100
    record = _record(workplace)
    assert record["prompts"]["points"] == [[6.0, 8.0]] and record["prompts"]["text"] == "dogs"
    assert len(record["masks"]) == 1 and not record["absent"]  # it was pointed at


def test_multimask_decodes_a_phrase_as_one_prompt(workplace, monkeypatch, reading):
    monkeypatch.setattr(cli, "_load", lambda *arguments: reading)
    assert _run("segment", "photo.png", "--text", "two mugs", "--multimask") == 0
    record = _record(workplace)
    assert len(record["masks"]) == 3 and "presence" not in record and record["prompts"]["text"] == "two mugs"


def test_what_is_not_there_is_said(workplace, monkeypatch, plain, capsys):
    monkeypatch.setattr(cli, "_load", lambda *arguments: plain)
    monkeypatch.setattr(SamTextSegmenter, "_make", lambda self, name: TwoDogs())
    assert _run("segment", "photo.png", "--text", "bird", "--grounding", "proposals", "--clip", "tiny") == 0
    record = _record(workplace)
    assert record["absent"] and record["masks"] == [] and record["presence"] == 0
    assert not np.array(Image.open(workplace / "out" / record["mask"])).any()
    assert "not there" in capsys.readouterr().out


@pytest.mark.parametrize("phrase", ["red mug", "the left mug"])
def test_every_phrase_is_looked_for_by_the_text_branch(workplace, monkeypatch, reading, phrase):
    monkeypatch.setattr(cli, "_load", lambda *arguments: reading)
    assert _run("segment", "photo.png", "--text", phrase) == 0
    record = _record(workplace)
    assert record["grounding"] == "learned" and 0 <= record["presence"] <= 1


@pytest.mark.parametrize(
    ("branch", "asked", "message"),
    [
        (False, ["--text", "mug"], "text: this checkpoint has no text branch; give a CLIP"),
        (False, ["--text", "mug", "--multimask"], "text: this checkpoint has no text branch; ask a SamTextSegmenter"),
        (False, ["--text", "mug", "--clip", "x", "--grounding", "learned"], "needs a checkpoint with a text branch"),
        (True, ["--text", "mug", "--model", "x", "--grounding", "dense"], 'expected a CLIP, such as "ViT-B-16'),
        (True, ["--text", "mug", "--grounding", "detector"], 'needs a detector, such as "google/'),
        (True, ["--text", "mug", "--multimask", "--clip", "x"], "masks of one prompt: leave it out, or --clip"),
        (True, ["--text", "the left"], "says where, but not what"),
        (True, ["--point", "3,3", "--negative-text", "mug"], "--negative-text expects a phrase: add --text"),
    ],
)
def test_what_is_refused_in_a_sentence(workplace, monkeypatch, capsys, plain, reading, branch, asked, message):
    monkeypatch.setattr(cli, "_load", lambda *arguments: reading if branch else plain)
    assert message in _refused(capsys, "segment", "photo.png", *asked)
    assert list((workplace / "out").glob("*")) == []
