"""Prompt encoder and mask decoder beside the peers': single-point prompts on one embedding, and a second click.

    python benchmarks/decoder.py [--model vit-b] [--prompts 64] [--rounds 7] [--device cuda]

Each is called as its users call it: ours and transformers' as `model(image_embeddings=..., input_points=...)`,
segment-anything's as prompt encoder, then mask decoder. The last row is what a second click on a known image costs
beside encoding it.
"""

from __future__ import annotations

import argparse
from functools import partial

import peers
import timing
import torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit-b", choices=list(peers.VITS))
    parser.add_argument("--prompts", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device, generator = arguments.device, torch.Generator().manual_seed(0)
    built = peers.build(arguments.model)
    ours, stock, meta = (model.to(device) for model in (built.ours, built.stock, built.meta))
    with torch.inference_mode():
        image = torch.randn(1, 3, 1024, 1024, generator=generator).to(device)
        embedding = ours.get_image_embeddings(image)
        for prompts in arguments.prompts:
            points = (torch.rand(1, prompts, 1, 2, generator=generator) * 1024).to(device)
            labels = torch.ones(1, prompts, 1, dtype=torch.long, device=device)

            def of_meta(points=points, labels=labels):
                sparse, dense = meta.prompt_encoder((points[0], labels[0]), None, None)
                return meta.mask_decoder(embedding, meta.prompt_encoder.get_dense_pe(), sparse, dense, True)[0][None]

            def of_ours(model=ours, points=points, labels=labels):
                return model(image_embeddings=embedding, input_points=points, input_labels=labels).pred_masks

            runs = {
                "ours": of_ours,
                "transformers": partial(of_ours, stock),
                "segment-anything": of_meta,
            }
            truth = of_meta()
            deviation = ((of_ours() - truth).abs().max() / (truth.max() - truth.min())).item()
            seconds = timing.alternate(runs, arguments.rounds)
            for peer in ("transformers", "segment-anything"):
                middle, spread = timing.ratio(seconds, "ours", peer)
                timing.keep(
                    "decoder",
                    model=arguments.model,
                    what=f"decoder, {prompts} points",
                    dtype="float32",
                    batch=prompts,
                    device=device,
                    peer=peer,
                    ratio=middle,
                    spread=spread,
                    rounds=arguments.rounds,
                    quality=f"deviation {deviation:.1e}",
                )
        runs = {"click": _one_click(ours, embedding), "encode": _encode(ours, image)}
        seconds = timing.alternate(runs, max(arguments.rounds // 2, 2))
    middle, spread = timing.ratio(seconds, "click", "encode")
    timing.keep(
        "decoder",
        model=arguments.model,
        what="second click beside an encode",
        dtype="float32",
        batch=1,
        device=device,
        peer="our encoder",
        ratio=middle,
        spread=spread,
        rounds=len(seconds["click"]),
        note=f"a click is {100 / middle:.2f} % of an encode",
    )


def _one_click(model, embedding):
    points = torch.tensor([[[[500.0, 375.0]]]], device=embedding.device)
    return lambda: model(image_embeddings=embedding, input_points=points)


def _encode(model, image):
    return lambda: model.get_image_embeddings(image)


if __name__ == "__main__":
    main()
