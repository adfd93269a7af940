"""Every file of examples/ runs as it stands, without an argument and without a network, and shows what it promises."""

import ast
import contextlib
import importlib.util
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam_hf.hub.example_pictures import draw_scene

FOLDER = Path(__file__).parent.parent / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))
EMBEDDED_CLIP = FOLDER.parent / "sam_hf" / "checkpoints" / "clip"

NEED_A_CLIP = {"free_text", "text_on_any_sam"}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs an example in an empty folder; gives what it defines."""
    with contextlib.suppress(ImportError):  # pycocotools imports it, and it looks for its settings where it is run
        import matplotlib  # noqa: F401

    monkeypatch.chdir(tmp_path)

    def in_process(example: Path, *arguments: str) -> dict:
        if example.stem in NEED_A_CLIP and not EMBEDDED_CLIP.is_dir():
            pytest.skip("the embedded CLIP is not in this tree")
        monkeypatch.setattr(sys, "argv", [str(example), *arguments])
        return runpy.run_path(str(example), run_name="__main__")

    return in_process


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.stem for example in EXAMPLES])
def test_it_runs_and_leaves_what_it_shows(example, run, tmp_path, capsys):
    defined = run(example)
    assert capsys.readouterr().out.strip(), "an example says what it does"
    pictures = list(tmp_path.glob("*.png"))
    assert pictures
    for picture in pictures:
        pixels = np.asarray(Image.open(picture))
        assert pixels.std() > 1
        assert picture.name == "scene.png" or pixels.shape != draw_scene().shape or (pixels != draw_scene()).any()
    if "mask" in defined:  # by agreement the red disc
        rows, columns = np.mgrid[: defined["mask"].shape[0], : defined["mask"].shape[1]]
        disc = (rows - 150) ** 2 + (columns - 150) ** 2 < 80**2
        assert (defined["mask"] & disc).sum() / (defined["mask"] | disc).sum() > 0.8


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.stem for example in EXAMPLES])
def test_it_is_short_and_says_how_to_run_it(example):
    text = example.read_text(encoding="utf-8")
    assert 15 <= len(text.splitlines()) <= 60
    docstring = ast.get_docstring(ast.parse(text))
    # `python examples/x.py` puts the folder first on the path: a name that others import would be taken for theirs
    others = importlib.util.find_spec(example.stem)
    assert others is None or FOLDER.parent in Path(others.origin).parents
    assert docstring and f"python examples/{example.name}" in docstring


def test_the_path_can_be_given(run, tmp_path):
    run(FOLDER / "boxes.py", "elsewhere.png")
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere.png"]


def test_the_coco_file_holds_what_tools_expect(run, tmp_path):
    run(FOLDER / "coco_json.py")
    content = json.loads((tmp_path / "coco.json").read_text())
    assert content["annotations"] and {"images", "categories"} <= set(content)
    for annotation in content["annotations"]:
        assert {"id", "image_id", "category_id", "segmentation", "bbox", "area", "iscrowd"} <= set(annotation)


def test_every_promise_has_one():
    promises = {"clicks", "boxes", "free_text", "text_and_click", "everything", "mask_pipeline", "batch_of_images"}
    promises |= {"embedding_reuse", "coco_json", "fine_tuning", "text_on_any_sam", "save_and_load"}
    promises |= {"convert", "export", "push"}
    assert promises <= {example.stem for example in EXAMPLES}
