"""The page keeps what a person has made: through bad files, a decoder that is missing or lost, and while they type."""


def keep(screen, x, y, count=1):
    screen.click(x, y)
    screen.press("c")
    screen.until(f"app.document.objects.length === {count}")


def test_the_open_picture_and_its_objects_stay_until_the_new_one_is_good(screen, disc):
    keep(screen, *screen.thing)
    screen.click(100, 480)
    before = [screen.app("app.answers.id"), screen.objects()[0]["id"], screen.steps()]
    for content, name, words in ((b"", "empty.png", "empty"), (b"\x89PNG\r\n\x1a\n broken", "broken.png", "")):
        screen.open(content, name)
        screen.page.locator("[data-part=message]").wait_for(state="visible")
        screen.until("page.part('busy').hidden")
        assert words in screen.page.locator("[data-part=message-text]").text_content()
        assert [screen.app("app.answers.id"), screen.objects()[0]["id"], screen.steps()] == before
        assert screen.app("page.stage.bitmap.width") == 640 and not screen.page.is_visible("[data-part=empty]")
        screen.page.click("[data-action=dismiss]")
    screen.click(120, 470)  # it goes on
    assert len(screen.steps()) == 2
    screen.open(disc(size=(320, 200), x=160, y=100), "good.png")
    screen.until("app.isReady && app.answers.decoder && app.picture.name === 'good.png'")
    assert screen.objects() == [] and screen.app("page.stage.bitmap.width") == 320


def test_a_picture_that_was_dropped_by_mistake_takes_nothing_away(screen, disc):
    keep(screen, *screen.thing)
    (kept,) = screen.objects()
    screen.open(disc(size=(320, 200), x=160, y=100), "mistake.png")
    screen.until("app.isReady && app.picture.name === 'mistake.png' && !page.part('message').hidden")
    message = screen.page.locator("[data-part=message]")
    assert "1 object of " in message.text_content() and "had not been saved" in message.text_content()
    button = message.get_by_role("button", name="Bring back")
    button.click()
    screen.until("app.isReady && app.picture.size[0] === 640 && app.document.objects.length === 1")
    assert screen.objects() == [kept] and not message.is_visible()


def test_a_decoder_that_is_lost_is_replaced_and_clicks_go_on(screen):
    screen.click(*screen.thing)
    screen.app("void (page.first = app.answers.decoder)")
    screen.app("void page.first.worker.onerror({ message: 'RuntimeError: memory access out of bounds' })")
    screen.click(100, 100, button="right")  # by whoever can
    assert screen.app("app.answer.candidates.length") == 1
    screen.until("app.answers.decoder && app.answers.decoder !== page.first && !app.isAsking")
    screen.page.mouse.move(*screen.place(300, 300))
    screen.until("app.glanced")
    assert not screen.page.is_visible("[data-part=message]")


def test_what_is_typed_stays_whatever_arrives_meanwhile(screen):
    keep(screen, *screen.thing)
    keep(screen, 100, 480, count=2)
    name = screen.page.locator(".sam-name").first
    name.click()  # selects the object, which makes nothing of the row anew
    screen.page.keyboard.press("End")
    screen.page.keyboard.type(" of my")
    first = screen.objects()[0]["id"]
    # as the server's mask does
    screen.app("void app.update(argument, { rle: { ...app.document.objects[0].rle } })", first)
    screen.app("void app.keepFound([{ rle: app.document.objects[1].rle, score: 1 }])")
    screen.until("document.querySelectorAll('.sam-name').length === 3")
    screen.page.keyboard.type(" own")
    assert name.input_value() == "object 1 of my own"
    name.press("Enter")
    assert screen.objects()[0]["name"] == "object 1 of my own"
    screen.page.get_by_label("Delete object 1 of my own").wait_for()
    screen.page.get_by_label("Delete object 1 of my own").focus()
    screen.page.keyboard.press("Enter")
    screen.until("app.document.objects.length === 2")
    screen.settled()
    label = "document.activeElement.getAttribute('aria-label')"
    assert screen.page.evaluate(label) == "Delete object 2"  # the neighbour has the focus


def test_the_mouse_takes_over_from_the_crosshair_and_the_focus_is_never_lost(screen):
    focused = "document.activeElement.dataset.part ?? document.activeElement.tagName"
    screen.press("ArrowRight")
    assert screen.app("app.crosshair") is not None
    screen.click(*screen.thing)
    assert screen.app("app.crosshair") is None
    screen.press("Enter")  # keeps
    screen.until("app.document.objects.length === 1")
    screen.page.mouse.move(*screen.place(screen.thing[0] + 4, screen.thing[1] + 4))
    screen.until("app.glanced")  # also where an object is kept
    screen.click(100, 480)
    screen.page.focus("[data-action=keep]")
    screen.page.keyboard.press("Enter")
    screen.until("app.document.objects.length === 2")
    screen.settled()
    assert screen.page.evaluate(focused) == "overlay"
    screen.click(100, 480)
    screen.page.locator("[data-part=prompts] button").focus()
    screen.page.keyboard.press("Enter")
    screen.settled()
    assert screen.steps() == [] and screen.page.evaluate(focused) == "overlay"
    screen.press("4")
    screen.page.wait_for_function(f"({focused}) === 'phrase'")


def test_hundreds_of_found_masks_are_drawn_once_while_the_mouse_moves(screen):
    import numpy as np

    from sam_hf.masks import rle

    masks = []
    for index in range(300):
        mask = np.zeros((640, 640), dtype=bool)
        y, x = 30 * (index // 20), 30 * (index % 20)
        mask[y + 4 : y + 26, x + 4 : x + 26] = True
        masks.append({**rle.encode(mask)})
    screen.app("void app.finder.show(argument.map((rle) => ({ rle, score: 1 })), '300 masks found')", masks)
    screen.until("page.stage.still && !page.isStale")
    screen.app("void (page.before = page.stage.still)")
    for index in (3, 90, 290):
        screen.page.mouse.move(*screen.place(30 * (index % 20) + 15, 30 * (index // 20) + 15))
        screen.until(f"app.finder.hovered?.rle.counts === '{masks[index]['counts']}' && !page.isStale")
    assert screen.app("page.stage.still === page.before")
    screen.click(15, 15)
    screen.until("app.document.objects.length === 1 && page.stage.still !== page.before")


def test_the_polygon_slider_shows_its_polygon_and_how_many_corners_it_has(screen, look):
    keep(screen, *screen.thing)
    screen.app("app.keeper.confirming")  # the server's mask has taken the place of the page's
    slider = screen.page.get_by_label("Polygon detail of")
    corners = []
    for place, words in (("9", "90 %"), ("2", "20 %")):
        slider.fill(place)
        told = "document.querySelector('.sam-sliders label:last-child output').textContent"
        screen.until(f"page.stage.scene.polygon && /^{words}, [0-9]+$/.test({told})")
        corners.append(screen.app("page.stage.scene.polygon.corners"))
    look(screen, "polygon")
    assert corners[0] > corners[1] >= 3
    assert slider.get_attribute("aria-valuetext") == f"20 %, {corners[1]} corners"


def test_writing_a_file_can_be_cancelled_and_a_page_that_nobody_listens_to_copies_no_session(screen):
    keep(screen, *screen.thing)
    screen.page.route("**/gradio_api/queue/data*", lambda route: None)  # the answer never comes
    screen.app("void (page.server.client = null)")
    screen.page.click("[data-part=exports] summary")
    screen.page.click("[data-export=coco]")
    screen.until("page.part('busy-text').textContent === 'Writing file'")
    screen.page.click("[data-action=cancel]")
    screen.until("page.part('busy').hidden && !page.files.writing")
    assert not screen.page.is_visible("[data-part=message]")
    assert screen.app("page.sent") is None and not screen.app("page.isHeard")
