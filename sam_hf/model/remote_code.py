"""What a checkpoint takes along so that it loads without this package: these source files, and where its classes are.

With `trust_remote_code=True` transformers imports the files from beside the weights. Only checkpoints that stock
transformers cannot read ("sam_hf") get them; a plain "sam" one needs no code, and carries none.
"""

import os
import shutil
from pathlib import Path

SOURCES = Path(__file__).resolve().parent
IMAGE_PROCESSORS = {
    # An image processor by back end, the PIL one first: the order that transformers 4 (slow, fast) and 5 both read.
    "AutoImageProcessor": ["image_processing_pil_sam.SamImageProcessorPil", "image_processing_sam.SamImageProcessor"]
}
PROCESSORS = {"AutoProcessor": "processing_sam.SamProcessor"} | IMAGE_PROCESSORS
MODELS = {
    "AutoConfig": "configuration_sam.SamConfig",
    "AutoModel": "modeling_sam.SamModel",
    "AutoModelForMaskGeneration": "modeling_sam.SamModel",
}


def source_files(classes: dict[str, str | list[str]]) -> list[Path]:
    """The files that define classes ("module.Class" by auto class), and all that these import."""
    from transformers.dynamic_module_utils import get_relative_import_files  # what the loader follows, we follow

    modules = {_module(name) for names in classes.values() for name in _listed(names)}
    return sorted(modules | {Path(file) for module in modules for file in get_relative_import_files(module)})


def write_remote_code(folder: str | os.PathLike, classes: dict[str, str | list[str]]) -> dict[str, str | list[str]]:
    """Copy the source files of classes into a folder.

    Args:
        folder: Where to; it is made.
        classes: By auto class, "module.Class", or a list of these.

    Returns:
        `classes` without those whose module is not there: remote code that is itself running may be the model's part
        alone.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    present = {
        auto_class: names
        for auto_class, names in classes.items()
        if all(_module(name).is_file() for name in _listed(names))
    }
    for source in source_files(present):
        part = folder / f".{source.name}.{os.getpid()}"
        try:
            shutil.copyfile(source, part)
            part.replace(folder / source.name)
        finally:
            part.unlink(missing_ok=True)
    return present


def _module(name: str) -> Path:
    return SOURCES / f"{name.split('.')[0]}.py"


def _listed(names: str | list[str]) -> list[str]:
    return names if isinstance(names, list) else [names]
