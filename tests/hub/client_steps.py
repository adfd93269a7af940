"""What the clients of the Hub stand-in share: steps that note what came out, and the stand-in's controls."""

import hashlib
import json
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

ASKED = json.loads(sys.argv[1])
for name in ASKED["blocked"]:  # as if it were not installed
    sys.modules[name] = None

import numpy as np  # noqa: E402

RESULTS: dict[str, Any] = {}
IMAGE = np.zeros((48, 64, 3), np.uint8)
IMAGE[10:30, 10:40] = (200, 60, 40)
POINT = [[[[20, 20]]]]
# Prompts of one object, by kind; "text" in the name: for checkpoints with a text branch.
PROMPTS: dict[str, dict[str, Any]] = {
    "point": {"input_points": POINT},
    "points": {"input_points": [[[[20, 20], [50, 40]]]], "input_labels": [[[1, 0]]]},
    "box": {"input_boxes": [[[5, 5, 40, 30]]]},
    "mask": {"input_masks": [[IMAGE[..., 0] > 0]]},
    "box and point": {"input_boxes": [[[5, 5, 40, 30]]], "input_points": POINT},
    "text": {"text": "red mug"},
    "texts": {"text": [["a mug", "the blue cup on the left"]]},
    "text and point": {"text": "red mug", "input_points": POINT},
}


def step(make: Callable[[], Any]) -> Callable[[], Any]:
    """Run a function now; its result, or what it raised, goes under its name."""
    began = time.monotonic()
    try:
        RESULTS[make.__name__] = make()
    except Exception as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        RESULTS[make.__name__] = {"error": str(error), "kinds": kinds, "seconds": time.monotonic() - began}
    RESULTS.setdefault("seconds", {})[make.__name__] = time.monotonic() - began
    return make


def finish() -> None:
    print("\nRESULT " + json.dumps(RESULTS, default=str), flush=True)


def control(**asked: Any) -> dict[str, Any]:
    """Set faults of the stand-in, let it forget files, change its repositories, stop it."""
    request = urllib.request.Request(f"{ASKED['hub']}/control", json.dumps(asked).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def kind(thing: Any) -> str:
    """Where a class comes from: ours, transformers' own, or code from beside the weights."""
    return f"{type(thing).__module__.split('.')[0]} {type(thing).__name__}"


def masks_of(model: Any, processor: Any, **prompts: Any) -> str:
    """A digest of a model's logits, to 4 digits."""
    import torch

    inputs = processor(IMAGE, return_tensors="pt", **(prompts or {"input_points": POINT}))
    with torch.no_grad():
        masks = model.eval()(**inputs).pred_masks.float()
    scale = float(masks.abs().max())
    return hashlib.sha256((masks / scale).numpy().round(4).tobytes()).hexdigest()[:16]


def answers_of(model: Any, processor: Any, to: str, *without: str) -> str:
    """Writes mask logits and scores for every kind of `PROMPTS` into a file; returns its path.

    Args:
        model: Of a checkpoint.
        processor: Its own.
        to: What to call the file.
        *without: Words of the kinds to leave out.
    """
    import torch

    found = {}
    for prompt, given in PROMPTS.items():
        if not any(word in prompt for word in without):
            with torch.no_grad():
                answer = model.eval()(**processor(IMAGE, return_tensors="pt", **given))
            found |= {f"{prompt}, masks": answer.pred_masks.numpy(), f"{prompt}, scores": answer.iou_scores.numpy()}
    path = Path(ASKED["place"]) / f"{to}.npz"
    np.savez(path, **found)
    return str(path)
