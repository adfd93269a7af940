"""The examples of docs/app.md do what they say."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
GUIDE = (ROOT / "docs" / "app.md").read_text(encoding="utf-8")


def example(language, address, folder):
    """The guide's only example in a language, for the app of the tests and a picture in a folder."""
    from PIL import Image

    (code,) = re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)
    assert "http://127.0.0.1:7860/" in code
    shown = json.loads((ROOT / "sam_hf/ui/static/examples/examples.json").read_text(encoding="utf-8"))[0]
    with Image.open(ROOT / "sam_hf/ui/static/examples" / shown["file"]) as picture:
        picture.convert("RGB").save(folder / "photo.jpg", quality=95)
    return code.replace("http://127.0.0.1:7860/", address)


def run(*command, folder):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_example_runs(address, tmp_path):
    told = run(sys.executable, "-c", example("python", address, tmp_path), folder=tmp_path)
    area, absent, masks, path = told.strip().splitlines()[-1].split(" ", 3)
    assert 5_000 < int(area) < 40_000 and absent in ("True", "False") and int(masks) > 0
    assert json.loads(Path(path).read_text(encoding="utf-8"))["annotations"]


@pytest.mark.skipif(shutil.which("curl") is None or shutil.which("bash") is None, reason="needs bash and curl")
def test_the_shell_example_runs(address, tmp_path):
    told = run("bash", "-c", example("bash", address, tmp_path), folder=tmp_path)
    event, data = told.strip().splitlines()[-2:]
    assert event == "event: complete"
    (answer,) = json.loads(data.removeprefix("data: "))
    assert len(answer["masks"]) == 3 and answer["masks"][0]["rle"]["size"] == [640, 640]
