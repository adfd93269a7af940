"""The command `sam-hf replay` as users run it."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from sam_hf import SamPredictor, cli
from sam_hf.masks import rle

SIZE = (40, 60)


@pytest.fixture(scope="module")
def loaded(text_checkpoint):
    return SamPredictor.from_pretrained(text_checkpoint, device="cpu")


@pytest.fixture
def workplace(tmp_path, monkeypatch, loaded):
    """An empty working directory with a session and a picture, and the model loaded beforehand."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SamPredictor, "from_pretrained", lambda *arguments, **options: loaded)
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.png")
    (tmp_path / "session.json").write_text(json.dumps(_session()), encoding="utf-8")
    return tmp_path


def _session(**changes) -> dict:
    steps = [{"points": [[20, 10]], "labels": [1], "selected": 1}]
    mask = np.zeros(SIZE, dtype=bool)
    mask[5:20, 5:20] = True
    objects = [
        {"name": "../\x1b[31mcat", "steps": steps},
        {"name": "", "rle": rle.encode(mask), "hidden": True, "polygon_detail": 0.5},
    ]
    image = {"name": "photo.png", "size": list(SIZE), "sha256": None}
    return {
        "format": "sam_hf.session",
        "version": 1,
        "image": image,
        "checkpoint": "tiny",
        "objects": objects,
    } | changes


def _run(*arguments) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["replay", *map(str, arguments)])
    return ended.value.code


def _refused(capsys, *arguments) -> str:
    """Runs what must be refused: exit code 2 and one sentence."""
    assert _run(*arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sam-hf:")]
    assert len(lines) == 1
    return lines[0]


def test_masks_overlay_record_and_formats(workplace, capsys):
    assert _run("session.json", "photo.png", "--format", "coco,zip", "--format=yolo") == 0
    out = workplace / "out"
    names = {"photo_overlay.png", "photo_masks", "photo_replay.json", "photo_coco.json", "photo.zip", "photo_yolo.zip"}
    assert {path.name for path in out.iterdir()} == names
    record = json.loads((out / "photo_replay.json").read_text(encoding="utf-8"))
    assert [one["mask"] for one in record["objects"]] == ["001__[31mcat.png", "002_object.png"]
    for one in record["objects"]:
        mask = np.array(Image.open(out / "photo_masks" / one["mask"])) > 0
        np.testing.assert_array_equal(rle.decode(one["segmentation"]), mask)
    assert [one["iou"] for one in record["objects"]] == [None, 1.0]
    coco = json.loads((out / "photo_coco.json").read_text(encoding="utf-8"))
    assert len(coco["annotations"]) == 2 and coco["images"][0]["file_name"] == "photo.png"
    assert "labels/photo.txt" in zipfile.ZipFile(io.BytesIO((out / "photo_yolo.zip").read_bytes())).namelist()
    printed = capsys.readouterr().out
    assert "2 objects" in printed and "IoU with the session's mask 1.000" in printed and "\x1b" not in printed


def test_the_same_masks_come_out_again(workplace, capsys):
    assert _run("session.json", "photo.png", "--json") == 0
    found = json.loads(capsys.readouterr().out)["objects"][0]["segmentation"]
    session = _session()
    session["objects"][0]["rle"] = found
    (workplace / "again.json").write_text(json.dumps(session), encoding="utf-8")
    assert _run("again.json", "photo.png", "--json", "--out", "second") == 0
    assert [one["iou"] for one in json.loads(capsys.readouterr().out)["objects"]] == [1.0, 1.0]


def test_phrases_are_read_by_the_embedded_clip_where_the_checkpoint_reads_none(
    workplace, capsys, monkeypatch, plain_checkpoint
):
    monkeypatch.undo()  # the real way to load
    monkeypatch.chdir(workplace)
    session = _session(objects=[{"name": "cat", "steps": [{"text": "a cat"}]}])
    (workplace / "session.json").write_text(json.dumps(session), encoding="utf-8")
    assert _run("session.json", "photo.png", "--json", "--model", plain_checkpoint, "--device", "cpu") == 0
    (found,) = json.loads(capsys.readouterr().out)["objects"]
    assert found["segmentation"]["size"] == list(SIZE)


def test_another_file_is_said_and_another_size_is_refused(workplace, capsys):
    session = _session()
    session["image"]["sha256"] = "0" * 64
    (workplace / "session.json").write_text(json.dumps(session), encoding="utf-8")
    Image.new("RGB", (60, 41)).save("taller.png")
    assert _run("session.json", "photo.png", "taller.png") == 1
    said = capsys.readouterr().err
    assert "photo.png is not the file that the session was made with" in said
    assert "'taller.png': image: the session is about a picture of 60 x 40 pixels, this one has 60 x 41" in said
    assert not (workplace / "out" / "taller_overlay.png").exists()
    assert "60 x 41" in _refused(capsys, "session.json", "taller.png", "--out", "other")


def test_earlier_results_stay_unless_asked_and_old_masks_go(workplace, capsys):
    assert _run("session.json", "photo.png") == 0
    assert "'out/photo_overlay.png' exists already: pass --overwrite" in _refused(capsys, "session.json", "photo.png")
    (workplace / "out" / "photo_masks" / "mine.png").write_bytes(b"mine")
    session = _session()
    (workplace / "session.json").write_text(
        json.dumps(session | {"objects": session["objects"][1:]}), encoding="utf-8"
    )
    assert _run("session.json", "photo.png", "--overwrite") == 0
    assert {path.name for path in (workplace / "out" / "photo_masks").iterdir()} == {"001_object.png", "mine.png"}


@pytest.mark.parametrize(
    ("content", "arguments", "sentence"),
    [
        ("{", (), "'session.json': session: not JSON"),
        (json.dumps(_session(version=9)), (), "'session.json': version: expected 1"),
        (
            json.dumps(_session(objects=[{"steps": [{"points": [[1]]}]}])),
            (),
            "objects[0].steps[0].points[0]: expected 2",
        ),
        (json.dumps(_session(checkpoint="someone/model")), (), "say it yourself with --model"),
        (json.dumps(_session()), ("--format", "coco,exe"), "--format: expected one of png, "),
        (json.dumps(_session()), ("--format", ""), "--format: expected one of"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_written(workplace, capsys, content, arguments, sentence):
    (workplace / "session.json").write_text(content, encoding="utf-8")
    assert sentence in _refused(capsys, "session.json", "photo.png", *arguments)
    assert not (workplace / "out").exists()


def test_a_session_that_is_none(workplace, capsys):
    assert "'none.json' does not exist" in _refused(capsys, "none.json", "photo.png")
    assert "is not a file" in _refused(capsys, ".", "photo.png")
    assert "not JSON" in _refused(capsys, "photo.png", "photo.png")


def test_inputs_are_never_written_over(workplace, capsys):
    (workplace / "session.json").rename(workplace / "photo_replay.json")
    said = _refused(capsys, "photo_replay.json", "photo.png", "--out", ".", "--overwrite")
    assert "would replace the input" in said
