"""The app, served on a loopback port once for all tests of this folder; the embedded checkpoint."""

import io
import json
import os

import numpy as np
import pytest

pytest.importorskip("gradio", reason="needs the extra `app`")


@pytest.fixture(scope="session")
def app_folder(tmp_path_factory):
    """Where the app of the tests keeps files, exported decoders among them."""
    folder = tmp_path_factory.mktemp("app")
    before = {name: os.environ.get(name) for name in ("GRADIO_TEMP_DIR", "SAM_HF_CACHE")}
    os.environ["GRADIO_TEMP_DIR"], os.environ["SAM_HF_CACHE"] = str(folder / "files"), str(folder / "cache")
    yield folder
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


@pytest.fixture(scope="session")
def checkpoints(app_folder, plain_checkpoint):
    """The embedded checkpoint, and a random one without a text branch."""
    from sam_hf.ui.checkpoints import Checkpoints

    return Checkpoints(["tiny", str(plain_checkpoint)], device="cpu")


@pytest.fixture(scope="session")
def plain_name(checkpoints):
    """What the checkpoint without a text branch is called."""
    return checkpoints.names[1]


@pytest.fixture(scope="session")
def app(checkpoints):
    """The app and its address; the queue takes ten."""
    from sam_hf.ui.blocks import STATIC_URL, build
    from sam_hf.ui.safety import launch_options

    demo = build(checkpoints, max_queue=10)
    checkpoints.start()
    options = launch_options("127.0.0.1", None, STATIC_URL, prevent_thread_lock=True, quiet=True)
    _, address, _ = demo.launch(**options)
    demo.address = address
    yield demo
    demo.close(verbose=False)


@pytest.fixture(scope="session")
def address(app):
    """Where the app is."""
    return app.address


@pytest.fixture(scope="session")
def client(address):
    """A program that uses the API; files stay where they are."""
    from gradio_client import Client

    return Client(address, verbose=False, download_files=False)


@pytest.fixture(scope="session")
def web(address):
    """Plain HTTP."""
    import httpx

    with httpx.Client(base_url=address, timeout=60) as client:
        yield client


@pytest.fixture
def call(web):
    """Calls an endpoint by REST alone; gives what it answers, or the sentence why not."""

    def run(name, /, **arguments):
        text = json.dumps(arguments)  # escaped, so that everything that JSON can say can be sent
        joined = web.post(f"gradio_api/call/v2/{name}", content=text, headers={"content-type": "application/json"})
        if joined.status_code != 200:
            return joined
        with web.stream("GET", f"gradio_api/call/{name}/{joined.json()['event_id']}") as stream:
            lines = [line for line in stream.iter_lines() if line]
        event, data = lines[-2].removeprefix("event: "), json.loads(lines[-1].removeprefix("data: "))
        return data[0] if event == "complete" else f"error: {data['error']}"

    return run


@pytest.fixture
def upload(web):
    """Uploads a file; gives FileData for requests."""

    def run(content, name="picture.png"):
        sent = web.post("gradio_api/upload", files={"files": (name, content)})
        assert sent.status_code == 200, sent.text
        return {"path": sent.json()[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    return run


@pytest.fixture(scope="session")
def fetch(web):
    """The content of a file that an answer names."""

    def run(file):
        got = web.get(file["url"])
        assert got.status_code == 200
        return got.content

    return run


@pytest.fixture(scope="session")
def disc():
    """A picture file with one disc; its place, colours and size are asked for."""
    from PIL import Image, ImageDraw

    def draw(x=60, y=50, radius=30, color=(230, 40, 30), size=(160, 120), background=(40, 90, 60), form="PNG", **how):
        image = Image.new("RGB", size, background)
        ImageDraw.Draw(image).ellipse([x - radius, y - radius, x + radius, y + radius], fill=color)
        file = io.BytesIO()
        image.save(file, form, **how)
        return file.getvalue()

    return draw


@pytest.fixture(scope="session")
def overlap():
    """IoU of two masks."""

    def iou(first, second):
        union = np.logical_or(first, second).sum()
        return np.logical_and(first, second).sum() / union if union else 1.0

    return iou
