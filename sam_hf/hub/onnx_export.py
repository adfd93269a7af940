"""ONNX files of a model: image encoder, decoder in one piece and split, text encoder, and Meta's decoder.

A `SamModel` and a folder -> PART.onnx, PART_fp16.onnx, PART_quantized.onnx; what the parts are says exported_parts.py.
Beside a text encoder lies its tokenizer. All files are made first, then moved, so that none is there in part.

Every file is complete in itself (above protobuf's 2 GB the weights lie beside it in PART.onnx_data), needs opset 18
and no operations of its own, takes and gives float32 and int64, and describes its inputs and outputs where viewers
look for it. float16 is the network in half precision between float32 ends, with two exceptions: decoder_per_image_fp16
takes its embedding as float16, the way a server sends it; and text_encoder_fp16 has its weights in float16 and
calculates in float32, because onnxruntime 1.31 crashes while it rearranges a text tower in half precision. int8 are
the weights of products, one scale per column, within 7 bits, so that processors without VNNI give the same masks;
activations become int8 while it runs ("dynamic"), so that no pictures are needed to calibrate.

Source: file names and suffixes are those of transformers.js; Meta's decoder is `SamOnnxModel` of segment-anything.
"""

import copy
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from sam_hf.hub.exported_parts import PARTS, MetaDecoder, Part, PerImage, TextAlignment, TextEncoder, missing_parts
from sam_hf.hub.exported_tokenizer import FILES as TOKENIZER_FILES
from sam_hf.hub.exported_tokenizer import write_tokenizer
from sam_hf.model.modeling_sam import SamModel
from sam_hf.model.text_prompts import tokenizer_for

OPSET = 18
SUFFIXES = {"float32": "", "float16": "_fp16", "int8": "_quantized"}
# Protobuf's limit is 2 GiB for a file, weights and graph.
LARGEST_FILE = 2_000_000_000


def export_onnx(
    model: SamModel,
    folder: str | os.PathLike,
    parts: Iterable[str] | None = None,
    dtypes: Iterable[str] = ("float32",),
    *,
    single_mask: bool = False,
    overwrite: bool = False,
    report: Callable[[str], None] | None = None,
) -> list[Path]:
    """Write ONNX files of a model.

    Args:
        model: On any device, in any precision; it is left as it is.
        folder: Where to; it is made. transformers.js looks in the folder `onnx` of a repository.
        parts: Names out of `PARTS`; None: all that the model has.
        dtypes: Any of "float32", "float16" and "int8".
        single_mask: Meta's decoder gives one mask per prompt, chosen by Meta's rule, instead of all four.
        overwrite: Replace files that are there already.
        report: Is told the name of the file that is being made.

    Returns:
        The files, in the order of `parts` and `dtypes`; with the text encoder, `exported_tokenizer.FILES` at last.

    Raises:
        ImportError: onnx, onnxscript or, for int8, onnxruntime is not installed.
        TypeError: `model` is no `SamModel`.
        ValueError: There is no such part or dtype, or a file is there already.

    Example:
        >>> export_onnx(SamModel.from_pretrained("tiny"), "tiny/onnx", dtypes=["float32", "int8"])
    """
    names, dtypes = check_request(model, parts, dtypes)
    require_onnx("int8" in dtypes)
    folder = Path(folder)
    wanted = [folder / f"{name}{SUFFIXES[dtype]}.onnx" for name in names for dtype in dtypes]
    wanted += [folder / name for name in TOKENIZER_FILES] if TextEncoder.name in names else []
    present = [path.name for path in wanted if path.exists()]
    if present and not overwrite:
        raise ValueError(f"`folder` has {', '.join(present)} already: choose another one, or overwrite")
    model = copy.deepcopy(model).to("cpu", torch.float32).eval().requires_grad_(False)
    made: list[Path] = []
    with made_folder(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as workplace:
        for name in names:
            with torch.no_grad():
                part = MetaDecoder(model, single_mask) if name == MetaDecoder.name else PARTS[name](model)
            made += _export_part(part.eval(), dtypes, Path(workplace), report)
        if TextEncoder.name in names:
            sizes = model.config.text_config
            made += write_tokenizer(tokenizer_for(sizes.vocab_size, sizes.context_length), workplace)
        _put_into_place(made, folder)
    return wanted


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """A folder that is there in the block; one made for it goes again if nothing was put into it."""
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for place in made:
            with suppress(OSError):  # it holds files
                place.rmdir()


def check_request(model: SamModel, parts: Iterable[str] | None, dtypes: Iterable[str]) -> tuple[list[str], list[str]]:
    """The parts and dtypes that are asked for, each once.

    Raises:
        TypeError: `model` is no `SamModel`.
        ValueError: There is no such part or dtype, the model lacks it, or its weights are not in memory.
    """
    if not isinstance(model, SamModel):
        raise TypeError(f"`model` must be a sam_hf.SamModel; got {type(model).__name__}")
    if any(weight.is_meta for weight in model.parameters()):
        raise ValueError("`model` has weights outside of memory: load it without device_map to export it")
    missing = missing_parts(model)
    possible = [name for name in PARTS if name not in missing]
    names = possible if parts is None else list(dict.fromkeys(_several(parts)))
    chosen = list(dict.fromkeys(_several(dtypes)))
    for name in names:
        if name in missing:
            raise ValueError(f"`parts` has {name}, but this checkpoint has no {missing[name]}")
    for argument, values, known in (("parts", names, possible), ("dtypes", chosen, list(SUFFIXES))):
        unknown = [str(value) for value in values if value not in known]
        if unknown or not values:
            raise ValueError(f"`{argument}` must be some of {', '.join(known)}; got {', '.join(unknown) or 'none'}")
    return names, chosen


def require_onnx(runtime: bool = False) -> None:
    """Raise an ImportError that says what to install, if a package for ONNX is absent."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401

        if runtime:
            import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ImportError(f'ONNX files need {error.name}: `pip install "sam_hf[onnx]"`') from error


def _several(values: Iterable[str]) -> Sequence[str]:
    return [values] if isinstance(values, str) else list(values)


def _put_into_place(made: Sequence[Path], folder: Path) -> None:
    """Move finished files into their folder, in their order; weights beside a file that is replaced go with it."""
    names = {file.name for file in made}
    for file in made:
        os.replace(file, folder / file.name)
        if f"{file.name}_data" not in names:
            (folder / f"{file.name}_data").unlink(missing_ok=True)


def _export_part(
    part: Part, dtypes: Sequence[str], workplace: Path, report: Callable[[str], None] | None
) -> list[Path]:
    """Make the files of one part; weights come before the file that refers to them."""
    from sam_hf.hub import onnx_graphs

    def announce(dtype: str) -> Path:
        path = workplace / f"{part.name}{SUFFIXES[dtype]}.onnx"
        if report is not None:
            report(path.name)
        return path

    made: list[Path] = []
    with torch.no_grad(), _quiet():
        if "float16" in dtypes:
            path = announce("float16")
            made += onnx_graphs.save(_trace(_halved(part), "float16"), path, LARGEST_FILE)
        if "float32" in dtypes or "int8" in dtypes:
            if "float32" in dtypes:
                announce("float32")
            whole = onnx_graphs.save(_trace(part, "float32"), workplace / f"{part.name}.onnx", LARGEST_FILE)
        if "int8" in dtypes and isinstance(part, (PerImage, TextAlignment)):  # next to no weights, used at every cell
            made += [Path(shutil.copyfile(whole[-1], announce("int8")))]
        elif "int8" in dtypes:
            made += onnx_graphs.quantize(
                whole[-1], announce("int8"), LARGEST_FILE, gather=isinstance(part, TextEncoder)
            )
    return made + (whole if "float32" in dtypes else [])


def _halved(part: Part) -> Part:
    """The part in half precision; the text tower as it is, because its weights alone are stored in half."""
    return part if isinstance(part, TextEncoder) else copy.deepcopy(part).half()


def _trace(part: Part, dtype: str) -> Any:
    """onnx_ir's model of a part."""
    from sam_hf.hub import onnx_graphs

    names = traced_inputs(part)
    program = torch.onnx.export(
        part,
        example_inputs(part, dtype),
        dynamo=True,
        opset_version=OPSET,
        input_names=names,
        output_names=[output for output in part.outputs if output != "masks"],
        dynamic_shapes=[part.dynamic.get(name) for name in names],
        verbose=False,
    )
    onnx_graphs.fold_products_of_zeros(program.model)
    onnx_graphs.tidy(program.model, part, dtype)
    if dtype == "float16" and isinstance(part, TextEncoder):
        onnx_graphs.store_in_half(program.model)
    return onnx_graphs.append_resizing(program.model, part) if isinstance(part, MetaDecoder) else program.model


def traced_inputs(part: Part) -> list[str]:
    """The inputs of a part that its `forward` takes."""
    return [name for name in part.inputs if name != "orig_im_size"]


def example_inputs(part: Part, dtype: str = "float32") -> tuple[Any, ...]:
    """Arguments to trace a part with."""
    inputs = part.examples()
    if isinstance(part, PerImage) and dtype == "float16":
        return inputs[0].half(), *inputs[1:]
    return inputs


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own remarks, which say nothing to who exports."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export", "root", "")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
