"""Image embeddings that are worth keeping, because encoding is what costs.

An `ImageEmbedding` is one immutable value; an `EmbeddingStore` keeps the most recently used ones, bounded in bytes, in
memory and, if asked, in a folder. The key covers the image's content, the processor's settings, the weights of the
encoder and the dtype, so whatever would change the embedding changes the key.
"""

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ImageEmbedding:
    """What the image encoder made of one image, and what is needed to decode prompts on it.

    The tensor comes from `torch.inference_mode`, where PyTorch refuses to write into it: share it between threads.
    Two embeddings are equal if their keys are.

    Attributes:
        tensor: (1,C,h,w) image features on the device and in the dtype of the model that made them.
        original_size: (H,W) of the image, original pixels.
        input_size: (H,W) that the image was resized to, resized pixels.
        key: Names content, settings, weights and dtype; hexadecimal.
        revision: Fingerprint of the encoder that made it.
    """

    tensor: torch.Tensor
    original_size: tuple[int, int]
    input_size: tuple[int, int]
    key: str
    revision: str

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the features."""
        return self.tensor.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the features."""
        return self.tensor.numel() * self.tensor.element_size()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ImageEmbedding) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@dataclass(frozen=True)
class StoreStatistics:
    """Counts since the store was made, and what it holds now."""

    hits: int
    disk_hits: int
    misses: int
    evictions: int
    entries: int
    nbytes: int


def content_key(pixels: torch.Tensor, settings: str, revision: str) -> str:
    """Names an embedding before it exists.

    Args:
        pixels: The image as pixels of any layout; its values, shape and dtype count.
        settings: Whatever else decides the model's input, as text.
        revision: Fingerprint of the encoder, dtype included.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=32)
    digest.update(json.dumps([list(pixels.shape), str(pixels.dtype), settings, revision]).encode())
    digest.update(pixels.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


class EmbeddingStore:
    """The most recently used embeddings, bounded in bytes; one store may serve many threads and predictors.

    Args:
        max_bytes: Bound of what is kept in memory. An embedding larger than this is handed out and not kept;
            0 keeps nothing.
        folder: Also keep embeddings here, as `<key>.safetensors`, for the next process. Made if it does not exist.
        max_disk_bytes: Bound of what is kept in `folder`; those used longest ago are deleted first.

    Raises:
        ValueError: If a bound is negative.
    """

    def __init__(self, max_bytes: int = 2**28, folder: str | os.PathLike | None = None, max_disk_bytes: int = 2**33):
        for name, bound in (("max_bytes", max_bytes), ("max_disk_bytes", max_disk_bytes)):
            if bound < 0:
                raise ValueError(f"{name} must be 0 or more, got {bound}")
        self.max_bytes, self.max_disk_bytes = max_bytes, max_disk_bytes
        self.folder = None if folder is None else Path(folder)
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, ImageEmbedding] = OrderedDict()
        self._encoding: dict[str, Future[ImageEmbedding]] = {}
        self._nbytes = self._hits = self._disk_hits = self._misses = self._evictions = 0

    def __reduce__(self) -> tuple:
        """For copies and other processes: what is in memory stays behind."""
        return EmbeddingStore, (self.max_bytes, self.folder, self.max_disk_bytes)

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: str) -> bool:
        with self._lock:
            return key in self._kept or self._on_disk(key)

    def get(self, key: str) -> ImageEmbedding | None:
        """The embedding of that key from memory, else from the folder, else None."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                self._hits += 1
                return self._kept[key]
        embedding = self._read(key)
        with self._lock:
            if embedding is None:
                self._misses += 1
                return None
            self._disk_hits += 1
            self._keep(embedding)
        return embedding

    def put(self, embedding: ImageEmbedding) -> None:
        """Keeps an embedding; the ones used longest ago make room."""
        with self._lock:
            self._keep(embedding)
        self._write(embedding)

    def get_or_encode(self, key: str, encode: Callable[[], ImageEmbedding]) -> ImageEmbedding:
        """The embedding of that key, encoded if it is not known.

        Threads that ask for the same key at once wait for the one that encodes, so the work is done once; if it fails,
        its error is theirs too, and whoever comes next tries again.
        """
        embedding = self.get(key)
        if embedding is not None:
            return embedding
        with self._lock:
            if key in self._kept:  # another thread finished between the look-up and here
                return self._kept[key]
            pending = self._encoding.get(key)
            if pending is None:
                mine = self._encoding[key] = Future()
        if pending is not None:
            return pending.result()
        try:
            embedding = encode()
            self.put(embedding)
            mine.set_result(embedding)
            return embedding
        except BaseException as error:
            mine.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._encoding[key]

    def clear(self) -> None:
        """Forgets what is in memory; files stay."""
        with self._lock:
            self._kept.clear()
            self._nbytes = 0

    def statistics(self) -> StoreStatistics:
        """Counts and sizes at this moment."""
        with self._lock:
            counts = (self._hits, self._disk_hits, self._misses, self._evictions)
            return StoreStatistics(*counts, entries=len(self._kept), nbytes=self._nbytes)

    def _keep(self, embedding: ImageEmbedding) -> None:
        replaced = self._kept.pop(embedding.key, None)
        self._nbytes -= 0 if replaced is None else replaced.nbytes
        if embedding.nbytes > self.max_bytes:
            return
        self._kept[embedding.key] = embedding
        self._nbytes += embedding.nbytes
        while self._nbytes > self.max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._nbytes -= oldest.nbytes
            self._evictions += 1

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _on_disk(self, key: str) -> bool:
        return self.folder is not None and self._path(key).is_file()

    def _read(self, key: str) -> ImageEmbedding | None:
        if not self._on_disk(key):
            return None
        path = self._path(key)
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                record = json.loads((file.metadata() or {})["embedding"])
                with torch.inference_mode():
                    tensor = file.get_tensor("tensor").clone()
            if record["key"] != key or tensor.ndim != 4 or tensor.shape[0] != 1:
                raise ValueError("it holds something else")
            original, resized = (tuple(int(side) for side in record[name]) for name in ("original", "resized"))
            (_, _), (_, _) = original, resized
            os.utime(path)  # its turn to be deleted is now later
            return ImageEmbedding(tensor, original, resized, key, str(record["revision"]))
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            # Another process may have deleted it, a full disk may have cut it short: encoding again mends both.
            logger.warning("ignoring the stored embedding %s: %s", path.name, error)
            return None

    def _write(self, embedding: ImageEmbedding) -> None:
        if self.folder is None or self.max_disk_bytes < embedding.nbytes:
            return
        record = {"key": embedding.key, "revision": embedding.revision}
        record |= {"original": embedding.original_size, "resized": embedding.input_size}
        tensors = {"tensor": embedding.tensor.detach().cpu().contiguous()}
        content = safetensors.torch.save(tensors, metadata={"embedding": json.dumps(record)})
        part = None
        try:
            with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".part", delete=False) as file:
                part = file.name
                file.write(content)
            os.replace(part, self._path(embedding.key))
            self._tidy()
        except OSError as error:
            logger.warning("cannot keep an embedding in %s: %s", self.folder, error)
        finally:
            if part is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(part)

    def _tidy(self) -> None:
        files = []
        for path in self.folder.glob("*.safetensors"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                files.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.max_disk_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size
