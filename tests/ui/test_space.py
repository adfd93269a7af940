"""The Space's files, `app.py` and the command: they agree with the package, and importing does no work."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
pytest.importorskip("gradio", reason="needs the extra `app`")


def _head():
    return yaml.safe_load((ROOT / "space" / "README.md").read_text(encoding="utf-8").split("---")[1])


def _names(lines):
    return {re.split(r"[<>=!~\[; ]", line.strip())[0].lower() for line in lines if line.strip() and line[0] != "#"}


def test_the_head_is_what_the_hub_expects():
    head = _head()
    assert head["sdk"] == "gradio" and (ROOT / head["app_file"]).is_file()
    assert head["colorFrom"] in "red yellow green blue indigo purple pink gray".split()
    assert len(head["short_description"]) <= 60
    assert set(head["custom_headers"]) == {
        "cross-origin-embedder-policy",
        "cross-origin-opener-policy",
        "cross-origin-resource-policy",
    }


def test_the_space_installs_what_the_package_needs():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = _names([*project["dependencies"], *project["optional-dependencies"]["app"]]) - {"gradio"}  # by its sdk
    there = _names((ROOT / "space" / "requirements.txt").read_text(encoding="utf-8").splitlines())
    assert needed <= there
    wanted = next(one for one in project["optional-dependencies"]["app"] if one.startswith("gradio"))
    least = tuple(map(int, re.findall(r"\d+", wanted)))
    assert tuple(map(int, _head()["sdk_version"].split("."))) >= least


def test_app_py_is_short_and_imports_without_work():
    lines = (ROOT / "app.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 60
    code = "import sys, app; print(sorted({'torch', 'gradio', 'sam_hf'} & set(sys.modules)), hasattr(app, 'other'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[] False", done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_an_app_that_is_ended_leaves_no_files(tmp_path, how):
    environment = {name: value for name, value in os.environ.items() if name != "GRADIO_TEMP_DIR"}
    environment |= {"TMPDIR": str(tmp_path), "SAM_HF_CACHE": str(tmp_path / "cache")}
    with subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) as app:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("sam_hf-app-*")) and app.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert list(tmp_path.glob("sam_hf-app-*"))
        time.sleep(1)
        app.send_signal(how)
        assert app.wait(30) != 0
    assert not list(tmp_path.glob("sam_hf-app-*"))


def test_the_environment_says_what_the_space_offers(monkeypatch):
    import importlib.util

    def arguments(**environment):
        for name in ("SAM_HF_MODELS", "SAM_HF_DEVICE", "SAM_HF_DTYPE", "SAM_HF_ALLOWED_HOSTS", "SPACE_ID"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        spec = importlib.util.spec_from_file_location("space_app", ROOT / "app.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.arguments()

    assert arguments() == ["--model", "tiny"]
    given = arguments(SAM_HF_MODELS="facebook/sam-vit-base, tiny", SAM_HF_DTYPE="bfloat16", SPACE_ID="a/b")
    assert given[:4] == ["--model", "facebook/sam-vit-base", "--model", "tiny"]
    assert arguments(SAM_HF_ALLOWED_HOSTS="a.example, b.example:81")[2:] == [
        *("--allowed-host", "a.example"),
        *("--allowed-host", "b.example:81"),
    ]
    assert given[4:] == ["--dtype", "bfloat16", "--host", "0.0.0.0", "--port", "7860"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--model", "tiny", "--model", "tiny"], "different"),
        (["--device", "gpu"], "device"),
        (["--max-queue", "0"], "max_queue"),
    ],
)
def test_the_command_refuses_wrong_options_in_a_sentence(arguments, words):
    from sam_hf import cli

    with pytest.raises(cli.UsageProblem, match=words):
        cli.app(["app", *arguments], standalone_mode=False)


def test_mcp_without_its_package_is_said_to_lack_it(monkeypatch):
    from sam_hf.ui.app_command import require_gradio

    monkeypatch.setitem(sys.modules, "mcp", None)
    require_gradio()
    with pytest.raises(ImportError, match="pip install"):
        require_gradio(mcp=True)


def test_on_zero_gpu_models_stay_on_the_cpu_and_encoding_asks_for_the_gpu(monkeypatch, checkpoints, disc):
    import io
    import types

    from PIL import Image

    from sam_hf.ui.checkpoints import choose_device
    from sam_hf.ui.encoding import Encoder

    asked = []

    def gpu(duration):
        def wrap(function):
            def run(name, picture):
                asked.append((name, duration))
                embedding = checkpoints.get(name).predictor.encode(picture)  # as if there were one
                return embedding.tensor.numpy(), embedding.original_size, embedding.input_size

            return run

        return wrap

    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.setitem(sys.modules, "spaces", types.SimpleNamespace(GPU=gpu))
    assert str(choose_device(None)) == "cpu"
    tiny, picture = checkpoints.get("tiny"), Image.open(io.BytesIO(disc(color=(7, 77, 177))))
    encoder = Encoder(checkpoints)
    first, second = encoder.encode(tiny, picture), encoder.encode(tiny, picture)
    assert len(asked) == 1 and first is second  # found again
    answer = tiny.predictor.decode(first, points=[[60, 50]])
    assert answer.masks.shape == (3, 120, 160)


def test_on_zero_gpu_a_copy_lies_on_the_gpu_before_the_app_starts(monkeypatch, tmp_path):
    import torch

    from sam_hf.model.modeling_sam import SamModel
    from sam_hf.ui import checkpoints as module

    moved = []
    monkeypatch.setenv("SPACES_ZERO_GPU", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # as the package `spaces` has it
    monkeypatch.setattr(SamModel, "to", lambda self, *where, **how: moved.append(where) or self)
    monkeypatch.setattr(module.Checkpoints, "_export_all", lambda self: None)
    started = module.Checkpoints(["tiny"], device="cpu").start()
    assert started.describe()[0]["state"] == "ready" and ("cuda",) in moved
    found = started.get("tiny", timeout=0)
    assert found.on_gpu is not None and found.on_gpu.model is not found.predictor.model
