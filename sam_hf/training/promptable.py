"""`SamForPromptableTraining`: one `forward` that encodes the images once and simulates the whole interaction on the
embeddings.

Round 0 gives every mask a simulated first prompt; each later round adds a click in the error region of the current
prediction and feeds the previous unthresholded logits back as a mask prompt. Everything happens inside one
`forward`, so that data-parallel wrappers see one forward and one backward. The paper leaves open how the rounds'
losses are combined; here they are averaged, so that the number of rounds does not change the scale of the loss.

Source: §3 "Resolving ambiguity", "Losses and training"; appendix A. Differs in what `presets.PromptableConfig` says.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from sam_hf.model.text_alignment import SamTextAlignment
from sam_hf.training import losses
from sam_hf.training import prompt_sampling as sampling
from sam_hf.training.first_prompts import Prompts, draw_kinds, first_prompts
from sam_hf.training.presets import FROM_SCRATCH, PromptableConfig
from sam_hf.training.preview import contact_sheet
from sam_hf.training.text_alignment import alignment_loss, mean_of_told, mean_over_processes


def round_plan(config: PromptableConfig, step: int) -> tuple[bool, list[bool]]:
    """The choices of a step that every process must make alike; a pure function of `(config.seed, step)`.

    Returns:
        single_first: whether round 0 uses the single-mask token.
        new_point: for each round after the first, whether it brings a new point. With `no_point_rounds = 2` and 11
            rounds: eight times true, false at a random place among them and false at the end.
    """
    rng = random.Random(f"{config.seed}/{step}")
    later = rng.randint(*config.rounds) - 1
    without = min(config.no_point_rounds, later)
    single_first = rng.random() < config.single_first
    if without == 0:
        return single_first, [True] * later
    plan = [True] * (later - without) + [False] * (without - 1)
    rng.shuffle(plan)
    return single_first, [*plan, False]


class SamForPromptableTraining(nn.Module):
    """A `SamModel` that returns its training loss.

    Args:
        model: a `SamModel`, with or without text branch.
        config: what a step does; see `presets`.
        crop_encoder: callable (crops (B,P,3,s,s) uint8, crop_masks (B,P,s,s)) -> (B,P,D) unit vectors in CLIP's joint
            space, such as `clip.CropEncoder`, needed when `config.text_sources` asks for image vectors. Not trained.
        text_means: (image mean, text mean), each (D,), for `config.text_gap`.

    Raises:
        ValueError: image vectors are asked for without `crop_encoder`, or a gap correction without `text_means`.
    """

    def __init__(
        self,
        model: nn.Module,
        config: PromptableConfig = FROM_SCRATCH,
        crop_encoder: Callable[..., torch.Tensor] | None = None,
        text_means: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        from_images = config.uses_image_vectors
        if from_images and crop_encoder is None:
            raise ValueError(f"text_sources {dict(config.text_sources)} needs crop_encoder, got None")
        if from_images and config.text_gap != "none" and text_means is None:
            raise ValueError(f"text_gap {config.text_gap!r} needs text_means, got None")
        self.crop_encoder = crop_encoder
        self.alignment = None  # of a model that keeps none
        if config.text_alignment > 0:
            if model.config.text_config is None:
                raise ValueError(f"text_alignment {config.text_alignment} needs a model with a text branch")
            if model.prompt_encoder.text_alignment is None:
                width = model.config.text_config.embed_dim
                self.alignment = SamTextAlignment(model.prompt_encoder.hidden_size, width)
        self.register_buffer("text_shift", text_means[1] - text_means[0] if text_means else None, persistent=False)

    def train(self, mode: bool = True) -> SamForPromptableTraining:
        """As ever, but encoders that are frozen stay as at inference: no drop path, and batch norm keeps its
        statistics."""
        super().train(mode)
        for encoder in (self.model.vision_encoder, self.model.prompt_encoder.text_encoder):
            if encoder is not None and not any(parameter.requires_grad for parameter in encoder.parameters()):
                encoder.eval()
        return self

    def forward(
        self,
        pixel_values: torch.Tensor,
        masks: torch.Tensor,
        valid: torch.Tensor | None = None,
        absent: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        text_embeds: torch.Tensor | None = None,
        has_text: torch.Tensor | None = None,
        crops: torch.Tensor | None = None,
        crop_masks: torch.Tensor | None = None,
        rival_ids: torch.Tensor | None = None,
        rival_mask: torch.Tensor | None = None,
        step: int = 0,
    ) -> dict[str, Any]:
        """Loss of one batch.

        Args:
            pixel_values: (B, 3, S, S) normalised images, S = the model's image size.
            masks: (B, P, H, W) ground truth, bool or {0, 1}, at the image's or the decoder's resolution.
            valid: (B, P) bool; false for slots that hold nothing. Default: all valid.
            absent: (B, P) bool; slots whose phrase names nothing in the image (their mask is empty).
            input_ids: (B, P, T) phrases.
            attention_mask: (B, P, T).
            text_embeds: (B, P, D) unit vectors, instead of `input_ids`.
            has_text: (B, P) bool; which slots have a phrase. Default: all, when text is given.
            crops: (B, P, 3, s, s) uint8 crops of the objects, for `crop_encoder`.
            crop_masks: (B, P, s, s) the masks in them.
            rival_ids: (B, R, T) more phrases that are true of nothing in the image, for `text_alignment`.
            rival_mask: (B, R, T) their attention mask, rows of zeros where there is none.
            step: number of the optimizer step; decides what all processes must decide alike.

        Returns:
            loss: scalar.
            losses: (K,) detached loss of each round.
            ious: (K,) mean IoU of the mask with the highest predicted score.
            oracle_ious: (K,) mean IoU of the best mask.
            metrics: name -> detached scalar for logging; NaN where the batch had no such prompt.
        """
        embeddings = self.model.get_image_embeddings(pixel_values)  # (B,C,h,w)
        truth = sampling.reduce_masks(masks, (4 * embeddings.shape[-2], 4 * embeddings.shape[-1]))
        absent = torch.zeros_like(truth[..., 0, 0]) if absent is None else absent.bool()
        valid = torch.ones_like(absent) if valid is None else valid.bool()
        area = truth.float().mean(dim=(-2, -1))
        present = valid & ~absent & (area > 0) & (area <= self.config.max_area)
        absent = absent & valid

        if text_embeds is None and input_ids is not None:
            text_embeds = self.model.get_text_embeds(input_ids, attention_mask)
        if text_embeds is None:
            absent, has_text = torch.zeros_like(absent), torch.zeros_like(absent)
        else:
            has_text = valid if has_text is None else has_text.bool() & valid
        if self.config.uses_image_vectors:
            if crops is None or crop_masks is None:
                raise ValueError("text_sources asks for image vectors: the batch must hold crops and crop_masks")
            drawn = crop_masks.flatten(2).any(-1)
            text_embeds = self._mixed_vectors(self.crop_encoder(crops, crop_masks), text_embeds, has_text, drawn)
            has_text = has_text | (drawn & valid)

        output = self._interaction(
            embeddings, masks, truth, text_embeds, has_text, present, absent, pixel_values.shape[-1], step
        )
        if self.config.text_alignment > 0 and text_embeds is not None:
            told = has_text & (present | absent)
            rivals = None if rival_ids is None else self.model.get_text_embeds(rival_ids, rival_mask)
            aligned = self._alignment_loss(embeddings, text_embeds, truth & present[..., None, None], told, rivals)
            output["loss"] = output["loss"] + self.config.text_alignment * aligned
            output["metrics"]["text_alignment"] = aligned.detach()
        return output

    def _interaction(
        self,
        embeddings: torch.Tensor,
        masks: torch.Tensor,
        truth: torch.Tensor,
        text: torch.Tensor | None,
        has_text: torch.Tensor,
        present: torch.Tensor,
        absent: torch.Tensor,
        image_size: int,
        step: int,
    ) -> dict[str, Any]:
        """All rounds on the embeddings (B, C, h, w); `truth` is `masks` at low resolution, the flags are (B, P)."""
        config = self.config
        single_first, plan = round_plan(config, step)
        weights = config.first_prompts_single if single_first else config.first_prompts
        names, kinds = draw_kinds(weights, has_text, absent)
        noise = (config.box_noise, config.box_noise_kind, config.middle_clicks)
        prompts = first_prompts(names, kinds, masks, truth, text, image_size, *noise)
        said = torch.tensor([name == "text" for name in names], device=kinds.device)[kinds]  # a phrase alone, (B,P)
        rounds = [self._round(embeddings, prompts, truth, present, absent, said, multimask=not single_first)]
        for new_point in plan:
            prompts = self._next_prompts(prompts, rounds[-1]["logits"], truth, image_size, new_point)
            rounds.append(self._round(embeddings, prompts, truth, present, None, None, multimask=False))
        return self._collect(rounds, names, kinds, present, absent)

    def _alignment_loss(
        self,
        embeddings: torch.Tensor,
        text: torch.Tensor,
        truth: torch.Tensor,
        told: torch.Tensor,
        rivals: torch.Tensor | None,
    ) -> torch.Tensor:
        """Mean `alignment_loss` of the slots `told` (B, P) that have a phrase."""
        with torch.autocast(device_type=embeddings.device.type, enabled=False):
            alignment = self.alignment or self.model.prompt_encoder.text_alignment
            loss = alignment_loss(alignment, embeddings, text, truth, told, rivals)
            return mean_of_told(loss, told)

    @torch.no_grad()
    def preview(self, batch: dict[str, torch.Tensor]) -> Any:
        """Picture (PIL) of the masks predicted from one click on the first object of the first images of a batch."""
        pixel_values, masks = batch["pixel_values"][:4], batch["masks"][:4, :2]
        points = sampling.sample_points(masks, pixel_values.shape[-1])
        output = self.model(
            pixel_values=pixel_values,
            input_points=points.unsqueeze(2),
            input_labels=torch.ones_like(points[..., :1], dtype=torch.long),
            multimask_output=True,
        )
        best = output.iou_scores.argmax(-1)[..., None, None, None].expand(-1, -1, 1, *output.pred_masks.shape[-2:])
        return contact_sheet(pixel_values, masks, points, output.pred_masks.gather(2, best).squeeze(2))

    def _mixed_vectors(
        self, image: torch.Tensor, text: torch.Tensor | None, has_text: torch.Tensor, has_image: torch.Tensor
    ) -> torch.Tensor:
        """(B, P, D) vectors to prompt with: the phrase's, the crop's, or a point between, drawn as `text_sources`
        says.

        Prompts without a phrase get the crop's vector, those without a crop (absent objects) the phrase's.
        """
        image = image.detach().float()
        if self.config.text_gap != "none":
            image = image + self.text_shift
        if self.config.text_gap == "mean+noise":
            image = image + torch.randn_like(image) * (self.config.text_gap_noise / image.shape[-1] ** 0.5)
        image = nn.functional.normalize(image, dim=-1)
        if text is None:
            return image
        names = ("text", "image", "interpolation")
        weights = torch.tensor([float(self.config.text_sources.get(name, 0.0)) for name in names])
        source = torch.multinomial(weights, has_text.numel(), replacement=True).reshape(has_text.shape)
        source = source.to(image.device)
        share = torch.where(source == 2, torch.rand(source.shape, device=image.device), (source == 0).float())
        share = torch.where(has_image, share, torch.ones_like(share)) * has_text
        text = torch.where(has_text.unsqueeze(-1), text.float(), image)  # missing phrases are NaN
        return nn.functional.normalize(torch.lerp(image, text, share.unsqueeze(-1)), dim=-1)

    def _next_prompts(
        self, prompts: Prompts, logits: torch.Tensor, truth: torch.Tensor, image_size: int, new_point: bool
    ) -> Prompts:
        """Prompts of a later round: previous `logits` (B, P, 4h, 4w) as mask prompt and, with `new_point`, one more
        click."""
        if new_point:
            point, label = sampling.sample_error_points(logits > 0, truth, image_size, self.config.middle_clicks)
            if self.config.ground_truth_clicks > 0:
                other = sampling.sample_points(truth, image_size)
                swap = torch.rand(label.shape, device=label.device) < self.config.ground_truth_clicks
                swap = swap & (label != sampling.NO_POINT)
                point = torch.where(swap.unsqueeze(-1), other, point)
                label = torch.where(swap, torch.ones_like(label), label)
            prompts = prompts.with_point(point, label)
        previous = logits.unsqueeze(2)
        if self.config.mask_prompt_drop > 0:
            drop = torch.rand(truth.shape[:2], device=truth.device) < self.config.mask_prompt_drop
            # a round without a new point would merely repeat the last one if it lost its mask too
            if new_point:
                previous = previous.masked_fill(drop[..., None, None, None], torch.nan)
        return prompts.with_masks(previous)

    def _round(
        self,
        embeddings: torch.Tensor,
        prompts: Prompts,
        truth: torch.Tensor,
        present: torch.Tensor,
        absent: torch.Tensor | None,
        said: torch.Tensor | None,
        multimask: bool,
    ) -> dict[str, torch.Tensor]:
        """One decoder call and its loss. All shapes (B, P) unless said; `logits` is detached (B, P, 4h, 4w)."""
        config = self.config
        output = self.model(image_embeddings=embeddings, multimask_output=multimask, **prompts.arguments())
        logits, scores = output.pred_masks, output.iou_scores.float()  # (B,P,M,4h,4w), (B,P,M)
        with torch.autocast(device_type=logits.device.type, enabled=False):
            target = truth.unsqueeze(2)
            mask_loss = mask_losses(config.mask_losses, logits, target)  # (B,P,M)
            if said is not None and config.text_mask_losses is not None:
                of_phrases = mask_losses(config.text_mask_losses, logits, target)
                mask_loss = torch.where(said.unsqueeze(-1), of_phrases, mask_loss)
            ious = losses.mask_iou(logits, target)
            iou_loss = losses.iou_score_loss(scores, ious, config.iou_loss)
            best = mask_loss.argmin(-1, keepdim=True)  # lowest *mask* loss, scores do not vote
            per_mask = mask_loss.gather(-1, best).squeeze(-1)
            n_masks = mask_loss.shape[-1]
            if config.others_weight > 0 and n_masks > 1:
                per_mask = per_mask + config.others_weight * (mask_loss.sum(-1) - per_mask) / (n_masks - 1)
            per_score = iou_loss.mean(-1) if config.iou_on == "all" else iou_loss.gather(-1, best).squeeze(-1)
            mask_weight, score_weight = present.float(), present.float()
            if absent is not None:
                per_score = torch.where(absent, iou_loss.mean(-1), per_score)
                mask_weight = mask_weight + config.absent_mask_weight * absent
                score_weight = score_weight + config.absent_iou_weight * absent
            count = mean_over_processes(score_weight.sum()).clamp(min=1.0)
            mask_term = (per_mask * mask_weight).sum() / count
            score_term = (per_score * score_weight).sum() / count
        chosen = scores.argmax(-1, keepdim=True)
        picked = logits.detach().gather(2, chosen[..., None, None].expand(-1, -1, 1, *logits.shape[-2:])).squeeze(2)
        return {
            "loss": mask_term + config.iou_weight * score_term,
            "mask_loss": mask_term.detach(),
            "iou_loss": score_term.detach(),
            "logits": picked.float(),
            "iou": ious.gather(-1, chosen).squeeze(-1),
            "oracle": ious.amax(-1),
            "score": scores.detach().amax(-1),
        }

    def _collect(
        self,
        rounds: list[dict[str, torch.Tensor]],
        names: list[str],
        kinds: torch.Tensor,
        present: torch.Tensor,
        absent: torch.Tensor,
    ) -> dict[str, Any]:
        first, last = rounds[0], rounds[-1]
        metrics = {
            "mask_loss": torch.stack([r["mask_loss"] for r in rounds]).mean(),
            "iou_loss": torch.stack([r["iou_loss"] for r in rounds]).mean(),
            "iou_first": _masked_mean(first["iou"], present),
            "iou_oracle": _masked_mean(first["oracle"], present),
            "iou_last": _masked_mean(last["iou"], present),
            "score_absent": _masked_mean(first["score"], absent),
        }
        for index, name in enumerate(names):
            metrics[f"iou_{name}"] = _masked_mean(first["iou"], present & (kinds == index))
        return {
            "loss": torch.stack([r["loss"] for r in rounds]).mean(),
            "losses": torch.stack([r["loss"].detach() for r in rounds]),
            "ious": torch.stack([_masked_mean(r["iou"], present) for r in rounds]),
            "oracle_ious": torch.stack([_masked_mean(r["oracle"], present) for r in rounds]),
            "metrics": metrics,
        }


def _masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the true entries, NaN where there are none."""
    return torch.where(mask, values, torch.zeros_like(values)).sum() / mask.sum()


def mask_losses(weights: Mapping[str, float], logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Weighted sum of `losses.*_loss` by name: (..., H, W) each -> (...)."""
    functions = {"focal": losses.focal_loss, "dice": losses.dice_loss, "bce": losses.balanced_bce_loss}
    return torch.stack([weight * functions[name](logits, target) for name, weight in weights.items() if weight]).sum(0)
