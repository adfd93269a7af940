"""The command `sam-hf replay`: what was done on the page, done again on image files.

sam-hf replay session.json photo.jpg --out out
sam-hf replay session.json frames/ --out out --format coco,yolo --model facebook/sam-vit-huge
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam_hf.inference import image_files, result_files
from sam_hf.inference.session import PromptSession
from sam_hf.inference.session_format import LONGEST_JSON
from sam_hf.masks.formats import EXPORTS, export_suffix
from sam_hf.masks.labeled_mask import clean_text
from sam_hf.terminal import first_line, for_each, messages, progress, say

if TYPE_CHECKING:
    from sam_hf.inference.predictor import SamPredictor
    from sam_hf.inference.text.segmenter import SamTextSegmenter

__all__ = ["main"]

EMBEDDED = "tiny"
CLIP = "CLIP that reads phrases where the checkpoint does not: ARCHITECTURE/TAG, a folder, or tiny; default: tiny"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sam-hf replay", description=main.__doc__)
    add = parser.add_argument
    add("session", type=Path, help="JSON file of a prompt session, as the page exports it")
    add("images", nargs="+", metavar="image", help="image files of the session's size, or folders of them")
    add("--out", type=Path, default=Path("out"), help="folder for the results (default: out)")
    add("--format", action="append", default=[], help=f"also as {', '.join(EXPORTS)}; repeatable, or with commas")
    add("--model", "--checkpoint", help='"tiny", a Hub id or a folder (default: the session\'s, if that is "tiny")')
    add("--revision", help="branch, tag or commit of a Hub id")
    add("--clip", default=EMBEDDED, help=CLIP)
    add("--device", help="cpu, cuda, cuda:1, mps; default: the best there is")
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="precision of the model")
    add("--overwrite", action="store_true", help="replace earlier results")
    add("--json", action="store_true", dest="as_json", help="print the records, one JSON line per image")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Do a prompt session again on image files: masks, overlay and a JSON, compared with the masks of the session.

    With the checkpoint that the session was made with the IoU is 1, up to the rounding of other hardware.
    """
    options = _parser().parse_args(arguments)
    formats = _formats(options.format)
    session = _read_session(options.session)
    model = options.model or session.checkpoint
    if options.model is None and model != EMBEDDED:
        raise ValueError(
            f"the session was made with the checkpoint {model!r:.100}; a session file does not decide what is "
            "loaded: say it yourself with --model"
        )
    paths, problems = image_files.find_images(options.images)
    names = result_files.name_results(paths)
    from sam_hf.inference.file_replay import replay_file, replay_places

    places = [place for name in names for place in replay_places(options.out, name, session, formats)]
    result_files.check_places(places, [*paths, options.session], options.overwrite)
    result_files.prepare_folder(options.out)
    predictor, segmenter = _load(model, options, any(step.text for one in session.objects for step in one.steps))

    def work(path: Path, name: str, report: Callable[[str], None]) -> str:
        result = replay_file(predictor, path, session, options.out, name, formats, segmenter, model, report)
        if result["same_file"] is False:
            say(f"{path} is not the file that the session was made with (its SHA-256 differs)")
        return json.dumps(result, ensure_ascii=False) if options.as_json else _summary(result, options.out, name)

    for_each(paths, names, work, problems)
    return 0


def _formats(given: Sequence[str]) -> list[str]:
    formats = list(dict.fromkeys(one.strip() for listed in given for one in listed.split(",")))
    for one in formats:
        try:
            export_suffix(one, 0)
        except ValueError as error:
            raise ValueError(f"--{error}") from None
    return formats


def _read_session(path: Path) -> PromptSession:
    try:
        if not path.is_file():
            raise ValueError(f"the session {str(path)!r} {'is not a file' if path.exists() else 'does not exist'}")
        with path.open("rb") as file:
            content = file.read(LONGEST_JSON + 1)
    except OSError as error:
        raise ValueError(f"cannot read the session {str(path)!r}: {error.strerror}") from None
    try:
        return PromptSession.from_json(content)
    except ValueError as error:
        raise ValueError(f"{str(path)!r}: {error}") from None


def _load(model: str, options: argparse.Namespace, has_text: bool) -> "tuple[SamPredictor, SamTextSegmenter | None]":
    with progress(f"loading the model {model}"):
        from huggingface_hub.utils import disable_progress_bars
        from transformers.utils import logging

        from sam_hf.inference.predictor import SamPredictor

        logging.disable_progress_bar()
        if not messages.is_terminal:
            disable_progress_bars()
        try:
            predictor = SamPredictor.from_pretrained(model, options.device, options.dtype, revision=options.revision)
        except (OSError, ValueError, RuntimeError, LookupError, ImportError) as error:
            raise ValueError(f"cannot load the model {model!r}: {first_line(error)}") from error
    if not has_text or predictor.model.config.text_config is not None:
        return predictor, None
    from sam_hf.inference.text.segmenter import SamTextSegmenter, find_calibration

    return predictor, SamTextSegmenter(
        predictor, options.clip, calibration=find_calibration(model, revision=options.revision)
    )


def _summary(result: dict[str, Any], out: Path, name: str) -> str:
    objects = result["objects"]
    count = f"{len(objects)} object{'' if len(objects) == 1 else 's'}"
    lines = [f"{result['image']}: {count} -> {out / f'{name}_overlay.png'}"]
    for place, one in enumerate(objects, start=1):
        called = clean_text(one["name"]) or f"object {place}"  # a name may hold what moves a terminal's cursor
        share = 100 * one["area"] / (result["width"] * result["height"])
        compared = "no mask to compare with" if one["iou"] is None else f"IoU with the session's mask {one['iou']:.3f}"
        lines.append(f"  {called}: {share:.1f} % of the image, {compared}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
