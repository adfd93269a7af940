"""Square crops around a mask: what the image tower of the text branch sees.

Source: SAM, App. D.5; differs in also returning the crop of the mask, which the masked attention needs.
"""

from __future__ import annotations

import cv2
import numpy as np


def crop(
    image: np.ndarray, mask: np.ndarray, scale: float = 1.5, size: int = 64, zero_background: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Cut a square around a mask and resize it.

    Args:
        image: (H,W,3) uint8.
        mask: (H,W) bool, the same frame.
        scale: How much larger than the longer side of the mask's box the square is; 1 to 2 in the paper.
        size: Side of the result in pixels.
        zero_background: Set pixels outside the mask to 0 (half of the crops in the paper).

    Returns:
        (size,size,3) uint8 crop, the edge repeated where the square leaves the image, and the (size,size) bool
        crop of the mask.

    Raises:
        ValueError: If the mask is empty or of another size than the image, or `scale` is not positive.
    """
    if mask.shape != image.shape[:2]:
        raise ValueError(f"mask: expected shape {image.shape[:2]}, got {mask.shape}")
    if scale <= 0:
        raise ValueError(f"scale: expected a positive number, got {scale}")
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    if len(rows) == 0:
        raise ValueError("mask: expected at least one pixel, got an empty mask")
    y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    side = max(y1 - y0, x1 - x0) * scale
    factor = side / size
    # Maps pixel centres of the crop to pixel centres of the image.
    left, top = (x0 + x1 - side) / 2, (y0 + y1 - side) / 2
    matrix = np.array([(factor, 0, left + factor / 2 - 0.5), (0, factor, top + factor / 2 - 0.5)])
    source, sigma = image, 0.4 * (factor - 1)
    if sigma > 0.2:  # shrinking: smooth first, else small textures alias
        source = cv2.GaussianBlur(image, (0, 0), sigma)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    picture = cv2.warpAffine(source, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    cut = cv2.warpAffine(mask.astype(np.uint8) * 255, matrix, (size, size), flags=flags) > 127
    if zero_background:
        picture[~cut] = 0
    return picture, cut
