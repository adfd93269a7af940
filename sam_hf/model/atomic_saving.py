"""Saving that leaves no half a checkpoint: files are written aside, and put into place when all of them are there.

A full disk, a missing permission or a kill while the weights are written leaves the earlier files as they were. What
is new is on the disk before it takes a place, so that a power cut leaves no empty file either.
"""

import errno
import os
import re
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from .checkpoint_files import VARIANT

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PART = ".sam_hf-saving-"
REPLACED = "replaced"
PERMISSIONS = ".sam_hf-permissions"
_THREADS = threading.Lock()
STALE = 3600.0  # seconds after which what a killed save has left is nobody's any more


@contextmanager
def saved_whole(folder: str | os.PathLike) -> Iterator[str]:
    """A folder to write into; its files take the places of their namesakes in `folder` once the block is through.

    Other files of `folder` stay, except weights that the new ones replace: a model that was one file and is several
    now, or the other way round, would otherwise be loaded from the old ones.

    Args:
        folder: Where the files go; made if needed.

    Raises:
        OSError: The disk refuses, or `folder` is a file. Then nothing in `folder` has changed.
    """
    target = Path(os.path.realpath(folder))
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "save_directory: expected a folder, got a file", str(folder))
    made = [place for place in (target, *target.parents) if not place.exists()]
    part = None
    try:
        target.mkdir(parents=True, exist_ok=True)
        _remove_stale(target)
        part = Path(tempfile.mkdtemp(prefix=PART, dir=target))  # inside: a rename stays on one file system
        yield str(part)
        _settle(part)
        with _alone(target):
            _put_into_place(part, target)
    except SafetensorError as error:  # how safetensors says that the disk is full
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise _refused(int(number[1]), os.strerror(int(number[1])), folder) from error
    except OSError as error:
        if error.errno is None or isinstance(error, FileExistsError):
            raise
        raise _refused(error.errno, error.strerror, folder) from error
    finally:
        if part is not None and not (part / REPLACED).exists():  # unless it holds what could not be put back
            shutil.rmtree(part, ignore_errors=True)
        for place in made:
            with suppress(OSError):  # it holds files by now
                place.rmdir()


@contextmanager
def replaced_whole(folder: str | os.PathLike) -> Iterator[Path]:
    """An empty folder to write into, which takes the place of all of `folder` once the block is through.

    Raises:
        OSError: The disk refuses. Then `folder` is as it was.
    """
    folder = Path(os.path.realpath(folder))  # where a link leads, so that the link stays one
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(folder.parent)
    aside = Path(tempfile.mkdtemp(prefix=PART, dir=folder.parent))  # nobody else's, whatever runs at the same time
    partial, earlier = aside / "new", aside / "earlier"
    try:
        partial.mkdir()
        yield partial
        _settle(partial)
        with _alone(folder.parent):
            if folder.exists():
                folder.rename(earlier)
            try:
                partial.rename(folder)
            except OSError:
                if earlier.exists():
                    earlier.rename(folder)
                raise
            _flush(folder.parent)
    finally:
        if folder.exists() or not earlier.exists():  # otherwise it holds all that there is
            shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One after the other: threads of this process, and where the system can lock a folder, other processes too.

    The lock is on the folder itself: no file of it stays behind, and a kill frees it.
    """
    with _THREADS, ExitStack() as opened:
        if fcntl is not None:
            with suppress(OSError):  # a network's file system that has no locks
                number = os.open(folder, os.O_RDONLY)
                opened.callback(os.close, number)
                fcntl.flock(number, fcntl.LOCK_EX)
        yield


def _refused(number: int, reason: str | None, folder: str | os.PathLike) -> OSError:
    # OSError(number, ...) is the class that goes with the number, such as PermissionError.
    return OSError(number, f"{reason}: nothing was saved, what was there before is untouched", str(folder))


def _remove_stale(target: Path) -> None:
    for part in target.glob(f"{PART}*"):
        with suppress(OSError):
            kept = any(
                (part / name).exists() for name in ("earlier", REPLACED)
            )  # of a kill while files changed places
            if time.time() - part.stat().st_mtime > STALE and not kept:
                shutil.rmtree(part, ignore_errors=True)


def _put_into_place(part: Path, target: Path) -> None:
    """Rename every file; weights after everything else, and the index that says which files they are last.

    The caller holds `_alone`: the files of two that save at the same time would be a mixture.
    """
    names = [path.relative_to(part) for path in part.rglob("*") if path.is_file()]
    names.sort(key=lambda name: (".safetensors" in name.name, ".index." in name.name, str(name)))
    blocked = next((name for name in names if (target / name).is_dir()), None)
    if blocked is not None:
        raise FileExistsError(errno.EEXIST, "a folder stands where a file is to be saved", str(target / blocked))
    obsolete = obsolete_weights({name.name for name in names}, os.listdir(target))
    indexes = []
    if any(VARIANT.fullmatch(name.name) and "-of-" in name.name and (target / name).exists() for name in names):
        # Shards of the same names: between two renames they are a mixture, which nobody may take for a model.
        for index in target.glob("model.safetensors.index*.json"):
            if (part / index.name).exists():
                indexes.append(Path(index.name))
    earlier = part / REPLACED
    kept, new = [], []
    try:
        for name in [*names, *map(Path, obsolete)]:
            if os.path.lexists(target / name):
                (earlier / name).parent.mkdir(parents=True, exist_ok=True)
                _keep(target / name, earlier / name)
                kept.append(name)
        for name in indexes:
            (target / name).unlink()
        for name in names:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(part / name, target / name)
            new.append(name)
        for name in obsolete:
            (target / name).unlink(missing_ok=True)
        _flush(target)
    except BaseException as error:
        _put_back(earlier, target, kept, new, error)
        raise
    shutil.rmtree(earlier, ignore_errors=True)


def _settle(folder: Path) -> None:
    """Have all files of a folder on the disk, with the permissions of a new file: safetensors' are their owner's."""
    probe = folder / PERMISSIONS
    probe.touch()
    permissions = stat.S_IMODE(probe.stat().st_mode)  # asking for the umask is changing it, for all threads
    probe.unlink()
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(permissions)
            _flush(file)


def _flush(place: Path) -> None:
    """Have a file's content, or a folder's names, on the disk; Windows has no such thing for folders."""
    try:
        opened = os.open(place, os.O_RDONLY)
    except OSError:
        if place.is_dir():
            return
        raise
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):  # a file system that knows no such thing
            raise
    finally:
        os.close(opened)


def _keep(source: Path, place: Path) -> None:
    """A second name for a file; a copy where the file system has no such thing."""
    try:
        os.link(source, place, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(source, place, follow_symlinks=False)


def _put_back(earlier: Path, target: Path, kept: list[Path], new: list[Path], error: BaseException) -> None:
    """Make the folder what it was; files that had no namesake go."""
    try:
        for name in new:
            if name not in kept:
                (target / name).unlink(missing_ok=True)
        for name in reversed(kept):  # the index last, as it is the first to go
            place = target / name
            if os.path.lexists(place) and os.path.samestat(place.lstat(), (earlier / name).lstat()):
                continue  # it has not been replaced
            (earlier / name).replace(place)
    except OSError as second:
        reason = f"{error}; what was there before could not be put back ({second}) and lies in {str(earlier)!r}"
        raise RuntimeError(f"saving failed while files changed places: {reason}") from error
    shutil.rmtree(earlier, ignore_errors=True)


def obsolete_weights(names: Iterable[str], present: Iterable[str]) -> list[str]:
    """Which of the files present are earlier weights of the same variant as `names`, in other files; index included.

    Readers take one file before several, so what stays behind may be loaded in place of what is new.
    """
    names = set(names)
    stems = {found["stem"] for name in names if (found := VARIANT.fullmatch(name))}
    indexes = {f"model.safetensors.index{stem.removeprefix('model')}.json" for stem in stems}
    return [
        name
        for name in present
        if name not in names
        and (name in indexes or ((found := VARIANT.fullmatch(name)) is not None and found["stem"] in stems))
    ]
