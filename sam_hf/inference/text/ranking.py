"""How surely a phrase, rather than anything else, names what a mask shows: CLIP on several views of each mask.

A CLIP similarity says little by itself: every picture has its own level, and "a dog" is nearer to any animal than
"a" is to anything. So per mask the phrase stands in a softmax against *others*: negatives, which the user does not
mean, and background words, which most of a picture is. Never against the other masks, of which one would always win,
and never against the other phrases asked, which may be true of the same mask. This is what makes "absent" possible.

Source: FGVP (2306.04356) and CaR (2312.07661) for ensembles of views and background words; SCLIP and NACLIP for the
softmax over texts. Differs in that a background word is left out where the phrase itself says it: "sky" is no rival
of "blue sky".
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sam_hf.inference.embedding_store import content_key
from sam_hf.inference.text.templates import BACKGROUND
from sam_hf.inference.text.views import make_views
from sam_hf.masks import rle

if TYPE_CHECKING:
    from sam_hf.inference.text.clip_encoder import ClipEncoder

# Crops say what a thing is, blurred surroundings which of several is meant: each alone is worse than both.
RANKING_VIEWS = ("crop", "dimmed", "blurred")
MASKS_AT_ONCE = 16  # masks of the picture's size, and views of CLIP's, that are held together


class _Seen(NamedTuple):
    """What CLIP saw in one mask.

    Attributes:
        key: Names the picture, the mask, the views and the CLIP's weights.
        vector: (D,) float32, CPU.
    """

    key: str
    vector: Tensor

    @property
    def nbytes(self) -> int:
        """About what it takes to keep it."""
        return self.vector.nbytes + 500  # the key, and what Python needs around both


@torch.inference_mode()
def mask_vectors(
    clip: "ClipEncoder",
    pixels: Tensor,
    masks: Sequence[np.ndarray | Mapping[str, Any]],
    views: Sequence[str] = RANKING_VIEWS,
    key: str | None = None,
) -> Tensor:
    """What CLIP sees in each mask; with a key, what it saw before costs nothing.

    Args:
        clip: Pictures and phrases to vectors.
        pixels: (3,H,W) uint8, the picture.
        masks: n times (H,W) bool, or their COCO RLE, original pixels.
        views: How a mask is shown to CLIP, see `views.VIEWS`; V of them.
        key: Names the picture's content, such as `ImageEmbedding.key`; None: nothing is kept, in `clip.masks_seen`.

    Returns:
        (n,D) float32, CPU: the mean of the views' unit vectors, so that its product with a phrase is the mean
        similarity; zeros for an empty mask.
    """
    if key is None or not masks:
        return _look(clip, pixels, masks, views)
    settings, revision = f"{key} {' '.join(views)}", clip.revision
    names = [content_key(torch.from_numpy(as_array(mask)), settings, revision) for mask in masks]
    seen = {name: clip.masks_seen.get(name) for name in names}
    new = {name: mask for name, mask in zip(names, masks, strict=True) if seen[name] is None}
    for name, vector in zip(new, _look(clip, pixels, list(new.values()), views), strict=True):
        # Cloned, so that what is kept of one mask does not keep its whole batch.
        seen[name] = _Seen(name, vector.clone())
        clip.masks_seen.put(seen[name])
    return torch.stack([seen[name].vector for name in names])


def _look(
    clip: "ClipEncoder", pixels: Tensor, masks: Sequence[np.ndarray | Mapping[str, Any]], views: Sequence[str]
) -> Tensor:
    """`mask_vectors` without a memory."""
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
def text_log_odds(
    clip: "ClipEncoder",
    vectors: Tensor,
    phrases: Sequence[str],
    negatives: Sequence[str] = (),
    templates: Sequence[str] | None = None,
    background: Sequence[str] = BACKGROUND,
    scale: float | None = None,
) -> Tensor:
    """Log of probability / (1 - probability) of each phrase for each vector.

    Probabilities of a sharp softmax are soon 1.0000 for everything; their log-odds still tell better from good.

    Args:
        clip: Phrases to vectors.
        vectors: (n,D) of masks or of cells of a feature map; rows of zeros for what shows nothing.
        phrases: P phrases of what may be meant; each is judged by itself.
        negatives: What is not meant.
        templates: Sentences around every phrase, negative and background word; None: the CLIP's own.
        background: Words for what is there anyway.
        scale: What similarities are multiplied by; None: the CLIP's own.

    Returns:
        (n,P) float32, CPU; -inf in rows of zeros.

    Raises:
        ValueError: If there is neither a negative nor a background word to judge a phrase against.
    """
    rivals = tuple(dict.fromkeys((*negatives, *background)))
    if not rivals:
        raise ValueError("background: expected at least one word where there are no negatives, got none")
    scale = clip.logit_scale if scale is None else scale
    own = scale * similarities(clip, vectors, phrases, templates)  # (n,P)
    others = scale * similarities(clip, vectors, rivals, templates)  # (n,R)
    odds = torch.empty_like(own)
    for column, phrase in enumerate(phrases):
        kept = [i for i, word in enumerate(rivals) if word in negatives or not says(phrase, word)]
        if not kept:
            raise ValueError(f"background: expected a word that is not in {phrase!r}, got {list(background)}")
        odds[:, column] = own[:, column] - others[:, kept].logsumexp(dim=1)
    return odds.masked_fill(~vectors.any(dim=1, keepdim=True), -torch.inf)


def pair_log_odds(clip: "ClipEncoder", vectors: Tensor, phrases: Sequence[str]) -> Tensor:
    """What a CLIP with a `logit_bias` says by itself: log-odds (n,P) that each of P phrases is true of what each of n
    vectors (n,D) shows; -inf in rows of zeros.

    Source: SigLIP (arXiv 2303.15343).
    """
    odds = clip.logit_scale * similarities(clip, vectors, phrases) + clip.logit_bias
    return odds.masked_fill(~vectors.any(dim=1, keepdim=True), -torch.inf)


@torch.inference_mode()
def similarities(
    clip: "ClipEncoder", vectors: Tensor, phrases: Sequence[str], templates: Sequence[str] | None = None
) -> Tensor:
    """Cosine of each of n vectors (n,D) to each of P phrases, (n,P) float32, CPU; templates None: the CLIP's own."""
    return vectors @ clip.texts(phrases, clip.templates if templates is None else templates).T


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


def says(phrase: str, word: str) -> bool:
    """Whether a phrase contains a background word, as whole words: "blue sky." says "sky", "skyline" does not."""
    return f" {_words(word)} " in f" {_words(phrase)} "


def _words(text: str) -> str:
    """The words with one space between them; of what has none, such as an emoji, the text itself."""
    return " ".join(re.findall(r"\w+", text.lower()) or text.lower().split())
