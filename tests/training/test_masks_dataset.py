"""Samples of annotated pictures: which masks, where they lie, what CLIP sees, which phrases."""

import random
import tarfile

import numpy as np
import pytest
import torch

from sam_hf.data.annotated_image import AnnotatedImage
from sam_hf.model.text_encoder import SamTokenizer
from sam_hf.training import record_sources
from sam_hf.training.crop_dataset import random_crop
from sam_hf.training.large_scale_jitter import jitter, names_a_side, whole
from sam_hf.training.masks_dataset import IndexedMasksDataset, MaskSampler, MasksCollate, MasksDataset, crop_around
from sam_hf.training.record_sources import ShardedRecords, open_data

SIZE = (48, 96)  # (H,W)


def boxes_to_masks(*boxes):
    masks = np.zeros((len(boxes), *SIZE), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return tuple(masks)


def record(*boxes, phrases=(), absent=(), name="record"):
    picture = np.full((*SIZE, 3), 60, np.uint8)
    for number, (x0, y0, x1, y1) in enumerate(boxes):
        picture[y0:y1, x0:x1] = 100 + 40 * min(number, 3)
    return AnnotatedImage(name, picture, SIZE, boxes_to_masks(*boxes), phrases, absent)


LEFT, SMALL, ALL = (8, 8, 40, 40), (70, 8, 75, 13), (0, 0, 96, 47)


def test_masks_of_usable_size_only():
    sampler = MaskSampler(64, 32, scale_range=None)
    sample = sampler(record(LEFT, SMALL, ALL), "0")
    # at a 64 px model the paper's 100 px of 1024 are 6.25 px: SMALL has 3.3 of them, ALL covers 98 %
    assert sample["masks"].shape == (1, 32, 32) and sample["pixel_values"].shape == (3, 64, 64)
    assert len(MaskSampler(64, 32, min_side=0, scale_range=None)(record(LEFT, SMALL), "0")["masks"]) == 2
    assert sampler(record(SMALL, ALL), "0") is None
    many = record(*[(x, 4, x + 40, 44) for x in range(20)], phrases=((),) * 19 + (("last",),))
    some = MaskSampler(64, 32, masks=5, scale_range=None, with_phrases=True)(many, "0")
    assert len(some["masks"]) == 5 and some["phrases"][0] == "last"


def test_picture_and_masks_stay_together_under_jitter():
    sampler = MaskSampler(64, 64, min_side=0, crop_size=16)
    scales = []
    for seed in range(40):
        sample = sampler(record(LEFT), str(seed))
        if sample is None:
            continue
        mask = sample["masks"][0].bool()
        bright = sample["pixel_values"][0] > -0.7  # 100 against 60, padding is 0 after normalisation
        seen = sample["pixel_values"].abs().sum(0) > 0
        if seen.sum() > 300:  # of a picture a tenth as large, most pixels are edge
            assert (bright[seen] == mask[seen]).float().mean() > 0.93
        scales.append(float(mask.sum()) ** 0.5)
    assert len(scales) > 30 and max(scales) > 4 * min(scales)
    same = sampler(record(LEFT), "3")
    assert torch.equal(same["pixel_values"], sampler(record(LEFT), "3")["pixel_values"])


def test_jitter_spans_the_papers_range_and_spares_sides():
    rng = random.Random(0)
    placements = [jitter(SIZE, 64, rng) for _ in range(300)]
    lengths = [placement.size[1] for placement in placements]
    assert min(lengths) < 12 and max(lengths) > 120 and all(6 <= length <= 128 for length in lengths)
    assert 100 < sum(placement.mirrored for placement in placements) < 200
    assert {placement.offset[0] for placement in placements} == {0}  # 48 of 96 rows: twice is just the square
    assert whole(SIZE, 64).size == (32, 64)
    assert names_a_side(["the leftmost cup"]) and names_a_side(["cup on the RIGHT"])
    assert not names_a_side(["a bright copyright sign"])
    told = record(LEFT, phrases=(("the left box",),))
    sampler = MaskSampler(64, 64, min_side=0)
    assert not any(sampler._placement(told, random.Random(seed)).mirrored for seed in range(20))


@pytest.mark.parametrize("box", [(3, 5, 20, 30), (80, 30, 96, 48), LEFT])
def test_crops_are_those_of_the_whole_picture(box):
    picture = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)
    mask = boxes_to_masks(box)[0]
    for seed in range(6):
        cut, cut_mask = crop_around(picture, mask, 8, random.Random(seed))
        expected, expected_mask = random_crop(picture, mask, 8, (1.0, 2.0), 0.5, random.Random(seed))
        assert np.array_equal(cut, expected) and np.array_equal(cut_mask, expected_mask)


def test_half_of_the_crops_are_on_black_and_hold_one_to_two_boxes():
    sampler = MaskSampler(64, 32, scale_range=None, crop_size=32)
    samples = [sampler(record(LEFT), str(seed)) for seed in range(60)]
    shares = np.array([float(sample["crop_masks"].float().mean()) for sample in samples])
    assert 0.2 < shares.min() < 0.35 and 0.8 < shares.max() <= 1.0
    black = sum(
        bool((s["crops"][0][:, ~s["crop_masks"][0]] == 0).all()) for s in samples if s["crop_masks"].sum() < 900
    )
    assert 15 < black < 45


def test_collate_fills_up_and_makes_phrases_absent():
    first = record(LEFT, (50, 4, 90, 44), phrases=(("red box",), ()), absent=("cat", "dog"))
    second = record(LEFT, phrases=(("blue box",),))
    sampler = MaskSampler(64, 32, scale_range=None, crop_size=16, with_phrases=True)
    samples = [sampler(one, "0") for one in (first, second)]
    tokenizer = SamTokenizer(600, 8)
    batch = MasksCollate(tokenizer)(samples)
    assert batch["valid"].tolist() == [[True, True], [True, False]] and not batch["absent"].any()
    assert batch["has_text"].tolist() == [[True, False], [True, False]]
    assert batch["crops"].shape == (2, 2, 3, 16, 16) and batch["masks"][1, 1].sum() == 0
    assert torch.equal(batch["input_ids"][1, 0], tokenizer(["blue box"])["input_ids"][0])
    assert batch["attention_mask"].any(-1).tolist() == batch["has_text"].tolist()
    assert "input_ids" not in MasksCollate()(samples)
    collate = MasksCollate(tokenizer, negatives=0.999, others=("red box", "blue box"))
    batch = collate(samples)
    assert batch["absent"].tolist() == [[True, False], [True, False]]
    absent = tokenizer(["cat", "dog", "red box"])["input_ids"]
    assert any(torch.equal(batch["input_ids"][0, 0], ids) for ids in absent[:2])
    assert torch.equal(batch["input_ids"][1, 0], absent[2])  # nothing is known absent: a phrase of another picture
    assert batch["masks"][0, 0].sum() == 0 and not batch["crop_masks"][0, 0].any() and batch["masks"][0, 1].any()
    alone = collate(samples[1:])  # a batch of one has negatives as well
    assert alone["absent"].tolist() == [[True]] and torch.equal(alone["input_ids"][0, 0], absent[2])
    with pytest.raises(ValueError, match=r"expected 0 for data with so few phrases, \['crack'\]; got 0.2"):
        MasksCollate(tokenizer, negatives=0.2, others=["crack"])


def test_bad_and_useless_records_are_passed_over():
    bad = AnnotatedImage("bad.json", b"no picture", SIZE, boxes_to_masks(LEFT))
    sampler = MaskSampler(64, 32, scale_range=None)
    with pytest.raises(ValueError, match="bad.json"):
        IndexedMasksDataset([bad, record(LEFT)], sampler)[0]
    dataset = IndexedMasksDataset([bad, record(SMALL), record(LEFT)], sampler, on_error="skip")
    assert len(dataset) == 3 and dataset[0]["masks"].shape == (1, 32, 32) and dataset.skipped == 1
    with pytest.raises(ValueError, match=r"100 pictures in a row had no usable mask: from 6² pixels"):
        MasksDataset(lambda index, attempt: record(SMALL), sampler)[0]


def test_shards_go_round_and_round(tmp_path):
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    with pytest.raises(ValueError, match="too few readable pictures"):
        ShardedRecords([tmp_path / "empty.tar"])(0, 0)


def test_after_damage_another_pass_follows(tmp_path, monkeypatch):
    orders = []

    class Reader:
        skipped = 0

        def __init__(self, shards, shuffle, seed, *rest):
            orders.append(seed)

        def __iter__(self):
            yield "record"
            raise ValueError("damage")

    monkeypatch.setattr(record_sources, "ShardReader", Reader)
    draw = ShardedRecords(["a.tar"], seed="7")
    for _ in range(2):
        assert draw(0, 0) == "record"
        with pytest.raises(ValueError, match="damage"):
            draw(1, 0)
    assert orders == ["7/0", "7/1"]


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        ("nowhere", {}, "data: .*'nowhere', which does not exist"),
        ("nowhere.json", {}, "there is no file 'nowhere.json'"),
        ("synthetic", {"category_phrases": True}, "go with a COCO JSON"),
        (".", {}, "holds no annotation files"),
    ],
)
def test_data_that_is_none_is_said(tmp_path, monkeypatch, data, options, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=said):
        open_data(data, **options)
