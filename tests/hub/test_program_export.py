"""Exported programs, and packages compiled ahead of time, against the model they are made of."""

import pytest
import torch

from sam_hf import SamModel
from sam_hf.hub import program_export
from sam_hf.hub.program_export import export_program, load_program


@pytest.fixture(scope="module")
def model(text_checkpoint):
    return SamModel.from_pretrained(text_checkpoint).eval()


def pixels(batch):
    return torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(batch))


@pytest.mark.slow
@torch.no_grad()
def test_program(model, tmp_path):
    run = load_program(export_program(model, tmp_path / "encoder.pt2"))
    for batch in (1, 2, 5):
        embeddings, positions = run(pixels(batch))
        torch.testing.assert_close(embeddings, model.get_image_embeddings(pixels(batch)), atol=1e-5, rtol=1e-4)
        assert positions.shape == embeddings.shape
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.pt2"]


@torch.no_grad()
def test_program_in_half_precision(text_checkpoint, tmp_path):
    half = SamModel.from_pretrained(text_checkpoint, dtype=torch.bfloat16).eval()
    run = load_program(export_program(half, tmp_path / "text.pt2", "text_encoder"))
    ids = torch.randint(1, 900, (3, 16), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(run(ids), half.get_text_embeds(ids[None])[0].float(), atol=2e-2, rtol=0)


def test_refused(model, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="must end in .pt2; got 'encoder.pth'"):
        export_program(model, tmp_path / "encoder.pth")
    with pytest.raises(ValueError, match="`parts` must be some of"):
        export_program(model, tmp_path / "encoder.pt2", "encoder")
    (tmp_path / "there.pt2").write_text("mine")
    with pytest.raises(ValueError, match="is there already"):
        export_program(model, tmp_path / "there.pt2")
    with pytest.raises(ValueError, match="no exported program"):
        load_program(tmp_path / "there.pt2")
    for content in ({"w": torch.ones(2)}, torch.nn.Linear(2, 2)):
        torch.save(content, tmp_path / "there.pt2")
        with pytest.raises(ValueError, match="'.*there.pt2' is no exported program"):
            load_program(tmp_path / "there.pt2")
    monkeypatch.setattr(program_export.torch.export, "export", None)
    with pytest.raises(TypeError):
        export_program(model, tmp_path / "new" / "encoder.pt2")
    assert not (tmp_path / "new").exists()
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(OSError, match="needs a C\\+\\+ compiler \\(no-such-compiler\\)"):
        export_program(model, tmp_path / "encoder.pt2", compiled=True)


def test_an_interruption_changes_nothing(model, tmp_path, monkeypatch):
    there = tmp_path / "text.pt2"
    there.write_text("of before")

    def save(program, path):
        path.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(program_export.torch.export, "export", lambda *_, **__: None)
    monkeypatch.setattr(program_export.torch.export, "save", save)
    with pytest.raises(KeyboardInterrupt):
        export_program(model, there, "text_encoder", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["text.pt2"] and there.read_text() == "of before"


@pytest.mark.slow
@torch.no_grad()
def test_compiled(model, tmp_path):
    try:
        program_export.require_compiler()
    except OSError as error:
        pytest.skip(str(error))
    run = load_program(export_program(model, tmp_path / "encoder.pt2", compiled=True))
    for batch in (1, 2, 5):
        embeddings, _ = run(pixels(batch))
        torch.testing.assert_close(embeddings, model.get_image_embeddings(pixels(batch)), atol=1e-5, rtol=1e-4)
