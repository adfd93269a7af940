"""`pipeline("mask-generation")` through our generator: transformers' call and output keys, without its defects.

`pipeline("mask-generation", model="tiny")` loads a checkpoint and makes the pipeline; transformers' own function makes
it too, `transformers.pipeline("mask-generation", model=..., pipeline_class=SamMaskGenerationPipeline)`. What stock
`pipeline("mask-generation")` gives is left alone.
"""

import difflib
import os
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers.image_utils import load_image
from transformers.pipelines.base import Pipeline

from sam_hf.inference.mask_generation import MaskGenerationOptions, SamAutomaticMaskGenerator
from sam_hf.inference.predictor import SamPredictor
from sam_hf.masks import rle
from sam_hf.masks.boxes import xywh_to_xyxy
from sam_hf.model.configuration_sam import adopt
from sam_hf.model.hub_access import HUB_OPTIONS
from sam_hf.model.image_loading import is_pil_image, load_image_tensor, open_image
from sam_hf.model.image_operations import SamImageOperations
from sam_hf.model.image_processing_sam import SamImageProcessor, SamImageProcessorPil
from sam_hf.model.modeling_sam import SamModel
from sam_hf.model.processing_sam import SamProcessor

TASK = "mask-generation"
DOWNLOAD_SECONDS = 10.0
# transformers' names of options, and what the generator calls them.
GENERATOR_NAMES = {
    "points_per_batch": "points_per_batch",
    "points_per_crop": "points_per_side",
    "crops_n_layers": "crop_n_layers",
    "crop_overlap_ratio": "crop_overlap_ratio",
    "crop_n_points_downscale_factor": "crop_n_points_downscale_factor",
    "pred_iou_thresh": "pred_iou_thresh",
    "stability_score_thresh": "stability_score_thresh",
    "stability_score_offset": "stability_score_offset",
    "mask_threshold": "mask_threshold",
    "max_hole_area": "max_hole_area",
    "max_sprinkle_area": "max_sprinkle_area",
}
# One suppression of duplicates there, one within each crop and one across crops here.
SUPPRESSIONS = ("box_nms_thresh", "crop_nms_thresh")
# What transformers documents and what its code reads.
OUTPUT_NAMES = {
    "output_rle_mask": "output_rle_mask",
    "output_rle_masks": "output_rle_mask",
    "output_bboxes_mask": "output_bboxes_mask",
    "output_bboxes_masks": "output_bboxes_mask",
}
OPTIONS = (*GENERATOR_NAMES, "crops_nms_thresh", *OUTPUT_NAMES, "timeout")
HINTS = {
    "text": "ask SamPredictor or SamTextSegmenter for what a phrase means; SamAutomaticMaskGenerator names masks",
    "min_mask_region_area": "did you mean 'max_hole_area' and 'max_sprinkle_area'?",
    **{meta: f"did you mean {name!r}?" for name, meta in GENERATOR_NAMES.items() if name != meta},
    **dict.fromkeys(SUPPRESSIONS, "did you mean 'crops_nms_thresh'?"),
}


class SamMaskGenerationPipeline(Pipeline):
    """All masks of images, through `SamAutomaticMaskGenerator`.

    A transformers `Pipeline`, because that brings devices, data sets, generators, loader workers and batching with it,
    and lets transformers' own `pipeline` function make it. Not a `ChunkPipeline`: our generator itself sees to it that
    points go through the model in pieces.

    Source: `MaskGenerationPipeline` of transformers 5.23. Differs in: `max_hole_area`, `max_sprinkle_area` and
    `batch_size` work; bfloat16 and float16 work; both spellings of the output switches are understood; `rle_mask`
    is COCO's compressed form, which pycocotools reads as it is; scores are float32; options that do not exist (`text`
    among them) and values that make no sense are refused by name; the grids of deeper crop layers may be sparser; a
    download always has a time limit; with crops, duplicates are decided as in Meta's code, where the closer look wins.

    Args:
        model: A `SamModel`, or transformers' own, whose weights are then shared and not copied.
        processor: A `SamProcessor`, or transformers' own. Or:
        image_processor: The image processor alone.
        **kwargs: `device`, `batch_size`, `num_workers`, and defaults for the options of a call.

    Raises:
        TypeError: If the model is no SAM.
        ValueError: If there is no processor, or an option is wrong.

    Example:
        >>> generate = sam_hf.pipeline("mask-generation", model="tiny")
        >>> found = generate("photo.jpg", points_per_batch=64, output_rle_mask=True)
        >>> found["masks"], found["scores"], found["rle_mask"]
    """

    _load_processor = False
    _load_image_processor = None  # not needed where a processor is given
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, model: Any, processor: Any = None, image_processor: Any = None, **kwargs: Any):
        model = _our_model(model)
        processor = _our_processor(processor, image_processor, model)
        self._predictor: SamPredictor | None = None
        self._latest: tuple[dict[str, Any], SamAutomaticMaskGenerator] | None = None
        super().__init__(model=model, processor=processor, image_processor=processor.image_processor, **kwargs)

    def __call__(
        self, image: Any, num_workers: int | None = None, batch_size: int | None = None, **options: Any
    ) -> Any:
        """Finds all masks.

        Args:
            image: A path, URL or base64 text, a PIL image, an array or tensor (H,W,3) or (3,H,W); a list of these; or
                a data set, a column of one, a generator or any other iterable of these.
            num_workers: Processes that read images ahead, for data sets.
            batch_size: Images that go through the encoder together.
            **options: `points_per_batch` (64; None: all), `points_per_crop` (32, per side), `crops_n_layers` (0),
                `crop_overlap_ratio` (512/1500), `crop_n_points_downscale_factor` (1), `pred_iou_thresh` (0.88),
                `stability_score_thresh` (0.95), `stability_score_offset` (1), `mask_threshold` (0.0),
                `crops_nms_thresh` (0.7, box IoU above which a mask is a duplicate), `max_hole_area` and
                `max_sprinkle_area` (None; holes and islands up to so many pixels are filled and removed),
                `output_rle_mask`, `output_bboxes_mask` (False), `timeout` (10, seconds for a download).

        Returns:
            For one image a dictionary: `masks`, a list of (H,W) bool tensors in original pixels, best first; `scores`
            (n,) float32; `rle_mask` and `bounding_boxes` ((n,4) xyxy of the outermost pixels) if asked for. For a list
            a list of them; for anything longer an iterator that does the work as it goes.

        Raises:
            ValueError, TypeError: If an image or an option is wrong; nothing is computed then.
        """
        return super().__call__(_one_or_many(image), num_workers=num_workers, batch_size=batch_size, **options)

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        for name in options:
            if name not in OPTIONS:
                raise ValueError(f"unknown option {name!r}: {_hint(name)}")
        output: dict[str, Any] = {}
        for name in OUTPUT_NAMES.keys() & options:
            meant = OUTPUT_NAMES[name]
            if output.setdefault(meant, options[name]) != options[name]:
                raise ValueError(f"{meant!r} and {meant + 's'!r} are two names of one option; got different values")
        forward = {name: value for name, value in options.items() if name not in (*OUTPUT_NAMES, "timeout")}
        # Made here, so that wrong values are said before the first image and not after the first of a thousand.
        self._generator(getattr(self, "_forward_params", {}) | forward)
        return {name: options[name] for name in ("timeout",) if name in options}, forward, output

    def preprocess(self, image: Any, timeout: float = DOWNLOAD_SECONDS) -> dict[str, Any]:
        """Fetches and decodes one image where that is needed; in a loader's worker if there are any."""
        if isinstance(image, str) and image.startswith(("http://", "https://")):
            try:
                image = load_image(image, timeout=timeout)
            except Exception as error:  # whatever the network or the decoder says
                raise ValueError(f"image: nothing usable at {image:.200}") from error
        elif isinstance(image, (str, os.PathLike)):
            image = open_image(image, "image")
        elif isinstance(image, torch.Tensor):  # a pipeline would take it to the model's device as it is
            pixels = load_image_tensor(image.detach().cpu(), "image").permute(1, 2, 0)  # (3,H,W) -> (H,W,3)
            image = (pixels / 255 if pixels.is_floating_point() else pixels).numpy()
        elif not is_pil_image(image) and not isinstance(image, np.ndarray):
            kind = type(image).__name__
            told = "; of a data set's rows, give the column with the images" if isinstance(image, dict) else ""
            raise TypeError(f"image: expected a path, a URL, a PIL image, an array or a tensor, got {kind}{told}")
        return {"images": [image]}  # in a list, so that images of several sizes are gathered and not stacked

    def _forward(self, model_inputs: dict[str, Any], **options: Any) -> dict[str, Any]:
        images, generator = model_inputs["images"], self._generator(options)
        if isinstance(images[0], list):  # a batch: a list of lists of one image
            return {"records": generator.generate_batch([image for (image,) in images])}
        return {"records": generator.generate(images[0])}

    def postprocess(
        self, model_outputs: dict[str, Any], output_rle_mask: bool = False, output_bboxes_mask: bool = False
    ) -> dict[str, Any]:
        """The generator's records of one image under transformers' names."""
        records = model_outputs["records"]
        runs = [record["segmentation"] for record in records]
        found = {
            "masks": [torch.from_numpy(np.ascontiguousarray(rle.decode(run))) for run in runs],
            "scores": torch.tensor([record["predicted_iou"] for record in records], dtype=torch.float32),
        }
        if output_rle_mask:
            found["rle_mask"] = runs
        if output_bboxes_mask:
            boxes = np.array([record["bbox"] for record in records]).reshape(-1, 4)
            found["bounding_boxes"] = torch.from_numpy(xywh_to_xyxy(boxes).astype(np.int64))
        return found

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Saves model and processor so that every `from_pretrained` finds them."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)

    def __getstate__(self) -> dict[str, Any]:
        """For loader workers, which read images only: what cannot be sent to them is made anew where it is needed."""
        return self.__dict__ | {"_predictor": None, "_latest": None}

    def _generator(self, options: dict[str, Any]) -> SamAutomaticMaskGenerator:
        """The generator for these options; the latest one is kept, since most calls ask for the same."""
        if self._latest is not None and self._latest[0] == options:
            return self._latest[1]
        asked = {GENERATOR_NAMES[name]: value for name, value in options.items() if name in GENERATOR_NAMES}
        if "crops_nms_thresh" in options:
            asked |= dict.fromkeys(SUPPRESSIONS, options["crops_nms_thresh"])
        # As in transformers None is the default, but for the points at once, where it means all.
        asked = {name: value for name, value in asked.items() if value is not None or name == "points_per_batch"}
        if self._predictor is None:
            # One for all options: it keeps the embeddings of the latest images, for a try with other thresholds.
            self._predictor = SamPredictor(self.model, self.processor)
        try:
            if "points_per_batch" in asked and asked["points_per_batch"] is None:  # all at once
                checked = MaskGenerationOptions(**asked | {"points_per_batch": 1})
                asked["points_per_batch"] = checked.points_per_side**2
            generator = SamAutomaticMaskGenerator.from_predictor(self._predictor, output_mode="coco_rle", **asked)
        except (TypeError, ValueError) as error:
            raise type(error)(_in_their_words(str(error))) from error
        self._latest = (options, generator)
        return generator


def pipeline(
    task: str,
    model: Any,
    device: str | int | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    **kwargs: Any,
) -> SamMaskGenerationPipeline:
    """Makes the pipeline of a task, as `transformers.pipeline` does, with our classes.

    Args:
        task: "mask-generation", all masks of an image.
        model: "tiny" (embedded), a Hub id, a folder, or a model that is loaded already.
        device: Where to run; None: CUDA or Apple's GPU if there is one, else the CPU, and a loaded model stays where
            it is.
        dtype: Precision, such as "bfloat16"; None: float32. Not for a loaded model.
        **kwargs: `processor` or `image_processor` for a loaded model; `revision`, `token`, `cache_dir`,
            `local_files_only` for one to load; `batch_size`, `num_workers` and defaults for the options of a call: see
            `SamMaskGenerationPipeline`.

    Raises:
        ValueError: If the task is another one, or an option is wrong.
        OSError: If there is no such checkpoint.
    """
    if task != TASK:
        raise ValueError(f"task must be {TASK!r}; got {task!r}. transformers.pipeline knows the others")
    if not isinstance(model, (str, os.PathLike)):
        if dtype is not None:
            raise ValueError("dtype is for a model that is still to be loaded; this one has its own: model.to(dtype)")
        device = getattr(model, "device", None) if device is None else device
        return SamMaskGenerationPipeline(model=model, device=device, task=TASK, **kwargs)
    hub = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
    device = f"cuda:{device}" if isinstance(device, int) and device >= 0 else "cpu" if device == -1 else device
    predictor = SamPredictor.from_pretrained(model, device=device, dtype=dtype, **hub)
    kwargs = {"processor": predictor.processor} | kwargs
    return SamMaskGenerationPipeline(model=predictor.model, device=predictor.device, task=TASK, **kwargs)


def _one_or_many(image: Any) -> Any:
    """One image as it is, several as a list, and what may be longer as a data set or a generator."""
    if isinstance(image, (str, os.PathLike, Dataset)) or is_pil_image(image):
        return image
    if isinstance(image, (np.ndarray, torch.Tensor)):
        return list(image) if image.ndim == 4 else image
    if isinstance(image, (list, tuple)):
        if not image:
            raise ValueError("image: expected at least one image, got an empty list")
        return list(image)
    if isinstance(image, Iterable) and not isinstance(image, (bytes, bytearray, dict)):
        return (one for one in image)
    raise TypeError(f"image: expected an image, a list or another iterable of images, got {type(image).__name__}")


def _hint(name: str) -> str:
    if name in HINTS:
        return HINTS[name]
    near = difflib.get_close_matches(name, OPTIONS, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(OPTIONS)}"


def _in_their_words(message: str) -> str:
    """The generator's message, about the options as they are called here."""
    names = {meta: name for name, meta in GENERATOR_NAMES.items()} | dict.fromkeys(SUPPRESSIONS, "crops_nms_thresh")
    return re.sub(r"\b(" + "|".join(names) + r")\b", lambda found: names[found[0]], message)


def _our_model(model: Any) -> SamModel:
    """Our `SamModel`; for transformers' own, one that shares its weights."""
    if isinstance(model, SamModel):
        return model
    config = getattr(model, "config", None)
    if type(model).__name__ != "SamModel" or config is None:
        raise TypeError(f"model: expected a SamModel, got {type(model).__name__}")
    if len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1:
        raise ValueError("model: is spread over several devices; load it with sam_hf.SamModel.from_pretrained")
    with torch.device("meta"):
        ours = SamModel(adopt(config))
    ours.load_state_dict(model.state_dict(), assign=True)
    ours.tie_weights()
    return ours.eval()


def _our_processor(processor: Any, image_processor: Any, model: SamModel) -> SamProcessor:
    if isinstance(processor, SamProcessor) and image_processor in (None, processor.image_processor):
        return processor
    if image_processor is None:
        image_processor = getattr(processor, "image_processor", None)
    if image_processor is None:
        raise ValueError("processor: expected a processor or an image_processor for the model, got neither")
    if not isinstance(image_processor, SamImageOperations):
        with_pil = type(image_processor).__name__.endswith("Pil")
        ours = SamImageProcessorPil if with_pil else SamImageProcessor
        image_processor = ours.from_dict(image_processor.to_dict())
    return SamProcessor(image_processor, text_config=model.config.text_config)
