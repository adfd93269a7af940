"""What can be said of an object, and when it may be said.

A `Claim` is a phrase before it becomes words. It is given to an object only if it is surely true of that object and
not even possibly true of any other thing in the picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from .colors import COLOURS
from .glyph_table import CATEGORIES, glyph_entries
from .glyphs import glyph_nouns
from .scene import Attributes
from .shapes import HELD_OUT_PAIRS, SHAPES, shape_nouns
from .textures import PATTERNS

MAX_PHRASES = 6
_CATEGORIES = tuple(sorted(CATEGORIES))
_CLEAR_RATIO = 1.7  # how much larger a "big" thing is than every other thing of its kind


@dataclass(frozen=True)
class Thing:
    """One drawn thing, labelled or not, as the phrases see it.

    Attributes:
        attributes: What is true of it.
        area: Its visible pixels; for clutter 0.
        full_area: Its pixels before others covered it.
        box: x0, y0, x1, y1 in pixels.
        parent: Index of the enclosing thing, or None.
        held_out: Whether its glyph or attribute pair is held out.
    """

    attributes: Attributes
    area: float
    full_area: float
    box: tuple[float, float, float, float]
    parent: int | None = None
    held_out: bool = False


@dataclass(frozen=True)
class Claim:
    """A noun with adjectives."""

    noun: str
    colour: str | None = None
    pattern: str | None = None
    second_colour: str | None = None

    def surely(self, a: Attributes) -> bool:
        """Whether it is true of something."""
        return (
            self.noun in a.nouns
            and self.colour in (None, a.colour)
            and self.pattern in (None, a.pattern)
            and self.second_colour in (None, a.second_colour)
        )

    def possibly(self, a: Attributes) -> bool:
        """Whether someone might take it for true of something."""
        return (
            self.noun in a.possible_nouns
            and (self.colour is None or self.colour in a.possible_colours)
            and self.pattern in (None, a.pattern)
            and (self.second_colour is None or self.second_colour in a.possible_colours)
        )

    def words(self, size: str | None = None) -> str:
        """The phrase without an article."""
        colour = f"{self.colour} and {self.second_colour}" if self.second_colour else self.colour
        return " ".join(word for word in (size, colour, self.pattern, self.noun) if word)


def _claims(thing: Thing) -> list[Claim]:
    """Everything one could say of a thing, best first."""
    a = thing.attributes
    claims = []
    for noun in a.nouns:
        if noun == "shape" and len(a.nouns) > 1 and a.colour is None:
            continue
        named = noun.split()[0] == a.colour  # "red book" is not a "red red book"
        if a.pattern and a.second_colour:
            claims.append(Claim(noun, a.colour, a.pattern, a.second_colour))
        if a.pattern:
            claims.append(Claim(noun, a.colour, a.pattern))
        if a.colour and not named:
            claims.append(Claim(noun, a.colour))
        if a.pattern:
            claims.append(Claim(noun, None, a.pattern))
        claims.append(Claim(noun))
    if thing.held_out:
        # The nouns of a held-out glyph are unseen words: first comes what a reader of the train split understands.
        claims.sort(key=lambda claim: claim.noun not in CATEGORIES and "shape" not in a.nouns)
    return claims


def _size_word(
    claim: Claim, index: int, rivals: list[int], things: Sequence[Thing], rng: np.random.Generator
) -> str | None:
    def ratios(key: str) -> list[float]:
        return [getattr(things[index], key) / max(getattr(things[k], key), 1e-6) for k in rivals]

    if any(things[k].area <= 0 for k in rivals):
        return None
    both = ratios("area") + ratios("full_area")
    if min(both) > _CLEAR_RATIO:
        return "big" if rng.random() < 0.6 else "large"
    if max(both) < 1 / _CLEAR_RATIO:
        return "small" if rng.random() < 0.7 else "little"
    return None


def _apart(first: Thing, second: Thing) -> bool:
    a, b = first.box, second.box
    return a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def _article(phrase: str, rng: np.random.Generator) -> str:
    pick = rng.random()
    if pick < 0.7:
        return phrase
    return (
        f"the {phrase}"
        if pick < 0.85
        else f"{'an' if phrase[0] in 'aeio' or phrase.startswith('um') else 'a'} {phrase}"
    )


def describe(things: Sequence[Thing], index: int, rng: np.random.Generator) -> tuple[str, ...]:
    """The phrases of one thing, best first.

    Args:
        things: Everything drawn, so that "apple" is not said where there are two.
        index: The thing to describe.
    """
    thing, phrases, sized = things[index], [], 0
    for claim in _claims(thing):
        if not claim.surely(thing.attributes):
            continue
        rivals = [k for k, other in enumerate(things) if k != index and claim.possibly(other.attributes)]
        if not rivals:
            phrases.append(_article(claim.words(), rng))
        elif sized < 2:
            size = _size_word(claim, index, rivals, things, rng)
            if size:
                phrases.append(f"the {claim.words(size)}")
                sized += 1
            elif thing.parent is not None and all(_apart(things[k], things[thing.parent]) for k in rivals):
                whole = _name_of(things, thing.parent)
                if whole:
                    phrases.append(f"{claim.words()} inside the {whole}")
                    sized += 1
    phrases = list(dict.fromkeys(phrases))[:MAX_PHRASES]
    if phrases and thing.parent is not None and " inside " not in phrases[0] and rng.random() < 0.35:
        whole = _name_of(things, thing.parent)
        if whole:
            phrases = [f"{_bare(phrases[0])} inside the {whole}", *phrases][:MAX_PHRASES]
    return tuple(phrases)


def _bare(phrase: str) -> str:
    return phrase.split(" ", 1)[1] if phrase.split(" ", 1)[0] in ("a", "an", "the") else phrase


def _name_of(things: Sequence[Thing], index: int) -> str | None:
    """The first claim that names a thing alone, in bare words."""
    for claim in _claims(things[index]):
        if not any(claim.possibly(other.attributes) for k, other in enumerate(things) if k != index):
            return claim.words()
    return None


def is_absent(claim: Claim, things: Iterable[Thing]) -> bool:
    """Whether a claim is not even possibly true of anything."""
    return not any(claim.possibly(thing.attributes) for thing in things)


def absent_claims(
    things: Sequence[Thing], split: str, glyphs: bool, rng: np.random.Generator, count: int | None = None
) -> tuple[str, ...]:
    """Phrases of things that are not in the picture, hard ones (right noun, wrong colour) among them.

    Args:
        things: Everything drawn.
        split: Whose glyphs may be named.
        glyphs: Whether glyphs may be named at all.
        rng: Draws them; the first ones are the same whatever `count` is.
        count: How many; None: two to four.
    """
    few, out = 2 + int(rng.random() * 3), []
    wanted = few if count is None else count
    entries = _glyphs_of(split)
    for attempt in range(max(40, 5 * wanted)):
        if len(out) >= wanted:
            break
        kind = (attempt + int(rng.random() * 3)) % 3
        colour = COLOURS[int(rng.random() * len(COLOURS))]
        if kind == 0 and things:
            noun = things[int(rng.random() * len(things))].attributes.noun
            claim = Claim(noun, colour if noun.split()[0] not in COLOURS else None)
        elif kind == 1 and glyphs:
            nouns = glyph_nouns(entries[int(rng.random() * len(entries))])
            claim = Claim(nouns[int(rng.random() ** 3 * len(nouns))])
        else:
            shape = SHAPES[int(rng.random() * len(SHAPES))]
            claim = Claim(shape, colour if rng.random() < 0.8 else None)
        if split == "train" and (claim.colour, claim.noun) in HELD_OUT_PAIRS:
            continue
        if rng.random() < 0.2 and claim.noun in SHAPES:
            claim = replace(claim, pattern=PATTERNS[int(rng.random() * len(PATTERNS))])
        phrase = _article(claim.words(), rng)
        if is_absent(claim, things) and phrase not in out:
            out.append(phrase)
    return tuple(out)


def near_misses(attributes: Attributes, split: str, rng: np.random.Generator, count: int) -> tuple[Claim, ...]:
    """What is nearly true of something: its noun in another colour, or another noun, mostly in its colour.

    Of the other nouns most are of its kind, and some are categories: "food" is near to much that is none.

    Args:
        attributes: What is true of it.
        split: Whose nouns, and pairs of colour and shape, may be said.
        rng: Draws them.
        count: At most so many.
    """
    alike = SHAPES if "shape" in attributes.nouns else _all_glyph_nouns(split)
    out: dict[Claim, None] = {}
    for _ in range(4 * count):
        if len(out) == count:
            break
        noun = attributes.nouns[int(rng.random() * len(attributes.nouns))]
        if rng.random() < 0.5:
            claim = Claim(noun, COLOURS[int(rng.random() * len(COLOURS))])
        else:
            others = alike if rng.random() < 0.6 else SHAPES if rng.random() < 0.3 else _CATEGORIES
            claim = Claim(others[int(rng.random() * len(others))], attributes.colour if rng.random() < 0.7 else None)
        if claim.noun.split()[0] in COLOURS:
            claim = replace(claim, colour=None)
        held_out = split == "train" and (claim.colour, claim.noun) in HELD_OUT_PAIRS
        if not held_out and not claim.possibly(attributes):
            out[claim] = None
    return tuple(out)


@cache
def _glyphs_of(split: str) -> tuple:
    entries = glyph_entries()
    return entries if split == "test" else tuple(entry for entry in entries if not entry.held_out)


@cache
def _all_glyph_nouns(split: str) -> tuple[str, ...]:
    return tuple(sorted({noun for entry in _glyphs_of(split) for noun in glyph_nouns(entry)}))


def vocabulary(split: str) -> tuple[str, ...]:
    """Nouns, and colours with shapes, that scenes of a split may mention, sorted.

    Raises:
        ValueError: If `split` is neither "train" nor "test".
    """
    if split not in ("train", "test"):
        raise ValueError(f"split: expected 'train' or 'test', got {split!r}")
    nouns = set(_all_glyph_nouns(split))
    nouns |= {noun for shape in SHAPES for noun in shape_nouns(shape)[0]}
    pairs = {f"{c} {s}" for c in COLOURS for s in SHAPES if split == "test" or (c, s) not in HELD_OUT_PAIRS}
    return tuple(sorted(nouns | pairs | set(COLOURS) | set(PATTERNS)))
