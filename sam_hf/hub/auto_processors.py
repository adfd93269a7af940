"""The processors under the names by which transformers' auto classes find them.

`AutoProcessor` and `AutoImageProcessor` go by class name before they look at the model type. "SamProcessor" and
"SamImageProcessor" are transformers' own, so checkpoints of type "sam_hf" name these instead.
"""

from sam_hf.model.image_processing_sam import SamImageProcessor, SamImageProcessorPil
from sam_hf.model.processing_sam import SamProcessor


class SamHfImageProcessor(SamImageProcessor):
    """`SamImageProcessor` of a "sam_hf" checkpoint."""


class SamHfImageProcessorPil(SamImageProcessorPil):
    """`SamImageProcessorPil` of a "sam_hf" checkpoint."""


class SamHfProcessor(SamProcessor):
    """`SamProcessor` of a "sam_hf" checkpoint."""
