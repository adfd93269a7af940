"""The command line of `text_branch`: what `sam-hf train text` takes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from sam_hf.training.recipes.text_presets import PRESETS, Changes


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains; returns the exit status: 0 done, 3 interrupted."""
    given = _parser().parse_args(arguments)
    from sam_hf.training.recipes.text_branch import TextRun, train

    run = TextRun(
        model=given.model,
        clip=given.clip,
        data=given.data,
        output=given.output,
        preset=given.preset,
        changes=_changes(given),
        images=given.images,
        category_phrases=given.category_phrases,
        font=False if given.font == "none" else given.font,
        per_device=given.per_device,
        minutes=given.minutes,
        mixed_precision=given.mixed_precision,
        workers=given.workers,
        on_error=given.on_error,
        seed=given.seed,
    )
    checkpoint = train(run, resume=given.resume)
    if checkpoint is None:
        print("interrupted; the same command goes on from here")
        return 3
    print(f"checkpoint: {checkpoint}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sam-hf train text", description="Give a SAM checkpoint a text branch (Segment Anything, App. D.5)."
    )
    add = parser.add_argument
    add("--model", required=True, help='"tiny", a Hub id such as facebook/sam-vit-base, or a folder')
    add("--clip", required=True, help='open_clip ARCH/TAG, hf-hub:org/name, a folder, or "tiny"')
    add("--data", required=True, help='SA-1B folder, COCO .json, tar shards (sa_{000000..000099}.tar) or "synthetic"')
    add("--output", required=True, type=Path, help="folder for metrics, checkpoints and the result")
    add("--preset", default="paper", choices=sorted(PRESETS), help="way to train (default: paper)")
    add("--images", default=None, help="folder of a COCO file's pictures")
    add("--category-phrases", action="store_true", help="take COCO's category names as phrases")
    switch = argparse.BooleanOptionalAction
    add("--freeze-encoder", action=switch, default=None, help="keep the image encoder as it is")
    add("--freeze-decoder", action=switch, default=None, help="keep decoder and other prompts as they are")
    add("--gap", default=None, choices=("none", "mean", "mean+noise"), help="move image vectors to the texts' mean")
    add("--text-sources", default=None, help="what prompts come from, e.g. image=0.7,text=0.3; also interpolation")
    help_alignment = "also learn where phrases are and whether they are there at all, with this weight (0.4)"
    add("--alignment", default=None, type=float, nargs="?", const=0.4, help=help_alignment)
    add("--negatives", default=None, type=float, help="share of phrases that name something absent")
    add("--jitter", default=None, help="large-scale jitter LOW,HIGH (paper: 0.1,2.0) or none")
    add("--masks", default=None, type=int, help="masks per picture, at most (64)")
    add("--min-side", default=None, type=float, help="root of the smallest mask's area, in px of 1024 (100)")
    add("--batch-size", default=None, type=int, help="pictures per step, all processes together")
    add("--per-device", default=1, type=int, help="pictures per forward pass and process")
    add("--lr", default=None, type=float, help="peak learning rate")
    add("--steps", default=None, type=int, help="optimizer steps")
    add("--minutes", default=None, type=float, help="stop after this much training time")
    add("--mixed-precision", default="no", choices=("no", "bf16", "fp16"))
    add("--workers", default=1, type=int, help="processes that read data")
    add("--on-error", default="raise", choices=("raise", "skip"), help="records that cannot be read")
    add("--font", default=None, help='emoji font of synthetic scenes; "none" for shapes only')
    add("--seed", default=0, type=int)
    add("--resume", action=switch, default=True, help="go on with the run in --output; --no-resume starts over")
    return parser


def _changes(given: argparse.Namespace) -> Changes:
    fields = {
        "steps": given.steps,
        "batch": given.batch_size,
        "lr": given.lr,
        "masks": given.masks,
        "min_side": given.min_side,
        "negatives": given.negatives,
        "freeze_encoder": given.freeze_encoder,
        "freeze_decoder": given.freeze_decoder,
    }
    fields = {name: value for name, value in fields.items() if value is not None}
    if given.jitter is not None:
        fields["scale_range"] = parse_range(given.jitter)
    sources = None if given.text_sources is None else parse_weights(given.text_sources)
    return Changes(given.gap, sources, fields, alignment=given.alignment)


def parse_weights(typed: str) -> dict[str, float]:
    """ "image=0.7,text=0.3" -> {"image": 0.7, "text": 0.3}.

    Raises:
        ValueError: It is of another form.
    """
    try:
        return {name.strip(): float(weight) for name, weight in (part.split("=") for part in typed.split(","))}
    except ValueError as error:
        raise ValueError(
            f"--text-sources expects NAME=WEIGHT,... such as image=0.7,text=0.3, got {typed!r}"
        ) from error


def parse_range(typed: str) -> tuple[float, float] | None:
    """ "0.1,2.0" -> (0.1, 2.0); "none" -> None.

    Raises:
        ValueError: It is of another form.
    """
    if typed == "none":
        return None
    try:
        low, high = (float(number) for number in typed.split(","))
    except ValueError as error:
        raise ValueError(f"--jitter expects LOW,HIGH such as 0.1,2.0, or none, got {typed!r}") from error
    return low, high


if __name__ == "__main__":
    raise SystemExit(main())
