"""What `sam-hf train text` does to a model: phrases before and after, and whether clicks suffer.

Base is a checkpoint trained on synthetic scenes; a text branch it has is taken out. Not so what its encoder and
decoder learned beside it: "tiny" was trained with phrases all along, so where its phrase IoU rises, part of that is
recovery; a base trained without text (`--model FOLDER`) shows what the branch learns. "before" is the base with
CLIP's tower and a projection that has learned nothing. Every preset starts there, learns from the same synthetic
scenes for the same number of steps, and is examined on the same held-out ones.

    python benchmarks/text_branch.py --model tiny --clip tiny --steps 300 --output text_branch.json
"""

import argparse
import json
import tempfile
from pathlib import Path

from sam_hf.evaluation.synthetic import evaluate
from sam_hf.model.modeling_sam import SamModel
from sam_hf.model.processing_sam import SamProcessor
from sam_hf.training.pretrained_clip import load_pretrained_clip
from sam_hf.training.recipes.text_branch import TextRun, text_model, train, write_text_checkpoint
from sam_hf.training.recipes.text_presets import PRESETS, Changes

ROWS = ("phrase", "phrase_oracle", "phrase_click", "click_1", "click_3", "box")
# Beside the presets: a preset with other vectors than its own.
TEXT_SOURCES = {
    "real phrases": ("interpolation", {"text": 1.0}),
    "projection, between": ("projection", {"interpolation": 1.0}),
}


def examine(folder: Path, name: str, scenes: int, font: str | bool | None) -> dict:
    """The rows of the examination of a checkpoint folder."""
    model, processor = SamModel.from_pretrained(folder), SamProcessor.from_pretrained(folder)
    return evaluate(model, processor, scenes=scenes, baselines=False, font=font, progress=False, name=name)["rows"]


def one_run(name: str, arguments: argparse.Namespace, output: Path) -> Path:
    """The checkpoint that a preset makes."""
    fields = {"steps": arguments.steps, "batch": arguments.batch, "scale_range": None}
    fields |= {"warmup": min(100, arguments.steps // 5), "min_side": arguments.min_side, "masks": arguments.masks}
    preset, sources = (name, None) if name in PRESETS else TEXT_SOURCES[name]
    run = TextRun(
        model=arguments.model,
        clip=arguments.clip,
        data="synthetic",
        output=output,
        preset=preset,
        changes=Changes(text_sources=sources, rounds=arguments.rounds, fields=fields),
        font=arguments.font,
        per_device=arguments.batch,
        mixed_precision=arguments.mixed_precision,
        workers=arguments.workers,
        seed=7,
    )
    checkpoint = train(run, progress=False, preview_minutes=0)
    if checkpoint is None:
        raise SystemExit("interrupted")
    return checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help='"tiny" or a folder; its own text branch is not used')
    parser.add_argument("--clip", default="tiny", help="folder of a CLIP trained on the same kind of scenes")
    parser.add_argument("--presets", nargs="+", default=[*PRESETS, *TEXT_SOURCES], help="which ways to compare")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=8, help="pictures per step")
    parser.add_argument("--rounds", type=int, default=None, help="rounds of prompts per step, at most")
    parser.add_argument("--min-side", type=float, default=40.0, help="smallest mask, see `sam-hf train text --help`")
    parser.add_argument("--masks", type=int, default=6, help="masks per picture, at most")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw scenes")
    parser.add_argument("--scenes", type=int, default=100, help="held-out scenes of the examination")
    parser.add_argument("--mixed-precision", default="no", choices=("no", "bf16"))
    parser.add_argument("--font", default=None, help='emoji font; "none" for shapes only')
    parser.add_argument("--output", help="where to write the results as JSON")
    arguments = parser.parse_args()
    arguments.font = False if arguments.font == "none" else arguments.font
    unknown = set(arguments.presets) - set(PRESETS) - set(TEXT_SOURCES)
    if unknown:
        parser.error(f"--presets: {sorted(unknown)} not among {[*PRESETS, *TEXT_SOURCES]}")
    results = {}
    print(f"{'mean IoU, all objects':24}" + "".join(f"{row:>14}" for row in ROWS))
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder) / "before"
        write_text_checkpoint(
            text_model(arguments.model, load_pretrained_clip(arguments.clip)), arguments.model, before
        )
        for name in ("before", *arguments.presets):
            checkpoint = before if name == "before" else one_run(name, arguments, Path(folder) / name)
            results[name] = examine(checkpoint, name, arguments.scenes, arguments.font)
            values = [results[name][row]["all"]["all"]["mean"] for row in ROWS]
            print(f"{name:24}" + "".join(f"{value:14.3f}" for value in values), flush=True)
    if arguments.output:
        asked = ("steps", "batch", "rounds", "masks", "min_side", "scenes")
        facts = {name: getattr(arguments, name) for name in asked} | {"results": results}
        Path(arguments.output).write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
