"""Streams of tar files in which each picture lies beside its JSON: SA-1B as it is downloaded, or a webdataset.

Read from front to back with Python's tarfile, never unpacked and never sought in, so a shard may be of any size and
lie on any kind of disk. Members belong together by their name up to the first dot, as in a webdataset; the JSON is of
SA-1B's form (see `sa1b`).

Several readers share the work by `part` of `parts`: whole shards where there are enough of them for everybody, else
every reader goes through all shards and takes its turn, picture by picture.
"""

from __future__ import annotations

import glob
import random
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from sam_hf.data.annotated_image import IMAGE_SUFFIXES, AnnotatedImage, check_on_error
from sam_hf.data.sa1b import parse_json, parse_record

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")
UNPAIRED = 256
"""So many members may wait for their other half before the shard is taken for one of another form."""
MEMBER_BYTES = 2**26
"""A member of more is not read: SA-1B's are a few megabytes."""


class ShardReader:
    """One pass over the shards; iterate again for another.

    Args:
        shards: Tar files.
        shuffle: Pictures held back to hand out one of them at random; 0: the order of the files. Also shuffles the
            shards.
        seed: Of the shuffling; a pass is the same for the same seed.
        part: Which reader this is,
        parts: of how many that share the pictures.
        on_error: What to do with a record that cannot be read: "raise" or "skip" (and count).

    Attributes:
        skipped: Records passed over so far.

    Raises:
        ValueError: No shards, or a number out of range.
    """

    def __init__(
        self,
        shards: Sequence[str | Path],
        shuffle: int = 0,
        seed: int | str = 0,
        part: int = 0,
        parts: int = 1,
        on_error: str = "raise",
    ):
        if not shards:
            raise ValueError("shards: expected at least one tar file, got none")
        if shuffle < 0 or not 0 <= part < parts:
            raise ValueError(f"expected shuffle >= 0 and 0 <= part < parts, got {shuffle}, {part} and {parts}")
        self.shards = [Path(shard) for shard in shards]
        self.shuffle, self.seed, self.part, self.parts = shuffle, seed, part, parts
        self.on_error, self.skipped = check_on_error(on_error), 0

    def __iter__(self) -> Iterator[AnnotatedImage]:
        shards = list(self.shards)
        rng = random.Random(self.seed)
        if self.shuffle:
            rng.shuffle(shards)  # before they are shared out, so alike for every part
        rng = random.Random(f"{self.seed}/{self.part}")
        held: list[AnnotatedImage] = []
        for record in self._records(shards):
            if len(held) < self.shuffle:
                held.append(record)
                continue
            if held:
                place = rng.randrange(len(held))
                held[place], record = record, held[place]
            yield record
        rng.shuffle(held)
        yield from held

    def _records(self, shards: list[Path]) -> Iterator[AnnotatedImage]:
        by_shard = len(shards) >= self.parts
        if by_shard:
            shards = shards[self.part :: self.parts]
        number = 0
        for shard in shards:
            for name, image, content in self._pairs(shard):
                number += 1
                if not by_shard and (number - 1) % self.parts != self.part:
                    continue
                try:
                    yield parse_record(parse_json(content, name), image, name)
                except ValueError:
                    self._bad()

    def _pairs(self, shard: Path) -> Iterator[tuple[str, bytes, bytes]]:
        """(name, picture, JSON) of each picture of a shard, in the order in which the pairs are complete."""
        waiting: dict[str, tuple[str, bytes]] = {}
        try:
            with tarfile.open(shard, "r|*") as tar:
                for member in tar:
                    stem, suffix = _split_name(member.name)
                    kind = "image" if suffix in IMAGE_SUFFIXES else "json" if suffix == ".json" else None
                    if kind is None or not member.isfile():
                        continue
                    if member.size > MEMBER_BYTES:
                        self._bad(ValueError(f"{shard}: {member.name!r} is too large, {member.size} bytes"))
                        continue
                    content = tar.extractfile(member).read()
                    other = waiting.pop(stem, None)
                    if other is None or other[0] == kind:
                        waiting[stem] = (kind, content)
                        if len(waiting) > UNPAIRED:
                            break  # all that wait are bad, and so is the rest of the shard
                        continue
                    image, annotations = (content, other[1]) if kind == "image" else (other[1], content)
                    yield f"{shard}: {stem}", image, annotations
        except (OSError, EOFError, tarfile.TarError) as error:  # gzip says EOFError of a file that was cut off
            self._bad(ValueError(f"{shard}: cannot be read as a tar file: {error}"))
        for stem in waiting:
            self._bad(ValueError(_not_paired(shard, stem)))

    def _bad(self, error: ValueError | None = None) -> None:
        """Counts a bad record, or raises: `error`, or the one that is being handled."""
        if self.on_error == "skip":
            self.skipped += 1
        elif error is not None:
            raise error
        else:
            raise


def find_shards(named: str | Path) -> list[Path]:
    """The tar files meant by a file, a folder, or a pattern with `*` or `{000000..000099}`; [] if there are none."""
    path = Path(named)
    if path.is_dir():
        return sorted(entry for entry in path.iterdir() if entry.name.endswith(SHARD_SUFFIXES))
    if path.is_file():
        return [path] if path.name.endswith(SHARD_SUFFIXES) else []
    found = [Path(name) for pattern in _expand_braces(str(named)) for name in glob.glob(pattern)]
    return sorted(entry for entry in found if entry.name.endswith(SHARD_SUFFIXES))


def _expand_braces(pattern: str) -> list[str]:
    """ "a-{08..10}.tar" -> ["a-08.tar", "a-09.tar", "a-10.tar"]."""
    braces = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if braces is None:
        return [pattern]
    first, last = braces.groups()
    numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    whole = (pattern[: braces.start()] + number + pattern[braces.end() :] for number in numbers)
    return [expanded for text in whole for expanded in _expand_braces(text)]


def _split_name(name: str) -> tuple[str, str]:
    """ "./a/sa_1.jpg" -> ("a/sa_1", ".jpg"); hidden files have no suffix."""
    folder, _, base = name.removeprefix("./").rpartition("/")
    stem, dot, suffix = base.partition(".")
    return (f"{folder}/{stem}" if folder else stem), (dot + suffix).lower() if stem else ""


def _not_paired(shard: Path, stem: str) -> str:
    return f"{shard}: expected a picture and a .json of the same name near each other, {stem!r} has only one of them"
