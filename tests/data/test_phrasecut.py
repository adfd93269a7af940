"""The reader of PhraseCut's files, on small ones of the same form."""

import json

import numpy as np
import pytest
from PIL import Image

from sam_hf.data.phrasecut import polygons_mask, read_phrasecut
from sam_hf.data.text_samples import by_picture


def _task(image_id, number, phrase, polygons, kind="attribute"):
    structure = {"name": phrase.split()[-1], "attributes": [], "type": kind} if kind else None
    boxes = [[0, 0, 1, 1]] * len(polygons)
    return {
        "task_id": f"{image_id}__{number}",
        "image_id": image_id,
        "ann_ids": [number],
        "instance_boxes": boxes,
        "Polygons": polygons,
        "phrase": phrase,
        "phrase_structure": structure,
    }


SQUARE = [[2.7, 3.2], [8.1, 3.0], [8.9, 9.5], [2.0, 9.9]]
BAR = [[10, 12], [18, 12], [18, 14], [10, 14]]


@pytest.fixture
def root(tmp_path):
    tasks = [
        _task(20, 1, "red cups", [[SQUARE], [BAR, [[0, 0], [1, 0], [1, 1]], [[5, 5]]]]),
        _task(10, 2, "walking people", [[BAR]], "relation"),
        _task(20, 3, "table", [[BAR]], None),
    ]
    images = [{"image_id": number, "width": 24, "height": 16, "split": "test"} for number in (10, 20)]
    (tmp_path / "refer_test.json").write_text(json.dumps(tasks))
    (tmp_path / "image_data_split.json").write_text(json.dumps(images))
    (tmp_path / "images").mkdir()
    for number in (10, 20):
        Image.new("RGB", (24, 16), (number, 0, 0)).save(tmp_path / "images" / f"{number}.jpg")
    return tmp_path


def test_phrases_with_all_their_instances(root):
    samples = read_phrasecut(root)
    assert [sample.phrase for sample in samples] == ["walking people", "red cups", "table"]
    assert [sample.group for sample in samples] == ["relation", "attribute", "other"]
    assert [group[0].image_id for group in by_picture(samples)] == [10, 20]
    first, second = samples[1].masks
    assert first.shape == (16, 24) and first.dtype == bool
    assert first[3:10, 2:9].all() and first.sum() == 49  # the outline counts, corners are cut to whole pixels
    assert second[12:15, 10:19].all() and second[:2, :2].sum() == 3 and second.sum() == 30
    assert samples[0].image.shape == (16, 24, 3)


def test_absent_phrases_name_what_no_phrase_about_the_picture_mentions(root):
    groups = list(by_picture(read_phrasecut(root, absent=True)))
    assert [[sample.phrase for sample in group if sample.absent] for group in groups] == [
        ["red cups"],  # "table" says of no name that it is one
        ["walking people"],
    ]
    assert groups[0][-1].masks == [] and groups[0][-1].group == "absent"


def test_what_is_missing_is_named(root):
    with pytest.raises(ValueError, match="split: expected one of train, val, test, miniv, got 'testA'"):
        read_phrasecut(root, "testA")
    with pytest.raises(ValueError, match="cannot read the annotations .*refer_val.json"):
        read_phrasecut(root, "val")
    sample = read_phrasecut(root)[0]
    sample.path.unlink()
    with pytest.raises(ValueError, match="10.jpg' of the data set does not exist"):
        sample.image  # noqa: B018
    (root / "image_data_split.json").write_text("[{]")
    with pytest.raises(ValueError, match="are no JSON"):
        read_phrasecut(root)
    (root / "image_data_split.json").write_text("[]")
    with pytest.raises(ValueError, match="something is missing in them: KeyError"):
        read_phrasecut(root)
    (root / "image_data_split.json").unlink()
    with pytest.raises(ValueError, match="expected image_data_split.json"):
        read_phrasecut(root)
    with pytest.raises(ValueError, match="images: expected a folder"):
        read_phrasecut(root, images=root / "nowhere")


def test_polygons_that_are_none():
    assert not polygons_mask([], (4, 5)).any()
    assert np.array_equal(polygons_mask([[[0, 0], [9, 0], [9, 9], [0, 9]]], (4, 5)), np.ones((4, 5), bool))
    with pytest.raises(ValueError, match="Polygons: expected polygons of"):
        polygons_mask([[1, 2, 3]], (4, 5))
