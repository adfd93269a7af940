"""Words that say where or how large: read out of a phrase, and applied to what was found without them.

CLIP hardly knows left from right, so "the left cup" is answered by finding cups and taking the left one. The rule, for
English:

**Which words count.** *left, right, top, upper, bottom, lower, middle, center, centre, central*, the same with *most*
(leftmost, uppermost, ...), *biggest, largest, smallest, littlest, tiniest*; and *big, large, small, little* after
"the", which presupposes that size tells the one that is meant; these stay in the phrase, too. They count

- in front of the noun, after article and number: "the top left cup", "two biggest dogs", "second cup from the left";
- at the end, with *on, in, at, to* or *from*, also with "side", "corner", "of the picture" and the like: "cup on the
  left", "dog in the lower right corner", "star in the middle of the picture"; *left* and *right* (and "top left", ...)
  also bare, as people write: "zebra top left".

**Which do not.** A word that belongs to the noun: *left* and *right* before parts of a body and what is worn on them
("left hand" is somebody's, "leftmost hand" is the picture's), "right angle", "top hat", "upper lip", "middle finger",
"big wheel" and their like (`COMPOUNDS`), and all that a hyphen ties to another word ("right-handed", "upper-case";
but "left-most" is leftmost); bare *top*, *bottom* and *center* at the end ("table top"). A relation to something else:
"left of the dog", "top of the cake", "left side of the road", "in the middle of the road". A direction: "bus turning
right", "man looking to the left". They stay in the phrase as they are.

**What they do.** Candidates are the instances whose score is at least half the best one's. Each word gives each of
them a figure in [0,1]: *left, right, top, bottom* where the middle of its box lies across the picture; *middle* how
near the picture's middle it is; *biggest, smallest* its area against the largest's, or the smallest's against it. The
largest sum comes first, "second from" skips one. A plural keeps those in that half of the picture (the middle third,
at least half the largest, at most twice the smallest); if there are none, the first; a number keeps that many. "The
smallest of the cups" is one, and so is "the left of the cups": of several things a place is no relation.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sam_hf.inference.text.instances import TextInstance
from sam_hf.inference.text.plurals import Amount, read_amount

CANDIDATE_SHARE = 0.5

WORDS = {
    "left": "left", "leftmost": "left", "right": "right", "rightmost": "right",
    "top": "top", "upper": "top", "topmost": "top", "uppermost": "top",
    "bottom": "bottom", "lower": "bottom", "bottommost": "bottom", "lowermost": "bottom",
    "middle": "middle", "center": "middle", "centre": "middle", "central": "middle",
    "biggest": "biggest", "largest": "biggest", "smallest": "smallest", "littlest": "smallest", "tiniest": "smallest",
}  # fmt: skip
# Count only after "the".
PLAIN_SIZES = {"big": "biggest", "large": "biggest", "small": "smallest", "little": "smallest"}
ORDINALS = {"second": 2, "third": 3, "fourth": 4, "fifth": 5, "2nd": 2, "3rd": 3, "4th": 4, "5th": 5}

_BODY = frozenset(
    "hand hands arm arms leg legs foot feet eye eyes ear ears knee knees elbow shoulder wrist ankle thumb finger "
    "thigh cheek wing wings paw paws hoof horn headlight mirror shoe shoes boot boots sock socks glove gloves sleeve "
    "skate ski lung kidney breast lane turn".split()
)
COMPOUNDS = {
    "left": _BODY,
    "right": _BODY | {"angle", "triangle", "whale"},
    "top": frozenset({"hat", "hats", "coat", "gun"}),
    "upper": frozenset({"lip", "jaw", "arm", "body", "deck"}),
    "lower": frozenset({"lip", "jaw", "arm", "leg", "body", "deck", "case"}),
    "middle": frozenset({"finger", "school"}),
    "center": frozenset({"piece", "field", "console"}),
    "centre": frozenset({"piece", "field", "console"}),
    "big": frozenset({"wheel", "toe", "top", "cat", "ben", "mac"}),
    "little": frozenset({"finger", "toe", "owl"}),
}

_ANY = "|".join(WORDS)
_SIDE = "left|right|top|bottom"
_PICTURE = r"(?: +of +(?:the +)?(?:picture|image|photo|photograph|frame|scene))"
_PARTS = "side|corner|half|part|edge|area|end|hand +side"
_AREA = f"(?: +(?:{_PARTS}))"
_FAR = r"(?:far +|very +|most +)?"
# "on the left", "in the lower right corner of the picture"
_AT_END = re.compile(
    rf"[ ,]+(?P<by>on|in|at|to) +(?:the +)?{_FAR}(?P<words>(?:{_ANY})(?:[ -]+(?:{_ANY}))?){_AREA}?{_PICTURE}?$", re.I
)
# "zebra top left"
_BARE_END = re.compile(
    r"[ ,]+(?P<words>(?:(?:top|upper|bottom|lower|far) +)?(?:left|right|leftmost|rightmost))$", re.I
)
# "second from the left" at the end; its ordinal may stand in front of the noun
_FROM_END = re.compile(rf"(?P<near>[ ,]+(?P<rank>{'|'.join(ORDINALS)}))? +from +(?:the +)?(?P<side>{_SIDE})$", re.I)
_FRONT = re.compile(r"(?P<articles>(?:(?:the|a|an|all|both|these|those) +)*)", re.I)
_NUMBERS = r"two|three|four|five|six|seven|eight|nine|ten|\d+"
_NUMBER = re.compile(rf"(?:{_NUMBERS}) +", re.I)
_NOT_A_THING = re.compile(
    rf"\b(?:the|a|an|all|both|these|those|{_NUMBERS}|{'|'.join([*ORDINALS, *PLAIN_SIZES])})\b|\W", re.I
)
# "left-most", "left most"
_MOST = re.compile(r"\b(left|right|top|upper|bottom|lower)[ -]most\b", re.I)
# "smallest of the cups", "left of the dog", "top half of the cake"
_OF = re.compile(rf"(?P<area>(?:{_PARTS}) +)?of +(?P<definite>(?:all +)?(?:the|these|those|both|{_NUMBERS})\b)?", re.I)


class Place(NamedTuple):
    """One position or size word.

    Attributes:
        kind: "left", "right", "top", "bottom", "middle", "biggest" or "smallest".
        rank: 1 for the first, 2 for "second from".
    """

    kind: str
    rank: int = 1


class Reading(NamedTuple):
    """A phrase, taken apart.

    Attributes:
        phrase: What is looked for, without position words, as one thing.
        places: Where it is or how large, in the order of writing.
        several: Whether all of them are asked for.
        limit: At most how many; None: all there are.
    """

    phrase: str
    places: tuple[Place, ...] = ()
    several: bool = False
    limit: int | None = None


def read_phrase(phrase: str, count: bool = True) -> Reading:
    """Takes position words and words of number out of a phrase; see the rule above.

    Args:
        phrase: As it was said.
        count: Whether words of number and plurals are read; where one thing is wanted anyway, "fries" are no "fry".

    Raises:
        ValueError: If only position words would remain nothing to look for, as in "the left".
    """
    rest, at_end = _read_end(_MOST.sub(r"\1most", " ".join(phrase.split())))
    rest, in_front = _read_front(rest)
    among = re.match(r"(?:the +)?of +(?:the +)?", rest, re.I) if in_front else None  # "the smallest of the cups"
    rest = rest[among.end() :] if among else rest
    places = tuple(dict.fromkeys(in_front + at_end))
    if places and not _NOT_A_THING.sub("", rest):
        raise ValueError(f'text: {phrase!r} says where, but not what; name the thing too, such as "left cup"')
    amount = read_amount(rest) if count else Amount(rest, False)
    several = amount.several and among is None
    return Reading(amount.phrase, places, several, amount.limit if several else None)


def _read_end(phrase: str) -> tuple[str, tuple[Place, ...]]:
    phrase = " " + phrase  # so that the patterns may ask for a space in front
    found = _FROM_END.search(phrase)
    if found:
        rest, rank = phrase[: found.start()], found["rank"]
        if rank is None:
            ordinal = re.search(rf"^( (?:the )?)({'|'.join(ORDINALS)})\b *", rest, re.I)
            if ordinal is None:
                return phrase.strip(), ()
            rank, rest = ordinal[2], ordinal[1] + rest[ordinal.end() :]
        return rest.strip(), (Place(found["side"].lower(), ORDINALS[rank.lower()]),)
    found = _AT_END.search(phrase) or _BARE_END.search(phrase)
    if found is None:
        return phrase.strip(), ()
    rest = phrase[: found.start()].strip(" ,")
    is_direction = rest.lower().endswith("ing") and (found.groupdict().get("by") or "to").lower() == "to"
    return (phrase.strip(), ()) if is_direction else (rest, _places(found["words"]))


def _read_front(phrase: str) -> tuple[str, tuple[Place, ...]]:
    articles = _FRONT.match(phrase)[0]
    rest = phrase[len(articles) :]
    number = _NUMBER.match(rest)
    if number:
        articles, rest = articles + number[0], rest[number.end() :]
    is_definite = "the" in articles.lower().split()
    places: tuple[Place, ...] = ()
    whole, sizes, is_superlative = (articles + rest).strip(), "", False
    kinds = WORDS | PLAIN_SIZES if is_definite else WORDS
    while rest:
        word, after = re.match(r"(\S+)\s*(?:-\s+)?(.*)", rest, re.S).groups()
        parts = word.lower().split("-")  # "upper-left" counts, "right-handed" does not
        is_place = all(part in kinds for part in parts)
        if not is_place or after.lower().split(" ")[0].rstrip(",") in COMPOUNDS.get(parts[-1], ()):
            break
        places, rest = (*places, *(Place(kinds[part]) for part in parts)), after
        sizes += f"{word} " if parts[-1] in PLAIN_SIZES else ""
        is_superlative |= parts[-1].endswith(("est", "most"))
        number = _NUMBER.match(rest)
        if number:  # "the leftmost two dogs"
            articles, rest = articles + number[0], rest[number.end() :]
    if re.match(r"(and|or)\b", rest, re.I):  # "left and right shoes" are all of them
        return whole, ()
    of = _OF.match(rest)
    if places and of:
        is_among = is_superlative or (of["definite"] and read_amount(rest).several)
        return ((articles + rest).strip(), places) if is_among and not of["area"] else (whole, ())
    return (articles + sizes + rest).strip(), places


def _places(words: str) -> tuple[Place, ...]:
    return tuple(Place(WORDS[word]) for word in re.split(r"[ -]+", words.lower()) if word in WORDS)


def choose(
    instances: Sequence[TextInstance], reading: Reading, size: tuple[int, int], several: bool
) -> list[TextInstance]:
    """Applies position words and numbers; see the rule above.

    Args:
        instances: What was found without them, best first.
        reading: What the phrase asks for.
        size: (H,W) of the picture, original pixels.
        several: Whether all are wanted, or one.

    Returns:
        Best first; with position words, best place first.
    """
    if not instances:
        return []
    if reading.places:
        least = CANDIDATE_SHARE * max(one.score for one in instances)
        instances = [one for one in instances if one.score >= least]
        figures = _figures(instances, reading.places, size)  # (places, n)
        order = np.argsort(-figures.sum(axis=0), kind="stable")
        if several and reading.limit is None and all(place.rank == 1 for place in reading.places):
            enough = np.stack([_is_there(place.kind, row) for place, row in zip(reading.places, figures, strict=True)])
            kept = [index for index in order if enough[:, index].all()]
            return [instances[index] for index in kept or order[:1]]
        skipped = max(place.rank for place in reading.places) - 1
        instances = [instances[index] for index in order][skipped:]
    limit = reading.limit if several else 1
    return list(instances[:limit])


def _figures(instances: Sequence[TextInstance], places: Sequence[Place], size: tuple[int, int]) -> np.ndarray:
    height, width = size
    boxes = np.array([one.box for one in instances], dtype=np.float64)
    across = (boxes[:, 0] + boxes[:, 2]) / (2 * width)  # 0 at the left edge, 1 at the right one
    down = (boxes[:, 1] + boxes[:, 3]) / (2 * height)
    areas = np.array([max(one.area, 1) for one in instances], dtype=np.float64)
    figures = {
        "left": 1 - across,
        "right": across,
        "top": 1 - down,
        "bottom": down,
        "middle": 1 - 2 * np.maximum(abs(across - 0.5), abs(down - 0.5)),
        "biggest": areas / areas.max(),
        "smallest": areas.min() / areas,
    }
    return np.stack([figures[place.kind] for place in places])


def _is_there(kind: str, figures: np.ndarray) -> np.ndarray:
    """Which instances a plural keeps; figures (n) of one word."""
    return figures >= (2 / 3 if kind == "middle" else 0.5)
