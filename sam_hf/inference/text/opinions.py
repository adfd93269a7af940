"""What else speaks for a mask being what a phrase says, beside the decoder's own score.

Two witnesses, either of which may be missing: the checkpoint's alignment of image cells and phrases, and a CLIP that
looks at the mask's crop and says whether it shows the phrase: by itself if it was trained to (`logit_bias`), else
rather than some everyday thing. Both answer in log-odds, so what they say is added up; CLIP's counts for less, since
it is no independent witness of whether a phrase is true (of 0.1 to 0.35 that weight tells most present phrases from
absent ones, on held-out scenes of other seeds than those of docs/text.md).
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from sam_hf.inference.text.alignment import AlignedPhrases
from sam_hf.inference.text.instances import Request, TextInstance
from sam_hf.inference.text.ranking import mask_vectors, pair_log_odds, text_log_odds
from sam_hf.inference.text.templates import EVERYDAY

if TYPE_CHECKING:
    from sam_hf.inference.text.clip_encoder import ClipEncoder

# What a mask shows, by itself: the blurred picture around it says which of several is meant, not whether one is.
VIEWS = ("crop", "dimmed")
WEIGHT = 0.25  # of what CLIP says


class Opinions:
    """On P phrases about one picture.

    Args:
        request: About which picture.
        phrases: At least one.
        clip: The second witness, or None.
        alignment: Whether the first one is asked.

    Attributes:
        aligned: What the checkpoint's alignment says; None if it has none, or is not asked.
    """

    def __init__(
        self, request: Request, phrases: Sequence[str], clip: "ClipEncoder | None" = None, alignment: bool = True
    ):
        self._request, self._phrases, self._clip = request, phrases, clip
        self.aligned = AlignedPhrases(request, phrases) if alignment and request.predictor.has_alignment else None
        self._said_by_clip: WeakKeyDictionary[TextInstance, float] = WeakKeyDictionary()

    def rate(
        self, indices: Sequence[int], instances: Sequence[TextInstance], odds: Sequence[float]
    ) -> list[TextInstance]:
        """Instances with what is thought of them as `text_probability` and `score`.

        Args:
            indices: n times which phrase.
            instances: n of them.
            odds: What the decoder says: n log-odds.
        """
        by_clip = self._by_clip(indices, instances)
        rated = []
        for index, one, sure, clip in zip(indices, instances, odds, by_clip, strict=True):
            if self.aligned is not None:
                sure = sure + float(self.aligned.suits(index, one.low_res_logits[None])[0])
            probability = _probability(sure + clip)
            rated.append(replace(one, text_probability=probability, score=probability))
            self._said_by_clip[rated[-1]] = clip
        return rated

    def presence(self, index: int, best: TextInstance) -> float | None:
        """Log-odds that the picture shows what a phrase names; None: nobody knows.

        Args:
            index: Which phrase.
            best: The instance found, as `rate` made it.
        """
        if self.aligned is None:
            return None
        return self.aligned.presence(index) + self._said_by_clip[best]

    def heat_map(self, index: int) -> np.ndarray | None:
        """(h,w) float32 in [0,1], where a phrase is."""
        return None if self.aligned is None else self.aligned.heat_map(index)

    def _by_clip(self, indices: Sequence[int], instances: Sequence[TextInstance]) -> list[float]:
        """What CLIP says of n instances, weighed; 0 of an empty mask."""
        if self._clip is None or not instances:
            return [0.0] * len(instances)
        request, masks = self._request, [one.mask for one in instances]
        seen = mask_vectors(self._clip, request.pixels, masks, VIEWS, key=request.embedding.key)
        if self._clip.logit_bias is None:
            odds = text_log_odds(self._clip, seen, self._phrases, background=EVERYDAY)  # (n,P)
        else:
            odds = pair_log_odds(self._clip, seen, self._phrases)
        of_own = odds.numpy()[np.arange(len(instances)), list(indices)]
        return (WEIGHT * np.where(np.isfinite(of_own), of_own, 0.0)).tolist()


def _probability(odds: float) -> float:
    return 1 / (1 + math.exp(-odds)) if odds > -700 else 0.0
