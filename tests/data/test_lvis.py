"""The reader of LVIS's files, on small ones of the same form; and scenes as samples."""

import json

import numpy as np
import pytest
from PIL import Image

from sam_hf.data.lvis import category_phrase, read_lvis
from sam_hf.data.synthetic import SceneGenerator
from sam_hf.data.text_samples import scene_samples
from sam_hf.masks import rle

CATEGORIES = {1: "alarm_clock", 2: "bow_(weapon)", 3: "bow_(decorative_ribbons)", 4: "cup", 5: "dog"}


def _image(number, folder, negative, unsure=()):
    url = f"http://images.cocodataset.org/{folder}/{number:012d}.jpg"
    ids = {"neg_category_ids": list(negative), "not_exhaustive_category_ids": list(unsure)}
    return {"id": number, "width": 20, "height": 10, "coco_url": url} | ids


@pytest.fixture
def root(tmp_path):
    frequency = dict(zip(CATEGORIES, "rcfff", strict=True))
    categories = [{"id": key, "name": name, "frequency": frequency[key]} for key, name in CATEGORIES.items()]
    images = [_image(12, "train2017", [1, 2, 5]), _image(3, "val2017", [2, 3], [5]), _image(4, "val2017", [])]
    left, right = [0, 0, 5, 0, 5, 10, 0, 10], [10, 0, 20, 0, 20, 10, 10, 10]
    far = np.zeros((10, 20), bool)
    far[9, 19] = True
    annotations = [
        {"id": 1, "image_id": 3, "category_id": 4, "segmentation": [left]},
        {"id": 2, "image_id": 12, "category_id": 3, "segmentation": [right]},
        {"id": 3, "image_id": 3, "category_id": 4, "segmentation": rle.encode(far)},
        {"id": 4, "image_id": 3, "category_id": 5, "segmentation": [right]},
        {"id": 5, "image_id": 4, "category_id": 2, "segmentation": [left]},
        {"id": 6, "image_id": 4, "category_id": 3, "segmentation": [right]},
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "lvis_v1_val.json").write_text(json.dumps(content))
    for number, folder in ((12, "train2017"), (3, "val2017"), (4, "val2017")):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.new("RGB", (20, 10)).save(tmp_path / folder / f"{number:012d}.jpg")
    return tmp_path


def test_nouns_with_all_instances_and_nouns_that_are_not_there(root):
    samples = read_lvis(root)
    told = [(sample.image_id, sample.phrase, sample.absent) for sample in samples]
    assert told == [
        (3, "cup", False),  # not the dog, of which not every one is drawn
        (3, "bow", True),  # neither of the two kinds
        (4, "bow", False),
        (12, "bow", False),  # a ribbon: so the missing weapon makes no absent bow
        (12, "alarm clock", True),
        (12, "dog", True),
    ]
    cups = samples[0].masks
    assert [int(mask.sum()) for mask in cups] == [50, 1] and cups[1][9, 19]
    assert [int(mask.sum()) for mask in samples[2].masks] == [50, 100]
    assert samples[1].masks == [] and samples[0].group == "frequent" and samples[4].group == "rare"
    assert samples[3].image.shape == (10, 20, 3)  # from train2017: LVIS divides COCO's pictures anew
    assert not any(sample.absent for sample in read_lvis(root, absent=False))


def test_what_is_missing_is_named(root):
    with pytest.raises(ValueError, match="cannot read the annotations .*lvis_v1_train.json"):
        read_lvis(root, "train")
    with pytest.raises(ValueError, match="images: expected a folder with train2017 and val2017"):
        read_lvis(root, images=root / "val2017")
    sample = read_lvis(root)[0]
    sample.path.unlink()
    with pytest.raises(ValueError, match="does not exist"):
        sample.image  # noqa: B018
    (root / "lvis_v1_val.json").write_text('{"images": [], "categories": []}')
    with pytest.raises(ValueError, match="something is missing in them: KeyError"):
        read_lvis(root)


def test_words_of_a_category():
    assert category_phrase("bow_(decorative_ribbons)") == "bow"
    assert category_phrase("Band_Aid") == "Band Aid"
    assert category_phrase("cream_pitcher") == "cream pitcher"


def test_scenes_give_their_objects_and_what_they_lack():
    generator = SceneGenerator(size=64, split="test", font=False)
    samples = [sample for index in range(6) for sample in scene_samples(generator(index), index)]
    present, absent = [s for s in samples if not s.absent], [s for s in samples if s.absent]
    assert present and {sample.group for sample in absent} == {"absent"}
    assert {sample.group for sample in present} <= {"seen", "held out", "seen part", "held out part"}
    assert len({sample.group for sample in present}) > 1
    for sample in present:
        assert sample.image.shape == (64, 64, 3) and sample.masks[0].any() and len(sample.masks) == 1
    assert all(sample.masks == [] for sample in absent)
