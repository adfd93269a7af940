"""A click leaves open how much is meant, and SAM answers with three masks; the phrase says which.

"wheel" and "car" at the same point are part and whole. What decides is not whether a phrase fits (a car's crop shows
wheels too) but which of the three it fits best: each mask's similarity to the phrase, less its similarity to
background words and negatives, which every crop has at a level of its own.

Source: §4 "Resolving ambiguity" has the three masks; that a phrase chooses among them is not in the paper.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from sam_hf.inference.embedding_store import ImageEmbedding
from sam_hf.inference.predictor import Prediction, SamPredictor
from sam_hf.inference.text.instances import Request, TextInstance
from sam_hf.inference.text.placement import geometry_answers
from sam_hf.inference.text.ranking import RANKING_VIEWS, by_score, log_odds, mask_vectors, read_phrases
from sam_hf.inference.text.templates import BACKGROUND, PLAIN

if TYPE_CHECKING:
    from sam_hf.inference.text.clip_encoder import ClipEncoder


def choose_mask(
    clip: "ClipEncoder",
    pixels: Tensor,
    prediction: Prediction,
    text: str,
    negatives: Sequence[str] = (),
    views: Sequence[str] = RANKING_VIEWS,
    templates: Sequence[str] = PLAIN,
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
        templates: Sentences around phrases.
        background: Words for what is there anyway.

    Returns:
        Index into the masks: the largest product of odds (the phrase against negatives and background) and predicted
        IoU. Empty masks are not chosen unless all are.

    Raises:
        ValueError: If the phrase is blank, or the answer is of several prompts.
        TypeError: If the phrase is no string.
    """
    if np.ndim(prediction.masks) != 3:
        raise ValueError(f"prediction: expected masks (M,H,W) of one prompt, got shape {np.shape(prediction.masks)}")
    masks = [mask > 0 for mask in prediction.masks]
    odds = _log_odds(clip, pixels, masks, text, negatives, views, templates, background)
    return _best(odds, prediction.scores)


def choose(
    predictor: SamPredictor,
    embedding: ImageEmbedding,
    pixels: Tensor,
    clip: "ClipEncoder",
    text: str,
    points: Any = None,
    labels: Any = None,
    box: Any = None,
    mask_input: Any = None,
    negatives: Sequence[str] = (),
    views: Sequence[str] = RANKING_VIEWS,
    templates: Sequence[str] = PLAIN,
    background: Sequence[str] = BACKGROUND,
) -> TextInstance:
    """The part or the whole at a click that a phrase names; for every SAM, with a text branch or without.

    Args:
        predictor: SAM.
        embedding: From `predictor.encode` of the picture.
        pixels: (3,H,W) uint8, the picture.
        clip: Pictures and phrases to vectors.
        text: The phrase.
        points: See `SamPredictor.decode`, as for the rest.
        labels: See there.
        box: See there.
        mask_input: See there.
        negatives: What is not meant.
        views: See `choose_mask`, as for the rest.
        templates: See there.
        background: See there.

    Returns:
        The mask; its score is text probability times predicted IoU.

    Raises:
        ValueError: If the phrase is blank, there is neither a foreground point nor a box nor a mask, or one of them is
            wrong.
        TypeError: If the phrase is no string.
    """
    request = Request(predictor, embedding, pixels, (text,), tuple(negatives), points, labels, box, mask_input)
    answers = geometry_answers(request)
    if not answers:
        raise ValueError(
            "points: expected a foreground point, a box or a mask_input for the text to choose from its masks"
        )
    odds = _log_odds(clip, pixels, [one.mask for one in answers], text, negatives, views, templates, background)
    quality = np.array([one.predicted_iou for one in answers])
    index = _best(odds, quality)
    _, scores, probabilities = by_score(odds, quality, iou_power=1.0)
    return replace(answers[index], score=float(scores[index]), text_probability=float(probabilities[index]))


def _log_odds(
    clip: "ClipEncoder",
    pixels: Tensor,
    masks: Sequence[np.ndarray],
    text: str,
    negatives: Sequence[str],
    views: Sequence[str],
    templates: Sequence[str],
    background: Sequence[str],
) -> np.ndarray:
    """(M,) of the phrase against negatives and background, per mask."""
    read_phrases([text], "text")
    vectors = mask_vectors(clip, pixels, masks, views)
    return log_odds(clip, vectors, [text], negatives, templates, background)[:, 0].numpy()


def _best(odds: np.ndarray, predicted_ious: np.ndarray) -> int:
    # By logarithms: for a sharp CLIP all products of probabilities would be 1 times the predicted IoU.
    quality = np.log(np.clip(predicted_ious, 1e-3, 1.0))
    return int(np.argmax(odds + quality)) if np.isfinite(odds).any() else int(np.argmax(quality))
