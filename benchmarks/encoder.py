"""The image encoder beside transformers' and segment-anything's, same random weights, real sizes.

    python benchmarks/encoder.py [--model vit-b] [--rounds 5] [--device cuda --batch 8]

A ratio is peer's float32 time over ours; above 1 we are faster. With the float32 row stands the largest deviation over
the embedding's range, with the bfloat16 row the cosine of the embeddings.
"""

from __future__ import annotations

import argparse

import peers
import timing
import torch
from meta_twin import meta_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit-b", choices=list(peers.VITS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = arguments.device
    ours = peers.random_vit(arguments.model)
    stock, meta = (twin.to(device) for twin in (peers.stock_of(ours), meta_of(ours)))
    half = peers.random_vit(arguments.model).to(torch.bfloat16).to(device)
    ours = ours.to(device)
    images = torch.randn(arguments.batch, 3, 1024, 1024, generator=torch.Generator().manual_seed(0)).to(device)
    runs = {
        "float32": lambda: ours.get_image_embeddings(images),
        "bfloat16": lambda: half.get_image_embeddings(images.bfloat16()),
        "transformers": lambda: stock.get_image_embeddings(images),
        "segment-anything": lambda: meta.image_encoder(images),
    }
    with torch.inference_mode():
        answers = {name: run().float() for name, run in runs.items()}
        seconds = timing.alternate(runs, arguments.rounds, warmup=0)
    truth = answers["transformers"]
    deviation = ((answers["float32"] - truth).abs().max() / (truth.max() - truth.min())).item()
    cosine = torch.cosine_similarity(answers["bfloat16"].flatten(1), truth.flatten(1)).min().item()
    for dtype, quality in (("float32", f"deviation {deviation:.1e}"), ("bfloat16", f"cosine {cosine:.5f}")):
        for peer in ("transformers", "segment-anything"):
            middle, spread = timing.ratio(seconds, dtype, peer)
            timing.keep(
                "encoder",
                model=arguments.model,
                what="encoder",
                dtype=dtype,
                batch=arguments.batch,
                device=device,
                peer=f"{peer} float32",
                ratio=middle,
                spread=spread,
                rounds=arguments.rounds,
                quality=quality,
            )


if __name__ == "__main__":
    main()
