"""Free text on every SAM checkpoint: phrases in, instances and a verdict out.

`SamTextSegmenter.segment` reads the phrases (position words, plurals), asks a grounding for what is left of them, and
makes answers of what it found: one or all instances, the place that was asked for, present or absent. Which grounding:

- "learned": the checkpoint's own text branch;
- "detector": an open-vocabulary detector's boxes;
- "dense": CLIP's features, cell by cell;
- "proposals": everything mode's masks, ranked by CLIP;
- "auto": the first of these that this checkpoint and what was given allow. A CLIP is asked for a second opinion on
  what "learned" finds, unless the checkpoint is calibrated without it only. Without a text branch and a detector, what
  "dense" finds nothing for at all is looked for among the proposals; everything, if the CLIP has no dense features.
"""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sam_hf.inference.predictor import Prediction, SamPredictor
from sam_hf.inference.text.dense import DenseGrounding
from sam_hf.inference.text.detector import DetectorGrounding
from sam_hf.inference.text.grounding_options import check_counts
from sam_hf.inference.text.instances import Found, Grounding, Request, TextAnswer, as_numbers, mask_iou
from sam_hf.inference.text.learned import LearnedGrounding
from sam_hf.inference.text.mask_choice import choose_mask
from sam_hf.inference.text.plurals import Amount, read_amount
from sam_hf.inference.text.position_words import Reading, choose, choose_strictly, read_phrase
from sam_hf.inference.text.proposals import ProposalGrounding
from sam_hf.inference.text.templates import clean_phrases
from sam_hf.inference.text.verdict import DEFAULT, Calibration
from sam_hf.model.checkpoint_files import CALIBRATION
from sam_hf.model.checkpoint_names import EMBEDDED_NAME, resolve
from sam_hf.model.clip_beside import has_clip_beside
from sam_hf.model.clip_loading import A_CLIP, FOLDER
from sam_hf.model.hub_access import HUB_OPTIONS, pinned
from sam_hf.model.image_loading import as_bytes, load_image_tensor, open_image
from sam_hf.model.text_prompts import UnreadablePhrase, cuts_said_once

if TYPE_CHECKING:
    from sam_hf.inference.text.clip_encoder import ClipEncoder

GROUNDINGS = ("learned", "dense", "proposals", "detector")
JUDGED = "learned, judged by CLIP"  # what "auto" makes of "learned" where there is a CLIP
AMOUNTS = ("auto", "one", "all")
SAME = 0.5  # IoU of masks above which they are the same thing
A_DETECTOR = 'a detector, such as "google/owlv2-base-patch16-ensemble"'


class SamTextSegmenter:
    """Segments what phrases name; a phrase works on any SAM checkpoint, better where a text branch is trained.

    May be used by several threads. One picture is encoded once, whatever is asked about it: the predictor keeps its
    embedding, the CLIP its features.

    Args:
        predictor: A `SamPredictor` of any checkpoint.
        clip: A `ClipEncoder`, or the name of one, which is loaded when first needed; for "dense" and "proposals".
            None: the one that the checkpoint comes with, as the embedded one does: in a folder "clip" beside its
            weights, also on the Hub.
        detector: A `DetectorGrounding`, a Hub id of one, which is loaded when first needed, or a pipeline of
            transformers' task "zero-shot-object-detection".
        calibration: When a phrase is absent: a `Calibration`, or where one was saved; None: defaults.
        max_proposals: Bound of the masks that are looked at per picture.
        position_words: Whether words like "left" and "biggest" are read as places, see `position_words`.
        learned: Options of `LearnedGrounding`.
        dense: Options of `DenseGrounding`.
        proposals: Options of `ProposalGrounding`.

    Raises:
        TypeError: If an argument or an option of a grounding is of the wrong type, or the option unknown.
        ValueError: If an option is out of range, `max_proposals` is not positive, or the calibration is none.
        FileNotFoundError: If there is no calibration where one is said to be.

    Example:
        >>> segmenter = SamTextSegmenter.from_pretrained("tiny")
        >>> answer = segmenter.segment("photo.jpg", "the red mug on the left")
        >>> answer.instances[0].mask if not answer.absent else "no red mug"
    """

    def __init__(
        self,
        predictor: SamPredictor,
        clip: "ClipEncoder | str | os.PathLike | None" = None,
        detector: DetectorGrounding | Callable | str | None = None,
        calibration: Calibration | str | os.PathLike | None = None,
        *,
        max_proposals: int = 256,
        position_words: bool = True,
        learned: Mapping[str, Any] | None = None,
        dense: Mapping[str, Any] | None = None,
        proposals: Mapping[str, Any] | None = None,
    ):
        if not isinstance(predictor, SamPredictor):
            raise TypeError(f"predictor: expected a SamPredictor, got {type(predictor).__name__}")
        check_counts(max_proposals=max_proposals)
        if not isinstance(clip, (str, os.PathLike, type(None))) and not hasattr(clip, "has_dense_features"):
            raise TypeError(f"clip: expected a ClipEncoder or the name of a CLIP, got {clip!r:.60}")
        if not isinstance(detector, (str, os.PathLike, type(None))) and not callable(detector):
            raise TypeError(f"detector: expected a pipeline or the name of a detector, got {detector!r:.60}")
        if not isinstance(calibration, (str, os.PathLike, Calibration, type(None))):
            raise TypeError(f"calibration: expected a Calibration or where one is, got {calibration!r:.60}")
        self.predictor, self.max_proposals, self.position_words = predictor, int(max_proposals), position_words
        if isinstance(calibration, (str, os.PathLike)):
            calibration = Calibration.load(calibration)
        self.calibration = calibration or Calibration()
        self._clip, self._detector = clip, detector
        self._has_clip = clip is not None or has_clip_beside(predictor.model)
        self._made: dict[str, Grounding] = {"learned": LearnedGrounding(**(learned or {}))}
        kinds = {
            JUDGED: (LearnedGrounding, learned),
            "dense": (DenseGrounding, dense),
            "proposals": (ProposalGrounding, proposals),
        }
        self._makers = {name: partial(kind, **(options or {})) for name, (kind, options) in kinds.items()}
        for make in self._makers.values():
            make(None)  # wrong options are said now; the CLIP is loaded when first needed
        self._locks = {name: threading.Lock() for name in ("clip", JUDGED, *GROUNDINGS)}

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any = EMBEDDED_NAME,
        clip: "ClipEncoder | str | os.PathLike | None" = None,
        detector: DetectorGrounding | Callable | str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        **options: Any,
    ) -> "SamTextSegmenter":
        """Loads a checkpoint, and the calibration beside its weights if there is one.

        That is of groundings as they are: one with options is judged by it only if it is given as `calibration`.

        Args:
            pretrained_model_name_or_path: A Hub id, a folder, or "tiny", the embedded checkpoint.
            clip: See the class, as for `detector`.
            detector: See there.
            device: Where to run; None: CUDA or Apple's GPU if there is one, else the CPU.
            dtype: Precision of the model; None: float32.
            **options: See the class; and for loading `revision`, `token`, `cache_dir`, `local_files_only`,
                `force_download`, `subfolder`.

        Raises:
            ValueError, OSError: See `SamPredictor.from_pretrained`.
        """
        loading = {name: options.pop(name) for name in HUB_OPTIONS if name in options}
        with pinned(resolve(pretrained_model_name_or_path), loading) as files:
            predictor = SamPredictor.from_pretrained(pretrained_model_name_or_path, device, dtype, **files)
            found = None
            if options.get("calibration") is None:
                found = find_calibration(pretrained_model_name_or_path, **files)
        if options.get("calibration") is None:
            curves = {} if found is None else found.curves
            options["calibration"] = Calibration(
                {name: curve for name, curve in curves.items() if not options.get(name.split("/")[0])}
            )
        return cls(predictor, clip, detector, **options)

    # --- asking --------------------------------------------------------------------------------------------------

    def segment(
        self,
        image: Any,
        text: str | Sequence[str],
        negative_text: str | Sequence[str] = (),
        points: Any = None,
        labels: Any = None,
        box: Any = None,
        mask_input: Any = None,
        grounding: str | Grounding = "auto",
        instances: str = "auto",
    ) -> TextAnswer | list[TextAnswer]:
        """Finds what phrases name in a picture.

        Geometry, if given, speaks of the one thing that each phrase is about: to "learned" it goes into the same
        decode, elsewhere it restricts what is found and joins SAM's prompts. A foreground point, a box or a mask is
        answered by one instance, whatever the phrase; "absent" is only what SAM draws nothing at all for. Background
        points alone say what is not meant.

        Args:
            image: A path, a PIL image, an array or tensor (H,W,3) or (3,H,W); see `SamPredictor.encode`.
            text: A phrase, or several, each answered by itself.
            negative_text: Phrases of what is not meant: what suits one of them better is dropped, and with a place
                ("the cup on the left") what is found there.
            points: (N,2) xy, original pixels.
            labels: (N,) 1 foreground, 0 background, -1 not a point; None: all foreground.
            box: (4,) xyxy, original pixels.
            mask_input: (1,4h,4w) logits of an earlier answer, or (H,W) booleans.
            grounding: "auto" or one way, see the module; or a grounding of your own.
            instances: "one", the best; "all"; or "auto": all for a plural ("cups", "two dogs"), else one; see
                `plurals`. Where something is pointed at it is one.

        Returns:
            An answer, or for a sequence of phrases a list of them.

        Raises:
            ValueError: If a phrase is blank, there is none, the geometry is wrong, an option is unknown, or the way
                that was asked for lacks what it needs; the message says what to do.
            TypeError: If something is of the wrong type.
        """
        if instances not in AMOUNTS:
            raise ValueError(f"instances: expected one of {', '.join(AMOUNTS)}; got {instances!r}")
        phrases = _clean(text, "text")
        if not phrases:
            raise ValueError("text: expected at least one phrase, got none")
        negatives = _clean(negative_text, "negative_text")
        if labels is not None and points is None:
            raise ValueError("labels: given without points")
        readings = [self._read(phrase, count=instances != "one") for phrase in phrases]
        image, pixels = _read_image(image)
        embedding = self.predictor.encode(image)
        if any(given is not None for given in (points, box, mask_input)):
            self.predictor.check(embedding, points, labels, box, mask_input)
        points, labels = _without_fillers(points, labels)
        request = Request(
            predictor=self.predictor,
            embedding=embedding,
            pixels=pixels,
            phrases=tuple(reading.phrase for reading in readings),
            points=points,
            labels=labels,
            box=box,
            mask_input=mask_input,
            max_proposals=self.max_proposals,
        )
        with cuts_said_once():
            answers = self._answers(request, phrases, readings, negatives, self._way(grounding), instances)
        return answers[0] if isinstance(text, str) else answers

    def _answers(
        self,
        request: Request,
        phrases: Sequence[str],
        readings: Sequence[Reading],
        negatives: Sequence[str],
        answer: Callable[[Request], list[tuple[Grounding, Found]]],
        instances: str,
    ) -> list[TextAnswer]:
        """What a way of grounding makes of all phrases, once negative ones are read."""
        shunned = [self._read_negative(phrase) for phrase in negatives]
        elsewhere = [
            mask for reading in shunned if reading.places for mask in self._at_places(request, reading, answer)
        ]
        wanted = [
            not request.names_one and (instances == "all" or (instances == "auto" and reading.several))
            for reading in readings
        ]
        # A place is chosen among all of them, and so is what is left when others are taken away.
        several = [
            several or bool(reading.places) or bool(elsewhere)
            for several, reading in zip(wanted, readings, strict=True)
        ]
        request = request._replace(
            negatives=tuple(reading.phrase for reading in shunned if not reading.places), several=tuple(several)
        )
        answers = []
        for phrase, reading, all_of_it, (way, found) in zip(phrases, readings, wanted, answer(request), strict=True):
            kept = [one for one in found.instances if request.names_one or not _is_one_of(one.mask, elsewhere)]
            found = found._replace(instances=kept)
            answers.append(self._conclude(phrase, reading, all_of_it, way, found, request=request))
        return answers

    def _read_negative(self, phrase: str) -> Reading:
        try:
            return self._read(phrase, count=True)
        except UnreadablePhrase as error:
            raise UnreadablePhrase(str(error).replace("text:", "negative_text:", 1)) from None

    def _at_places(
        self, request: Request, reading: Reading, answer: Callable[[Request], list[tuple[Grounding, Found]]]
    ) -> list[np.ndarray]:
        """Masks (H,W) of what a phrase names at the places that it says, without anything that was pointed at."""
        about = (self.predictor, request.embedding, request.pixels, (reading.phrase,))
        ((_, found),) = answer(Request(*about, max_proposals=self.max_proposals, several=(True,)))
        ordered = sorted((one for one in found.instances if one.mask.any()), key=lambda one: -one.score)
        return [one.mask for one in choose_strictly(ordered, reading, request.embedding.original_size)]

    def choose_mask(
        self, image: Any, prediction: Prediction, text: str, negative_text: str | Sequence[str] = ()
    ) -> int:
        """Which of the three masks of a click a phrase means, part or whole; by CLIP, on any checkpoint.

        Args:
            image: The picture, see `segment`.
            prediction: Of `SamPredictor.predict` or `decode`, three masks or logits.
            text: The phrase, such as "wheel" or "car".
            negative_text: See `segment`.

        Returns:
            Index into the masks.

        Raises:
            ValueError: If the phrase is blank, the answer is of several prompts, or there is no CLIP.
            TypeError: If something is of the wrong type.
        """
        (phrase,) = clean_phrases([text], "text")
        _, pixels = _read_image(image)
        negatives = _clean(negative_text, "negative_text")
        return choose_mask(self._load_clip(), pixels, prediction, phrase, negatives)

    def _read(self, phrase: str, count: bool) -> Reading:
        if self.position_words:
            return read_phrase(phrase, count)
        amount = read_amount(phrase) if count else Amount(phrase, False)
        return Reading(amount.phrase, (), amount.several, amount.limit)

    def _conclude(
        self, phrase: str, reading: Reading, several: bool, grounding: Grounding, found: Found, request: Request
    ) -> TextAnswer:
        """One phrase's answer from what its grounding found."""
        ordered = sorted((one for one in found.instances if one.mask.any()), key=lambda one: -one.score)
        if request.names_one:  # which one is meant has been said
            reading = reading._replace(places=(), limit=None)
        chosen = choose(ordered, reading, request.embedding.original_size, several)
        name, evidence = calibration_name(grounding), float(found.evidence) if ordered else -float("inf")
        # Evidence beside geometry or rivals is another quantity than what curves are fitted to.
        calibrated = name in self.calibration and not (request.has_geometry or request.negatives)
        curve = self.calibration.curve(name) if calibrated else DEFAULT
        absent = not ordered or (not request.names_one and curve.is_absent(evidence))
        return TextAnswer(
            phrase=phrase,
            instances=[] if absent else chosen,
            presence=curve.presence(evidence),
            absent=absent,
            grounding=grounding.name,
            judged_by=name,
            heat_map=found.heat_map,
            calibrated=calibrated,
            refused=chosen if absent else [],
            evidence=evidence,
        )

    # --- ways ----------------------------------------------------------------------------------------------------

    def grounding(self, name: str) -> Grounding:
        """One way of grounding, made when first asked for.

        Args:
            name: "learned", "dense", "proposals" or "detector"; "auto": the one that it begins with.

        Raises:
            ValueError: If there is no such way, or it lacks a text branch, a CLIP or a detector.
            ImportError, OSError: If the CLIP or the detector cannot be loaded.
        """
        if name == "auto":
            return self._make_once(JUDGED if self._is_judged else self.automatic)
        if name not in GROUNDINGS:
            raise ValueError(f"grounding: expected 'auto' or one of {', '.join(GROUNDINGS)}; got {name!r}")
        if name == "learned" and not self.has_text_branch:
            raise ValueError(
                'grounding: "learned" needs a checkpoint with a text branch, such as the embedded "tiny"; for this '
                f'one give {A_CLIP} and use grounding="auto"'
            )
        return self._make_once(name)

    def _make_once(self, name: str) -> Grounding:
        if name not in self._made:
            with self._locks[name]:
                if name not in self._made:
                    self._made[name] = self._make(name)
        return self._made[name]

    @property
    def has_text_branch(self) -> bool:
        """Whether the checkpoint reads text itself."""
        return self.predictor.model.config.text_config is not None

    @property
    def _is_judged(self) -> bool:
        """Whether "auto" asks the CLIP about what "learned" finds: not if only "learned" alone is calibrated, whose
        verdict is then better than one that nobody has fitted."""
        if not self.has_text_branch or not self._has_clip:
            return False
        return "learned" not in self.calibration or calibration_name(self._make_once(JUDGED)) in self.calibration

    @property
    def automatic(self) -> str:
        """The name of the way that "auto" begins with; loads the CLIP if it comes to that.

        Raises:
            ValueError: If there is none; the message says how to give a CLIP.
            ImportError, OSError: If the CLIP cannot be loaded.
        """
        if self.has_text_branch:
            return "learned"
        if self._detector is not None:
            return "detector"
        if not self._has_clip:
            raise ValueError(f"text: this checkpoint has no text branch; give {A_CLIP}, or {A_DETECTOR}")
        return "dense" if self._load_clip().has_dense_features else "proposals"

    def _way(self, grounding: str | Grounding) -> Callable[[Request], list[tuple[Grounding, Found]]]:
        """What answers a request by (grounding, found) per phrase; loads what it needs."""
        if not isinstance(grounding, str):
            if not callable(grounding) or not isinstance(getattr(grounding, "name", None), str):
                raise TypeError(f"grounding: expected a string or a Grounding, got {type(grounding).__name__}")
            return lambda request: [(grounding, found) for found in grounding(request)]
        if grounding != "auto":
            return self._way(self.grounding(grounding))
        first = self.grounding("auto")
        return self._dense_then_proposals if first.name == "dense" else self._way(first)

    def _dense_then_proposals(self, request: Request) -> list[tuple[Grounding, Found]]:
        """Proposals are dear, and see what a heat map's cells are too coarse for: they come second."""
        dense = self.grounding("dense")
        answers: list[tuple[Grounding, Found]] = [(dense, found) for found in dense(request)]
        missing = [index for index, (_, found) in enumerate(answers) if not found.instances]
        if missing:
            proposals = self.grounding("proposals")
            rest = request._replace(
                phrases=tuple(request.phrases[index] for index in missing),
                several=tuple(request.wants_several(index) for index in missing),
            )
            for index, found in zip(missing, proposals(rest), strict=True):
                answers[index] = (proposals, found._replace(heat_map=answers[index][1].heat_map))
        return answers

    def _make(self, name: str) -> Grounding:
        if name != "detector":
            return self._makers[name](self._load_clip())
        if self._detector is None:
            raise ValueError(f'grounding: "detector" needs {A_DETECTOR}')
        if isinstance(self._detector, DetectorGrounding):
            return self._detector
        if isinstance(self._detector, (str, os.PathLike)):
            return DetectorGrounding.from_pretrained(self._detector, device=self.predictor.device)
        return DetectorGrounding(self._detector)

    def _load_clip(self) -> "ClipEncoder":
        from sam_hf.inference.text.clip_encoder import encoder_for  # with open_clip

        with self._locks["clip"]:
            self._clip = encoder_for(self.predictor, self._clip)
            return self._clip


def calibration_name(grounding: Grounding) -> str:
    """What a grounding's curve is called: its name, and that of the CLIP or detector behind it.

    A folder is called by its last part and the fingerprint of its weights, wherever it lies.
    """
    clip = getattr(grounding, "clip", None)
    behind = getattr(clip, "name", "") or getattr(grounding, "model_name", "")
    folder = Path(behind.removeprefix(FOLDER))
    if behind not in ("", EMBEDDED_NAME) and folder.is_dir():
        behind = "-".join([folder.resolve().name, *([clip.revision[:8]] if clip is not None else [])])
    return f"{grounding.name}/{behind}" if behind else grounding.name


def find_calibration(pretrained_model_name_or_path: Any, **loading: Any) -> Calibration | None:
    """The calibration in a checkpoint's folder or Hub repository; None if it has none."""
    from transformers.utils import cached_file

    source = resolve(pretrained_model_name_or_path)
    loading = {name: value for name, value in loading.items() if value is not None}
    file = cached_file(
        source,
        CALIBRATION,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **loading,
    )
    return None if file is None else Calibration.load(file)


def _clean(phrases: str | Sequence[str], name: str) -> tuple[str, ...]:
    if isinstance(phrases, np.ndarray):
        phrases = phrases.tolist()
    if isinstance(phrases, bytes) or not isinstance(phrases, Sequence):
        raise TypeError(f"{name}: expected a phrase or a list of phrases, got {phrases!r:.60}")
    return clean_phrases([phrases] if isinstance(phrases, str) else phrases, name)


def _without_fillers(points: Any, labels: Any) -> tuple[Any, Any]:
    """Points and labels, checked already, without those whose label says that they are none; None if none is left."""
    meant = labels is None or as_numbers(labels) >= 0
    if np.all(meant):
        return points, labels
    return (as_numbers(points)[meant], as_numbers(labels)[meant].astype(np.int64)) if meant.any() else (None, None)


def _is_one_of(mask: np.ndarray, others: Sequence[np.ndarray]) -> bool:
    return any(mask_iou(mask, other) > SAME for other in others)


def _read_image(image: Any) -> tuple[Any, torch.Tensor]:
    """A picture, opened if it is a file, and its pixels (3,H,W) uint8."""
    if isinstance(image, (str, os.PathLike)):
        image = open_image(image, "image")
    return image, as_bytes(load_image_tensor(image, where="image"))
