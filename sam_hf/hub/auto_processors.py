"""The processors under the names by which transformers' auto classes find them.

`AutoProcessor` and `AutoImageProcessor` go by class name before they look at the model type. "SamProcessor" and
"SamImageProcessor" are transformers' own, so what is registered for the type "sam_hf" has names of its own.
"""

from sam_hf.model.image_processing_sam import SamImageProcessor, SamImageProcessorPil
from sam_hf.model.processing_sam import SamProcessor


class SamHfImageProcessor(SamImageProcessor):
    """`SamImageProcessor` of a "sam_hf" checkpoint."""


class SamHfImageProcessorPil(SamImageProcessorPil):
    """`SamImageProcessorPil` of a "sam_hf" checkpoint."""


class SamHfProcessor(SamProcessor):
    """`SamProcessor` of a "sam_hf" checkpoint."""

    image_processor_classes = {"torchvision": SamHfImageProcessor, "pil": SamHfImageProcessorPil}
