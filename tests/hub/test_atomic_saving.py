"""Saving: until all is written the earlier files are as they were, and what fails leaves nothing behind."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from sam_hf import SamModel, SamProcessor
from sam_hf.model import atomic_saving
from sam_hf.model.atomic_saving import PART, replaced_whole, saved_whole


@pytest.fixture(scope="module")
def model(text_checkpoint):
    return SamModel.from_pretrained(text_checkpoint)


def _marked(model: SamModel, value: float) -> SamModel:
    with torch.no_grad():
        model.mask_decoder.iou_token.weight.fill_(value)
    return model


def _mark(folder: Path) -> float:
    return float(SamModel.from_pretrained(folder).mask_decoder.iou_token.weight[0, 0].detach())


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _fails(name: str, error: Exception):
    """Writes as it should, until the file of that name: half of it is there, and no more comes."""
    real = open

    def opened(path, mode="r", *args, **kwargs):
        if "w" in mode and os.path.basename(str(path)) == name:
            with real(path, "w") as file:
                file.write("{")
            raise error
        return real(path, mode, *args, **kwargs)

    return opened


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()], ids=["full", "Ctrl-C"])
@pytest.mark.parametrize("fresh", [True, False], ids=["a new folder", "over an old one"])
def test_a_failure_while_weights_are_written(error, fresh, model, tmp_path, monkeypatch):
    folder = tmp_path / "deep" / "folder"
    if not fresh:
        _marked(model, 1.0).save_pretrained(folder)
        (folder / "notes.txt").write_text("mine")
    before = _contents(tmp_path)

    def half(tensors, filename, metadata=None):
        Path(filename).write_bytes(b"half")
        raise error

    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", half)
    with pytest.raises(type(error)) as caught:
        _marked(model, 2.0).save_pretrained(folder)
    assert _contents(tmp_path) == before
    if fresh:
        assert not list(tmp_path.iterdir())
    else:
        assert not list(folder.glob(f"{PART}*")) and _mark(folder) == 1.0
    if isinstance(error, OSError):
        assert (
            caught.value.errno == errno.ENOSPC and "untouched" in str(caught.value) and "folder" in str(caught.value)
        )


@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json", "config.json"])
def test_a_failure_while_json_is_written(file, model, text_checkpoint, tmp_path, monkeypatch):
    processor = SamProcessor.from_pretrained(text_checkpoint)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    before = _contents(tmp_path)
    monkeypatch.setattr("builtins.open", _fails(file, FULL))
    with pytest.raises(OSError, match="nothing was saved"):
        (model.config if file == "config.json" else processor).save_pretrained(tmp_path)
    monkeypatch.undo()
    assert _contents(tmp_path) == before
    monkeypatch.setattr("builtins.open", _fails("preprocessor_config.json", FULL))
    with pytest.raises(OSError, match="nothing was saved"):
        processor.image_processor.save_pretrained(tmp_path)
    monkeypatch.undo()
    assert _contents(tmp_path) == before


@pytest.fixture
def small_disk(tmp_path):
    """A disk of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("no disk may be mounted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_disk_that_is_really_full(small_disk, model):
    _marked(model, 1.0).save_pretrained(small_disk)
    (small_disk / "filler").write_bytes(bytes(400_000))
    before = _contents(small_disk)
    with pytest.raises(OSError, match="No space left"):
        with saved_whole(small_disk) as part:
            _marked(model, 2.0).save_pretrained(part)
            (Path(part) / "more").write_bytes(bytes(900_000))
    assert _contents(small_disk) == before and _mark(small_disk) == 1.0
    with pytest.raises(OSError, match="No space left"):  # as safetensors says it
        with saved_whole(small_disk) as part:
            from safetensors.torch import save_file

            save_file({"x": torch.zeros(300_000)}, Path(part) / "model.safetensors")
    assert _contents(small_disk) == before


WRITER = """
import sys, time, types
from pathlib import Path
room = sys.modules["room"] = types.ModuleType("room")  # alone: all of the package takes half a minute to import
room.__path__ = [str(Path(sys.argv[2]).parent)]
from room.atomic_saving import saved_whole
with saved_whole(sys.argv[1]) as part:
    (Path(part) / "model.safetensors").write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_kill_while_weights_are_written(model, tmp_path, monkeypatch):
    _marked(model, 1.0).save_pretrained(tmp_path)
    before = _contents(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, tmp_path, atomic_saving.__file__], stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout.readline() == b"writing\n"
        writer.send_signal(signal.SIGKILL)
    left = list(tmp_path.glob(f"{PART}*"))
    assert len(left) == 1 and _contents(tmp_path).items() >= before.items() and _mark(tmp_path) == 1.0
    _marked(model, 2.0).save_pretrained(tmp_path)  # perhaps somebody else's, who still writes: it stays
    assert left[0].exists() and _mark(tmp_path) == 2.0
    os.utime(left[0], (0, time.time() - 2 * atomic_saving.STALE))
    model.save_pretrained(tmp_path)
    assert not left[0].exists()


def test_a_folder_that_may_not_be_written(model, tmp_path, monkeypatch):
    _marked(model, 1.0).save_pretrained(tmp_path)
    before = _contents(tmp_path)
    tmp_path.chmod(0o555)
    if os.access(tmp_path, os.W_OK):  # an administrator may write everywhere

        def refuse(*args, **kwargs):
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(atomic_saving.tempfile, "mkdtemp", refuse)
    try:
        with pytest.raises(PermissionError, match="untouched"):
            _marked(model, 2.0).save_pretrained(tmp_path)
    finally:
        tmp_path.chmod(0o755)
    assert _contents(tmp_path) == before and _mark(tmp_path) == 1.0


def test_a_file_in_the_way(model, tmp_path):
    (tmp_path / "file").write_text("mine")
    for saver in (model, model.config):
        with pytest.raises(OSError, match="expected a folder, got a file"):
            saver.save_pretrained(tmp_path / "file")
    (tmp_path / "folder" / "config.json").mkdir(parents=True)
    with pytest.raises(OSError, match="a folder stands where a file"):
        model.save_pretrained(tmp_path / "folder")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["config.json"]


def test_one_file_or_several_the_last_save_is_loaded(model, tmp_path):
    def names():
        return sorted(path.name for path in tmp_path.iterdir() if "safetensors" in path.name)

    for mark, size in enumerate(["1GB", "40KB", "40KB", "20KB", "1GB"]):
        _marked(model, float(mark)).save_pretrained(tmp_path, max_shard_size=size)
        assert _mark(tmp_path) == mark
        assert (names() == ["model.safetensors"]) == (size == "1GB")
        assert len({name.split("-of-")[1] for name in names() if "-of-" in name}) == (size != "1GB")
    model.save_pretrained(tmp_path, variant="half", max_shard_size="40KB")
    assert "model.safetensors" in names() and "model.safetensors.index.half.json" in names()
    model.save_pretrained(tmp_path, variant="half")
    assert names() == ["model.half.safetensors", "model.safetensors"]


def test_a_link_is_replaced_and_not_written_through(model, tmp_path):
    """As in the Hub's cache, where the files of a snapshot are links to contents that others use too."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "content").write_text("another's")
    (tmp_path / "config.json").symlink_to(tmp_path / "cache" / "content")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "cache" / "content").read_text() == "another's" and not (tmp_path / "config.json").is_symlink()


def test_what_a_processor_says_it_has_written_is_there(text_checkpoint, tmp_path):
    processor = SamProcessor.from_pretrained(text_checkpoint)
    alone = processor.image_processor.save_pretrained(tmp_path / "alone")
    assert [Path(path).name for path in alone] == ["preprocessor_config.json"] and Path(alone[0]).is_file()
    written = processor.save_pretrained(tmp_path)
    assert written and all(Path(path).is_file() and Path(path).parent == tmp_path for path in written)


def test_a_whole_folder_is_replaced_or_stays(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoint"
    for content in ("old", "new"):
        with replaced_whole(folder) as part:
            (part / content).write_text(content)
    assert _contents(tmp_path) == {"checkpoint/new": b"new"}
    with pytest.raises(RuntimeError):
        with replaced_whole(folder) as part:
            (part / "newer").write_text("newer")
            raise RuntimeError
    assert _contents(tmp_path) == {"checkpoint/new": b"new"}
    real = Path.rename

    def refuse(self, target):
        if self.name == "new":
            raise OSError(errno.EIO, "Input/output error")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError):
        with replaced_whole(folder) as part:
            (part / "newer").write_text("newer")
    monkeypatch.undo()
    assert _contents(tmp_path) == {"checkpoint/new": b"new"}


def test_others_folders_and_links_stay(tmp_path):
    """Two at the same time do not meet, and names that a user may have chosen are the user's."""
    folder, link = tmp_path / "checkpoint", tmp_path / "link"
    for name in ("checkpoint.partial", ".checkpoint.earlier"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("mine")
    folder.mkdir()
    link.symlink_to(folder)
    with replaced_whole(folder) as one, replaced_whole(link) as other:
        assert one != other
        (one / "file").write_text("one")
        (other / "file").write_text("other")
    assert link.is_symlink() and _contents(folder) == {"file": b"one"}
    assert {path.name for path in tmp_path.iterdir()} == {
        "checkpoint",
        "link",
        "checkpoint.partial",
        ".checkpoint.earlier",
    }
    assert (tmp_path / "checkpoint.partial" / "mine").exists() and (tmp_path / ".checkpoint.earlier" / "mine").exists()


@pytest.mark.parametrize("save", [saved_whole, replaced_whole])
def test_files_are_on_the_disk_before_they_take_a_place(save, tmp_path, monkeypatch):
    folder, done = tmp_path / "folder", []
    opened, replace, rename, fsync = os.open, os.replace, Path.rename, os.fsync
    open_files = {}

    def open_(path, *args, **kwargs):
        descriptor = opened(path, *args, **kwargs)
        open_files[descriptor] = Path(path).name
        return descriptor

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "fsync", lambda number: (done.append(("disk", open_files[number])), fsync(number)))
    monkeypatch.setattr(os, "replace", lambda *a: (done.append(("place", Path(a[1]).name)), replace(*a)))
    monkeypatch.setattr(Path, "rename", lambda *a: (done.append(("place", Path(a[1]).name)), rename(*a))[1])
    with save(folder) as part:
        for name in ("config.json", "model.safetensors"):
            (Path(part) / name).write_text(name)
    places = [step for step, (what, _) in enumerate(done) if what == "place"]
    assert places and {name for what, name in done[: places[0]]} == {"config.json", "model.safetensors"}
    assert done[places[-1] + 1 :] == [("disk", "folder" if save is saved_whole else tmp_path.name)]


def test_a_disk_that_breaks_at_the_end(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("old")

    def breaks(number):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", breaks)
    with pytest.raises(OSError, match="untouched"), saved_whole(tmp_path) as part:
        (Path(part) / "config.json").write_text("new")
    assert _contents(tmp_path) == {"config.json": b"old"}
    monkeypatch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError(errno.EINVAL, "Invalid argument")))
    with saved_whole(tmp_path) as part:  # a file system that knows no such thing
        (Path(part) / "config.json").write_text("new")
    assert _contents(tmp_path) == {"config.json": b"new"}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_others_may_read_what_the_user_lets_them_read(umask, model, tmp_path):
    before = os.umask(umask)
    try:
        model.save_pretrained(tmp_path / "saved")
        with replaced_whole(tmp_path / "replaced") as part:
            model.save_pretrained(part)
    finally:
        os.umask(before)
    for folder in ("saved", "replaced"):
        assert (tmp_path / folder / "model.safetensors").exists()
        modes = {file.stat().st_mode & 0o777 for file in (tmp_path / folder).iterdir()}
        assert modes == {0o666 & ~umask}


@pytest.mark.parametrize("turn", range(3))
def test_two_that_save_at_the_same_time_are_one_after_the_other(turn, tmp_path, monkeypatch):
    """Shards of the same names, of two models: they are one's or the other's."""
    names = ["config.json", *(f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3))]
    names.append("model.safetensors.index.json")
    ready, real = threading.Barrier(3), os.replace

    def slowly(*args):
        time.sleep(0.002)
        real(*args)

    monkeypatch.setattr(os, "replace", slowly)

    def save(content):
        with saved_whole(tmp_path) as part:
            for name in names:
                (Path(part) / name).write_bytes(content)
            ready.wait()

    with ThreadPoolExecutor(3) as savers:
        list(savers.map(save, [b"one", b"two", b"three"]))
    assert sorted(_contents(tmp_path)) == names and len(set(_contents(tmp_path).values())) == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows locks no folders")
@pytest.mark.parametrize("save", [saved_whole, replaced_whole])
def test_it_waits_for_another_process(save, tmp_path):
    """A lock belongs to whoever has opened the folder, be it in this process or another."""
    import fcntl

    folder = tmp_path / "folder"
    folder.mkdir()
    other = os.open(folder if save is saved_whole else tmp_path, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)

    def write():
        with save(folder) as part:
            (Path(part) / "config.json").write_text("new")

    with ThreadPoolExecutor(1) as saver:
        writing = saver.submit(write)
        time.sleep(0.2)
        assert not writing.done() and not (folder / "config.json").exists()
        os.close(other)
        writing.result(10)
    assert _contents(folder) == {"config.json": b"new"}


@pytest.mark.parametrize("linked", [True, False], ids=["links", "no links"])
@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()], ids=["I/O", "Ctrl-C"]
)
def test_a_failure_while_files_change_places(error, linked, tmp_path, monkeypatch):
    """Whichever of the files cannot be put into place: the folder is wholly the old one."""
    old = {"config.json": b"old", "model.safetensors": b"old", "notes.txt": b"mine"}
    new = ["config.json", "code.py", "deep/file", "model-00001-of-00002.safetensors"]
    new += ["model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    real = os.replace
    if not linked:
        monkeypatch.setattr(
            os, "link", lambda *args, **kwargs: (_ for _ in ()).throw(OSError(errno.EPERM, "no links"))
        )

    def save(folder, fails_at):
        count = 0

        def replace(source, target):
            nonlocal count
            count += 1
            if count - 1 == fails_at:
                raise error
            return real(source, target)

        with monkeypatch.context() as patch, saved_whole(folder) as part:
            for name in new:
                (Path(part) / name).parent.mkdir(exist_ok=True)
                (Path(part) / name).write_bytes(b"new")
            patch.setattr(atomic_saving.os, "replace", replace)

    for fails_at in range(len(new)):
        for before in (old, dict.fromkeys(new, b"old")):  # another cut of the weights; the same names
            folder = tmp_path / f"{fails_at}-{len(before)}"
            for name, content in before.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
            with pytest.raises(type(error), match="untouched" if isinstance(error, OSError) else None):
                save(folder, fails_at)
            assert _contents(folder) == before and not list(folder.glob(f"{PART}*"))
    save(folder, -1)
    assert set(_contents(folder).values()) == {b"new"} and not list(folder.glob(f"{PART}*"))
