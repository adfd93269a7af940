"""The page's modules under node: tests/ui/js says what they do, and their rule for masks is the one of Python."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
STATIC = HERE.parent.parent / "sam_hf" / "ui" / "static"

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


def run_node(*arguments, given=None):
    done = subprocess.run(["node", *arguments], input=given, capture_output=True, text=True, timeout=120, cwd=HERE)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("file", sorted(path.name for path in (HERE / "js").glob("*.test.mjs")))
def test_modules(file):
    run_node("--test", f"js/{file}")


def test_no_answer_is_lost_when_the_stream_of_the_call_before_closes_late(address):
    run_node("js/late_close.mjs", address)


def test_a_call_that_has_no_number_yet_is_cancelled_on_the_server(
    address, call, upload, disc, slow_batches, empty_queue
):
    picture = call("embed", image=upload(disc()))["picture"]
    run_node("js/early_cancel.mjs", address, picture)
    empty_queue()
    assert len(slow_batches) < 20  # of 64


@pytest.mark.parametrize("size", [(1, 1), (5, 8), (61, 40)])
def test_run_lengths_are_those_of_pycocotools(size, tmp_path):
    from sam_hf.masks import rle

    rng = np.random.default_rng(sum(size))
    masks = [rng.random(size) < share for share in (0.0, 0.1, 0.5, 1.0)]
    script = tmp_path / "both.mjs"
    script.write_text(
        f'import {{ decode, encode }} from "{(STATIC / "rle.js").as_uri()}";\n'
        'let text = ""; for await (const part of process.stdin) text += part;\n'
        "console.log(JSON.stringify(JSON.parse(text).map((rle) => "
        "({ mask: [...decode(rle)], rle: encode(decode(rle), rle.size) }))));\n"
    )
    wanted = [rle.encode(mask) for mask in masks]
    answers = json.loads(run_node(str(script), given=json.dumps(wanted)))
    for mask, encoded, answer in zip(masks, wanted, answers, strict=True):
        assert np.array_equal(np.array(answer["mask"]).reshape(size), mask)
        assert answer["rle"] == encoded


def test_a_painted_mask_becomes_the_logits_that_the_processor_makes(tmp_path):
    import torch

    from sam_hf.masks import rle
    from sam_hf.model.prompt_preparation import mask_prompt_logits

    cases = []
    for original, resized in (((300, 400), (192, 256)), ((90, 60), (256, 171)), ((700, 700), (256, 256))):
        y, x = np.mgrid[: original[0], : original[1]]
        mask = np.hypot(x - original[1] / 2, y - original[0] / 3) < min(original) / 4
        wanted = mask_prompt_logits(torch.from_numpy(mask), "mask", original, resized, (256, 256), (64, 64))
        cases.append(({"rle": rle.encode(mask), "size": original, "resized": resized}, wanted.numpy()))
    script = tmp_path / "paint.mjs"
    script.write_text(
        f'import {{ maskPrompt }} from "{(STATIC / "mask_drawing.js").as_uri()}";\n'
        'let text = ""; for await (const part of process.stdin) text += part;\n'
        "console.log(JSON.stringify(JSON.parse(text).map(({ rle, size, resized }) => "
        "[...maskPrompt(rle, 64, { size, resized, padded: 256 })])));\n"
    )
    answers = json.loads(run_node(str(script), given=json.dumps([case for case, _ in cases])))
    for (_, wanted), answer in zip(cases, answers, strict=True):
        got = np.array(answer).reshape(64, 64)
        assert np.abs(got - wanted).max() < 4  # along the outline, of a range of 20
        assert np.abs(got - wanted).mean() < 0.1
        assert np.array_equal(got > 0, wanted > 0) or ((got > 0) != (wanted > 0)).mean() < 0.002
