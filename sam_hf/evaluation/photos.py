"""A look at real photographs: one contact sheet with a click, a box, a rough mask and a phrase on each.

The photographs are those inside scikit-image's wheel, so nothing is downloaded. There is no ground truth: the sheet is
for looking at, not for a number.

    python -m sam_hf.evaluation.photos --model tiny --output photos.png
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..masks.drawing import draw_prompts, overlay
from .scene_decoder import Decode, Decoded, SceneEncoder

__all__ = ["PHOTOS", "Photo", "available_photos", "contact_sheet", "load_photo"]

CAPTION_HEIGHT = 22


@dataclass(frozen=True)
class Photo:
    """One photograph and what to ask of it, in its own pixels.

    Args:
        file: Name inside `skimage/data`.
        point: A foreground click, (x, y).
        box: xyxy around one thing.
        ellipse: A hasty mask of one thing: (centre x, centre y, radius x, radius y).
        phrase: Names one thing.
    """

    file: str
    point: tuple[int, int]
    box: tuple[int, int, int, int]
    ellipse: tuple[int, int, int, int]
    phrase: str


PHOTOS = (
    Photo("astronaut.png", (394, 436), (352, 0, 461, 288), (171, 388, 40, 38), "rocket"),
    Photo("chelsea.png", (257, 71), (136, 84, 207, 149), (260, 243, 34, 24), "cat"),
    Photo("coffee.png", (102, 247), (171, 16, 412, 313), (278, 214, 200, 173), "cup"),
    Photo("rocket.jpg", (320, 264), (303, 127, 338, 408), (321, 270, 22, 120), "rocket"),
    Photo("coins.png", (334, 45), (315, 155, 379, 219), (172, 262, 24, 24), "coin"),
    Photo("motorcycle_left.png", (360, 226), (94, 81, 684, 452), (380, 270, 230, 130), "red motorcycle"),
    Photo("camera.png", (84, 330), (0, 62, 332, 511), (110, 330, 90, 170), "camera"),
)


def _folder() -> Path:
    try:
        import skimage
    except ImportError as error:
        raise ImportError(
            "photos: the photographs come inside scikit-image; install it with `pip install scikit-image`"
        ) from error
    return Path(skimage.__file__).parent / "data"


def available_photos() -> tuple[Photo, ...]:
    """Those of `PHOTOS` that this machine's scikit-image carries; never downloads the others.

    Raises:
        ImportError: scikit-image is not installed.
    """
    folder = _folder()
    return tuple(photo for photo in PHOTOS if (folder / photo.file).is_file())


def load_photo(photo: Photo) -> np.ndarray:
    """The photograph as uint8 (H, W, 3) RGB, grey ones included."""
    with Image.open(_folder() / photo.file) as opened:
        return np.asarray(opened.convert("RGB"))


def _ellipse_mask(photo: Photo, shape: tuple[int, int]) -> np.ndarray:
    x, y, radius_x, radius_y = photo.ellipse
    canvas = np.zeros(shape, np.uint8)
    return cv2.ellipse(canvas, (x, y), (radius_x, radius_y), 0, 0, 360, 1, thickness=-1).astype(bool)


def _best(answer: Decoded) -> tuple[np.ndarray, float]:
    best = int(answer.scores[0].argmax())
    return answer.masks[0, best], float(answer.scores[0, best])


def _outlined(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    outline, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(image.copy(), outline, -1, (255, 255, 255), max(2, image.shape[1] // 200))


def _tiles(photo: Photo, image: np.ndarray, decode: Decode, text: bool) -> list[tuple[np.ndarray, str]]:
    """The picture with each prompt and its answer drawn on it, and the caption."""
    rough = _ellipse_mask(photo, image.shape[:2])
    point, label = np.array([photo.point]), np.array([1])
    tiles: list[tuple[np.ndarray, str]] = []
    mask, score = _best(decode(points=point[None], labels=label[None], multimask=True))
    tiles.append((draw_prompts(overlay(image, [mask]), point, label), f"click  {score:.2f}"))
    mask, score = _best(decode(boxes=np.array([photo.box]), multimask=False))
    tiles.append((draw_prompts(overlay(image, [mask]), box=np.array(photo.box)), f"box  {score:.2f}"))
    mask, score = _best(decode(masks=rough[None], multimask=False))
    tiles.append((_outlined(overlay(image, [mask]), rough), f"rough mask  {score:.2f}"))
    if text:
        mask, score = _best(decode(text=[photo.phrase], multimask=True))
        tiles.append((overlay(image, [mask]), f'"{photo.phrase}"  {score:.2f}'))
    else:
        tiles.append((image, f'"{photo.phrase}": no text branch'))
    return tiles


def contact_sheet(
    model: Any, processor: Any, *, photos: Sequence[Photo] | None = None, width: int = 320
) -> Image.Image:
    """Draw what a model answers to each prompt on each photograph.

    Args:
        model: A `SamModel` in eval mode.
        processor: Its `SamProcessor`.
        photos: Which; None -> all that scikit-image carries here.
        width: Of one tile in pixels; a photograph keeps its shape.

    Returns:
        One row per photograph: click, box, rough mask, phrase. The prompt is drawn in white (a click as
        a green disc), the answer is tinted, and its predicted IoU stands below it.

    Raises:
        ImportError: scikit-image is not installed.
        ValueError: there is no photograph to draw, or `width` is not positive.
    """
    photos = available_photos() if photos is None else photos
    if not photos:
        raise ValueError("photos: expected at least one photograph, got none")
    if width < 1:
        raise ValueError(f"width: expected a positive number of pixels, got {width}")
    encoder = SceneEncoder(model, processor)
    font = ImageFont.load_default(size=14)
    rows = []
    for photo in photos:
        image = load_photo(photo)
        tiles = _tiles(photo, image, encoder.encode([image])[0], encoder.understands_text)
        height = max(1, round(width * image.shape[0] / image.shape[1]))
        row = Image.new("RGB", (width * len(tiles), height + CAPTION_HEIGHT), "white")
        pen = ImageDraw.Draw(row)
        for column, (tile, caption) in enumerate(tiles):
            row.paste(Image.fromarray(tile).resize((width, height), Image.Resampling.LANCZOS), (column * width, 0))
            pen.text((column * width + 4, height + 2), caption, fill="black", font=font)
        rows.append(row)
    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m sam_hf.evaluation.photos`: write the contact sheet of a checkpoint."""
    from ..model.modeling_sam import SamModel
    from ..model.processing_sam import SamProcessor

    parser = argparse.ArgumentParser(prog="python -m sam_hf.evaluation.photos", description=main.__doc__)
    parser.add_argument("--model", default="tiny", help="embedded name, Hub id or folder")
    parser.add_argument("--device", help="cpu, cuda, ...")
    parser.add_argument("--width", type=int, default=320, help="of one tile, in pixels")
    parser.add_argument("--output", default="photos.png")
    options = parser.parse_args(arguments)
    model = SamModel.from_pretrained(options.model).eval()
    if options.device:
        model = model.to(options.device)
    sheet = contact_sheet(model, SamProcessor.from_pretrained(options.model), width=options.width)
    os.makedirs(os.path.dirname(os.path.abspath(options.output)), exist_ok=True)
    sheet.save(options.output)
    print(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
