"""Synthetic scenes as training samples: a sample is a pure function of (seed, index), so any number of workers and
any restart see the same data."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from sam_hf.training.crop_dataset import random_crop

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


def normalise(image: np.ndarray) -> torch.Tensor:
    """(H, W, 3) uint8 RGB -> (3, H, W) float32 with ImageNet's mean and deviation, as `SamImageProcessor` does."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 255
    return (pixels - torch.tensor(IMAGE_MEAN)[:, None, None]) / torch.tensor(IMAGE_STD)[:, None, None]


def denormalise(pixel_values: torch.Tensor) -> np.ndarray:
    """The inverse of `normalise`: (3, H, W) float -> (H, W, 3) uint8."""
    pixels = pixel_values.detach().float().cpu()
    pixels = pixels * torch.tensor(IMAGE_STD)[:, None, None] + torch.tensor(IMAGE_MEAN)[:, None, None]
    return (pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


class SceneDataset(Dataset):
    """An endless stream of scenes with `prompts` objects each; it has no length, index `i` is scene `i`.

    Args:
        generator: callable index -> `Scene`, e.g. `SceneGenerator(size=S, split="train", seed=0)`; a pure function
            of the index.
        prompts: slots P per scene. Scenes with fewer objects repeat them (each slot is prompted differently).
        absent: how many of the slots go to phrases that are true of nothing in the scene.
        rivals: how many more such phrases come along, for `text_alignment.alignment_loss` (needs a generator that
            makes as many).
        part_share: share of slots that go to parts, where a scene has parts.
        tokenizer: list of phrases -> {"input_ids" (n, T), "attention_mask" (n, T)}; None for a model without text.
        text_share: fraction of slots that get a phrase, where the object has one.
        first_phrase: probability of the object's best phrase; else any of its phrases.
        crop_size: side of the crops for `clip.CropEncoder`, or None for none.
        min_area: smallest object, as a fraction of the image.
        max_area: largest object, likewise (paper: masks over 90 % of the image are dropped).
        seed: of the choices made here.

    Raises:
        ValueError: `prompts`, `absent` or `rivals` out of range.
    """

    def __init__(
        self,
        generator: Callable[[int], Any],
        prompts: int = 5,
        absent: int = 0,
        rivals: int = 0,
        part_share: float = 0.35,
        tokenizer: Callable[[list[str]], dict[str, torch.Tensor]] | None = None,
        text_share: float = 1.0,
        first_phrase: float = 0.5,
        crop_size: int | None = None,
        min_area: float = 0.001,
        max_area: float = 0.9,
        seed: int = 0,
    ) -> None:
        if prompts < 1 or not 0 <= absent < prompts:
            raise ValueError(f"prompts must be positive and absent smaller than it, got {prompts} and {absent}")
        if rivals < 0:
            raise ValueError(f"rivals must be at least 0, got {rivals}")
        self.generator, self.prompts, self.absent, self.part_share = generator, prompts, absent, part_share
        self.rivals = rivals
        self.tokenizer, self.text_share, self.first_phrase = tokenizer, text_share, first_phrase
        self.crop_size = crop_size
        self.min_area, self.max_area, self.seed = min_area, max_area, seed

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Sample `index`: pixel_values (3,S,S), masks (P,S,S) uint8, valid, absent, has_text (P,) and, with text,
        input_ids (P,T) etc."""
        rng = random.Random(f"{self.seed}/{index}")
        scene = self.generator(index)
        height, width = scene.image.shape[:2]
        phrases_absent = rng.sample(scene.absent_phrases, min(self.absent, len(scene.absent_phrases)))
        if self.tokenizer is None:
            phrases_absent = []
        chosen = self._choose(scene.objects, self.prompts - len(phrases_absent), rng)
        masks = np.zeros((self.prompts, height, width), dtype=np.uint8)
        phrases: list[str | None] = [None] * self.prompts
        for slot, thing in enumerate(chosen):
            masks[slot] = thing.mask
            phrases[slot] = self._phrase(thing.phrases, rng)
        first_absent = len(chosen)
        phrases[first_absent : first_absent + len(phrases_absent)] = phrases_absent
        slots = torch.arange(self.prompts)
        sample = {
            "pixel_values": normalise(scene.image),
            "masks": torch.from_numpy(masks),
            "valid": slots < first_absent + len(phrases_absent),
            "absent": (slots >= first_absent) & (slots < first_absent + len(phrases_absent)),
        }
        if self.tokenizer is not None:
            has_text = torch.tensor([phrase is not None for phrase in phrases])
            tokens = self.tokenizer([phrase or "" for phrase in phrases])
            sample["input_ids"] = tokens["input_ids"]
            sample["attention_mask"] = tokens["attention_mask"] * has_text.unsqueeze(-1)
            sample["has_text"] = has_text
            if self.rivals:
                sample |= self._rivals([phrase for phrase in scene.absent_phrases if phrase not in phrases_absent])
        if self.crop_size is not None:
            crops = [random_crop(scene.image, mask, self.crop_size, (1.0, 2.0), 0.5, rng) for mask in masks]
            sample["crops"] = torch.from_numpy(np.stack([image for image, _ in crops])).permute(0, 3, 1, 2)
            sample["crop_masks"] = torch.from_numpy(np.stack([mask for _, mask in crops]))
        return sample

    def _rivals(self, phrases: Sequence[str]) -> dict[str, torch.Tensor]:
        """Token ids (R, T) of the first R phrases and their attention mask, empty rows where there are fewer."""
        phrases = phrases[: self.rivals]
        tokens = self.tokenizer([*phrases, *[""] * (self.rivals - len(phrases))])
        given = torch.arange(self.rivals) < len(phrases)
        return {
            "rival_ids": tokens["input_ids"],
            "rival_mask": tokens["attention_mask"] * given.unsqueeze(-1),
        }

    def _choose(self, things: Sequence[Any], count: int, rng: random.Random) -> list[Any]:
        """`count` objects, parts and wholes mixed; each is used once before any is used twice."""
        usable = [thing for thing in things if self.min_area <= thing.mask.mean() <= self.max_area]
        parts = [thing for thing in usable if thing.parent is not None]
        wholes = [thing for thing in usable if thing.parent is None]
        rng.shuffle(parts)
        rng.shuffle(wholes)
        if not usable:
            return []
        chosen = []
        for slot in range(count):
            take_part = parts and (not wholes or rng.random() < self.part_share)
            source = parts if take_part else wholes
            chosen.append(source[0])
            source.append(source.pop(0))
            if slot >= len(usable) * 3:
                break
        return chosen

    def _phrase(self, phrases: Sequence[str], rng: random.Random) -> str | None:
        if self.tokenizer is None or not phrases or rng.random() >= self.text_share:
            return None
        return phrases[0] if rng.random() < self.first_phrase else rng.choice(list(phrases))


def stack_samples(samples: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Samples with the same number of slots -> a batch."""
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
