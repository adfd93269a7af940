"""Annotated pictures as training samples for the text branch: the picture, up to 64 of its masks, and for each mask
what CLIP's image tower is to see of it.

A sample is a pure function of the seed and its index, so a run that was stopped goes on with the same data; only
shards, which are streams, go on with another random pass.

Source: Segment Anything, App. A (at most 64 masks per picture, none over 90 % of it) and D.5. "Area of at least 100²
pixels" is read in the model's frame, with the picture's longer side at 1024, and in proportion for a smaller model:
files of any resolution are then treated alike. The crops are cut from the original picture, before any jitter, so they
are as sharp as the file. Masks come at the decoder's resolution, which is where the loss is taken.
"""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from sam_hf.data.annotated_image import AnnotatedImage, AnnotatedImages, check_on_error
from sam_hf.training.crop_dataset import random_crop
from sam_hf.training.large_scale_jitter import SCALE_RANGE, Placement, jitter, names_a_side, whole
from sam_hf.training.scene_dataset import normalise

PAPER_SIDE = 1024  # the frame in which the paper's pixels are counted
CROP_SCALE = (1.0, 2.0)
ZERO_BACKGROUND = 0.5
FIRST_PHRASE = 0.5  # probability of an object's best phrase; else any of its phrases
LEAST_VISIBLE = 0.1  # a mask of which jitter leaves less in view is left out
ATTEMPTS = 100


class MaskSampler:
    """Turns a record into a sample.

    Args:
        image_size: Side S of the model's input.
        low_size: Side 4h of its masks.
        masks: At most so many per picture, chosen at random.
        min_side: Smallest mask: the square root of its area, in pixels of a 1024-pixel picture.
        max_area: Largest mask, share of the picture.
        scale_range: Of the jitter; None: no jitter, no mirroring.
        crop_size: Side of the crops for `clip.CropEncoder`; None: no crops.
        with_phrases: Prefer masks that have a phrase when there are more than `masks`.
    """

    def __init__(
        self,
        image_size: int,
        low_size: int,
        masks: int = 64,
        min_side: float = 100.0,
        max_area: float = 0.9,
        scale_range: tuple[float, float] | None = SCALE_RANGE,
        crop_size: int | None = None,
        with_phrases: bool = False,
    ):
        if masks < 1:
            raise ValueError(f"masks: expected at least 1, got {masks}")
        if scale_range is not None and not 0 < scale_range[0] <= scale_range[1]:
            raise ValueError(f"scale_range: expected 0 < smallest <= largest, got {scale_range}")
        self.image_size, self.low_size, self.masks = image_size, low_size, masks
        self.min_side, self.max_area, self.scale_range = min_side, max_area, scale_range
        self.crop_size, self.with_phrases = crop_size, with_phrases

    def __call__(self, record: AnnotatedImage, seed: str) -> dict[str, Any] | None:
        """The sample of a record: pixel_values (3,S,S), masks (P,4h,4w) uint8, phrases (P texts or None),
        absent_phrases, all_phrases, seed and, with crops, crops (P,3,s,s) uint8 and crop_masks (P,s,s).

        Returns:
            None where no mask is of a usable size.

        Raises:
            ValueError: The record cannot be decoded; the message names its file.
        """
        rng = random.Random(seed)
        chosen = self._choose(record, rng)
        if not chosen:
            return None
        picture = record.pixels()
        placement = self._placement(record, rng)
        masks, crops, crop_masks, phrases = [], [], [], []
        for index in chosen:
            mask = record.mask(index)
            low = self._low_resolution(mask, placement)
            if low is None:
                continue
            masks.append(low)
            said = record.phrases[index]
            phrases.append((said[0] if rng.random() < FIRST_PHRASE else rng.choice(said)) if said else None)
            if self.crop_size is not None:
                crop, cut = crop_around(picture, mask, self.crop_size, rng)
                turn = np.s_[:, ::-1] if placement.mirrored else np.s_[:, :]
                crops.append(crop[turn])
                crop_masks.append(cut[turn])
        if not masks:
            return None
        sample = {
            "pixel_values": self._pixel_values(picture, placement),
            "masks": torch.from_numpy(np.stack(masks).astype(np.uint8)),
            "phrases": phrases,
            "absent_phrases": list(record.absent_phrases),
            "all_phrases": {phrase for said in record.phrases for phrase in said},
            "seed": seed,
        }
        if self.crop_size is not None:
            sample["crops"] = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)  # (P,s,s,3) -> (P,3,s,s)
            sample["crop_masks"] = torch.from_numpy(np.stack(crop_masks))
        return sample

    def _choose(self, record: AnnotatedImage, rng: random.Random) -> list[int]:
        """Numbers of at most `masks` masks of usable size."""
        height, width = record.size
        least = (self.min_side / PAPER_SIDE * max(height, width)) ** 2  # original pixels
        most = self.max_area * height * width
        usable = [index for index in range(len(record.masks)) if least <= record.area(index) <= most]
        rng.shuffle(usable)
        if self.with_phrases:
            usable.sort(key=lambda index: not record.phrases[index])
        return usable[: self.masks]

    def _placement(self, record: AnnotatedImage, rng: random.Random) -> Placement:
        if self.scale_range is None:
            return whole(record.size, self.image_size)
        phrases = [*record.absent_phrases, *(phrase for said in record.phrases for phrase in said)]
        mirror = 0.0 if names_a_side(phrases) else 0.5
        return jitter(record.size, self.image_size, rng, self.scale_range, mirror)

    def _pixel_values(self, picture: np.ndarray, placement: Placement) -> torch.Tensor:
        seen = normalise(placement.place(picture))
        values = torch.zeros(3, self.image_size, self.image_size)  # padding is zero after normalisation, as in SAM
        values[:, : seen.shape[1], : seen.shape[2]] = seen
        return values

    def _low_resolution(self, mask: np.ndarray, placement: Placement) -> np.ndarray | None:
        """(4h,4w) bool; None where too little of it is in view."""
        seen = placement.place(mask)
        whole_area = mask.mean() * placement.size[0] * placement.size[1]
        if seen.sum() < LEAST_VISIBLE * whole_area:
            return None
        square = np.zeros((self.image_size, self.image_size), np.uint8)
        square[: seen.shape[0], : seen.shape[1]] = seen * 255
        low = cv2.resize(square, (self.low_size, self.low_size), interpolation=cv2.INTER_AREA) > 127
        return low if low.any() else None


def crop_around(picture: np.ndarray, mask: np.ndarray, size: int, rng: random.Random) -> tuple[np.ndarray, np.ndarray]:
    """`random_crop` of appendix D.5: 1 to 2 times the mask's box, half of them on black.

    A large picture is first cut down to what the crop can reach, so that smoothing costs no more than the object.
    """
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    side = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    reach = int(side * (CROP_SCALE[1] / 2 + 1.2 * CROP_SCALE[1] / size)) + 4  # half the square, and the smoothing
    middle_y, middle_x = (rows[0] + rows[-1]) // 2, (columns[0] + columns[-1]) // 2
    window = np.s_[max(middle_y - reach, 0) : middle_y + reach + 1, max(middle_x - reach, 0) : middle_x + reach + 1]
    return random_crop(picture[window], mask[window], size, CROP_SCALE, ZERO_BACKGROUND, rng)


class MasksDataset(Dataset):
    """An endless stream of samples: index -> record -> sample.

    Records without a usable mask are passed over in silence, those that cannot be read are an error or are counted.

    Args:
        draw: (index, attempt) -> record; `attempt` counts up where the records before were of no use. Its attribute
            `skipped`, if it has one, is counted too.
        sampler: See `MaskSampler`.
        seed: Of all random choices.
        on_error: "raise" or "skip".
    """

    def __init__(
        self,
        draw: Callable[[int, int], AnnotatedImage],
        sampler: MaskSampler,
        seed: int = 0,
        on_error: str = "raise",
    ):
        self.draw, self.sampler, self.seed = draw, sampler, seed
        self.on_error = check_on_error(on_error)
        self._skipped = multiprocessing.Value("q", 0)

    @property
    def skipped(self) -> int:
        """Unreadable records passed over by all workers of this process."""
        return self._skipped.value + getattr(self.draw, "skipped", 0)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Sample `index`, see `MaskSampler`.

        Raises:
            ValueError: A record cannot be read, or a hundred in a row were of no use.
        """
        last = None
        for attempt in range(ATTEMPTS):
            try:
                sample = self.sampler(self.draw(index, attempt), f"{self.seed}/{index}/{attempt}")
            except ValueError as error:
                if self.on_error == "raise":
                    raise
                last = error
                with self._skipped.get_lock():
                    self._skipped.value += 1
                continue
            if sample is not None:
                return sample
        side = self.sampler.min_side / PAPER_SIDE * self.sampler.image_size
        raise ValueError(
            f"{ATTEMPTS} pictures in a row had no usable mask: from {side:.0f}² pixels (picture at "
            f"{self.sampler.image_size}) to {self.sampler.max_area:.0%} of the picture"
            + (f"; last error: {last}" if last else "")
        )


class IndexedMasksDataset(MasksDataset):
    """Samples of pictures that can be asked for by number; its length makes the trainer walk permutations.

    Args:
        records: See `AnnotatedImages`.
        sampler, seed, on_error: See `MasksDataset`.
    """

    def __init__(self, records: AnnotatedImages, sampler: MaskSampler, seed: int = 0, on_error: str = "raise"):
        super().__init__(self._draw, sampler, seed, on_error)
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def _draw(self, index: int, attempt: int) -> AnnotatedImage:
        return self.records[(index + attempt) % len(self.records)]


class MasksCollate:
    """Samples -> a batch for `SamForPromptableTraining`; slots that a picture does not fill are not valid.

    Args:
        tokenizer: Phrases -> {"input_ids", "attention_mask"}; None: phrases are left out.
        negatives: Share of the slots with a phrase that get a phrase of something absent instead: one that the data
            names as absent or, failing that, a phrase of another picture (as CLIPSeg does).
        others: Phrases of other pictures; those of the batch come on top.

    Raises:
        ValueError: `negatives` is no such share, or asked for where `others` has no two phrases.
    """

    def __init__(
        self,
        tokenizer: Callable[[list[str]], dict[str, torch.Tensor]] | None = None,
        negatives: float = 0.0,
        others: Iterable[str] = (),
    ):
        if not 0.0 <= negatives < 1.0:
            raise ValueError(f"negatives: expected a share in [0, 1), got {negatives}")
        self.tokenizer, self.negatives, self.others = tokenizer, negatives, frozenset(others)
        if negatives and len(self.others) < 2:
            raise ValueError(
                f"negatives: expected 0 for data with so few phrases, {sorted(self.others)}; got {negatives}"
            )

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """See `SamForPromptableTraining.forward`."""
        slots = max(len(sample["masks"]) for sample in samples)
        batch = {"pixel_values": torch.stack([sample["pixel_values"] for sample in samples])}
        for name in ("masks", "crops", "crop_masks"):
            if name in samples[0]:
                batch[name] = torch.stack([_filled_up(sample[name], slots) for sample in samples])
        batch["valid"] = torch.tensor([[slot < len(s["masks"]) for slot in range(slots)] for s in samples])
        if self.tokenizer is None:
            return batch
        batch["absent"] = torch.zeros_like(batch["valid"])
        phrases = [[*sample["phrases"], *[None] * (slots - len(sample["phrases"]))] for sample in samples]
        for row, sample in enumerate(samples):
            self._make_absent(row, sample, samples, phrases[row], batch)
        has_text = torch.tensor([[phrase is not None for phrase in row] for row in phrases])
        tokens = self.tokenizer([phrase or "" for row in phrases for phrase in row])
        shape = (len(samples), slots)
        batch["input_ids"] = tokens["input_ids"].unflatten(0, shape)
        batch["attention_mask"] = tokens["attention_mask"].unflatten(0, shape) * has_text.unsqueeze(-1)
        batch["has_text"] = has_text
        return batch

    def _make_absent(
        self,
        row: int,
        sample: dict[str, Any],
        samples: Sequence[dict[str, Any]],
        phrases: list[str | None],
        batch: dict[str, torch.Tensor],
    ) -> None:
        """Replaces some of the row's phrases by absent ones, in place."""
        if not self.negatives:
            return
        rng = random.Random(f"{sample['seed']}/negatives")
        choices = sample["absent_phrases"]
        if not choices:
            others = self.others.union(*(other["all_phrases"] for other in samples))
            choices = sorted(others - sample["all_phrases"])
        for slot, phrase in enumerate(phrases):
            if phrase is None or not choices or rng.random() >= self.negatives:
                continue
            phrases[slot] = rng.choice(choices)
            batch["absent"][row, slot] = True
            for name in ("masks", "crops", "crop_masks"):
                if name in batch:
                    batch[name][row, slot] = 0


def _filled_up(values: torch.Tensor, slots: int) -> torch.Tensor:
    """(P,...) -> (slots,...), zeros at the end."""
    return torch.cat([values, values.new_zeros(slots - len(values), *values.shape[1:])])
