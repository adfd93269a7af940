"""The page for people who use a keyboard, a screen reader, large contrast or little motion."""

import re

import pytest

# What is on the screen and takes the focus, in the order of the document.
TAKES_FOCUS = """[...document.querySelectorAll('.sam button, .sam input, .sam select, .sam summary, .sam [tabindex]')]
    .filter((one) => one.type !== 'file' && !one.disabled && one.tabIndex >= 0
        && one.checkVisibility({ visibilityProperty: true }))"""


def said(screen, pattern):
    """Waits until a screen reader has been given words."""
    status = "document.querySelector('[data-part=status]').textContent"
    screen.page.wait_for_function(f"(pattern) => new RegExp(pattern).test({status})", arg=pattern)


def keep_one(screen):
    screen.click(*screen.thing)
    screen.press("c")
    screen.until("app.document.objects.length === 1")


def test_everything_has_a_name_and_a_role(screen):
    keep_one(screen)
    screen.press("5")
    screen.page.click("[data-part=settings] summary")
    screen.page.click("[data-part=exports] summary")
    asked = "button, input:not([type=file]), select, summary, progress, dialog, section, aside, nav, [role=group]"
    nameless = f"""[...document.querySelector('.sam').querySelectorAll('{asked}')].filter((one) => {{
        const isNamedByItsWords = !/^(SECTION|DIALOG|PROGRESS)$/.test(one.tagName) && one.textContent.trim();
        return !one.getAttribute('aria-label')?.trim() && !isNamedByItsWords && !one.matches('.sam-picture');
    }}).map((one) => one.outerHTML.slice(0, 120))"""
    assert screen.page.evaluate(nameless) == []
    pressed = ("[data-action]", "[data-tool]", "[data-export]", "[data-sign]")
    for kind in pressed:
        assert screen.page.locator(f".sam button{kind}").count() == screen.page.locator(f".sam {kind}").count() > 0
    overlay = screen.page.locator("[data-part=overlay]")
    assert (overlay.get_attribute("role"), overlay.get_attribute("tabindex")) == ("application", "0")
    assert overlay.get_attribute("aria-label")
    assert "Arrow keys" in screen.page.locator(f"#{overlay.get_attribute('aria-describedby')}").text_content()
    status = screen.page.locator("[data-part=status]")
    assert (status.get_attribute("role"), status.get_attribute("aria-live")) == ("status", "polite")
    assert screen.page.locator("[data-part=message]").get_attribute("role") == "alert"
    sliders = screen.page.locator(".sam-objects input[type=range]")
    names = [sliders.nth(index).get_attribute("aria-label") for index in range(sliders.count())]
    assert names == [f"{words} of object 1" for words in ("Fill holes", "Drop islands", "Polygon detail")]
    assert sliders.first.get_attribute("aria-valuetext") == "off"
    sliders.first.fill("3")
    screen.until("app.document.objects[0].fill_holes === 100")
    assert sliders.first.get_attribute("aria-valuetext") == "100 px"


def test_what_happens_is_said(screen):
    mask = r"^mask {} of {}, score \d\.\d\d, [\d.]+ % of image"
    screen.click(*screen.thing)
    said(screen, mask.format(r"\d", 3))
    first = screen.app("app.selected")
    screen.press("]")
    said(screen, mask.format((first + 1) % 3 + 1, 3))
    screen.click(320, 350)
    said(screen, mask.format(1, 1))
    screen.press("c")
    said(screen, "^Kept as object 1")
    screen.press("Control+z")
    said(screen, "^Undone|^mask")
    screen.press("ArrowRight", "ArrowRight")
    said(screen, r"^321, 320")


def test_the_keyboard_alone_makes_and_keeps_a_mask(screen):
    for _ in range(40):
        screen.page.keyboard.press("Tab")
        if screen.page.evaluate("document.activeElement.matches('[data-part=overlay]')"):
            break
    else:
        pytest.fail("the picture cannot be reached by Tab")
    screen.page.keyboard.press("ArrowLeft")
    screen.page.keyboard.press("Shift+ArrowLeft")
    screen.page.keyboard.press("ArrowDown")
    assert screen.app("app.crosshair") == [310, 321]
    screen.page.keyboard.press("Enter")
    screen.until("app.answer && !app.isAsking")
    assert screen.steps()[0]["points"] == [[310, 321]]
    for _ in range(3):  # past the last mask Tab goes on: nobody is held in the picture
        screen.page.keyboard.press("Tab")
    assert not screen.page.evaluate("document.activeElement.matches('[data-part=overlay]')")
    screen.page.keyboard.press("Shift+Tab")
    screen.press("c")
    screen.until("app.document.objects.length === 1")
    screen.press("b", "Shift+ArrowRight", "Shift+ArrowRight", "Shift+ArrowDown", "b")
    screen.until("app.answer")
    assert screen.steps()[0]["box"] == [310, 321, 330, 331]


def test_tab_goes_through_all_controls_in_their_order_and_out_again(screen):
    keep_one(screen)
    screen.page.evaluate("document.activeElement.blur()")
    wanted = screen.page.evaluate(f"{TAKES_FOCUS}.map((one) => one.outerHTML.slice(0, 100))")
    assert len(wanted) > 25
    screen.page.locator(".sam-rail button").first.focus()
    passed = []
    for _ in range(len(wanted) + 3):
        where = "document.activeElement.closest('.sam') ? document.activeElement.outerHTML.slice(0, 100) : null"
        passed.append(screen.page.evaluate(where))
        if passed[-1] is None:
            break
        screen.page.keyboard.press("Tab")
    assert passed[-1] is None  # nobody is held
    assert passed[:-1] == wanted


def test_what_has_the_focus_is_seen(screen):
    keep_one(screen)
    screen.page.locator(".sam-rail button").first.focus()
    unseen = """(() => {
        const one = document.activeElement;
        if (!one.matches(':focus-visible')) return 'not by the keyboard: ' + one.outerHTML.slice(0, 100);
        if (one.matches('[data-part=overlay]')) {
            const ring = getComputedStyle(one.parentElement, '::after');
            return ring.display !== 'none' && parseFloat(ring.borderTopWidth) >= 2 ? null : 'picture';
        }
        const { outlineStyle, outlineWidth, borderTopColor } = getComputedStyle(one);
        const accent = getComputedStyle(one.closest('.sam')).getPropertyValue('--accent').trim();
        const probe = document.createElement('i');
        probe.style.color = accent;
        document.body.append(probe);
        const color = getComputedStyle(probe).color;
        probe.remove();
        const isRinged = outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2;
        return isRinged || borderTopColor === color ? null : one.outerHTML.slice(0, 100);
    })()"""
    screen.page.keyboard.press("Tab")
    for _ in range(60):
        if not screen.page.evaluate("Boolean(document.activeElement.closest('.sam'))"):
            break
        assert screen.page.evaluate(unseen) is None
        screen.page.keyboard.press("Tab")
    else:
        pytest.fail("Tab does not leave the page's part")


def test_dialogs_hold_the_focus_while_they_are_open_and_give_it_back(screen):
    screen.press("?")
    help_sheet = screen.page.locator("dialog[data-part=help]")
    assert help_sheet.is_visible()
    assert screen.page.evaluate("Boolean(document.activeElement.closest('dialog'))")
    screen.page.keyboard.press("Escape")
    assert not help_sheet.is_visible()
    assert screen.page.evaluate("document.activeElement.matches('[data-part=overlay]')")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_words_stand_out_from_their_ground(enter, theme):
    screen = enter(f"?__theme={theme}")
    keep_one(screen)
    screen.click(100, 480)
    screen.page.click("[data-part=exports] summary")
    pairs = screen.page.evaluate(GROUNDS)
    assert len(pairs) > 25
    weak = {(words, front, back) for words, front, back in pairs if contrast(front, back) < 4.5}
    assert not weak
    colors = """(() => {
        const style = getComputedStyle(document.querySelector('.sam'));
        const names = ['ground', 'text', 'quiet', 'accent', 'accent-strong', 'on-accent', 'bad', 'bad-soft', 'sunken',
            'raised', 'accent-soft'];
        return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
    })()"""
    named = {name: channels(color) for name, color in screen.page.evaluate(colors).items()}
    fronts = {
        "text": ("ground", "raised", "sunken", "accent-soft"),
        "quiet": ("ground", "raised", "sunken", "accent-soft"),
    }
    fronts |= {"on-accent": ("accent", "accent-strong"), "bad": ("bad-soft",)}
    for front, backs in fronts.items():
        for back in backs:
            assert contrast(named[front], named[back]) >= 4.5, (front, back)
    assert contrast(named["accent"], named["ground"]) >= 3  # rings, and what is chosen


# Words on the screen with their colour and the first ground behind them that is not transparent.
GROUNDS = """(() => {
    const parts = (color) => color.match(/[\\d.]+/g).map(Number);
    const found = [];
    for (const one of document.querySelectorAll('.sam *')) {
        const texts = [...one.childNodes].filter((node) => node.nodeType === 3);
        const words = texts.map((node) => node.data.trim()).join('');
        const isOff = one.closest(':disabled, .sam-unseen, svg, dialog, option');
        if (!words || isOff || !one.checkVisibility({ visibilityProperty: true })) continue;
        let ground = one;
        const isClear = (node) => (parts(getComputedStyle(node).backgroundColor)[3] ?? 1) === 0;
        while (ground && isClear(ground)) ground = ground.parentElement;
        const [back, front] = [ground ?? document.body, one].map((node, index) =>
            parts(getComputedStyle(node)[index ? 'color' : 'backgroundColor']).slice(0, 3));
        found.push([words.slice(0, 30), front, back]);
    }
    return found;
})()"""


def channels(color):
    """#fff or #14161b as red, green and blue, 0 to 255."""
    digits = color.lstrip("#")
    digits = "".join(2 * one for one in digits) if len(digits) == 3 else digits
    assert re.fullmatch("[0-9a-f]{6}", digits), color
    return [int(digits[place : place + 2], 16) for place in (0, 2, 4)]


def contrast(front, back):
    """WCAG's contrast of two colours, red, green and blue of 0 to 255."""

    def light(color):
        parts = [part / 255 for part in color]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(front), light(back)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_whoever_wants_little_motion_gets_little(enter):
    screen = enter(reduced_motion="reduce")
    motion = """[...document.querySelectorAll('.sam, .sam *')].flatMap((one) => [null, '::after'].map((part) => {
        const { animationName, animationDuration, transitionDuration } = getComputedStyle(one, part);
        const seconds = (text) => Math.max(...text.split(',').map(parseFloat));
        const moves = (animationName !== 'none' && seconds(animationDuration) < 2) || seconds(transitionDuration) > 0;
        return moves ? one.outerHTML.slice(0, 100) : null;
    })).filter(Boolean)"""
    screen.page.evaluate("document.querySelector('[data-part=busy]').hidden = false")
    assert screen.page.evaluate(motion) == []


def test_the_view_follows_the_crosshair(screen):
    screen.press("Enter", "+", "+", "+", "+", "+", "+")
    for _ in range(3):
        screen.press(*["Shift+ArrowRight"] * 12)
        x, y = screen.app("page.stage.onStage(app.crosshair)")
        room = screen.app("page.stage.room")
        assert 0 < x < room["width"] and 0 < y < room["height"]
    assert screen.app("app.crosshair[0]") > 400


def test_found_masks_can_be_kept_by_the_keyboard(screen):
    found = """(() => {
        const labels = ["a cup", "other"];
        const records = argument.map((rle, index) => (
            { rle, score: 0.9, label: labels[index], likely: 0.93 - index / 2, isOther: index === 1 }));
        app.finder.show(records, "1 mask found");
        app.changed();
    })()"""
    import numpy as np

    from sam_hf.masks import rle

    masks = np.zeros((2, 640, 640), dtype=bool)
    masks[0, 100:200, 100:200] = masks[1, 300:340, 20:60] = True
    screen.app(found, [rle.encode(mask) for mask in masks])
    listed = screen.page.get_by_role("list", name="Found masks").get_by_role("button")
    listed.first.wait_for()
    assert [listed.nth(index).get_attribute("aria-label") for index in range(listed.count())] == [
        "Keep a cup, 93 % likely"
    ]
    screen.page.get_by_text("Show 1 other", exact=True).click()
    screen.page.get_by_label("Keep other, 43 % likely").focus()
    screen.until("app.finder.hovered?.title === 'other'")
    screen.page.keyboard.press("Enter")
    screen.until("app.document.objects.length === 1")
    screen.settled()
    assert screen.page.evaluate("document.activeElement.getAttribute('aria-label')") == "Keep a cup, 93 % likely"
