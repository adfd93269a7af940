"""Phrases by an open-vocabulary detector: it gives boxes, SAM gives masks.

OWLv2, OWL-ViT and Grounding DINO serve, by transformers' pipeline "zero-shot-object-detection", which knows each one's
pre- and post-processing. It runs the detector once for each phrase, so a phrase's detections do not depend on what
else is asked, and are kept.

Source: the pattern of Grounded-SAM and LangSAM. Differs in that points and a mask go into SAM's prompts together with
the detector's boxes, and they and a box of the user's restrict what is found; where the detector finds nothing there,
SAM answers them alone, without a text probability; and in negative phrases.
"""

import math
import re
import threading
import warnings
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torchvision.ops import box_iou

from sam_hf.inference.embedding_store import EmbeddingStore
from sam_hf.inference.fingerprint import WeightsWatch
from sam_hf.inference.text.instances import (
    Found,
    Request,
    TextInstance,
    log_odds,
    make_instance,
    stability,
)
from sam_hf.inference.text.placement import Geometry, distinct_instances, geometry_answers
from sam_hf.model.text_prompts import UnreadablePhrase, quoted

BOXES_AT_ONCE = 8
KEPT_BYTES = 2**22
TASK = "zero-shot-object-detection"
# Trained on captions that end so; another model would take the full stop for a word.
DOTTED = ("grounding-dino", "mm-grounding-dino")


class Box(NamedTuple):
    """One detection: xyxy in original pixels, and the detector's probability."""

    corners: tuple[float, float, float, float]
    score: float


class _Detections(NamedTuple):
    """All that one label found in one picture.

    Attributes:
        key: Names picture, label, threshold and the detector's weights.
        boxes: Best first.
    """

    key: str
    boxes: tuple[Box, ...]

    @property
    def nbytes(self) -> int:
        """About what it takes to keep them."""
        return 500 + len(self.key) + 300 * len(self.boxes)


class DetectorGrounding:
    """Finds phrases by a detector; see the module. May be used by several threads; they take turns at the detector.
    The same phrase about the same picture costs nothing.

    `text_probability` is the detector's score, `score` the same times SAM's predicted IoU, `evidence` the log-odds of
    the best detection.

    Args:
        detect: transformers' pipeline "zero-shot-object-detection", or what is called like it:
            `detect(image, candidate_labels=[...], threshold=...)` gives a list of
            `{"score": float, "label": str, "box": {"xmin", "ymin", "xmax", "ymax"}}`, original pixels.
        threshold: Least score of a detection; the instances of one phrase are all above it.
        overlap: Two masks are one object if so much of the smaller lies in the larger; the higher score stays.
        negative_iou: IoU of boxes above which a negative phrase speaks of the same thing.
        model_name: For the calibration's name.

    Raises:
        TypeError: If `detect` cannot be called.
        ValueError: If a threshold is not in [0,1].
    """

    name = "detector"

    def __init__(
        self,
        detect: Callable[..., list[dict[str, Any]]],
        threshold: float = 0.1,
        overlap: float = 0.8,
        negative_iou: float = 0.5,
        model_name: str = "",
    ):
        if not callable(detect):
            raise TypeError(f"detect: expected a {TASK} pipeline, got {type(detect).__name__}")
        shares = {"threshold": threshold, "overlap": overlap, "negative_iou": negative_iou}
        for argument, value in shares.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{argument}: expected a number in [0, 1], got {value!r}")
        self.detect, self.threshold = detect, threshold
        self.overlap, self.negative_iou, self.model_name = overlap, negative_iou, model_name
        self._lock = threading.Lock()  # fast tokenizers panic if two threads use one
        model = getattr(detect, "model", None)
        config = getattr(model, "config", None)
        self._ending = "." if getattr(config, "model_type", "") in DOTTED else ""
        self._tokenizer, self._most_tokens = getattr(detect, "tokenizer", None), _most_tokens(config)
        self._watch = WeightsWatch(model) if isinstance(model, nn.Module) else None
        self._kept = EmbeddingStore(KEPT_BYTES)  # it keeps whatever has a key and nbytes

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        threshold: float = 0.1,
        **kwargs: Any,
    ) -> "DetectorGrounding":
        """Loads a detector.

        Args:
            name: A Hub id or folder, such as "google/owlv2-base-patch16-ensemble".
            device: Where to run; None: transformers decides.
            dtype: Its precision; None: transformers decides.
            threshold: See the class.
            **kwargs: For transformers' `pipeline`, such as `revision`, `token`.

        Raises:
            OSError: If there is no such model, or it cannot be reached.
            ValueError: If it is no zero-shot detector.
        """
        from transformers import pipeline

        given = {"device": device, "dtype": dtype}
        options = {key: value for key, value in given.items() if value is not None} | kwargs
        return cls(pipeline(TASK, model=name, **options), threshold, model_name=str(name))

    def __call__(self, request: Request) -> list[Found]:
        """Answers every phrase of a request; see `instances.Grounding`.

        A phrase longer than the detector takes is cut, with a warning that quotes what was cut off.

        Raises:
            ValueError: If the detector has no token for a phrase (`UnreadablePhrase`).
        """
        asked = {"text": request.phrases, "negative_text": request.negatives}
        with self._lock:
            labels = [self._label(phrase, name) for name, phrases in asked.items() for phrase in phrases]
        boxes = self._boxes(request, list(dict.fromkeys(labels)))
        rivals = [box for label in labels[len(request.phrases) :] for box in boxes[label]]
        geometry = Geometry(request)
        pointed_at = sorted(geometry_answers(request), key=lambda one: -one.score)[:1]
        found = []
        for index, label in enumerate(labels[: len(request.phrases)]):
            own = self._not_against(boxes[label], rivals)[: request.max_proposals]
            instances = [one for one in self._draw(request, own) if geometry.fits(one.mask)]
            evidence = max((log_odds(one.text_probability) for one in instances), default=-math.inf)
            most = len(own) if request.wants_several(index) else 1
            found.append(Found(distinct_instances(instances, self.overlap, most) or pointed_at, evidence))
        return found

    def _label(self, phrase: str, argument: str) -> str:
        """A phrase as the detector takes it; to be called by one thread at a time."""
        label = phrase.lower().strip()
        label = label.rstrip(".") or label  # "..." is all there is
        if self._tokenizer is None:
            return label + self._ending
        if not self._tokenizer(label, add_special_tokens=False, verbose=False)["input_ids"]:
            raise UnreadablePhrase(f"{argument}: expected a phrase, got no token from {phrase!r:.60}")
        end = self._fitting_end(label)
        if cut := label[end:].strip():
            message = f"{argument}: the text is too long for {self.model_name or 'this detector'}; this was cut off: "
            warnings.warn(f"{message}{quoted(cut)}", UserWarning, stacklevel=3)
        return label[:end] + self._ending

    def _fitting_end(self, label: str) -> int:
        """Where the longest beginning of a label ends that the detector's text model takes: at the end of a word,
        unless the first one is too long already."""

        def tokens(end: int) -> int:
            return len(self._tokenizer(label[:end] + self._ending, verbose=False)["input_ids"])

        if self._most_tokens is None or tokens(len(label)) <= self._most_tokens:
            return len(label)
        ends = [word.end() for word in re.finditer(r"\S+", label)]
        fitting = bisect_right(ends, self._most_tokens, key=tokens)
        return ends[fitting - 1] if fitting else bisect_right(range(1, ends[0]), self._most_tokens, key=tokens)

    def _boxes(self, request: Request, labels: list[str]) -> dict[str, tuple[Box, ...]]:
        """Detections of each label, best first; the detector is asked for those alone that are not known."""
        with self._lock:  # who asks the same meanwhile finds it known
            revision = "" if self._watch is None else self._watch.fingerprint()
            names = {label: f"{request.embedding.key} {revision} {self.threshold} {label}" for label in labels}
            found = {label: self._kept.get(name) for label, name in names.items()}
            new = [label for label, known in found.items() if known is None]
            for label, boxes in self._detect(request, new).items():
                found[label] = _Detections(names[label], boxes)
                self._kept.put(found[label])
        return {label: some.boxes for label, some in found.items()}

    def _detect(self, request: Request, labels: list[str]) -> dict[str, tuple[Box, ...]]:
        """What the detector says of labels, best first."""
        from PIL import Image

        if not labels:
            return {}
        picture = Image.fromarray(request.pixels.permute(1, 2, 0).cpu().numpy())  # (3,H,W) -> (H,W,3)
        height, width = request.embedding.original_size
        boxes: dict[str, list[Box]] = {label: [] for label in labels}
        for one in self.detect(picture, candidate_labels=labels, threshold=self.threshold):
            left, top, right, bottom = (float(one["box"][side]) for side in ("xmin", "ymin", "xmax", "ymax"))
            corners = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
            if corners[0] < corners[2] and corners[1] < corners[3] and one["label"] in boxes:
                boxes[one["label"]].append(Box(corners, float(one["score"])))
        return {label: tuple(sorted(some, key=lambda box: -box.score)) for label, some in boxes.items()}

    def _not_against(self, boxes: Sequence[Box], rivals: Sequence[Box]) -> Sequence[Box]:
        """The boxes that no negative phrase suits better."""
        if not boxes or not rivals:
            return boxes
        overlap = box_iou(*(torch.tensor([box.corners for box in some]) for some in (boxes, rivals)))  # (n,m)
        better = torch.tensor([[rival.score >= box.score for rival in rivals] for box in boxes])
        lost = (better & (overlap > self.negative_iou)).any(dim=1).tolist()
        return [box for box, is_lost in zip(boxes, lost, strict=True) if not is_lost]

    def _draw(self, request: Request, boxes: Sequence[Box]) -> list[TextInstance]:
        """SAM's mask in each box; the points and the mask that were given speak of the same thing."""
        instances: list[TextInstance] = []
        for start in range(0, len(boxes), BOXES_AT_ONCE):
            some = boxes[start : start + BOXES_AT_ONCE]
            given = {"points": request.points, "labels": request.labels, "mask_input": request.mask_input}
            prompts = {name: None if value is None else [value] * len(some) for name, value in given.items()}
            answer = request.predictor.decode_batch(
                request.embedding, boxes=np.array([box.corners for box in some]), multimask_output=False, **prompts
            )
            stable = stability(request, answer.low_res_logits[:, 0])
            for index, box in enumerate(some):
                quality = float(np.clip(answer.scores[index, 0], 0, 1))
                instances.append(
                    make_instance(
                        answer.masks[index, 0].copy(),
                        answer.low_res_logits[index, 0].copy(),
                        score=box.score * quality,
                        predicted_iou=quality,
                        stability=stable[index],
                        text_probability=box.score,
                    )
                )
        return instances


def _most_tokens(config: Any) -> int | None:
    """How many tokens a detector's text model takes, those around the text included; None where nobody says."""
    own = getattr(getattr(config, "text_config", None), "max_position_embeddings", None)
    among = getattr(config, "max_text_len", None)  # Grounding DINO takes fewer than its BERT does
    return min((most for most in (own, among) if isinstance(most, int)), default=None)
