"""What a person would have used before: OpenCV's GrabCut from a box, Felzenszwalb's regions under a click.

Both get the prompts that the model gets, on the same pictures, and need no training; they are what a small
checkpoint has to beat to be worth loading.

Source: Rother, Kolmogorov & Blake 2004 (GrabCut); Felzenszwalb & Huttenlocher 2004.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np

from .click_protocol import interior_point
from .scores import mask_iou

__all__ = ["FELZENSZWALB_SETTINGS", "choose_felzenszwalb", "felzenszwalb_regions", "grabcut", "region_under"]

# (scale, sigma): how large regions grow, and how much the picture is blurred first
FELZENSZWALB_SETTINGS = tuple((scale, sigma) for sigma in (0.0, 0.5, 0.8) for scale in (100, 200, 400, 800, 1600))
GRABCUT_ITERATIONS = 5


def _check_image(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image: expected uint8 (H, W, 3), got {image.dtype} of shape {image.shape}")
    return np.ascontiguousarray(image)


def grabcut(image: np.ndarray, box: Sequence[int], iterations: int = GRABCUT_ITERATIONS) -> np.ndarray:
    """Foreground that GrabCut finds inside a box.

    Args:
        image: uint8 (H, W, 3), any colour order.
        box: (x0, y0, x1, y1), corner pixels of the image, all inclusive. Clipped to the image.
        iterations: Rounds of colour model and cut.

    Returns:
        Boolean mask (H, W). GrabCut needs pixels outside the box to learn the background from, and enough inside to
        learn the object: where it has none, the answer is the whole box.

    Raises:
        ValueError: `image` is not uint8 (H, W, 3), or the box is empty inside the image.
    """
    image = _check_image(image)
    height, width = image.shape[:2]
    x0, y0 = max(0, round(box[0])), max(0, round(box[1]))
    x1, y1 = min(width, round(box[2]) + 1), min(height, round(box[3]) + 1)  # exclusive from here on
    if x1 <= x0 or y1 <= y0:
        raise ValueError(f"box: expected xyxy with an area inside the {width}x{height} image, got {tuple(box)}")
    labels = np.zeros((height, width), np.uint8)
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)  # its k-means start is random
    try:
        cv2.grabCut(
            image, labels, (x0, y0, x1 - x0, y1 - y0), background, foreground, iterations, cv2.GC_INIT_WITH_RECT
        )
    except cv2.error:  # one of the two colour models has no sample to start from
        mask = np.zeros((height, width), bool)
        mask[y0:y1, x0:x1] = True
        return mask
    return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)


def _felzenszwalb() -> Any:
    try:
        from skimage.segmentation import felzenszwalb
    except ImportError as error:
        raise ImportError(
            "baselines: Felzenszwalb's segmentation needs scikit-image; install it with `pip install scikit-image`, "
            "or evaluate without baselines (baselines=False, --no-baselines)"
        ) from error
    return felzenszwalb


def felzenszwalb_regions(image: np.ndarray, scale: float, sigma: float) -> np.ndarray:
    """Colour regions of a picture.

    Args:
        image: uint8 (H, W, 3).
        scale: Larger means larger regions.
        sigma: Of the blur before, in pixels.

    Returns:
        Region number of every pixel, int (H, W).

    Raises:
        ImportError: scikit-image is not installed.
        ValueError: `image` is not uint8 (H, W, 3).
    """
    return _felzenszwalb()(_check_image(image), scale=scale, sigma=sigma, min_size=20)


def region_under(regions: np.ndarray, point: Sequence[int]) -> np.ndarray:
    """The region that a click lies in, boolean (H, W); `point` is (x, y)."""
    return regions == regions[int(point[1]), int(point[0])]


def choose_felzenszwalb(
    scenes: Iterable[Any], settings: Sequence[tuple[float, float]] = FELZENSZWALB_SETTINGS
) -> tuple[tuple[float, float], dict[str, float]]:
    """The setting with the best mean IoU under the first click; give it *training* scenes.

    Args:
        scenes: Things with `.image` uint8 (H, W, 3) and `.objects`, each with a boolean `.mask` (H, W).
        settings: Candidates, (scale, sigma).

    Returns:
        The best candidate, and the mean IoU of each under "scale S, sigma G".

    Raises:
        ImportError: scikit-image is not installed.
        ValueError: no scene has an object, or `settings` is empty.
    """
    ious: dict[tuple[float, float], list[float]] = {setting: [] for setting in settings}
    for scene in scenes:
        targets = [found.mask for found in scene.objects if found.mask.any()]
        for setting in settings if targets else ():
            regions = felzenszwalb_regions(scene.image, *setting)
            ious[setting] += [float(mask_iou(region_under(regions, interior_point(mask)), mask)) for mask in targets]
    if not ious or not all(ious.values()):
        raise ValueError("scenes: expected at least one object and one setting to choose from, got none")
    means = {setting: float(np.mean(values)) for setting, values in ious.items()}
    tried = {f"scale {scale:g}, sigma {sigma:g}": mean for (scale, sigma), mean in means.items()}
    return max(means, key=means.__getitem__), tried
