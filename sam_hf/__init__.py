"""Segment Anything for Hugging Face: points, boxes, masks and free text, alone or together, to masks with a score.

`import sam_hf` costs milliseconds: names are loaded when they are first used. It makes transformers' auto classes know
the model type "sam_hf" (see `sam_hf.hub.registration`) and changes nothing about stock "sam" checkpoints.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam_hf.hub.registration import register, register_when_needed

if TYPE_CHECKING:
    from sam_hf.inference.embedding_store import EmbeddingStore, ImageEmbedding
    from sam_hf.inference.predictor import SamPredictor
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

# Folder of the embedded checkpoint; the name "tiny" stands for it wherever a checkpoint is named.
EMBEDDED = Path(__file__).resolve().parent / "checkpoints" / "tiny"

_HOMES = {
    "EmbeddingStore": "sam_hf.inference.embedding_store",
    "ImageEmbedding": "sam_hf.inference.embedding_store",
    "SamConfig": "sam_hf.model.configuration_sam",
    "SamImageProcessor": "sam_hf.model.image_processing_sam",
    "SamImageProcessorPil": "sam_hf.model.image_processing_sam",
    "SamMaskDecoderConfig": "sam_hf.model.configuration_sam",
    "SamModel": "sam_hf.model.modeling_sam",
    "SamPreTrainedModel": "sam_hf.model.modeling_sam",
    "SamPredictor": "sam_hf.inference.predictor",
    "SamProcessor": "sam_hf.model.processing_sam",
    "SamPromptEncoderConfig": "sam_hf.model.configuration_sam",
    "SamTextConfig": "sam_hf.model.configuration_sam",
    "SamTinyViTConfig": "sam_hf.model.configuration_sam",
    "SamVisionConfig": "sam_hf.model.configuration_sam",
    "SamVisionModel": "sam_hf.model.modeling_sam",
}

__all__ = [
    "EMBEDDED",
    "EmbeddingStore",
    "ImageEmbedding",
    "SamConfig",
    "SamImageProcessor",
    "SamImageProcessorPil",
    "SamMaskDecoderConfig",
    "SamModel",
    "SamPreTrainedModel",
    "SamPredictor",
    "SamProcessor",
    "SamPromptEncoderConfig",
    "SamTextConfig",
    "SamTinyViTConfig",
    "SamVisionConfig",
    "SamVisionModel",
    "__version__",
    "register",
]

register_when_needed()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value  # the next access does not come here again
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
