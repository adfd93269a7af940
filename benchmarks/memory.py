"""Peak memory of everything mode over the loaded model, each package in a process of its own (Linux).

    python benchmarks/memory.py [--model vit-b] [--size 1920x1080 4000x3000] [--points 32]

Peak resident memory of the process minus what it holds once the model is loaded and has seen one small image.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import re
import subprocess
import sys
from pathlib import Path

import everything
import peers
import timing
import torch

PACKAGES = tuple(everything.RUNNERS)


def resident(field: str) -> float:
    """MiB of a field of /proc/self/status, such as VmHWM, the peak, or VmRSS."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) / 1024


def measure(package: str, arguments: argparse.Namespace, size: tuple[int, int]) -> float:
    """Peak over the loaded model in MiB, in this process."""
    built = peers.build(arguments.model)
    options = {
        "points_per_side": arguments.points,
        "points_per_batch": 64,
        "pred_iou_thresh": arguments.pred_iou_thresh,
        "stability_score_thresh": arguments.stability_score_thresh,
        "crop_n_layers": 0,
    }
    kept = {"ours": "ours", "segment-anything": "meta", "transformers": "stock"}[package]
    for twin in {"ours", "meta", "stock"} - {kept}:  # the twins share no memory: keep the one that is measured
        setattr(built, twin, None)
    run = everything.RUNNERS[package](built, options, "cpu")
    image = everything.photo(arguments.image, size)
    run(everything.photo(None, (64, 48)))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free in the heap would hide a part of the peak
    loaded = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    run(image)
    return resident("VmHWM") - loaded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit-b", choices=peers.NAMES)
    parser.add_argument("--image")
    parser.add_argument("--size", nargs="+", default=["1920x1080"])
    parser.add_argument("--points", type=int, default=32)
    parser.add_argument("--pred-iou-thresh", type=float, default=0.5)
    parser.add_argument("--stability-score-thresh", type=float, default=0.6)
    parser.add_argument("--packages", nargs="+", default=PACKAGES, choices=PACKAGES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", choices=PACKAGES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sizes = [tuple(int(side) for side in size.split("x")) for size in arguments.size]
    if arguments.measure:
        print(measure(arguments.measure, arguments, sizes[0]))
        return
    for width, height in sizes:
        peaks = {}
        for package in arguments.packages:
            command = [sys.executable, __file__, *sys.argv[1:], "--measure", package, "--size", f"{width}x{height}"]
            peaks[package] = float(subprocess.check_output(command, text=True).split()[-1])
        for package, peak in peaks.items():
            timing.keep(
                "memory",
                model=arguments.model,
                what=f"everything {arguments.points}x{arguments.points}, peak over the loaded model",
                dtype="float32",
                batch=1,
                peer=package,
                ratio=peak / peaks["ours"],
                rounds=1,
                quality=f"{peak:.0f} MiB",
                note=f"{width}x{height}",
            )


if __name__ == "__main__":
    main()
