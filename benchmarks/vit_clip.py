"""Trains a small CLIP with a vision transformer, for what the shipped ResNet cannot show: the attention of the last
block, by which "dense" sees where things are.

    python benchmarks/vit_clip.py --output runs/vit-clip --minutes 25 --mixed-precision bf16
    sam-hf evaluate text --ablate attention --clip runs/vit-clip/clip --limit 60 --no-clicks

The first command goes on where it was interrupted; its figures are in OUTPUT/metrics.jsonl ("retrieval": of how many
phrases of a batch the right crop is the nearest).
"""

import argparse
from pathlib import Path

from sam_hf.training.clip import CLIP_CONFIG
from sam_hf.training.recipes.stages import ClipStage, run_clip_stage

CONFIG = CLIP_CONFIG | {"vision_cfg": {"image_size": 64, "patch_size": 8, "layers": 6, "width": 128, "head_width": 32}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder; the CLIP comes to OUTPUT/clip")
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--mixed-precision", default="no", choices=("no", "bf16"))
    parser.add_argument("--font", default=None, help="colour-emoji font")
    options = parser.parse_args()
    stage = ClipStage("vit-clip", 256, minutes=options.minutes, scenes=40, crops=10, rivals=2, lr=8e-4, seed=301)
    precision = {"mixed_precision": options.mixed_precision, "font": options.font}
    if run_clip_stage(stage, options.output, clip_config=CONFIG, checkpoint_minutes=5, **precision):
        print(options.output / "clip")


if __name__ == "__main__":
    main()
