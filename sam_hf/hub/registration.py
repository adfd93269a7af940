"""Makes transformers' auto classes know the model type "sam_hf".

`import sam_hf` is enough for `AutoModel.from_pretrained("org/sam-with-text")` to work. Registering needs transformers'
auto modules and our own model, seconds of imports that somebody who asks for `sam-hf --help` should not pay; so the
registration of each part waits until the auto module that it concerns has been imported, by whomever.

Stock "sam" checkpoints keep loading transformers' own classes. Two things see to that: only the type "sam_hf" is
added, and the processors are registered under names of their own (`auto_processors`), because transformers looks
processors up by class name, and prefers a registered one.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
import threading

_AUTO = "transformers.models.auto."


def register(override_sam: bool = False) -> None:
    """Registers "sam_hf" with AutoConfig, AutoModel, AutoModelForMaskGeneration, AutoProcessor and AutoImageProcessor.

    `import sam_hf` has arranged for this already; calling it again is harmless, and loads everything now.

    Args:
        override_sam: Also let every `AutoConfig`/`AutoModel*`/pipeline load of a plain "sam" checkpoint give our
            `SamConfig` and `SamModel`. `transformers.SamModel` itself, and the processors of such checkpoints, stay
            transformers' own. It holds until the process ends.
    """
    for auto_module, step in _STEPS.items():
        importlib.import_module(auto_module)
        step()
    if override_sam:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        from sam_hf.model.configuration_sam import SamConfig

        # Not AutoConfig.register: it compares with the class attribute, which says "sam_hf".
        CONFIG_MAPPING.register("sam", SamConfig, exist_ok=True)


def register_when_needed() -> None:
    """Registers now what concerns auto modules that are loaded, the rest as soon as they are."""
    if not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())
    _register_ready()


def _register_config() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from sam_hf.model.configuration_sam import SamConfig

    CONFIG_MAPPING.register(SamConfig.model_type, SamConfig, exist_ok=True)


def _register_model() -> None:
    from transformers.models.auto.modeling_auto import AutoModel, AutoModelForMaskGeneration

    from sam_hf.model.configuration_sam import SamConfig
    from sam_hf.model.modeling_sam import SamModel

    # exist_ok: the look-up for "already used" goes by class name, and ours equals transformers'. The mapping itself is
    # keyed by the class, so the stock entry stays.
    AutoModel.register(SamConfig, SamModel, exist_ok=True)
    AutoModelForMaskGeneration.register(SamConfig, SamModel, exist_ok=True)


def _register_image_processor() -> None:
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

    from sam_hf.hub.auto_processors import SamHfImageProcessor, SamHfImageProcessorPil
    from sam_hf.model.configuration_sam import SamConfig

    # Not AutoImageProcessor.register: it would find the stock entry by class name first and merge ours into it.
    backends = {"torchvision": SamHfImageProcessor, "pil": SamHfImageProcessorPil}
    IMAGE_PROCESSOR_MAPPING.register(SamConfig, backends, exist_ok=True)


def _register_processor() -> None:
    from transformers.models.auto.processing_auto import AutoProcessor

    from sam_hf.hub.auto_processors import SamHfProcessor
    from sam_hf.model.configuration_sam import SamConfig

    AutoProcessor.register(SamConfig, SamHfProcessor, exist_ok=True)


_STEPS = {
    _AUTO + "configuration_auto": _register_config,
    _AUTO + "modeling_auto": _register_model,
    _AUTO + "image_processing_auto": _register_image_processor,
    _AUTO + "processing_auto": _register_processor,
}
# While one of these is half imported, a step would import it in a circle; it is taken up when they are done.
_NEEDED = {
    "transformers.configuration_utils",
    "transformers.image_processing_backends",
    "transformers.modeling_utils",
    "transformers.processing_utils",
    "sam_hf.hub.auto_processors",
    "sam_hf.model.configuration_sam",
    "sam_hf.model.image_processing_sam",
    "sam_hf.model.modeling_sam",
    "sam_hf.model.processing_sam",
}
_under_way: set[str] = set()
_done: set[str] = set()
_lock = threading.RLock()


class _AfterImport(importlib.abc.MetaPathFinder):
    """Imports as usual; afterwards takes the registration steps that have become possible."""

    def find_spec(self, name, path=None, target=None):
        if name not in _NEEDED and name not in _STEPS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_then_register(module):
            _under_way.add(name)
            try:
                execute(module)
            finally:
                _under_way.discard(name)
            _register_ready()

        spec.loader.exec_module = execute_then_register
        return spec


def _register_ready() -> None:
    for auto_module, step in _STEPS.items():
        with _lock:
            possible = auto_module in sys.modules and not _under_way & (_NEEDED | {auto_module})
            if not possible or auto_module in _done:
                continue
            _done.add(auto_module)
        try:
            step()
        except BaseException:
            _done.discard(auto_module)
            raise
