"""What a mask consists of: the closed outlines of its regions and holes."""

import cv2
import numpy as np


def contours(mask: np.ndarray) -> list[np.ndarray]:
    """The border pixels of every region and of every hole.

    Args:
        mask: (H,W) booleans.

    Returns:
        One (N,2) int32 array of xy pixel indices per closed outline, in the order in which they are joined.

    Raises:
        ValueError: If `mask` is not two-dimensional.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"mask must have shape (H, W), got {mask.shape}")
    if mask.size == 0:
        return []
    # RETR_CCOMP gives outlines and holes alike; a hole without an outline would look filled in an overlay.
    found, _ = cv2.findContours((mask != 0).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return [outline.reshape(-1, 2) for outline in found]  # (N,1,2) -> (N,2)
