"""The decoder that a browser runs: two ONNX files per checkpoint, exported once and kept on this machine.

They lie under the name of what they are made from, weights and exporting code, so they are never out of date; and they
are moved into place as a whole, so they are never half there. A process of its own exports them: torch's exporter
changes how modules are called while it is at work, for every thread of a process.
"""

import atexit
import contextlib
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import torch

from sam_hf.inference.predictor import SamPredictor

PACKAGE = Path(__file__).resolve().parent.parent
FILES = {"per_image": "decoder_per_image_fp16.onnx", "per_click": "decoder_per_click.onnx"}
LONGEST_EXPORT = 900  # seconds
CODE = ("exported_decoder.py", "exported_parts.py", "onnx_export.py", "onnx_graphs.py")


@dataclass(frozen=True)
class BrowserDecoder:
    """What a browser needs to decode prompts of one checkpoint.

    Attributes:
        per_image: ONNX file, run once per picture; its embedding is float16.
        per_click: ONNX file, run at each click.
        image_size: S, the longest side of the resized picture.
        grid: (h,w) of the image embedding.
        channels: C of the image embedding.
        text_width: D of text vectors, 0 without a text branch.
    """

    per_image: Path
    per_click: Path
    image_size: int
    grid: tuple[int, int]
    channels: int
    text_width: int


def cache_folder() -> Path:
    """Where exported decoders are kept: `$SAM_HF_CACHE`, else `sam_hf` in the user's cache folder."""
    if os.environ.get("SAM_HF_CACHE"):
        return Path(os.environ["SAM_HF_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sam_hf"


class BrowserDecoders:
    """Decoders of checkpoints; each is exported by the first who asks, the others wait.

    Args:
        folder: Where files are kept; None: `cache_folder()`. One that cannot be written to is replaced by a temporary
            one.
    """

    def __init__(self, folder: Path | None = None):
        self._folder = cache_folder() if folder is None else Path(folder)
        self._lock = threading.Lock()
        self._exporting: dict[str, threading.Lock] = {}
        self._made: dict[str, BrowserDecoder] = {}

    def get(self, source: str, predictor: SamPredictor) -> BrowserDecoder:
        """The decoder of a checkpoint.

        Args:
            source: What it was loaded from: "tiny", a Hub id or a folder.
            predictor: The same in memory.

        Raises:
            ImportError: What exports ONNX files is not installed.
            OSError: The files can be kept nowhere, or exporting them failed.
        """
        key = _key(predictor)
        with self._lock:
            turn = self._exporting.setdefault(key, threading.Lock())
        with turn:  # of this checkpoint; others are exported meanwhile
            found = self._there(key)
            if found is None:
                found = self._made[key] = self._describe(predictor, self._files(source, key))
            return found

    def made(self, predictor: SamPredictor) -> BrowserDecoder | None:
        """The decoder of a checkpoint if this process has it; nobody waits for that."""
        return self._there(_key(predictor))

    def _there(self, key: str) -> BrowserDecoder | None:
        found = self._made.get(key)
        return found if found is not None and found.per_image.is_file() and found.per_click.is_file() else None

    def _files(self, source: str, key: str) -> Path:
        place = self._folder / "browser_decoders" / key
        if _complete(place):
            return place
        try:
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            workplace = Path(tempfile.mkdtemp(dir=place.parent, prefix=".export-"))
        except OSError:  # no folder of ours: keep the files while this process runs
            self._folder = Path(tempfile.mkdtemp(prefix="sam_hf-decoders-"))
            atexit.register(shutil.rmtree, self._folder, ignore_errors=True)
            return self._files(source, key)
        try:
            _export(source, workplace)
            with contextlib.suppress(OSError):  # another process was faster: then its files are as good
                os.rename(workplace, place)
        finally:
            shutil.rmtree(workplace, ignore_errors=True)
        if not _complete(place):
            raise OSError(f"the browser's decoder could not be kept in {place.parent}")
        return place

    @staticmethod
    def _describe(predictor: SamPredictor, place: Path) -> BrowserDecoder:
        config = predictor.model.config
        side = config.prompt_encoder_config.image_embedding_size
        return BrowserDecoder(
            per_image=place / FILES["per_image"],
            per_click=place / FILES["per_click"],
            image_size=config.vision_config.image_size,
            grid=(side, side),
            channels=config.prompt_encoder_config.hidden_size,
            text_width=0 if config.text_config is None else config.text_config.embed_dim,
        )


def main(source: str, folder: str) -> None:
    """Exports the two files of a checkpoint into a folder; in a process of its own."""
    from transformers.utils import logging

    from sam_hf.hub.onnx_export import export_onnx
    from sam_hf.model.modeling_sam import SamModel

    logging.disable_progress_bar()
    torch.set_num_threads(1)  # people are waiting for clicks meanwhile
    with contextlib.suppress(OSError, AttributeError):
        os.nice(10)
    model = SamModel.from_pretrained(source).eval()
    export_onnx(model, folder, ["decoder_per_image"], ["float16"])
    export_onnx(model, folder, ["decoder_per_click"], ["float32"])


def _export(source: str, folder: Path) -> None:
    from sam_hf.hub.onnx_export import require_onnx

    require_onnx()
    found = os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "sam_hf.ui.browser_decoder", source, str(folder)]
    environment = {**os.environ, "PYTHONPATH": found}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=LONGEST_EXPORT)
    except subprocess.TimeoutExpired:  # it is ended
        raise OSError(f"exporting the decoder took more than {LONGEST_EXPORT} seconds") from None
    if done.returncode != 0 or not _complete(folder):
        raise OSError(f"exporting the decoder failed: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")


def _complete(place: Path) -> bool:
    return all((place / name).is_file() for name in FILES.values())


def _key(predictor: SamPredictor) -> str:
    """Names the weights and the code that the files are made from."""
    digest = hashlib.blake2b(predictor.decoder_revision.encode(), digest_size=16)
    digest.update(f"{importlib.metadata.version('torch')} {predictor.model.config.vision_config.image_size}".encode())
    for name in CODE:
        digest.update((PACKAGE / "hub" / name).read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main(*sys.argv[1:])
