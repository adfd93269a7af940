"""Makes transformers' auto classes know the model type "sam_hf"; `import sam_hf` calls it.

Stock "sam" checkpoints keep loading transformers' own classes. Two things see to that: only the type "sam_hf" is
added, and the processors are registered under names of their own (`auto_processors`), because transformers looks
processors up by class name, and prefers a registered one.
"""

from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.models.auto.modeling_auto import AutoModel, AutoModelForMaskGeneration
from transformers.models.auto.processing_auto import AutoProcessor

from sam_hf.hub.auto_processors import SamHfImageProcessor, SamHfImageProcessorPil, SamHfProcessor
from sam_hf.model.configuration_sam import SamConfig
from sam_hf.model.modeling_sam import SamModel


def register(override_sam: bool = False) -> None:
    """Registers "sam_hf" with AutoConfig, AutoModel, AutoModelForMaskGeneration, AutoProcessor and AutoImageProcessor.

    `import sam_hf` has done this already; calling it again is harmless.

    Args:
        override_sam: Also let every `AutoConfig`/`AutoModel*`/pipeline load of a plain "sam" checkpoint give our
            `SamConfig` and `SamModel`. `transformers.SamModel` itself, and the processors of such checkpoints, stay
            transformers' own. It holds until the process ends.
    """
    CONFIG_MAPPING.register(SamConfig.model_type, SamConfig, exist_ok=True)
    # exist_ok: the look-up for "already used" goes by class name, and ours equals transformers'. The mapping itself is
    # keyed by the class, so the stock entry stays.
    AutoModel.register(SamConfig, SamModel, exist_ok=True)
    AutoModelForMaskGeneration.register(SamConfig, SamModel, exist_ok=True)
    AutoProcessor.register(SamConfig, SamHfProcessor, exist_ok=True)
    # Not AutoImageProcessor.register: it would find the stock entry by class name first and merge ours into it.
    backends = {"torchvision": SamHfImageProcessor, "pil": SamHfImageProcessorPil}
    IMAGE_PROCESSOR_MAPPING.register(SamConfig, backends, exist_ok=True)
    SamModel.card_of = staticmethod(_card_of)
    if override_sam:
        # Not AutoConfig.register: it compares with the class attribute, which says "sam_hf".
        CONFIG_MAPPING.register("sam", SamConfig, exist_ok=True)


def _card_of(folder: Any, repo_id: str) -> str:
    """The card that `push_to_hub` uploads."""
    from sam_hf.hub.model_card import card_for  # a template engine, which nobody else needs

    return card_for(folder, model_name=repo_id.split("/")[-1], load_name=repo_id)
