"""A checkpoint to the Hub: what goes up, what stays here, and the upload.

What goes up is a list of names, not "the folder": optimizer states, pickles, logs and keys that lie beside the weights
stay here. Files that a reader needs and the folder lacks are added: processor files for new and old readers, the
source files of a checkpoint that stock transformers cannot read, example pictures, a card.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.utils import validate_repo_id

from sam_hf.hub.example_pictures import draw_examples, example_names, gallery
from sam_hf.hub.model_card import card_for
from sam_hf.hub.upload import removed_files, upload
from sam_hf.inference.predictor import SamPredictor
from sam_hf.inference.text.segmenter import SamTextSegmenter, calibration_name
from sam_hf.inference.text.verdict import Calibration
from sam_hf.model.checkpoint_checks import check_folder, files_of_weights
from sam_hf.model.checkpoint_files import (
    CALIBRATION,
    CARD,
    CLIP_CONFIG,
    CLIP_FOLDER,
    CLIP_WEIGHTS,
    CONFIG,
    PROCESSOR_FILES,
    TRAINING,
    UNUSED_WEIGHTS,
    VARIANT,
    WEIGHTS,
    WEIGHTS_INDEX,
)
from sam_hf.model.checkpoint_names import EMBEDDED_FOLDER, EMBEDDED_NAME, resolve
from sam_hf.model.clip_beside import check_clip
from sam_hf.model.clip_loading import EMBEDDED_CLIP
from sam_hf.model.configuration_sam import SamConfig
from sam_hf.model.hub_access import read_token
from sam_hf.model.modeling_sam import SamModel
from sam_hf.model.processing_sam import SamProcessor
from sam_hf.model.remote_code import MODELS, PROCESSORS, source_files

# What of a folder goes up, by its path there.
PUBLISHED = (
    *(CONFIG, WEIGHTS, "model-*-of-*.safetensors", WEIGHTS_INDEX, UNUSED_WEIGHTS, *PROCESSOR_FILES),
    *(CARD, "LICENSE*", "NOTICE*", TRAINING, "evaluation.json", "evaluation_text.json", CALIBRATION),
    *("examples/*.png", "examples/*.jpg", "examples/*.json"),
    *("onnx/*.onnx", "onnx/*.onnx_data", "onnx/*.onnx.data", "onnx/*.json", "*.onnx", "*.onnx_data", "*.onnx.data"),
    *(f"{CLIP_FOLDER}/{name}" for name in (CLIP_CONFIG, CLIP_WEIGHTS, CARD, "LICENSE*")),
)


@dataclass(frozen=True)
class Publication:
    """What went to the Hub, or would go.

    Attributes:
        repo_id: The repository.
        files: Path in the repository and size in bytes, None for an example picture that is not drawn yet.
        left_out: Paths in the folder that stay here.
        removed: Paths in the repository that go; None if a dry run could not ask the Hub for them.
        revision: Branch; None: the main one.
        dry_run: Whether nothing was sent.
        commit_url: The page of the commit.
        pr_url: The page of the pull request, if one was asked for.
    """

    repo_id: str
    files: dict[str, int | None]
    left_out: list[str] = field(default_factory=list)
    revision: str | None = None
    dry_run: bool = False
    commit_url: str | None = None
    pr_url: str | None = None
    removed: list[str] | None = field(default_factory=list)


def publish(
    source: str | os.PathLike | SamModel,
    repo_id: str,
    *,
    processor: SamProcessor | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    dry_run: bool = False,
    token: str | bool | None = None,
    commit_message: str = "Upload SAM checkpoint",
    commit_description: str | None = None,
    examples: bool = True,
    license: str | None = None,
) -> Publication:
    """Upload a checkpoint with all that its readers need; running it again after an interruption goes on.

    Weights of another cut (one file where there are shards now, pickles) are removed from the repository, because
    they would be loaded in place of these, and so are this package's source files where they are not needed any more.

    Args:
        source: Folder of a checkpoint, "tiny", or a model.
        repo_id: "organisation/name"; made if it does not exist.
        processor: Of a model; not for a folder, which has its own.
        private: Whether a new repository is private. True for an existing public one is refused.
        revision: Branch, made if it does not exist; or "refs/pr/N", to go on with a pull request.
        create_pr: Open a pull request against the main branch instead of changing it.
        dry_run: Check and list, send nothing; the Hub is asked what would be removed, and need not answer.
        token: Of the Hub; None: the one of `hf auth login`.
        commit_message: First line of the commit.
        commit_description: The rest of it.
        examples: Run the model on a drawn scene and add the pictures, unless the folder has some.
        license: The Hub's name of the weights' licence, such as "apache-2.0", for the card; None: what `training.json`
            says, or what follows from the base; otherwise the card says that it is not stated.

    Raises:
        ValueError: An argument cannot be used, or the checkpoint is damaged.
        OSError: There is no such checkpoint; or the Hub refuses or cannot be reached, naming the repository.
    """
    validate_repo_id(repo_id)
    token = read_token(token)
    is_pull_request = (revision or "").startswith("refs/pr/")
    if create_pr and revision not in (None, "main"):
        raise ValueError(
            f"create_pr opens a pull request against the main branch; expected no revision with it, got {revision!r}"
            + (": leave create_pr out to go on with this one" if is_pull_request else "")
        )
    api = HfApi(token=token, library_name="sam_hf")
    with tempfile.TemporaryDirectory(prefix="sam_hf-publish-") as temporary:
        folder = _folder_of(source, processor, Path(temporary) / "model")
        predictor = SamPredictor.from_pretrained(folder)  # what nobody could load stays here
        stage = Path(temporary) / "stage"
        left_out = _stage(folder, stage)
        if folder == EMBEDDED_FOLDER:
            _stage_embedded_clip(predictor, stage)
        planned = _complete(folder, stage, repo_id, predictor if examples else None, dry_run, license)
        files = {name: size for name, size in _listed(stage)} | dict.fromkeys(planned)
        if dry_run:
            removed = None
            with suppress(Exception):  # whatever keeps the Hub from answering, the rest can be said
                removed = removed_files(api, repo_id, revision, stage, _code_names())
            return Publication(repo_id, files, left_out, revision, dry_run=True, removed=removed)
        commit, removed = upload(
            api,
            stage,
            repo_id,
            private=private,
            revision=revision,
            create_pr=create_pr,
            message=commit_message,
            description=commit_description,
            code=_code_names(),
        )
    return Publication(repo_id, files, left_out, revision, False, str(commit.commit_url), commit.pr_url, removed)


def _folder_of(source: Any, processor: SamProcessor | None, temporary: Path) -> Path:
    """The folder of a checkpoint; a model is saved into one first."""
    if isinstance(source, SamModel):
        if not isinstance(processor, SamProcessor):
            raise TypeError(f"processor: expected the model's SamProcessor, got {type(processor).__name__}")
        source.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        return temporary
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"source: expected a folder or a SamModel, got {type(source).__name__}")
    if processor is not None:
        raise ValueError("processor: expected None with a folder, which has its own")
    folder = Path(resolve(source)).expanduser()
    if not folder.is_dir():
        raise OSError(f"source: there is no checkpoint folder {str(source)!r}")
    check_folder(folder)
    if (folder / WEIGHTS).exists() and (folder / WEIGHTS_INDEX).exists():
        raise ValueError(
            f"source: {str(folder)!r} has both {WEIGHTS} and {WEIGHTS_INDEX}; readers take the first: delete the "
            "one that is out of date"
        )
    if (folder / CLIP_FOLDER / CLIP_CONFIG).exists():
        check_clip(folder / CLIP_FOLDER)  # what nobody could load stays here
    return folder


def _stage(folder: Path, stage: Path) -> list[str]:
    """Put what goes up into `stage`, without copying weights; returns what stays here."""
    left_out = []
    code = set(_code_names())
    weights = {file.relative_to(folder).as_posix() for file in files_of_weights(folder)}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or name.startswith((".git/", ".cache/")):
            continue
        if name in code:
            continue  # written anew where needed
        depth = name.count("/")
        published = any(fnmatchcase(name, pattern) and depth == pattern.count("/") for pattern in PUBLISHED)
        if not published or (VARIANT.fullmatch(name) and name not in weights):  # which no reader of these would load
            left_out.append(name)
            continue
        _check_link(path, folder)
        place = stage / name
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            place.symlink_to(path.resolve())
        except OSError:  # no right to make links, as on Windows
            shutil.copyfile(path, place)
    return left_out


def _check_link(path: Path, folder: Path) -> None:
    """Refuse a file that lies elsewhere; in the Hub's cache all files are links to their repository's blobs."""
    place, folder = path.resolve(), folder.resolve()
    in_cache = folder.parent.name == "snapshots" and place.parent == folder.parent.parent / "blobs"
    if not (place.is_relative_to(folder) or in_cache):
        raise ValueError(
            f"source: {str(path)!r} is a link that leads outside the checkpoint, to {str(place)!r}; what lies there "
            "was perhaps not meant to be published: put a copy in its place, or remove the link"
        )


def _stage_embedded_clip(predictor: SamPredictor, stage: Path) -> None:
    """Put the embedded checkpoint's CLIP beside it, and its curves under the name that this CLIP has there, too."""
    shutil.copytree(EMBEDDED_CLIP, stage / CLIP_FOLDER)
    calibration = Calibration.load(stage)
    here, there = (
        calibration_name(SamTextSegmenter(predictor, clip).grounding("dense"))
        for clip in (EMBEDDED_NAME, stage / CLIP_FOLDER)
    )
    behind, named = (name.removeprefix("dense") for name in (here, there))  # "/tiny"; "/clip-", fingerprint
    curves = calibration.curves
    for name in [name for name in curves if name.endswith(behind)]:
        curves[name.removesuffix(behind) + named] = curves[name]
    with _rewritten(stage, CALIBRATION):
        calibration.save(stage)


def _complete(
    folder: Path, stage: Path, repo_id: str, predictor: SamPredictor | None, dry_run: bool, license: str | None
) -> list[str]:
    """Add what the folder lacks; returns the pictures that a dry run does not draw. Without a predictor: none."""
    config, processor = SamConfig.from_pretrained(folder), SamProcessor.from_pretrained(folder)
    has_text = config.text_config is not None
    if has_text != (processor.text_config is not None):
        raise ValueError(
            f"the model in {str(folder)!r} {'has a' if has_text else 'has no'} text branch and its processor "
            f"{'has none' if has_text else 'has one'}: save the processor with text_config=model.config.text_config"
        )
    if config.is_extended or not all((stage / name).exists() for name in PROCESSOR_FILES):
        processor.extended = config.is_extended
        with _rewritten(stage, *PROCESSOR_FILES):
            processor.save_pretrained(stage)
    if config.is_extended:
        with _rewritten(stage, CONFIG):
            config.save_pretrained(stage)
    if not (stage / CARD).exists():
        facts = {"model_name": repo_id.split("/")[-1], "load_name": repo_id, "license": license}
        stated = {name: value for name, value in facts.items() if value is not None}
        (stage / CARD).write_text(card_for(stage, **stated), encoding="utf-8")
    elif license is not None:
        raise ValueError(f"license: {str(folder / CARD)!r} says it already; expected None, or no such file")
    planned = []
    if predictor is not None and not any((stage / "examples").glob("*")):
        if dry_run:
            planned = example_names(has_text)
        else:
            draw_examples(predictor, stage)
        _add_gallery(stage, has_text)
    return planned


@contextmanager
def _rewritten(stage: Path, *names: str) -> Iterator[None]:
    """Let go of links before new files are written in their place: the user's folder is not written to."""
    for name in names:
        (stage / name).unlink(missing_ok=True)
    yield


def _add_gallery(stage: Path, has_text: bool) -> None:
    card = stage / CARD
    text = card.read_text(encoding="utf-8")
    if f"]({example_names(has_text)[0]})" not in text:
        with _rewritten(stage, card.name):
            card.write_text(f"{text.rstrip()}\n\n{gallery(has_text)}", encoding="utf-8")


def _code_names() -> list[str]:
    """Names of the source files that checkpoints may carry."""
    return [path.name for path in source_files(MODELS | PROCESSORS)]


def _listed(stage: Path) -> list[tuple[str, int]]:
    return [
        (path.relative_to(stage).as_posix(), path.stat().st_size)
        for path in sorted(stage.rglob("*"))
        if path.is_file()
    ]
