"""`sam-hf export`: ONNX files, an exported program or a compiled package of a checkpoint, from the command line."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers.utils import logging

from sam_hf.hub.exported_parts import PARTS, VisionEncoder
from sam_hf.hub.onnx_export import SUFFIXES, export_onnx, require_onnx
from sam_hf.hub.program_export import export_program, require_compiler
from sam_hf.model.modeling_sam import SamModel
from sam_hf.terminal import first_line, print_line, progress

MIB = 2**20
PRECISIONS = ("float32", "float16", "bfloat16")


def main(arguments: Sequence[str] | None = None) -> int:
    """Export a checkpoint to run without this package: for browsers, other languages, or compiled for this machine."""
    options = _parser().parse_args(arguments)
    onnx = options.kind == "onnx"
    if onnx:
        require_onnx("int8" in options.dtype)  # said before anything is loaded, as the next one is
    else:
        _check_device(options)
    model = _load(options.model, options.revision, "float32" if onnx else options.dtype)
    try:
        files = _export_onnx(model, options) if onnx else _export_program(model, options)
    except RuntimeError as error:  # torch's exporters, and a device without memory
        raise ValueError(f"cannot export {options.model!r}: {first_line(error)}") from error
    for file in files:
        beside = file.with_name(f"{file.name}_data")
        size = sum(path.stat().st_size for path in (file, beside) if path.exists())
        print_line(f"{file}: {size / MIB:.1f} MiB" + (f", weights in {beside.name}" if beside.exists() else ""))
    return 0


def _export_onnx(model: SamModel, options: argparse.Namespace) -> list[Path]:
    words = {"single_mask": options.single_mask, "overwrite": options.overwrite}
    with progress("exporting") as report:
        return export_onnx(model, options.folder, options.part, options.dtype, report=report, **words)


def _export_program(model: SamModel, options: argparse.Namespace) -> list[Path]:
    compiled = options.kind == "aoti"
    words = {"compiled": compiled, "overwrite": options.overwrite}
    with progress(f"exporting {options.part}" + (", compiled" if compiled else "")):
        return [export_program(model.to(options.device), options.file, options.part, **words)]


def _check_device(options: argparse.Namespace) -> None:
    """Refuse what this machine cannot run.

    Raises:
        ValueError: There is no such device.
        OSError: A compiler is needed, and absent.
    """
    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError, ImportError, NotImplementedError) as error:
        raise ValueError(f"--device {options.device} cannot be used here: {first_line(error)}") from error
    if options.kind == "aoti" and options.device == "cpu":
        require_compiler()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sam-hf export", description=main.__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="{onnx,program,aoti}")
    onnx = kinds.add_parser("onnx", help="ONNX files, for browsers (transformers.js, onnxruntime-web) and elsewhere")
    program = kinds.add_parser("program", help="one part as torch.export's program, FILE.pt2")
    aoti = kinds.add_parser("aoti", help="one part compiled by AOTInductor for this kind of machine, FILE.pt2")
    for each in (onnx, program, aoti):
        each.add_argument("model", metavar="MODEL", help='"tiny" (embedded), a Hub id or a folder')
        each.add_argument("--revision", help="branch, tag or commit of a Hub id")
        each.add_argument("--overwrite", action="store_true", help="replace what is there")
    onnx.add_argument("folder", metavar="FOLDER", help='where to; transformers.js looks in "onnx" of a repository')
    onnx.add_argument("--part", nargs="+", choices=tuple(PARTS), help="default: all that the checkpoint has")
    onnx.add_argument("--dtype", nargs="+", choices=tuple(SUFFIXES), default=["float32"], help="default: float32")
    onnx.add_argument("--single-mask", action="store_true", help="meta_decoder: one mask, by Meta's rule, for four")
    for each in (program, aoti):
        each.add_argument("file", metavar="FILE.pt2")
        each.add_argument("--part", choices=tuple(PARTS), default=VisionEncoder.name, help="default: %(default)s")
        each.add_argument("--dtype", choices=PRECISIONS, default="float32", help="default: float32")
        each.add_argument("--device", default="cpu", help="what it shall run on: cpu (default), cuda, ...")
    return parser


def _load(name: str, revision: str | None, dtype: str = "float32") -> SamModel:
    logging.disable_progress_bar()
    with progress(f"loading the model {name}"):
        return SamModel.from_pretrained(name, revision=revision or "main", dtype=dtype).eval()


if __name__ == "__main__":
    sys.exit(main())
