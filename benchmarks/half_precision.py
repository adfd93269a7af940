"""What half precision changes in everything mode: how many masks, and how near to those of float32.

    python benchmarks/half_precision.py [--model tiny] [--scenes 12] [--points 12] [--device cuda]

On held-out synthetic scenes, where the embedded checkpoint's masks are real. Every mask of float32 looks for its best
partner. A mask whose score or stability lies at a threshold may come or go, so counts differ in both directions.
"""

from __future__ import annotations

import argparse

import everything
import timing
import torch

from sam_hf import SamAutomaticMaskGenerator
from sam_hf.data.synthetic import SceneGenerator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="embedded name, Hub id or folder")
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--points", type=int, default=12, help="points per side")
    parser.add_argument("--pred-iou-thresh", type=float, default=0.6)
    parser.add_argument("--stability-score-thresh", type=float, default=0.7)
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float16"], choices=("bfloat16", "float16"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    options = {
        "points_per_side": arguments.points,
        "pred_iou_thresh": arguments.pred_iou_thresh,
        "stability_score_thresh": arguments.stability_score_thresh,
    }
    scenes = SceneGenerator(size=256, split="test", seed=0)
    pictures = [scenes(index).image for index in range(arguments.scenes)]

    def masks(dtype: str) -> list[list]:
        generator = SamAutomaticMaskGenerator.from_pretrained(arguments.model, arguments.device, dtype, **options)
        return [[record["segmentation"] for record in generator.generate(picture)] for picture in pictures]

    full = masks("float32")
    for dtype in arguments.dtype:
        half = masks(dtype)
        pairs = [everything.agreement(a, b)[0] * len(a) for a, b in zip(full, half, strict=True)]
        counts = [sum(len(found) for found in answer) for answer in (full, half)]
        timing.keep(
            "half_precision",
            model=arguments.model,
            what=f"everything {arguments.points}x{arguments.points}, {arguments.scenes} scenes",
            dtype=dtype,
            batch=1,
            device=arguments.device,
            peer="ours float32",
            quality=f"mean IoU {sum(pairs) / max(counts[0], 1):.4f}; masks {counts[1]} of {counts[0]}",
            note=f"thresholds {arguments.pred_iou_thresh}, {arguments.stability_score_thresh}",
        )


if __name__ == "__main__":
    main()
