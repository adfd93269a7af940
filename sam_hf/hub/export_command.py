"""`sam-hf export`: ONNX files, an exported program or a compiled package of a checkpoint, from the command line."""

import argparse
import sys
from collections.abc import Sequence

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
    if options.kind == "onnx":
        require_onnx("int8" in options.dtype)  # said before anything is loaded
        model = _load(options.model, options.revision)
        with progress("exporting") as report:
            files = export_onnx(
                model,
                options.folder,
                options.part,
                options.dtype,
                single_mask=options.single_mask,
                overwrite=options.overwrite,
                report=report,
            )
    else:
        if options.kind == "aoti" and options.device == "cpu":
            require_compiler()
        model = _load(options.model, options.revision, options.dtype).to(options.device)
        with progress(f"exporting {options.part}" + (", compiled" if options.kind == "aoti" else "")):
            compiled = options.kind == "aoti"
            files = [export_program(model, options.file, options.part, compiled=compiled, overwrite=options.overwrite)]
    for file in files:
        beside = file.with_name(f"{file.name}_data")
        size = sum(path.stat().st_size for path in (file, beside) if path.exists())
        print_line(f"{file}: {size / MIB:.1f} MiB" + (f", weights in {beside.name}" if beside.exists() else ""))
    return 0


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
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers.utils import logging

    logging.disable_progress_bar()
    with progress(f"loading the model {name}"):
        try:
            return SamModel.from_pretrained(name, revision=revision or "main", dtype=dtype).eval()
        except (OSError, RuntimeError, SafetensorError, StrictDataclassError, LookupError, ImportError) as error:
            raise ValueError(f"cannot load the model {name!r}: {first_line(error)}") from error


if __name__ == "__main__":
    sys.exit(main())
