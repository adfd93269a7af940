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


def write_remote_code(folder: str | os.PathLike, classes: dict[str, str | list[str]]) -> dict[str, str | list[str]]:
    """Copy the files that define some classes, and all that these import, into a folder.

    Args:
        folder: Where to; it is made.
        classes: By auto class, "module.Class", or a list of these.

    Returns:
        `classes` without those whose module is not there: remote code that is itself running may be the model's part
        alone.
    """
    from transformers.dynamic_module_utils import get_relative_import_files  # what the loader follows, we follow

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    present, needed = {}, set()
    for auto_class, names in classes.items():
        listed = names if isinstance(names, list) else [names]
        modules = [SOURCES / f"{name.split('.')[0]}.py" for name in listed]
        if all(module.is_file() for module in modules):
            present[auto_class] = names
            needed |= set(modules)
    needed |= {Path(file) for module in needed for file in get_relative_import_files(module)}
    for source in sorted(needed):
        part = folder / f".{source.name}.{os.getpid()}"
        try:
            shutil.copyfile(source, part)
            part.replace(folder / source.name)
        finally:
            part.unlink(missing_ok=True)
    return present
