"""What both image processors share: everything but the filter that resizes.

SAM's rule (App. A "Image encoder"): the longest side becomes 1024, the short one keeps the aspect
(``int(x * scale + 0.5)``, at least 1 px), the rest of the square is zero after normalisation.

Source: class names, keywords and output keys are transformers 5.23's; differs in what pictures are understood and in
what is refused: see ``image_loading``, ``mask_postprocessing`` and ``image_crops``.
"""

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.image_processing_utils import BatchFeature, get_size_dict
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs, Unpack

from .atomic_saving import saved_whole
from .checkpoint_names import resolve
from .image_crops import crops_with_points
from .image_loading import flatten_images, load_image_tensor, load_map_tensor
from .mask_postprocessing import (
    filter_crop_masks,
    preprocess_shape,
    rle_to_mask,
    suppress_duplicates,
    upscale_masks,
)


class SamImageProcessorKwargs(ImagesKwargs, total=False):
    r"""
    mask_size (`dict[str, int]`, *optional*):
        `{"longest_edge": int}`: longest side of a segmentation map, and of the image's part of a mask prompt.
    mask_pad_size (`dict[str, int]`, *optional*):
        `{"height": int, "width": int}`: the square that these are padded to, the model's (4h,4w).
    """

    mask_size: dict[str, int]
    mask_pad_size: dict[str, int]


def height_width(size: Any) -> tuple[int, int]:
    """(height, width) of a size given as dict, ``SizeDict`` or one number."""
    return (int(size), int(size)) if isinstance(size, (int, float)) else (int(size["height"]), int(size["width"]))


class SamImageOperations:
    """Settings, batching, crops and post-processing; mixed into one of transformers' image back ends."""

    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"longest_edge": 1024}
    mask_size = {"longest_edge": 256}
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    do_pad = True
    pad_size = {"height": 1024, "width": 1024}
    mask_pad_size = {"height": 256, "width": 256}
    valid_kwargs = SamImageProcessorKwargs

    def __init__(self, **kwargs: Unpack[SamImageProcessorKwargs]):
        super().__init__(**kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, *args, **kwargs):
        """Load from a folder, a Hub repository or the embedded checkpoint ``"tiny"``; see transformers."""
        return super().from_pretrained(resolve(pretrained_model_name_or_path), *args, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> list[str]:
        """Write preprocessor_config.json; an earlier one stays as it was until all is written.

        Args:
            save_directory: Folder; made if needed.
            push_to_hub: Also upload it; see `push_to_hub` for `repo_id` (the folder's name) and the rest.
            **kwargs: For `push_to_hub`.

        Returns:
            The path of the file.
        """
        with saved_whole(save_directory) as part:
            written = [os.path.relpath(path, part) for path in super().save_pretrained(part)]
        if push_to_hub:
            self.push_to_hub(**{"repo_id": os.path.basename(os.path.normpath(save_directory))} | kwargs)
        return [os.path.join(save_directory, name) for name in written]

    def preprocess(
        self, images: Any, segmentation_maps: Any = None, **kwargs: Unpack[SamImageProcessorKwargs]
    ) -> BatchFeature:
        """Resize, normalise and pad.

        Args:
            images: One picture or a list of B: paths, PIL images, arrays, tensors, of any size (``image_loading``).
            segmentation_maps: One map (H,W) of whole numbers per image, in the aspect of its image.
            **kwargs: Overrides of the processor's settings, and ``return_tensors``.

        Returns:
            ``pixel_values`` (B,3,S,S) float32; ``original_sizes`` and ``reshaped_input_sizes`` (B,2), (H,W);
            ``labels`` (B,4h,4w) int64 if there are maps.

        Raises:
            ValueError: If an argument cannot be used; the message names it.
            TypeError: If something is not a picture.
        """
        return super().preprocess(images, segmentation_maps, **kwargs)

    def _standardize_kwargs(self, mask_size: Any = None, mask_pad_size: Any = None, **kwargs) -> dict:
        kwargs = super()._standardize_kwargs(**kwargs)
        for name, value in (("mask_size", mask_size), ("mask_pad_size", mask_pad_size)):
            if value is not None and not isinstance(value, SizeDict):
                value = SizeDict(**get_size_dict(value, param_name=name))
            kwargs[name] = value
        return kwargs

    def _get_preprocess_shape(self, old_shape: Sequence[int], longest_edge: int) -> tuple[int, int]:
        return preprocess_shape(old_shape, longest_edge)

    def _resized_shape(self, shape: Sequence[int], size: SizeDict) -> SizeDict:
        if not size.longest_edge:
            raise ValueError(f"size: expected the key `longest_edge`, got {dict(size)}")
        height, width = preprocess_shape(shape, size.longest_edge)
        return SizeDict(height=height, width=width)

    def _preprocess_image_like_inputs(
        self,
        images: Any,
        segmentation_maps: Any = None,
        *,
        do_convert_rgb: bool | None = None,
        input_data_format: Any = None,
        return_tensors: Any = None,
        device: Any = None,
        **kwargs,
    ) -> BatchFeature:
        loaded = [
            self.process_image(
                image,
                do_convert_rgb=do_convert_rgb,
                input_data_format=input_data_format,
                device=device,
                where=f"images[{index}]",
                to_8bit=bool(kwargs.get("do_rescale")),
            )
            for index, image in enumerate(flatten_images(images))
        ]
        original_sizes = [tuple(image.shape[-2:]) for image in loaded]
        pixel_values, reshaped_input_sizes = self._preprocess(loaded, **kwargs)
        data = {
            "pixel_values": self._outgoing(pixel_values, return_tensors),
            "original_sizes": original_sizes,
            "reshaped_input_sizes": reshaped_input_sizes,
        }
        if segmentation_maps is not None:
            labels = self._labels(segmentation_maps, original_sizes, **kwargs)
            data["labels"] = self._outgoing(labels, return_tensors)
        return BatchFeature(data=data, tensor_type=return_tensors)

    def _outgoing(self, batch: Any, return_tensors: Any) -> Any:
        return batch if return_tensors is not None or isinstance(batch, list) else list(batch)

    def _labels(self, segmentation_maps: Any, original_sizes: list[tuple[int, int]], **kwargs) -> Any:
        maps = flatten_images(segmentation_maps, "segmentation_maps", image_ndim=2)
        if len(maps) != len(original_sizes):
            raise ValueError(f"segmentation_maps: expected {len(original_sizes)}, one per image, got {len(maps)}")
        loaded = [load_map_tensor(entry, f"segmentation_maps[{index}]") for index, entry in enumerate(maps)]
        for index, (entry, size) in enumerate(zip(loaded, original_sizes, strict=True)):
            height, width = preprocess_shape(size, max(entry.shape[-2:]))
            if abs(height - entry.shape[-2]) > 1 or abs(width - entry.shape[-1]) > 1:
                got = tuple(entry.shape[-2:])
                raise ValueError(f"segmentation_maps[{index}]: expected the aspect of its image {size}, got {got}")
        kwargs.update(size=kwargs["mask_size"], pad_size=kwargs["mask_pad_size"], resample=PILImageResampling.NEAREST)
        kwargs.update(do_rescale=False, do_normalize=False)
        labels, _ = self._preprocess([self._own_format(entry) for entry in loaded], **kwargs)
        if isinstance(labels, list):
            return [entry.squeeze(0).to(torch.int64) for entry in labels]
        return labels.squeeze(1).to(torch.int64)  # (B,1,4h,4w) -> (B,4h,4w)

    def _own_format(self, image: Tensor) -> Any:
        """The format that `resize` of the back end takes; its counterpart is `_as_tensor`."""
        return image

    def _as_tensor(self, image: Any) -> Tensor:
        return image

    def _preprocess(
        self,
        images: list[Any],
        do_resize: bool,
        size: SizeDict,
        resample: Any,
        do_center_crop: bool,
        crop_size: SizeDict,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: Any,
        image_std: Any,
        do_pad: bool | None,
        pad_size: SizeDict | None,
        **kwargs,
    ) -> tuple[Any, list[tuple[int, int]]]:
        resized, reshaped_input_sizes = [], []
        for image in images:
            if do_resize:
                image = self.resize(image, size=size, resample=resample)
            reshaped_input_sizes.append(tuple(image.shape[-2:]))
            if do_center_crop:
                image = self.center_crop(image, crop_size)
            resized.append(self._as_tensor(image))
        batch = _empty_batch(resized, bool(do_rescale or do_normalize), bool(do_pad), pad_size)
        for index, image in enumerate(resized):
            place = batch[index][:, : image.shape[-2], : image.shape[-1]]
            _normalise_into(place, image, do_rescale, rescale_factor, do_normalize, image_mean, image_std)
        return batch, reshaped_input_sizes

    def generate_crop_boxes(
        self,
        image: Any,
        target_size: int,
        crop_n_layers: int = 0,
        overlap_ratio: float = 512 / 1500,
        points_per_crop: int | None = 32,
        crop_n_points_downscale_factor: float | None = 1,
        device: Any = None,
    ) -> tuple[Tensor, Tensor, list[Any], Tensor]:
        """Crops of one image and a grid of points on each; arguments and results as in ``image_crops``.

        Raises:
            ValueError: If ``image`` is a list, or an option makes no grid.
        """
        if isinstance(image, (list, tuple)):
            raise ValueError("image: expected one image for crop generation, got a list")
        pixels = load_image_tensor(image, "image", bool(self.do_convert_rgb))
        if pixels.is_floating_point():  # a dark crop on its own would be taken for one in [0,1]
            pixels = pixels.round().to(torch.uint8)
        boxes, points, crops, labels = crops_with_points(
            pixels,
            target_size,
            crop_n_layers,
            overlap_ratio,
            points_per_crop,
            1 if crop_n_points_downscale_factor is None else crop_n_points_downscale_factor,
        )
        device = torch.device("cpu") if device is None else device
        return boxes.to(device), points.to(device), [self._own_format(crop) for crop in crops], labels.to(device)

    def filter_masks(
        self,
        masks: Tensor,
        iou_scores: Tensor,
        original_size: Sequence[int],
        cropped_box_image: Any,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        mask_threshold: float = 0,
        stability_score_offset: float = 1,
    ) -> tuple[list[dict[str, Any]], Tensor, Tensor]:
        """Keep the good, stable, uncut masks of one crop: RLEs, scores, boxes; see ``filter_crop_masks``."""
        return filter_crop_masks(
            masks,
            iou_scores,
            original_size,
            cropped_box_image,
            pred_iou_thresh,
            stability_score_thresh,
            mask_threshold,
            stability_score_offset,
        )

    def post_process_masks(
        self,
        masks: Any,
        original_sizes: Any,
        reshaped_input_sizes: Any,
        mask_threshold: float = 0.0,
        binarize: bool = True,
        pad_size: Any = None,
    ) -> list[Tensor]:
        """Remove the padding and upscale to the original sizes.

        Args:
            masks: (B,P,M,4h,4w) logits, or a list of B tensors or arrays (P,M,4h,4w).
            original_sizes: (B,2), (H,W), original pixels.
            reshaped_input_sizes: (B,2), (H,W), resized pixels.
            mask_threshold: Logits above it belong to the mask.
            binarize: Return bool masks; otherwise logits.
            pad_size: The padded square if it is not the processor's own.

        Returns:
            B tensors (P,M,H,W), original pixels.

        Raises:
            TypeError: If a mask is not a tensor or array of floats.
            ValueError: If counts, shapes or sizes do not fit together.
        """
        # a square of the caller's choice says nothing about how long the longest side was
        longest_edge = self.size["longest_edge"] if pad_size is None else None
        pad_shape = height_width(self.pad_size if pad_size is None else pad_size)
        return upscale_masks(
            masks, original_sizes, reshaped_input_sizes, pad_shape, longest_edge, mask_threshold, binarize
        )

    def post_process_for_mask_generation(
        self, all_masks: list[dict[str, Any]], all_scores: Tensor, all_boxes: Tensor, crops_nms_thresh: float
    ) -> tuple[list[Tensor], Tensor, list[dict[str, Any]], Tensor]:
        """Suppress duplicates among the masks of all crops.

        Args:
            all_masks: n uncompressed RLEs.
            all_scores: (n,).
            all_boxes: (n,4) xyxy, original pixels.
            crops_nms_thresh: Box IoU above which the mask with the lower score is dropped.

        Returns:
            Masks (H,W) bool, their scores, RLEs and boxes, best first.
        """
        kept = suppress_duplicates(all_masks, all_scores, all_boxes, crops_nms_thresh)
        rles = [all_masks[index] for index in kept.tolist()]
        return [rle_to_mask(rle) for rle in rles], all_scores[kept], rles, all_boxes[kept]


def _empty_batch(images: list[Tensor], to_float: bool, do_pad: bool, pad_size: Any) -> Tensor | list[Tensor]:
    """Make the zeros that images (C,h,w) are written into: one (B,C,S,S), or a list where shapes differ."""
    shapes = [tuple(image.shape[-2:]) for image in images]
    target = (max(height for height, _ in shapes), max(width for _, width in shapes))
    if do_pad and pad_size is not None:
        if target[0] > height_width(pad_size)[0] or target[1] > height_width(pad_size)[1]:
            raise ValueError(f"pad_size: expected at least the size of the resized images {target}, got {pad_size}")
        target = height_width(pad_size)
    dtype = torch.float32 if to_float else images[0].dtype
    if len({image.shape[0] for image in images}) == 1 and (do_pad or len(set(shapes)) == 1):
        return torch.zeros((len(images), images[0].shape[0], *target), dtype=dtype, device=images[0].device)
    return [
        torch.zeros((image.shape[0], *(target if do_pad else shape)), dtype=dtype, device=image.device)
        for image, shape in zip(images, shapes, strict=True)
    ]


def _normalise_into(
    place: Tensor, image: Tensor, do_rescale: bool, rescale_factor: float, do_normalize: bool, mean: Any, std: Any
) -> None:
    """Write an image (C,h,w) into its place in the batch, rescaled and normalised without a copy of its own."""
    place.copy_(image)
    if do_normalize:
        # rescaling is folded into mean and std, in the order of operations of transformers: equal to the last bit
        factor = 1.0 / rescale_factor if do_rescale else 1.0
        mean_tensor = torch.tensor(mean, device=place.device) * factor
        std_tensor = torch.tensor(std, device=place.device) * factor
        place.sub_(mean_tensor.reshape(-1, 1, 1)).div_(std_tensor.reshape(-1, 1, 1))
    elif do_rescale:
        place.mul_(rescale_factor)
