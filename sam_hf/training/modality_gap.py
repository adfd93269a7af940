"""How far apart CLIP's image and text vectors lie: the means of both, measured on the data of a run.

Source: C3, arXiv 2401.08567 (each modality lies in a cone of its own; moving one mean onto the other closes most of
the gap).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import torch
import torch.nn.functional as F

from sam_hf.data.annotated_image import AnnotatedImage
from sam_hf.model.text_encoder import SamTokenizer
from sam_hf.training.clip import CropEncoder
from sam_hf.training.masks_dataset import MaskSampler
from sam_hf.training.pretrained_clip import PretrainedClip

PICTURES, MASKS_EACH, TEXTS = 128, 8, 1000
FEW_TEXTS = 100  # fewer phrases than this say little about where texts lie


@torch.no_grad()
def measure_means(
    records: Iterable[AnnotatedImage],
    clip: PretrainedClip,
    encoder: CropEncoder,
    min_side: float,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(image mean, text mean), (D,) each, of unit vectors.

    Image vectors are those of training crops. Texts are the data's phrases; where it has few, ImageNet's class names
    are added.

    Args:
        records: The data; its first 128 pictures are used.
        clip: Whose text tower and sizes count.
        encoder: Its image tower.
        min_side: Smallest mask, see `MaskSampler`.
        device: Where to compute the image vectors.
        seed: Of the crops.

    Raises:
        ValueError: None of the pictures has a usable mask.
    """
    sampler = MaskSampler(256, 64, MASKS_EACH, min_side, scale_range=None, crop_size=clip.image_size)
    vectors, texts = [], set()
    for number, record in enumerate(islice(records, PICTURES)):
        texts.update(phrase for said in record.phrases for phrase in said)
        try:
            sample = sampler(record, f"{seed}/means/{number}")
        except ValueError:  # an unreadable picture is the training's to report
            continue
        if sample is not None:
            vectors.append(encoder(sample["crops"][None].to(device), sample["crop_masks"][None].to(device))[0].cpu())
    if not vectors:
        raise ValueError(f"data: none of the first {PICTURES} pictures has a usable mask (min_side {min_side:g})")
    chosen = sorted(texts)[:: len(texts) // TEXTS + 1]
    if len(chosen) < FEW_TEXTS:
        from open_clip import IMAGENET_CLASSNAMES

        chosen += IMAGENET_CLASSNAMES
    return torch.cat(vectors).mean(0), _mean_text(clip, chosen)


def _mean_text(clip: PretrainedClip, texts: list[str]) -> torch.Tensor:
    tokens = SamTokenizer(clip.text_config.vocab_size, clip.text_config.context_length)(texts)["input_ids"]
    vectors = [F.normalize(clip.model.encode_text(part).float(), dim=-1) for part in tokens.split(64)]
    return torch.cat(vectors).mean(0)
