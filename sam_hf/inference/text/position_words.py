"""Words that say where or how large: read out of a phrase, and applied to what was found without them.

CLIP hardly knows left from right, so "the left cup" is answered by finding cups and taking the left one. The rule, for
English:

**Which words count.** *left, right, top, upper, bottom, lower, middle, center, centre, central*, the same with *most*
(leftmost, uppermost, ...), *biggest, largest, smallest, littlest, tiniest*; and *big, large, small, little* after
"the", which presupposes that size tells the one that is meant; these stay in the phrase, too. *Far, very, most,
furthest* and *farthest* in front of one of the others ("far left", but not "very big") go with it. They count

- in front of the noun, after article and number: "the top left cup", "two biggest dogs", "the far left cup";
- at the end, with *on, in, at* or *to*, also with "side", "corner", "of the picture" and the like: "cup on the left",
  "dog in the lower right corner", "star in the middle of the picture"; *left* and *right* (and "top left", ...) also
  bare, as people write: "zebra top left". What ties them to the noun goes with them: "cup that is on the left", "cup
  furthest to the left", "cup closest to the left", "cup all the way to the right";
- with an ordinal to ten or *last*, and *from*: "second cup from the left", "cup second from left", "second from left
  cup"; the last from the left is the first from the right. An ordinal also counts in front of a word in *-est* or
  *-most*: "second biggest cup". Otherwise it stays, alone and with others: "second cup", "first and second cup from
  the left".

Punctuation and quotes around a phrase hide no place, and go where there is one: "cup on the left." is "cup on the
left".

**Which do not.** A word that belongs to the noun: *left* and *right* before parts of a body and what is worn on them
("left hand" is somebody's, "leftmost hand" and "far left hand" are the picture's), "right angle", "top hat", "upper
lip", "middle finger", "big wheel" and their like (`COMPOUNDS`), and all that a hyphen ties to another word
("right-handed", "upper-case"; but "left-most" and "far-left" are leftmost); bare *top*, *bottom* and *center* at the
end ("table top"). A relation to something else: "left of the dog", "top of the cake", "left side of the road", "in
the middle of the road". A direction: "bus turning right", "man looking to the left". What stands in quotes: 'sign
"turn left"'. They stay in the phrase as they are.

**What they do.** Candidates are the instances whose score is at least half the best one's. Each word gives each of
them a figure in [0,1]: *left, right, top, bottom* where the middle of its box lies across the picture; *middle* how
near the picture's middle it is; *biggest, smallest* its area against the largest's, or the smallest's against it. The
largest sum comes first, "second from" and "second biggest" skip one. A plural keeps those in that half of the picture
(the middle third, at least half the largest, at most twice the smallest); if there are none, the first; a number keeps
that many. "The smallest of the cups" is one, and so is "the left of the cups": of several things a place is no
relation.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sam_hf.inference.text.instances import TextInstance
from sam_hf.inference.text.plurals import HEAD_ENDS, Amount, read_amount
from sam_hf.model.text_prompts import UnreadablePhrase

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
ORDINALS = {
    word: rank
    for rank, words in enumerate(
        ("first 1st", "second 2nd", "third 3rd", "fourth 4th", "fifth 5th", "sixth 6th", "seventh 7th", "eighth 8th",
         "ninth 9th", "tenth 10th"), start=1)
    for word in words.split()
}  # fmt: skip
OPPOSITES = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}

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

_I = re.I | re.A  # not "ı" for "i" and "ſ" for "s", which the tables above do not have
_ANY = "|".join(WORDS)
_PLAIN = "|".join(PLAIN_SIZES)
_ORDINAL = "|".join(ORDINALS)
_SIDE = "|".join(OPPOSITES)
_NUMBER = r"two|three|four|five|six|seven|eight|nine|ten|\d+"
_ARTICLE = "the|a|an|all|both|these|those"
_PICTURE = r"(?: +of +(?:the +)?(?:picture|image|photo|photograph|frame|scene))"
_PARTS = "side|corner|half|part|edge|area|end|hand +side"
_AREA = f"(?: +(?:{_PARTS}))"
_FAR = "(?:far|very|most|furthest|farthest)[ -]"
_THAT_IS = "(?:[ ,]+(?:that|which|who)(?: +(?:is|are)|['’]s))"
# What ties an end to the noun; after it the end is no direction that somebody turns to: "ring furthest to the left".
_TIE = (
    rf"(?P<tie>{_THAT_IS}?(?:[ ,]+(?:most|furthest|farthest|all +the +way"
    r"|(?:far|very)(?= +(?:on|in|at|to)\b)|(?:closest|nearest)(?= +to\b)))?)"
)
# "on the left", "in the lower right corner of the picture"
_AT_END = re.compile(
    rf"{_TIE}[ ,]+(?P<by>on|in|at|to) +(?:the +)?(?:{_FAR})?(?P<words>(?:{_ANY})(?:[ -]+(?:{_ANY}))?)"
    rf"{_AREA}?{_PICTURE}?$",
    _I,
)
# "zebra top left"
_BARE_END = re.compile(
    rf"{_TIE}[ ,]+(?:{_FAR})?(?P<words>(?:(?:top|upper|bottom|lower)[ -])?(?:left|right|leftmost|rightmost))$", _I
)
_RANK = rf"(?:very +)?(?P<rank>{_ORDINAL}|last)(?![^ ,])"
_FROM = rf" +from +(?:the +)?(?:{_FAR})?(?P<side>{_SIDE})"
# "second from the left" at the end; its ordinal may stand in front of the noun
_FROM_END = re.compile(rf"(?P<near>{_THAT_IS}?[ ,]+(?:the +)?{_RANK})?{_FROM}{_AREA}?{_PICTURE}?$", _I)
_RANK_IN_FRONT = re.compile(rf"(?P<article>(?:the +)?){_RANK}(?! +(?:and|or|to|last)\b) *", _I)
# "second from left" before the noun; the lookahead is for "second from left in the row", which has none
_FROM_FRONT = re.compile(rf"{_RANK}{_FROM} +(?!(?:{'|'.join(sorted(HEAD_ENDS - {'of'}))})\b)", _I)
_FRONT = re.compile(rf"(?P<articles>(?:(?:{_ARTICLE}) +)*)(?:(?:{_NUMBER}) +)?", re.I)


def _front_place(words: str) -> re.Pattern[str]:
    """One place before the noun, of these words: "far left", "second biggest", "upper-left", "leftmost two"."""
    rank = rf"(?:(?P<rank>{_ORDINAL})[ -](?=\w*(?:est|most)\b))?"
    far = rf"(?P<far>{_FAR}(?!(?:{_PLAIN})\b))?"
    number = rf"(?P<number>(?:(?:{_NUMBER}) +)?)"
    return re.compile(rf"{rank}{far}(?P<words>(?:{words})(?:-(?:{words}))*)(?: +-)?(?: +|$){number}", _I)


_FRONT_PLACE, _FRONT_PLACE_AFTER_THE = _front_place(_ANY), _front_place(f"{_ANY}|{_PLAIN}")
_NEXT_WORD = re.compile(r"[^\s,]*")
_NOT_A_THING = re.compile(rf"\b(?:{_ARTICLE}|{_NUMBER}|{_ORDINAL}|last|{_PLAIN})\b|\W", re.I)
_ENDS, _QUOTES = " .,;:!?…", "\"'“”„‘’«»"
# "left-most", "left most"
_MOST = re.compile(r"\b(left|right|top|upper|bottom|lower)[ -]most\b", re.I)
# "smallest of the cups", "left of the dog", "top half of the cake"
_OF = re.compile(rf"(?P<area>(?:{_PARTS}) +)?of +(?P<definite>(?:all +)?(?:the|these|those|both|{_NUMBER})\b)?", re.I)


class Place(NamedTuple):
    """One position or size word.

    Attributes:
        kind: "left", "right", "top", "bottom", "middle", "biggest" or "smallest".
        rank: 1 for the first, 2 for "second from" and "second biggest".
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
        UnreadablePhrase: If only position words would remain nothing to look for, as in "the left".
    """
    said = " ".join(phrase.split())
    rest, at_end = _read_end(_MOST.sub(r"\1most", _bare(said)))
    rest, in_front = _read_front(rest)
    among = re.match(r"(?:the +)?of +(?:the +)?", rest, re.I) if in_front else None  # "the smallest of the cups"
    rest = rest[among.end() :] if among else rest
    places = tuple(dict.fromkeys(in_front + at_end))
    if not places:
        rest = said
    elif not _NOT_A_THING.sub("", rest):
        raise UnreadablePhrase(
            f'text: {phrase!r:.60} says where, but not what; name the thing too, such as "left cup"'
        )
    amount = read_amount(rest) if count else Amount(rest, False)
    several = amount.several and among is None
    return Reading(amount.phrase, places, several, amount.limit if several else None)


def _bare(said: str) -> str:
    """A phrase without punctuation and quotes around it, and with one comma or space where there are more."""
    bare = said.rstrip(_ENDS + _QUOTES)
    if set(said[len(bare) :]) & set(_QUOTES):
        bare = bare.lstrip(_QUOTES)
        if re.search(rf" [{_QUOTES}]", bare):  # the last quote closes this one: 'sign "turn left"'
            bare = said
    # No pattern below has to go along a run of them again from each of its places.
    return re.sub(r"[ ,]{2,}", lambda run: ", " if "," in run[0] else " ", bare)


def _read_end(phrase: str) -> tuple[str, tuple[Place, ...]]:
    phrase = " " + phrase  # so that the patterns may ask for a space in front
    found = _FROM_END.search(phrase)
    if found:
        rest = phrase[: found.start()].strip(" ,")
        if found["near"]:
            return rest, (_nth(found["rank"], found["side"]),)
        ordinal = _RANK_IN_FRONT.match(rest)
        if ordinal is None:
            return phrase.strip(), ()
        return ordinal["article"] + rest[ordinal.end() :], (_nth(ordinal["rank"], found["side"]),)
    found = _AT_END.search(phrase) or _BARE_END.search(phrase)
    if found is None:
        return phrase.strip(), ()
    rest = phrase[: found.start()].strip(" ,")
    may_turn = not found["tie"] and (found.groupdict().get("by") or "to").lower() == "to"
    is_direction = may_turn and rest.lower().endswith("ing")
    return (phrase.strip(), ()) if is_direction else (rest, _places(found["words"]))


def _read_front(phrase: str) -> tuple[str, tuple[Place, ...]]:
    opening = _FRONT.match(phrase)
    pattern = _FRONT_PLACE_AFTER_THE if "the" in opening["articles"].lower().split() else _FRONT_PLACE
    # What is said of the amount and of plain sizes stays.
    kept, sizes, places = [opening[0]], [], []
    ranked = _FROM_FRONT.match(phrase, opening.end())
    if ranked:
        places.append(_nth(ranked["rank"], ranked["side"]))
    at, is_superlative = (ranked or opening).end(), ranked is not None
    while found := pattern.match(phrase, at):  # from where it is: a copy of the rest each time would be quadratic
        parts = found["words"].lower().split("-")
        is_extreme = bool(found["far"]) or parts[-1].endswith(("est", "most"))
        after = _NEXT_WORD.match(phrase, found.start("number"))[0]
        if not is_extreme and after.lower() in COMPOUNDS.get(parts[-1], ()):
            break
        rank = ORDINALS[found["rank"].lower()] if found["rank"] else 1
        places += [Place((WORDS | PLAIN_SIZES)[part], rank) for part in parts]
        sizes += [found["words"] + " "] if parts[-1] in PLAIN_SIZES else []
        kept.append(found["number"])
        at, is_superlative = found.end(), is_superlative or is_extreme
    rest = phrase[at:]
    if re.match(r"(and|or)\b", rest, re.I):  # "left and right shoes" are all of them
        return phrase, ()
    of = _OF.match(rest)
    if places and of:
        is_among = is_superlative or (of["definite"] and read_amount(rest).several)
        return ("".join([*kept, rest]).strip(), tuple(places)) if is_among and not of["area"] else (phrase, ())
    return "".join([*kept, *sizes, rest]).strip(), tuple(places)


def _nth(rank: str, side: str) -> Place:
    """The place of "second from the left"; the last from there is the first from the other side."""
    rank, side = rank.lower(), side.lower()
    return Place(OPPOSITES[side]) if rank == "last" else Place(side, ORDINALS[rank])


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


def choose_strictly(instances: Sequence[TextInstance], reading: Reading, size: tuple[int, int]) -> list[TextInstance]:
    """`choose` for what is not meant: of what it takes that which is where the phrase says, as a plural asks.

    "Not the cup on the right" leaves the only cup alone if that stands on the left.
    """
    chosen = choose(instances, reading, size, reading.several)
    if not chosen:
        return []
    figures = _figures(instances, reading.places, size)
    there = np.stack([_is_there(place.kind, row) for place, row in zip(reading.places, figures, strict=True)])
    return [one for one, kept in zip(instances, there.all(axis=0), strict=True) if kept and one in chosen]


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
