"""A small CLIP of our own: an open_clip model trained on object crops and their phrases, and what appendix D.5 does
with it.

Its text tower goes into `prompt_encoder.text_encoder` of a `SamModel`; its image tower gives the vectors of masked
crops with which the text branch is trained. It is saved as an open_clip folder, so
`open_clip.create_model("local-dir:<folder>")` loads it. Its vocabulary is cut, so tokenize with
`SamTokenizer(vocab_size, context_length)`, not with open_clip's tokenizer.

Source: Radford et al. 2021 (arXiv 2103.00020) for the loss; Kirillov et al. 2023, appendix D.5 for crops and masked
attention.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sam_hf.model import clip_loading
from sam_hf.model.atomic_saving import replaced_whole
from sam_hf.model.clip_loading import CONFIG_NAME
from sam_hf.training.scene_dataset import IMAGE_MEAN, IMAGE_STD

CLIP_CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 2, 1], "width": 32},
    "text_cfg": {"context_length": 24, "vocab_size": 8192, "width": 128, "heads": 4, "layers": 3},
}
PAIR_BIAS = -12.0  # at the start, of the log-odds that a pair is true: most are not
WEIGHTS_NAME, MEANS_NAME = "open_clip_model.safetensors", "modality_means.safetensors"


def build_clip(config: dict[str, Any] | None = None) -> nn.Module:
    """An untrained `open_clip.model.CLIP`.

    Args:
        config: `embed_dim`, `vision_cfg`, `text_cfg` as in open_clip's model configurations; default `CLIP_CONFIG`,
            about 5 M parameters.

    Returns:
        The model, with its configuration as attribute `sam_hf_config`.
    """
    from open_clip.model import CLIP

    config = copy.deepcopy(config or CLIP_CONFIG)
    clip = CLIP(**config, output_dict=True)
    clip.sam_hf_config = config
    return clip


def save_clip(clip: nn.Module, folder: str | Path, means: tuple[torch.Tensor, torch.Tensor] | None = None) -> Path:
    """Writes an open_clip folder; an existing one is replaced.

    Args:
        clip: from `build_clip` or `load_clip`.
        folder: to write.
        means: (image mean, text mean), see `modality_means`.
    """
    folder = Path(folder)
    preprocess = {"mean": list(IMAGE_MEAN), "std": list(IMAGE_STD), "interpolation": "bilinear"}
    content = {"model_cfg": clip.sam_hf_config, "preprocess_cfg": preprocess}
    weights = {name: value.detach().cpu().contiguous() for name, value in clip.state_dict().items()}
    with replaced_whole(folder) as partial:
        (partial / CONFIG_NAME).write_text(json.dumps(content, indent=2) + "\n")
        save_file(weights, partial / WEIGHTS_NAME)
        if means is not None:
            save_file(
                {"image": means[0].cpu().contiguous(), "text": means[1].cpu().contiguous()}, partial / MEANS_NAME
            )
    return folder


def load_clip(folder: str | Path) -> nn.Module:
    """The model that `save_clip` wrote, in eval mode, as `build_clip` makes it.

    Raises:
        OSError: `folder` is not an open_clip folder.
        ValueError: Its weights are damaged, or of another shape.
    """
    clip = clip_loading.load_clip(f"{clip_loading.FOLDER}{folder}", torch.device("cpu")).clip.eval()
    clip.output_dict = True
    clip.sam_hf_config = json.loads((Path(folder) / CONFIG_NAME).read_text())["model_cfg"]
    return clip


def load_means(folder: str | Path) -> tuple[torch.Tensor, torch.Tensor] | None:
    """(image mean, text mean), each (D,), if the folder has them."""
    path = Path(folder) / MEANS_NAME
    if not path.is_file():
        return None
    means = load_file(path)
    return means["image"], means["text"]


def copy_text_tower(clip: nn.Module, model: nn.Module) -> None:
    """Fills `model.prompt_encoder.text_encoder` with the text tower of `clip`.

    Args:
        clip: an open_clip CLIP.
        model: a `SamModel` whose `text_config` has the shape of that tower.

    Raises:
        ValueError: the model has no text branch, or its tower has another shape.
    """
    tower = model.prompt_encoder.text_encoder
    if tower is None:
        raise ValueError("model has no text branch: give its SamConfig a text_config")
    source = getattr(clip, "text", clip).state_dict()  # open_clip's CustomTextCLIP keeps it in a module of its own
    wanted = tower.state_dict()
    wrong = [name for name, value in wanted.items() if name not in source or source[name].shape != value.shape]
    if wrong:
        raise ValueError(
            f"the CLIP text tower does not fit the model's text_config: {wrong[:4]} missing or of another shape"
        )
    tower.load_state_dict({name: source[name] for name in wanted})


class ClipForTraining(nn.Module):
    """Symmetric contrastive loss with several positives per phrase; for `trainer.Trainer`.

    Each row's target is uniform over all crops of which its phrase is surely true; pairs that might be true count
    neither way. Negatives are those of the process' own batch.

    Args:
        clip: from `build_clip`.
        max_scale: upper limit of the learned inverse temperature (CLIP: 100).
        pairwise: weight of SigLIP's loss beside it. Choosing among phrases is one question, whether a phrase is true
            at all another: each pair of a crop and a phrase is asked by itself, on one scale for all. It gives the
            CLIP a `logit_bias`, as open_clip's SigLIP models have.
    """

    def __init__(self, clip: nn.Module, max_scale: float = 100.0, pairwise: float = 0.0) -> None:
        super().__init__()
        self.clip, self.max_scale, self.pairwise = clip, max_scale, pairwise
        if pairwise and getattr(clip, "logit_bias", None) is None:
            clip.logit_bias = nn.Parameter(torch.tensor(PAIR_BIAS))
            clip.sam_hf_config = clip.sam_hf_config | {"init_logit_bias": PAIR_BIAS}
        clip.visual.to(memory_format=torch.channels_last)  # a third faster on CPUs

    def forward(
        self,
        images: torch.Tensor,
        input_ids: torch.Tensor,
        positive: torch.Tensor,
        ignore: torch.Tensor,
        masks: torch.Tensor | None = None,
        rival_ids: torch.Tensor | None = None,
        rival_of: torch.Tensor | None = None,
    ) -> dict[str, Any]:
        """Loss of one batch, see `crop_dataset.CropCollate`; `masks` are not used."""
        crops = normalise_crops(images).contiguous(memory_format=torch.channels_last)
        with sdpa_kernel(SDPBackend.MATH):  # see phrase_vectors
            seen = F.normalize(self.clip.encode_image(crops).float(), dim=-1)  # (n,D)
        said = phrase_vectors(self.clip, input_ids if rival_ids is None else torch.cat([input_ids, rival_ids]))
        scale = self.clip.logit_scale.float().exp().clamp(max=self.max_scale)
        cosines = said @ seen.t()  # rows: phrases, then rivals
        unknown, true = ignore, positive
        if rival_ids is not None:  # true of none; whether of another crop than their own nobody has looked
            strangers = rival_of[:, None] != torch.arange(len(images), device=rival_of.device)  # (m,n)
            unknown, true = torch.cat([ignore, strangers]), torch.cat([positive, torch.zeros_like(strangers)])
        logits = (scale * cosines).masked_fill(unknown, -torch.inf)
        of_phrases = logits[: len(positive)]
        loss = 0.5 * (_multi_positive(of_phrases, positive) + _multi_positive(logits.t(), true.t()))
        found = positive.gather(1, of_phrases.argmax(1, keepdim=True)).float().mean()
        metrics = {"retrieval": found.detach(), "scale": scale.detach()}
        if self.pairwise:
            pairs = scale * cosines + self.clip.logit_bias
            one_by_one = F.binary_cross_entropy_with_logits(pairs, true.float(), reduction="none")
            loss = loss + self.pairwise * one_by_one.masked_fill(unknown, 0.0).sum() / len(images)
            metrics["bias"] = self.clip.logit_bias.detach()
        return {"loss": loss, "metrics": metrics}


def phrase_vectors(clip: nn.Module, input_ids: torch.Tensor) -> torch.Tensor:
    """Unit vectors (n,D) float32 of phrases (n,T); what `clip.encode_text` gives, for less.

    Attention is causal and a phrase's vector is that of its end token, so what stands behind the longest phrase's end
    changes nothing; phrases that come twice are read once.
    """
    phrases, place = input_ids.unique(dim=0, return_inverse=True)
    ends = phrases.argmax(dim=-1)
    length = int(ends.max()) + 1
    tokens = clip.token_embedding(phrases[:, :length]) + clip.positional_embedding[:length]
    with sdpa_kernel(SDPBackend.MATH):  # of so short phrases the fused kernel's gradients take twice as long
        tokens = clip.ln_final(clip.transformer(tokens, attn_mask=clip.attn_mask[:length, :length]))
    vectors = tokens[torch.arange(len(phrases), device=phrases.device), ends] @ clip.text_projection
    return F.normalize(vectors.float(), dim=-1)[place]


def _multi_positive(logits: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
    log_probability = logits.log_softmax(-1).masked_fill(~positive, 0.0)
    return -(log_probability.sum(-1) / positive.sum(-1)).mean()


def normalise_crops(
    images: torch.Tensor, mean: Sequence[float] = IMAGE_MEAN, std: Sequence[float] = IMAGE_STD
) -> torch.Tensor:
    """(..., 3, s, s) uint8 -> float32 by a CLIP's mean and deviation; the default is our small CLIP's (ImageNet's)."""
    shape = (3, 1, 1)
    centred = images.float() / 255 - torch.tensor(mean, device=images.device).view(shape)
    return centred / torch.tensor(std, device=images.device).view(shape)


class CropEncoder:
    """Frozen image tower: masked crops -> unit vectors, the training prompts of appendix D.5.

    Not a module on purpose: it is neither trained nor saved with the model.

    Args:
        clip: an open_clip CLIP; only a copy of its image tower is kept.
        masked_attention: in the last attention layer the output token attends only to positions inside the mask
            (ViT towers and the attention pool of ResNet towers).
        mean, std: what its images are normalised by.
        batch_size: crops at once; bounds the memory.
    """

    def __init__(
        self,
        clip: nn.Module,
        masked_attention: bool = False,
        mean: Sequence[float] = IMAGE_MEAN,
        std: Sequence[float] = IMAGE_STD,
        batch_size: int = 64,
    ) -> None:
        self.visual = copy.deepcopy(clip.visual).eval().requires_grad_(False)
        self.masked_attention = masked_attention
        self.mean, self.std, self.batch_size = tuple(mean), tuple(std), batch_size

    @torch.no_grad()
    def __call__(self, crops: torch.Tensor, crop_masks: torch.Tensor) -> torch.Tensor:
        """(B, P, 3, s, s) uint8 crops and (B, P, s, s) bool masks -> (B, P, D) unit vectors.

        Raises:
            ValueError: masked attention is asked of a tower that has no attention at its end.
        """
        self.visual.to(crops.device)
        parts = zip(
            crops.flatten(0, 1).split(self.batch_size), crop_masks.flatten(0, 1).split(self.batch_size), strict=True
        )
        vectors = torch.cat([self._encode(*part) for part in parts])
        return F.normalize(vectors.float(), dim=-1).unflatten(0, crops.shape[:2])

    def _encode(self, crops: torch.Tensor, crop_masks: torch.Tensor) -> torch.Tensor:
        """(n, 3, s, s) and (n, s, s) -> (n, D)."""
        images = normalise_crops(crops, self.mean, self.std)
        if self.masked_attention:
            return masked_image_features(self.visual, images, crop_masks)
        vectors = self.visual(images)
        return vectors[0] if isinstance(vectors, tuple) else vectors  # CoCa's tower gives its tokens as well


def can_mask_attention(visual: nn.Module) -> bool:
    """Whether `masked_image_features` takes this open_clip image tower."""
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

    if isinstance(visual, VisionTransformer):
        plain = isinstance(visual.transformer.resblocks[-1], ResidualAttentionBlock) and visual.transformer.batch_first
        return plain and visual.attn_pool is None and visual.pool_type == "tok"
    return isinstance(visual, ModifiedResNet)


def masked_image_features(visual: nn.Module, images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Output of an open_clip image tower whose output token sees, in the last attention layer, only the mask.

    Args:
        visual: `VisionTransformer` or `ModifiedResNet`.
        images: (n, 3, s, s) normalised.
        masks: (n, s, s) bool; where one covers no position at all, every position is seen.

    Returns:
        (n, D), not normalised.

    Raises:
        ValueError: the tower is of another kind, see `can_mask_attention`.

    Source: appendix D.5.
    """
    from open_clip.transformer import VisionTransformer

    if not can_mask_attention(visual):
        raise ValueError(
            "masked attention needs a ModifiedResNet, or a VisionTransformer with an output token, "
            f"got {type(visual).__name__}"
        )
    if isinstance(visual, VisionTransformer):
        tokens = visual._embeds(images)  # (n, 1 + L, width)
        side = int((tokens.shape[1] - 1) ** 0.5)
        *blocks, last = visual.transformer.resblocks
        for block in blocks:
            tokens = block(tokens)
        blocked = _blocked_positions(masks, side).to(tokens.device)  # (n, 1 + L)
        pooled, _ = visual._pool(_last_block(last, tokens, blocked))
        return pooled @ visual.proj if visual.proj is not None else pooled
    features = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(images)))))
    return _masked_pool(visual.attnpool, features, _blocked_positions(masks, features.shape[-1]))


def _last_block(block: nn.Module, tokens: torch.Tensor, blocked: torch.Tensor) -> torch.Tensor:
    """The output token (n, 1, C) after an open_clip block in which it does not see what is `blocked` (n, T).

    No other token is wanted any more, so none is computed: at 577 tokens the mask for all would take gigabytes.
    """
    seen = block.ln_1(tokens)
    bias = torch.zeros_like(blocked, dtype=seen.dtype).masked_fill_(blocked, -torch.inf)[:, None]  # (n, 1, T)
    bias = bias.repeat_interleave(block.attn.num_heads, 0)
    attended = block.attn(seen[:, :1], seen, seen, need_weights=False, attn_mask=bias)[0]
    output = tokens[:, :1] + block.ls_1(attended)
    return output + block.ls_2(block.mlp(block.ln_2(output)))


def _blocked_positions(masks: torch.Tensor, side: int) -> torch.Tensor:
    """(n, 1 + side * side) bool, true where the output token must not look; it always sees itself."""
    outside = F.adaptive_max_pool2d(masks[:, None].float(), side).flatten(1) == 0
    outside = outside & ~outside.all(1, keepdim=True)
    return F.pad(outside, (1, 0), value=False)


def _masked_pool(pool: nn.Module, features: torch.Tensor, blocked: torch.Tensor) -> torch.Tensor:
    """`AttentionPool2d` with the first token's view restricted; its mean token is the mean of all positions as
    ever."""
    tokens = features.flatten(2).transpose(1, 2)  # (n, L, C)
    tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1) + pool.positional_embedding
    heads = pool.num_heads

    def split(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)  # (n, heads, T, C / heads)

    mixed = F.scaled_dot_product_attention(
        split(pool.q_proj(tokens[:, :1])),
        split(pool.k_proj(tokens)),
        split(pool.v_proj(tokens)),
        attn_mask=~blocked[:, None, None],
    )
    return pool.c_proj(mixed.transpose(1, 2).flatten(2))[:, 0]


@torch.no_grad()
def modality_means(clip: nn.Module, batches: list[dict[str, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean unit vector of images and of texts over some batches of `CropCollate`: the gap between the modalities."""
    clip.eval()
    images = [clip.encode_image(normalise_crops(batch["images"]), normalize=True) for batch in batches]
    texts = [clip.encode_text(batch["input_ids"], normalize=True) for batch in batches]
    return torch.cat(images).mean(0), torch.cat(texts).mean(0)
