"""What `model.push_to_hub` commits: everything that belongs to the weights, in one commit with what they replace.

What a repository that exists means for an upload is decided here for `sam_hf.hub.publishing` too.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    ModelCardData,
    ModelInfo,
    constants,
)
from huggingface_hub.errors import HfHubHTTPError

from .atomic_saving import obsolete_weights
from .checkpoint_files import CARD, DERIVED, PICKLED, SAFETENSORS
from .companion_files import told_of

# transformers' `create_and_tag_model_card` puts this sentence into its card.
AUTOMATIC = (
    "This is the model card of a 🤗 transformers model that has been pushed on the Hub. This model card has been "
    "automatically generated."
)


def push(
    model: Any,
    repo_id: str,
    source: str | os.PathLike,
    token: str | bool | None,
    saving: Mapping[str, Any],
    card_of: Callable[[Any, str], str] | None = None,
    *,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    tags: str | Sequence[str] | None = None,
) -> CommitInfo:
    """Save a model and commit it; what these weights make obsolete goes in the same commit.

    Args:
        model: To be pushed.
        repo_id: Where to; made if it does not exist.
        source: Where it lies; what is beside it there goes along. A Hub id says nothing.
        token: Of the Hub.
        saving: Arguments of its `save_pretrained`, such as `max_shard_size`, `state_dict`, `variant`.
        card_of: Makes the card, given the folder and `repo_id`, if the repository has none, or transformers' empty
            form; None: transformers' form.
        commit_message: First line of the commit.
        commit_description: The rest of it.
        private: Whether a new repository is. True for an existing public one is refused.
        revision: Branch, made if needed; None: the main one.
        create_pr: Whether to open a pull request.
        tags: For the card.

    Raises:
        ValueError: The repository is public and `private` was asked for.
    """
    api = HfApi(token=token)
    repo_id = make_repository(api, repo_id, private, revision, create_pr)
    present = list_repository(api, repo_id, revision)
    tags = [*(model.model_tags or []), *([tags] if isinstance(tags, str) else tags or [])]
    variant = saving.get("variant")
    with tempfile.TemporaryDirectory(prefix="sam_hf-push-") as temporary:
        folder = Path(temporary)
        model.save_pretrained(folder, **saving)
        beside, is_theirs = told_of(source, folder, variant)
        for file in beside if is_theirs else ():
            shutil.copyfile(file, folder / file.name)
        # Of a variant there is nothing to say that is not said of the weights themselves.
        card = _card(api, repo_id, present, folder, None if variant is not None else card_of)
        card.data.tags = list(dict.fromkeys([*(card.data.tags or []), *tags])) or None
        card.save(folder / CARD)
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        operations: list[Any] = [CommitOperationAdd(name, path) for name, path in files.items()]
        operations += [CommitOperationDelete(name) for name in obsolete_files(present, files)]
        return api.create_commit(
            repo_id,
            operations,
            commit_message=commit_message or "Upload model",
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
        )


def make_repository(
    api: HfApi, repo_id: str, private: bool | None, revision: str | None, create_pr: bool = False
) -> str:
    """Make a repository and a branch of it where there is none; returns its full id.

    Raises:
        ValueError: It is public, and `private` was asked for.
    """
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if private and not api.repo_info(repo_id).private:
        raise ValueError(
            f"private: {repo_id!r} exists already and is public; nothing was sent. Make it private on its "
            "settings page first, or leave `private` out"
        )
    if revision is None or revision == "main" or revision.startswith("refs/pr/"):
        return repo_id
    try:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    except HfHubHTTPError as error:
        # Who may only propose cannot make branches; whether this one exists, the commit tells.
        if not create_pr or error.response is None or error.response.status_code != 403:
            raise
    return repo_id


def list_repository(api: HfApi, repo_id: str, revision: str | None) -> ModelInfo:
    """What a repository holds, and the SHA-256 of its large files."""
    return api.model_info(repo_id, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT)


def obsolete_files(present: ModelInfo, files: Mapping[str, Path]) -> list[str]:
    """Which files of a repository would be loaded in place of new ones, or are of weights that these replace.

    Another variant's weights are left alone: nobody gets them who does not ask for them. So is what the new files say
    nothing about, such as a CLIP beside the weights, pictures, and files of others.

    Args:
        present: See `list_repository`.
        files: The new ones, by their path in the repository.
    """
    there = {file.rfilename: file for file in present.siblings or []}
    obsolete = set(obsolete_weights(files, there))
    new = {name: path for name, path in files.items() if SAFETENSORS.fullmatch(name)}
    if new:
        obsolete |= {name for name in there if SAFETENSORS.fullmatch(name) or PICKLED.fullmatch(name)}
        derived = {name for name in there if DERIVED.fullmatch(name)} - set(files)
        if derived and not _same_weights(there, new):
            obsolete |= derived
    return sorted(obsolete - set(files))


def _same_weights(there: Mapping[str, Any], new: Mapping[str, Path]) -> bool:
    hashes = {
        name: getattr(getattr(file, "lfs", None), "sha256", None)
        for name, file in there.items()
        if SAFETENSORS.fullmatch(name) and name.endswith(".safetensors")
    }
    files = {name: path for name, path in new.items() if name.endswith(".safetensors")}
    return set(hashes) == set(files) and all(hashes[name] == _sha256(path) for name, path in files.items())


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        digest = hashlib.sha256()
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _card(
    api: HfApi, repo_id: str, present: ModelInfo, folder: Path, card_of: Callable[[Any, str], str] | None
) -> ModelCard:
    """The card that the revision has, unless it is transformers' empty form and there is more to say."""
    form = ModelCard.from_template(ModelCardData(library_name="transformers"), model_description=AUTOMATIC)
    if CARD in [file.rfilename for file in present.siblings or []]:
        with tempfile.TemporaryDirectory(prefix="sam_hf-card-") as scratch:
            path = api.hf_hub_download(repo_id, CARD, revision=present.sha, local_dir=scratch)
            card = ModelCard(Path(path).read_text(encoding="utf-8"), ignore_metadata_errors=True)
        if card_of is None or card.text.split() != form.text.split():
            return card
    return form if card_of is None else ModelCard(card_of(folder, repo_id))
