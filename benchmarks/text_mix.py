"""Which vectors should teach the text branch? The paper's App. D.5 beside mixtures with real phrases, in one run.

Every mixture starts from the same weights with a fresh text branch around CLIP's own text tower, sees the same scenes
for the same number of steps, and is examined on the same held-out scenes. Only the decoder and the prompt encoder
learn; the image encoder and the text tower stay frozen. (The image encoder should be one that has learned what phrases
talk about, such as the recipe's last; nothing can be read out of one that has not.)

    python benchmarks/text_mix.py --model RUN/3-all-256/model --clip RUN/0-clip/clip --steps 300 --output mix.json
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

from sam_hf.evaluation.synthetic import evaluate
from sam_hf.model.image_processing_sam import SamImageProcessor
from sam_hf.model.modeling_sam import SamModel
from sam_hf.model.processing_sam import SamProcessor
from sam_hf.training.clip import copy_text_tower, load_clip
from sam_hf.training.recipes.stages import Stage, run_stage
from sam_hf.training.recipes.tiny import WITH_TEXT, new_model, tiny_config
from sam_hf.training.resolution import at_resolution

MIXES = {
    "image (App. D.5)": {"text_sources": {"image": 1.0}},
    "image, mean shift + noise": {"text_sources": {"image": 1.0}, "text_gap": "mean+noise"},
    "interpolation": {"text_sources": {"interpolation": 1.0}, "text_gap": "mean"},
    "text 70, image 10, between 20": {"text_sources": {"text": 0.7, "image": 0.1, "interpolation": 0.2}},
    "text": {"text_sources": {"text": 1.0}},
}
ROWS = ("phrase", "phrase_click", "click_1")


def train_one(mix: dict, arguments: argparse.Namespace, folder: Path) -> SamModel:
    """A model whose text branch learned from one mixture."""
    model = new_model(tiny_config())
    trained = SamModel.from_pretrained(arguments.model).float().state_dict()
    trained = {name: weight for name, weight in trained.items() if not name.startswith("prompt_encoder.text_")}
    model.load_state_dict(trained, strict=False)
    copy_text_tower(load_clip(arguments.clip), model)
    model = at_resolution(model, arguments.size)
    stage = Stage(
        "mix",
        size=arguments.size,
        steps=arguments.steps,
        batch=arguments.batch,
        prompts=6,
        absent=1,
        text=True,
        options=replace(WITH_TEXT, rounds=(1, 2), text_alignment=0.0, **mix),
        lr_multipliers={r"vision_encoder\.": 0.0},
        seed=7,
    )
    run_stage(stage, model, folder, mixed_precision=arguments.mixed_precision, clip_folder=arguments.clip)
    return model.float().eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a trained model; its text branch is not used")
    parser.add_argument("--clip", required=True, help="open_clip folder of the small CLIP")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--scenes", type=int, default=100, help="held-out scenes of the examination")
    parser.add_argument("--mixed-precision", default="bf16", choices=("no", "bf16"))
    parser.add_argument("--output", help="where to write the results as JSON")
    arguments = parser.parse_args()
    low = arguments.size // 2
    processor = SamProcessor(
        SamImageProcessor(
            size={"longest_edge": arguments.size},
            pad_size={"height": arguments.size, "width": arguments.size},
            mask_size={"longest_edge": low},
            mask_pad_size={"height": low, "width": low},
        ),
        text_config=tiny_config().text_config,
    )
    results = {}
    print(f"{'prompted with':32}" + "".join(f"{row:>14}" for row in ROWS) + "   (mean IoU, all objects)")
    for name, mix in MIXES.items():
        with tempfile.TemporaryDirectory() as folder:
            model = train_one(mix, arguments, Path(folder))
        examined = evaluate(model, processor, scenes=arguments.scenes, baselines=False, progress=False, name=name)
        results[name] = examined["rows"]
        values = [examined["rows"][row]["all"]["all"]["mean"] for row in ROWS]
        print(f"{name:32}" + "".join(f"{value:14.3f}" for value in values), flush=True)
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
