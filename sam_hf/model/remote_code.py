"""What a checkpoint takes along so that it loads without this package: these source files, and where its classes are.

With `trust_remote_code=True` transformers imports the files from beside the weights. Only checkpoints that stock
transformers cannot read ("sam_hf") get them; a plain "sam" one needs no code, and carries none.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from .checkpoint_files import PROCESSOR_FILES, read_json

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


def name_classes(processor: dict[str, Any], extended: bool) -> dict[str, Any]:
    """What a processor_config.json says, with the names by which its classes are found.

    A plain checkpoint's are those that every version of transformers knows. In an extended one ("sam_hf") the name of
    the processor is left out: it is also transformers' own, which would be loaded in silence, and knows no text and no
    masks per prompt. The model's type then tells the auto classes what to load; without this package, `auto_map` does.
    The image processor is named as this package registers it, because transformers before 5.23 looks for its name
    before it looks for code of the user's.

    Args:
        processor: As transformers serialises it.
        extended: Whether it is an extended checkpoint's.
    """
    named, images = dict(processor), dict(processor["image_processor"])
    for part in (named, images):
        part.pop("auto_map", None)  # of what it was loaded from
    if extended:
        named.pop("processor_class", None)
        images["image_processor_type"] = "SamHfImageProcessor"
        named["auto_map"], images["auto_map"] = PROCESSORS, IMAGE_PROCESSORS
    else:
        named["processor_class"], images["image_processor_type"] = "SamProcessor", "SamImageProcessor"
    return named | {"image_processor": images}


def claim_processor(folder: str | os.PathLike, target: str | os.PathLike) -> None:
    """Write the processor files of a folder, if it has some, with the names of an extended checkpoint.

    For a model that is saved beside a processor which did not know whose it was.

    Args:
        folder: Where the processor is.
        target: Where the files go.
    """
    try:
        content = read_json(Path(folder) / PROCESSOR_FILES[0])
        known = {} if content.get("text_config") else {"extended": True}
        claimed = name_classes(content | known, extended=True)
    except (OSError, ValueError, LookupError, TypeError):
        return  # none there, or none that could be loaded
    for name, part in zip(PROCESSOR_FILES, (claimed, claimed["image_processor"]), strict=True):
        text = json.dumps(part, indent=2, sort_keys=True) + "\n"
        Path(target, name).write_text(text, encoding="utf-8")


def _module(name: str) -> Path:
    return SOURCES / f"{name.split('.')[0]}.py"


def _listed(names: str | list[str]) -> list[str]:
    return names if isinstance(names, list) else [names]
