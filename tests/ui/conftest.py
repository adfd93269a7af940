"""The app, served on a loopback port once for all tests of this folder; the embedded checkpoint."""

import io
import json
import os
import shutil
import time

import numpy as np
import pytest

WAIT = 120_000  # milliseconds; the machine may be busy
CHROMIUM = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")  # the lightest first


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
    pytest.importorskip("gradio", reason="needs the extra `app`")
    from sam_hf.ui.blocks import build, page_look
    from sam_hf.ui.safety import launch_options

    demo = build(checkpoints, max_queue=10)
    checkpoints.start()
    options = launch_options("127.0.0.1", None, prevent_thread_lock=True, quiet=True, **page_look())
    _, address, _ = demo.launch(**options)
    demo.address = address
    checkpoints.decoder("tiny")  # exported, however long that takes on a busy machine, before a page waits for it
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


@pytest.fixture
def empty_queue(app):
    """Waits until nothing is under way."""

    def wait():
        deadline = time.monotonic() + 60
        while (len(app._queue) or any(app._queue.active_jobs)) and time.monotonic() < deadline:
            time.sleep(0.05)

    return wait


@pytest.fixture
def slow_batches(monkeypatch):
    """The batches of points that everything mode has asked for; each takes a moment."""
    from sam_hf.inference.crop_search import CropSearch

    real, asked = CropSearch.ask, []

    def ask(self, start, stop):
        asked.append(start)
        time.sleep(0.3)
        real(self, start, stop)

    monkeypatch.setattr(CropSearch, "ask", ask)
    return asked


class Screen:
    """A page and what a person does to it; places are original pixels."""

    thing = (295, 330)  # a place in the first example on which there is something

    def __init__(self, page):
        self.page = page
        self.errors = []  # what the page has left unhandled
        page.on("pageerror", lambda error: self.errors.append(f"{error} {error.stack}"))

    def app(self, expression, argument=None):
        """A JavaScript expression on `app` (app.js)."""
        page = "const page = document.querySelector('.sam').page, app = page.app"
        code = f"(argument) => {{ {page}; return {expression}; }}"
        return self.page.evaluate(code, argument)

    def until(self, expression):
        page = "const page = document.querySelector('.sam')?.page, app = page?.app"
        code = f"() => {{ {page}; return app && ({expression}); }}"
        self.page.wait_for_function(code, timeout=WAIT)

    def wait_ready(self):
        self.until("app.isReady && app.answers.decoder")

    def settled(self):
        self.until("!app.isAsking && !app.strokes.length && !page.isStale")

    def place(self, x, y):
        code = """(() => {
            const box = page.stage.overlay.getBoundingClientRect();
            const [x, y] = page.stage.onStage(argument);
            return [box.left + x, box.top + y];
        })()"""
        return self.app(code, [x, y])

    def click(self, x, y, **how):
        self.page.mouse.click(*self.place(x, y), **how)
        self.settled()

    def drag(self, *places):
        self.page.mouse.move(*self.place(*places[0]))
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*self.place(*place), steps=4)
        self.page.mouse.up()
        self.settled()

    def press(self, *keys):
        self.page.focus("[data-part=overlay]")
        for key in keys:
            self.page.keyboard.press(key)
        self.settled()

    def steps(self):
        return self.app("app.document.steps")

    def objects(self):
        return self.app("app.document.objects")

    def mask(self):
        """The mask that is chosen, as this browser would keep it."""
        return self.app("app.answers.rle(app.chosen)")

    def download(self, selector):
        """The bytes of the file that a button writes; where none comes, what the page says instead."""
        from playwright.sync_api import TimeoutError

        self.page.wait_for_timeout(100)  # Chromium drops what is more than ten files a second
        try:
            with self.page.expect_download(timeout=WAIT) as coming:
                self.page.locator(selector).last.click()
        except TimeoutError:
            said = "['message-text', 'busy-text', 'status'].map((name) => page.part(name).textContent)"
            raise AssertionError(f"no file from {selector}; the page says {self.app(said)}") from None
        with open(coming.value.path(), "rb") as file:
            return file.read()

    def open(self, content, name="picture.png", mime="image/png"):
        self.page.set_input_files("[data-part=file]", {"name": name, "mimeType": mime, "buffer": content})


@pytest.fixture(scope="module")
def browser():
    """Chromium; its camera shows a moving pattern."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, see the extra `test`")
    chromium = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    flags = ["--no-sandbox", "--disable-gpu", *camera, "--js-flags=--liftoff-only"]  # wasm compiled fast, not well
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield started
        started.close()


@pytest.fixture(scope="module")
def look(tmp_path_factory):
    """Saves a screenshot, in $SAM_HF_SCREENSHOTS if that is set."""
    folder = os.environ.get("SAM_HF_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots")
    return lambda screen, name, **how: screen.page.screenshot(path=f"{folder}/{name}.png", **how)


@pytest.fixture
def enter(browser, address):
    """Opens the app in a new window and waits until masks are decoded there; errors that it leaves fail the test."""
    contexts, screens = [], []

    def run(path="", ready=True, script=None, at=None, **how):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, "accept_downloads": True, **how})
        contexts.append(context)
        page = context.new_page()
        if script:
            page.add_init_script(script)
        screens.append(screen := Screen(page))
        page.goto((at or address) + path)
        if ready:
            screen.wait_ready()
        return screen

    yield run
    errors = [error for screen in screens for error in screen.errors]
    for context in contexts:
        context.close()
    assert not errors


@pytest.fixture
def screen(enter):
    """The app with the picture that opens by itself."""
    return enter()
