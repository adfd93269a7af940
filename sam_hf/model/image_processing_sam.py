"""From pictures to the square, normalised, padded images that the model takes, and from its masks back.

`SamImageProcessor` resizes with torchvision's antialiased bilinear filter; for 8-bit RGB pictures its result equals
that of ``transformers.SamImageProcessor`` bit for bit. `SamImageProcessorPil` resizes with PIL's, which is what Meta's
``ResizeLongestSide`` does. The two differ by at most 1/255 per pixel before normalisation.

Source: class names, keywords and output keys are transformers 5.23's; differs in what pictures are understood and in
what is refused: see ``image_operations``, ``image_loading``, ``mask_postprocessing`` and ``image_crops``.
"""

from typing import Any

from torch import Tensor
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_utils import SizeDict

from .image_loading import load_image_tensor
from .image_operations import SamImageOperations, SamImageProcessorKwargs
from .image_processing_pil_sam import SamImageProcessorPil
from .mask_postprocessing import mask_to_rle

_mask_to_rle = mask_to_rle  # the name under which code written for transformers imports it


class SamImageProcessor(SamImageOperations, TorchvisionBackend):
    """SAM's image processor on torchvision: constructor keywords, methods and outputs of ``transformers``' own.

    Args:
        size: ``{"longest_edge": S}``.
        pad_size: ``{"height": S, "width": S}``.
        mask_size: ``{"longest_edge": 4h}``.
        mask_pad_size: ``{"height": 4h, "width": 4w}``.
        do_resize, do_rescale, do_normalize, do_pad, do_convert_rgb, image_mean, image_std, resample, rescale_factor:
            As in every image processor of transformers.
    """

    def process_image(
        self,
        image: Any,
        do_convert_rgb: bool | None = None,
        input_data_format: Any = None,
        device: Any = None,
        where: str = "image",
        to_8bit: bool = True,
        **kwargs,
    ) -> Tensor:
        """Read one picture -> (C,H,W) tensor; see ``image_loading``."""
        pixels = load_image_tensor(image, where, bool(do_convert_rgb), to_8bit, input_data_format)
        return pixels if device is None else pixels.to(device)

    def resize(self, image: Tensor, size: SizeDict, resample: Any = None, **kwargs) -> Tensor:
        """Resize (...,C,H,W) to the longest side ``size.longest_edge``."""
        return super().resize(image, size=self._resized_shape(image.shape[-2:], size), resample=resample, **kwargs)


__all__ = ["SamImageProcessor", "SamImageProcessorKwargs", "SamImageProcessorPil"]
