"""Samples from scenes: pure functions of the index, slots filled as asked."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sam_hf.training.scene_dataset import SceneDataset, denormalise, normalise, stack_samples


def thing(x, y, side, phrases, parent=None):
    mask = np.zeros((32, 32), bool)
    mask[y : y + side, x : x + side] = True
    return SimpleNamespace(mask=mask, phrases=phrases, parent=parent)


def scene(index):
    image = np.full((32, 32, 3), index % 256, np.uint8)
    objects = [
        thing(2, 2, 12, ("a cat", "the animal", "cat")),
        thing(4, 4, 3, ("ear",), parent=0),
        thing(20, 20, 8, ()),
        thing(30, 30, 1, ("speck",)),
    ]
    return SimpleNamespace(image=image, objects=objects, absent_phrases=("dog", "red car"))


def tokenizer(phrases):
    words = [[len(word) for word in phrase.split()][:4] for phrase in phrases]
    ids = torch.tensor([row + [0] * (4 - len(row)) for row in words])
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def test_a_sample_depends_on_seed_and_index_only():
    first = SceneDataset(scene, prompts=5, absent=1, tokenizer=tokenizer, crop_size=8, seed=3)
    second = SceneDataset(scene, prompts=5, absent=1, tokenizer=tokenizer, crop_size=8, seed=3)
    first[0]
    for name, value in first[7].items():
        assert torch.equal(value, second[7][name]), name
    other = SceneDataset(scene, prompts=5, tokenizer=tokenizer, seed=4)
    assert any(not torch.equal(other[i]["masks"], second[i]["masks"]) for i in range(5))


def test_slots_hold_objects_then_absent_phrases():
    sample = SceneDataset(scene, prompts=5, absent=2, tokenizer=tokenizer, first_phrase=1.0)[0]
    assert sample["valid"].all()
    assert sample["absent"].tolist() == [False, False, False, True, True]
    assert sample["masks"].dtype == torch.uint8 and sample["masks"].shape == (5, 32, 32)
    assert (sample["masks"][:3].flatten(1).sum(1) > 0).all() and sample["masks"][3:].sum() == 0
    for slot in range(3):
        unnamed = sample["masks"][slot, 21, 21] == 1
        assert bool(sample["has_text"][slot]) != bool(unnamed)
        assert bool(sample["attention_mask"][slot].any()) == bool(sample["has_text"][slot])
    assert sample["has_text"][3:].all()


def test_rivals_are_the_absent_phrases_that_no_slot_has():
    sample = SceneDataset(scene, prompts=4, absent=1, rivals=3, tokenizer=tokenizer)[0]
    assert sample["rival_ids"].shape == (3, 4)
    assert sample["rival_mask"].any(-1).tolist() == [True, False, False]
    phrases = [tokenizer([phrase])["input_ids"][0].tolist() for phrase in ("dog", "red car")]
    assert {tuple(sample["input_ids"][3].tolist()), tuple(sample["rival_ids"][0].tolist())} == set(map(tuple, phrases))
    assert "rival_ids" not in SceneDataset(scene, prompts=4, rivals=3)[0]
    with pytest.raises(ValueError, match="rivals"):
        SceneDataset(scene, rivals=-1)


def test_wholes_and_parts_are_mixed_specks_left_out_and_repeats_come_last():
    dataset = SceneDataset(scene, prompts=3, part_share=0.35, min_area=0.005)
    areas = torch.cat([dataset[i]["masks"].flatten(1).sum(1) for i in range(100)])
    assert set(areas.tolist()) == {144, 9, 64}
    assert (areas == 9).float().mean().item() == pytest.approx(0.35, abs=0.1)
    only_wholes = SceneDataset(scene, prompts=2, part_share=0.0)[0]["masks"].flatten(1).sum(1)
    assert sorted(only_wholes.tolist()) == [64, 144]


def test_an_empty_scene_gives_invalid_slots():
    def empty(index):
        return SimpleNamespace(image=np.zeros((32, 32, 3), np.uint8), objects=[], absent_phrases=())

    sample = SceneDataset(empty, prompts=3, absent=1, tokenizer=tokenizer, crop_size=8)[0]
    assert not sample["valid"].any() and not sample["absent"].any() and not sample["crop_masks"].any()


def test_crops_show_the_object_of_their_slot():
    batch = stack_samples([SceneDataset(scene, prompts=3, crop_size=8)[i] for i in (200, 201)])
    assert batch["crops"].shape == (2, 3, 3, 8, 8) and batch["crops"].dtype == torch.uint8
    assert batch["crop_masks"].flatten(2).any(-1).all()
    assert set(batch["crops"][0].unique().tolist()) <= {0, 200}


def test_normalisation_is_undone_exactly():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    np.testing.assert_array_equal(denormalise(normalise(image)), image)
    with pytest.raises(ValueError, match="absent"):
        SceneDataset(scene, prompts=2, absent=2)
