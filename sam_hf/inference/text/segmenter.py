"""Free text on every SAM checkpoint: phrases in, instances and a verdict out.

`SamTextSegmenter.segment` reads the phrases (position words, plurals), asks a grounding for what is left of them, and
makes answers of what it found: one or all instances, the place that was asked for, present or absent. Which grounding:

- "learned": the checkpoint's own text branch;
- "detector": an open-vocabulary detector's boxes;
- "dense": CLIP's features, cell by cell;
- "proposals": everything mode's masks, ranked by CLIP;
- "auto": the first of these that this checkpoint and what was given allow. Without a text branch and a detector, what
  "dense" finds nothing for at all is looked for among the proposals.
"""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sam_hf.inference.predictor import SamPredictor
from sam_hf.inference.text.detector import DetectorGrounding
from sam_hf.inference.text.instances import Found, Grounding, Request, TextAnswer
from sam_hf.inference.text.learned import LearnedGrounding
from sam_hf.inference.text.plurals import read_amount
from sam_hf.inference.text.position_words import Reading, choose, read_phrase
from sam_hf.inference.text.verdict import FILE_NAME, Calibration
from sam_hf.model.checkpoint_names import EMBEDDED_NAME, resolve
from sam_hf.model.image_loading import load_image_tensor, open_image
from sam_hf.model.text_prompts import read_texts

if TYPE_CHECKING:
    from sam_hf.inference.text.clip_encoder import ClipEncoder

GROUNDINGS = ("learned", "dense", "proposals", "detector")
AMOUNTS = ("auto", "one", "all")
LOADING = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")
HOW_TO_GIVE_A_CLIP = 'clip="ViT-B-16-quickgelu/openai" (any name of open_clip, a folder, or "tiny", the embedded one)'


class SamTextSegmenter:
    """Segments what phrases name; a phrase works on any SAM checkpoint, better where a text branch is trained.

    May be used by several threads. One picture is encoded once, whatever is asked about it: the predictor keeps its
    embedding, the CLIP its features.

    Args:
        predictor: A `SamPredictor` of any checkpoint.
        clip: A `ClipEncoder`, or the name of one, which is loaded when first needed; for "dense" and "proposals".
        detector: A `DetectorGrounding`, a Hub id of one, which is loaded when first needed, or a pipeline of
            transformers' task "zero-shot-object-detection".
        calibration: When a phrase is absent: a `Calibration`, or where one was saved; None: defaults.
        max_proposals: Bound of the masks that are looked at per picture.
        position_words: Whether words like "left" and "biggest" are read as places, see `position_words`.
        learned: Options of `LearnedGrounding`.
        dense: Options of `DenseGrounding`.
        proposals: Options of `ProposalGrounding`.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If `max_proposals` is not positive, or the calibration cannot be read.

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
        if isinstance(max_proposals, bool) or not isinstance(max_proposals, int) or max_proposals < 1:
            raise ValueError(f"max_proposals: expected 1 or more, got {max_proposals!r}")
        self.predictor, self.max_proposals, self.position_words = predictor, max_proposals, position_words
        if calibration is not None and not isinstance(calibration, Calibration):
            calibration = Calibration.load(calibration)
        self.calibration = calibration or Calibration()
        self._clip, self._detector = clip, detector
        self._options = {"dense": dict(dense or {}), "proposals": dict(proposals or {})}
        self._made: dict[str, Grounding] = {"learned": LearnedGrounding(**(learned or {}))}
        self._lock = threading.RLock()

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

        Args:
            pretrained_model_name_or_path: A Hub id, a folder, or "tiny", the embedded checkpoint, which comes with a
                CLIP of its own.
            clip: See the class, as for `detector`.
            detector: See there.
            device: Where to run; None: CUDA or Apple's GPU if there is one, else the CPU.
            dtype: Precision of the model; None: float32.
            **options: See the class; and for loading `revision`, `token`, `cache_dir`, `local_files_only`,
                `force_download`, `subfolder`.

        Raises:
            ValueError, OSError: See `SamPredictor.from_pretrained`.
        """
        loading = {name: options.pop(name) for name in LOADING if name in options}
        predictor = SamPredictor.from_pretrained(pretrained_model_name_or_path, device, dtype, **loading)
        if clip is None and pretrained_model_name_or_path == EMBEDDED_NAME:
            clip = EMBEDDED_NAME
        if options.get("calibration") is None:
            options["calibration"] = find_calibration(pretrained_model_name_or_path, **loading)
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
        decode, elsewhere it restricts what is found and joins SAM's prompts.

        Args:
            image: A path, a PIL image, an array or tensor (H,W,3) or (3,H,W); see `SamPredictor.encode`.
            text: A phrase, or several, each answered by itself.
            negative_text: Phrases of what is not meant: what suits one of them better is dropped.
            points: (N,2) xy, original pixels.
            labels: (N,) 1 foreground, 0 background; None: all foreground.
            box: (4,) xyxy, original pixels.
            mask_input: (1,4h,4w) logits of an earlier answer, or (H,W) booleans.
            grounding: "auto" or one way, see the module; or a grounding of your own.
            instances: "one", the best; "all"; or "auto": all for a plural ("cups", "two dogs"), else one; see
                `plurals`.

        Returns:
            An answer, or for a sequence of phrases a list of them.

        Raises:
            ValueError: If a phrase is blank, there is none, an option is unknown, or the way that was asked for lacks
                what it needs; the message says what to do.
            TypeError: If something is of the wrong type.
        """
        if instances not in AMOUNTS:
            raise ValueError(f"instances: expected one of {', '.join(AMOUNTS)}; got {instances!r}")
        phrases = _read_phrases(text, "text", at_least_one=True)
        negatives = _read_phrases(negative_text, "negative_text", at_least_one=False)
        if labels is not None and points is None:
            raise ValueError("labels: given without points")
        answer = self._way(grounding)
        readings = [self._read(phrase) for phrase in phrases]
        wanted = [instances == "all" or (instances == "auto" and reading.several) for reading in readings]
        if isinstance(image, (str, os.PathLike)):
            image = open_image(image, "image")
        request = Request(
            predictor=self.predictor,
            embedding=self.predictor.encode(image),
            pixels=_as_bytes(load_image_tensor(image, where="image")),
            phrases=tuple(reading.phrase for reading in readings),
            negatives=negatives,
            points=points,
            labels=labels,
            box=box,
            mask_input=mask_input,
            max_proposals=self.max_proposals,
            # A place is chosen among all of them.
            several=tuple(several or bool(reading.places) for several, reading in zip(wanted, readings, strict=True)),
        )
        size = request.embedding.original_size
        answers = [
            self._conclude(phrase, reading, several, *found, size=size)
            for phrase, reading, several, found in zip(phrases, readings, wanted, answer(request), strict=True)
        ]
        return answers[0] if isinstance(text, str) else answers

    def _read(self, phrase: str) -> Reading:
        if self.position_words:
            return read_phrase(phrase)
        amount = read_amount(phrase)
        return Reading(amount.phrase, (), amount.several, amount.limit)

    def _conclude(
        self, phrase: str, reading: Reading, several: bool, grounding: Grounding, found: Found, size: tuple[int, int]
    ) -> TextAnswer:
        """One phrase's answer from what its grounding found."""
        ordered = sorted((one for one in found.instances if one.mask.any()), key=lambda one: -one.score)
        chosen = choose(ordered, reading, size, several)
        name, evidence = calibration_name(grounding), float(found.evidence) if ordered else -float("inf")
        absent = self.calibration.is_absent(name, evidence)
        return TextAnswer(
            phrase=phrase,
            instances=[] if absent else chosen,
            presence=self.calibration.presence(name, evidence),
            absent=absent,
            grounding=grounding.name,
            heat_map=found.heat_map,
            calibrated=name in self.calibration,
            refused=chosen if absent else [],
            evidence=evidence,
        )

    # --- ways ----------------------------------------------------------------------------------------------------

    def grounding(self, name: str) -> Grounding:
        """One way of grounding, made when first asked for.

        Args:
            name: "learned", "dense", "proposals" or "detector".

        Raises:
            ValueError: If there is no such way, or it lacks a text branch, a CLIP or a detector.
            ImportError, OSError: If the CLIP or the detector cannot be loaded.
        """
        if name not in GROUNDINGS:
            raise ValueError(f"grounding: expected 'auto' or one of {', '.join(GROUNDINGS)}; got {name!r}")
        if name == "learned" and not self.has_text_branch:
            raise ValueError(
                'grounding: "learned" needs a checkpoint with a text branch, such as the embedded "tiny"; for this '
                f'one give {HOW_TO_GIVE_A_CLIP} and use grounding="auto"'
            )
        with self._lock:
            if name not in self._made:
                self._made[name] = self._make(name)
            return self._made[name]

    @property
    def has_text_branch(self) -> bool:
        """Whether the checkpoint reads text itself."""
        return self.predictor.model.config.text_config is not None

    @property
    def automatic(self) -> str:
        """The way that "auto" takes.

        Raises:
            ValueError: If there is none; the message says how to give a CLIP.
        """
        if self.has_text_branch:
            return "learned"
        if self._detector is not None:
            return "detector"
        if self._clip is None:
            raise ValueError(f"text: this checkpoint has no text branch; give {HOW_TO_GIVE_A_CLIP}, or a detector")
        return "dense"

    def _way(self, grounding: str | Grounding) -> Callable[[Request], list[tuple[Grounding, Found]]]:
        """What answers a request by (grounding, found) per phrase; loads what it needs."""
        if not isinstance(grounding, str):
            if not callable(grounding) or not isinstance(getattr(grounding, "name", None), str):
                raise TypeError(f"grounding: expected a string or a Grounding, got {type(grounding).__name__}")
            return lambda request: [(grounding, found) for found in grounding(request)]
        if grounding != "auto":
            return self._way(self.grounding(grounding))
        first = self.grounding(self.automatic)
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
        if name == "detector":
            return self._make_detector()
        clip = self._load_clip(name)
        if name == "dense":
            from sam_hf.inference.text.dense import DenseGrounding

            return DenseGrounding(clip, **self._options[name])
        from sam_hf.inference.text.proposals import ProposalGrounding

        return ProposalGrounding(clip, **self._options[name])

    def _make_detector(self) -> Grounding:
        if self._detector is None:
            raise ValueError(
                'grounding: "detector" needs a detector, such as detector="google/owlv2-base-patch16-ensemble"'
            )
        if isinstance(self._detector, DetectorGrounding):
            return self._detector
        if isinstance(self._detector, (str, os.PathLike)):
            return DetectorGrounding.from_pretrained(self._detector, device=self.predictor.device)
        return DetectorGrounding(self._detector)

    def _load_clip(self, name: str) -> "ClipEncoder":
        if self._clip is None:
            raise ValueError(f'grounding: "{name}" needs a CLIP; give {HOW_TO_GIVE_A_CLIP}')
        if isinstance(self._clip, (str, os.PathLike)):
            from sam_hf.inference.text.clip_encoder import ClipEncoder

            self._clip = ClipEncoder.from_pretrained(self._clip, device=self.predictor.device)
        return self._clip


def calibration_name(grounding: Grounding) -> str:
    """What a grounding's curve is called: its name, and that of the CLIP or detector behind it, without its folder."""
    behind = getattr(getattr(grounding, "clip", None), "name", "") or getattr(grounding, "model_name", "")
    if Path(behind).is_absolute() or behind.startswith("local-dir:"):
        behind = Path(behind).name
    return f"{grounding.name}/{behind}" if behind else grounding.name


def find_calibration(pretrained_model_name_or_path: Any, **loading: Any) -> Calibration | None:
    """The calibration in a checkpoint's folder or Hub repository; None if it has none."""
    from transformers.utils import cached_file

    source = resolve(pretrained_model_name_or_path)
    loading = {name: value for name, value in loading.items() if value is not None}
    file = cached_file(
        source,
        FILE_NAME,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **loading,
    )
    return None if file is None else Calibration.load(file)


def _read_phrases(phrases: Any, name: str, at_least_one: bool) -> tuple[str, ...]:
    """Phrases as a tuple, control characters as spaces.

    Raises:
        ValueError, TypeError: Naming the argument.
    """
    if isinstance(phrases, str):
        phrases = [phrases]
    if not isinstance(phrases, Sequence) or isinstance(phrases, (bytes, Mapping)):
        raise TypeError(f"{name}: expected a string or a list of strings, got {type(phrases).__name__}")
    if not phrases:
        if at_least_one:
            raise ValueError(f"{name}: expected at least one phrase, got none")
        return ()
    read = []
    for index, phrase in enumerate(phrases):
        if not isinstance(phrase, str):
            raise TypeError(f"{name}[{index}]: expected a string, got {type(phrase).__name__}")
        try:
            read.append(read_texts([[phrase]], 1)[0][0])
        except ValueError as error:
            raise ValueError(str(error).replace("text[0][0]", f"{name}[{index}]")) from None
    return tuple(read)


def _as_bytes(pixels: torch.Tensor) -> torch.Tensor:
    """(3,H,W) on the scale to 255 as uint8."""
    return pixels if pixels.dtype == torch.uint8 else pixels.round().clamp(0, 255).to(torch.uint8)
