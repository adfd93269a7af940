"""Phrases with the masks that they name: what every reader of a phrase data set hands out.

A `TextSample` is light: the picture is opened and the masks are drawn when they are asked for. Readers give the
phrases of one picture in a row, so that whoever walks through them (`by_picture`) opens and encodes it once.

Frame: original pixels of the picture as it is stored, see `annotated_image`.
"""

import json
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from sam_hf.data.annotated_image import AnnotatedImage
from sam_hf.data.scene import Scene

__all__ = ["TextSample", "annotated_sample", "by_picture", "read_json", "scene_samples", "with_absent_phrases"]

DRAWS = 100


@dataclass(frozen=True, eq=False)
class TextSample:
    """One phrase about one picture.

    Attributes:
        phrase: As it is written in the data set.
        image_id: Of the picture; phrases with the same one share it.
        absent: Whether the phrase names nothing in the picture.
        group: What to tabulate apart; each data set has its own.
        path: File of the picture; None where it is made.
        open_picture: Gives `image`.
        draw_masks: Gives `masks`.
    """

    phrase: str
    image_id: int | str
    absent: bool
    group: str
    path: Path | None
    open_picture: Callable[[], np.ndarray] = field(repr=False)
    draw_masks: Callable[[], list[np.ndarray]] = field(repr=False)

    @property
    def image(self) -> np.ndarray:
        """The picture, (H,W,3) uint8 RGB; opened anew at each access.

        Raises:
            ValueError: If the file is missing, damaged, or of another size than its annotations.
        """
        if self.path is not None and not self.path.is_file():
            raise ValueError(
                f"the picture {os.fspath(self.path)!r} of the data set does not exist: "
                "download the pictures, or say where they are"
            )
        return self.open_picture()

    @property
    def masks(self) -> list[np.ndarray]:
        """The instances that the phrase names, (H,W) bool each; none where it is absent. Drawn at each access.

        Raises:
            ValueError: If an annotation cannot be drawn.
        """
        return self.draw_masks()


def by_picture(samples: Iterable[TextSample]) -> Iterator[list[TextSample]]:
    """Joins neighbouring samples of the same picture."""
    for _, group in groupby(samples, key=lambda sample: sample.image_id):
        yield list(group)


def annotated_sample(
    phrase: str, image_id: int, group: str, path: Path, size: tuple[int, int], segmentations: list
) -> TextSample:
    """A phrase about a picture with annotations of the COCO kind.

    Args:
        phrase: See `TextSample`, as for `image_id`, `group` and `path`.
        image_id: See there.
        group: See there.
        path: See there.
        size: (H,W) according to the annotations.
        segmentations: Of each instance: polygons, or run lengths. None at all makes an absent phrase.
    """
    picture = AnnotatedImage(f"picture {image_id} ({path.name})", path, size, tuple(segmentations))

    def draw() -> list[np.ndarray]:
        return [picture.mask(index) for index in range(len(segmentations))]

    return TextSample(phrase, image_id, not segmentations, group, path, picture.pixels, draw)


def with_absent_phrases(
    samples: Sequence[TextSample], kinds: Sequence[str | None], present: Mapping[int | str, Set[str]]
) -> list[TextSample]:
    """Adds to each picture a phrase about another one, which names a kind of thing that the picture does not show.

    Data sets of present phrases alone say nothing of false alarms. The draw depends on the samples only.

    Args:
        samples: Present phrases, picture by picture.
        kinds: What kind of thing each of them names; None: it does not say, so it may be true anywhere.
        present: By `image_id`, the kinds that the picture shows, as far as its annotations say.

    Returns:
        The samples, after those of each picture an absent one in the group "absent"; none where a hundred draws found
        only kinds that the picture shows.
    """
    found = []
    for group in by_picture(samples):
        shown, rng = present[group[0].image_id], random.Random(f"{group[0].image_id}")
        drawn = (rng.randrange(len(samples)) for _ in range(DRAWS))
        other = next((place for place in drawn if kinds[place] is not None and kinds[place] not in shown), None)
        found += group
        if other is not None:
            said = samples[other].phrase
            found.append(replace(group[0], phrase=said, absent=True, group="absent", draw_masks=list))
    return found


def scene_samples(scene: Scene, index: int) -> list[TextSample]:
    """A synthetic scene's objects by their best phrase, then its absent phrases.

    Args:
        scene: From `synthetic.SceneGenerator`. Objects without a phrase or a visible pixel are passed over.
        index: Of the scene.

    Returns:
        Groups are "seen" and "held out" (glyphs and attribute pairs that no training scene shows), "seen part" and
        "held out part", and "absent".
    """

    def sample(phrase: str, group: str, masks: list[np.ndarray]) -> TextSample:
        return TextSample(phrase, index, not masks, group, None, lambda: scene.image, lambda: masks)

    found = []
    for item in scene.objects:
        if item.phrases and item.mask.any():
            group = ("held out" if item.held_out else "seen") + (" part" if item.kind == "part" else "")
            found.append(sample(item.phrases[0], group, [item.mask]))
    return found + [sample(phrase, "absent", []) for phrase in scene.absent_phrases]


def read_json(path: str | os.PathLike) -> Any:
    """Reads an annotation file.

    Raises:
        ValueError: If it is missing or no JSON.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise ValueError(f"cannot read the annotations {os.fspath(path)!r}: {error.strerror}") from None
    except ValueError as error:  # not UTF-8, or not JSON
        raise ValueError(f"the annotations {os.fspath(path)!r} are no JSON: {error}") from None
