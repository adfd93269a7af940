"""Pictures from strangers become upright RGB, or one sentence."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="needs the extra `app`")


def read(content, name="a.png"):
    from sam_hf.ui.reading import read_picture

    return read_picture(content, name)


def save(image, form="PNG", **how):
    file = io.BytesIO()
    image.save(file, form, **how)
    return file.getvalue()


def gradient(height=20, width=30):
    return np.linspace(0, 255, height * width * 3).reshape(height, width, 3).astype(np.uint8)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP"])
def test_lossless_formats_keep_every_pixel(form):
    file, _ = read(save(Image.fromarray(gradient()), form))
    assert np.array_equal(file.rgb(), gradient()) and file.size == (20, 30)


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "GIF"])
def test_other_formats_are_read(form):
    image = Image.new("RGB", (30, 20), (200, 30, 40))
    assert np.abs(read(save(image, form))[0].rgb().astype(int) - [200, 30, 40]).max() < 8


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 8), color) for color in ((250, 0, 0), (0, 250, 0))]
    content = save(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read(content)[0].rgb()[0, 0].tolist() == [250, 0, 0]


def test_pictures_are_turned_upright():
    pixels = gradient(20, 30)
    exif = Image.Exif()
    exif[0x0112] = 6
    file, _ = read(save(Image.fromarray(pixels), "PNG", exif=exif))
    assert file.size == (30, 20) and np.array_equal(file.rgb(), np.rot90(pixels, 3))


def test_transparency_lies_on_white():
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:2] = (255, 0, 0, 255)
    rgba[2:] = (0, 255, 0, 0)
    shown = read(save(Image.fromarray(rgba)))[0].rgb()
    assert shown[0, 0].tolist() == [255, 0, 0] and shown[3, 3].tolist() == [255, 255, 255]


def test_sixteen_bits_keep_their_levels():
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    file, picture = read(save(Image.fromarray(ramp)))
    assert len(np.unique(np.asarray(picture))) > 1000  # for the encoder
    assert len(np.unique(file.rgb())) > 200  # for the eye


def test_a_dark_sixteen_bit_picture_stays_dark():
    dark = np.full((8, 8), 200, np.uint16)
    assert read(save(Image.fromarray(dark)))[0].rgb().max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_mode_is_read(mode):
    image = Image.new("L", (6, 5), 90)
    image = Image.fromarray(np.full((5, 6), 90, np.uint16)) if mode == "I;16" else image.convert(mode)
    assert read(save(image, "TIFF"))[0].rgb().shape == (5, 6, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)])
def test_odd_sizes(size):
    assert read(save(Image.new("RGB", size)))[0].size == size[::-1]


def bomb(side):
    """A PNG of side * side pixels in a few kilobytes."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * ((side + 7) // 8 + 1) * 100, 9)
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))  # noqa: E731
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


PNG = save(Image.fromarray(gradient(200, 300)))
JPEG = save(Image.fromarray(gradient(200, 300)), "JPEG")
BAD = {
    "empty": (b"", "the file is empty"),
    "text": (b"hello, I am no picture\n" * 10, "no picture of a known format"),
    "svg": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
    "svg with a remark": (b"<!-- made by hand -->\n<svg/>", "an SVG drawing"),
    "html": (b"<html><script>alert(1)</script></html>", "no picture of a known format"),
    "pdf": (b"%PDF-1.7 ...", "a PDF document"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1", "a HEIC picture"),
    "truncated png": (PNG[: len(PNG) // 2], "damaged or cut short"),
    "truncated jpeg": (JPEG[: len(JPEG) // 2], "damaged or cut short"),
    "header alone": (PNG[:40], "damaged or cut short|no picture"),
    "broken bytes": (PNG[:60] + bytes(60) + PNG[120:], "damaged or cut short"),
    "zeros": (bytes(1000), "no picture of a known format"),
    "51 megapixels": (bomb(7200), "more than 50 megapixels"),
    "400 megapixels": (bomb(20000), "more than 50 megapixels"),
    "too many bytes": (PNG + bytes(21 * 2**20), "more than the 20 MB"),
    "nan": (save(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"), "NaN"),
    "ico": (save(Image.new("RGB", (16, 16)), "ICO"), "no picture of a known format"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_gets_a_sentence(name):
    content, expected = BAD[name]
    with pytest.raises(ValueError, match=expected) as caught:
        read(content, "x.png")
    said = str(caught.value)
    assert len(said) < 200 and "\n" not in said
    assert not re.search(r"0x[0-9a-f]{4}|/\w+/|<_io|PIL|object at", said)


@pytest.mark.parametrize(
    "name, clean",
    [
        ("holiday.png", "holiday.png"),
        ("/etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("a\nb\x00c.png", "abc.png"),
        ("<img src=x onerror=alert(1)>.png", "<img src=x onerror=alert(1)>.png"),  # text, wherever it is shown
        ("\ud800.png", ".png"),
        ("x" * 400, "x" * 255),
        (None, ""),
        (7, ""),
    ],
)
def test_names_are_one_line_without_folders(name, clean):
    from sam_hf.ui.reading import clean_name

    assert clean_name(name) == clean


def test_only_uploads_are_read(tmp_path):
    from sam_hf.ui.reading import read_upload

    uploads = tmp_path / "uploads"
    uploads.mkdir()
    (uploads / "mine.png").write_bytes(b"mine")
    secret = tmp_path / "secret.txt"
    secret.write_bytes(b"secret")
    (uploads / "link.png").symlink_to(secret)
    assert read_upload(str(uploads / "mine.png"), [uploads]) == b"mine"
    for path in (secret, uploads / "link.png", uploads / ".." / "secret.txt", uploads, uploads / "gone.png"):
        with pytest.raises(ValueError, match="not uploaded here|expired") as caught:
            read_upload(str(path), [uploads])
        assert str(tmp_path) not in str(caught.value)
    for path in ("", None, 5, "a\0b", "http://127.0.0.1/a.png"):
        with pytest.raises(ValueError, match="image"):
            read_upload(path, [uploads])
