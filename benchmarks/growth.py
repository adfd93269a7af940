"""How time and memory of everything mode grow with image size, points and number of images: numbers and a plot.

    python benchmarks/growth.py [--model tiny] [--output docs/growth.png]

Time is given relative to the first measurement of each panel, memory as the peak over the loaded model.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import everything
import matplotlib.pyplot as plt
import memory
import peers
import timing
import torch

from sam_hf import SamAutomaticMaskGenerator


def measure(generator: SamAutomaticMaskGenerator, images: list, rounds: int) -> tuple[float, float]:
    """Median seconds and peak MiB of one `generate_batch`."""
    seconds = []
    before = memory.resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    for _ in range(rounds):
        start = time.perf_counter()
        generator.generate_batch(images)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), memory.resident("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", choices=peers.NAMES)
    parser.add_argument("--output", default="docs/growth.png")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    built = peers.build(arguments.model)
    panels = {
        "image side (pixels), 16x16 points": [(side, 16, 1) for side in (256, 512, 1024, 2048, 4096)],
        "points per side, 1024 px": [(1024, points, 1) for points in (8, 16, 32, 64)],
        "images in one call, 512 px, 16x16 points": [(512, 16, count) for count in (1, 2, 4, 8)],
    }
    figure, axes = plt.subplots(2, 3, figsize=(12, 5.6), sharex="col", layout="constrained")
    for (above, below), (label, settings) in zip(axes.T, panels.items(), strict=True):
        values = [setting[k] for k in range(3) for setting in settings if len({s[k] for s in settings}) > 1]
        results = []
        for side, points, count in settings:
            generator = SamAutomaticMaskGenerator(
                built.ours, built.processor, points_per_side=points, pred_iou_thresh=0.7, stability_score_thresh=0.8
            )
            images = [everything.photo(None, (side, side))] * count
            generator.generate(images[0])
            results.append(measure(generator, images, arguments.rounds))
            timing.keep(
                "growth",
                model=arguments.model,
                what=label,
                dtype="float32",
                batch=count,
                ratio=results[-1][0] / results[0][0],
                rounds=arguments.rounds,
                quality=f"{results[-1][1]:.0f} MiB",
                note=f"{side} px, {points}x{points} points",
            )
        above.plot(values, [seconds / results[0][0] for seconds, _ in results], "o-")
        above.set(xscale="log", ylim=(0, None))
        below.plot(values, [peak for _, peak in results], "s-", color="tab:orange")
        below.set(xlabel=label, xscale="log", ylim=(0, 1.2 * max(peak for _, peak in results)))
        below.set_xticks(values, [str(value) for value in values], minor=False)
        below.minorticks_off()
    axes[0, 0].set_ylabel("time over the first")
    axes[1, 0].set_ylabel("peak memory over the model, MiB")
    Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output, dpi=110)


if __name__ == "__main__":
    main()
