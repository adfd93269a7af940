"""The command `sam-hf convert`: Meta's `.pth`, MobileSAM's, transformers' folder, ours; from any one to any other.

sam-hf convert sam_vit_b_01ec64.pth sam-vit-b
sam-hf convert mobile_sam.pt mobile-sam
sam-hf convert facebook/sam-vit-base sam_vit_b.pth
sam-hf convert my-sam-with-text plain-sam --to transformers --drop-text
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence

from transformers.utils import logging

from sam_hf.hub.conversion import convert
from sam_hf.hub.converted_files import LAYOUTS
from sam_hf.hub.variants import VARIANTS
from sam_hf.terminal import print_line, progress, say

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sam-hf convert", description=main.__doc__)
    add = parser.add_argument
    add("source", help='a .pth, .pt, .bin or .safetensors file, a folder, a Hub id, or "tiny"')
    add("target", help="a file ending in .pth or .pt, or a folder")
    add("--to", choices=LAYOUTS, help="default: meta for a file, sam_hf (whatever the checkpoint has) for a folder")
    add("--drop-text", action="store_true", help="leave the text branch out")
    add("--text-from", metavar="FOLDER", help="add the text branch of another checkpoint")
    add("--variant", help=f"what the source is said to be ({', '.join(VARIANTS)}); refused if it is another")
    add("--config", metavar="FILE", help="config.json for a file whose tensors do not say enough")
    add("--key", help="which model of a file with several, for example ema")
    add("--revision", help="branch, tag or commit of a Hub id")
    add("--overwrite", action="store_true", help="replace the target")
    add("--json", action="store_true", dest="as_json", help="print what was done as one JSON line")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert a checkpoint without a loss: Meta's layout, MobileSAM's, transformers' and ours, in every direction."""
    options = vars(_parser().parse_args(arguments))
    as_json = options.pop("as_json")
    logging.disable_progress_bar()
    with progress(f"converting {options['source']}"):
        done = convert(**options)
    if as_json:
        print_line(json.dumps(dataclasses.asdict(done)))
        return 0
    for note in done.notes:
        say(f"note: {note}")
    size = f"{done.parameters / 1e6:.1f} M parameters, {done.dtype}"
    print_line(f"{options['source']}: {done.variant}, {size} -> {done.target} ({done.layout} layout)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
