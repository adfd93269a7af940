"""What `training.json` says of a converted checkpoint: whose weights these are, and which files they came out of.

A conversion changes no weight, so what a training has said of them stays true and goes along. Where nobody has said
anything, the base is the Hub id that the weights came from, or what the SHA-256 of a published file tells. The name of
a file alone tells nothing, nor do the sizes of a network: fine-tuned weights have the same.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["ORIGIN", "facts_of", "facts_with_text", "facts_without_text"]

ORIGIN = "conversion"
"""The fact that tells a conversion's `training.json` from a training's own: the files that the weights were in."""
PUBLISHED = {
    "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912": "facebook/sam-vit-base",
    "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622": "facebook/sam-vit-large",
    "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e": "facebook/sam-vit-huge",
    "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f": "MobileSAM",
}
"""SHA-256 of Meta's and MobileSAM's files -> the base of a model card: a Hub id with the same weights, or a name."""
# What a card takes from the files of a checkpoint itself, and what leads to the checkpoint that was the source.
OF_ONE_FOLDER = {"model_name", "load_name", "checkpoint_mb", "parameters", "image_size", "encoder"}
OF_ONE_FOLDER |= {"has_text", "custom_code"}
OF_LICENCE = {"license", "licences"}  # whoever states nothing else has not said whose weights these are


def facts_of(
    name: str, revision: str | None, files: Iterable[Path], known: Mapping[str, Any], has_text: bool
) -> dict[str, Any]:
    """Facts on a checkpoint that is converted.

    Args:
        name: Of the source, for others to read: a Hub id, or the last part of a path.
        revision: Commit, if it came from the Hub.
        files: Its weights.
        known: What its own training, or an earlier conversion, has said.
        has_text: Whether it has a text branch; the card of a "converted" one says that it has none.
    """
    hashes = {file.name: _sha256(file) for file in files}
    facts = {fact: value for fact, value in known.items() if fact not in OF_ONE_FOLDER}
    if set(facts) <= OF_LICENCE:
        base = name if revision is not None else next(map(PUBLISHED.get, hashes.values()), None)
        facts |= {} if has_text else {"kind": "converted"}
        facts |= {} if base is None else {"base_model": base}
    origin = {"source": name} | ({} if revision is None else {"revision": revision}) | {"sha256": hashes}
    return {ORIGIN: origin} | facts  # the first conversion's stays, which knows the original


def facts_without_text(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts when the text branch is left out: those on its training say nothing of what is left."""
    return _of_base(facts) if facts.get("kind") == "text" else dict(facts)


def facts_with_text(facts: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Facts on a checkpoint with the text branch of another one."""
    of_text = {fact: value for fact, value in other.items() if fact not in ("base_model", ORIGIN)}
    origin = dict(facts[ORIGIN]) | {"text_from": other[ORIGIN]}
    return (of_text if other.get("kind") == "text" else {}) | _of_base(facts) | {ORIGIN: origin}


def _of_base(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {fact: facts[fact] for fact in ("base_model", ORIGIN) if fact in facts}


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
