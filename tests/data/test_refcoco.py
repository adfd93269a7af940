"""The reader of RefCOCO's files, on small ones of the same form; and that their pickle is never run."""

import json
import pickle
from collections import OrderedDict

import numpy as np
import pytest
from PIL import Image

from sam_hf.data.plain_pickle import read_plain_pickle
from sam_hf.data.refcoco import read_refcoco
from sam_hf.data.text_samples import by_picture
from sam_hf.masks import rle

CROWD = np.zeros((30, 40), bool)
CROWD[20:28, 5:35] = True


def _ref(ref_id, ann_id, image_id, split, *sentences):
    said = [
        {"tokens": s.split(), "raw": s.title(), "sent_id": 10 * ref_id + n, "sent": s} for n, s in enumerate(sentences)
    ]
    name = f"COCO_train2014_{image_id:012d}_{ann_id}.jpg"
    ids = {"ref_id": ref_id, "ann_id": ann_id, "image_id": image_id, "category_id": 1}
    return ids | {"file_name": name, "split": split, "sentences": said, "sent_ids": [s["sent_id"] for s in said]}


@pytest.fixture
def root(tmp_path):
    """Two pictures; the first with two objects, one of them a crowd, spoken of in three sentences."""
    folder, pictures = tmp_path / "refcoco", tmp_path / "images/mscoco/images/train2014"
    folder.mkdir(), pictures.mkdir(parents=True)
    square, triangle = [10, 5, 20, 5, 20, 15, 10, 15], [0, 0, 8, 0, 0, 8]
    annotations = [
        {"id": 7, "image_id": 2, "category_id": 1, "iscrowd": 0, "segmentation": [square, [30, 0, 40, 0, 40, 10]]},
        {"id": 8, "image_id": 2, "category_id": 1, "iscrowd": 1, "segmentation": rle.encode(CROWD)},
        {"id": 9, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": [triangle]},
    ]
    images = []
    for image_id in (1, 2):
        name = f"COCO_train2014_{image_id:012d}.jpg"
        images.append({"id": image_id, "file_name": name, "width": 40, "height": 30})
        Image.new("RGB", (40, 30), (200, 10 * image_id, 30)).save(pictures / name)
    instances = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    (folder / "instances.json").write_text(json.dumps(instances))
    refs = [
        _ref(3, 7, 2, "val", "left cat", "the cat on the left"),
        _ref(5, 9, 1, "val", "cat in the corner"),
        _ref(4, 8, 2, "val", "cats below"),
        _ref(6, 9, 1, "testA", "corner"),
        _ref(7, 9, 1, "testB", "black cat"),
    ]
    with open(folder / "refs(unc).p", "wb") as file:
        pickle.dump(refs, file, protocol=2)
    return tmp_path


def test_every_sentence_is_a_sample_with_its_mask(root):
    samples = read_refcoco(root)
    said = [(sample.image_id, sample.phrase) for sample in samples]
    assert said == [(1, "cat in the corner"), (2, "left cat"), (2, "the cat on the left"), (2, "cats below")]
    assert [len(group) for group in by_picture(samples)] == [1, 3]
    assert not any(sample.absent for sample in samples)
    (mask,) = samples[1].masks
    assert mask.shape == (30, 40) and mask.dtype == bool
    assert mask[5:15, 10:20].all() and mask[1, 38] and mask.sum() < 100 + 70  # a square and half of one
    assert np.array_equal(samples[3].masks[0], CROWD)
    image = samples[0].image
    assert image.shape == (30, 40, 3) and image.dtype == np.uint8 and abs(int(image[0, 0, 1]) - 10) < 5


def test_absent_phrases_name_a_category_that_the_picture_does_not_have(root):
    path = root / "refcoco/instances.json"
    instances = json.loads(path.read_text())
    instances["categories"].append({"id": 2, "name": "dog"})
    instances["annotations"][2]["category_id"] = 2  # the only thing of picture 1, called a cat all the same
    path.write_text(json.dumps(instances))
    absent = [(sample.image_id, sample.phrase) for sample in read_refcoco(root, absent=True) if sample.absent]
    assert len(absent) == 1 and absent[0][0] == 1 and absent[0][1] in ("left cat", "the cat on the left")
    samples = read_refcoco(root, absent=True)
    assert [len(group) for group in by_picture(samples)] == [2, 3] and samples[1].absent
    assert samples[1].masks == [] and samples[1].group == "absent" and samples[1].image.shape == (30, 40, 3)


def test_splits(root):
    assert [sample.phrase for sample in read_refcoco(root, split="testA")] == ["corner"]
    assert {sample.group for sample in read_refcoco(root, split="test")} == {"testA", "testB"}
    assert len(read_refcoco(root / "refcoco")) == 4  # the data set's own folder does as well
    with pytest.raises(ValueError, match="split: expected one of testA, testB, val in refcoco"):
        read_refcoco(root, split="train")
    with pytest.raises(ValueError, match="split_by: expected one of unc, google for refcoco, got 'umd'"):
        read_refcoco(root, split_by="umd")
    with pytest.raises(ValueError, match="dataset: expected one of"):
        read_refcoco(root, dataset="refclef")


def test_what_is_missing_is_named(root, tmp_path):
    sample = read_refcoco(root)[0]
    sample.path.unlink()
    with pytest.raises(ValueError, match="000000000001.jpg' of the data set does not exist"):
        sample.image  # noqa: B018
    Image.new("RGB", (10, 10)).save(sample.path)
    with pytest.raises(ValueError, match=r"annotated for an image of \(30, 40\)"):
        sample.image  # noqa: B018
    sample.path.write_bytes(b"\xff\xd8 no picture")
    with pytest.raises(ValueError, match="cannot be decoded"):
        sample.image  # noqa: B018
    with pytest.raises(ValueError, match="expected refcocog/instances.json"):
        read_refcoco(root, dataset="refcocog")
    with pytest.raises(ValueError, match=r"cannot read .*refs\(google\)"):
        read_refcoco(root, split_by="google")
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="images: expected COCO's train2014"):
        read_refcoco(root)
    assert read_refcoco(root, images=tmp_path / "elsewhere/mscoco/images/train2014")
    (root / "refcoco/instances.json").write_text('{"images": []}')
    with pytest.raises(ValueError, match="something is missing in them: KeyError"):
        read_refcoco(root, images=tmp_path)


def test_a_picture_turned_by_exif_stays_in_the_frame_of_its_annotations(root):
    sample = read_refcoco(root)[0]
    stored = Image.fromarray(np.tile(np.arange(40, dtype=np.uint8)[None, :, None] * 6, (30, 1, 3)))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(sample.path, exif=exif, quality=95)
    assert sample.image.shape == (30, 40, 3)


class Attack:
    """Would write a file when it is unpickled."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return open, (self.target, "w")


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_pickle_is_data_only(tmp_path, protocol):
    path, target = tmp_path / "refs.p", tmp_path / "attacked"
    plain = [{"ref_id": 3, "sent": "café", "box": (1.5, None, True), "kinds": {1, 2}}]
    numbers = OrderedDict(a=np.int64(7), b=np.float32(0.5), c=np.bool_(True), d=np.array([2], ">i4")[0])
    path.write_bytes(pickle.dumps([plain, numbers, b"old text"], protocol))
    assert read_plain_pickle(path) == [plain, {"a": 7, "b": 0.5, "c": True, "d": 2}, "old text"]
    for bad in (Attack(target), np.zeros(3), np.datetime64("2020"), Custom()):
        path.write_bytes(pickle.dumps([bad], protocol))
        with pytest.raises(ValueError, match="expected a pickle of plain numbers, text and containers, got"):
            read_plain_pickle(path)
    assert not target.exists()


def test_a_small_pickle_stays_small(tmp_path):
    path, nested = tmp_path / "bomb.p", ["end"]
    for _ in range(64):
        nested = [nested, nested]  # 2**64 lists if each were copied
    path.write_bytes(pickle.dumps(nested))
    read = read_plain_pickle(path)
    while read != ["end"] and read[0] is read[1]:
        read = read[0]
    assert read == ["end"]
    path.write_bytes(b"c__builtin__\nbytearray\n(I10000000000\ntR.")
    with pytest.raises(ValueError, match="bytearray"):
        read_plain_pickle(path)


class Custom:
    """Any class at all."""


def test_python_2_wrote_bytes_for_text(tmp_path):
    """{'split': 'val', 'raw': u'caf\\xe9', 'id': numpy.int64(5)} by Python 2.7, protocol 2."""
    path = tmp_path / "old.p"
    number = b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(U\x02i8K\x00K\x01tR"
    number += b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbU\x08"
    number += (5).to_bytes(8, "little") + b"tR"
    path.write_bytes(b"\x80\x02}(U\x05splitU\x03valU\x03rawX\x05\x00\x00\x00caf\xc3\xa9U\x02id" + number + b"u.")
    assert read_plain_pickle(path) == {"split": "val", "raw": "café", "id": 5}
    path.write_bytes(b"no pickle")
    with pytest.raises(ValueError, match="is no pickle, or damaged"):
        read_plain_pickle(path)
