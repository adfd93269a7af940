"""What is no checkpoint is refused: by the name of the file, in one sentence, before anything is made of it.

`SamPreTrainedModel.from_pretrained` checks, in this order, the folder (`check_folder`), the configuration
(`check_config`), and then what is in `weight_checks`: files, shapes, numbers. What comes from the Hub goes the same
way but for the folder. What libraries say in their own words about the rest is said in ours (`problems_named`).
"""

import logging
import math
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub.errors
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig

from .checkpoint_files import CONFIG, PICKLES, PROCESSOR_FILES, WEIGHTS, read_json
from .hub_access import scrubbed
from .weight_checks import check_weight_files, first_lines

# What says that the Hub did not answer, beside OSError; newer versions of huggingface_hub have one more.
UNREACHABLE = tuple(
    kind for kind in [getattr(huggingface_hub.errors, "RevisionResolutionError", None)] if kind is not None
)
SAM_TYPES = ("sam", "sam_hf")
PARTS = ("vision_config", "prompt_encoder_config", "mask_decoder_config", "text_config")
LARGEST_SIDE = 1 << 14  # pixels of a model's input; in float32 a picture of it is 3 GB
LAYERS, MOST_LAYERS = ("num_hidden_layers", "depths", "layers", "iou_head_depth"), 1000  # ViT-H has 32
COUNTS = frozenset(
    """attention_downsample_rate embed_dims hidden_size image_size num_attention_heads num_channels num_pos_feats
    output_channels patch_size strides""".split()
)  # sizes that something is divided by, or that nothing is left without
DTYPES = ("auto", "float32", "float16", "bfloat16", "float64")
# What transformers 4 wrote into every configuration, whatever the model, and what SAM's own once held.
FORGOTTEN = frozenset(
    """add_cross_attention bad_words_ids begin_suppress_tokens bos_token_id cross_attention_hidden_size
    decoder_start_token_id diversity_penalty do_sample dropout early_stopping encoder_no_repeat_ngram_size eos_token_id
    exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id image_embedding_size
    initializer_factor is_decoder length_penalty max_length min_length no_repeat_ngram_size num_beam_groups num_beams
    num_return_sequences output_scores pad_token_id prefix projection_dim pruned_heads remove_invalid_values
    repetition_penalty resolved return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature
    tf_legacy_loss tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p torch_dtype torchscript
    typical_p use_bfloat16 auto_map custom_pipelines model_type transformers_version
    transformers_weights quantization_config fusion_config""".split()
)


def check_folder(
    name: Any, weights: bool = True, config: bool = True, subfolder: str = "", variant: str | None = None
) -> None:
    """Refuse what is no folder of a checkpoint; a Hub id passes.

    Args:
        name: What the user asked for.
        weights: Whether it has to hold weights, as safetensors. A pickle is none: reading one can run code.
        config: Whether it has to hold a configuration.
        subfolder: Where in the folder the files are.
        variant: Of the weights' names, as in transformers.

    Raises:
        OSError: There is no such folder, or a file is missing in it.
        ValueError: A file in it is not JSON, or the index of the weights leads outside.
    """
    place = Path(name).expanduser() if isinstance(name, str | os.PathLike) else None
    if place is None:
        return
    if place.is_file():
        convert = "convert it with `sam-hf convert`" if place.suffix in (".pth", ".pt") else "name the folder it is in"
        raise OSError(f"the checkpoint must be a folder or a Hub id, and {str(name)!r} is a file: {convert}")
    if not place.is_dir():
        if str(name).startswith((".", "/", "~")) or "\\" in str(name) or str(name).count("/") > 1:
            raise OSError(f"there is no checkpoint folder {str(name)!r}")
        return
    folder = place / subfolder
    present = [file for file in (CONFIG, *PROCESSOR_FILES) if (folder / file).exists()]
    if config and CONFIG not in present:
        raise OSError(f"the checkpoint folder {str(name)!r} has no {CONFIG}")
    for file in present:
        read_json(folder / file)
    if not weights:
        return
    files = files_of_weights(folder, variant)
    if files:
        check_weight_files(files)
    elif any((folder / pickle).exists() for pickle in PICKLES):
        raise OSError(pickle_refused(name))
    else:
        missing = WEIGHTS if variant is None else f"model.{variant}.safetensors"
        raise OSError(f"the checkpoint folder {str(name)!r} has no {missing}, and so no weights")


def files_of_weights(folder: Path, variant: str | None = None) -> list[Path]:
    """The safetensors files that a folder's model is loaded from: one, or those that an index names; none: [].

    Raises:
        OSError: One that the index names is missing.
        ValueError: The index is damaged, or leads outside.
    """
    suffix = "" if variant is None else f".{variant}"
    if (folder / f"model{suffix}.safetensors").is_file():
        return [folder / f"model{suffix}.safetensors"]
    index = folder / f"model.safetensors.index{suffix}.json"
    return _shards(index) if index.is_file() else []


def no_safetensors(name: Any) -> str:
    return (
        f"no model.safetensors of {str(name)!r} is within reach: either the Hub cannot be reached and the cache does "
        f"not hold it, or the repository has none. A pickle ({PICKLES[0]}) can run code when it is read, and is not: "
        "convert it, or, if you trust its author, pass use_safetensors=False"
    )


def pickle_refused(name: Any) -> str:
    return (
        f"the checkpoint {str(name)!r} has its weights as a pickle only ({PICKLES[0]}), which can run code when it is "
        "read, and no model.safetensors: convert it, or, if you trust its author, pass use_safetensors=False"
    )


def _shards(index: Path) -> list[Path]:
    """The files that an index names; all of them beside it."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"{str(index)!r} must say in `weight_map` which file each weight is in")
    check_inside(names.values(), index)
    shards = [index.parent / name for name in sorted(set(names.values()))]
    missing = next((shard for shard in shards if not shard.is_file()), None)
    if missing is not None:
        raise OSError(f"{missing.name!r}, which {str(index)!r} names, is missing")
    return shards


def check_inside(names: Any, index: Any) -> None:
    """Refuse names of files that lead out of the folder of an index.

    Raises:
        ValueError: Naming the first.
    """
    for name in sorted(set(names)):
        if os.path.isabs(name) or ":" in name or ".." in re.split(r"[/\\]", name):
            raise ValueError(f"{str(index)!r} names the file {name!r}, which lies outside the checkpoint")


def check_config(fields: dict[str, Any], known: dict[str, set[str]], name: Any) -> list[str]:
    """Refuse the configuration of another model; say what in it nobody reads.

    Args:
        fields: What config.json holds.
        known: Names of fields, by part; "" is the whole.
        name: Of the checkpoint.

    Returns:
        Warnings.

    Raises:
        ValueError: It is a model of another type.
    """
    kind = fields.get("model_type")
    if kind and kind not in SAM_TYPES:
        raise ValueError(f"{str(name)!r} is a checkpoint of the type {kind!r}; expected one of {list(SAM_TYPES)}")
    unread = []
    for part, names in known.items():
        given = fields if not part else fields.get(part)
        for key in given if isinstance(given, dict) else ():
            if key not in names | FORGOTTEN and not key.startswith("_"):
                unread.append(f"{part}.{key}" if part else key)
    warnings = []
    if unread:
        warnings.append(
            f"config.json of {str(name)!r} has entries that this version does not know, and that do nothing: "
            f"{', '.join(sorted(unread))} (misspelt, or of a later version?)"
        )
    from transformers import __version__

    written = re.match(r"\d+", str(fields.get("transformers_version") or ""))
    if written and int(written[0]) > int(__version__.split(".")[0]):
        warnings.append(
            f"{str(name)!r} was saved by transformers {fields['transformers_version']}, which is newer than "
            f"{__version__} here: it may mean something else by its entries"
        )
    return warnings


def usable_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """The content of a config.json without what is the caller's to choose: how attention is computed.

    The name of an attention may be that of code on the Hub, which transformers would fetch and run.

    Raises:
        ValueError: It names a number format that no model is kept in.
    """
    for name in ("dtype", "torch_dtype"):
        dtype = str(fields.get(name) or "auto").removeprefix("torch.")
        if dtype not in DTYPES:
            raise ValueError(f"`{name}` must be one of {', '.join(DTYPES)}; got {fields[name]!r}")
    kept = {name: value for name, value in fields.items() if "_implementation" not in name}
    return {
        name: usable_fields(value) if name in PARTS and isinstance(value, dict) else value
        for name, value in kept.items()
    }


def check_values(part: PreTrainedConfig) -> None:
    """Refuse activations that do not exist, sizes below nothing and numbers that are none, by name.

    Args:
        part: Of a model's configuration.

    Raises:
        ValueError: Naming the field.
    """
    for field in type(part).__annotations__:
        value, name = getattr(part, field, None), f"`{part.base_config_key}.{field}`"
        if field == "hidden_act" and value not in ACT2FN:
            raise ValueError(f"{name} must be an activation of transformers, such as 'gelu'; got {value!r}")
        for number in value if isinstance(value, list | tuple) else [value]:
            if not isinstance(number, int | float):
                continue
            if not math.isfinite(number):
                raise ValueError(f"{name} must be finite; got {value!r}")
            if number < 0:
                raise ValueError(f"{name} must not be negative; got {value!r}")
            if number > MOST_LAYERS and field in LAYERS:
                raise ValueError(f"{name} must be at most {MOST_LAYERS}; got {value!r}")
            if number < 1 and field in COUNTS:
                raise ValueError(f"{name} must be at least 1; got {value!r}")


def check_image_settings(images: Any) -> None:
    """Refuse settings of an image processor that no picture can be prepared with, or only one of endless size.

    Args:
        images: The image processor, loaded.

    Raises:
        ValueError: Naming the setting.
    """
    for name in ("image_mean", "image_std", "rescale_factor"):
        value = getattr(images, name, None)
        if value is None:
            continue
        colours = list(value) if isinstance(value, list | tuple) and len(value) == 3 else [value]
        if not all(_is_finite(number) for number in colours):
            expected = "a finite number" if name == "rescale_factor" else "three finite numbers"
            raise ValueError(f"`{name}` must be {expected}; got {value!r}")
        if name != "image_mean" and min(colours) <= 0:
            raise ValueError(f"`{name}` must be above 0; got {value!r}")
    for name in ("size", "pad_size", "mask_size", "mask_pad_size"):
        size = getattr(images, name, None)
        for side in ("longest_edge", "height", "width") if size is not None else ():
            pixels = size.get(side)
            if pixels is not None and not (_is_finite(pixels) and 1 <= pixels <= LARGEST_SIDE):
                raise ValueError(f"`{name}.{side}` must be 1 to {LARGEST_SIDE} pixels; got {pixels!r}")


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def loading_report(found: dict[str, Any], text_weights: str, model: nn.Module, name: Any) -> list[str]:
    """What a checkpoint lacked or had too many, in one sentence each.

    Args:
        found: transformers' loading info.
        text_weights: What the names of the text branch's weights begin with.
        model: What was loaded.
        name: Of the checkpoint.
    """
    missing, left = set(found["missing_keys"]), set(found["unexpected_keys"])
    text = {key for key in missing if key.startswith(text_weights)}
    said = []
    if text:
        said.append(
            f"{str(name)!r} has no text branch: {len(text)} weights of it are missing and start afresh; train them "
            f"before you prompt with text: {_listed(text)}"
        )
    if missing - text:
        said.append(
            f"{str(name)!r} lacks {len(missing - text)} weights of {type(model).__name__}; they are missing and start "
            f"afresh: {_listed(missing - text)}"
        )
    if left:
        said.append(
            f"{str(name)!r} holds {len(left)} weights that {type(model).__name__} has no place for; they were left "
            f"out: {_listed(left)}"
        )
    for key, given, expected in sorted(found.get("mismatched_keys") or ()):
        said.append(f"{key!r} of {str(name)!r} has the shape {tuple(given)}, not {tuple(expected)}: it starts afresh")
    return said


def _listed(keys: set[str]) -> str:
    """Names, those that differ in a number only as one."""
    return ", ".join(sorted({re.sub(r"\.\d+(?=\.)", ".*", key) for key in keys}))


@contextmanager
def config_named(name: Any) -> Iterator[None]:
    """Says of which checkpoint a configuration is that cannot be used.

    Raises:
        ValueError: For what its classes raise about its content.
    """
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, StrictDataclassError) as error:
        if isinstance(error, ValueError) and str(name) in str(error):
            raise
        raise ValueError(f"config.json of {str(name)!r} is damaged: {first_lines(error)}") from error


@contextmanager
def problems_named(name: Any) -> Iterator[None]:
    """Says in one sentence, with the checkpoint's name, what libraries say about damaged ones; no table beside it.

    Raises:
        ValueError: For what they raise about content.
        OSError: For a pickle where safetensors were asked for.
    """
    quiet = _NoLoadReport()
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(quiet)
    try:
        yield
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise ValueError(f"the weights of {str(name)!r} do not fit its config.json: {quiet.mismatch}") from error
    except (SafetensorError, StrictDataclassError, ZeroDivisionError) as error:
        raise ValueError(f"the checkpoint {str(name)!r} is damaged: {first_lines(error)}") from error
    except (OSError, *UNREACHABLE) as error:
        if "do not set `use_safetensors=True`" in str(error):
            raise OSError(no_safetensors(name)) from error
        if str(error).startswith("Can't load the") and error.__context__ is not None:
            # transformers' word for what it did not expect: the reason behind it is what helps
            raise OSError(f"cannot load {str(name)!r}: {scrubbed(first_lines(error.__context__))}") from error
        if isinstance(error, OSError) and (error.errno is not None or str(name) in str(error)):
            raise
        raise OSError(f"cannot load {str(name)!r}: {scrubbed(first_lines(error))}") from error
    finally:
        logger.removeFilter(quiet)


class _NoLoadReport(logging.Filter):
    """Drops transformers' table about missing weights in this thread: `loading_report` says it in words."""

    def __init__(self):
        super().__init__()
        self.mismatch = ""
        self._thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.thread != self._thread or "LOAD REPORT" not in str(record.msg):
            return True
        lines = (line for line in str(record.msg).splitlines() if "MISMATCH" in line)
        self.mismatch = " ".join(next(lines, "").replace("|", " ").split())
        return False
