"""Segment Anything for Hugging Face: points, boxes, masks and free text, alone or together, to masks with a score.

`import sam_hf` makes transformers' auto classes know the model type "sam_hf" (see `sam_hf.hub.registration`) and
changes nothing about stock "sam" checkpoints.
"""

from sam_hf.hub.registration import register
from sam_hf.inference.embedding_store import EmbeddingStore, ImageEmbedding
from sam_hf.inference.mask_generation import SamAutomaticMaskGenerator
from sam_hf.inference.pipeline import SamMaskGenerationPipeline, pipeline
from sam_hf.inference.predictor import SamPredictor
from sam_hf.inference.text.instances import TextAnswer, TextInstance
from sam_hf.inference.text.segmenter import SamTextSegmenter
from sam_hf.model.checkpoint_names import EMBEDDED_FOLDER as EMBEDDED
from sam_hf.model.configuration_sam import (
    SamConfig,
    SamMaskDecoderConfig,
    SamPromptEncoderConfig,
    SamTextConfig,
    SamTinyViTConfig,
    SamVisionConfig,
)
from sam_hf.model.image_processing_sam import SamImageProcessor, SamImageProcessorPil
from sam_hf.model.modeling_sam import SamModel, SamPreTrainedModel, SamVisionModel
from sam_hf.model.processing_sam import SamProcessor

__version__ = "0.1.0"

__all__ = [
    "EMBEDDED",
    "EmbeddingStore",
    "ImageEmbedding",
    "SamAutomaticMaskGenerator",
    "SamConfig",
    "SamImageProcessor",
    "SamImageProcessorPil",
    "SamMaskDecoderConfig",
    "SamMaskGenerationPipeline",
    "SamModel",
    "SamPreTrainedModel",
    "SamPredictor",
    "SamProcessor",
    "SamPromptEncoderConfig",
    "SamTextConfig",
    "SamTextSegmenter",
    "SamTinyViTConfig",
    "SamVisionConfig",
    "SamVisionModel",
    "TextAnswer",
    "TextInstance",
    "__version__",
    "pipeline",
    "register",
]

register()
