"""What a user names as data, as something that samples can be drawn from."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from torch.utils.data import get_worker_info

from sam_hf.data.annotated_image import AnnotatedImage
from sam_hf.data.coco import CocoImages
from sam_hf.data.sa1b import Sa1bFolder
from sam_hf.data.shards import ShardReader, find_shards
from sam_hf.data.synthetic import SceneGenerator
from sam_hf.training.masks_dataset import IndexedMasksDataset, MaskSampler, MasksDataset

LOOKED_AT, PHRASES = 200, 500  # records in which phrases are looked for, and how many are enough

SA1B_FORM = "the data's own; SA-1B itself: SA-1B Dataset Research License"
LICENCES = {
    "folder": SA1B_FORM,
    "shards": SA1B_FORM,
    "coco": "the data's own; COCO and LVIS: annotations CC BY 4.0, pictures under their owners' terms at Flickr",
    "synthetic": "drawn by this package; emoji are of the font, Noto Color Emoji: SIL Open Font License 1.1",
}


@dataclass(frozen=True)
class DataSource:
    """Data by name.

    Attributes:
        kind: "folder", "coco", "shards" or "synthetic".
        summary: One line for reports, without a machine's paths.
        content: `Sa1bFolder`, `CocoImages`, a list of tar files, or a `SceneGenerator`.
    """

    kind: str
    summary: str
    content: Any

    @property
    def licence(self) -> str:
        """What is known of the terms that the pictures and masks come under."""
        return LICENCES[self.kind]

    def records(self) -> Iterator[AnnotatedImage]:
        """Records in order; those that cannot be read are passed over."""
        if self.kind == "synthetic":
            yield from (scene_record(self.content, index) for index in range(2**31))
        elif self.kind == "shards":
            yield from ShardReader(self.content, on_error="skip")
        else:
            for index in range(len(self.content)):
                try:
                    yield self.content[index]
                except ValueError:
                    continue

    def phrases(self) -> tuple[set[str], set[str]]:
        """What the first records say of their objects, and what is absent from them; 500 are enough."""
        said, absent = set(), set()
        for record in islice(self.records(), LOOKED_AT):
            said.update(phrase for phrases in record.phrases for phrase in phrases)
            absent.update(record.absent_phrases)
            if len(said) >= PHRASES:
                break
        return said, absent

    def dataset(
        self,
        sampler: MaskSampler,
        seed: int = 0,
        on_error: str = "raise",
        process: int = 0,
        processes: int = 1,
        session: int = 0,
    ) -> MasksDataset:
        """Training samples.

        Args:
            sampler: Makes them of records.
            seed: Of all random choices.
            on_error: "raise" or "skip".
            process, processes: Which training process this is, of how many (shards only: others are shared out by
                the trainer's sampler).
            session: Another number gives shards another random order, the same for all processes; a run that goes on
                uses its step.
        """
        if self.kind == "synthetic":
            return MasksDataset(SceneRecords(self.content), sampler, seed, on_error)
        if self.kind == "shards":
            drawn = ShardedRecords(self.content, process, processes, f"{seed}/{session}", on_error)
            return MasksDataset(drawn, sampler, seed, on_error)
        return IndexedMasksDataset(self.content, sampler, seed, on_error)


def open_data(
    data: str | Path,
    images: str | Path | None = None,
    category_phrases: bool = False,
    image_size: int = 1024,
    font: str | bool | None = None,
    seed: int = 0,
) -> DataSource:
    """Finds out what is meant.

    Args:
        data: A folder in SA-1B's layout, a COCO JSON, tar shards (a file, a folder of them, or a pattern such as
            `sa_{000000..000099}.tar`), or "synthetic".
        images: Folder of the pictures of a COCO JSON.
        category_phrases: Take COCO's category names as phrases.
        image_size: Side of synthetic scenes.
        font: Their emoji font; None: look for it; False: shapes only.
        seed: Of the synthetic scenes.

    Raises:
        ValueError: There is no such data, or it is of another form, or an option does not go with it.
    """
    name = str(data)
    is_coco = name.endswith(".json")
    if not is_coco and (images is not None or category_phrases):
        raise ValueError(f"images and category_phrases go with a COCO JSON; got data {name!r}")
    if name == "synthetic":
        scenes = SceneGenerator(size=image_size, split="train", seed=seed, font=font)
        return DataSource("synthetic", f"synthetic scenes of {image_size} px (train split, seed {seed})", scenes)
    if is_coco:
        if not Path(name).is_file():
            raise ValueError(f"data: there is no file {name!r}")
        coco = CocoImages(name, images, category_phrases)
        said = ", category names as phrases" if category_phrases else ""
        return DataSource("coco", f"COCO file {Path(name).name}, {len(coco)} pictures{said}", coco)
    shards = find_shards(name)
    if shards:
        return DataSource("shards", f"{len(shards)} tar shards, {shards[0].name} to {shards[-1].name}", shards)
    if Path(name).is_dir():
        folder = Sa1bFolder(name)
        return DataSource(
            "folder", f"folder {Path(name).resolve().name} in SA-1B's layout, {len(folder)} pictures", folder
        )
    raise ValueError(
        f'data: expected a folder in SA-1B\'s layout, a COCO .json, .tar shards or "synthetic", got {name!r}'
        + (", which is none of them" if Path(name).exists() else ", which does not exist")
    )


def scene_record(generator: Callable[[int], Any], index: int) -> AnnotatedImage:
    """A synthetic scene as a record."""
    scene = generator(index)
    return AnnotatedImage(
        name=f"synthetic scene {index}",
        image=scene.image,
        size=scene.image.shape[:2],
        masks=tuple(thing.mask for thing in scene.objects),
        phrases=tuple(tuple(thing.phrases) for thing in scene.objects),
        absent_phrases=tuple(scene.absent_phrases),
    )


class SceneRecords:
    """Draws synthetic scenes."""

    def __init__(self, generator: Callable[[int], Any]):
        self.generator = generator

    def __call__(self, index: int, attempt: int) -> AnnotatedImage:
        """Scene `index`, or one after it."""
        return scene_record(self.generator, index + attempt)


class ShardedRecords:
    """Draws the next record of a worker's own part of the shards, pass after pass, whatever the index.

    Args:
        shards: Tar files.
        process, processes: Which training process this is, of how many.
        seed: Of the order, alike in all processes.
        on_error: "raise" or "skip".
        shuffle: Pictures held back, see `ShardReader`.
    """

    def __init__(
        self,
        shards: Sequence[str | Path],
        process: int = 0,
        processes: int = 1,
        seed: str = "0",
        on_error: str = "raise",
        shuffle: int = 256,
    ):
        self.shards, self.process, self.processes = list(shards), process, processes
        self.seed, self.on_error, self.shuffle = seed, on_error, shuffle
        self._skipped = multiprocessing.Value("q", 0)
        self._records: Iterator[AnnotatedImage] | None = None  # opened by the worker that reads
        self._begun = 0  # passes

    @property
    def skipped(self) -> int:
        """Unreadable records passed over by all workers of this process."""
        return self._skipped.value

    def __call__(self, index: int, attempt: int) -> AnnotatedImage:
        """The next record.

        Raises:
            ValueError: A record cannot be read, or there are fewer pictures than workers.
        """
        if self._records is None:
            self._records = self._passes()
        try:
            return next(self._records)
        except ValueError:
            self._records = None  # a generator that raised has ended; the next one goes on with another pass
            raise

    def _passes(self) -> Iterator[AnnotatedImage]:
        worker = get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        part, parts = self.process * workers + number, self.processes * workers
        while True:
            order = f"{self.seed}/{self._begun}"
            self._begun += 1
            reader = ShardReader(self.shards, self.shuffle, order, part, parts, self.on_error)
            counted, found = 0, False
            for record in reader:
                found = True
                with self._skipped.get_lock():
                    self._skipped.value += reader.skipped - counted
                counted = reader.skipped
                yield record
            if not found:
                raise ValueError(
                    f"{self.shards[0]}: the shards hold too few readable pictures for {parts} readers (fewer workers?)"
                )
