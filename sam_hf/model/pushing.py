"""What `model.push_to_hub` commits: everything that belongs to the weights, in one commit with what they replace."""

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError
from safetensors import safe_open
from torch import nn
from transformers.utils.hub import create_and_tag_model_card

from .atomic_saving import obsolete_weights
from .checkpoint_checks import check_folder, files_of_weights
from .checkpoint_files import CALIBRATION, CARD, TRAINING


def push(
    model: Any,
    repo_id: str,
    source: str | os.PathLike,
    token: str | bool | None,
    max_shard_size: int | str | None,
    card_of: Callable[[Any, str], str] | None = None,
    *,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    tags: str | Sequence[str] | None = None,
) -> CommitInfo:
    """Save a model and commit it; earlier weights that would be loaded in place of these go in the same commit.

    Args:
        model: To be pushed.
        repo_id: Where to; made if it does not exist.
        source: Where it lies; what is beside it there goes along. A Hub id says nothing.
        token: Of the Hub.
        max_shard_size: Of its files.
        card_of: Makes the card, given the folder and `repo_id`, if the repository has none; None: transformers does.
        commit_message: First line of the commit.
        commit_description: The rest of it.
        private: Whether a new repository is.
        revision: Branch, made if needed; None: the main one.
        create_pr: Whether to open a pull request.
        tags: For the card.
    """
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    _make_branch(api, repo_id, revision, create_pr)
    present = api.list_repo_files(repo_id, revision=revision)
    tags = [*(model.model_tags or []), *([tags] if isinstance(tags, str) else tags or [])]
    with tempfile.TemporaryDirectory(prefix="sam_hf-push-") as temporary:
        folder = Path(temporary)
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        for file in _beside(source, model):
            shutil.copyfile(file, folder / file.name)
        if card_of is None or CARD in present:
            card = create_and_tag_model_card(repo_id, tags or None, token=token)
        else:
            card = ModelCard(card_of(folder, repo_id))
            card.data.tags = list(dict.fromkeys([*(card.data.tags or []), *tags]))
        card.save(folder / CARD)
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        operations: list[Any] = [CommitOperationAdd(name, path) for name, path in files.items()]
        operations += [CommitOperationDelete(name) for name in obsolete_weights(files, present)]
        return api.create_commit(
            repo_id,
            operations,
            commit_message=commit_message or "Upload model",
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
        )


def _make_branch(api: HfApi, repo_id: str, revision: str | None, create_pr: bool) -> None:
    if revision is None or revision == "main" or revision.startswith("refs/pr"):
        return
    try:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    except HfHubHTTPError as error:
        # Who may only propose cannot make branches; whether this one exists, the commit tells.
        if not create_pr or error.response is None or error.response.status_code != 403:
            raise


def _beside(source: str | os.PathLike, model: nn.Module) -> list[Path]:
    """What lies beside a model's weights and is of them: what the training says of itself, when a phrase is absent.

    Once the model has been trained further, both are of another one.
    """
    found = [Path(source) / name for name in (TRAINING, CALIBRATION) if str(source)]
    found = [file for file in found if file.is_file()]
    return found if found and _has_weights_of(Path(source), model) else []


def _has_weights_of(folder: Path, model: nn.Module) -> bool:
    """Whether the files of a folder hold the weights that a model has, as far as its number format tells."""
    weights = model.state_dict()
    try:
        check_folder(folder, config=False)
        for file in files_of_weights(folder):
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():
                    here = weights.get(name)
                    if here is None or not torch.equal(opened.get_tensor(name).to(here.dtype), here.detach().cpu()):
                        return False
    except (OSError, ValueError, RuntimeError):  # gone, damaged, of another shape
        return False
    return True
