"""Sentences that phrases are put into before CLIP reads them, and words for what is not an object.

CLIP was trained on captions, so a phrase in a sentence lies nearer to pictures than the bare words; the mean over
several sentences forgets what each of them adds.

Source: Radford et al. 2021 (arXiv 2103.00020) for the mean over sentences; the sentences are our own.
`BACKGROUND` after the background queries of CaR (arXiv 2312.07661) and SCLIP (arXiv 2312.01597), in our own choice.
"""

import re

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

_ARTICLE_BEFORE = re.compile(r"\b(a|an|the)\s*\{\}", re.IGNORECASE)
_LEADING_ARTICLE = re.compile(r"^(a|an|the)\s+(?=\S)", re.IGNORECASE)


def fill(template: str, phrase: str) -> str:
    """Puts a phrase in the place of "{}"; of two articles in a row the template's stays."""
    if _ARTICLE_BEFORE.search(template):
        phrase = _LEADING_ARTICLE.sub("", phrase)
    return template.replace("{}", phrase)
