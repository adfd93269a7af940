"""The image processor with PIL's resizing filter: the pixels of Meta's own ``ResizeLongestSide``.

Source: segment-anything's transforms resize 8-bit images with PIL's antialiased bilinear filter; here pictures with
more than 8 bits are resized in float32, channel by channel, instead of being cut to 8 bits first.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import PILImageResampling, SizeDict

from .image_loading import load_image_tensor
from .image_operations import SamImageOperations


class SamImageProcessorPil(SamImageOperations, PilBackend):
    """SAM's image processor on PIL and numpy; keywords, methods and outputs of `SamImageProcessor`."""

    def process_image(
        self,
        image: Any,
        do_convert_rgb: bool | None = None,
        input_data_format: Any = None,
        device: Any = None,
        where: str = "image",
        to_8bit: bool = True,
        **kwargs,
    ) -> np.ndarray:
        """Read one picture -> (C,H,W) array; see ``image_loading``. ``device`` is accepted and not used."""
        return self._own_format(load_image_tensor(image, where, bool(do_convert_rgb), to_8bit, input_data_format))

    def resize(self, image: np.ndarray, size: SizeDict, resample: Any = None, **kwargs) -> np.ndarray:
        """Resize (C,H,W) to the longest side ``size.longest_edge``."""
        from PIL import Image

        shape = self._resized_shape(image.shape[-2:], size)
        resample = PILImageResampling.BILINEAR if resample is None else PILImageResampling(_pil_number(resample))
        target = (shape.width, shape.height)
        if image.dtype == np.uint8 and image.shape[0] == 3:
            resized = Image.fromarray(np.ascontiguousarray(np.moveaxis(image, 0, -1))).resize(target, resample)
            return np.moveaxis(np.array(resized), -1, 0)
        if image.dtype != np.uint8:
            image = image.astype(np.int32 if image.dtype.kind in "biu" else np.float32)
        channels = [np.array(Image.fromarray(channel).resize(target, resample)) for channel in image]
        return np.stack(channels)

    def _own_format(self, image: Tensor) -> np.ndarray:
        array = image.detach().cpu().numpy()
        # labels arrive as float64, which PIL has no mode for; whole numbers fit in int32
        return array.astype(np.int32) if array.dtype == np.float64 else array

    def _as_tensor(self, image: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(image))

    def _outgoing(self, batch: Any, return_tensors: Any) -> Any:
        return batch if return_tensors is not None else [image.numpy() for image in batch]


def _pil_number(resample: Any) -> Any:
    """PIL's number of a filter that may be given in torchvision's names."""
    if isinstance(resample, (int, PILImageResampling)):
        return resample
    from transformers.image_utils import torch_pil_interpolation_mapping

    return torch_pil_interpolation_mapping[resample]


__all__ = ["SamImageProcessorPil"]
