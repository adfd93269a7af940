"""The trainer: resuming, stopping, schedules, averages."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from sam_hf.training.data_order import StepSampler
from sam_hf.training.optimization import WeightAverage, block_depths, lr_factor, parameter_groups
from sam_hf.training.trainer import Trainer, TrainerConfig


class Numbers(Dataset):
    def __init__(self, fail_at=None):
        self.fail_at = fail_at

    def __getitem__(self, index):
        if index == self.fail_at:
            raise RuntimeError("power cut")
        generator = torch.Generator().manual_seed(index)
        x = torch.randn(4, generator=generator)
        return {"x": x, "y": x.sum()}


class Regression(nn.Module):
    """With dropout, so that a wrong random state shows; it can raise a signal or spoil a gradient at a step."""

    def __init__(self, signal_at=None, spoil_at=None):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 1))
        self.signal_at, self.spoil_at, self.shown = signal_at, spoil_at, 0

    def forward(self, x, y, step=0):
        if step == self.signal_at:  # to all of them and from outside, as of a cluster whose time is up
            everyone = (*multiprocessing.active_children(), multiprocessing.current_process())
            subprocess.run(["kill", "-TERM", *(str(process.pid) for process in everyone)], check=True)
            time.sleep(0.3)  # in which one hears of children that have died
        loss = (self.net(x).squeeze(-1) - y).square().mean()
        if step == self.spoil_at:
            loss = loss * torch.nan
        return {"loss": loss, "metrics": {"missing": torch.tensor(torch.nan)}}

    def preview(self, batch):
        self.shown += 1
        return Image.new("RGB", (4, 4))


def options(folder, **changes):
    defaults = {"max_steps": 8, "batch_size": 4, "lr": 1e-2, "warmup_steps": 2, "num_workers": 0, "log_every": 1}
    defaults |= {"progress": False, "checkpoint_steps": 3, "checkpoint_minutes": 0, "preview_minutes": 0}
    return TrainerConfig(output_dir=folder, **(defaults | changes))


def curve(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(record["step"], record["loss"], record["lr"]) for record in records]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    trainer = Trainer(Regression(), Numbers(), options(folder))
    assert trainer.train()
    trainer.load_average()
    return curve(folder), trainer.plain_module.state_dict()


def test_a_killed_run_goes_on_to_the_same_loss_curve_and_weights(tmp_path, whole):
    with pytest.raises(RuntimeError, match="power cut"):
        Trainer(Regression(), Numbers(fail_at=5 * 4 + 1), options(tmp_path)).train()
    assert [step for step, *_ in curve(tmp_path)] == [1, 2, 3, 4, 5]
    (tmp_path / "partial-0000006").mkdir()  # what a kill in the middle of saving leaves
    trainer = Trainer(Regression(), Numbers(), options(tmp_path))
    assert trainer.train()
    trainer.load_average()
    expected, weights = whole
    assert curve(tmp_path) == expected
    for name, value in trainer.plain_module.state_dict().items():
        assert torch.equal(value, weights[name])


@pytest.mark.parametrize("workers", [0, 1])
def test_sigterm_saves_and_the_next_run_continues(tmp_path, whole, workers):
    before = signal.getsignal(signal.SIGTERM)
    changes = {"checkpoint_steps": 0, "num_workers": workers}
    trainer = Trainer(Regression(signal_at=4), Numbers(), options(tmp_path, **changes))
    assert trainer.train() is False
    assert signal.getsignal(signal.SIGTERM) is before
    assert [path.name for path in trainer.checkpoints()] == ["checkpoint-0000005"]
    assert Trainer(Regression(), Numbers(), options(tmp_path, checkpoint_steps=0)).train()
    assert curve(tmp_path) == whole[0]


def test_only_the_last_checkpoints_are_kept_and_a_finished_run_does_nothing(tmp_path):
    trainer = Trainer(Regression(), Numbers(), options(tmp_path, checkpoint_steps=1, keep_checkpoints=2))
    assert trainer.train()
    assert [path.name for path in trainer.checkpoints()] == ["checkpoint-0000007", "checkpoint-0000008"]
    assert Trainer(Regression(), Numbers(fail_at=0), options(tmp_path)).train()
    assert len(curve(tmp_path)) == 8


def test_accumulated_steps_see_the_same_data_as_a_larger_batch(tmp_path):
    class Plain(Regression):
        def __init__(self):
            super().__init__()
            self.net[2] = nn.Identity()

    weights = []
    for name, changes in (("large", {"batch_size": 8}), ("parts", {"batch_size": 4, "accumulate": 2})):
        trainer = Trainer(Plain(), Numbers(), options(tmp_path / name, max_steps=3, ema_decay=0.0, **changes))
        trainer.train()
        weights.append(trainer.plain_module.net[0].weight.detach())
    torch.testing.assert_close(*weights)


def test_steps_without_a_finite_gradient_change_nothing(tmp_path):
    module = Regression(spoil_at=0)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    Trainer(module, Numbers(), options(tmp_path, max_steps=1, ema_decay=0.0)).train()
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_time_limit_and_pictures(tmp_path):
    module = Regression()
    config = options(tmp_path, max_steps=None, max_minutes=0.005, preview_minutes=0.001, checkpoint_steps=0)
    trainer = Trainer(module, Numbers(), config)
    assert trainer.train()
    assert 0.005 <= trainer.minutes < 0.1 and trainer.step > 0
    assert module.shown >= 1 and list((tmp_path / "previews").glob("step-*.png"))
    with pytest.raises(ValueError, match="max_steps or max_minutes"):
        TrainerConfig(output_dir=tmp_path)


def test_batches_are_a_pure_function_of_the_step():
    def take(first, length=None, process=0, processes=1, count=4):
        sampler = iter(StepSampler(length, 3, first, process, processes, seed=7))
        return [next(sampler) for _ in range(count)]

    assert take(0) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert take(2)[:2] == take(0)[2:]
    assert take(0, process=1, processes=2, count=2) == [[3, 4, 5], [9, 10, 11]]
    finite = take(0, length=6)
    assert take(1, length=6)[:3] == finite[1:]
    assert sorted(sum(finite[:2], [])) == list(range(6)) == sorted(sum(finite[2:], []))
    assert finite[:2] != finite[2:]


def test_learning_rates():
    assert lr_factor("cosine", 0.0, 0, warmup_steps=10) == pytest.approx(0.1)
    assert lr_factor("cosine", 1.0, 99, warmup_steps=10, final=0.05) == pytest.approx(0.05)
    paper = [lr_factor("step", step / 90_000, step, 250) for step in (30_000, 60_000, 86_700)]
    assert paper == pytest.approx([1.0, 0.1, 0.01])
    with pytest.raises(ValueError, match="'linear'"):
        lr_factor("linear", 0, 0, 1)


def test_layer_decay_frozen_parts_and_weight_decay():
    model = nn.Module()
    model.vision_encoder = nn.Module()
    model.vision_encoder.patch_embed = nn.Linear(2, 2)
    model.vision_encoder.layers = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])
    model.vision_encoder.neck = nn.Linear(2, 2)
    model.text_encoder = nn.Linear(2, 2)
    model.tokens = nn.Embedding(2, 2)
    depths = block_depths([name for name, _ in model.named_parameters()])
    assert depths["vision_encoder.patch_embed.weight"] == 0 and depths["vision_encoder.layers.2.bias"] == 3
    assert "vision_encoder.neck.weight" not in depths
    groups = parameter_groups(model, 1.0, 0.1, layer_decay=0.5, lr_multipliers={"text_encoder": 0.0})
    rate = {id(p): (group["base_lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert rate[id(model.vision_encoder.neck.weight)] == (1.0, 0.1)
    assert rate[id(model.vision_encoder.neck.bias)] == (1.0, 0.0)
    assert rate[id(model.vision_encoder.layers[2].weight)] == (0.5, 0.1)
    assert rate[id(model.vision_encoder.patch_embed.weight)] == (0.5**4, 0.1)
    assert rate[id(model.tokens.weight)] == (1.0, 0.0)
    assert not model.text_encoder.weight.requires_grad and id(model.text_encoder.weight) not in rate


def test_average_follows_slowly_and_swaps_back():
    module = nn.Linear(2, 2)
    average = WeightAverage(module, 0.9)
    first = module.weight.detach().clone()
    with torch.no_grad():
        module.weight += 1
    average.update()
    expected = first + (1 - 2 / 11)
    torch.testing.assert_close(average.average["weight"], expected)
    average.swap()
    torch.testing.assert_close(module.weight.detach(), expected)
    average.swap()
    torch.testing.assert_close(module.weight.detach(), first + 1)


SEVERAL = """
import sys
from test_trainer import Numbers, Regression, options
from sam_hf.training.trainer import Trainer

folder, steps = sys.argv[1], int(sys.argv[2])
trainer = Trainer(Regression(), Numbers(), options(folder, max_steps=steps, batch_size=2, schedule="constant"))
assert trainer.train()
"""


@pytest.mark.slow
def test_two_processes_on_the_cpu_go_on_where_they_stopped(tmp_path):
    script = tmp_path / "several.py"
    script.write_text(SEVERAL)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    for folder, steps in (("whole", 6), ("parts", 3), ("parts", 6)):
        subprocess.run([*command, str(tmp_path / folder), str(steps)], check=True, env=environment, timeout=300)
    torch.testing.assert_close(torch.tensor(curve(tmp_path / "parts")), torch.tensor(curve(tmp_path / "whole")))
