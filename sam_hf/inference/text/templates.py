"""Phrases as people give them, sentences that they are put into for CLIP, and words for what is no object.

CLIP was trained on captions, so a phrase in a sentence lies nearer to pictures than the bare words; the mean over
several sentences forgets what each of them adds.

Source: Radford et al. 2021 (arXiv 2103.00020) for the mean over sentences; the sentences are our own.
`BACKGROUND` after the background queries of CaR (arXiv 2312.07661) and SCLIP (arXiv 2312.01597), in our own choice.
"""

import re
from collections.abc import Sequence
from typing import Any

from sam_hf.model.text_prompts import read_texts

PLAIN: tuple[str, ...] = ("{}",)
"""The phrase alone: what the text branch of a checkpoint sees (Segment Anything, App. D.5 names no sentence)."""

PHOTO: tuple[str, ...] = (
    "a photo of a {}.",
    "a poor snapshot of the {}.",
    "a large {} close to the camera.",
    "a small {} far away.",
    "an artwork with a {}.",
    "a {} made of paper.",
    "a rendered {} on a screen.",
)
"""Few sentences that differ in what CLIP should forget: size, quality, and what the thing is drawn with."""

SCENE: tuple[str, ...] = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a picture of a {}.",
    "a cropped photo of a {}.",
    "a close-up photo of the {}.",
    "a blurry photo of a {}.",
    "a bright photo of the {}.",
    "a dark photo of a {}.",
    "a drawing of a {}.",
    "an icon of a {}.",
    "a photo of many {}.",
    "part of a {}.",
    "there is a {} in the scene.",
    "a {} in the background.",
)
"""For things within a larger picture, cut out or small: our own choice, none of it measured on real pictures."""

BACKGROUND: tuple[str, ...] = (
    # on land
    "ground",
    "land",
    "grass",
    "tree",
    "mountain",
    "rock",
    "sand",
    "snow",
    # water and air
    "sky",
    "cloud",
    "water",
    "sea",
    "river",
    # made by people
    "wall",
    "floor",
    "ceiling",
    "building",
    "road",
    "pavement",
    "window",
    "curtain",
    # anything
    "background",
    "texture",
    "pattern",
)
"""What fills pictures around objects; a phrase that means one of them is its own rival: leave that word out."""

EVERYDAY = tuple(
    word.strip()
    for word in """
    person, face, hand, animal, dog, cat, bird, fish, horse, insect, plant, flower, tree, leaf,
    food, fruit, apple, vegetable, bread, cake, drink, bottle, cup, bowl, plate, knife, fork, spoon,
    tool, hammer, scissors, key, book, paper, pen, bag, box, basket, ball, toy, hat, shirt, shoe, glasses, watch,
    chair, table, bed, lamp, clock, phone, computer, camera, television, musical instrument,
    vehicle, car, bus, train, bicycle, boat, airplane, house, building, door, window, sign, flag,
    circle, square, triangle, rectangle, star, heart, cross, ring
    """.split(",")
)
"""What an object in a picture may well be; likewise."""

_ARTICLE_BEFORE = re.compile(r"\b(a|an|the)\s*\{\}", re.IGNORECASE)
_LEADING_ARTICLE = re.compile(r"^(a|an|the)\s+(?=\S)", re.IGNORECASE)


def fill(template: str, phrase: str) -> str:
    """Puts a phrase in the place of "{}"; of two articles in a row the template's stays."""
    if _ARTICLE_BEFORE.search(template):
        phrase = _LEADING_ARTICLE.sub("", phrase)
    return template.replace("{}", phrase)


def clean_phrases(phrases: Any, name: str) -> tuple[str, ...]:
    """Phrases as the text branch of a checkpoint reads them: stripped, control characters as spaces.

    Args:
        phrases: What the caller gave; may be empty.
        name: The argument, for messages.

    Raises:
        TypeError: If it is no list of strings.
        ValueError: If one is blank, or no Unicode text.
    """
    if isinstance(phrases, (str, bytes)) or not isinstance(phrases, Sequence):
        raise TypeError(f"{name}: expected a list of strings, got {phrases!r:.60} ({type(phrases).__name__})")
    for index, phrase in enumerate(phrases):
        if not isinstance(phrase, str):
            raise TypeError(f"{name}[{index}]: expected a string, got {type(phrase).__name__}")
    try:
        return tuple(read_texts([list(phrases)], 1)[0]) if phrases else ()
    except ValueError as error:  # said about a batch of images, for which None means no text
        message = str(error).removesuffix("; pass None for no text")
        raise type(error)(message.replace("text[0]", name, 1)) from None
