"""Crops of synthetic objects with phrases, for training a small CLIP.

Chance puts many samples of one phrase ("red apple", "apple", "fruit") into a batch; a plain contrastive loss would
push them apart. So every batch
comes with what is true: `positive[i, j]` says that phrase i is true of crop j, `ignore[i, j]` that it might be
taken for true.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from sam_hf.data.crops import crop
from sam_hf.data.phrases import near_misses

ARTICLES = ("a", "an", "the")
SIZES = ("big", "large", "small", "little")


def parse_phrase(phrase: str, nouns: Sequence[str]) -> tuple[str, frozenset[str]]:
    """The noun of a phrase and the words in front of it that can be checked on the object alone.

    Articles, the connecting "and", words of relative size and a trailing "inside the ..." say nothing about the
    crop and are left out.

    Args:
        phrase: e.g. "the big red fire truck inside the box".
        nouns: names of the object it was said of; the longest that ends the phrase is its noun. If none does, the
            last word is.

    Returns:
        e.g. ("fire truck", {"red"}).
    """
    words = phrase.split(" inside ")[0].split()
    bare = " ".join(words)
    ending = [noun for noun in nouns if bare == noun or bare.endswith(" " + noun)]
    noun = max(ending, key=len) if ending else words[-1]
    rest = words[: len(words) - len(noun.split())]
    return noun, frozenset(word for word in rest if word not in (*ARTICLES, *SIZES, "and"))


def truth(noun: str, adjectives: frozenset[str], attributes: Any) -> tuple[bool, bool]:
    """Whether a parsed phrase is (surely, possibly) true of an object with the given `Attributes`."""
    sure = {attributes.colour, attributes.pattern, attributes.second_colour}
    possible = attributes.possible_colours | sure
    return (
        noun in attributes.nouns and adjectives <= sure,
        noun in attributes.possible_nouns and adjectives <= possible,
    )


class CropDataset(Dataset):
    """An endless stream; index `i` is up to `crops` objects of scene `i`, each with one of its phrases.

    Args:
        generator: callable index -> `Scene`.
        crops: objects per scene, at most.
        size: side of a crop in pixels.
        scale: range of the square crop's side relative to the longer side of the object's box (paper: 1 to 2).
        zero_background: probability of blackening what is outside the mask (paper: 0.5).
        rivals: how many phrases that are nearly true of it each crop comes with, at most: right noun, wrong colour, or
            the reverse. Chance seldom brings such a pair into a batch.
        warp: probability of `warped` for what has no geometric name, so that few glyphs look like more.
        seed: of the choices made here.
    """

    def __init__(
        self,
        generator: Callable[[int], Any],
        crops: int = 5,
        size: int = 64,
        scale: tuple[float, float] = (1.0, 2.0),
        zero_background: float = 0.5,
        rivals: int = 0,
        warp: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.generator, self.crops, self.size, self.rivals, self.warp = generator, crops, size, rivals, warp
        self.scale, self.zero_background, self.seed = scale, zero_background, seed

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        """Samples of scene `index`: image (size,size,3) uint8, mask (size,size) bool, phrase, attributes,
        rivals."""
        rng = random.Random(f"{self.seed}/{index}")
        words = np.random.default_rng((self.seed, index))
        scene = self.generator(index)
        named = [thing for thing in scene.objects if thing.phrases and thing.mask.any()]
        samples = []
        for thing in rng.sample(named, min(self.crops, len(named))):
            image, mask = random_crop(scene.image, thing.mask, self.size, self.scale, self.zero_background, rng)
            if "shape" not in thing.attributes.nouns and words.random() < self.warp:
                image, mask = warped(image, mask, words)
            near = near_misses(thing.attributes, "train", words, self.rivals)
            samples.append(
                {
                    "image": image,
                    "mask": mask,
                    "phrase": rng.choice(thing.phrases),
                    "attributes": thing.attributes,
                    "rivals": tuple(claim.words() for claim in near),
                }
            )
        return samples


def random_crop(
    image: np.ndarray,
    mask: np.ndarray,
    size: int,
    scale: tuple[float, float],
    zero_background: float,
    rng: random.Random,
) -> tuple[np.ndarray, np.ndarray]:
    """One crop as appendix D.5 draws it: (size,size,3) uint8 and the (size,size) bool mask in it; black for an
    empty mask."""
    factor, zero = rng.uniform(*scale), rng.random() < zero_background
    if not mask.any():
        return np.zeros((size, size, 3), np.uint8), np.zeros((size, size), bool)
    return crop(image, mask.astype(bool), factor, size, zero)


def warped(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A crop (s,s,3) uint8 and its mask (s,s) bool turned, sheared, stretched and mirrored about their middle."""
    turn, shear, stretch = rng.uniform((-0.5, -0.25, -0.3), (0.5, 0.25, 0.3))
    matrix = np.array([(np.cos(turn), -np.sin(turn)), (np.sin(turn), np.cos(turn))])
    matrix = matrix @ np.array([(np.exp(stretch), shear), (0, np.exp(-stretch))]) @ np.diag([rng.choice((-1, 1)), 1])
    middle = np.full(2, (len(image) - 1) / 2)
    affine = np.column_stack([matrix, middle - matrix @ middle])
    picture = cv2.warpAffine(image, affine, mask.shape[::-1], borderMode=cv2.BORDER_REFLECT_101)
    return picture, cv2.warpAffine(mask.astype(np.uint8), affine, mask.shape[::-1], flags=cv2.INTER_NEAREST) > 0


class CropCollate:
    """Joins the samples of several scenes into one contrastive batch.

    Args:
        tokenizer: phrases -> {"input_ids", "attention_mask"}.
    """

    def __init__(self, tokenizer: Callable[[list[str]], dict[str, torch.Tensor]]) -> None:
        self.tokenizer = tokenizer

    def __call__(self, scenes: Sequence[list[dict[str, Any]]]) -> dict[str, torch.Tensor]:
        """images (n,3,s,s) uint8, masks (n,s,s) bool, input_ids (n,T), positive and ignore (n,n) bool, rows =
        phrases; where crops have rivals, rival_ids (m,T) of all of them and rival_of (m,), whose each is."""
        samples = [sample for scene in scenes for sample in scene]
        if not samples:
            raise ValueError("no object in these scenes has a phrase; give more scenes per batch")
        parsed = [parse_phrase(s["phrase"], tuple(s["attributes"].possible_nouns)) for s in samples]
        n = len(samples)
        positive, ignore = np.eye(n, dtype=bool), np.zeros((n, n), dtype=bool)
        for i, (noun, adjectives) in enumerate(parsed):
            for j, other in enumerate(samples):
                if i != j:
                    surely, possibly = truth(noun, adjectives, other["attributes"])
                    positive[i, j], ignore[i, j] = surely, possibly and not surely
        images = np.stack([s["image"] for s in samples]).transpose(0, 3, 1, 2)  # (n,s,s,3) -> (n,3,s,s)
        rivals = [(i, phrase) for i, sample in enumerate(samples) for phrase in sample["rivals"]]
        batch = {
            "images": torch.from_numpy(np.ascontiguousarray(images)),
            "masks": torch.from_numpy(np.stack([s["mask"] for s in samples])),
            "input_ids": self.tokenizer([s["phrase"] for s in samples])["input_ids"],
            "positive": torch.from_numpy(positive),
            "ignore": torch.from_numpy(ignore),
        }
        if rivals:
            batch["rival_ids"] = self.tokenizer([phrase for _, phrase in rivals])["input_ids"]
            batch["rival_of"] = torch.tensor([i for i, _ in rivals])
        return batch
