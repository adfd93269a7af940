"""Where the time of encoder and decoder goes: the operations with the largest shares, from torch's profiler.

    python benchmarks/shares.py [--model vit-b] [--dtype float32 bfloat16] [--device cuda]

One profiled run after a warm-up. Shares are of the operations' own time, which leaves out what Python does between
them.
"""

from __future__ import annotations

import argparse

import limits
import peers
import timing
import torch
from torch.profiler import ProfilerActivity, profile

SHOWN = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit-b", choices=list(peers.VITS))
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"], choices=("float32", "bfloat16"))
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = arguments.device
    on_gpu = device != "cpu"
    for name in arguments.dtype:
        dtype = getattr(torch, name)
        model = peers.random_vit(arguments.model).to(device, dtype)
        with torch.inference_mode():
            for what, (_, run) in limits.parts(model, arguments.prompts).items():
                run()
                with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as record:
                    run()
                spent = {
                    event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total
                    for event in record.key_averages()
                }
                whole = sum(spent.values())
                largest = sorted(spent.items(), key=lambda item: -item[1])[:SHOWN]
                timing.keep(
                    "shares",
                    model=arguments.model,
                    what=what,
                    dtype=name,
                    batch=1,
                    device=device,
                    quality=", ".join(f"{key} {time / whole:.0%}" for key, time in largest),
                )


if __name__ == "__main__":
    main()
