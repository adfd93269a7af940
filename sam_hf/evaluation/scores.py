"""Numbers out of masks: intersection over union, means with honest error bars, ranking quality."""

import numpy as np

from ..inference.text.verdict import KEEP_PRESENT, threshold_that_keeps

__all__ = ["auroc", "clustered_mean", "mask_iou", "rejection"]


def mask_iou(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Intersection over union of boolean masks.

    Args:
        prediction: Boolean (..., H, W).
        target: Boolean (H, W), or broadcastable against `prediction`.

    Returns:
        float64 (...). Two empty masks agree: 1.0.

    Raises:
        ValueError: the last two axes differ.
    """
    prediction, target = np.asarray(prediction, bool), np.asarray(target, bool)
    if prediction.shape[-2:] != target.shape[-2:]:
        raise ValueError(f"prediction: expected masks of {target.shape[-2:]} pixels, got {prediction.shape[-2:]}")
    intersection = (prediction & target).sum(axis=(-2, -1), dtype=np.float64)
    union = (prediction | target).sum(axis=(-2, -1), dtype=np.float64)
    return np.where(union > 0, intersection / np.maximum(union, 1), 1.0)


def clustered_mean(values: np.ndarray, clusters: np.ndarray, resamples: int = 1000, seed: int = 0) -> dict | None:
    """Mean with a bootstrap over clusters.

    Objects of one scene share background, lighting and encoder pass, so resampling single objects would promise too
    narrow an interval: whole scenes are drawn instead.

    Args:
        values: float (N,); NaN entries were not measured and are left out.
        clusters: int (N,), which scene each value belongs to.
        resamples: Bootstrap draws.
        seed: Of the draws.

    Returns:
        {"mean", "stderr", "ci95": [low, high], "n"}, or None where nothing was measured. With a single cluster
        there is nothing to resample: "stderr" and "ci95" are None.

    Raises:
        ValueError: the lengths differ.
    """
    values, clusters = np.asarray(values, np.float64), np.asarray(clusters)
    if values.shape != clusters.shape or values.ndim != 1:
        raise ValueError(f"clusters: expected one per value, {values.shape}, got {clusters.shape}")
    measured = ~np.isnan(values)
    values, clusters = values[measured], clusters[measured]
    if not len(values):
        return None
    result: dict = {"mean": float(values.mean()), "stderr": None, "ci95": None, "n": int(len(values))}
    names, index = np.unique(clusters, return_inverse=True)
    if len(names) > 1:
        sums = np.bincount(index, weights=values)
        counts = np.bincount(index).astype(np.float64)
        draws = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), resamples)
        means = (draws @ sums) / (draws @ counts)
        result["stderr"] = float(means.std(ddof=1))
        result["ci95"] = [float(edge) for edge in np.percentile(means, [2.5, 97.5])]
    return result


def auroc(positive: np.ndarray, negative: np.ndarray) -> float | None:
    """Chance that a random positive scores above a random negative; ties count half.

    Args:
        positive: Scores (N,) of what is there.
        negative: Scores (M,) of what is not.

    Returns:
        In [0, 1], 0.5 is guessing; None if either side is empty.
    """
    positive, negative = np.asarray(positive, np.float64), np.asarray(negative, np.float64)
    if not len(positive) or not len(negative):
        return None
    ordered = np.sort(negative)
    below, through = np.searchsorted(ordered, positive, "left"), np.searchsorted(ordered, positive, "right")
    return float((below + through).mean() / 2 / len(negative))


def rejection(
    present: np.ndarray, absent: np.ndarray, absent_area: np.ndarray, keep: float = KEEP_PRESENT
) -> dict | None:
    """How well a predicted quality tells a phrase of a present object from one of an absent object.

    Args:
        present: Best predicted IoU per phrase of an object that is in the picture, (N,).
        absent: The same for phrases of objects that are not, (M,).
        absent_area: Share of the picture that the answer to each absent phrase covers, (M,), in [0, 1].
        keep: Share of present phrases that the threshold must let through.

    Returns:
        {"auroc", "threshold", "kept", "false_alarm_rate", "declined_rate", "empty_mask_rate", "present_score",
        "absent_score", "absent_area", "n_present", "n_absent"}; scores as mean and deciles. "declined" is an
        absent phrase that was answered with an empty mask or a score below the threshold. None if either side is
        empty, or nothing was found of what is there (-inf).

    Raises:
        ValueError: `keep` lies outside (0, 1], or `absent_area` has another length than `absent`.
    """
    present, absent = np.asarray(present, np.float64), np.asarray(absent, np.float64)
    absent_area = np.asarray(absent_area, np.float64)
    threshold = threshold_that_keeps(present, keep)
    if absent_area.shape != absent.shape:
        raise ValueError(f"absent_area: expected one per absent score, {absent.shape}, got {absent_area.shape}")
    if threshold is None or not len(absent):
        return None
    empty = absent_area == 0
    return {
        "auroc": auroc(present, absent),
        "keep": keep,
        "threshold": threshold,
        "kept": float((present >= threshold).mean()),
        "false_alarm_rate": float((absent >= threshold).mean()),
        "declined_rate": float((empty | (absent < threshold)).mean()),
        "empty_mask_rate": float(empty.mean()),
        "present_score": _spread(present),
        "absent_score": _spread(absent),
        "absent_area": _spread(absent_area),
        "n_present": int(len(present)),
        "n_absent": int(len(absent)),
    }


def _spread(values: np.ndarray) -> dict:
    return {
        "mean": float(values.mean()),
        "deciles": [float(edge) for edge in np.percentile(values, np.arange(0, 101, 10))],
    }
