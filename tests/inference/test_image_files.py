"""Image files: every way of drawing a mask, orientation, and what is refused before it is decoded."""

import numpy as np
import pytest
from PIL import Image

from sam_hf.inference import image_files

INSIDE = np.zeros((6, 8), dtype=bool)
INSIDE[1:4, 2:7] = True


def _cut_out() -> Image.Image:
    return Image.fromarray(np.dstack([np.full((6, 8, 3), 40, np.uint8), INSIDE * np.uint8(255)]))


def _palette() -> Image.Image:
    image = Image.fromarray(INSIDE.astype(np.uint8), mode="L").convert("P")
    image.putpalette([0, 0, 0, 250, 250, 250])
    return image


DRAWN = {
    "grey": lambda: Image.fromarray(INSIDE * np.uint8(255)),
    "zero and one": lambda: Image.fromarray(INSIDE * np.uint8(1)),
    "one bit": lambda: Image.fromarray(INSIDE),
    "16 bit": lambda: Image.fromarray(INSIDE * np.uint16(60_000)),
    "colour": lambda: Image.fromarray(np.dstack([INSIDE * np.uint8(0), INSIDE * np.uint8(200), INSIDE * np.uint8(0)])),
    "opaque colour": lambda: Image.fromarray(INSIDE * np.uint8(255)).convert("RGBA"),
    "cut-out": _cut_out,
    "palette": _palette,
}


@pytest.mark.parametrize("drawn", DRAWN)
def test_masks_drawn_in_any_way(tmp_path, drawn):
    DRAWN[drawn]().save(tmp_path / "mask.png")
    np.testing.assert_array_equal(image_files.open_mask(tmp_path / "mask.png"), INSIDE)


def test_grey_edges_are_cut_in_the_middle(tmp_path):
    Image.fromarray(np.array([[0, 100, 127, 128, 255]], dtype=np.uint8)).save(tmp_path / "mask.png")
    assert image_files.open_mask(tmp_path / "mask.png").tolist() == [[False, False, False, True, True]]


def test_deep_images_keep_their_depth(tmp_path):
    ramp = np.linspace(0, 65535, 48).astype(np.uint16).reshape(6, 8)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(np.asarray(image_files.open_image(tmp_path / "deep.png")), ramp)


def test_the_bound_on_pixels_is_exact(tmp_path, monkeypatch):
    Image.new("L", (8, 6)).save(tmp_path / "image.png")
    monkeypatch.setattr(image_files, "MAX_PIXELS", 48)
    assert image_files.open_image(tmp_path / "image.png").size == (8, 6)
    monkeypatch.setattr(image_files, "MAX_PIXELS", 47)
    with pytest.raises(ValueError, match="megapixels"):
        image_files.open_image(tmp_path / "image.png")


@pytest.mark.parametrize("format", ["PPM", "TGA", "ICO"])
def test_formats_off_the_list_are_refused_whatever_they_are_called(tmp_path, format):
    Image.new("RGB", (8, 6)).save(tmp_path / "image.png", format=format)
    with pytest.raises(ValueError, match="not an image of a known format"):
        image_files.open_image(tmp_path / "image.png")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("format", image_files.FORMATS)
def test_damage_is_a_sentence_in_every_format(tmp_path, format):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image", format=format)
    content = (tmp_path / "image").read_bytes()
    generator = np.random.default_rng(1)
    for _ in range(40):
        damaged = bytearray(content[: int(generator.integers(1, len(content)))])
        for place in generator.integers(0, len(damaged), 8):
            damaged[place] = int(generator.integers(0, 256))
        (tmp_path / "image").write_bytes(bytes(damaged))
        try:
            image_files.open_image(tmp_path / "image")
        except ValueError as error:
            assert "0x" not in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("address", ["http://10.0.0.1/a.png", "HTTPS://x/y", "file:///etc/passwd", "data:image/png,"])
def test_addresses_are_refused(address):
    with pytest.raises(ValueError, match="is an address"):
        image_files.find_images([address])


def test_bad_names_are_told_beside_the_good_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("L", (8, 6)).save("b.png")
    files, problems = image_files.find_images(["nowhere.png", "b.png", "data:image/png,", "./b.png"])
    assert [str(file) for file in files] == ["b.png"]
    assert len(problems) == 2 and "'nowhere.png' does not exist" in problems[0] and "is an address" in problems[1]
    with pytest.raises(ValueError, match="at least one image"):
        image_files.find_images([])
