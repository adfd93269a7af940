"""What the generator hands out: a scene, its objects, and what is true of each object.

Frame everywhere: original pixels, x to the right, y down.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Attributes:
    """What can be said of one thing, split into what is surely true and what might be taken for true.

    A phrase may be given to an object only if it is surely true of it and not even possibly true of
    anything else, so doubtful facts (a two-coloured toucan: red? black?) never decide.

    Attributes:
        nouns: Nouns surely true, most specific first ("poodle", "dog", "animal").
        possible_nouns: Nouns that might be said of it; contains `nouns`.
        colour: The colour it surely has, or None when no colour dominates.
        possible_colours: Colours that might be said of it; contains `colour`.
        pattern: "striped", "checkered", "dotted" or None.
        second_colour: The other colour of a pattern, or None.
    """

    nouns: tuple[str, ...]
    possible_nouns: frozenset[str]
    colour: str | None = None
    possible_colours: frozenset[str] = frozenset()
    pattern: str | None = None
    second_colour: str | None = None

    @property
    def noun(self) -> str:
        """The most specific noun."""
        return self.nouns[0]


@dataclass(frozen=True, eq=False)
class SceneObject:
    """One labelled object, or one part of an object.

    Attributes:
        mask: (H,W) bool, visible pixels; the mask of a whole contains the masks of its parts.
        phrases: Each is true of exactly this object in the scene, best first; may be empty.
        kind: "emoji", "shape" or "part".
        parent: Index in `Scene.objects` of the enclosing object, or None.
        held_out: Whether its glyph or its (colour, shape) pair never occurs in the train split.
        attributes: What is true of it.
    """

    mask: np.ndarray
    phrases: tuple[str, ...]
    kind: str
    parent: int | None
    held_out: bool
    attributes: Attributes


@dataclass(frozen=True, eq=False)
class Scene:
    """One picture with its objects.

    Attributes:
        image: (H,W,3) uint8 RGB.
        objects: Labelled objects; a parent comes before its parts.
        absent_phrases: Phrases true of nothing in the picture.
    """

    image: np.ndarray
    objects: list[SceneObject] = field(default_factory=list)
    absent_phrases: tuple[str, ...] = ()
