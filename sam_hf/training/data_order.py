"""Which samples a step sees: a pure function of the step, so that a resumed run reads on where the last one stood."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class StepSampler(Sampler[list[int]]):
    """Batches of indices from a given step on, without end; a pure function of the step.

    A dataset with a length is walked in seeded permutations; one without is an endless stream and gets consecutive
    indices.

    Args:
        length: of the dataset, or None.
        batch_size: samples per batch.
        first: number of the first batch of this process.
        process, processes: which one of how many; they take turns, batch by batch.
        seed: of the permutations.
    """

    def __init__(
        self, length: int | None, batch_size: int, first: int, process: int, processes: int, seed: int
    ) -> None:
        self.length, self.batch_size, self.first = length, batch_size, first
        self.process, self.processes, self.seed = process, processes, seed

    def __iter__(self) -> Iterator[list[int]]:
        number, epoch, order = self.first, -1, torch.empty(0)
        while True:
            start = (number * self.processes + self.process) * self.batch_size
            batch = []
            for position in range(start, start + self.batch_size):
                if self.length is None:
                    batch.append(position)
                    continue
                if position // self.length != epoch:
                    epoch = position // self.length
                    generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                    order = torch.randperm(self.length, generator=generator)
                batch.append(int(order[position % self.length]))
            yield batch
            number += 1
