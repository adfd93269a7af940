"""`SamProcessor`: pictures and prompts in original pixels in, tensors for `SamModel` out, and its masks back.

Source: Figure 4 of the paper, left of the model. Name, keywords and output keys are transformers 5.23's; differs in
that text and mask prompts are understood, prompts may be ragged at every level, points come with labels, coordinates
are float32, and what cannot be meant is refused (see ``prompt_preparation`` and ``text_prompts``).
"""

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers.image_processing_utils import BatchFeature
from transformers.processing_utils import ImagesKwargs, ProcessingKwargs, ProcessorMixin, TextKwargs, Unpack
from transformers.utils import cached_file, logging

from .atomic_saving import saved_whole
from .checkpoint_checks import check_folder, check_image_settings, problems_named
from .checkpoint_files import CONFIG, PROCESSOR_FILES, read_json
from .checkpoint_names import resolve
from .hub_access import HUB_OPTIONS, pinned
from .image_operations import height_width
from .image_processing_sam import SamImageProcessor, SamImageProcessorPil
from .mask_postprocessing import preprocess_shape, size_list
from .prompt_preparation import (
    PADDING,
    mask_prompt_logits,
    prompt_count,
    read_boxes,
    read_masks,
    read_points,
    stack_points,
    stack_rows,
)
from .remote_code import PROCESSORS, name_classes, write_remote_code
from .text_prompts import NO_TEXT_BRANCH, encode_texts, read_texts
from .weight_checks import first_lines

logger = logging.get_logger(__name__)

PROMPTS = ("segmentation_maps", "input_points", "input_labels", "input_boxes", "input_masks")


def _damaged(name: Any, error: Exception) -> str:
    return f"{' or '.join(PROCESSOR_FILES)} of {str(name)!r} is damaged: {first_lines(error)}"


def _is_extended(folder: str | os.PathLike) -> bool:
    """Whether the model in a folder is one that stock transformers cannot read."""
    try:
        return read_json(Path(folder) / CONFIG).get("model_type") == "sam_hf"
    except (OSError, ValueError):
        return False


class SamImagesKwargs(ImagesKwargs, total=False):
    """What `images_kwargs` may hold: the image processor's own settings."""

    mask_size: dict[str, int]
    mask_pad_size: dict[str, int]


class SamProcessorKwargs(ProcessingKwargs, total=False):
    """
    point_pad_value (`int`, *optional*, defaults to -10):
        Coordinate and label of padding points. The model ignores the label -10 only.
    """

    images_kwargs: SamImagesKwargs

    point_pad_value: int | None


class SamProcessor(ProcessorMixin):
    """An image processor and, for checkpoints with a text branch, a tokenizer in one.

    Args:
        image_processor: `SamImageProcessor` or `SamImageProcessorPil`.
        text_config: The model's text configuration (``vocab_size``, ``context_length``; a dict or a configuration), or
            None for a checkpoint without text branch.
        extended: Whether the checkpoint is one that stock transformers cannot read ("sam_hf"), as every one with text
            is: then auto classes are told to load this class. Saved beside such a model, a processor learns it there.
    """

    valid_processor_kwargs = SamProcessorKwargs
    point_pad_value = PADDING
    image_processor_classes = {"torchvision": SamImageProcessor, "pil": SamImageProcessorPil}

    def __init__(self, image_processor: Any, text_config: Any = None, extended: bool = False):
        super().__init__(image_processor)
        self.target_size = self.image_processor.size["longest_edge"]
        if text_config is not None and not isinstance(text_config, Mapping):
            if not hasattr(text_config, "to_dict"):
                raise TypeError(f"text_config: expected a dict or a configuration, got {type(text_config).__name__}")
            text_config = text_config.to_dict()
        if text_config is not None:
            text_config = {name: text_config[name] for name in ("vocab_size", "context_length") if name in text_config}
        self.text_config = text_config
        self.extended = extended or text_config is not None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, *args, **kwargs) -> "SamProcessor":
        """Load from a folder, a Hub repository or the embedded checkpoint ``"tiny"``; see transformers.

        ``backend="pil"`` takes `SamImageProcessorPil` for the pictures.
        """
        name = resolve(pretrained_model_name_or_path)
        check_folder(name, weights=False, config=False, subfolder=kwargs.get("subfolder") or "")
        with problems_named(name), pinned(name, kwargs) as options:
            try:
                return super().from_pretrained(name, *args, **options)
            except (AttributeError, LookupError) as error:
                raise ValueError(_damaged(name, error)) from error

    @classmethod
    def get_processor_dict(cls, pretrained_model_name_or_path, **kwargs) -> tuple[dict[str, Any], dict[str, Any]]:
        """processor_config.json, {} where there is none, and the arguments that choose no file.

        transformers' own also asks the Hub, at every load, for chat templates, which no SAM has.
        """
        files = {name: kwargs.pop(name, None) for name in (*HUB_OPTIONS, "proxies")}
        for name in ("_from_pipeline", "_from_auto"):
            kwargs.pop(name, None)
        given = {name: value for name, value in files.items() if value is not None}
        name = str(pretrained_model_name_or_path)
        file = cached_file(name, PROCESSOR_FILES[0], _raise_exceptions_for_missing_entries=False, **given)
        return ({} if file is None else read_json(Path(file))), kwargs

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs) -> list[Any]:
        # transformers would ask AutoImageProcessor, which gives its own class for "sam" checkpoints
        backend = kwargs.pop("backend", None) or "torchvision"
        if backend not in cls.image_processor_classes:
            raise ValueError(f"backend: expected one of {sorted(cls.image_processor_classes)}, got {backend!r}")
        for name in ("use_fast", "trust_remote_code", "code_revision", "_from_auto", "text_config", "extended"):
            kwargs.pop(name, None)
        try:
            images = cls.image_processor_classes[backend].from_pretrained(pretrained_model_name_or_path, **kwargs)
            check_image_settings(images)
            return [images]
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            if isinstance(error, ValueError) and str(pretrained_model_name_or_path) in str(error):
                raise
            raise ValueError(_damaged(pretrained_model_name_or_path, error)) from error

    def to_dict(self) -> dict[str, Any]:
        """Serialise; for a plain checkpoint the result is what transformers writes. See `remote_code.name_classes`."""
        output = super().to_dict()
        if output.get("text_config") is None:
            output.pop("text_config", None)
        if self.text_config is not None or not self.extended:
            output.pop("extended", None)  # goes without saying
        return name_classes(output, self.extended)

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> list[str]:
        """Write processor_config.json, preprocessor_config.json for older readers and, if extended, the source files.

        Args:
            save_directory: Folder; made if needed.
            push_to_hub: Also upload them; see `push_to_hub` for `repo_id` (the folder's name) and the rest.
            **kwargs: For `push_to_hub`.

        Returns:
            The paths of the two files.
        """
        claimed = copy.copy(self)
        claimed.extended = self.extended or _is_extended(save_directory)
        with saved_whole(save_directory) as part:
            written = super(SamProcessor, claimed).save_pretrained(part)
            if claimed.extended:
                write_remote_code(part, PROCESSORS)
            with open(os.path.join(part, PROCESSOR_FILES[1]), "w", encoding="utf-8") as file:
                file.write(json.dumps(claimed.to_dict()["image_processor"], indent=2, sort_keys=True) + "\n")
        if push_to_hub:
            self.push_to_hub(**{"repo_id": os.path.basename(os.path.normpath(save_directory))} | kwargs)
        names = [*(os.path.relpath(path, part) for path in written), PROCESSOR_FILES[1]]
        return [os.path.join(save_directory, name) for name in names]

    def __call__(
        self,
        images: Any = None,
        text: Any = None,
        segmentation_maps: Any = None,
        input_points: Any = None,
        input_labels: Any = None,
        input_boxes: Any = None,
        input_masks: Any = None,
        original_sizes: Any = None,
        **kwargs: Unpack[SamProcessorKwargs],
    ) -> BatchFeature:
        """Prepare pictures and prompts; all coordinates in original pixels, of any nesting that is documented.

        Args:
            images: One picture or a list of B (``image_loading``). May be left out where ``original_sizes`` is given.
            text: A phrase, one per image, or ``[image][prompt]`` (``text_prompts``).
            segmentation_maps: One map (H,W) per image, for ``labels``.
            input_points: ``[image][prompt][point][x, y]`` or ``[image][point][x, y]`` (``prompt_preparation``).
            input_labels: 1 foreground, 0 background, -1 not a point, -10 padding; all 1 if left out.
            input_boxes: ``[image][prompt][x1, y1, x2, y2]``.
            input_masks: ``[image][prompt]`` binary masks or logits (H,W), or logits (4h,4w).
            original_sizes: B times (H,W), to prepare prompts for pictures that are already encoded.
            **kwargs: Settings of the image processor, ``return_tensors``, ``point_pad_value``.

        Returns:
            ``original_sizes``, ``reshaped_input_sizes`` (B,2) and, as far as given, ``pixel_values`` (B,3,S,S),
            ``labels``, ``input_points`` (B,P,N,2) and ``input_labels`` (B,P,N), ``input_boxes`` (B,P,4),
            ``input_masks`` (B,P,1,4h,4w), ``input_ids`` and ``attention_mask`` (B,P,T). Coordinates are float32,
            resized pixels. Tensors with ``return_tensors="pt"``, otherwise arrays.

        Raises:
            ValueError: If an argument cannot be used; the message names it.
            TypeError: If something has the wrong type, or an option is not known.
        """
        images_kwargs, given, padding = self._sorted_kwargs(kwargs)
        for name in given:
            logger.warning_once(f"Pass `{name}` to the processor itself instead of in `images_kwargs`.")
        prompts = {"input_points": input_points, "input_labels": input_labels} | {
            "input_boxes": input_boxes,
            "input_masks": input_masks,
        }
        segmentation_maps = given.pop("segmentation_maps", segmentation_maps)
        prompts.update(given)
        return_tensors = images_kwargs.get("return_tensors")
        if images is None and original_sizes is not None:
            encoding = self._sizes_only(original_sizes, segmentation_maps, images_kwargs)
        else:
            if original_sizes is not None:
                raise ValueError("original_sizes: expected None where images are given, they have their own sizes")
            encoding = self.image_processor(images, segmentation_maps=segmentation_maps, **images_kwargs)
        originals = size_list(encoding["original_sizes"], "original_sizes")
        reshaped = size_list(encoding["reshaped_input_sizes"], "reshaped_input_sizes")
        square = self.image_processor.pad_size
        if images_kwargs.get("pad_size") is not None:
            square = images_kwargs["pad_size"]
        low = images_kwargs.get("mask_pad_size") or self.image_processor.mask_pad_size
        tensors = self._prompt_tensors(
            prompts, text, originals, reshaped, height_width(square), height_width(low), padding
        )
        for name, tensor in tensors.items():
            encoding[name] = tensor if return_tensors == "pt" else tensor.numpy()
        return encoding

    def _sizes_only(self, original_sizes: Any, segmentation_maps: Any, images_kwargs: dict[str, Any]) -> BatchFeature:
        if segmentation_maps is not None:
            raise ValueError("segmentation_maps: expected images as well")
        sizes = size_list(original_sizes, "original_sizes")
        if not sizes:
            raise ValueError("original_sizes: expected at least one (height, width)")
        size = images_kwargs.get("size") or self.image_processor.size
        longest_edge = size if isinstance(size, int) else size["longest_edge"]
        reshaped = [preprocess_shape(entry, longest_edge) for entry in sizes]
        data = {"original_sizes": sizes, "reshaped_input_sizes": reshaped}
        return BatchFeature(data, tensor_type=images_kwargs.get("return_tensors"))

    def _prompt_tensors(
        self,
        prompts: dict[str, Any],
        text: Any,
        originals: list[tuple[int, int]],
        reshaped: list[tuple[int, int]],
        square: tuple[int, int],
        low: tuple[int, int],
        padding: float,
    ) -> dict[str, Tensor]:
        count = len(originals)
        points = read_points(prompts["input_points"], prompts["input_labels"], originals, reshaped)
        boxes = masks = phrases = None
        if prompts["input_boxes"] is not None:
            boxes = read_boxes(prompts["input_boxes"], originals, reshaped)
        if prompts["input_masks"] is not None:
            masks = read_masks(prompts["input_masks"], count)
        if text is not None:
            phrases = read_texts(text, count)
            if phrases is not None and self.text_config is None:
                raise ValueError(NO_TEXT_BRANCH)
        kinds = {"input_points": points, "input_boxes": boxes, "input_masks": masks, "text": phrases}
        n_prompts = prompt_count(kinds, count)
        tensors: dict[str, Tensor] = {}
        if boxes is not None:
            tensors["input_boxes"] = stack_rows(boxes, n_prompts, (4,), PADDING)
        if points is not None:
            tensors["input_points"], tensors["input_labels"] = stack_points(points, n_prompts, padding)
        if masks is not None:
            logits = [
                image
                and [
                    mask if mask is None else mask_prompt_logits(mask, f"input_masks[{i}][{p}]", *frame, square, low)
                    for p, mask in enumerate(image)
                ]
                for i, (image, *frame) in enumerate(zip(masks, originals, reshaped, strict=True))
            ]
            tensors["input_masks"] = stack_rows(logits, n_prompts, (1, *low), float("nan"))
        if phrases is not None:
            tensors["input_ids"], tensors["attention_mask"] = encode_texts(phrases, n_prompts, self.text_config)
        return tensors

    def _sorted_kwargs(self, kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], float]:
        """Sort options into the image processor's, prompts given the old way, and the padding value."""
        padding = kwargs.pop("point_pad_value", None)
        images_kwargs = dict(kwargs.pop("common_kwargs", None) or {})
        nested = dict(kwargs.pop("images_kwargs", None) or {})
        text_kwargs = dict(kwargs.pop("text_kwargs", None) or {})
        if "return_tensors" in text_kwargs:
            images_kwargs.setdefault("return_tensors", text_kwargs["return_tensors"])
        known = set(SamImagesKwargs.__annotations__) | set(self.image_processor.valid_kwargs.__annotations__)
        for name, value in kwargs.items():
            if name in nested:
                raise ValueError(f"{name}: was passed two times, in images_kwargs and by itself")
            if name in known:
                images_kwargs[name] = value
            elif name not in TextKwargs.__annotations__:  # phrases are always filled up to the context length
                raise TypeError(f"SamProcessor got an unexpected keyword argument {name!r}")
        given = {name: nested.pop(name) for name in PROMPTS if name in nested}
        padding = nested.pop("point_pad_value", padding)
        padding = self.point_pad_value if padding is None else padding
        return images_kwargs | nested, given, padding

    @property
    def model_input_names(self) -> list[str]:
        """Keys of the output for pictures alone."""
        return [*self.image_processor.model_input_names, "original_sizes", "reshaped_input_sizes"]

    def post_process_masks(self, *args, **kwargs) -> list[Tensor]:
        """Masks back to the original sizes; see the image processor."""
        return self.image_processor.post_process_masks(*args, **kwargs)


__all__ = ["SamProcessor"]
