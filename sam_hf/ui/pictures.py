"""Pictures that people have open: immutable values under ids that nobody can guess, for a while and up to a size.

There is no session: whoever has the id may ask about the picture, and nobody else finds it. What several people open
is kept once. An id that is gone is said to be gone; it never leads to another picture.
"""

import secrets
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from sam_hf.inference.embedding_store import ImageEmbedding
from sam_hf.ui.reading import PictureFile

IDS_OF_A_PICTURE = 64  # on average
GONE = "this picture has expired, open it again"


class PictureGone(LookupError):
    """The id leads to no picture, or to none any more."""

    def __init__(self) -> None:
        super().__init__(GONE)


@dataclass(frozen=True, eq=False)
class OpenPicture:
    """A picture and what a checkpoint's encoder made of it.

    Attributes:
        file: As it came.
        checkpoint: Whose embedding it is.
        embedding: See `ImageEmbedding`.
    """

    file: PictureFile
    checkpoint: str
    embedding: ImageEmbedding

    @property
    def nbytes(self) -> int:
        """Bytes that keeping it takes."""
        return len(self.file.content) + self.embedding.nbytes


class PictureStore:
    """The pictures used last, bounded in bytes, number and time; for any number of threads.

    Args:
        max_bytes: Bound of what is kept: files and embeddings. The newest picture stays in any case.
        max_pictures: Bound of how many different ones are kept.
        seconds: How long a picture stays after it was last used.
        clock: Seconds that never run backwards.

    Raises:
        ValueError: If a bound is not positive.
    """

    def __init__(
        self,
        max_bytes: int = 500_000_000,
        max_pictures: int = 128,
        seconds: float = 3600.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        for name, bound in (("max_bytes", max_bytes), ("max_pictures", max_pictures), ("seconds", seconds)):
            if bound <= 0:
                raise ValueError(f"{name} must be above 0, got {bound}")
        self.max_bytes, self.max_pictures, self.seconds = max_bytes, max_pictures, seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._open: OrderedDict[str, tuple[OpenPicture, float]] = OrderedDict()  # by id, with the last use
        self._shared: dict[tuple[str, str], OpenPicture] = {}  # by content and embedding
        self._uses: Counter[tuple[str, str]] = Counter()
        self._nbytes = 0
        self._sweeper: threading.Timer | None = None

    def __len__(self) -> int:
        with self._lock:
            return len(self._open)

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept."""
        return self._nbytes

    def add(self, picture: OpenPicture) -> str:
        """Keeps a picture; those used longest ago make room.

        Returns:
            Its id, 22 characters or more, new each time.
        """
        name = secrets.token_urlsafe(24)
        key = _key(picture)
        with self._lock:
            self._drop_expired()
            if self._uses[key] == 0:
                self._shared[key] = picture
                self._nbytes += picture.nbytes
            self._uses[key] += 1
            kept = self._shared[key]
            if kept.file.name != picture.file.name:  # the same picture by another name: its bytes are shared
                file = PictureFile(kept.file.content, picture.file.name, kept.file.size, kept.file.sha256)
                kept = OpenPicture(file, kept.checkpoint, kept.embedding)
            self._open[name] = (kept, self._clock())
            while len(self._open) > 1 and (
                self._nbytes > self.max_bytes
                or len(self._shared) > self.max_pictures
                or len(self._open) > IDS_OF_A_PICTURE * self.max_pictures
            ):
                self._drop(next(iter(self._open)))
            self._plan_sweep()
        return name

    def get(self, name: object) -> OpenPicture:
        """The picture of an id, whose time begins anew.

        Raises:
            PictureGone: If there is none, or none any more.
        """
        with self._lock:
            self._drop_expired()
            if not isinstance(name, str) or name not in self._open:
                raise PictureGone
            picture, _ = self._open[name]
            self._open[name] = (picture, self._clock())
            self._open.move_to_end(name)
            return picture

    def clear(self) -> None:
        """Forgets all pictures."""
        with self._lock:
            for name in list(self._open):
                self._drop(name)
            if self._sweeper is not None:
                self._sweeper.cancel()
                self._sweeper = None

    def _drop_expired(self) -> None:
        oldest = self._clock() - self.seconds
        while self._open:
            name, (_, used) = next(iter(self._open.items()))
            if used > oldest:
                break
            self._drop(name)

    def _drop(self, name: str) -> None:
        picture, _ = self._open.pop(name)
        key = _key(picture)
        self._uses[key] -= 1
        if self._uses[key] == 0:
            del self._uses[key]
            self._nbytes -= self._shared.pop(key).nbytes

    def _plan_sweep(self) -> None:
        """Memory goes back without anybody asking for it."""
        if self._sweeper is None:
            self._sweeper = threading.Timer(self.seconds / 4, self._sweep)
            self._sweeper.daemon = True
            self._sweeper.start()

    def _sweep(self) -> None:
        with self._lock:
            self._sweeper = None
            self._drop_expired()
            if self._open:
                self._plan_sweep()


def _key(picture: OpenPicture) -> tuple[str, str]:
    return picture.file.sha256, picture.embedding.key
