"""Losses of promptable segmentation, one value per mask.

Every function takes logits and targets of shape (..., H, W) and returns (...): nothing is reduced over masks,
because the training loop needs the loss of each of the three candidate masks before it keeps the lowest one. All
are computed in float32 whatever the model's dtype.

Resolution: the paper does not say where its loss lives. Here it is the decoder's own low resolution (4h x 4w, 256 x
256 for 1024 px images), against targets reduced by area averaging; at that size the loss costs little beside the
decoder.

Source: Kirillov et al. 2023, §3 "Losses and training" and appendix A "Training recipe"; focal loss: Lin et al. 2017
(arXiv 1708.02002);
dice: Milletari et al. 2016 (arXiv 1606.04797) with the +1 smoothing that DETR and SAM 2 use. The class-balanced
cross-entropy is not in the
paper: it is what lets a small model leave "predict nothing" when nothing was pre-trained.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2.0


def _check(logits: torch.Tensor, targets: torch.Tensor) -> None:
    if logits.ndim < 2 or logits.shape[-2:] != targets.shape[-2:]:
        raise ValueError(
            "logits and targets must have the same height and width, "
            f"got {tuple(logits.shape)} and {tuple(targets.shape)}"
        )


def focal_loss(
    logits: torch.Tensor, targets: torch.Tensor, alpha: float = FOCAL_ALPHA, gamma: float = FOCAL_GAMMA
) -> torch.Tensor:
    """Sigmoid focal loss, averaged over pixels.

    Args:
        logits: mask logits (..., H, W), any float dtype.
        targets: {0, 1} of a shape that broadcasts against `logits`.
        alpha: weight of foreground pixels; background gets `1 - alpha`. Negative: no weighting.
        gamma: exponent that mutes pixels which are already right.

    Returns:
        (...) float32, one value per mask.

    Raises:
        ValueError: heights or widths differ.

    Source: appendix A gives the weight (20) but neither alpha nor gamma; 0.25 and 2 are RetinaNet's.
    """
    _check(logits, targets)
    logits, targets = logits.float(), targets.float()
    cross_entropy = F.softplus(logits) - logits * targets
    # p of the wrong class: sigmoid(x) where the target is 0, sigmoid(-x) where it is 1
    wrong = torch.sigmoid(logits * (1.0 - 2.0 * targets))
    loss = cross_entropy * wrong.square() if gamma == 2.0 else cross_entropy * wrong**gamma
    if alpha >= 0:
        loss = loss * (alpha * targets + (1.0 - alpha) * (1.0 - targets))
    return loss.mean(dim=(-2, -1))


def dice_loss(logits: torch.Tensor, targets: torch.Tensor, smoothing: float = 1.0) -> torch.Tensor:
    """1 - soft Dice coefficient of each mask, in [0, 1].

    Args:
        logits: mask logits (..., H, W).
        targets: {0, 1}, broadcastable.
        smoothing: added to numerator and denominator, so that an empty prediction of an empty target costs nothing.

    Returns:
        (...) float32.

    Raises:
        ValueError: heights or widths differ.
    """
    _check(logits, targets)
    probabilities, targets = logits.float().sigmoid(), targets.float()
    overlap = (probabilities * targets).sum(dim=(-2, -1))
    total = probabilities.sum(dim=(-2, -1)) + targets.sum(dim=(-2, -1))
    return 1.0 - (2.0 * overlap + smoothing) / (total + smoothing)


def balanced_bce_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in which foreground and background weigh one half each, whatever their areas.

    A mask without foreground (or without background) is averaged over the class it has.

    Returns:
        (...) float32.

    Raises:
        ValueError: heights or widths differ.
    """
    _check(logits, targets)
    logits, targets = logits.float(), targets.float()
    cross_entropy = F.softplus(logits) - logits * targets
    size = float(targets.shape[-2] * targets.shape[-1])
    n_fg = targets.sum(dim=(-2, -1))
    n_bg = size - n_fg
    fg = (cross_entropy * targets).sum(dim=(-2, -1))
    bg = cross_entropy.sum(dim=(-2, -1)) - fg
    weight_fg = torch.where(n_bg > 0, 0.5, 1.0) * (n_fg > 0)
    weight_bg = torch.where(n_fg > 0, 0.5, 1.0) * (n_bg > 0)
    return weight_fg * fg / n_fg.clamp(min=1.0) + weight_bg * bg / n_bg.clamp(min=1.0)


def mask_iou(logits: torch.Tensor, targets: torch.Tensor, threshold: float = 0.0) -> torch.Tensor:
    """Intersection over union of the thresholded prediction and the target; 0 where both are empty.

    Both-empty counts as 0, not 1, because the value is the target of the quality head: a phrase whose object is
    absent must score low.

    Returns:
        (...) float32 in [0, 1], without gradient.

    Raises:
        ValueError: heights or widths differ.
    """
    _check(logits, targets)
    with torch.no_grad():
        predicted, targets = logits > threshold, targets.bool()
        intersection = (predicted & targets).sum(dim=(-2, -1)).float()
        union = (predicted | targets).sum(dim=(-2, -1)).float()
        return intersection / union.clamp(min=1.0)


def iou_score_loss(scores: torch.Tensor, ious: torch.Tensor, kind: str = "mse") -> torch.Tensor:
    """Error of the quality head, elementwise.

    Args:
        scores: predicted IoU (...).
        ious: actual IoU (...), see `mask_iou`.
        kind: `"mse"` (the paper) or `"l1"` (SAM 2).

    Raises:
        ValueError: unknown `kind`.
    """
    if kind not in ("mse", "l1"):
        raise ValueError(f"kind must be 'mse' or 'l1', got {kind!r}")
    difference = scores.float() - ious.float()
    return difference.square() if kind == "mse" else difference.abs()
