"""What the files of a checkpoint are called, in one place, and how the JSON ones are read."""

import json
import re
from pathlib import Path
from typing import Any

CONFIG = "config.json"
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")  # for new readers, for old ones
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"  # in one file; which of several, in these
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
# Weights, whole or in parts, under the names by which transformers finds them; safetensors, pickles, and a variant's.
SAFETENSORS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")
PICKLED = re.compile(r"pytorch_model(-\d{5}-of-\d{5})?\.bin|pytorch_model\.bin\.index\.json")
VARIANT = re.compile(r"(?P<stem>model(?:\.[\w-]+?)?)(?:-\d{5}-of-\d{5})?\.safetensors")
UNUSED_WEIGHTS = "unused_weights.safetensors"  # of a conversion's source: what no part of the model reads
TRAINING = "training.json"  # what the training says of itself
CALIBRATION = "text_calibration.json"  # when a phrase is absent
EVALUATIONS = ("evaluation.json", "evaluation_text.json")  # what was measured of these weights
# What is made from the weights, or says something of them, by its path: obsolete when they are replaced.
DERIVED = re.compile(
    "|".join(map(re.escape, (TRAINING, CALIBRATION, *EVALUATIONS, UNUSED_WEIGHTS)))
    + r"|onnx/[^/]+\.(onnx|onnx_data|onnx\.data|json)|[^/]+\.(onnx|onnx_data|onnx\.data)"
)
CARD = "README.md"
# A CLIP that belongs to the checkpoint: a folder in open_clip's form.
CLIP_FOLDER, CLIP_CONFIG, CLIP_WEIGHTS = "clip", "open_clip_config.json", "open_clip_model.safetensors"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        OSError: It is no file, or cannot be read.
        ValueError: It holds something else.
    """
    if not path.is_file():
        raise OSError(f"{str(path)!r} must be a file")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))  # some editors begin a file with a mark
    except (ValueError, RecursionError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(f"{str(path)!r} is not JSON: {' '.join(lines[:2]) or type(error).__name__}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} must be a JSON object, got a {type(content).__name__}")
    return content
