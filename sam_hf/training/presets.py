"""What one training step of promptable segmentation does: the options, and the settings that reproduce known recipes.

A *first prompt* is named by its parts joined with "+": `"point"`, `"points"` (two or three at once), `"box"`,
`"text"`, `"mask"` (a rough mask), and any mixture such as `"text+point"`. Probabilities are relative; kinds a
prompt cannot have (text without a phrase) are left out for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

PARTS = ("point", "points", "box", "text", "mask")
MASK_LOSSES = ("focal", "dice", "bce")
TEXT_SOURCES = ("text", "image", "interpolation")


@dataclass(frozen=True)
class PromptableConfig:
    """One step: encode once, then `rounds` rounds of prompting the same embeddings.

    Attributes:
        mask_losses: weight of each mask loss: `"focal"`, `"dice"`, `"bce"` (class-balanced cross-entropy).
        text_mask_losses: the same of what a phrase alone gives, in the first round; None: as `mask_losses`.
        iou_weight: weight of the quality head's loss.
        iou_loss: `"mse"` (paper) or `"l1"` (SAM 2).
        iou_on: `"best"`: supervise the score of the back-propagated mask only (paper); `"all"`: of every mask (SAM 2).
        others_weight: weight of the mean loss of the masks that are *not* the best of three. 0 in the paper; a few
            percent keeps all three tokens alive when training starts from nothing.
        rounds: smallest and largest number of rounds, drawn per step.
        no_point_rounds: how many of them bring no new point, only the previous logits: one last, the others at
            random places.
        first_prompts: kind -> probability in the steps whose first round uses the three-mask tokens.
        first_prompts_single: kind -> probability in the steps whose first round uses the single-mask token; meant
            for prompts that are not ambiguous. The paper uses that token from the second round on only.
        single_first: probability of such a step.
        mask_prompt_drop: probability, per prompt and later round, of withholding the previous logits: a predictor
            that is given five clicks at once has none.
        ground_truth_clicks: fraction of later clicks drawn from the ground truth instead of the error region (0 in
            SAM, 0.1 in SAM 2).
        middle_clicks: fraction of clicks, first and later, in the middle of the mask or error region instead of at a
            random pixel (0 in the paper's training, 1 in its evaluation).
        box_noise: see `prompt_sampling.jitter_boxes`.
        box_noise_kind: `"normal"` (paper) or `"uniform"` (SAM 2).
        max_area: masks covering more of the image than this are left out (paper: 0.9).
        absent_iou_weight: weight of "score 0" for phrases whose object is absent, relative to one present mask.
        absent_mask_weight: weight of "empty mask" for the same.
        text_sources: relative probability of feeding, as a prompt's text vector, the phrase's own vector, the
            vector of the object's image crop (paper, appendix D.5), or a random point between the two (CLIPSeg).
        text_alignment: weight of the dense image-text loss, see `text_alignment`; 0 in the paper.
        text_gap: `"none"`, `"mean"` (move the image vectors' mean to the text vectors' mean) or `"mean+noise"` (and
            add noise), against the gap between the two modalities.
        text_gap_noise: norm of that noise relative to the unit vector.
        seed: of the choices that every process must make alike (number of rounds, kind of step).

    Raises:
        ValueError: a name or number that makes no sense; the message says which.
    """

    mask_losses: Mapping[str, float] = field(default_factory=lambda: {"focal": 20.0, "dice": 1.0})
    text_mask_losses: Mapping[str, float] | None = None
    iou_weight: float = 1.0
    iou_loss: str = "mse"
    iou_on: str = "best"
    others_weight: float = 0.0
    rounds: tuple[int, int] = (11, 11)
    no_point_rounds: int = 2
    first_prompts: Mapping[str, float] = field(default_factory=lambda: {"point": 0.5, "box": 0.5})
    first_prompts_single: Mapping[str, float] = field(default_factory=lambda: {"box": 1.0})
    single_first: float = 0.0
    mask_prompt_drop: float = 0.0
    ground_truth_clicks: float = 0.0
    middle_clicks: float = 0.0
    box_noise: float = 0.1
    box_noise_kind: str = "normal"
    max_area: float = 0.9
    absent_iou_weight: float = 1.0
    absent_mask_weight: float = 0.1
    text_sources: Mapping[str, float] = field(default_factory=lambda: {"text": 1.0})
    text_alignment: float = 0.0
    text_gap: str = "none"
    text_gap_noise: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        _check_weights("mask_losses", self.mask_losses, MASK_LOSSES)
        if self.text_mask_losses is not None:
            _check_weights("text_mask_losses", self.text_mask_losses, MASK_LOSSES)
        _check_weights("text_sources", self.text_sources, TEXT_SOURCES)
        for name in ("first_prompts", "first_prompts_single"):
            kinds = getattr(self, name)
            _check_weights(name, kinds, None)
            for kind in kinds:
                unknown = set(kind.split("+")) - set(PARTS)
                if unknown:
                    raise ValueError(f"{name}: unknown part {sorted(unknown)} in {kind!r}; parts are {PARTS}")
        for name, allowed in (
            ("iou_loss", ("mse", "l1")),
            ("iou_on", ("best", "all")),
            ("box_noise_kind", ("normal", "uniform")),
            ("text_gap", ("none", "mean", "mean+noise")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        low, high = self.rounds
        if not 1 <= low <= high:
            raise ValueError(f"rounds must be (smallest, largest) with 1 <= smallest <= largest, got {self.rounds}")
        if self.text_alignment < 0:
            raise ValueError(f"text_alignment must not be negative, got {self.text_alignment}")
        for name in ("single_first", "mask_prompt_drop", "ground_truth_clicks", "middle_clicks", "max_area"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")

    @property
    def uses_image_vectors(self) -> bool:
        """Whether some text prompts are vectors of image crops."""
        return any(weight > 0 for name, weight in self.text_sources.items() if name != "text")


def _check_weights(name: str, weights: Mapping[str, float], allowed: tuple[str, ...] | None) -> None:
    if not weights or min(weights.values()) < 0 or sum(weights.values()) <= 0:
        raise ValueError(f"{name} must hold non-negative weights, at least one of them positive, got {dict(weights)}")
    unknown = set(weights) - set(allowed) if allowed else set()
    if unknown:
        raise ValueError(f"{name}: unknown name {sorted(unknown)}; names are {allowed}")


SAM1_PAPER = PromptableConfig()
"""Appendix A: 20 focal + 1 dice + 1 MSE on the back-propagated mask, 1 + 8 + 2 rounds, half points and half boxes."""

SAM2_STYLE = replace(
    SAM1_PAPER,
    iou_loss="l1",
    iou_on="all",
    rounds=(8, 8),
    no_point_rounds=0,
    ground_truth_clicks=0.1,
    box_noise_kind="uniform",
)
"""SAM 2, appendix C.2 and its training code, image part: L1 on all scores, 7 corrective clicks, a tenth of them
from the ground truth, uniform box noise. SAM 2's sigmoid on the scores is a property of its model and not
reproduced; clip gradients at 0.1 in the trainer."""

FROM_SCRATCH = replace(
    SAM1_PAPER,
    mask_losses={"bce": 1.0, "dice": 1.0},
    iou_loss="l1",
    iou_on="all",
    others_weight=0.02,
    rounds=(2, 4),
    no_point_rounds=0,
    first_prompts={"point": 0.6, "box": 0.2, "mask": 0.1, "text": 0.1},
    first_prompts_single={"box": 0.4, "points": 0.2, "mask": 0.1, "mask+point": 0.1, "text": 0.1, "text+point": 0.1},
    single_first=0.3,
    mask_prompt_drop=0.2,
    ground_truth_clicks=0.1,
)
"""A small model without pre-training. The paper's 20:1 focal loss stalls at "predict nothing" there; class-balanced
cross-entropy + dice does not. Fewer rounds buy more images; the single-mask token is trained on unambiguous first
prompts too, because that is how a predictor uses it."""

TEXT_D5 = replace(
    SAM1_PAPER,
    first_prompts={"text": 1.0},
    text_sources={"image": 1.0},
)
"""Appendix D.5: the CLIP image vector of the object's crop is the first prompt, clicks follow; no real text is
seen."""

PRESETS: dict[str, PromptableConfig] = {
    "sam1_paper": SAM1_PAPER,
    "sam2_style": SAM2_STYLE,
    "from_scratch": FROM_SCRATCH,
    "text_d5": TEXT_D5,
}
