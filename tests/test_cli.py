"""The command line: what it writes, what it refuses, and that it never leaves half a result."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from sam_hf import SamPredictor, cli
from sam_hf.masks import rle

KINDS = ("overlay", "mask", "cutout")
# Everything mode on random weights: few points, and any mask will do.
SMALL = ["--points-per-side", "2", "--pred-iou-thresh", "0", "--stability-score-thresh", "0"]


@pytest.fixture(scope="module")
def loaded(text_checkpoint):
    return SamPredictor.from_pretrained(text_checkpoint, device="cpu")


@pytest.fixture
def workplace(tmp_path, monkeypatch, loaded):
    """An empty working directory, with the model loaded beforehand."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_load", lambda *arguments: loaded)
    return tmp_path


def _photo(path, seed: int = 0, width: int = 60, height: int = 40) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    image.save(path)
    return image


def _run(*arguments) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return ended.value.code


def _refused(capsys, *arguments) -> str:
    """Runs what must be refused: exit code 2 and one sentence."""
    assert _run(*arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sam-hf:")]
    assert len(lines) == 1
    return lines[0]


def _names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _results(name: str) -> set[str]:
    return {f"{name}_{kind}.png" for kind in KINDS} | {f"{name}.json"}


def test_all_prompts_together_and_everything_written(workplace, capsys):
    _photo("photo.png")
    rough = np.zeros((40, 60), dtype=np.uint8)
    rough[10:30, 20:50] = 255
    Image.fromarray(rough).save("rough.png")
    prompts = ["--point", "30,20", "--point", "25.5,15", "--background-point", "2,2", "--box", "15,5,55,35"]
    assert _run("segment", "photo.png", *prompts, "--mask", "rough.png", "--out", "out") == 0
    out = workplace / "out"
    assert _names(out) == _results("photo")
    record = json.loads((out / "photo.json").read_text())
    assert (record["width"], record["height"]) == (60, 40)
    assert record["prompts"]["points"] == [[30.0, 20.0], [25.5, 15.0]]
    (found,) = record["masks"]
    mask = rle.decode(found["segmentation"])
    assert mask.shape == (40, 60) and mask.sum() == found["area"]
    drawn = np.array(Image.open(out / "photo_mask.png"))
    np.testing.assert_array_equal(drawn, mask * np.uint8(255))
    assert Image.open(out / "photo_overlay.png").size == (60, 40)
    cutout = Image.open(out / "photo_cutout.png")
    assert cutout.mode == "RGBA" and list(cutout.size) == (found["bbox"][2:] if found["area"] else [1, 1])
    assert "photo_overlay.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("prompts", "proposals"),
    [(["--point", "30,20"], 3), (["--point", "30,20", "--box", "1,1,50,30"], 1)],
)
def test_one_prompt_may_be_ambiguous_several_are_not(workplace, loaded, monkeypatch, prompts, proposals):
    _photo("photo.png")
    decoded = []
    decode = loaded.decode

    def watched(*arguments, **options):
        decoded.append(decode(*arguments, **options))
        return decoded[-1]

    monkeypatch.setattr(loaded, "decode", watched)
    assert _run("segment", "photo.png", *prompts) == 0
    (answer,) = decoded
    assert len(answer.scores) == proposals
    (found,) = json.loads((workplace / "out" / "photo.json").read_text())["masks"]
    assert found["predicted_iou"] == pytest.approx(float(answer.scores.max()), abs=1e-5)


def test_multimask_writes_three_best_first(workplace):
    _photo("photo.png")
    assert _run("segment", "photo.png", "--point", "30,20", "--multimask") == 0
    expected = {f"photo_{number}_{kind}.png" for number in (1, 2, 3) for kind in KINDS} | {"photo.json"}
    assert _names(workplace / "out") == expected
    scores = [mask["predicted_iou"] for mask in json.loads((workplace / "out" / "photo.json").read_text())["masks"]]
    assert scores == sorted(scores, reverse=True)


def test_json_lines_on_stdout(workplace, capsys):
    _photo("a.png", 1)
    _photo("b.png", 2)
    assert _run("segment", "a.png", "b.png", "--point", "30,20", "--json") == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["image"] for record in records] == ["a.png", "b.png"]
    assert records[0] == json.loads((workplace / "out" / "a.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["photo.png"], "say what to segment with --point, --background-point, --box, --mask or --text"),
        (["photo.png", "--point", "3"], "--point expects x,y in pixels, for example 450,600; got '3'"),
        (["photo.png", "--point", "3,nan"], "--point expects x,y"),
        (["photo.png", "--background-point", "a,b"], "--background-point expects x,y"),
        (["photo.png", "--box", "1,2,3"], "--box expects left,top,right,bottom"),
        (["photo.png", "--box", "9,2,3,4"], "left < right"),
        (["photo.png", "--text", "  "], "--text expects a phrase"),
        (["nowhere.png", "--point", "1,1"], "the image 'nowhere.png' does not exist"),
        (["https://example.com/a.png", "--point", "1,1"], "is an address"),
        (["empty", "--point", "1,1"], "the folder 'empty' holds no image"),
        (["text.png", "--point", "1,1"], "'text.png' is not an image of a known format"),
        (["cut.png", "--point", "1,1"], "cannot read the image 'cut.png'"),
        (["bomb.png", "--point", "1,1"], "'bomb.png' has more than 50 megapixels"),
        (["photo.png", "--mask", "small.png"], "is 10 x 12 pixels, the image 'photo.png' 60 x 40"),
        (["photo.png", "--mask", "black.png"], "the mask 'black.png' is empty"),
        (["photo.png", "--mask", "empty"], "'empty' is not a file"),
        (["photo.png", "--point", "1,1", "--dtype", "int8"], "int8"),
        (["photo.png", "--point", "1,1", "--out", "photo.png"], "cannot write into the folder"),
        (["photo.png", "--point", "1,1", "--nonsense"], "--nonsense"),
        ([], "images"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_written(workplace, capsys, arguments, sentence):
    _photo("photo.png")
    _photo("small.png", width=10, height=12)
    Image.new("L", (60, 40)).save("black.png")
    (workplace / "empty").mkdir()
    (workplace / "text.png").write_text("not an image")
    (workplace / "cut.png").write_bytes((workplace / "photo.png").read_bytes()[:500])
    (workplace / "bomb.png").write_bytes(_png_header(20_000, 20_000))
    assert sentence in _refused(capsys, "segment", *arguments)
    assert not (workplace / "out").exists() or not _names(workplace / "out")


def _png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for chunk in (header, b"IDAT" + zlib.compress(b"\0" * 1000)):
        content += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return content


def test_an_unreadable_file_among_many(workplace, capsys):
    _photo("a.png", 1)
    (workplace / "b.png").write_text("not an image")
    _photo("c.png", 2)
    assert _run("segment", "a.png", "b.png", "c.png", "--point", "30,20") == 1
    assert _names(workplace / "out") == _results("a") | _results("c")
    errors = capsys.readouterr().err
    assert "1 of 3 images failed" in errors and "'b.png' is not an image" in errors


def test_a_missing_file_does_not_stop_the_others(workplace, capsys):
    _photo("a.png", 1)
    (workplace / "empty").mkdir()
    names = ["nowhere.png", "a.png", "http://example.com/b.png", "empty", "x" * 300]
    for command in (["segment", "--point", "30,20"], ["everything", *SMALL]):
        assert _run(*command, *names, "--out", command[0]) == 1
        assert "a.json" in _names(workplace / command[0])
        errors = capsys.readouterr().err
        assert "4 of 5 images failed" in errors and "'nowhere.png' does not exist" in errors
        assert "is an address" in errors and "holds no image" in errors and "cannot look at" in errors


def test_nothing_that_can_be_read_is_one_sentence(workplace, capsys):
    refused = _refused(capsys, "segment", "nowhere.png", "nothing.png", "--point", "1,1")
    assert "'nowhere.png' does not exist" in refused and "'nothing.png' does not exist" in refused
    assert _names(workplace) == set()


def test_earlier_results_stay_unless_asked(workplace, capsys):
    _photo("photo.png")
    assert _run("segment", "photo.png", "--point", "30,20") == 0
    before = (workplace / "out" / "photo.json").read_text()
    assert "exists already: pass --overwrite" in _refused(capsys, "segment", "photo.png", "--point", "5,5")
    assert (workplace / "out" / "photo.json").read_text() == before
    assert _run("segment", "photo.png", "--point", "5,5", "--overwrite") == 0
    assert (workplace / "out" / "photo.json").read_text() != before


def test_inputs_are_never_written_over(workplace, capsys):
    _photo("photo.png")
    Image.new("L", (60, 40), 255).save("photo_mask.png")
    before = (workplace / "photo_mask.png").read_bytes()
    arguments = ["segment", "photo.png", "--mask", "photo_mask.png", "--out", ".", "--overwrite"]
    assert "would replace the input" in _refused(capsys, *arguments)
    assert (workplace / "photo_mask.png").read_bytes() == before


def test_names_that_collide_stay_apart(workplace):
    (workplace / "deep").mkdir()
    for seed, name in enumerate(["a.jpg", "a.png", "deep/a.png", "b.png"]):
        _photo(name, seed)
    assert _run("segment", "a.jpg", "a.png", "deep/a.png", "b.png", "./b.png", "--point", "30,20") == 0
    expected = _results("a.jpg") | _results("a.png") | _results("a.png-2") | _results("b")
    assert _names(workplace / "out") == expected


def test_paths_of_any_spelling(workplace):
    _photo("mit Leerzeichen und ümläut 🐟.png")
    _photo("-dash.png")
    assert _run("segment", "--point", "30,20", "--", "mit Leerzeichen und ümläut 🐟.png", "-dash.png") == 0
    assert _results("-dash") < _names(workplace / "out")
    assert "mit Leerzeichen und ümläut 🐟_mask.png" in _names(workplace / "out")


def test_a_folder_stands_for_its_images_and_links_do_not_lead_out(workplace):
    folder = workplace / "photos"
    folder.mkdir()
    _photo(folder / "in.png")
    _photo("elsewhere.png")
    (folder / "link.png").symlink_to(workplace / "elsewhere.png")
    (folder / "notes.txt").write_text("no image")
    assert _run("segment", "photos", "--point", "30,20") == 0
    assert _names(workplace / "out") == _results("in")


def test_exif_orientation_is_applied(workplace):
    image = _photo("photo.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # upright after a quarter turn
    image.save("turned.jpg", exif=exif)
    assert _run("segment", "turned.jpg", "--point", "10,50") == 0
    record = json.loads((workplace / "out" / "turned.json").read_text())
    assert (record["width"], record["height"]) == (40, 60)
    assert Image.open(workplace / "out" / "turned_overlay.png").size == (40, 60)


def test_an_interruption_leaves_whole_files_only(workplace, monkeypatch, capsys):
    for number in range(3):
        _photo(f"{number}.png", number)
    replace, calls = os.replace, []

    def interrupted(source, target):
        calls.append(target)
        if len(calls) == 6:  # in the midst of the second image
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr("sam_hf.inference.result_files.os.replace", interrupted)
    assert _run("segment", "0.png", "1.png", "2.png", "--point", "30,20") == 130
    assert "interrupted" in capsys.readouterr().err
    assert _names(workplace / "out") == _results("0") | {"1_overlay.png"}
    Image.open(workplace / "out" / "1_overlay.png").load()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("work", [["segment", "--point", "600,450"], ["everything", "--points-per-side", "8"]])
def test_real_signals_leave_whole_files_only(tmp_path, plain_checkpoint, work, sent, code):
    for number in range(40):
        _photo(tmp_path / f"{number:02}.png", number, 1200, 900)
    command = [sys.executable, "-m", "sam_hf.cli", *work, ".", "--model", plain_checkpoint]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    running = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    running.stdout.readline()  # the first image is done, the second under way
    running.send_signal(sent)
    running.communicate(timeout=120)
    assert running.returncode == code
    finished = sorted((tmp_path / "out").glob("*.json"))
    assert 1 <= len(finished) < 40
    assert not [name for name in _names(tmp_path / "out") if name.endswith(".part")]
    for record in finished:
        written = _results(record.stem) if work[0] == "segment" else {f"{record.stem}_overlay.png"}
        assert written <= _names(tmp_path / "out")
        json.loads(record.read_text())


def test_a_full_disk_is_said_and_leaves_nothing(workplace, monkeypatch, capsys):
    _photo("photo.png")

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sam_hf.inference.result_files.os.replace", full)
    assert _run("segment", "photo.png", "--point", "30,20") == 1
    assert "cannot write the results of 'photo.png': No space left on device" in capsys.readouterr().err
    assert _names(workplace / "out") == set()


def test_loading_and_what_can_go_wrong_with_it(tmp_path, monkeypatch, capsys, plain_checkpoint):
    monkeypatch.chdir(tmp_path)
    _photo("photo.png")
    asked = ["segment", "photo.png", "--point", "30,20"]
    assert "cannot load the model 'nowhere/nothing'" in _refused(capsys, *asked, "--model", "nowhere/nothing")
    damaged = tmp_path / "damaged"
    shutil.copytree(plain_checkpoint, damaged)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "cannot load the model" in _refused(capsys, *asked, "--model", damaged)
    refused = _refused(capsys, *asked, "--text", "red mug", "--model", plain_checkpoint)
    assert "text: this checkpoint has no text branch" in refused
    if not torch.cuda.is_available():
        assert _run(*asked, "--model", plain_checkpoint, "--device", "cuda", "--dtype", "bfloat16") == 0
        messages = capsys.readouterr().err
        assert "no CUDA device is available: using the CPU" in messages
        assert "loading the model" in messages and "photo.png" in messages
        assert _names(tmp_path / "out") == _results("photo")


@pytest.mark.skipif(os.name == "nt", reason="names are bytes on POSIX only")
def test_a_name_that_is_no_text(workplace, capsys):
    _photo("a.png")
    try:
        os.rename("a.png", b"a\xff.png")
    except OSError:
        pytest.skip("this file system takes text only")
    assert _run("segment", os.fsdecode(b"a\xff.png"), "--point", "30,20") == 0
    assert "a\\udcff.png: " in capsys.readouterr().out


def test_a_reader_who_leaves_does_not_stop_the_work(workplace, monkeypatch):
    for number in range(2):
        _photo(f"{number}.png", number)
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert _run("segment", ".", "--point", "30,20") == 0
    assert _results("0") | _results("1") == _names(workplace / "out")


@pytest.mark.parametrize("terminal", [True, False])
def test_results_go_to_stdout_and_progress_to_stderr(workplace, monkeypatch, capsys, terminal):
    monkeypatch.setattr(cli, "messages", Console(stderr=True, force_terminal=terminal))
    _photo("photo.png")
    for command in (["segment", "--point", "30,20"], ["everything", *SMALL]):
        assert _run(*command, "photo.png", "--json", "--overwrite") == 0
        captured = capsys.readouterr()
        assert json.loads(captured.out) and "{" not in captured.err and "photo.png" in captured.err


@pytest.mark.parametrize(
    ("command", "module"),
    [("train tiny", "sam_hf.training.recipes.tiny"), ("evaluate synthetic", "sam_hf.evaluation.synthetic")],
)
def test_training_and_evaluation_are_passed_on(monkeypatch, command, module):
    given = []
    monkeypatch.setattr(f"{module}.main", lambda arguments: given.append(arguments) or 3)
    assert _run(*command.split(), "--output", "somewhere", "--help", "--scenes=3") == 3
    assert given == [["--output", "somewhere", "--help", "--scenes=3"]]
