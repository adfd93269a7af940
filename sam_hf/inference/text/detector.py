"""Phrases by an open-vocabulary detector: it gives boxes, SAM gives masks.

OWLv2, OWL-ViT and Grounding DINO serve, by transformers' pipeline "zero-shot-object-detection", which knows each one's
pre- and post-processing. It runs the detector once for each phrase.

Source: the pattern of Grounded-SAM and LangSAM. Differs in that points and a mask go into SAM's prompts together with
the detector's boxes, and they and a box of the user's restrict what is found; where the detector finds nothing there,
SAM answers them alone, without a text probability; and in negative phrases.
"""

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torchvision.ops import box_iou

from sam_hf.inference.text.instances import Found, Request, TextInstance, log_odds, make_instance, stability
from sam_hf.inference.text.placement import Geometry, distinct_instances, geometry_answers

BOXES_AT_ONCE = 8
TASK = "zero-shot-object-detection"
# Trained on captions that end so; another model would take the full stop for a word.
DOTTED = ("grounding-dino", "mm-grounding-dino")


class Box(NamedTuple):
    """One detection: xyxy in original pixels, and the detector's probability."""

    corners: tuple[float, float, float, float]
    score: float


class DetectorGrounding:
    """Finds phrases by a detector; see the module. May be used by several threads; they take turns at the detector.

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
        kind = getattr(getattr(getattr(detect, "model", None), "config", None), "model_type", "")
        self._ending = "." if kind in DOTTED else ""

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
        """Answers every phrase of a request; see `instances.Grounding`."""
        labels = [self._label(phrase) for phrase in (*request.phrases, *request.negatives)]
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

    def _label(self, phrase: str) -> str:
        return phrase.lower().strip().rstrip(".") + self._ending

    def _boxes(self, request: Request, labels: list[str]) -> dict[str, list[Box]]:
        """Detections of each label, best first."""
        from PIL import Image

        picture = Image.fromarray(request.pixels.permute(1, 2, 0).cpu().numpy())  # (3,H,W) -> (H,W,3)
        height, width = request.embedding.original_size
        boxes: dict[str, list[Box]] = {label: [] for label in labels}
        with self._lock:
            detections = self.detect(picture, candidate_labels=labels, threshold=self.threshold)
        for one in detections:
            left, top, right, bottom = (float(one["box"][side]) for side in ("xmin", "ymin", "xmax", "ymax"))
            corners = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
            if corners[0] < corners[2] and corners[1] < corners[3] and one["label"] in boxes:
                boxes[one["label"]].append(Box(corners, float(one["score"])))
        return {label: sorted(some, key=lambda box: -box.score) for label, some in boxes.items()}

    def _not_against(self, boxes: list[Box], rivals: list[Box]) -> list[Box]:
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
