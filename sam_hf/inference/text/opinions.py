"""What else speaks for a mask being what a phrase says, beside the decoder's own score.

Two witnesses, either of which may be missing: the checkpoint's alignment of image cells and phrases, and a CLIP that
looks at the mask's crop. Both answer in log-odds, so what they say is added up; CLIP's counts for less, since it is no
independent witness of whether a phrase is true (a logistic regression on train scenes gives it that weight).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sam_hf.inference.text.alignment import AlignedPhrases
from sam_hf.inference.text.instances import Request, TextInstance
from sam_hf.inference.text.ranking import mask_vectors, text_log_odds

if TYPE_CHECKING:
    from sam_hf.inference.text.clip_encoder import ClipEncoder

# What a mask shows, by itself: the blurred picture around it says which of several is meant, not whether one is.
VIEWS = ("crop", "dimmed")
WEIGHT = 0.3  # of what CLIP says


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

    def of(self, index: int, instances: Sequence[TextInstance]) -> np.ndarray:
        """Log-odds (n,) that a phrase is true of each of n instances; 0 where nobody knows."""
        odds = self._of_clip(index, instances)
        if self.aligned is not None and instances:
            odds = odds + self.aligned.suits(
                [index] * len(instances), np.stack([one.low_res_logits for one in instances])
            )
        return odds

    def presence(self, index: int, best: TextInstance) -> float | None:
        """Log-odds that the picture shows what a phrase names, `best` being the instance found; None: nobody knows."""
        if self.aligned is None:
            return None
        return self.aligned.presence(index) + float(self._of_clip(index, [best])[0])

    def heat_map(self, index: int) -> np.ndarray | None:
        """(h,w) float32 in [0,1], where a phrase is."""
        return None if self.aligned is None else 1 / (1 + np.exp(-self.aligned.maps[index]))

    def _of_clip(self, index: int, instances: Sequence[TextInstance]) -> np.ndarray:
        if self._clip is None or not instances:
            return np.zeros(len(instances))
        seen = mask_vectors(self._clip, self._request.pixels, [one.mask for one in instances], VIEWS)
        odds = text_log_odds(self._clip, seen, [self._phrases[index]]).numpy()[:, 0]
        return WEIGHT * np.where(np.isfinite(odds), odds, 0.0)
