"""From a grounding's evidence to the probability that a phrase is in the picture at all, and to a verdict.

Evidence is on each grounding's own scale. A logistic curve, fitted to phrases that are and phrases that are not in
their pictures, makes a probability of it; a threshold, chosen so that a wanted share of the present ones is kept, the
verdict. Curves depend on the grounding and on the CLIP behind it, so they are kept by name, in a JSON file beside a
checkpoint's weights; they are of phrases alone. What no curve was fitted for is judged by a default that refuses
little, and answers say so.

Source: Platt's scaling; as many present as absent ones are assumed, whatever was counted.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from sam_hf.model.checkpoint_files import CALIBRATION

KEEP_PRESENT = 0.8  # share of the phrases of present objects that a threshold has to let through
STEPS = 100  # of Newton's method, which needs about ten


@dataclass(frozen=True)
class Curve:
    """How one grounding's evidence is read.

    Attributes:
        slope: Of the log-odds, not negative: more evidence never makes a phrase less probable.
        offset: Log-odds at evidence 0.
        threshold: Evidence below it means that the phrase is absent.
        kept: Share of the present phrases of the fit that the threshold keeps; None for a default.
        refused: Share of the absent ones that it refuses.
        count: How many phrases the fit saw.
    """

    slope: float
    offset: float
    threshold: float
    kept: float | None = None
    refused: float | None = None
    count: int = 0

    def presence(self, evidence: float) -> float:
        """Probability in [0,1] that the phrase is present.

        Raises:
            ValueError: If the evidence is not a number.
        """
        if math.isnan(evidence):
            raise ValueError("evidence: expected a number, got NaN")
        if evidence == -math.inf:  # nothing was found
            return 0.0
        return _sigmoid(self.slope * evidence + self.offset)

    def is_absent(self, evidence: float) -> bool:
        """Whether the evidence is too little."""
        return evidence == -math.inf or evidence < self.threshold


# Where evidence is log-odds, as in all groundings of this package, the curve is the identity. What is refused is what
# even the grounding itself thinks very improbable: who has no calibration would rather look at a false find than miss.
DEFAULT = Curve(slope=1.0, offset=0.0, threshold=math.log(0.1 / 0.9))


class Calibration:
    """Curves by name; a name is "learned", "detector", or that of a grounding and its CLIP, "dense/ViT-B-16/openai".

    Args:
        curves: By name; None: none, so that everything is judged by the default.
    """

    def __init__(self, curves: Mapping[str, Curve] | None = None):
        self.curves = dict(curves or {})

    def __contains__(self, name: str) -> bool:
        return name in self.curves

    def curve(self, name: str) -> Curve:
        """The curve of that name, else the default."""
        return self.curves.get(name, DEFAULT)

    def fit(self, name: str, present: Sequence[float], absent: Sequence[float], keep: float = KEEP_PRESENT) -> Curve:
        """Fits and remembers the curve of one grounding.

        Args:
            name: See the class.
            present: Evidence of phrases that are in their pictures; -inf where nothing was found.
            absent: Evidence of phrases that are not.
            keep: Share of the present phrases that the threshold has to keep. Where nothing was found there is nothing
                to keep, so if that is more than the rest, the threshold keeps all that was found.

        Raises:
            ValueError: If one of them is empty or not a number, or `keep` is not in (0,1].
        """
        present, absent = _evidence(present, "present"), _evidence(absent, "absent")
        threshold = threshold_that_keeps(present, keep)
        if threshold is None:
            raise ValueError("present: expected at least one phrase for which something was found, got none")
        slope, offset = _fit_logistic(present[np.isfinite(present)], absent[np.isfinite(absent)])
        curve = Curve(
            slope=slope,
            offset=offset,
            threshold=threshold,
            kept=float((present >= threshold).mean()),
            refused=float((absent < threshold).mean()),
            count=len(present) + len(absent),
        )
        self.curves[name] = curve
        return curve

    def save(self, target: str | os.PathLike) -> Path:
        """Writes the curves, in place of older ones; returns the file.

        Args:
            target: A checkpoint's folder, which gets a file "text_calibration.json", or a file.
        """
        path = Path(target)
        path = path / CALIBRATION if path.is_dir() else path
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            part.write_text(json.dumps({name: asdict(curve) for name, curve in self.curves.items()}, indent=2) + "\n")
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls, source: str | os.PathLike) -> "Calibration":
        """Reads curves from a file, or from a checkpoint's folder.

        Raises:
            FileNotFoundError: If there are none.
            ValueError: If the file holds something else.
        """
        path = Path(source)
        path = path / CALIBRATION if path.is_dir() else path
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls({str(name): _read_curve(entry) for name, entry in content.items()})
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"source: {str(path)!r} holds no calibration: {error}") from None


def threshold_that_keeps(present: np.ndarray, keep: float) -> float | None:
    """The strictest threshold that keeps a share of phrases that are there.

    Args:
        present: Their evidence (N,); -inf where nothing was found, which no threshold keeps.
        keep: Share to keep, of all of them.

    Returns:
        The largest that keeps ceil(keep * N) of them, or all that were found if these are fewer; None if none was.

    Raises:
        ValueError: If `keep` is not in (0,1].
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep: expected a share in (0, 1], got {keep!r}")
    found = np.sort(present[np.isfinite(present)])
    wanted = min(math.ceil(keep * len(present) - 1e-9), len(found))  # 1e-9: 0.8 * 10 is a little over 8
    return float(found[len(found) - wanted]) if len(found) else None


def _read_curve(entry: Mapping[str, Any]) -> Curve:
    curve = Curve(**{field.name: entry[field.name] for field in fields(Curve) if field.name in entry})
    numbers = (curve.slope, curve.offset, curve.threshold)
    if not all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers) or curve.slope < 0:
        raise ValueError(f"expected finite numbers and a slope that is not negative, got {entry}")
    return curve


def _fit_logistic(present: np.ndarray, absent: np.ndarray) -> tuple[float, float]:
    """Slope and offset that fit best, each class weighing one half.

    Platt's targets instead of 0 and 1 keep the slope finite where the two do not overlap.
    """
    if len(absent) == 0:
        absent = np.array([present[0] - 1.0])
    values = np.concatenate([present, absent])
    middle, spread = values.mean(), max(values.std(), 1e-6)
    values = (values - middle) / spread
    n, m = len(present), len(absent)
    targets = np.repeat([(n + 1) / (n + 2), 1 / (m + 2)], [n, m])
    weights = np.repeat([0.5 / n, 0.5 / m], [n, m])
    inputs = np.stack([values, np.ones_like(values)])  # (2,n+m)
    solution = np.zeros(2)
    for _ in range(STEPS):
        odds = 1 / (1 + np.exp(-np.clip(solution @ inputs, -50, 50)))
        gradient = inputs @ (weights * (odds - targets))
        curvature = (inputs * (weights * odds * (1 - odds))) @ inputs.T + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        solution = solution - step * min(1.0, 2.0 / max(np.abs(step).max(), 1e-12))
        if np.abs(step).max() < 1e-10:
            break
    if solution[0] < 0:  # evidence that says nothing, or the contrary
        return 0.0, 0.0
    slope = float(solution[0] / spread)
    return slope, float(solution[1] - slope * middle)


def _evidence(values: Sequence[float], name: str) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64).ravel()
    if len(values) == 0 or np.isnan(values).any() or (values == np.inf).any():
        raise ValueError(f"{name}: expected evidence of at least one phrase, numbers or -inf, got {values[:5]}")
    return values


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))
