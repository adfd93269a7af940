"""Everything mode beside the peers, same weights, photo, grid and thresholds: how fast, and whether the same masks.

    python benchmarks/everything.py [--model vit-b] [--rounds 3] [--points 32] [--image photo.jpg] [--dtype bfloat16]

The masks are compared with segment-anything's in float32: every one of theirs looks for its best partner among ours.
Thresholds are lower than Meta's defaults, which suit Meta's weights: with them about as many masks remain as
Meta's ViT-B keeps of a photo (`--pred-iou-thresh`, `--stability-score-thresh`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import peers
import segment_anything
import skimage.data
import timing
import torch
import transformers
from PIL import Image

from sam_hf import EmbeddingStore, SamAutomaticMaskGenerator, SamPredictor


def photo(name: str | None, size: tuple[int, int] | None = None) -> np.ndarray:
    """(H,W,3) uint8: a file, or scikit-image's coins, of which there are many; `size` is (width, height)."""
    image = Image.open(name) if name else Image.fromarray(skimage.data.coins())
    image = image.convert("RGB")
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC) if size else image)


Run = Callable[[np.ndarray], list[np.ndarray]]


def ours(built: peers.Peers, options: dict[str, Any], device: str) -> Run:
    """Our generator; embeddings are not kept, so that every run encodes."""
    predictor = SamPredictor(built.ours.to(device), built.processor, EmbeddingStore(max_bytes=0))
    generator = SamAutomaticMaskGenerator.from_predictor(predictor, **options)
    return lambda image: [record["segmentation"] for record in generator.generate(image)]


def meta(built: peers.Peers, options: dict[str, Any], device: str) -> Run:
    """segment-anything's generator."""
    generator = segment_anything.SamAutomaticMaskGenerator(built.meta.to(device), **options)
    return lambda image: [record["segmentation"] for record in generator.generate(image)]


def stock(built: peers.Peers, options: dict[str, Any], device: str) -> Run:
    """transformers' pipeline with its own image processor, which does much of its work."""
    sizes = ("size", "pad_size", "mask_size", "mask_pad_size")
    processor = transformers.SamImageProcessor(
        **{name: dict(getattr(built.processor.image_processor, name)) for name in sizes}
    )
    pipe = transformers.pipeline(
        "mask-generation", model=built.stock.to(device), image_processor=processor, device=device
    )
    named = {
        "points_per_crop": options["points_per_side"],
        "points_per_batch": options["points_per_batch"],
        "pred_iou_thresh": options["pred_iou_thresh"],
        "stability_score_thresh": options["stability_score_thresh"],
        "crops_n_layers": options["crop_n_layers"],
    }
    return lambda image: [np.asarray(mask) for mask in pipe(Image.fromarray(image), **named)["masks"]]


RUNNERS = {"ours": ours, "segment-anything": meta, "transformers": stock}


def agreement(theirs: list[np.ndarray], ours: list[np.ndarray]) -> tuple[float, float]:
    """Mean and smallest IoU of each of `theirs` with its best partner in `ours`."""
    if not theirs or not ours:
        return float(len(theirs) == len(ours)), float(len(theirs) == len(ours))
    a, b = (torch.from_numpy(np.stack(masks)).flatten(1).float() for masks in (theirs, ours))
    shared = a @ b.T
    best = (shared / (a.sum(1)[:, None] + b.sum(1)[None] - shared).clamp(min=1)).amax(1)
    return best.mean().item(), best.min().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit-b", choices=peers.NAMES)
    parser.add_argument("--image", help="photo; default: scikit-image's coins")
    parser.add_argument("--side", type=int, default=1024, help="side of the default photo, pixels")
    parser.add_argument("--points", type=int, default=32, help="points per side")
    parser.add_argument("--crop-layers", type=int, default=0)
    parser.add_argument("--pred-iou-thresh", type=float, default=0.5)
    parser.add_argument("--stability-score-thresh", type=float, default=0.6)
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"], choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    image = photo(arguments.image, None if arguments.image else (arguments.side, arguments.side))
    options = {
        "points_per_side": arguments.points,
        "points_per_batch": 64,
        "pred_iou_thresh": arguments.pred_iou_thresh,
        "stability_score_thresh": arguments.stability_score_thresh,
        "crop_n_layers": arguments.crop_layers,
    }
    built = peers.build(arguments.model)
    runs = {name: make(built, options, arguments.device) for name, make in RUNNERS.items()}
    if "bfloat16" in arguments.dtype:
        half = peers.build(arguments.model)
        half.ours.to(torch.bfloat16)
        runs["bfloat16"] = ours(half, options, arguments.device)
    masks: dict[str, list[np.ndarray]] = {}

    def keep_masks(name: str) -> None:
        masks[name] = runs[name](image)

    # No warm-up: a run of a peer is long, and a longer first run of ours counts against us.
    seconds = timing.alternate({name: lambda n=name: keep_masks(n) for name in runs}, arguments.rounds, warmup=0)
    for dtype, name in (("float32", "ours"), ("bfloat16", "bfloat16")):
        if dtype not in arguments.dtype:
            continue
        mean, least = agreement(masks["segment-anything"], masks[name])
        for peer in ("transformers", "segment-anything"):
            middle, spread = timing.ratio(seconds, name, peer)
            timing.keep(
                "everything",
                model=arguments.model,
                what=f"everything {arguments.points}x{arguments.points}, {arguments.crop_layers} crop layers",
                dtype=dtype,
                batch=1,
                device=arguments.device,
                peer=f"{peer} float32",
                ratio=middle,
                spread=spread,
                rounds=arguments.rounds,
                quality=f"IoU mean {mean:.4f} min {least:.4f}; masks {len(masks[name])} of {len(masks[peer])}",
                note=f"{image.shape[1]}x{image.shape[0]}",
            )


if __name__ == "__main__":
    main()
