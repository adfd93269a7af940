"""Everything mode says what there is; given names, text says what each mask is.

Per mask the names and background words stand in one softmax. What goes to the background words together is the
probability of "other", so a mask that shows none of the names is not called by the least wrong one.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sam_hf.inference.text.ranking import RANKING_VIEWS, mask_vectors, says, similarities
from sam_hf.inference.text.templates import BACKGROUND, clean_phrases

if TYPE_CHECKING:
    from sam_hf.inference.text.clip_encoder import ClipEncoder


def name_masks(
    clip: "ClipEncoder",
    pixels: Tensor,
    records: Sequence[Mapping[str, Any]],
    text: Sequence[str],
    other: str = "other",
    threshold: float = 0.5,
    views: Sequence[str] = RANKING_VIEWS,
    templates: Sequence[str] | None = None,
    background: Sequence[str] = BACKGROUND,
) -> list[dict[str, Any]]:
    """Gives each mask of everything mode a name.

    Args:
        clip: Pictures and phrases to vectors.
        pixels: (3,H,W) uint8, the picture.
        records: Of `SamAutomaticMaskGenerator.generate`, in any output mode.
        text: The names to choose from.
        other: What a mask is called that shows none of them.
        threshold: A mask is named if the names together are at least this probable.
        views: How a mask is shown to CLIP, see `views.VIEWS`.
        templates: Sentences around names and background words; None: `ClipEncoder.templates`.
        background: Words for what is there anyway; those that a name says are left out, "sky" beside "blue sky".

    Returns:
        New records in the same order, with `label`, one of the names or `other`, and `label_probability`: of that
        name, or for `other` of all background words together.

    Raises:
        ValueError: If there are no names, one is blank, twice there or equal to `other`; if no background word is
            left; or if `threshold` is outside of [0,1].
        TypeError: If the names are no sequence of strings.
    """
    names = read_names(text, other)
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold: expected a number in [0,1], got {threshold}")
    # One softmax for all names: a word that any of them says would take from that one what is its own.
    rest = [word for word in background if not any(says(name, word) for name in names)]
    if not rest:
        raise ValueError(f"background: expected a word that is in no name, got {list(background)}")
    vectors = mask_vectors(clip, pixels, [record["segmentation"] for record in records], views)
    scores = clip.logit_scale * similarities(clip, vectors, [*names, *rest], templates)  # (n,R)
    probabilities = scores.softmax(dim=1)
    # An empty mask is nothing.
    others = probabilities[:, len(names) :].sum(dim=1).masked_fill(~vectors.any(dim=1), 1.0)
    best, which = probabilities[:, : len(names)].max(dim=1)
    named = (1 - others >= threshold).tolist()
    labels = [names[index] if is_named else other for index, is_named in zip(which.tolist(), named, strict=True)]
    surely = torch.where(torch.tensor(named, dtype=torch.bool), best, others).tolist()
    return [
        {**record, "label": label, "label_probability": probability}
        for record, label, probability in zip(records, labels, surely, strict=True)
    ]


def read_names(text: Sequence[str], other: str = "other") -> tuple[str, ...]:
    """Names to choose from, checked.

    Raises:
        ValueError, TypeError: See `name_masks`.
    """
    names = clean_phrases(text, "text")
    if not names:
        raise ValueError("text: expected at least one name, got an empty list")
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name.casefold() in seen:
            raise ValueError(f"text[{index}]: expected different names, got {name!r} twice")
        if name.casefold() == other.casefold():
            raise ValueError(f"text[{index}]: {name!r} is what a mask is called that has none of the names")
        seen.add(name.casefold())
    return names
