"""The command `sam-hf evaluate text`: measures groundings, compares variants of them, or fits the verdict.

sam-hf evaluate text --data synthetic --grounding learned dense proposals auto --output results.json
sam-hf evaluate text --data refcoco --root DATA --model facebook/sam-vit-base --clip ViT-B-16-quickgelu/openai
sam-hf evaluate text --ablate views --limit 50
sam-hf evaluate text --calibrate text_calibration.json --grounding learned auto dense proposals
"""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ..hub.text_result_tables import format_text_results
from ..inference.text.segmenter import AMOUNTS, GROUNDINGS, SamTextSegmenter, calibration_name
from ..inference.text.verdict import KEEP_PRESENT, Calibration
from .provenance import portable_name
from .report import write_report
from .text_data import DATA, INSTANCES, Pictures, open_pictures
from .text_to_mask import Contender, evaluate_text
from .text_variants import (
    ABLATIONS,
    CALIBRATION_SEED,
    ablated_grounding,
    fit_calibration,
    read_option,
    variants,
    with_options,
)

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sam-hf evaluate text", description=main.__doc__)
    add = parser.add_argument
    add("--data", default="synthetic", choices=DATA)
    add("--root", help="folder of a public data set")
    add("--images", help="folder of its pictures, where that is not the usual one below --root")
    add("--split", help="default: test scenes, val of RefCOCO and LVIS, test of PhraseCut")
    add("--split-by", help="who split RefCOCO: unc, google or umd")
    add("--limit", type=int, help="at most so many pictures (default: all; 200 scenes)")
    add("--seed", type=int, help="of the scenes, or of the draw of --limit (default: 0)")
    add("--size", type=int, help="side of the scenes in pixels (default: the model's image size)")
    add("--font", help="colour-emoji font of the scenes (default: the installed Noto Color Emoji)")
    add("--shapes-only", action="store_true", help="scenes without emoji")
    add("--model", default="tiny", help="embedded name, Hub id or folder")
    add("--clip", help="name of open_clip, or folder (default: the embedded one with --model tiny)")
    add("--detector", help="Hub id of a zero-shot detector")
    add("--calibration", help="file of --calibrate (default: the checkpoint's own)")
    add(
        "--grounding",
        nargs="+",
        choices=("auto", *GROUNDINGS),
        help="side by side (default: auto; learned too with --calibrate)",
    )
    add("--instances", choices=AMOUNTS, help="default: one for scenes and RefCOCO, all for PhraseCut and LVIS")
    add("--option", action="append", default=[], metavar="GROUNDING.NAME=VALUE", help="repeatable")
    add("--no-clicks", action="store_true", help="phrases alone")
    add("--device", help="cpu, cuda, ...")
    add("--dtype", help="float32, bfloat16 or float16")
    add("--ablate", choices=tuple(ABLATIONS), help="compare the variants of one choice instead")
    add("--calibrate", metavar="FILE", help="fit the verdict on train scenes instead, and write it")
    add("--keep", type=float, default=KEEP_PRESENT, help="share of the present phrases that --calibrate keeps")
    add("--output", help="where to write the results as JSON")
    return parser


def _segmenter(options: argparse.Namespace) -> tuple[SamTextSegmenter, dict[str, dict[str, Any]]]:
    """The segmenter, and the options by grounding that it was made with."""
    extra: dict[str, dict[str, Any]] = {}
    for typed in options.option:
        grounding, name, value = read_option(typed)
        if grounding not in GROUNDINGS[:3]:
            raise ValueError(f"option: expected one of {', '.join(GROUNDINGS[:3])} before the dot, got {grounding!r}")
        extra = with_options(extra, grounding, {name: value})
    try:
        segmenter = SamTextSegmenter.from_pretrained(
            options.model,
            clip=options.clip,
            detector=options.detector,
            device=options.device,
            dtype=options.dtype,
            calibration=options.calibration,
            **extra,
        )
    except TypeError as error:  # an option that the grounding does not have
        raise ValueError(f"option: {error}") from error
    return segmenter, extra


def _pictures(options: argparse.Namespace, segmenter: SamTextSegmenter) -> Pictures:
    seed = CALIBRATION_SEED if options.calibrate else 0
    return open_pictures(
        options.data,
        options.root,
        split="train" if options.calibrate else options.split,
        split_by=options.split_by,
        images=options.images,
        limit=options.limit,
        seed=seed if options.seed is None else options.seed,
        size=options.size or int(segmenter.predictor.model.config.vision_config.image_size),
        font=False if options.shapes_only else options.font,
    )


def _variants(
    options: argparse.Namespace, segmenter: SamTextSegmenter, extra: Mapping[str, Mapping[str, Any]]
) -> list[Contender]:
    chosen = options.grounding or [None]
    if len(chosen) > 1:
        raise ValueError("grounding: expected one with --ablate")
    grounding = ablated_grounding(options.ablate, chosen[0])
    # The CLIP is loaded once, by whichever grounding is asked for first.
    clip = getattr(segmenter.grounding(grounding), "clip", None)

    def make(by_grounding: Mapping[str, Mapping[str, Any]]) -> SamTextSegmenter:
        # No calibration: it was fitted to the package's own choices.
        return SamTextSegmenter(segmenter.predictor, clip, **by_grounding)

    return variants(options.ablate, make, grounding, extra)


def _clips(contenders: Sequence[Contender]) -> dict[str, str]:
    """Name and fingerprint of the CLIPs that were used."""
    clips = [getattr(one.segmenter.grounding(one.grounding), "clip", None) for one in contenders]
    return {portable_name(clip.name): clip.revision for clip in clips if clip is not None}


def _calibrate(options: argparse.Namespace, segmenter: SamTextSegmenter, pictures: Pictures, instances: str) -> None:
    """Fits the verdict, and writes it together with the curves that there were of other ways."""
    curves = segmenter.calibration.curves
    # "auto" asks the CLIP unless only "learned" is calibrated, which is not to decide what is calibrated now.
    segmenter.calibration = Calibration()
    groundings = options.grounding
    if not groundings and segmenter.has_text_branch:  # without a CLIP "auto" is "learned" itself
        by_curve = {calibration_name(segmenter.grounding(name)): name for name in ("auto", "learned")}
        groundings = list(by_curve.values())
    fitted = fit_calibration(
        segmenter,
        pictures.phrases,
        groundings or [segmenter.automatic],
        keep=options.keep,
        instances=instances,
        total=pictures.count,
    )
    print(Calibration(curves | fitted.curves).save(options.calibrate))


def _repeatable(options: argparse.Namespace) -> str:
    """The command without what belongs to this machine: folders above model and CLIP, data, device, output."""
    words = ["sam-hf", "evaluate", "text", "--data", options.data, "--model", portable_name(options.model)]
    words += ["--clip", portable_name(options.clip)] if options.clip else []
    for name in ("split", "split_by", "limit", "seed", "size", "detector", "instances", "ablate"):
        value = getattr(options, name)
        words += [f"--{name.replace('_', '-')}", str(value)] if value is not None else []
    words += ["--grounding", *options.grounding] if options.grounding else []
    words += ["--calibration", portable_name(options.calibration)] if options.calibration else []
    for flag in ("shapes_only", "no_clicks"):
        words += [f"--{flag.replace('_', '-')}"] if getattr(options, flag) else []
    return shlex.join(words + [word for typed in options.option for word in ("--option", typed)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure how well phrases become masks: groundings side by side, variants of one, or fit the verdict "absent"."""
    options = _parser().parse_args(arguments)
    if options.calibrate and (options.ablate or options.split not in (None, "train")):
        raise ValueError("calibrate: fits on the train split alone; give no --ablate and no other --split")
    segmenter, extra = _segmenter(options)
    pictures = _pictures(options, segmenter)
    instances = options.instances or INSTANCES[options.data]
    if options.calibrate:
        _calibrate(options, segmenter, pictures, instances)
        return 0
    if options.ablate:
        contenders = _variants(options, segmenter, extra)
    else:
        names = list(dict.fromkeys(options.grounding or ["auto"]))
        contenders = [Contender(name, segmenter, name) for name in names]
    results = evaluate_text(
        contenders,
        pictures.phrases,
        instances=instances,
        clicks=not options.no_clicks,
        total=pictures.count,
        name=options.model,
        command=_repeatable(options),
    )
    results["setup"] |= pictures.facts | {"clip": _clips(contenders), "options": extra, "ablation": options.ablate}
    print(format_text_results(results))
    if options.output:
        write_report(results, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
