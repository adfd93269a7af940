"""SA-1B folders: what comes out, and what is said about files that cannot be read."""

import json

import numpy as np
import pytest
from PIL import Image

from sam_hf.data.annotated_image import AnnotatedImage
from sam_hf.data.sa1b import Sa1bFolder
from sam_hf.masks import rle


def masks_of(number, size=(64, 80)):
    masks = np.zeros((2, *size), bool)
    masks[0, 5 : 20 + number, 10:40] = True
    masks[1, 40:60, 50 : 60 + number] = True
    return masks


def write_pair(folder, number, phrases=None):
    rng = np.random.default_rng(number)
    picture = rng.integers(0, 255, (64, 80, 3), np.uint8)
    Image.fromarray(picture).save(folder / f"sa_{number}.png")
    annotations = [{"id": k, "segmentation": rle.encode(mask)} for k, mask in enumerate(masks_of(number))]
    if phrases:
        annotations[0]["phrases"] = phrases
    content = {"image": {"image_id": number, "width": 80, "height": 64, "file_name": f"sa_{number}.jpg"}}
    (folder / f"sa_{number}.json").write_text(json.dumps(content | {"annotations": annotations}))
    return picture


def test_pictures_and_masks_come_out_as_they_went_in(tmp_path):
    (tmp_path / "deeper").mkdir()
    pictures = [write_pair(tmp_path, 1), write_pair(tmp_path / "deeper", 0, ["red mug", " "])]
    records = sorted(Sa1bFolder(tmp_path), key=lambda record: record.name, reverse=True)
    assert len(records) == 2 and records[0].phrases == ((), ()) and records[1].phrases == (("red mug",), ())
    for record, picture, number in zip(records, pictures, (1, 0), strict=True):
        assert np.array_equal(record.pixels(), picture)
        for index, mask in enumerate(masks_of(number)):
            assert np.array_equal(record.mask(index), mask) and record.area(index) == mask.sum()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "sa_1.json").write_text("{"), r"sa_1\.json: not a JSON file"),
        (lambda folder: (folder / "sa_1.json").write_text('{"image": {}}'), r"sa_1\.json: .*'height' is missing"),
        (lambda folder: (folder / "sa_1.json").write_text("[1]"), r"sa_1\.json: not in SA-1B's form"),
        (lambda folder: (folder / "sa_1.png").unlink(), r"sa_1\.json: its image is missing: expected sa_1\.jpg"),
    ],
)
def test_a_bad_record_is_named_or_counted(tmp_path, damage, said):
    for number in range(3):
        write_pair(tmp_path, number)
    damage(tmp_path)
    with pytest.raises(ValueError, match=said):
        list(Sa1bFolder(tmp_path))
    reader = Sa1bFolder(tmp_path, on_error="skip")
    assert len(list(reader)) == 2 and reader.skipped == 1


def test_a_picture_or_mask_that_does_not_fit_is_named(tmp_path):
    write_pair(tmp_path, 1)
    (record,) = Sa1bFolder(tmp_path)
    Image.new("RGB", (30, 64)).save(tmp_path / "sa_1.png")
    with pytest.raises(ValueError, match=r"sa_1\.json: annotated for an image of \(64, 80\).*\(64, 30\)"):
        record.pixels()
    (tmp_path / "sa_1.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"sa_1\.json: the image cannot be decoded"):
        record.pixels()
    other = AnnotatedImage("x.json", b"", (10, 10), (rle.encode(np.ones((4, 4))), [[1, 2, 3, 4]], 7))
    for index, said in enumerate(("has size", "at least three corners", "an RLE or a list of polygons")):
        with pytest.raises(ValueError, match=rf"x\.json: mask {index}.*{said}"):
            other.mask(index)


def test_upright_pictures_are_turned_only_where_the_annotations_are(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn
    Image.new("RGB", (20, 10)).save(tmp_path / "a.jpg", exif=exif)
    assert AnnotatedImage("stored", tmp_path / "a.jpg", (10, 20), ()).pixels().shape == (10, 20, 3)
    assert AnnotatedImage("turned", tmp_path / "a.jpg", (20, 10), ()).pixels().shape == (20, 10, 3)


def test_what_is_no_such_folder_is_said(tmp_path):
    with pytest.raises(ValueError, match="holds no annotation files"):
        Sa1bFolder(tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        Sa1bFolder(tmp_path / "absent")
    with pytest.raises(ValueError, match='expected "raise" or "skip"'):
        Sa1bFolder(tmp_path, on_error="ignore")


def test_16_bits_are_scaled_and_giants_refused(tmp_path, monkeypatch):
    Image.fromarray(np.array([[0, 257, 65535]], np.uint16)).save(tmp_path / "deep.png")
    record = AnnotatedImage("deep", tmp_path / "deep.png", (1, 3), ())
    assert record.pixels().tolist() == [[[0] * 3, [1] * 3, [255] * 3]]
    for limit in (2, 1):  # Pillow warns from the limit on, and refuses from twice of it
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ValueError, match="deep: the image is too large"):
            record.pixels()
