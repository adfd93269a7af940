"""The page in a real browser: what a person does, on the embedded checkpoint. Screenshots stay with the test."""

import io
import json
import zipfile
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image


def test_hovering_shows_a_mask_that_the_server_was_not_asked_for(screen, look):
    asked = []
    screen.page.on("request", lambda request: asked.append(request.url) if "/queue/join" in request.url else None)
    screen.page.mouse.move(*screen.place(*screen.thing))
    screen.until("app.glanced")
    look(screen, "hover")
    assert screen.app("app.glanced.share") > 0.001
    screen.page.mouse.move(2, 2)
    screen.until("!app.glanced")
    assert not asked


def test_clicks_are_added_removed_undone_and_done_again(screen, look):
    screen.click(*screen.thing)
    assert screen.app("app.answer.candidates.length") == 3
    assert screen.page.locator("[data-part=chips] button").count() == 3
    look(screen, "click")
    screen.click(100, 100, button="right")
    (first, second) = screen.steps()
    assert (second["labels"], second["previous"], first["previous"]) == ([1, 0], True, False)
    assert screen.app("app.answer.candidates.length") == 1
    screen.press("Control+z")
    assert len(screen.steps()) == 1
    screen.press("Control+Shift+Z")
    assert len(screen.steps()) == 2
    screen.press("Backspace")
    assert len(screen.steps()) == 1
    screen.click(*screen.thing)  # on the marker: the prompt is taken back
    assert screen.steps() == []
    screen.page.keyboard.down("Shift")
    screen.click(*screen.thing)
    screen.page.keyboard.up("Shift")
    assert screen.steps()[0]["labels"] == [0]
    screen.press("Escape")
    assert screen.steps() == []


@pytest.mark.parametrize("prompt", ["point", "second point", "box", "brush", "text and point", "third mask"])
def test_masks_are_those_of_the_server(screen, call, overlap, prompt):
    from sam_hf.masks import rle

    x, y = screen.thing
    if prompt == "box":
        screen.drag((x - 80, y - 70), (x + 80, y + 80))
        assert screen.steps()[0]["box"] is not None
    elif prompt == "brush":
        screen.press("3")
        screen.drag((x - 30, y), (x, y + 20), (x + 20, y - 20))
        assert screen.steps()[0]["brush"]["size"] == [640, 640]
    elif prompt == "text and point":
        screen.press("4")
        screen.page.fill("[data-part=phrase]", "a handbag")
        screen.page.click("[data-action=describe]")
        screen.until("app.answer")
        screen.page.click("[data-tool=point]")
        screen.click(x, y)
        assert [step["text"] for step in screen.steps()] == ["a handbag"] * 2
    else:
        screen.click(x, y)
    if prompt == "second point":
        screen.click(x + 30, y + 30)
    if prompt == "third mask":
        screen.press("]")
        screen.press("]")
    steps = screen.steps()
    if prompt == "third mask":
        steps[-1]["selected"] = screen.app("app.selected")
    there = call("segment", image={"picture": screen.app("app.answers.picture.key")}, checkpoint="tiny", steps=steps)
    chosen = there["masks"][there["selected"]]
    assert overlap(rle.decode(screen.mask()), rle.decode(chosen["rle"])) >= 0.99
    assert screen.app("app.chosen.score") == pytest.approx(chosen["score"], abs=0.01)
    assert screen.app("app.chosen.share") == pytest.approx(chosen["area"] / 640**2, abs=0.004)


def test_the_three_masks_are_gone_through(screen):
    screen.click(*screen.thing)
    first = screen.app("app.selected")
    screen.press("]")
    assert screen.app("app.selected") == (first + 1) % 3
    words = r"/mask \d of 3, score \d\.\d\d, [\d.]+ % of image/"
    said = f"() => {words}.test(document.querySelector('[data-part=status]').textContent)"
    screen.page.wait_for_function(said)
    screen.page.keyboard.down("Alt")
    screen.page.mouse.move(*screen.place(*screen.thing))
    screen.page.mouse.wheel(0, -100)
    screen.page.keyboard.up("Alt")
    screen.until(f"app.selected === {first}")
    screen.page.locator("[data-part=chips] button").nth(2).click()
    assert screen.app("app.selected") == 2


def test_objects_are_kept_named_refined_hidden_edited_and_deleted(screen, look):
    screen.click(*screen.thing)
    screen.press("c")
    screen.until("app.document.objects.length === 1")
    name = screen.page.locator(".sam-name")
    name.fill("<img src=x onerror=alert(1)>")
    name.press("Enter")
    assert screen.objects()[0]["name"] == "<img src=x onerror=alert(1)>"
    assert screen.page.locator(".sam-objects img").count() == 0
    slider = screen.page.get_by_label("Drop islands of")
    slider.fill("9")
    screen.until("app.document.objects[0].drop_islands === 100000")
    screen.page.get_by_label("Hide <img").click()
    assert screen.objects()[0]["hidden"]
    screen.page.get_by_label("Show <img").click()
    look(screen, "object")
    screen.page.get_by_label("Edit <img").click()
    screen.settled()
    assert len(screen.steps()) == 1
    screen.press("Enter")
    screen.until("app.document.objects.length === 1 && !app.document.editing")
    screen.press("x")
    look(screen, "cutout")
    screen.press("x", "Delete")
    assert screen.objects() == []
    screen.press("Control+z")
    assert len(screen.objects()) == 1


def test_a_click_on_a_kept_object_selects_it_and_segments_what_is_inside(screen):
    screen.click(*screen.thing)
    screen.press("c")
    screen.until("app.document.objects.length === 1")
    screen.press("Escape")
    screen.until("app.document.selected === null")
    screen.click(*screen.thing)
    assert screen.app("app.document.selected") == screen.objects()[0]["id"]
    assert len(screen.steps()) == 1


def test_a_phrase_finds_or_says_that_there_is_nothing(screen, look):
    screen.press("4")
    field = screen.page.locator("[data-part=phrase]")
    field.fill("a handbag")
    field.press("Enter")
    screen.until("app.finder.note")
    look(screen, "text")
    assert screen.page.locator("[data-part=finds]").is_visible()
    assert "a handbag" in screen.page.locator("[data-part=finds]").text_content()
    field.press("1")  # typing is no shortcut
    assert screen.app("app.tool") == "text"


def test_everything_is_found_kept_and_can_be_cancelled(screen, look):
    screen.press("5")
    screen.page.click("[data-part=start-everything]")
    screen.page.locator("[data-action=cancel]").click()
    screen.until("!app.finder.progress")
    assert screen.app("app.finder.shown.length") == 0
    screen.page.click("[data-part=settings] summary")
    screen.page.locator("[data-option=points_per_side]").fill("16")
    screen.page.locator("[data-option=pred_iou_thresh]").fill("0.6")
    screen.page.locator("[data-option=stability_score_thresh]").fill("0.6")
    screen.page.click("[data-part=start-everything]")
    screen.until("app.finder.shown.length > 0 && !app.finder.progress")
    look(screen, "everything")
    found = screen.app("app.finder.shown.length")
    inside = screen.app(
        """(() => {
            const { rle } = app.finder.shown[0];
            const [left, top, width, height] = app.drawing(rle).box;
            for (let y = top; y < top + height; y++)
                for (let x = left; x < left + width; x++)
                    if (app.finder.at([x + 0.5, y + 0.5])?.rle === rle) return [x, y];
        })()"""
    )
    screen.page.mouse.click(*screen.place(inside[0] + 0.5, inside[1] + 0.5))
    screen.until("app.document.objects.length === 1")
    assert screen.app("app.finder.shown.length") == found - 1
    if found > 1:
        screen.page.get_by_text("Keep all", exact=True).click()
    assert len(screen.objects()) == found


def test_everything_tells_names_and_how_likely_they_are(screen, look):
    names = ["a handbag", "corn"]
    screen.press("5")
    screen.page.fill("[data-part=names]", ", ".join(names))
    screen.page.click("[data-part=settings] summary")
    screen.page.locator("[data-option=points_per_side]").fill("12")
    for threshold in ("pred_iou_thresh", "stability_score_thresh"):
        screen.page.locator(f"[data-option={threshold}]").fill("0.5")
    screen.page.click("[data-part=start-everything]")
    screen.until("app.finder.shown.length + app.finder.others.length > 0 && !app.finder.progress")
    look(screen, "everything-named")
    shown = screen.app("app.finder.shown.map(({ title, likely }) => [title, likely])")
    others = screen.app("app.finder.others.map(({ title }) => title)")
    assert {title for title, _ in shown} <= set(names) and set(others) <= {"other"}
    assert all(0 <= likely <= 1 for _, likely in shown)
    listed = screen.page.locator("[data-part=finds] li")
    assert [listed.nth(index).text_content() for index in range(listed.count())] == [
        f"{title}{round(100 * likely)} %" for title, likely in shown
    ]
    if others:
        screen.page.get_by_text(f"Show {len(others)} other").click()
        screen.until(f"app.finder.shown.length === {len(shown) + len(others)}")
        listed.nth(len(shown) + len(others) - 1).hover()
        screen.until("app.finder.hovered")
        look(screen, "everything-others")


READERS = {
    "png": lambda content: Image.open(io.BytesIO(content)).load(),
    "index_png": lambda content: Image.open(io.BytesIO(content)).load(),
    "cutout": lambda content: Image.open(io.BytesIO(content)).load(),
    "background": lambda content: Image.open(io.BytesIO(content)).getchannel("A"),
    "zip": lambda content: zipfile.ZipFile(io.BytesIO(content)).testzip(),
    "coco": lambda content: json.loads(content)["annotations"][0]["segmentation"],
    "sa1b": lambda content: json.loads(content)["annotations"][0]["predicted_iou"],
    "yolo": lambda content: content,
    "labelme": lambda content: json.loads(content)["shapes"][0]["points"],
    "svg": lambda content: ElementTree.fromstring(content),
    "geojson": lambda content: json.loads(content)["features"][0]["geometry"],
    "session": lambda content: json.loads(content)["objects"][0]["steps"][0],
    "npy": lambda content: np.load(io.BytesIO(content)),
    "safetensors": lambda content: __import__("safetensors.numpy").numpy.load(content),
}


def test_what_is_exported_can_be_read(screen, look):
    screen.click(*screen.thing)
    screen.press("c")
    screen.until("app.document.objects.length === 1")
    screen.page.click("[data-part=exports] summary")
    look(screen, "exports")
    for form, read in READERS.items():
        read(screen.download(f"[data-export={form}]"))


def test_a_session_is_opened_again(screen):
    screen.click(*screen.thing)
    screen.press("c")
    screen.until("app.document.objects.length === 1")
    screen.page.click("[data-part=exports] summary")
    session = screen.download("[data-export=session]")
    screen.press("Delete")
    screen.page.set_input_files(
        "[data-part=session-file]", {"name": "s.json", "mimeType": "application/json", "buffer": session}
    )
    screen.until("app.document.objects.length === 1")
    screen.page.set_input_files(
        "[data-part=session-file]", {"name": "s.json", "mimeType": "application/json", "buffer": b"{}"}
    )
    screen.page.wait_for_selector("[data-part=message]:visible")
    assert "no session" in screen.page.locator("[data-part=message-text]").text_content()


def test_a_session_of_prompts_alone_is_decoded_by_the_server(screen, overlap):
    from sam_hf.masks import rle

    screen.click(*screen.thing)
    seen = rle.decode(screen.mask())
    screen.press("Escape")
    objects = [{"steps": [{"points": [list(screen.thing)]}], "rle": None} for _ in range(2)]
    session = {"format": "sam_hf.session", "version": 1, "checkpoint": "tiny", "objects": objects}
    session["image"] = {"name": "market.webp", "size": [640, 640], "sha256": None}
    content = json.dumps(session).encode()
    file = {"name": "s.json", "mimeType": "application/json", "buffer": content}
    screen.page.set_input_files("[data-part=session-file]", file)
    screen.until("app.document.objects.length === 2")
    assert overlap(rle.decode(screen.objects()[1]["rle"]), seen) >= 0.99
    assert not screen.page.is_visible("[data-part=message]") and not screen.page.is_visible("[data-part=busy]")


def test_what_is_no_picture_is_refused_with_a_sentence_and_the_picture_stays(screen):
    screen.page.set_input_files(
        "[data-part=file]", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"words"}
    )
    message = screen.page.locator("[data-part=message-text]")
    message.wait_for(state="visible")
    assert message.text_content().startswith("This is no picture.")
    assert screen.app("app.isReady")
    screen.open(b"\x89PNG\r\n\x1a\n broken", "broken.png")
    screen.until("/damaged|no picture|cannot be read/.test(page.part('message-text').textContent)")
    assert "/" not in message.text_content().replace("PNG/", "")


def test_a_newer_picture_wins(screen, disc):
    screen.open(disc(size=(640, 480)), "first.png")
    screen.open(disc(size=(300, 200), x=150, y=100), "second.png")
    screen.until("app.isReady && app.answers.decoder && app.picture.name === 'second.png'")
    assert screen.app("app.answers.picture.frame.size") == [200, 300]
    screen.click(150, 100)
    assert screen.app("app.chosen.share") == pytest.approx(np.pi * 30**2 / 60000, rel=0.25)


def test_without_webassembly_the_server_decodes(enter):
    screen = enter(ready=False, script="delete globalThis.WebAssembly")
    screen.until("app.isReady && page.decodesHere === false")
    assert "server" in screen.page.locator("[data-part=message-text]").text_content()
    screen.click(*screen.thing)
    assert screen.app("app.answer.candidates.length") == 3
    screen.click(320, 350)
    assert screen.app("app.answer.candidates.length") == 1


@pytest.mark.parametrize("widths", [[360], [1440, 768]])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_its_screen_and_can_be_read(enter, look, widths, theme):
    touch = {"has_touch": True, "is_mobile": True} if widths == [360] else {}
    screen = enter(f"?__theme={theme}", viewport={"width": widths[0], "height": 800}, **touch)
    x, y = screen.place(*screen.thing)
    if touch:
        screen.page.touchscreen.tap(x, y)
    else:
        screen.page.mouse.click(x, y)
    screen.until("app.answer")
    for width in widths:
        screen.page.set_viewport_size({"width": width, "height": 800})
        look(screen, f"{theme}-{width}", full_page=True)
        assert screen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        cut = """[...document.querySelectorAll('.sam button, .sam input, .sam select')].filter((one) => {
            const box = one.getBoundingClientRect();
            return box.width && (box.right > innerWidth + 1 || box.left < -1);
        }).map((one) => one.outerHTML.slice(0, 120))"""
        assert screen.page.evaluate(cut) == []
    assert screen.page.evaluate("(theme) => document.body.classList.contains('dark') === (theme === 'dark')", theme)


def test_touch_adds_by_tapping_and_removes_by_holding_or_by_the_switch(enter):
    screen = enter(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    x, y = screen.place(*screen.thing)
    screen.page.touchscreen.tap(x, y)
    screen.until("app.answer")
    screen.page.tap("[data-sign='0']")
    screen.page.touchscreen.tap(*screen.place(100, 500))
    screen.until("app.document.steps.length === 2")
    assert screen.steps()[1]["labels"] == [1, 0]
    finger = screen.page.context.new_cdp_session(screen.page)
    screen.page.tap("[data-sign='1']")
    x, y = screen.place(560, 200)
    finger.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    screen.until("app.document.steps.length === 3")
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert screen.steps()[2]["labels"] == [1, 0, 0]
    assert len(screen.steps()) == 3


def test_isolated_pages_use_threads(screen):
    assert screen.page.evaluate("crossOriginIsolated")
    assert screen.app("page.threads") == min(4, screen.page.evaluate("navigator.hardwareConcurrency"))
