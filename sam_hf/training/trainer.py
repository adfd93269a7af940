"""A trainer for any module whose `forward` returns a dict with `loss`: any number of processes, resumable to the
same loss curve.

Reproducibility does not rest on saved generators: the random state is set from `(seed, step, process)` before every
step and the data order is a pure function of the step, so a run that was killed continues exactly as it would have
gone on (with `max_minutes` the schedule follows the clock, and only the order of things is reproducible).

Built on accelerate: device placement, data parallelism, mixed precision, checkpoints.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs, gather, send_to_device, set_seed
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from sam_hf.training.data_order import StepSampler
from sam_hf.training.optimization import WeightAverage, lr_factor, parameter_groups


@dataclass(frozen=True)
class TrainerConfig:
    """Options of a run.

    Attributes:
        output_dir: gets `metrics.jsonl`, `checkpoint-<step>/`, `previews/`.
        max_steps: stop after this many optimizer steps.
        max_minutes: stop after this much training time, earlier sessions included. At least one of the two is needed.
        batch_size: samples per process and forward pass.
        accumulate: forward passes per optimizer step.
        lr, weight_decay, betas: AdamW.
        layer_decay, lr_multipliers: see `optimization.parameter_groups`.
        schedule, warmup_steps, final_lr, milestones: see `optimization.lr_factor`; progress is the larger of step and
            time fraction.
        max_grad_norm: L2 norm to clip at.
        ema_decay: decay of the averaged weights, 0 for none.
        mixed_precision: `"no"`, `"bf16"` or `"fp16"`.
        num_workers: processes that read data.
        seed: of everything.
        log_every: steps per line of `metrics.jsonl`.
        checkpoint_minutes, checkpoint_steps: save this often (either; 0 switches one off).
        keep_checkpoints: how many to keep.
        preview_minutes: how often `module.preview(batch)` is drawn, if the module has such a method; 0 for never.
        progress: show a progress bar.
    """

    output_dir: str | Path
    max_steps: int | None = None
    max_minutes: float | None = None
    batch_size: int = 8
    accumulate: int = 1
    lr: float = 8e-4
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.999)
    layer_decay: float = 1.0
    lr_multipliers: dict[str, float] = field(default_factory=dict)
    schedule: str = "cosine"
    warmup_steps: int = 250
    final_lr: float = 0.01
    milestones: tuple[float, ...] = (2 / 3, 0.963)
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999
    mixed_precision: str = "no"
    num_workers: int = 1
    seed: int = 0
    log_every: int = 20
    checkpoint_minutes: float = 5.0
    checkpoint_steps: int = 0
    keep_checkpoints: int = 2
    preview_minutes: float = 10.0
    progress: bool = True

    def __post_init__(self) -> None:
        if self.max_steps is None and self.max_minutes is None:
            raise ValueError("max_steps or max_minutes must be given")
        for name in ("batch_size", "accumulate", "log_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def process_state() -> PartialState:
    """This process among its peers; the first call joins them.

    accelerate takes processes that torchrun started for strangers where there is no accelerator, unless it is told
    to use the CPU.
    """
    return PartialState(cpu=not torch.accelerator.is_available())


def _quiet_worker(_: int) -> None:
    # Ctrl-C, and what ends a cluster's job, reach the whole process group; the main process alone decides when to stop
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)


class Trainer:
    """Trains `module` on `dataset`.

    Args:
        module: `forward(**batch)` returns a dict with `loss` and, optionally, `metrics` (name -> scalar tensor, NaN
            to skip). A `step` parameter of `forward` receives the step. Its optional method `preview(batch) ->
            PIL.Image` is drawn now and then.
        dataset: map-style; without `__len__` it is an endless stream of indices.
        config: see `TrainerConfig`.
        collate: list of samples -> batch dict; default: torch's.

    Attributes:
        step: optimizer steps done.
        minutes: training time so far, earlier sessions included.
    """

    def __init__(
        self,
        module: nn.Module,
        dataset: Dataset,
        config: TrainerConfig,
        collate: Callable[[list[Any]], dict[str, Any]] | None = None,
    ) -> None:
        self.config, self.dataset, self.collate = config, dataset, collate
        self.output_dir = Path(config.output_dir)
        # rounds and kinds of prompt differ from step to step, so not every parameter has a gradient every time
        ddp = DistributedDataParallelKwargs(find_unused_parameters=True)
        cpu = process_state().device.type == "cpu"
        self.accelerator = Accelerator(cpu=cpu, mixed_precision=config.mixed_precision, kwargs_handlers=[ddp])
        self.plain_module = module
        groups = parameter_groups(module, config.lr, config.weight_decay, config.layer_decay, config.lr_multipliers)
        optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)
        self.module, self.optimizer = self.accelerator.prepare(module, optimizer)
        self.average = WeightAverage(module, config.ema_decay) if config.ema_decay > 0 else None
        self.step, self.minutes, self.skipped = 0, 0.0, 0
        self._takes_step = "step" in inspect.signature(module.forward).parameters
        self._stop = False

    # ---- checkpoints --------

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(self.output_dir.glob("checkpoint-*[0-9]"), key=lambda path: int(path.name.split("-")[1]))

    def save(self) -> Path:
        """Writes a checkpoint; a kill at any moment leaves either the whole folder or none."""
        final = self.output_dir / f"checkpoint-{self.step:07d}"
        partial = self.output_dir / f"partial-{self.step:07d}"
        main = self.accelerator.is_main_process
        if main:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        # the Fourier matrix is shared between image and prompts, and accelerate reports at every save that it
        # stores it once
        logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)
        try:
            self.accelerator.save_state(str(partial))
            if main:
                if self.average is not None:
                    torch.save(self.average.state_dict(), partial / "average.pt")
                state = {"step": self.step, "minutes": self.minutes, "skipped": self.skipped}
                (partial / "trainer.json").write_text(json.dumps(state))
        except BaseException:  # such as a full disk: earlier checkpoints stay, half of one does not
            if main:
                shutil.rmtree(partial, ignore_errors=True)
            raise
        if main:
            if final.exists():
                shutil.rmtree(final)
            partial.rename(final)
            for old in self.checkpoints()[: -self.config.keep_checkpoints]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()
        return final

    def resume(self) -> bool:
        """Continues from the last checkpoint in `output_dir`, if there is one; says whether there was."""
        found = self.checkpoints()
        if not found:
            return False
        folder = found[-1]
        self.accelerator.load_state(str(folder))
        if self.average is not None:
            state = torch.load(folder / "average.pt", map_location="cpu", weights_only=True)
            self.average.load_state_dict(state)
        state = json.loads((folder / "trainer.json").read_text())
        self.step, self.minutes, self.skipped = state["step"], state["minutes"], state["skipped"]
        if self.accelerator.is_main_process:
            self._drop_metrics_after(self.step)
        return True

    def _drop_metrics_after(self, step: int) -> None:
        path = self.output_dir / "metrics.jsonl"
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if line and json.loads(line)["step"] <= step]
            temporary = path.with_suffix(".partial")
            temporary.write_text("".join(line + "\n" for line in kept))
            temporary.replace(path)

    def load_average(self) -> None:
        """Puts the averaged weights into the module, for good; does nothing without averaging."""
        if self.average is not None:
            self.average.swap()

    # ---- the loop --------

    def progress(self) -> float:
        """How much of the run is done, in [0, 1]: the larger of the step and the time fraction."""
        by_step = self.step / self.config.max_steps if self.config.max_steps else 0.0
        by_time = self.minutes / self.config.max_minutes if self.config.max_minutes else 0.0
        return max(by_step, by_time)

    def train(self, resume: bool = True) -> bool:
        """Runs until `max_steps` or `max_minutes`, or until SIGTERM or Ctrl-C; saves a checkpoint at the end in
        every case.

        Args:
            resume: continue from the last checkpoint in `output_dir`; without one, or with False, start at step 0.

        Returns:
            True when the run is complete, False when it was interrupted.

        Raises:
            FloatingPointError: fifty steps in a row had no finite gradient.
        """
        self.output_dir.mkdir(parents=True, exist_ok=True)
        if resume:
            self.resume()
        elif self.accelerator.is_main_process:
            self._drop_metrics_after(-1)
        if self.progress() >= 1.0:
            return True
        with _catch_signals(self._request_stop):
            self._loop()
        self.save()
        return self.progress() >= 1.0

    def _request_stop(self) -> None:
        self._stop = True

    def _loader(self) -> Iterator[Any]:
        config = self.config
        length = len(self.dataset) if hasattr(self.dataset, "__len__") else None
        sampler = StepSampler(
            length,
            config.batch_size,
            self.step * config.accumulate,
            self.accelerator.process_index,
            self.accelerator.num_processes,
            config.seed,
        )
        return iter(
            DataLoader(
                self.dataset,
                batch_sampler=sampler,
                collate_fn=self.collate,
                num_workers=config.num_workers,
                worker_init_fn=_quiet_worker,
                prefetch_factor=4 if config.num_workers else None,
                pin_memory=self.accelerator.device.type == "cuda",
            )
        )

    def _loop(self) -> None:
        config, main = self.config, self.accelerator.is_main_process
        batches = self._loader()
        self.module.train()
        averages: dict[str, list[torch.Tensor]] = {}
        clock = time.monotonic()
        # in units of `self.minutes`, on which all processes agree; the first picture comes at once
        saved, shown = self.minutes, self.minutes - config.preview_minutes
        bar = tqdm(total=config.max_steps, initial=self.step, disable=not (config.progress and main), mininterval=5.0)
        while self.progress() < 1.0 and not self._stop:
            batch, values = self._one_step(batches)
            for name, value in values.items():
                averages.setdefault(name, []).append(value)
            now = time.monotonic()
            self.minutes, clock = self.minutes + (now - clock) / 60, now
            self._agree()
            if self.step % config.log_every == 0 or self.progress() >= 1.0:
                self._log(averages, bar)
                averages = {}
            bar.update()
            if config.preview_minutes and self.minutes - shown >= config.preview_minutes:
                self._preview(batch)
                shown = self.minutes
            due = config.checkpoint_minutes and self.minutes - saved >= config.checkpoint_minutes
            if due or (config.checkpoint_steps and self.step % config.checkpoint_steps == 0):
                self.save()
                saved = self.minutes
        bar.close()

    def _one_step(self, batches: Iterator[Any]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """One optimizer step: (last batch, detached values to log)."""
        config = self.config
        shape = (config.warmup_steps, config.final_lr, config.milestones)
        factor = lr_factor(config.schedule, self.progress(), self.step, *shape)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        extra = {"step": self.step} if self._takes_step else {}
        values: dict[str, torch.Tensor] = {}
        for part in range(config.accumulate):
            batch = send_to_device(next(batches), self.accelerator.device, non_blocking=True)
            micro = self.step * config.accumulate + part
            set_seed(
                (config.seed * 1_000_003 + micro * self.accelerator.num_processes + self.accelerator.process_index)
                % 2**32
            )
            last = part == config.accumulate - 1
            with torch.enable_grad(), _no_sync(self.accelerator, self.module, not last):
                output = self.module(**batch, **extra)
                self.accelerator.backward(output["loss"] / config.accumulate)
            values = {"loss": output["loss"].detach(), **output.get("metrics", {})}
        norm = self.accelerator.clip_grad_norm_(self.module.parameters(), config.max_grad_norm)
        finite = bool(torch.isfinite(norm))
        if finite or self.accelerator.scaler is not None:  # fp16's scaler skips such a step by itself, and adapts
            self.optimizer.step()
        if finite:
            self.skipped = 0
        else:
            self.skipped += 1
            if self.skipped >= 50:
                raise FloatingPointError(f"no finite gradient in the last {self.skipped} steps (step {self.step})")
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.average is not None:
            self.average.update()
        values["grad_norm"] = norm.detach()
        return batch, values

    def _agree(self) -> None:
        """All processes see the same clock and the same wish to stop."""
        if self.accelerator.num_processes > 1:
            mine = torch.tensor([[self.minutes, float(self._stop)]], device=self.accelerator.device)
            everyone = gather(mine)
            self.minutes, self._stop = float(everyone[:, 0].max()), bool(everyone[:, 1].any())

    def _log(self, averages: dict[str, list[torch.Tensor]], bar: tqdm) -> None:
        names = sorted(averages)
        if not names:
            return
        # names can differ between processes (an optional metric), so only this process' values are logged
        record: dict[str, Any] = {"step": self.step, "minutes": round(self.minutes, 3)}
        for name in names:
            value = float(torch.stack([v.float() for v in averages[name]]).nanmean())
            if math.isfinite(value):
                record[name] = round(value, 5)
        record["lr"] = max(group["lr"] for group in self.optimizer.param_groups)
        if self.accelerator.is_main_process:
            with (self.output_dir / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(record) + "\n")
            shown = {name: f"{record[name]:.3f}" for name in ("loss", "iou_first", "iou_last") if name in record}
            bar.set_postfix(shown, refresh=False)

    def _preview(self, batch: dict[str, Any]) -> None:
        if not (self.accelerator.is_main_process and hasattr(self.plain_module, "preview")):
            return
        self.plain_module.eval()
        if self.average is not None:
            self.average.swap()
        with torch.no_grad():
            picture = self.plain_module.preview(batch)
        if self.average is not None:
            self.average.swap()
        self.plain_module.train()
        folder = self.output_dir / "previews"
        folder.mkdir(exist_ok=True)
        picture.save(folder / f"step-{self.step:07d}.png")


def _no_sync(accelerator: Accelerator, module: nn.Module, active: bool) -> Any:
    """Holds back the gradient exchange of all but the last of several accumulated passes."""
    return accelerator.no_sync(module) if active else contextlib.nullcontext()


class _catch_signals:
    """While active, the first SIGINT or SIGTERM calls `stop`; a second SIGINT interrupts at once. Only in the main
    thread."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self.stop = stop
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.previous[number] = signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        self.stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, *error: Any) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
