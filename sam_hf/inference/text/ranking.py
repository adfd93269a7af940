"""How surely a phrase, rather than anything else, names what a mask shows: CLIP on several views of each mask.

A CLIP similarity says little by itself: every picture has its own level, and "a dog" is nearer to any animal than
"a" is to anything. So per mask the phrase stands in a softmax against *others*: negatives, which the user does not
mean, and background words, which most of a picture is. Never against the other masks, of which one would always win,
and never against the other phrases asked, which may be true of the same mask. This is what makes "absent" possible.

Source: FGVP (2306.04356) and CaR (2312.07661) for ensembles of views and background words; SCLIP and NACLIP for the
softmax over texts. Differs in that a background word is left out where the phrase itself says it: "sky" is no rival
of "blue sky".
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sam_hf.inference.text.templates import BACKGROUND, PLAIN
from sam_hf.inference.text.views import make_views
from sam_hf.masks import rle

if TYPE_CHECKING:
    from sam_hf.inference.text.clip_encoder import ClipEncoder

# Crops say what a thing is, blurred surroundings which of several is meant: each alone is worse than both.
RANKING_VIEWS = ("crop", "dimmed", "blurred")
MASKS_AT_ONCE = 16  # masks of the picture's size, and views of CLIP's, that are held together


def rank(
    clip: "ClipEncoder",
    pixels: Tensor,
    masks: Sequence[np.ndarray | Mapping[str, Any]],
    phrases: Sequence[str],
    negatives: Sequence[str] = (),
    views: Sequence[str] = RANKING_VIEWS,
    templates: Sequence[str] = PLAIN,
    background: Sequence[str] = BACKGROUND,
    vectors: Tensor | None = None,
) -> np.ndarray:
    """Probability of each phrase for each mask.

    Args:
        clip: Pictures and phrases to vectors.
        pixels: (3,H,W) uint8, the picture.
        masks: (H,W) bool each, or their COCO RLE, original pixels.
        phrases: What may be meant; each is judged by itself.
        negatives: What is not meant.
        views: How a mask is shown to CLIP, see `views.VIEWS`; the mean over them counts.
        templates: Sentences around every phrase, negative and background word.
        background: Words for what is there anyway.
        vectors: From `mask_vectors`, where they are known: another phrase then costs the text alone.

    Returns:
        (n_masks, n_phrases) float32 in [0,1]; 0 for an empty mask.

    Raises:
        ValueError: If a phrase is blank, or there is neither a negative nor a background word to judge it against.
        TypeError: If phrases are no sequence of strings.
    """
    if vectors is None:
        vectors = mask_vectors(clip, pixels, masks, views)
    return log_odds(clip, vectors, phrases, negatives, templates, background).sigmoid().numpy()


@torch.inference_mode()
def mask_vectors(
    clip: "ClipEncoder",
    pixels: Tensor,
    masks: Sequence[np.ndarray | Mapping[str, Any]],
    views: Sequence[str] = RANKING_VIEWS,
) -> Tensor:
    """What CLIP sees in each mask.

    Args:
        clip: See `rank`, as for the rest.
        pixels: (3,H,W) uint8.
        masks: n masks.
        views: V of them.

    Returns:
        (n,D) float32, CPU: the mean of the views' unit vectors, so that its product with a phrase is the mean
        similarity; zeros for an empty mask.
    """
    vectors = torch.zeros(len(masks), clip.width)
    for start in range(0, len(masks), MASKS_AT_ONCE):
        some = [as_array(mask) for mask in masks[start : start + MASKS_AT_ONCE]]
        filled = [index for index, mask in enumerate(some) if mask.any()]
        if filled:
            pictures = make_views(pixels, [some[index] for index in filled], clip.image_size, views)  # (n,V,3,s,s)
            seen = clip.pictures(pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2])  # (n*V,D) -> (n,V,D)
            vectors[[start + index for index in filled]] = seen.mean(dim=1)
    return vectors


@torch.inference_mode()
def log_odds(
    clip: "ClipEncoder",
    vectors: Tensor,
    phrases: Sequence[str],
    negatives: Sequence[str] = (),
    templates: Sequence[str] = PLAIN,
    background: Sequence[str] = BACKGROUND,
    scale: float | None = None,
) -> Tensor:
    """Log of probability / (1 - probability) of each phrase for each vector.

    Probabilities of a sharp softmax are soon 1.0000 for everything; their log-odds still tell better from good.

    Args:
        clip: See `rank`, as for the rest.
        vectors: (n,D) of masks or of cells of a feature map; rows of zeros for what shows nothing.
        phrases: P phrases.
        negatives: See `rank`.
        templates: See `rank`.
        background: See `rank`.
        scale: What similarities are multiplied by; None: CLIP's own.

    Returns:
        (n,P) float32, CPU; -inf in rows of zeros.

    Raises:
        ValueError, TypeError: See `rank`.
    """
    phrases, negatives = read_phrases(phrases, "phrases"), read_phrases(negatives, "negatives")
    rivals = tuple(dict.fromkeys((*negatives, *background)))
    if not rivals:
        raise ValueError("background: expected at least one word where there are no negatives, got none")
    scale = clip.logit_scale if scale is None else scale
    own = scale * similarities(clip, vectors, phrases, templates)  # (n,P)
    others = scale * similarities(clip, vectors, rivals, templates)  # (n,R)
    odds = torch.empty_like(own)
    for column, phrase in enumerate(phrases):
        kept = [i for i, word in enumerate(rivals) if word in negatives or not _says(phrase, word)]
        if not kept:
            raise ValueError(f"background: expected a word that is not in {phrase!r}, got {list(background)}")
        odds[:, column] = own[:, column] - others[:, kept].logsumexp(dim=1)
    return odds.masked_fill(~vectors.any(dim=1, keepdim=True), -torch.inf)


@torch.inference_mode()
def differences(
    clip: "ClipEncoder",
    vectors: Tensor,
    phrases: Sequence[str],
    negatives: Sequence[str] = (),
    templates: Sequence[str] = PLAIN,
    background: Sequence[str] = BACKGROUND,
) -> Tensor:
    """Similarity of each phrase minus what any text gets: the mean background word, or a nearer negative.

    Args:
        clip: See `rank`, as for the rest.
        vectors: (n,D).
        phrases: P phrases.
        negatives: See `rank`.
        templates: See `rank`.
        background: See `rank`.

    Returns:
        (n,P) float32 in [-2,2], CPU.

    Source: the feature surgery of CLIP Surgery (2304.05653) for a single text; differs in that the mean of background
    words, not the empty text, stands for what all texts share.
    """
    negatives = read_phrases(negatives, "negatives")
    own = similarities(clip, vectors, read_phrases(phrases, "phrases"), templates)
    levels = []
    if background:
        levels.append(similarities(clip, vectors, background, templates).mean(dim=1, keepdim=True))
    if negatives:
        levels.append(similarities(clip, vectors, negatives, templates).amax(dim=1, keepdim=True))
    if not levels:
        raise ValueError("background: expected at least one word where there are no negatives, got none")
    return own - torch.cat(levels, dim=1).amax(dim=1, keepdim=True)


@torch.inference_mode()
def similarities(clip: "ClipEncoder", vectors: Tensor, phrases: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Cosine of each of n vectors (n,D) to each of P phrases, (n,P) float32, CPU."""
    return vectors @ clip.texts(phrases, templates).T


def by_score(
    odds: np.ndarray, predicted_ious: Sequence[float], iou_power: float
) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Order of n masks for one phrase.

    Args:
        odds: Log-odds (n,) of the phrase.
        predicted_ious: n estimates of SAM's in [0,1].
        iou_power: The score is text probability times predicted IoU to this power.

    Returns:
        Indices, best first; scores (n,) and text probabilities (n,), both in [0,1].
    """
    odds = np.asarray(odds, dtype=np.float64)
    quality = iou_power * np.log(np.clip(predicted_ious, 1e-6, 1.0))
    log_probabilities = -np.logaddexp(0.0, -odds)  # of 1 / (1 + exp(-odds)), without a loss where that is tiny
    scores = log_probabilities + quality
    # What is all 1.0000 is ordered by odds, too.
    order = np.lexsort((-odds, -scores)).tolist()
    return order, np.exp(scores), np.exp(log_probabilities)


def as_array(mask: np.ndarray | Mapping[str, Any]) -> np.ndarray:
    """A mask (H,W) bool from itself or from its RLE."""
    return rle.decode(mask) if isinstance(mask, Mapping) else np.asarray(mask) != 0


def read_phrases(phrases: Sequence[str], name: str) -> tuple[str, ...]:
    """Phrases as a tuple.

    Args:
        phrases: What the caller gave.
        name: The argument, for messages.

    Raises:
        TypeError: If it is a single string, or something in it is none.
        ValueError: If one is blank.
    """
    if isinstance(phrases, str) or not isinstance(phrases, Sequence):
        raise TypeError(f"{name}: expected a list of strings, got {phrases!r:.60} ({type(phrases).__name__})")
    for index, phrase in enumerate(phrases):
        if not isinstance(phrase, str):
            raise TypeError(f"{name}[{index}]: expected a string, got {phrase!r:.60} ({type(phrase).__name__})")
        if not phrase.strip():
            raise ValueError(f"{name}[{index}]: expected a word or more, got {phrase!r}")
    return tuple(phrases)


def _says(phrase: str, word: str) -> bool:
    """Whether a phrase contains a background word, as whole words."""
    return f" {word.lower()} " in f" {' '.join(phrase.lower().split())} "
