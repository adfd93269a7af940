"""Alternating runs, ratios of medians, and the rows that are kept of them in `results/*.csv`."""

from __future__ import annotations

import csv
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
COLUMNS = (
    "date", "commit", "device", "threads", "torch", "transformers", "model", "what", "dtype", "batch", "peer", "ratio",
    "spread", "rounds", "quality", "note",
)  # fmt: skip


def alternate(runs: Mapping[str, Callable[[], Any]], rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of each run in each round; every round runs all of them, so that a busy machine slows all alike."""
    for run in list(runs.values()) * warmup:
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            _wait()
            start = time.perf_counter()
            runs[name]()
            _wait()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: Mapping[str, list[float]], ours: str, peer: str) -> tuple[float, float]:
    """How many times faster ours is: median over the rounds, and half the range of the middle half."""
    ratios = sorted(b / a for a, b in zip(seconds[ours], seconds[peer], strict=True))
    quarter = len(ratios) // 4
    return statistics.median(ratios), (ratios[-1 - quarter] - ratios[quarter]) / 2


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device_name(device: str = "cpu") -> str:
    """Model of the GPU or CPU."""
    if device != "cpu":
        return torch.cuda.get_device_name()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def commit() -> str:
    """Short hash of the working tree's commit, with "+" if there are changes on top of it."""
    try:
        here = {"cwd": Path(__file__).parent, "text": True}
        name = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], **here).strip()
        changed = subprocess.check_output(["git", "status", "--porcelain", "--", "../sam_hf"], **here).strip()
        return name + "+" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return ""


def keep(name: str, **row: Any) -> None:
    """Appends a measurement to `results/NAME.csv` and prints it."""
    import transformers

    row = {
        "date": date.today().isoformat(),
        "commit": commit(),
        "device": device_name(row.pop("device", "cpu")),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    } | {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.csv"
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if fresh:
            writer.writeheader()
        writer.writerow(row)
    shown = ("model", "what", "dtype", "batch", "peer", "ratio", "spread", "quality", "note")
    print("  ".join(f"{key} {row[key]}" for key in shown if row.get(key) not in (None, "")), flush=True)
