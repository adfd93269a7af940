"""The stage that trains the alignment of a finished model, and nothing else of it."""

import pytest
import torch

from sam_hf import SamModel
from sam_hf.training import text_alignment
from sam_hf.training.text_alignment import SamForTextAlignment, mean_of_told

PART = "prompt_encoder.text_alignment."
TEXT = {"embed_dim": 8, "context_length": 6, "vocab_size": 600, "width": 8, "heads": 1, "layers": 1}


@pytest.fixture
def make_step(small_config):
    def make(**text):
        torch.manual_seed(0)
        return SamForTextAlignment(SamModel(small_config(**TEXT | text)))

    return make


@pytest.fixture
def batch():
    """One picture, a bright square left and a dark one right; one of four places is absent, one empty."""
    pixels, masks = torch.zeros(1, 3, 48, 48), torch.zeros(1, 4, 48, 48, dtype=torch.bool)
    for place, (left, value) in enumerate(((4, 2.0), (28, -2.0))):
        pixels[..., 12:36, left : left + 16], masks[:, place, 12:36, left : left + 16] = value, True
    ids = torch.tensor([[[598, 7 + place, 599, 0, 0, 0] for place in range(4)]])
    return {
        "pixel_values": pixels,
        "masks": masks,
        "valid": torch.tensor([[True, True, True, False]]),
        "absent": torch.tensor([[False, False, True, False]]),
        "has_text": torch.tensor([[True, True, True, True]]),
        "input_ids": ids,
        "attention_mask": (ids > 0).long(),
        "rival_ids": ids[:, :2] + torch.tensor([0, 50, 0, 0, 0, 0]),
        "rival_mask": (ids[:, :2] > 0).long(),
    }


def test_nothing_but_the_alignment_learns(batch, make_step):
    step = make_step(alignment=True)
    before = {name: value.clone() for name, value in step.model.state_dict().items()}
    optimizer = torch.optim.AdamW([one for one in step.parameters() if one.requires_grad], lr=0.02)
    losses = []
    for _ in range(25):
        step.train()  # must not wake batch norm and dropout of what is frozen
        output = step(**batch)
        optimizer.zero_grad()
        output["loss"].backward()
        optimizer.step()
        losses.append(output["loss"].item())
    assert losses[-1] < 0.7 * losses[0]
    changed = {name for name, value in step.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith(PART)}
    with pytest.raises(ValueError, match="text_config.alignment"):
        make_step()


def test_what_it_reports(batch, make_step):
    output = make_step(alignment=True)(**batch)
    metrics = {name.removeprefix("text_alignment"): value.item() for name, value in output["metrics"].items()}
    assert metrics[""] == pytest.approx(output["loss"].item())
    assert (2 * metrics["_present"] + metrics["_absent"]) / 3 == pytest.approx(metrics[""], rel=1e-5)
    present = make_step(alignment=True)(**batch | {"absent": torch.zeros(1, 4, dtype=torch.bool)})["metrics"]
    assert present["text_alignment_absent"].isnan() and present["text_alignment_present"] > 0


def test_every_phrase_weighs_the_same_whichever_process_has_it(batch, make_step, monkeypatch):
    step = make_step(alignment=True)
    alone = step(**batch)["loss"].item()
    told = torch.tensor([[True, True, True, False]])
    assert mean_of_told(told.float(), told) == 1.0 and mean_of_told(0 * told.float(), told & False) == 0.0
    # Another process has nine phrases where this one has three: six on average.
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda count: count.add_(9))
    assert text_alignment.mean_over_processes(torch.tensor(3)) == 6
    assert step(**batch)["loss"].item() == pytest.approx(alone / 2, rel=1e-5)
