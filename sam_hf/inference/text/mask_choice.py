"""A click leaves open how much is meant, and SAM answers with three masks; the phrase says which.

"wheel" and "car" at the same point are part and whole. What decides is not whether a phrase fits (a car's crop shows
wheels too) but which of the three it fits best: each mask's similarity to the phrase, less its similarity to
background words and negatives, which every crop has at a level of its own.

Source: §4 "Resolving ambiguity" has the three masks; that a phrase chooses among them is not in the paper.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from sam_hf.inference.predictor import Prediction
from sam_hf.inference.text.ranking import RANKING_VIEWS, mask_vectors, text_log_odds
from sam_hf.inference.text.templates import BACKGROUND

if TYPE_CHECKING:
    from sam_hf.inference.text.clip_encoder import ClipEncoder


def choose_mask(
    clip: "ClipEncoder",
    pixels: Tensor,
    prediction: Prediction,
    text: str,
    negatives: Sequence[str] = (),
    views: Sequence[str] = RANKING_VIEWS,
    templates: Sequence[str] | None = None,
    background: Sequence[str] = BACKGROUND,
) -> int:
    """Which mask of an answer a phrase means.

    Args:
        clip: Pictures and phrases to vectors.
        pixels: (3,H,W) uint8, the picture.
        prediction: Of `SamPredictor.predict`, with M masks (or logits) in original pixels.
        text: The phrase.
        negatives: What is not meant; "car" for a wheel.
        views: How a mask is shown to CLIP, see `views.VIEWS`.
        templates: Sentences around phrases; None: `ClipEncoder.templates`.
        background: Words for what is there anyway.

    Returns:
        Index into the masks: the largest product of odds (the phrase against negatives and background) and predicted
        IoU. Empty masks are not chosen unless all are.

    Raises:
        ValueError: If the answer is of several prompts.
    """
    if np.ndim(prediction.masks) != 3:
        raise ValueError(f"prediction: expected masks (M,H,W) of one prompt, got shape {np.shape(prediction.masks)}")
    vectors = mask_vectors(clip, pixels, [mask > 0 for mask in prediction.masks], views)
    odds = text_log_odds(clip, vectors, [text], negatives, templates, background)[:, 0].numpy()
    # By logarithms: for a sharp CLIP all products of probabilities would be 1 times the predicted IoU.
    quality = np.log(np.clip(prediction.scores, 1e-3, 1.0))
    return int(np.argmax(odds + quality)) if np.isfinite(odds).any() else int(np.argmax(quality))
