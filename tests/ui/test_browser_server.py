"""The page and its server: another checkpoint, a server that is away, pictures that expire, values from Python."""

import contextlib
import json
import socket
import threading

import pytest


class Line:
    """A way to the app that can be cut and mended, as a server that ends and begins again."""

    def __init__(self, address):
        self.target = ("127.0.0.1", int(address.rstrip("/").rsplit(":", 1)[1]))
        self.listener, self.port, self.open = None, 0, []
        self.mend()
        self.address = f"http://127.0.0.1:{self.port}/"

    def mend(self):
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def cut(self):
        for end in [self.listener, *self.open]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self.open = []

    def _accept(self, listener):
        with contextlib.suppress(OSError):
            while True:
                here, _ = listener.accept()
                there = socket.create_connection(self.target)
                self.open += [here, there]
                for source, goal in ((here, there), (there, here)):
                    threading.Thread(target=self._carry, args=(source, goal), daemon=True).start()

    @staticmethod
    def _carry(source, goal):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                goal.sendall(data)
        with contextlib.suppress(OSError):
            goal.shutdown(socket.SHUT_WR)


@pytest.fixture
def line(address):
    made = Line(address)
    yield made
    made.cut()


def message(screen):
    return screen.page.locator("[data-part=message-text]")


def test_another_checkpoint_answers_once_it_is_chosen(screen, call, overlap, plain_name):
    from sam_hf.masks import rle

    screen.click(*screen.thing)
    before = screen.mask()
    screen.press("c")
    screen.until("app.document.objects.length === 1")
    screen.click(400, 200)
    screen.page.select_option("[data-part=checkpoint]", plain_name)
    screen.until("app.isReady && app.answers.decoder && app.answers.checkpoint === app.checkpoint")
    assert len(screen.objects()) == 1 and screen.steps() == []  # kept masks stay, the one being made begins anew
    assert screen.app("app.checkpoint") == plain_name
    screen.click(100, 480)
    image = {"picture": screen.app("app.answers.id")}
    there = call("segment", image=image, checkpoint=plain_name, steps=screen.steps())
    chosen = there["masks"][there["selected"]]
    assert overlap(rle.decode(screen.mask()), rle.decode(chosen["rle"])) >= 0.99
    screen.press("Escape", "4")
    screen.page.fill("[data-part=phrase]", "a handbag")
    screen.page.click("[data-action=describe]")  # no text branch: the server reads the phrase with its CLIP
    screen.until("(app.answer && app.answer.candidates[0].rle) || !page.part('message').hidden")
    assert screen.app("app.answer !== null"), message(screen).text_content()
    screen.press("Escape")
    screen.page.select_option("[data-part=checkpoint]", "tiny")
    screen.until("app.isReady && app.answers.decoder && app.answers.checkpoint === 'tiny'")
    screen.press("Escape", "h")  # the kept object is in the way
    screen.click(*screen.thing)
    assert overlap(rle.decode(screen.mask()), rle.decode(before)) == 1


def test_a_server_that_is_away_is_told_and_the_page_goes_on_by_itself(enter, line, look):
    screen = enter(at=line.address)
    screen.click(*screen.thing)
    line.cut()
    screen.click(320, 350)  # decoded here
    assert screen.app("app.answer.candidates.length") == 1
    screen.press("c")
    screen.until("app.document.objects.length === 1")
    screen.page.get_by_label("Fill holes of").fill("9")
    message(screen).wait_for(state="visible")
    look(screen, "away")
    assert "cannot be reached" in message(screen).text_content()
    assert screen.objects()[0]["fill_holes"] == 0
    line.mend()
    screen.until("app.document.objects[0].fill_holes === 100000")
    message(screen).wait_for(state="hidden")
    screen.page.get_by_label("Fill holes of").fill("0")
    screen.until("app.document.objects[0].fill_holes === 0")


def test_a_picture_that_the_server_forgot_is_sent_again_and_the_prompts_stay(screen, app, disc):
    screen.open(disc(size=(300, 200), x=150, y=100), "mine.png")
    screen.until("app.isReady && app.answers.decoder && app.picture.name === 'mine.png'")
    screen.click(150, 100)
    steps, before = screen.steps(), screen.app("app.answers.id")
    with app.pictures._lock:
        for name in list(app.pictures._open):
            app.pictures._drop(name)
    screen.page.click("[data-part=exports] summary")
    session = json.loads(screen.download("[data-export=session]"))
    assert session["objects"][0]["steps"][0]["points"] == steps[0]["points"]
    assert screen.app("app.answers.id") != before
    assert not message(screen).is_visible()
    screen.click(20, 20)
    assert screen.app("app.answer.candidates.length") == 3  # the decoder knows it still


def test_what_is_cancelled_leaves_no_error_behind(screen, disc):
    pictures = [disc(size=(600 + 40 * index, 500), x=300, y=250) for index in range(4)]
    for index, content in enumerate(pictures):
        screen.open(content, f"{index}.png")
        screen.page.wait_for_timeout(60 * index)
    screen.until("app.isReady && app.answers.decoder && app.picture.name === '3.png'")
    screen.press("5")
    screen.page.click("[data-part=settings] summary")
    screen.page.locator("[data-option=points_per_side]").fill("64")  # which takes a while
    for pause in (0, 100, 400):
        screen.page.click("[data-part=start-everything]")
        screen.page.wait_for_timeout(pause)
        screen.page.locator("[data-action=cancel]").click()
        screen.until("!app.finder.progress")
    screen.page.route("**/queue/join*", lambda request: None)  # the server does not hear of it for now
    screen.open(pictures[0], "again.png")
    screen.page.locator("[data-action=cancel]").click()
    screen.page.unroute("**/queue/join*")
    screen.page.wait_for_timeout(300)
    assert screen.app("app.isReady") and screen.app("app.picture.name") == "3.png"  # what was open stays
    screen.open(pictures[0], "again.png")
    screen.until("app.isReady && app.answers.decoder && app.picture.name === 'again.png'")
    screen.page.reload()
    screen.until("app.isReady")
    screen.page.wait_for_timeout(300)
    assert screen.errors == []


def test_how_far_it_is_is_told_where_it_is_known(screen, disc):
    said = screen.app(
        """(() => {
            const said = [];
            const { busy } = page;
            page.busy = (words, share) => (said.push([words, share]), busy.call(page, words, share));
            return (globalThis.said = said).length;
        })()"""
    )
    assert said == 0
    screen.open(disc(size=(900, 700)), "seconds.png")
    screen.until("app.isReady && app.answers.decoder && app.picture.name === 'seconds.png'")
    said = [(words, share) for words, share in screen.page.evaluate("said") if words]
    assert {share for words, share in said if not words.startswith("Sending")} == {None}  # nobody knows how long
    assert any(words.startswith("Encoding") for words, _ in said)


@pytest.fixture
def small_app(checkpoints, disc, tmp_path):
    """A canvas in somebody's own app: a button sets it, a text tells what it says."""
    import gradio as gr

    from sam_hf.ui.api import Api
    from sam_hf.ui.blocks import AppBlocks
    from sam_hf.ui.canvas import PromptCanvas
    from sam_hf.ui.safety import launch_options
    from sam_hf.ui.static_files import STATIC, STATIC_URL

    path = tmp_path / "set.png"
    path.write_bytes(disc(size=(200, 150), x=100, y=75))
    session = {
        "format": "sam_hf.session",
        "version": 1,
        "image": {"name": "set.png", "size": [150, 200], "sha256": None},
        "checkpoint": "tiny",
        "objects": [{"name": "a square", "color": "#E69F00", "steps": [], "rle": square()}],
    }
    gr.set_static_paths([STATIC])
    with AppBlocks(analytics_enabled=False) as demo:
        canvas = PromptCanvas(static_url=STATIC_URL, default_checkpoint="tiny")
        button, told = gr.Button("Set it"), gr.Textbox(label="told")
        button.click(lambda: {"image": str(path), "session": session}, None, canvas)
        canvas.change(lambda value: json.dumps(value), canvas, told)
        Api(checkpoints).register()
    checkpoints.start()
    options = launch_options("127.0.0.1", None, prevent_thread_lock=True, quiet=True)
    options["allowed_paths"] = [str(tmp_path)]
    _, address, _ = demo.queue().launch(**options)
    yield address
    demo.close(verbose=False)


def square():
    import numpy as np

    from sam_hf.masks import rle

    mask = np.zeros((150, 200), dtype=bool)
    mask[20:60, 30:90] = True
    return rle.encode(mask)


def test_python_sets_the_picture_and_the_session_and_is_told_what_becomes_of_them(enter, small_app):
    screen = enter(at=small_app, ready=False)
    screen.page.wait_for_selector("[data-part=empty]:visible")
    screen.page.get_by_text("Set it").click()
    screen.until("app.document.objects.length === 1")
    assert screen.app("app.picture.name") == "set.png"
    assert screen.objects()[0]["name"] == "a square" and screen.objects()[0]["rle"] == square()
    screen.wait_ready()
    screen.click(130, 100)
    screen.press("c")
    screen.until("app.document.objects.length === 2")
    field = screen.page.get_by_label("told")
    screen.page.wait_for_function("document.querySelector('textarea')?.value.includes('object 1')")
    value = json.loads(field.input_value())
    assert value["image"]["orig_name"] == "set.png"
    assert [one["name"] for one in value["session"]["objects"]] == ["a square", "object 1"]
    screen.page.get_by_text("Set it").click()  # once more: it is set again
    screen.until("app.document.objects.length === 1")


def test_a_canvas_takes_no_file_that_was_not_uploaded():
    import gradio as gr

    from sam_hf.ui.canvas import PromptCanvas

    canvas = PromptCanvas(static_url="/static", render=False)
    assert canvas.preprocess({"image": None, "session": None}) == {"image": None, "session": None}
    for image in ({"path": "/etc/passwd"}, {"path": "/etc/passwd", "meta": {"_type": "else"}}, [], "/etc/passwd"):
        with pytest.raises(gr.Error, match="expected image as an uploaded file"):
            canvas.preprocess({"image": image, "session": None})
