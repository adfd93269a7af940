"""How many things a phrase asks for: "cups" all of them, "a cup" one, "two cups" the best two.

The rule, for English; a phrase in another language asks for one thing:

1. The first word decides where it can: *all, every, each, both, several, many, some* and numbers from two on ask for
   all (a number, and *both*, for at most that many); *a, an, one, this, that, another* for one.
2. Else the head noun decides: the last word before the first preposition, comma, relative pronoun or *wearing* and
   the like. "cups on the shelf" asks for cups, "cup with flowers" for a cup.
3. A head noun is a plural if it is one of the irregular ones (people, men, mice, ...) or ends in s, except: words in
   -ss, -us, -is and -'s (glass, bus, iris); things that come as one though they end in s (scissors, trousers, glasses
   on a nose, lens, gas, ...). "wine glasses" is therefore one unless it says "two wine glasses".

The grounding is asked for a single one ("all red cups" -> "red cup"), since an instance is one thing; with *and* or
*or* in front of the noun the words stay.
"""

import re
from typing import NamedTuple

NUMBERS = dict(zip("two three four five six seven eight nine ten eleven twelve".split(), range(2, 13), strict=True))
ALL_WORDS = ("all", "every", "each", "several", "many", "some")
ONE_WORDS = ("a", "an", "one", "this", "that", "another")
DETERMINERS = ("the", "these", "those", "my", "your", "his", "her", "its", "our", "their", "of")
HEAD_ENDS = frozenset(
    "of on in at with without under over by near behind beside between inside outside above below from for to next "
    "that which who whose is are wearing holding standing sitting lying riding".split()
)
IRREGULAR = {
    "people": "person", "men": "man", "women": "woman", "children": "child", "mice": "mouse", "feet": "foot",
    "teeth": "tooth", "geese": "goose", "oxen": "ox", "cacti": "cactus", "leaves": "leaf", "knives": "knife",
    "wolves": "wolf", "loaves": "loaf", "shelves": "shelf", "calves": "calf", "halves": "half", "scarves": "scarf",
    "wives": "wife", "potatoes": "potato", "tomatoes": "tomato", "cookies": "cookie", "movies": "movie",
    "menus": "menu", "emus": "emu", "taxis": "taxi", "skis": "ski", "axes": "axe", "lenses": "lens", "quizzes": "quiz",
}  # fmt: skip
SINGULAR = frozenset(
    "scissors glasses sunglasses eyeglasses trousers pants jeans shorts tights leggings pajamas pyjamas overalls "
    "pliers tongs tweezers binoculars headphones earphones goggles clothes suspenders gas lens canvas atlas series "
    "species news headquarters christmas barracks crossroads".split()
)


class Amount(NamedTuple):
    """How many things a phrase asks for.

    Attributes:
        phrase: To ask a grounding for: one of them, without the word that said how many.
        several: Whether more than one is asked for.
        limit: At most how many; None: all there are.
    """

    phrase: str
    several: bool
    limit: int | None = None


def read_amount(phrase: str) -> Amount:
    """How many things a phrase asks for; see the rule above.

    Args:
        phrase: As written, position words taken out.
    """
    words = phrase.split()
    start, several, limit = _opening([word.lower().strip(",.;:") for word in words])
    if several is False or start == len(words):
        return Amount(phrase, False)
    head = _head(words, start)
    single = singular(words[head])
    if several is None and single is None:
        return Amount(phrase, False)
    if single is not None and not {"and", "or"} & {word.lower() for word in words[:head]}:
        words[head] = single
    return Amount(" ".join(words[start:]), True, limit)


def singular(word: str) -> str | None:
    """The singular of a plural noun; None if the word is no plural by the rule above."""
    stem = re.match(r"(?:.*\w)?", word, re.S)[0]  # greedy: looked for from the end, where it nearly always is
    lower, tail = stem.lower(), word[len(stem) :]
    if lower in IRREGULAR:
        return IRREGULAR[lower] + tail
    if len(lower) < 3 or lower in SINGULAR or not re.search(r"[a-z]s$", lower) or re.search(r"(ss|us|is)$", lower):
        return None
    if lower.endswith("ies") and len(lower) > 4:
        return stem[:-3] + "y" + tail
    if re.search(r"(ch|sh|x|ss|zz|[^o]us)es$", lower):  # "buses", but "houses"
        return stem[:-2] + tail
    return stem[:-1] + tail


def _opening(words: list[str]) -> tuple[int, bool | None, int | None]:
    """How many words of the opening say nothing of the thing; whether several are asked for, if it says so; limit."""
    start, several, limit = 0, None, None
    while start < len(words):
        word = words[start]
        if word in ONE_WORDS and several is None:
            return start, False, None
        if word in ALL_WORDS:
            several = True
        elif word == "both":
            several, limit = True, 2
        elif word in NUMBERS or (word.isascii() and word.isdigit() and len(word) <= 3 and int(word) >= 2):
            several, limit = True, NUMBERS.get(word) or int(word)
        elif word not in DETERMINERS:
            break
        start += 1
    return start, several, limit


def _head(words: list[str], start: int) -> int:
    """Place of the head noun."""
    for place in range(start, len(words)):
        if place > start and words[place].lower() in HEAD_ENDS:
            return place - 1
        if words[place].endswith((",", ";", ":")):
            return place
    return len(words) - 1
