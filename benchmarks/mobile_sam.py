"""MobileSAM's size (TinyViT) beside ViT-B: the encoder alone, and a whole click from picture to mask; real sizes.

    python benchmarks/mobile_sam.py [--rounds 5] [--device cuda] [--threads 2]

A ratio is ViT-B's float32 time over MobileSAM's, here and in transformers; above 1 MobileSAM is faster. Weights are
random: times are real, masks are not. What MobileSAM's trained weights lose against ViT-B's has to be measured with
them (`sam-hf convert mobile_sam.pt mobile-sam`, then `sam-hf evaluate`); that ours computes what the published network
does is tested in tests/hub/test_conversion_mobile_sam.py.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import peers
import timing
import torch

from sam_hf import SamConfig, SamImageProcessor, SamModel, SamProcessor

WHAT = ("encoder", "whole click")


def random_mobile_sam(seed: int = 0) -> SamModel:
    """MobileSAM's network with random weights."""
    torch.manual_seed(seed)
    config = SamConfig(vision_config={"model_type": "sam_tiny_vit"}, mask_decoder_config={"layer_norm_eps": 1e-5})
    return SamModel(config).eval()


def click(model: torch.nn.Module, processor: SamProcessor, image: np.ndarray, device: str) -> list[torch.Tensor]:
    """From a picture and a point to three masks of the picture's size."""
    inputs = processor(image, input_points=[[[[320, 240]]]], return_tensors="pt").to(device)
    sizes = {name: inputs.pop(name) for name in ("original_sizes", "reshaped_input_sizes")}
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    masks = model(**inputs).pred_masks
    return processor.post_process_masks(masks.float().cpu(), **{name: size.cpu() for name, size in sizes.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = arguments.device
    vit = peers.random_vit("vit-b")
    models = {"transformers vit-b float32": peers.stock_of(vit), "ours vit-b float32": vit}
    models |= {"float32": random_mobile_sam(), "bfloat16": random_mobile_sam().to(torch.bfloat16)}
    models = {name: model.to(device) for name, model in models.items()}
    processor = SamProcessor(SamImageProcessor())
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    pixels = torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(0)).to(device)
    runs = {
        "encoder": {
            name: partial(model.get_image_embeddings, pixels.to(model.dtype)) for name, model in models.items()
        },
        "whole click": {name: partial(click, model, processor, image, device) for name, model in models.items()},
    }
    size = sum(weight.numel() for weight in models["float32"].parameters()) / 1e6
    with torch.inference_mode():
        for what in WHAT:
            seconds = timing.alternate(runs[what], arguments.rounds)
            for dtype in ("float32", "bfloat16"):
                for peer in ("ours vit-b float32", "transformers vit-b float32"):
                    middle, spread = timing.ratio(seconds, dtype, peer)
                    timing.keep(
                        "mobile_sam",
                        model="mobile-sam",
                        what=what,
                        dtype=dtype,
                        batch=1,
                        device=device,
                        peer=peer,
                        ratio=middle,
                        spread=spread,
                        rounds=arguments.rounds,
                        quality="random weights: none",
                        note=f"{size:.1f} M parameters beside 93.7 M",
                    )


if __name__ == "__main__":
    main()
