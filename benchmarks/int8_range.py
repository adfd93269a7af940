"""int8 weights of 8 bits and of 7, on processors with VNNI and without: what each costs in masks.

    python benchmarks/int8_range.py [--scenes 24] [--emulated 4]

Masks of decoder_per_click of the embedded checkpoint, one click into each object of held-out scenes, beside PyTorch's
in float32. "with VNNI" is onnxruntime here, if this machine has VNNI. "without" is emulated on the first scenes: pairs
of neighbouring products of an unsigned activation and a weight are added and clipped to 16 bits, as VPMADDUBSW does.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import exported
import numpy as np
import peers
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from sam_hf import SamModel
from sam_hf.hub import onnx_graphs
from sam_hf.hub.exported_parts import PerClick, PerImage
from sam_hf.hub.onnx_export import LARGEST_FILE, export_onnx


class MatMulInteger(OpRun):
    """The operation as VPMADDUBSW does it: sums of two neighbouring products go through 16 bits."""

    op_domain = ""

    def _run(self, activations: np.ndarray, weights: np.ndarray, zero: Any = None, weights_zero: Any = None) -> tuple:
        activations, weights = activations.astype(np.int32), weights.astype(np.int32)
        if weights.shape[0] % 2:
            activations = np.pad(activations, [(0, 0)] * (activations.ndim - 1) + [(0, 1)])
            weights = np.pad(weights, [(0, 1), (0, 0)])
        total = np.zeros((*activations.shape[:-1], weights.shape[1]), np.int32)
        for first in range(0, weights.shape[0], 2):
            second = first + 1
            pair = activations[..., first, None] * weights[first] + activations[..., second, None] * weights[second]
            total += np.clip(pair, -(2**15), 2**15 - 1)
        return (total - np.int32(zero if zero is not None else 0) * weights.sum(0).astype(np.int32),)


class Emulated:
    """An onnxruntime session, but by the reference and `MatMulInteger`."""

    def __init__(self, path: Path):
        self.evaluator = ReferenceEvaluator(str(path), new_ops=[MatMulInteger])

    def run(self, names: Any, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        return self.evaluator.run(names, feed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--emulated", type=int, default=4, help="scenes for the slow emulation")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    built, model = peers.build("tiny"), SamModel.from_pretrained("tiny").eval()
    clicks = list(exported.scene_clicks(built, arguments.scenes))
    full = [exported.of_torch(built.ours, click) for click in clicks]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        export_onnx(model, folder, [PerImage.name, PerClick.name])
        export_onnx(model, folder, [PerImage.name], ["int8"])
        for bits in (8, 7):
            path = folder / "decoder_per_click_quantized.onnx"
            onnx_graphs.quantize(folder / "decoder_per_click.onnx", path, LARGEST_FILE, False, reduce_range=bits == 7)
            runs = {"with VNNI": (None, len(clicks)), "without": (Emulated(path), arguments.emulated)}
            for processor, (session, count) in runs.items():
                decode = exported.decoder(folder, "decoder_per_click", "int8", 1, model, session)
                same = [
                    exported.iou(decode(click), masks)
                    for click, masks in zip(clicks[:count], full[:count], strict=True)
                ]
                print(f"{bits} bits, {processor}: IoU {np.mean(same):.4f} with float32, {count} scenes", flush=True)


if __name__ == "__main__":
    main()
