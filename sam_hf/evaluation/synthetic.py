"""The embedded checkpoint's examination: every prompt type on held-out synthetic scenes, baselines beside it.

Per object of a scene, whole or part: clicks (1, 3, 5), box, rough mask, phrase, phrase + click. Per scene: phrases of
objects that are not there. Masks are compared at the scene's own resolution. One dictionary comes out, ready for JSON:
`report.format_table` prints it, `report.render_card` puts it into the model card.

    python -m sam_hf.evaluation.synthetic --model tiny --scenes 200 --output results.json

Source: Segment Anything, §7.1 and App. D.1 (clicks, best predicted of three, oracle), §7.5 (text); the rest is ours.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from ..data.synthetic import SceneGenerator
from .baselines import (
    GRABCUT_ITERATIONS,
    choose_felzenszwalb,
    felzenszwalb_regions,
    grabcut,
    region_under,
)
from .click_protocol import interior_point, next_click, rough_mask, tight_box
from .provenance import describe_run, font_name, portable_name
from .scene_decoder import Decode, Decoded, SceneEncoder
from .scores import mask_iou
from .summary import summarise

__all__ = ["evaluate", "measure_scene"]

CLICKS = 5
PRACTICE_SCENES = 24


def _best_and_oracle(answer: Decoded, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Index of the best predicted mask (P,), its IoU (P,), and the best IoU of any (P,)."""
    ious = mask_iou(answer.masks, targets[:, None])  # (P, M)
    best = answer.scores.argmax(axis=1)
    return best, np.take_along_axis(ious, best[:, None], 1)[:, 0], ious.max(axis=1)


def _clicks(targets: np.ndarray, first: np.ndarray, decode: Decode) -> dict[str, np.ndarray]:
    """The interactive protocol: the first click asks for three masks, later ones refine one with its own logits."""
    points, labels = first[:, None], np.ones((len(targets), 1), np.int64)
    answer = decode(points=points, labels=labels, multimask=True)
    best, iou, oracle = _best_and_oracle(answer, targets)
    values = {"click_1": iou, "click_1_oracle": oracle}
    rows = np.arange(len(targets))
    masks, logits = answer.masks[rows, best], answer.logits[rows, best]
    for count in range(2, CLICKS + 1):
        clicks = [next_click(target, mask) for target, mask in zip(targets, masks, strict=True)]
        points = np.concatenate([points, np.array([[point] for point, _ in clicks])], axis=1)  # (P, count, 2)
        labels = np.concatenate([labels, np.array([[label] for _, label in clicks])], axis=1)  # (P, count)
        answer = decode(points=points, labels=labels, previous=logits, multimask=False)
        masks, logits = answer.masks[:, 0], answer.logits[:, 0]
        values[f"click_{count}"] = mask_iou(masks, targets)
    return values


def _boxes_and_masks(targets: np.ndarray, decode: Decode, rng: np.random.Generator) -> dict[str, np.ndarray]:
    boxes = np.array([tight_box(target) for target in targets])
    rough = np.stack([rough_mask(target, rng)[0] for target in targets])
    values = {"rough_mask_before": mask_iou(rough, targets)}
    values["box"] = mask_iou(decode(boxes=boxes, multimask=False).masks[:, 0], targets)
    _, values["box_of_three"], values["box_oracle"] = _best_and_oracle(decode(boxes=boxes, multimask=True), targets)
    values["rough_mask"] = mask_iou(decode(masks=rough, multimask=False).masks[:, 0], targets)
    values["rough_mask_of_three"] = _best_and_oracle(decode(masks=rough, multimask=True), targets)[1]
    return values


def _phrases(
    targets: np.ndarray, first: np.ndarray, phrases: Sequence[str | None], decode: Decode
) -> dict[str, np.ndarray]:
    """Objects that have no phrase of their own stay NaN."""
    named = np.array([index for index, phrase in enumerate(phrases) if phrase is not None], np.int64)
    names = ("phrase", "phrase_oracle", "phrase_score", "phrase_click", "phrase_click_of_three")
    values = {name: np.full(len(targets), np.nan) for name in names}
    if not len(named):
        return values
    text, wanted = [phrases[index] for index in named], targets[named]
    points, labels = first[named][:, None], np.ones((len(named), 1), np.int64)
    answer = decode(text=text, multimask=True)
    _, values["phrase"][named], values["phrase_oracle"][named] = _best_and_oracle(answer, wanted)
    values["phrase_score"][named] = answer.scores.max(axis=1)
    both = decode(text=text, points=points, labels=labels, multimask=False)
    values["phrase_click"][named] = mask_iou(both.masks[:, 0], wanted)
    both = decode(text=text, points=points, labels=labels, multimask=True)
    values["phrase_click_of_three"][named] = _best_and_oracle(both, wanted)[1]
    return values


def _baselines(
    image: np.ndarray, targets: np.ndarray, first: np.ndarray, setting: tuple[float, float]
) -> dict[str, np.ndarray]:
    regions = felzenszwalb_regions(image, *setting)
    clicked = np.stack([region_under(regions, point) for point in first])
    boxed = np.stack([grabcut(image, tight_box(target)) for target in targets])
    return {"felzenszwalb_click_1": mask_iou(clicked, targets), "grabcut_box": mask_iou(boxed, targets)}


def measure_scene(
    scene: Any,
    decode: Decode,
    rng: np.random.Generator,
    *,
    text: bool = True,
    felzenszwalb: tuple[float, float] | None = None,
) -> tuple[list[dict], list[dict]]:
    """Put every prompt about one scene to a decoder.

    Args:
        scene: `.image` uint8 (H, W, 3), `.objects` with `.mask`, `.phrases`, `.kind`, `.held_out`, and
            `.absent_phrases`. Objects without a visible pixel are passed over.
        decode: Answers prompts on this scene's picture.
        rng: Degrades the rough masks.
        text: Whether `decode` takes phrases.
        felzenszwalb: Also run the two baselines, Felzenszwalb with this (scale, sigma); None leaves them out.

    Returns:
        One record per object: "kind", "held_out", "area" (share of the picture) and the value of each row of
        `summary.ROWS` that was measured, plus "phrase_score"; and one record per absent phrase: "score", and "area" of
        the answer.
    """
    found = [item for item in scene.objects if item.mask.any()]
    absent = list(scene.absent_phrases) if text else []
    misses: list[dict] = []
    if absent:
        answer = decode(text=absent, multimask=True)
        best = answer.scores.argmax(axis=1)
        shares = answer.masks[np.arange(len(absent)), best].mean(axis=(-2, -1))
        misses = [
            {"score": float(score), "area": float(share)}
            for score, share in zip(answer.scores.max(axis=1), shares, strict=True)
        ]
    if not found:
        return [], misses
    targets = np.stack([item.mask for item in found])  # (P, H, W)
    first = np.array([interior_point(target) for target in targets])  # (P, 2)
    values = _clicks(targets, first, decode) | _boxes_and_masks(targets, decode, rng)
    if text:
        phrases = [item.phrases[0] if item.phrases else None for item in found]
        values |= _phrases(targets, first, phrases, decode)
    if felzenszwalb is not None:
        values |= _baselines(scene.image, targets, first, felzenszwalb)
    records = [
        {"kind": item.kind, "held_out": bool(item.held_out), "area": float(item.mask.mean())}
        | {name: float(column[index]) for name, column in values.items()}
        for index, item in enumerate(found)
    ]
    return records, misses


class _Examination:
    """What is asked about some scenes; a value that other processes can be given."""

    def __init__(
        self, model: Any, processor: Any, generator: SceneGenerator, seed: int, setting: tuple[float, float] | None
    ) -> None:
        self.encoder = SceneEncoder(model, processor)
        self.generator, self.seed, self.setting = generator, seed, setting

    def __call__(self, indices: range) -> tuple[list[dict], list[dict]]:
        """Records and misses of these scenes, see `measure_scene`."""
        scenes = [self.generator(index) for index in indices]
        records: list[dict] = []
        misses: list[dict] = []
        decoders = self.encoder.encode([scene.image for scene in scenes])
        for index, scene, decode in zip(indices, scenes, decoders, strict=True):
            rng = np.random.default_rng([self.seed, index])
            found, missed = measure_scene(
                scene, decode, rng, text=self.encoder.understands_text, felzenszwalb=self.setting
            )
            records += [record | {"scene": index} for record in found]
            misses += [miss | {"scene": index} for miss in missed]
        return records, misses


_examination: _Examination | None = None  # of a worker process


def _start_worker(examination: _Examination) -> None:
    global _examination
    _examination = examination
    torch.set_num_threads(1)


def _in_worker(indices: range) -> tuple[list[dict], list[dict]]:
    return _examination(indices)


def _examine(
    examination: _Examination, batches: Sequence[range], workers: int, progress: bool
) -> tuple[list[dict], list[dict]]:
    """All records and misses, in the order of the scenes."""
    with ExitStack() as stack:
        answers: Iterator[tuple[list[dict], list[dict]]] = map(examination, batches)
        if workers > 0:
            # Spawned, because a forked process cannot use its parent's threads.
            pool = get_context("spawn").Pool(workers, _start_worker, (examination,))
            answers = stack.enter_context(pool).imap(_in_worker, batches)
        shown = track(
            answers, "evaluating", len(batches), console=Console(stderr=True), transient=True, disable=not progress
        )
        records, misses = zip(*shown, strict=True)
    return sum(records, []), sum(misses, [])


def evaluate(
    model: Any,
    processor: Any,
    *,
    split: str = "test",
    scenes: int = 200,
    size: int | None = None,
    seed: int = 0,
    baselines: bool = True,
    device: str | torch.device | None = None,
    batch_size: int = 8,
    workers: int = 0,
    font: str | os.PathLike | bool | None = None,
    progress: bool = True,
    name: str | None = None,
    command: str | None = None,
) -> dict:
    """Examine a model on synthetic scenes.

    Args:
        model: A `SamModel`. It is put in eval mode for the time of the call.
        processor: Its `SamProcessor`.
        split: Of the scene generator.
        scenes: How many.
        size: Side of the square scenes in pixels; None -> the model's own image size.
        seed: Of the scene generator and of the rough masks.
        baselines: Also run GrabCut and Felzenszwalb (scikit-image), the latter's setting chosen on train scenes.
        device: Where to move the model first; None leaves it where it is.
        batch_size: Scenes per pass of the image encoder; changes nothing but speed.
        workers: Processes that share the scenes, for machines with several cores; 0: none but this one.
        font: Colour-emoji font of the scene generator: a path, None to look for it, False for shapes only.
        progress: Show a progress bar on stderr.
        name: What the report calls the model.
        command: What the report says how it was made; None -> this process's command line.

    Returns:
        JSON-able: "setup" (all that is needed to do it again), "rows", "absent", "counts", "baselines". Rows that
        need text are missing for a model without a text branch.

    Raises:
        ValueError: `scenes` or `batch_size` is not positive, `workers` is negative, or the scene generator refuses
            `split`, `size`, `seed`.
        FileNotFoundError: there is no emoji font and `font` is not False.
        ImportError: `baselines` without scikit-image.
    """
    for argument, value in (("scenes", scenes), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{argument}: expected a positive number, got {value}")
    if workers < 0:
        raise ValueError(f"workers: expected 0 or more, got {workers}")
    if device is not None:
        model = model.to(device)
    size = SceneEncoder(model, processor).image_size if size is None else size
    setting, tried = None, None
    if baselines:
        practice = SceneGenerator(size=size, split="train", seed=seed, font=font)
        setting, tried = choose_felzenszwalb(practice(index) for index in range(PRACTICE_SCENES))
    generator = SceneGenerator(size=size, split=split, seed=seed, font=font)
    batches = [range(start, min(start + batch_size, scenes)) for start in range(0, scenes, batch_size)]
    was_training = model.training
    model.eval()
    try:
        examination = _Examination(model, processor, generator, seed, setting)
        records, misses = _examine(examination, batches, workers, progress)
    finally:
        model.train(was_training)
    results = summarise(records, misses)
    results["baselines"] = baselines and {
        "felzenszwalb": {"scale": setting[0], "sigma": setting[1], "mean_iou_on_train_scenes": tried},
        "grabcut": {"iterations": GRABCUT_ITERATIONS},
    }
    protocol = {"split": split, "scenes": scenes, "size": size, "seed": seed, "font": font_name(font)}
    results["setup"] = protocol | describe_run(model, name=name, command=command)
    return results


def _repeatable(options: argparse.Namespace) -> str:
    """The command without what belongs to this machine: folders above the checkpoint, device, output file."""
    words = ["python", "-m", "sam_hf.evaluation.synthetic", "--model", portable_name(options.model)]
    words += ["--scenes", str(options.scenes), "--split", options.split, "--seed", str(options.seed)]
    words += ["--size", str(options.size)] if options.size else []
    return shlex.join(words + (["--no-baselines"] if options.no_baselines else []))


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m sam_hf.evaluation.synthetic`: evaluate, print the table, write the JSON."""
    from ..model.modeling_sam import SamModel
    from ..model.processing_sam import SamProcessor
    from .report import format_table, write_report

    parser = argparse.ArgumentParser(prog="python -m sam_hf.evaluation.synthetic", description=main.__doc__)
    parser.add_argument("--model", default="tiny", help="embedded name, Hub id or folder")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--size", type=int, help="scene side in pixels (default: the model's image size)")
    parser.add_argument("--split", default="test", choices=("train", "test"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="cpu, cuda, ...")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=0, help="processes that share the scenes")
    parser.add_argument("--font", help="colour-emoji font (default: the installed Noto Color Emoji)")
    parser.add_argument("--no-baselines", action="store_true")
    parser.add_argument("--output", help="where to write the results as JSON")
    options = parser.parse_args(arguments)
    results = evaluate(
        SamModel.from_pretrained(options.model),
        SamProcessor.from_pretrained(options.model),
        split=options.split,
        scenes=options.scenes,
        size=options.size,
        seed=options.seed,
        baselines=not options.no_baselines,
        device=options.device,
        batch_size=options.batch_size,
        workers=options.workers,
        font=options.font,
        name=options.model,
        command=_repeatable(options),
    )
    print(format_table(results))
    if options.output:
        write_report(results, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
