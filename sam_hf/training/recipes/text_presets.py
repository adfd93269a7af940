"""Ways to train a text branch: the paper's, and mends of its known weakness.

The paper trains on CLIP's *image* vectors and prompts with *text* vectors, which lie elsewhere in the joint space. The
mends: move the image vectors' mean to the texts' (and add noise), or prompt with random points between image and text
where phrases are known, with a fifth of the phrases naming nothing in the picture.

Source: Segment Anything, §7.5 and App. D.5, A; C3 (arXiv 2401.08567) for shift and noise; CLIPSeg (arXiv 2112.10003)
for points between and negative phrases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sam_hf.training.large_scale_jitter import SCALE_RANGE
from sam_hf.training.presets import TEXT_D5, PromptableConfig

if TYPE_CHECKING:
    from sam_hf.model.configuration_sam import SamTinyViTConfig, SamVisionConfig

PAPER_STEPS = 120_000


@dataclass(frozen=True)
class TextSettings:
    """How a text branch is trained.

    Attributes:
        options: What a step does.
        steps: Optimizer steps.
        batch: Pictures per step, over all processes.
        lr: Peak rate.
        warmup, schedule, milestones, ema: See `TrainerConfig`.
        layer_decay: Likewise; None: by the encoder's depth, see `for_encoder`.
        drop_path: Stochastic depth of the image encoder while it is trained; None: by its depth.
        freeze_encoder: Keep the image encoder as it is, bit for bit.
        freeze_decoder: Keep decoder and the other prompts as they are: clicks then give the same masks as before.
        decoder_rate: Rate of decoder and other prompts, relative to the new weights'.
        negatives: Share of phrases that are replaced by ones of something absent.
        scale_range: Of large-scale jitter; None: none.
        masks: At most so many per picture.
        min_side: Smallest mask, see `masks_dataset.MaskSampler`.
        masked_attention: CLIP's output token sees only the mask in the last layer.
    """

    options: PromptableConfig = TEXT_D5
    steps: int = PAPER_STEPS
    batch: int = 128
    lr: float = 8e-4
    warmup: int = 250
    schedule: str = "step"
    milestones: tuple[float, ...] = (60_000 / PAPER_STEPS, 86_666 / PAPER_STEPS)
    layer_decay: float | None = None
    ema: float = 0.0
    drop_path: float | None = None
    freeze_encoder: bool = False
    freeze_decoder: bool = False
    decoder_rate: float = 1.0
    negatives: float = 0.0
    scale_range: tuple[float, float] | None = SCALE_RANGE
    masks: int = 64
    min_side: float = 100.0
    masked_attention: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "masks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.lr <= 0:
            raise ValueError(f"lr must be positive, got {self.lr}")
        if self.min_side < 0:
            raise ValueError(f"min_side must not be negative, got {self.min_side}")

    @property
    def needs_phrases(self) -> bool:
        """Whether some prompts or negatives are real phrases."""
        sources = self.options.text_sources
        return self.negatives > 0 or sources.get("text", 0) > 0 or sources.get("interpolation", 0) > 0

    def for_encoder(self, config: SamVisionConfig | SamTinyViTConfig) -> TextSettings:
        """These settings with the layer decay and drop path of an image encoder, by its configuration.

        Source: App. A: 0.8 and 0.4 for ViT-H and ViT-L, 0.6 and 0.6 for ViT-B; TinyViT is too small to lose blocks.
        """
        if config.model_type == "sam_tiny_vit":
            layer_decay, drop_path = 0.8, 0.0
        else:
            layer_decay, drop_path = (0.8, 0.4) if config.num_hidden_layers > 12 else (0.6, 0.6)
        layer_decay = layer_decay if self.layer_decay is None else self.layer_decay
        drop_path = drop_path if self.drop_path is None else self.drop_path
        return replace(self, layer_decay=layer_decay, drop_path=0.0 if self.freeze_encoder else drop_path)

    def rates(self) -> dict[str, float]:
        """`lr_multipliers` of the trainer: the first pattern found in a weight's name counts, 0 freezes."""
        frozen = {r"\.text_encoder\.": 0.0, r"shared_(image_)?embedding\.": 0.0}  # CLIP's tower, the Fourier matrix
        new = {r"prompt_encoder\.text_": 1.0}
        encoder = {r"vision_encoder\.": 0.0} if self.freeze_encoder else {}
        others = 0.0 if self.freeze_decoder else self.decoder_rate
        return frozen | new | encoder | {r"prompt_encoder\.|mask_decoder\.": others}


PAPER = TextSettings()
"""App. D.5: everything is trained on image vectors alone, masks from 100² pixels, 120k steps of 128 pictures; the
schedule, 11 rounds per mask and losses of App. A."""

INTERPOLATION = replace(
    PAPER,
    options=replace(
        TEXT_D5,
        rounds=(2, 4),
        no_point_rounds=0,
        first_prompts={"text": 0.6, "point": 0.25, "box": 0.15},
        first_prompts_single={"text+point": 0.6, "box": 0.4},
        single_first=0.25,
        mask_prompt_drop=0.1,
        text_mask_losses={"bce": 1.0, "dice": 1.0},
        text_sources={"interpolation": 1.0},
        text_gap="mean",
    ),
    steps=20_000,
    batch=32,
    schedule="cosine",
    ema=0.999,
    freeze_encoder=True,
    decoder_rate=0.05,
    lr=4e-3,
    negatives=0.2,
)
"""For data with phrases: points between image and text, 20 % absent phrases, the image encoder as it is. Clicks and
boxes stay among the first prompts and the decoder learns slowly, so that it does not forget them; fewer rounds see
more pictures. Phrases alone learn from cross-entropy: under the focal loss a phrase that means nothing yet gets hardly
a gradient, and stays so for long (docs/text.md). All else keeps the focal loss, beside which class-balanced
cross-entropy draws masks too large."""

GAP = replace(
    INTERPOLATION,
    options=replace(INTERPOLATION.options, text_sources={"image": 1.0}, text_gap="mean+noise"),
    negatives=0.0,
)
"""The same for data without a word: image vectors moved to the texts' mean, with noise."""

PROJECTION = replace(
    GAP,
    options=replace(GAP.options, first_prompts={"text": 1.0}, first_prompts_single={"text+point": 1.0}),
    lr=2e-3,
    freeze_decoder=True,
    steps=10_000,
)
"""Only the new projection and the text type are trained: every other prompt gives the same masks as before."""

PRESETS: Mapping[str, TextSettings] = {
    "paper": PAPER,
    "interpolation": INTERPOLATION,
    "gap": GAP,
    "projection": PROJECTION,
}


@dataclass(frozen=True)
class Changes:
    """What a user changes of a preset.

    Attributes:
        gap: `PromptableConfig.text_gap`; None: as it is.
        text_sources: `PromptableConfig.text_sources`; None: as they are.
        fields: Of `TextSettings`, by name.
        rounds: At most so many rounds of prompts per step; None: as many as the preset's.
        alignment: `PromptableConfig.text_alignment`: above 0 the checkpoint keeps a map of image cells into the CLIP's
            space, which says where a phrase is and whether it is there; None: as it is (no map).
    """

    gap: str | None = None
    text_sources: Mapping[str, float] | None = None
    fields: Mapping[str, object] = field(default_factory=dict)
    rounds: int | None = None
    alignment: float | None = None

    def of(self, preset: str) -> TextSettings:
        """The settings.

        Raises:
            ValueError: There is no such preset, or a value makes no sense.
        """
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {sorted(PRESETS)}, got {preset!r}")
        settings = PRESETS[preset]
        options = settings.options
        if self.gap is not None:
            options = replace(options, text_gap=self.gap)
        if self.text_sources is not None:
            options = replace(options, text_sources=dict(self.text_sources))
        if self.alignment is not None:
            options = replace(options, text_alignment=self.alignment)
        if self.rounds is not None:
            low, high = (min(self.rounds, most) for most in options.rounds)
            options = replace(options, rounds=(low, high), no_point_rounds=min(options.no_point_rounds, high - 1))
        return replace(settings, options=options, **self.fields)
