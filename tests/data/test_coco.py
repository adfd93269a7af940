"""COCO files: polygons and run lengths, category names as phrases, what is left out."""

import json

import numpy as np
import pytest
from PIL import Image

from sam_hf.data.coco import CocoImages
from sam_hf.masks import rle

CATEGORIES = [{"id": 1, "name": "dog"}, {"id": 3, "name": "fire_hydrant"}, {"id": 7, "name": "cup"}]
SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]


def content():
    run_lengths = rle.encode(np.pad(np.ones((8, 8)), ((2, 22), (40, 16))))
    crowd = {"size": [32, 64], "counts": [0, 32 * 64]}
    annotations = [
        {"image_id": 5, "category_id": 1, "segmentation": [SQUARE, [50, 2, 60, 2, 60, 12]], "iscrowd": 0},
        {"image_id": 5, "category_id": 3, "segmentation": run_lengths, "phrases": "the red one"},
        {"image_id": 6, "category_id": 1, "segmentation": [SQUARE]},
        {"image_id": 6, "category_id": 1, "segmentation": crowd, "iscrowd": 1},
    ]
    images = [{"id": number, "file_name": f"{number}.jpg", "height": 32, "width": 64} for number in (4, 5, 6)]
    images[2] = {"id": 6, "coco_url": "http://images/val/6.jpg", "height": 32, "width": 64, "neg_category_ids": [7]}
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


@pytest.fixture
def file(tmp_path):
    (tmp_path / "val").mkdir()
    for name in ("5.jpg", "val/6.jpg"):
        Image.new("RGB", (64, 32), "gray").save(tmp_path / name)
    (tmp_path / "instances.json").write_text(json.dumps(content()))
    return tmp_path / "instances.json"


def test_masks_of_both_kinds(file):
    first, second = CocoImages(file)
    assert len(first.masks) == 2 and len(second.masks) == 1  # the crowd is no object's mask
    square = np.zeros((32, 64), bool)
    square[10:30, 10:30] = True
    assert first.mask(0)[:, :40].sum() == pytest.approx(400, abs=45) and (first.mask(0) & square).sum() >= 360
    assert first.mask(0)[:, 40:].any()  # both polygons
    assert first.area(1) == 64 and first.mask(1)[2:10, 40:48].all()
    assert first.pixels().shape == second.pixels().shape == (32, 64, 3)
    assert first.phrases == ((), ("the red one",)) and second.absent_phrases == ()


def test_category_names_are_phrases_where_they_mean_one_thing(file):
    first, second = CocoImages(file, category_phrases=True)
    assert first.phrases == (("dog",), ("the red one", "fire hydrant")) and first.absent_phrases == ("cup",)
    assert second.phrases == ((),)  # there is a crowd of dogs as well
    assert second.absent_phrases == ("cup",)  # LVIS says what was looked for


def test_of_lvis_only_what_is_sure_is_said(file):
    homonyms = [{"id": 8, "name": "bow_(weapon)"}, {"id": 9, "name": "bow_(decorative_ribbons)"}]
    lvis = content() | {"categories": CATEGORIES + homonyms}
    lvis["images"][1] |= {"not_exhaustive_category_ids": [3], "neg_category_ids": [7, 8]}
    lvis["images"][2] |= {"neg_category_ids": [8, 9]}
    lvis["annotations"].append({"image_id": 6, "category_id": 7, "segmentation": [SQUARE]})
    file.write_text(json.dumps(lvis))
    first, second = CocoImages(file, category_phrases=True)
    assert first.phrases == (("dog",), ("the red one",))  # of fire hydrants not all are drawn
    assert first.absent_phrases == ("cup",)  # ribbons were not looked for
    assert second.phrases == ((), ("cup",)) and second.absent_phrases == ("bow",)


def test_problems_are_named(file, tmp_path):
    (tmp_path / "5.jpg").unlink()
    with pytest.raises(ValueError, match=r"image 5: its picture .*5\.jpg' is missing"):
        list(CocoImages(file))
    reader = CocoImages(file, on_error="skip")
    assert len(list(reader)) == 1 and reader.skipped == 1
    with pytest.raises(ValueError, match="images: .*absent' is not a folder"):
        CocoImages(file, images=tmp_path / "absent")
    for text, said in (("{}", "not in COCO's form"), ("[]", "not in COCO's form"), ("{", "not a JSON file")):
        file.write_text(text)
        with pytest.raises(ValueError, match=rf"instances\.json: {said}"):
            CocoImages(file)
    file.write_text(json.dumps(content() | {"categories": []}))
    with pytest.raises(ValueError, match="categories"):
        CocoImages(file, category_phrases=True)
