"""Pictures that come into the page in every way a browser knows, of every shape, on every kind of screen."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

# A paste or a drop as a browser makes it: files in a DataTransfer.
CARRIED = """([kind, where, name, mime, content]) => {
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    const carried = new DataTransfer();
    carried.items.add(new File([bytes], name, { type: mime }));
    const target = document.querySelector(where);
    const fire = (type) => target.dispatchEvent(
        type === "paste"
            ? new ClipboardEvent("paste", { clipboardData: carried, bubbles: true, cancelable: true })
            : new DragEvent(type, { dataTransfer: carried, bubbles: true, cancelable: true }));
    if (kind === "paste") return fire("paste");
    fire("dragenter");
    if (kind === "drag") return true;
    if (fire("dragover")) throw new Error("the browser would open the file by itself");
    return fire("drop");
}"""
PHONE = {"viewport": {"width": 390, "height": 800}, "has_touch": True, "is_mobile": True}


def carry(screen, kind, content, name="picture.png", mime="image/png", where="[data-part=overlay]"):
    given = [kind, where, name, mime, base64.b64encode(content).decode()]
    return screen.page.evaluate(CARRIED, given)


def assert_agrees(screen, call, overlap, least=0.99):
    """The mask of this browser is the server's."""
    from sam_hf.masks import rle

    image = {"picture": screen.app("app.answers.id")}
    there = call("segment", image=image, checkpoint="tiny", steps=screen.steps())
    chosen = there["masks"][there["selected"]]
    assert overlap(rle.decode(screen.mask()), rle.decode(chosen["rle"])) >= least
    return rle.decode(chosen["rle"])


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_a_picture_is_pasted_or_dropped(screen, disc, kind):
    where = "body" if kind == "paste" else "[data-part=overlay]"
    carry(screen, kind, disc(size=(320, 200), x=160, y=100), f"{kind}.png", where=where)
    screen.until(f"app.isReady && app.answers.decoder && app.picture.name === '{kind}.png'")
    assert screen.app("app.answers.picture.frame.size") == [200, 320]
    screen.click(160, 100)
    assert screen.app("app.chosen.share") == pytest.approx(np.pi * 30**2 / 64000, rel=0.25)


def test_what_is_dragged_over_is_told_where_it_falls(screen, disc):
    carry(screen, "drag", disc())
    assert screen.page.locator("[data-part=drop]").is_visible()
    carry(screen, "drop", b"words", "notes.txt", "text/plain")
    assert not screen.page.locator("[data-part=drop]").is_visible()
    assert screen.page.locator("[data-part=message-text]").text_content().startswith("This is no picture.")
    assert screen.app("app.isReady") and screen.app("app.picture.size") == [640, 640]


def test_words_are_pasted_into_the_phrase_and_nowhere_else(screen, disc):
    screen.press("4")
    carry(screen, "paste", disc(), where="[data-part=phrase]")
    assert screen.app("app.picture.size") == [640, 640]


def test_a_picture_is_taken_with_the_camera(screen):
    screen.page.click("[data-action=camera] >> visible=true")
    dialog = screen.page.locator("dialog[data-part=camera]")
    dialog.wait_for(state="visible")
    screen.page.wait_for_function("document.querySelector('dialog video')?.videoWidth > 0")
    dialog.get_by_text("Take picture").click()
    screen.until("app.isReady && app.answers.decoder && app.picture.name === 'camera.jpg'")
    assert not dialog.is_visible()
    tracks = "document.querySelector('dialog video').srcObject.getTracks().map((track) => track.readyState)"
    assert screen.page.evaluate(tracks) == ["ended"]


def test_a_camera_that_is_closed_changes_nothing(screen):
    screen.page.click("[data-action=camera] >> visible=true")
    dialog = screen.page.locator("dialog[data-part=camera]")
    dialog.wait_for(state="visible")
    screen.page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    assert screen.app("app.isReady") and screen.app("app.picture.size") == [640, 640]


@pytest.mark.parametrize("size", [(2600, 1500), (1200, 400), (120, 360)])
def test_masks_agree_with_the_server_whatever_the_pictures_shape(enter, call, overlap, disc, size):
    screen = enter()
    width, height = size
    x, y, radius = round(0.6 * width), round(0.4 * height), round(0.22 * min(size))
    screen.open(disc(x, y, radius, size=size, form="JPEG", quality=92), "shape.jpg", "image/jpeg")
    screen.until("app.isReady && app.answers.decoder && app.picture.name === 'shape.jpg'")
    assert screen.app("Math.max(page.stage.bitmap.width, page.stage.bitmap.height)") <= 2048
    screen.click(x, y)
    mask = assert_agrees(screen, call, overlap)
    assert mask.shape == (height, width)
    grid_y, grid_x = np.mgrid[:height, :width]
    assert overlap(mask, np.hypot(grid_x - x, grid_y - y) <= radius) > 0.8
    screen.click(x + radius / 3, y)
    assert_agrees(screen, call, overlap)


def test_a_dense_screen_is_drawn_on_in_its_own_pixels(enter, look):
    screen = enter(device_scale_factor=2)
    look(screen, "dense")
    sizes = screen.app("[page.stage.overlay.width, page.stage.overlay.clientWidth, page.stage.density]")
    assert sizes[0] == 2 * sizes[1] and sizes[2] == 2
    screen.click(*screen.thing)
    assert screen.steps()[0]["points"][0] == pytest.approx(screen.thing, abs=1)
    # the marker is where the mouse was, in the canvas' own pixels
    place = screen.app("page.stage.onStage(argument)", list(screen.thing))
    code = """(() => {
        const pen = page.stage.overlay.getContext("2d");
        return [...pen.getImageData(2 * argument[0] - 7, 2 * argument[1] + 6, 1, 1).data];
    })()"""
    screen.settled()
    red, green, blue, alpha = screen.app(code, place)
    assert blue > 150 and red < 60 and alpha == 255  # Okabe and Ito's blue


def test_two_fingers_zoom_and_move_the_picture_and_leave_no_prompt(enter):
    screen = enter(**PHONE)
    fingers = screen.page.context.new_cdp_session(screen.page)
    x, y = screen.place(*screen.thing)

    def touch(kind, *places):
        points = [{"x": left, "y": top, "id": index} for index, (left, top) in enumerate(places)]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    before = screen.app("page.stage.view.scale")
    touch("touchStart", (x - 20, y))
    touch("touchStart", (x - 20, y), (x + 20, y))
    for step in range(1, 6):
        touch("touchMove", (x - 20 - 8 * step, y), (x + 20 + 8 * step, y))
    touch("touchEnd")
    assert screen.app("page.stage.view.scale") == pytest.approx(3 * before, rel=0.25)
    assert screen.place(*screen.thing) == pytest.approx((x, y), abs=6)  # what is between the fingers stays there
    assert screen.page.evaluate("visualViewport.scale") == 1  # the page itself is not zoomed
    touch("touchStart", (x, y))
    touch("touchStart", (x, y), (x + 40, y))
    touch("touchMove", (x + 10, y + 30), (x + 50, y + 30))
    touch("touchMove", (x + 20, y + 60), (x + 60, y + 60))
    touch("touchEnd")
    moved = screen.place(*screen.thing)
    assert moved[1] - y > 15 and moved[0] - x > 2
    screen.settled()
    assert screen.steps() == []
    touch("touchStart", (x, y))
    touch("touchEnd")
    screen.until("app.document.steps.length === 1")  # one finger points again


def test_transparency_is_white_as_the_model_sees_it(screen):
    picture = Image.new("RGBA", (200, 100), (0, 0, 0, 0))
    picture.paste((20, 20, 20, 255), (0, 0, 60, 100))
    file = io.BytesIO()
    picture.save(file, "PNG")
    screen.open(file.getvalue(), "logo.png")
    screen.until("app.isReady && app.picture.name === 'logo.png'")
    pixel = """(() => {
        const { pictureCanvas } = page.stage;
        const [x, y] = page.stage.onStage(argument);
        const many = pictureCanvas.width / pictureCanvas.getBoundingClientRect().width;
        return [...pictureCanvas.getContext("2d").getImageData(Math.round(x * many), Math.round(y * many), 1, 1).data];
    })()"""
    assert screen.app(pixel, [150, 50]) == [255, 255, 255, 255]
    assert screen.app(pixel, [30, 50]) == [20, 20, 20, 255]
