"""How near the encoder and decoder are to what this machine can do: operations over measured ceilings.

    python benchmarks/limits.py [--model vit-b] [--dtype float32 bfloat16] [--device cuda]

Operations are those of the plain network, counted by torch on a copy without data; fast paths may need fewer, and then
the share can pass 1. The ceilings are measured in the same process: the best matrix product of the MLP's shape by the
kernel that the encoder uses (beside it the rate of torch's own), and the best copy. A part's floor is the larger of
operations over the one and weights and image features over the other; its share of the limit is the floor over the
time it took.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import peers
import timing
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sam_hf import SamModel
from sam_hf.model.cpu_inference import linear

EMBEDDING = 256 * 64 * 64  # numbers in the features of one image


def best(run: Callable[[], object], rounds: int) -> float:
    """Shortest of `rounds` runs, seconds."""
    shortest = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        shortest = min(shortest, time.perf_counter() - start)
    return shortest


def ceilings(dtype: torch.dtype, device: str, width: int) -> tuple[float, float, float]:
    """Operations per second of a matrix product by our kernel and by torch's, bytes per second of a copy."""
    tokens = torch.randn(4096, width, device=device).to(dtype)
    layer = torch.nn.Linear(width, 4 * width, device=device, dtype=dtype).eval()
    operations = 2 * tokens.numel() * 4 * width
    product = operations / best(lambda: linear(layer, tokens), 10)
    plain = operations / best(lambda: layer(tokens), 10)
    block = torch.empty(2**27, dtype=torch.uint8, device=device)
    copy = 2 * block.numel() / best(block.clone, 5)
    return product, plain, copy


def count(name: str, what: str, prompts: int) -> int:
    """Operations of the encoder or of the decoder as the paper writes them: gradients on, so no fast path is taken."""
    model = peers.random_vit(name).to("meta")
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        if what == "encoder":
            model.get_image_embeddings(torch.empty(1, 3, 1024, 1024, device="meta"))
        else:
            points = torch.empty(1, prompts, 1, 2, device="meta")
            model(image_embeddings=torch.empty(1, 256, 64, 64, device="meta"), input_points=points)
    return counter.get_total_flops()


def parts(model: SamModel, prompts: int) -> dict[str, tuple[nn.Module, Callable[[], object]]]:
    """Name -> (module, a call of it) of encoder and decoder, on noise and random points; call in inference mode."""
    image = torch.randn(1, 3, 1024, 1024, device=model.device, dtype=model.dtype)
    points = torch.rand(1, prompts, 1, 2, device=model.device) * 1024
    embedding = model.get_image_embeddings(image)
    return {
        "encoder": (model.vision_encoder, lambda: model.get_image_embeddings(image)),
        f"decoder, {prompts} points": (
            model.mask_decoder,
            lambda: model(image_embeddings=embedding, input_points=points),
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit-b", choices=list(peers.VITS))
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"], choices=("float32", "bfloat16"))
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = arguments.device
    for name in arguments.dtype:
        dtype = getattr(torch, name)
        model = peers.random_vit(arguments.model).to(device, dtype)
        width = model.config.vision_config.hidden_size
        with torch.inference_mode():
            for what, (module, run) in parts(model, arguments.prompts).items():
                operations = count(arguments.model, what, arguments.prompts)
                weights = sum(weight.nbytes for weight in module.parameters())
                product, plain, copy = ceilings(dtype, device, width)
                by_product, by_copy = operations / product, (weights + EMBEDDING * dtype.itemsize) / copy
                share = max(by_product, by_copy) / best(run, arguments.rounds)
                timing.keep(
                    "limits",
                    model=arguments.model,
                    what=what,
                    dtype=name,
                    batch=1,
                    device=device,
                    ratio=share,
                    rounds=arguments.rounds,
                    quality=f"{operations / 1e9:.0f} GFLOP",
                    note=f"binding: {'products' if by_product > by_copy else 'memory'}; "
                    f"ceiling {product / 1e9:.0f} GFLOP/s, torch's own linear {plain / 1e9:.0f}",
                )


if __name__ == "__main__":
    main()
