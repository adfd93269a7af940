"""What the command line shows: results on stdout, progress and messages on stderr, one image after the other."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

# typer brings its own copy of click or imports click, by version; both have this base of everything a user gets wrong.
UsageProblem = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

messages = Console(stderr=True, highlight=False, soft_wrap=True)


def for_each(
    paths: Sequence[Path],
    names: Sequence[str],
    work: Callable[[Path, str, Callable[..., None]], str],
    problems: Sequence[str] = (),
    show: Callable[[str], AbstractContextManager[Callable[..., None]]] | None = None,
) -> None:
    """Does the work for every image; one that fails does not stop the others.

    Args:
        paths: The images.
        names: Of their results.
        work: Is given a path, a name and what to report progress to; gives a line for stdout.
        problems: What has failed already.
        show: Shows the progress.

    Raises:
        UsageProblem: If the only image cannot be used.
        typer.Exit: With code 1 if some of several failed, or results cannot be written.
        KeyboardInterrupt: If it was interrupted; what is finished has been said then.
    """
    failures, finished, total = list(problems), [], len(paths) + len(problems)
    for number, (path, name) in enumerate(zip(paths, names, strict=True), start=1):
        count = f" ({number}/{len(paths)})" if len(paths) > 1 else ""
        try:
            with (show or progress)(f"{path}{count}") as report:
                line = work(path, name, report)
        except ValueError as error:
            failures.append(str(error))
        except (MemoryError, RuntimeError) as error:  # torch says "out of memory" by a RuntimeError
            failures.append(f"{str(path)!r} could not be segmented: {first_line(error) or 'out of memory'}")
        except OSError as error:
            say(f"sam-hf: cannot write the results of {str(path)!r}: {error.strerror or first_line(error)}")
            raise typer.Exit(1) from error
        except KeyboardInterrupt:
            last = f", the last one {str(finished[-1])!r}" if finished else ""
            say(f"sam-hf: {len(finished)} of {len(paths)} images are finished{last}")
            raise
        else:
            finished.append(path)
            print_line(line)  # not while progress is shown: rich would send it to stderr
    if failures and total == 1:
        raise UsageProblem(failures[0])
    if failures:
        say(f"sam-hf: {len(failures)} of {total} images failed:", *(f"  {failure}" for failure in failures))
        raise typer.Exit(1)


@contextmanager
def progress(what: str) -> Iterator[Callable[[str], None]]:
    """Shows what is under way: moving on a terminal, as one line elsewhere."""
    if not messages.is_terminal:
        say(what)
        yield lambda step: None
        return
    with messages.status(escape(what)) as status:
        yield lambda step: status.update(escape(f"{what}: {step}"))


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Shows how far the work is: as a bar on a terminal, as one line elsewhere."""
    if not messages.is_terminal:
        say(what)
        yield lambda done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=messages, transient=True) as progress:
        task = progress.add_task(escape(what), total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def print_line(line: str) -> None:
    """Writes a line to stdout, whatever its file names consist of and whether or not anybody still reads."""
    try:
        print(_printable(line, sys.stdout), flush=True)
    except BrokenPipeError:  # `| head` has seen enough; the results are in files, so the work goes on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _printable(line: str, stream: Any) -> str:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return line.encode(encoding, "backslashreplace").decode(encoding)


def say(*lines: str) -> None:
    for line in lines:
        messages.print(_printable(line, sys.stderr), markup=False)


def clear_up_when_ended() -> None:
    """Makes SIGTERM end the process like Ctrl-C does, so that temporary files are cleared on the way out."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
