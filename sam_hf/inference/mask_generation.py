"""Everything mode: all masks of a picture.

A grid of points is asked about, on the picture and, if wanted, on layers of crops; what is good, stable and no
duplicate remains. `generate` answers at once, `stream` tells how far it is, `generate_batch` takes many pictures.

Source: §4 "Fully automatic stage" and App. B; names, defaults, records and results are those of segment-anything 1.0's
`SamAutomaticMaskGenerator`. Differs in how it gets there (see `crop_search` and `sam_hf.masks.upscaling`); in
filters for masks of nearly the whole picture, holes and islands each by themselves; and in what is said about wrong
input. Where nothing is found, and with crops of tiny pictures, Meta's fails and this returns what there is.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sam_hf.inference.crop_search import Crop, CropSearch, layer_points
from sam_hf.inference.embedding_store import ImageEmbedding
from sam_hf.inference.everything_options import (
    OUTPUT_MODES,
    PRESETS,
    MaskGenerationOptions,
    check_options,
    read_options,
    show_options,
)
from sam_hf.inference.everything_records import (
    FoundMask,
    record,
    without_duplicates_across_crops,
    without_small_regions,
)
from sam_hf.inference.predictor import SamPredictor
from sam_hf.model.hub_access import HUB_OPTIONS
from sam_hf.model.image_crops import layer_crops
from sam_hf.model.image_loading import as_bytes, is_pil_image, load_image_tensor, open_image
from sam_hf.model.image_operations import height_width
from sam_hf.model.modeling_sam import SamModel
from sam_hf.model.processing_sam import SamProcessor

if TYPE_CHECKING:
    from sam_hf.inference.text.clip_encoder import ClipEncoder

__all__ = [
    "OUTPUT_MODES",
    "PRESETS",
    "MaskGenerationOptions",
    "MaskGenerationProgress",
    "SamAutomaticMaskGenerator",
    "check_options",
]

# Pictures and crops encoded together: one fills a CPU, a GPU wants more.
CPU_VIEWS, GPU_VIEWS = 1, 8


@dataclass(frozen=True)
class MaskGenerationProgress:
    """How far everything mode is with one picture.

    Attributes:
        done: Points asked about so far, all crops together.
        total: Points there are.
        records: What has become final at this step: after the last point of a crop its masks, of which some may yet
            turn out to be duplicates of a closer look's (none if `previews` were declined); at the end all masks, the
            same as `generate` returns; otherwise nothing. Within a crop no mask is final before the last point: a
            better one may still come.
        final: Whether this is the end.
    """

    done: int
    total: int
    records: list[dict[str, Any]]
    final: bool


class SamAutomaticMaskGenerator:
    """Finds all masks of pictures.

    May be used by several threads.

    Args:
        model: A `SamModel`; it is put into eval mode.
        processor: Its processor.
        *values: Options by place, in Meta's order.
        preset: "sa1b": the settings that the SA-1B data set was made with. Options given go before it.
        **options: `points_per_side` (32), `points_per_batch` (64), `pred_iou_thresh` (0.88), `stability_score_thresh`
            (0.95), `stability_score_offset` (1.0), `box_nms_thresh` (0.7), `crop_n_layers` (0), `crop_nms_thresh`
            (0.7), `crop_overlap_ratio` (512/1500), `crop_n_points_downscale_factor` (1), `point_grids`,
            `min_mask_region_area` (0), `output_mode` ("binary_mask"), `max_area_share`, `mask_threshold` (0.0),
            `max_hole_area`, `max_sprinkle_area`; see `MaskGenerationOptions`.

    Raises:
        TypeError: If an option is unknown or has the wrong type, or `model` is none.
        ValueError: If an option is out of range.

    Example:
        >>> generator = SamAutomaticMaskGenerator.from_pretrained("tiny", points_per_side=16)
        >>> for record in generator.generate("photo.jpg"):
        ...     print(record["bbox"], record["predicted_iou"])
    """

    @show_options
    def __init__(
        self, model: SamModel, processor: SamProcessor, *values: Any, preset: str | None = None, **options: Any
    ):
        chosen = read_options(options, preset, values)
        for name, value, kind in (("model", model, SamModel), ("processor", processor, SamProcessor)):
            if not isinstance(value, kind):
                raise TypeError(f"{name}: expected a sam_hf.{kind.__name__}, got {type(value).__name__}")
        self._set_up(SamPredictor(model, processor), chosen)

    @classmethod
    def from_predictor(
        cls, predictor: SamPredictor, *, preset: str | None = None, **options: Any
    ) -> "SamAutomaticMaskGenerator":
        """Uses the predictor's model and its store of embeddings: a picture that it knows is not encoded again.

        Args:
            predictor: A `SamPredictor`.
            preset: See the class.
            **options: See the class.
        """
        generator = cls.__new__(cls)
        generator._set_up(predictor, read_options(options, preset))
        return generator

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        *,
        preset: str | None = None,
        **options: Any,
    ) -> "SamAutomaticMaskGenerator":
        """Loads model and processor.

        Args:
            pretrained_model_name_or_path: A Hub id, a folder, or "tiny", the embedded checkpoint.
            device: Where to run; None: CUDA or Apple's GPU if there is one, else the CPU.
            dtype: Precision of the model, such as "bfloat16"; None: float32. Masks are drawn in float32 all the same.
            preset: See the class.
            **options: See the class; and for loading `revision`, `token`, `cache_dir`, `local_files_only`,
                `force_download`, `subfolder`.

        Raises:
            TypeError, ValueError: If an option is wrong; said before anything is loaded.
            OSError: If there is no such checkpoint, or it cannot be reached.
        """
        loading = {name: options.pop(name) for name in HUB_OPTIONS if name in options}
        check_options(preset, **options)
        predictor = SamPredictor.from_pretrained(pretrained_model_name_or_path, device, dtype, **loading)
        return cls.from_predictor(predictor, preset=preset, **options)

    def _set_up(self, predictor: SamPredictor, options: MaskGenerationOptions) -> None:
        self.predictor, self.options = predictor, options
        self._clips: dict[Any, ClipEncoder] = {}  # by name

    # --- three ways to ask ---------------------------------------------------------------------------------------

    def generate(
        self,
        image: Any,
        *,
        text: Sequence[str] | None = None,
        clip: "ClipEncoder | str | os.PathLike | None" = None,
        embedding: ImageEmbedding | None = None,
    ) -> list[dict[str, Any]]:
        """Finds all masks of a picture.

        Args:
            image: A path, a PIL image, an array or tensor (H,W,3) or (3,H,W); see `sam_hf.model.image_loading`.
            text: Names to choose from; each mask gets one, or "other". See `sam_hf.inference.text.naming`.
            clip: What reads names and looks at masks: a `ClipEncoder`, or the name of one, which is loaded once; None:
                the one that the checkpoint comes with, as the embedded one does.
            embedding: Of this picture, from the predictor's `encode`; None: it is asked for it.

        Returns:
            One record per mask in the form of SA-1B's annotations, numbers as Python's own, original pixels:
            `segmentation` (see `output_mode`: (H,W) bool, or `size` and `counts` that go into JSON), `area`, `bbox`
            xywh from the first to the last pixel, `predicted_iou`, `point_coords` [[x, y]] that was asked about,
            `stability_score`, `crop_box` xywh. Without crops best predicted IoU first, with crops smallest crops
            first. Nothing found: an empty list. With `text` also `label` and `label_probability`.

        Raises:
            ValueError, TypeError: If the image or a name cannot be used, there is no CLIP for names, or the embedding
                is another's.
            ImportError, OSError: If the CLIP cannot be loaded.
        """
        image, pixels = _read(image, "image")
        if text is not None:
            clip = self.prepare_names(text, clip)
        whole = self._encode_whole(image, pixels) if embedding is None else self._known(embedding, pixels)
        records = self._last(self._events(pixels, whole, previews=False))
        if text is None:
            return records
        from sam_hf.inference.text.naming import name_masks  # not needed without names

        return name_masks(clip, as_bytes(pixels), records, text)

    def prepare_names(
        self, text: Sequence[str], clip: "ClipEncoder | str | os.PathLike | None" = None
    ) -> "ClipEncoder":
        """Checks names and loads the CLIP that reads them, before any picture is worked on; see `generate`."""
        from sam_hf.inference.text.clip_encoder import encoder_for
        from sam_hf.inference.text.naming import read_names

        read_names(text)
        if clip is not None and not isinstance(clip, (str, os.PathLike)):
            return clip
        if clip not in self._clips:
            self._clips[clip] = encoder_for(self.predictor, clip)
        return self._clips[clip]

    def generate_batch(self, images: Sequence[Any]) -> list[list[dict[str, Any]]]:
        """Finds all masks of several pictures, of any sizes; on a GPU they are encoded together.

        All are read before the first is worked on, so that a broken one costs nothing. Embeddings are not kept.

        Args:
            images: Pictures, see `generate`.

        Returns:
            For each picture what `generate` returns.

        Raises:
            ValueError: If there are none, or one cannot be used; the message says which.
            TypeError: If it is a single picture or no pictures at all.
        """
        if isinstance(images, (str, bytes, dict)) or is_pil_image(images) or getattr(images, "ndim", 4) != 4:
            raise TypeError(f"images: expected a list of images, got a single {type(images).__name__}")
        try:
            images = list(images)
        except TypeError:
            raise TypeError(f"images: expected a list of images, got {type(images).__name__}") from None
        if not images:
            raise ValueError("images: expected at least one image, got an empty list")
        for index, image in enumerate(images):
            load_image_tensor(image, where=f"images[{index}]")
        at_once, answers = self._views_at_once(), []
        for start in range(0, len(images), at_once):
            some = [_read(image, f"images[{start + i}]")[1] for i, image in enumerate(images[start : start + at_once])]
            for pixels, view in zip(some, self._encode(some), strict=True):
                answers.append(self._last(self._events(pixels, view, previews=False)))
        return answers

    def stream(self, image: Any, previews: bool = True) -> Iterator[MaskGenerationProgress]:
        """Like `generate`, step by step: for progress bars, previews and everyone who may want to stop.

        Closing the iterator, or dropping it, stops the work at once.

        Args:
            image: See `generate`; it is read here and now.
            previews: Make records of each crop's masks as they come.

        Returns:
            An iterator over `MaskGenerationProgress`: one before the picture is encoded, one for each
            `points_per_batch` points, with `previews` one for each crop but the last with its masks, and the final
            one with all masks.

        Raises:
            ValueError, TypeError: If the image cannot be used.
        """
        image, pixels = _read(image, "image")
        return self._stream(image, pixels, previews)

    def _stream(self, image: Any, pixels: Tensor, previews: bool) -> Iterator[MaskGenerationProgress]:
        yield MaskGenerationProgress(0, self._points(pixels), [], False)
        yield from self._events(pixels, self._encode_whole(image, pixels), previews)

    # --- one picture ---------------------------------------------------------------------------------------------

    def _events(
        self, pixels: Tensor, whole: tuple[Tensor, tuple[int, int]], previews: bool
    ) -> Iterator[MaskGenerationProgress]:
        """All steps for a picture (3,H,W) whose embedding is known.

        No inference mode around a `yield`: it would reach into the caller's code.
        """
        options, size = self.options, (pixels.shape[-2], pixels.shape[-1])
        boxes, layers = self._crops(pixels)
        total, done, found = self._points(pixels), 0, []
        views = self._views(pixels, boxes, whole)
        for number, (box, layer, (embedding, input_size)) in enumerate(
            zip(boxes, layers, views, strict=True), start=1
        ):
            points = layer_points(options.layer_grids[layer], box)
            search = self._search(embedding, Crop(tuple(box), size, input_size, self._padded_size, points))
            for start in range(0, len(points), int(options.points_per_batch)):
                stop = min(start + int(options.points_per_batch), len(points))
                search.ask(start, stop)
                done += stop - start
                yield MaskGenerationProgress(done, total, [], False)
            masks = search.finish()
            del search, embedding
            found += masks
            if previews and number < len(boxes):
                yield MaskGenerationProgress(done, total, self._records(masks), False)
        yield MaskGenerationProgress(done, total, self._records(self._final(found, len(boxes))), True)

    def _crops(self, pixels: Tensor) -> tuple[list[list[int]], list[int]]:
        """Boxes xyxy of the picture and its crops, and the layer of each."""
        size = (pixels.shape[-2], pixels.shape[-1])
        return layer_crops(size, int(self.options.crop_n_layers), self.options.crop_overlap_ratio)

    def _points(self, pixels: Tensor) -> int:
        """How many points will be asked about."""
        return sum(len(self.options.layer_grids[layer]) for layer in self._crops(pixels)[1])

    @staticmethod
    def _last(events: Iterator[MaskGenerationProgress]) -> list[dict[str, Any]]:
        *_, last = events
        return last.records

    def _search(self, embedding: Tensor, crop: Crop) -> CropSearch:
        model = self.predictor.model
        return CropSearch(model, embedding.to(model.device, model.dtype), crop, self.options)

    def _final(self, found: list[FoundMask], crops: int) -> list[FoundMask]:
        options = self.options
        if crops > 1 and found:
            found = without_duplicates_across_crops(found, options.crop_nms_thresh)
        if found and max(options.hole_area, options.island_area) > 0:
            threshold = max(options.box_nms_thresh, options.crop_nms_thresh)
            found = without_small_regions(found, options.hole_area, options.island_area, threshold)
        return found

    def _records(self, found: list[FoundMask]) -> list[dict[str, Any]]:
        return [record(one, self.options.output_mode) for one in found]

    # --- encoding ------------------------------------------------------------------------------------------------

    @property
    def _padded_size(self) -> tuple[int, int]:
        return height_width(self.predictor.processor.image_processor.pad_size)

    def _views_at_once(self) -> int:
        return CPU_VIEWS if self.predictor.device.type == "cpu" else GPU_VIEWS

    def _encode_whole(self, image: Any, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        # Floats are given as they came: on the scale to 255 a nearly black picture would be taken for one up to 1.
        embedding = self.predictor.encode(pixels if pixels.dtype == torch.uint8 else image)
        return embedding.tensor, embedding.input_size

    def _known(self, embedding: ImageEmbedding, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        if embedding.revision != self.predictor.revision:
            raise ValueError("embedding was made by other encoder weights than these: call encode(image) again")
        if tuple(embedding.original_size) != tuple(pixels.shape[-2:]):
            sizes = f"one of {embedding.original_size}, the image has {tuple(pixels.shape[-2:])}"
            raise ValueError(f"embedding: expected that of the image, got {sizes}")
        return embedding.tensor, embedding.input_size

    def _views(
        self, pixels: Tensor, boxes: Sequence[Sequence[int]], whole: tuple[Tensor, tuple[int, int]]
    ) -> Iterator[tuple[Tensor, tuple[int, int]]]:
        """Embedding (1,C,h,w) and input size of the picture, then of each crop, cut from the original pixels."""
        yield whole
        at_once = self._views_at_once()
        for start in range(1, len(boxes), at_once):
            crops = [pixels[:, top:bottom, left:right] for left, top, right, bottom in boxes[start : start + at_once]]
            yield from self._encode(crops)

    @torch.inference_mode()
    def _encode(self, pictures: list[Tensor]) -> list[tuple[Tensor, tuple[int, int]]]:
        """Pictures (3,H,W) on the scale to 255 -> embedding (1,C,h,w) and input size of each; nothing is kept."""
        predictor = self.predictor
        # See `SamPredictor._encode`: floats by the scale to 1.
        pictures = [picture / 255 if picture.is_floating_point() else picture for picture in pictures]
        inputs = predictor.processor(images=pictures, return_tensors="pt")
        pixel_values = inputs["pixel_values"].to(predictor.device, predictor.dtype)
        embeddings = predictor.model.get_image_embeddings(pixel_values)
        sizes = [(int(height), int(width)) for height, width in inputs["reshaped_input_sizes"]]
        return list(zip(embeddings.split(1), sizes, strict=True))


def _read(image: Any, where: str) -> tuple[Any, Tensor]:
    """A picture, opened if it is a file, and its pixels (3,H,W)."""
    if isinstance(image, (str, os.PathLike)):
        image = open_image(image, where)
    return image, load_image_tensor(image, where=where)
