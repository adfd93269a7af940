"""Pictures for a model's page: a drawn scene, and what the model makes of it, prompt by prompt.

The scene is drawn here, so nobody else's rights are in it, and every checkpoint shows the same one.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from sam_hf.inference.mask_generation import SamAutomaticMaskGenerator
from sam_hf.inference.predictor import SamPredictor
from sam_hf.masks.drawing import draw_prompts, overlay, overlay_many

FOLDER = "examples"
SIZE = (384, 512)  # (H,W)
PROMPTS: dict[str, dict[str, Any]] = {
    "point": {"points": [[150, 150]]},
    "box": {"box": [290, 60, 430, 200]},
    "two_points": {"points": [[350, 290], [150, 150]], "labels": [1, 0]},
    "text": {"text": "red circle"},
}


def example_names(has_text: bool) -> list[str]:
    """The files that `draw_examples` makes, as paths in the repository."""
    shown = [name for name in PROMPTS if has_text or name != "text"]
    return [
        f"{FOLDER}/{name}"
        for name in ["scene.png", *(f"{name}.png" for name in [*shown, "everything"]), "prompts.json"]
    ]


def draw_scene() -> np.ndarray:
    """A red disc, a blue square, a yellow triangle and a green ellipse on a shaded ground, (H,W,3) uint8."""
    height, width = SIZE
    yy, xx = np.mgrid[:height, :width]
    ground = np.stack([196 + 24 * xx / width, 188 + 20 * yy / height, 172 + 0 * xx], axis=-1)
    grain = np.random.default_rng(0).normal(0, 4, SIZE)[..., None]
    scene = np.clip(ground + grain, 0, 255).astype(np.uint8)
    cv2.circle(scene, (150, 150), 80, (198, 40, 44), -1, cv2.LINE_AA)
    cv2.rectangle(scene, (300, 70), (420, 190), (36, 84, 176), -1, cv2.LINE_AA)
    cv2.fillPoly(scene, [np.array([[90, 350], [190, 350], [140, 255]])], (232, 196, 48), cv2.LINE_AA)
    cv2.ellipse(scene, (350, 290), (90, 50), 0, 0, 360, (46, 132, 74), -1, cv2.LINE_AA)
    return scene


def draw_examples(predictor: SamPredictor, folder: Path) -> None:
    """Write the scene, an overlay for each prompt, one of everything, and the prompts with their scores.

    Args:
        predictor: Of the checkpoint.
        folder: Where to, in a folder "examples" below it; made if needed.
    """
    place = folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    scene = draw_scene()
    Image.fromarray(scene).save(place / "scene.png")
    record = {"image": "scene.png", "coordinates": "pixels of scene.png, x to the right, y down", "prompts": []}
    for name, prompt, mask, score in _answers(predictor, scene):
        picture = overlay(scene, [mask])
        points = prompt.get("points")
        labels = prompt.get("labels", [1] * len(points or []))
        Image.fromarray(draw_prompts(picture, points, labels, prompt.get("box"))).save(place / f"{name}.png")
        record["prompts"].append(prompt | {"overlay": f"{name}.png", "predicted_iou": round(score, 4)})
    generator = SamAutomaticMaskGenerator.from_predictor(predictor, points_per_side=12)
    found = sorted(generator.generate(scene), key=lambda one: -one["area"])
    Image.fromarray(overlay_many(scene, [one["segmentation"] for one in found])).save(place / "everything.png")
    record["everything"] = {"overlay": "everything.png", "masks": len(found), "points_per_side": 12}
    (place / "prompts.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _answers(predictor: SamPredictor, scene: np.ndarray) -> Iterator[tuple[str, dict[str, Any], np.ndarray, float]]:
    """For each prompt that the checkpoint takes: its name, itself, the best mask (H,W) and that mask's score."""
    embedding = predictor.encode(scene)
    has_text = predictor.model.config.text_config is not None
    for name, prompt in PROMPTS.items():
        if name == "text" and not has_text:
            continue
        # A single point is ambiguous, and so is a phrase: the best of three; otherwise the single mask.
        answer = predictor.decode(
            embedding, **prompt, multimask_output=len(prompt.get("points", [0])) == 1 and "box" not in prompt
        )
        best = int(answer.scores.argmax())
        yield name, prompt, answer.masks[best], float(answer.scores[best])


def gallery(has_text: bool) -> str:
    """The section of a model card that shows the pictures."""
    lines = ["## Examples", "", "Drawn scene, prompts and what this model makes of them; predicted IoU in"]
    lines[-1] += f" `{FOLDER}/prompts.json`."
    pictures = [name for name in example_names(has_text) if name.endswith(".png")]
    titles = [Path(name).stem.replace("_", " ") for name in pictures]
    rows = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    rows += [f"| {' | '.join(f'![{title}]({name})' for title, name in zip(titles, pictures, strict=True))} |"]
    return "\n".join([*lines, "", *rows, ""])
