"""The command `sam-hf`: segment images, find everything in them, train and evaluate the embedded checkpoint.

Exit codes: 0 all done; 1 some images failed (the others are finished, a list is printed); 2 the request cannot be
carried out, said in one sentence; 3 a training was interrupted and can go on; 130 interrupted. Results go to stdout,
progress and messages to stderr.
"""

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import sam_hf
from sam_hf.inference import image_files, result_files
from sam_hf.inference.mask_generation import SamAutomaticMaskGenerator, check_options
from sam_hf.inference.typed_prompts import TypedPrompts, parse_box, parse_point
from sam_hf.terminal import UsageProblem, bar, clear_up_when_ended, first_line, for_each, messages, progress, say

if TYPE_CHECKING:
    from sam_hf.inference.predictor import SamPredictor

SUMMARY = "Segment Anything: points, boxes, masks and free text to masks."
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=SUMMARY)
train_app = typer.Typer(no_args_is_help=True, help="Train a checkpoint by a recipe.")
evaluate_app = typer.Typer(no_args_is_help=True, help="Measure a checkpoint.")
app.add_typer(train_app, name="train")
app.add_typer(evaluate_app, name="evaluate")


class Precision(str, Enum):
    """Precisions that a model can run in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Grounding(str, Enum):
    """Ways from a phrase to masks."""

    auto = "auto"
    learned = "learned"
    dense = "dense"
    proposals = "proposals"
    detector = "detector"


class RunLengths(str, Enum):
    """How masks stand in a JSON file."""

    coco_rle = "coco_rle"
    uncompressed_rle = "uncompressed_rle"


class Preset(str, Enum):
    """Settings of everything mode that go together."""

    sa1b = "sa1b"


# What commands on images have in common.
Images = Annotated[list[str], typer.Argument(help="Image files, or folders of them.", show_default=False)]
Model = Annotated[str, typer.Option("--model", "--checkpoint", help='"tiny" (embedded, small), a Hub id or a folder.')]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub id.")]
Out = Annotated[Path, typer.Option(help="Folder for the results.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; default: the best there is.")]
Dtype = Annotated[Precision, typer.Option(help="Precision of the model.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace earlier results.")]
Clip = Annotated[
    str | None, typer.Option(help='CLIP that reads phrases: ARCHITECTURE/TAG of open_clip, a folder, or "tiny".')
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the records, one JSON line per image.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and ends the process with its exit code."""
    clear_up_when_ended()
    try:
        code = app(args=arguments, prog_name="sam-hf", standalone_mode=False)
    except UsageProblem as problem:
        if problem.format_message():  # empty where the help was shown instead
            say(f"sam-hf: {problem.format_message()}")
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:
        say("sam-hf: interrupted; finished images are complete")
    sys.exit(code or 0)


@app.callback(invoke_without_command=True)
def _common(
    version: Annotated[bool, typer.Option("--version", is_eager=True, help="Print the version and stop.")] = False,
) -> None:
    if version:
        print(f"sam-hf {sam_hf.__version__}")
        raise typer.Exit()


@app.command()
def segment(
    images: Images,
    point: Annotated[list[str] | None, typer.Option(help="x,y on the object; repeatable.")] = None,
    background_point: Annotated[list[str] | None, typer.Option(help="x,y beside the object; repeatable.")] = None,
    box: Annotated[str | None, typer.Option(help="left,top,right,bottom around the object.")] = None,
    mask: Annotated[str | None, typer.Option(help="Image file with a rough mask, bright inside.")] = None,
    text: Annotated[str | None, typer.Option(help="Phrase for the object, or for several.")] = None,
    negative_text: Annotated[
        list[str] | None, typer.Option(help="Phrase for what is not meant; repeatable.", show_default=False)
    ] = None,
    grounding: Annotated[Grounding | None, typer.Option(help="How to find what the phrase names.")] = None,
    clip: Clip = None,
    detector: Annotated[str | None, typer.Option(help="Hub id of a zero-shot object detector.")] = None,
    model: Model = "tiny",
    revision: Revision = None,
    out: Out = Path("out"),
    device: Device = None,
    dtype: Dtype = Precision.float32,
    multimask: Annotated[bool, typer.Option("--multimask", help="Write all three masks, best first.")] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Segment one object in each image, prompted by points, a box, a rough mask or a phrase, alone or together.

    Coordinates are pixels of the upright image, from its upper left corner. Writes overlay, mask and cut-out as PNG
    and a JSON with COCO RLE and scores per image. With --text the JSON also says whether the phrase is in the image at
    all, and has all instances of a phrase for several ("two dogs", "cups"); a checkpoint without a text branch needs
    --clip or --detector. With --multimask a phrase is one prompt like the others, for checkpoints with a text branch.
    """
    finding = {"negative_text": negative_text, "grounding": grounding, "clip": clip, "detector": detector}
    try:
        prompts = _prompts(point, background_point, box, mask, text)
        looks_for = _looks_for(prompts.text, finding, multimask)
        paths, problems = image_files.find_images(images)
        rough = [] if mask is None else [image_files.find_image(mask)]
        names = result_files.name_results(paths)
        places = [place for name in names for place in result_files.result_places(out, name, multimask)]
        result_files.check_places(places, [*paths, *rough], overwrite)
        result_files.prepare_folder(out)
        predictor = _load(model, revision, device, dtype)
        if prompts.text is not None and not looks_for:
            predictor.require_text()
        segmenter = _text_segmenter(predictor, model, revision, clip, detector, grounding) if looks_for else None
    except ValueError as error:
        raise UsageProblem(str(error)) from error

    from sam_hf.inference.file_segmentation import segment_file
    from sam_hf.inference.text.file_answer import answer_file

    def work(path: Path, name: str, report: Callable[[str], None]) -> str:
        if segmenter is not None:
            way = "auto" if grounding is None else grounding.value
            result = answer_file(segmenter, path, prompts, out, name, negative_text or (), way, model, report)
            return json.dumps(result, ensure_ascii=False) if as_json else _found(result, out)
        result = segment_file(predictor, path, prompts, out, name, multimask, model, report)
        return json.dumps(result, ensure_ascii=False) if as_json else _summary(result, out)

    for_each(paths, names, work, problems)


# Options of `everything` that are the generator's own, under its names.
EVERYTHING = (
    *("points_per_side", "points_per_batch", "pred_iou_thresh", "stability_score_thresh", "stability_score_offset"),
    *("box_nms_thresh", "crop_n_layers", "crop_nms_thresh", "crop_overlap_ratio", "crop_n_points_downscale_factor"),
    *("max_area_share", "min_mask_region_area", "preset"),
)


@app.command()
def everything(
    images: Images,
    points_per_side: Annotated[int | None, typer.Option(help="Points asked about per side; 32.")] = None,
    points_per_batch: Annotated[int | None, typer.Option(help="Points at once; fewer take less memory; 64.")] = None,
    pred_iou_thresh: Annotated[float | None, typer.Option(help="Least predicted IoU of a mask; 0.88.")] = None,
    stability_score_thresh: Annotated[float | None, typer.Option(help="Least stability of a mask; 0.95.")] = None,
    stability_score_offset: Annotated[float | None, typer.Option(help="Cuts compared for stability; 1.")] = None,
    box_nms_thresh: Annotated[float | None, typer.Option(help="Box IoU of duplicates within a crop; 0.7.")] = None,
    crop_n_layers: Annotated[
        int | None, typer.Option("--crop-n-layers", "--crop-layers", help="Layers of closer looks: 4, 16, ...; 0.")
    ] = None,
    crop_nms_thresh: Annotated[float | None, typer.Option(help="Box IoU of duplicates across crops; 0.7.")] = None,
    crop_overlap_ratio: Annotated[float | None, typer.Option(help="Overlap of crops; 0.34 of the side.")] = None,
    crop_n_points_downscale_factor: Annotated[
        float | None, typer.Option(help="How much sparser each layer's grid is; 1.")
    ] = None,
    max_area_share: Annotated[float | None, typer.Option(help="Masks of this share of the image go.")] = None,
    min_mask_region_area: Annotated[int | None, typer.Option(help="Smaller holes and islands go; pixels; 0.")] = None,
    preset: Annotated[Preset | None, typer.Option(help="sa1b: the paper's settings; options above go before.")] = None,
    output_mode: Annotated[RunLengths, typer.Option(help="Masks in the JSON.")] = RunLengths.coco_rle,
    index: Annotated[bool, typer.Option("--index", help="Also a picture of the masks' ids.")] = False,
    masks: Annotated[bool, typer.Option("--masks", help="Also one picture per mask, in a folder.")] = False,
    text: Annotated[
        list[str] | None, typer.Option(help="Name for masks, repeatable: each gets one, or other.", show_default=False)
    ] = None,
    clip: Clip = None,
    model: Model = "tiny",
    revision: Revision = None,
    out: Out = Path("out"),
    device: Device = None,
    dtype: Dtype = Precision.float32,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Find everything in each image.

    Writes an overlay as PNG and a JSON in SA-1B's layout per image; with --text each mask there has a label.
    """
    given = locals() | {"preset": preset and preset.value}
    options = {name: given[name] for name in EVERYTHING if given[name] is not None}
    try:
        check_options(**options)
        paths, problems = image_files.find_images(images)
        names = result_files.name_results(paths)
        places = [place for name in names for place in result_files.everything_places(out, name, index, masks)]
        result_files.check_places(places, paths, overwrite)
        result_files.prepare_folder(out)
        predictor = _load(model, revision, device, dtype)
        generator = SamAutomaticMaskGenerator.from_predictor(predictor, output_mode=output_mode.value, **options)
        _prepare_names(generator, text, clip)
    except ValueError as error:
        raise UsageProblem(str(error)) from error
    about = {"model": model, "model_revision": predictor.revision, "options": options}
    more = {"index": index, "masks": masks, "text": text or (), "clip": clip, "about": about}
    for_each(paths, names, _everything_worker(generator, paths, out, more, as_json), problems, bar)


def _prepare_names(generator: SamAutomaticMaskGenerator, text: list[str] | None, clip: str | None) -> None:
    if not text:
        if clip is not None:
            raise ValueError("--clip expects names: add --text")
        return
    with progress("loading the CLIP that reads names"):
        try:
            generator.prepare_names(text, clip)
        except (OSError, ImportError) as error:
            raise ValueError(first_line(error)) from error


def _everything_worker(
    generator: SamAutomaticMaskGenerator, paths: Sequence[Path], out: Path, more: dict[str, Any], as_json: bool
) -> Callable[[Path, str, Callable[[int, int], None]], str]:
    from sam_hf.inference.file_everything import everything_file

    numbers = {path: number for number, path in enumerate(paths, start=1)}

    def work(path: Path, name: str, report: Callable[[int, int], None]) -> str:
        result = everything_file(generator, path, out, name, numbers[path], report=report, **more)
        return json.dumps(result, ensure_ascii=False) if as_json else _count(result, name, out)

    return work


# Commands whose options are those of a module of their own: where, name, module, what they do.
PASSED_ON = (
    (train_app, "tiny", "sam_hf.training.recipes.tiny", "Train the embedded checkpoint on synthetic scenes"),
    (train_app, "text", "sam_hf.training.recipes.text_command", "Give any SAM checkpoint a text branch"),
    (
        evaluate_app,
        "synthetic",
        "sam_hf.evaluation.synthetic",
        "Evaluate a checkpoint on held-out synthetic scenes and print the table",
    ),
    (
        evaluate_app,
        "text",
        "sam_hf.evaluation.text_command",
        "Measure how well phrases become masks, by every grounding side by side",
    ),
    (app, "push", "sam_hf.hub.push_command", "Publish a checkpoint's folder on the Hub"),
    (
        app,
        "app",
        "sam_hf.ui.app_command",
        "Open the app in a browser: clicks, boxes, brush, text, everything, exports",
    ),
    (
        app,
        "convert",
        "sam_hf.hub.convert_command",
        "Convert a checkpoint: Meta's .pth, MobileSAM's, transformers' folder, ours",
    ),
    (app, "export", "sam_hf.hub.export_command", "Export a checkpoint: ONNX files, a program or a compiled package"),
    (app, "replay", "sam_hf.inference.replay_command", "Do a prompt session of the page again on image files"),
)


def _pass_on(group: typer.Typer, name: str, module: str, about: str) -> None:
    """Makes a command that hands everything over to a module's `main`, which is imported only then."""

    @group.command(name, context_settings=PASS_ON, help=f"{about} (--help lists the options).")
    def run(context: typer.Context) -> None:
        try:
            raise typer.Exit(importlib.import_module(module).main(context.args) or 0)
        except (OSError, ValueError, ImportError) as error:
            raise UsageProblem(first_line(error)) from error


for entry in PASSED_ON:
    _pass_on(*entry)


def _prompts(
    points: list[str] | None, background: list[str] | None, box: str | None, mask: str | None, text: str | None
) -> TypedPrompts:
    if text is not None and not text.strip():
        raise ValueError("--text expects a phrase; got only blanks")
    prompts = TypedPrompts(
        points=tuple(parse_point(typed, "--point") for typed in points or []),
        background_points=tuple(parse_point(typed, "--background-point") for typed in background or []),
        box=None if box is None else parse_box(box, "--box"),
        mask=mask,
        text=text,
    )
    if len(prompts) == 0:
        raise ValueError("say what to segment with --point, --background-point, --box, --mask or --text")
    return prompts


def _looks_for(text: str | None, finding: dict[str, Any], multimask: bool) -> bool:
    """Whether a phrase is to be looked for, with a verdict and all instances, rather than decoded once."""
    given = [f"--{name.replace('_', '-')}" for name, value in finding.items() if value]
    if given and text is None:
        raise ValueError(f"{given[0]} expects a phrase: add --text")
    if given and multimask:
        raise ValueError(f"--multimask gives the three masks of one prompt: leave it out, or {given[0]}")
    if text is None or multimask:
        return False
    from sam_hf.inference.text.position_words import read_phrase

    read_phrase(text)  # what cannot be read is said before anything is loaded
    return True


def _text_segmenter(
    predictor: "SamPredictor",
    model: str,
    revision: str | None,
    clip: str | None,
    detector: str | None,
    grounding: Grounding | None,
) -> Any:
    from sam_hf.inference.text.segmenter import SamTextSegmenter, find_calibration

    segmenter = SamTextSegmenter(predictor, clip, detector, find_calibration(model, revision=revision))
    with progress("preparing the way from text to masks"):
        try:
            segmenter.grounding((grounding or Grounding.auto).value)
        except (OSError, ImportError, ValueError) as error:
            raise ValueError(first_line(error)) from error
    return segmenter


def _load(model: str, revision: str | None, device: str | None, dtype: Precision) -> "SamPredictor":
    with progress(f"loading the model {model}"):
        import torch
        from huggingface_hub.utils import disable_progress_bars
        from transformers.utils import logging

        from sam_hf.inference.predictor import SamPredictor

        logging.disable_progress_bar()
        if not messages.is_terminal:
            disable_progress_bars()
        if device is not None and device.startswith("cuda") and not torch.cuda.is_available():
            say("no CUDA device is available: using the CPU")
            device = "cpu"
        try:
            predictor = SamPredictor.from_pretrained(
                model, device=device, dtype=getattr(torch, dtype.value), revision=revision
            )
        # absent, of another shape, damaged, no configuration, a text tower without open_clip
        except (OSError, ValueError, RuntimeError, LookupError, ImportError) as error:
            raise ValueError(f"cannot load the model {model!r}: {first_line(error)}") from error
    if model == "tiny":
        say("tiny is the small embedded checkpoint; --model facebook/sam-vit-huge is far better on photos")
    return predictor


def _count(result: dict[str, Any], name: str, out: Path) -> str:
    count = len(result["annotations"])
    found = f"{count} mask{'s' if count > 1 else ''}"
    if count == 0:
        found = "nothing found (--pred-iou-thresh and --stability-score-thresh say how sure the model must be)"
    return f"{result['sam_hf']['source']}: {found} -> {out / f'{name}_overlay.png'}"


def _summary(result: dict[str, Any], out: Path) -> str:
    best = result["masks"][0]
    share = 100 * best["area"] / (result["width"] * result["height"])
    found = f"{share:.1f} % of the image" if best["area"] else "nothing found"
    return f"{result['image']}: {found}, predicted IoU {best['predicted_iou']:.2f} -> {out / best['overlay']}"


def _found(result: dict[str, Any], out: Path) -> str:
    count = len(result["masks"])
    found = f"{count} instance{'s' if count > 1 else ''}" if count else "nothing found"
    if result["absent"]:
        found = "not there"
    sure = f"presence {result['presence']:.2f}{'' if result['calibrated'] else ' (not calibrated)'}"
    return f"{result['image']}: {found}, {sure}, by {result['grounding']} -> {out / result['overlay']}"


if __name__ == "__main__":
    main()
