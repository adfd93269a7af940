"""One folder to one repository of the Hub, and what can go wrong on the way in one sentence that names it."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from sam_hf.model.checkpoint_files import CONFIG, read_json
from sam_hf.model.hub_access import scrubbed
from sam_hf.model.pushing import list_repository, make_repository, obsolete_files
from sam_hf.model.remote_code import MODELS


def upload(
    api: HfApi,
    folder: Path,
    repo_id: str,
    *,
    private: bool | None,
    revision: str | None,
    create_pr: bool,
    message: str,
    description: str | None,
    code: Sequence[str],
) -> tuple[CommitInfo, list[str]]:
    """Make the repository and the branch if needed, and commit the folder's files.

    What an interrupted upload has sent is not sent again: huggingface_hub asks the Hub for it by content.

    Args:
        api: With the user's token.
        folder: What to upload, all of it.
        repo_id: "organisation/name".
        private: See `sam_hf.hub.publishing.publish`, as for the rest.
        revision: Branch, or "refs/pr/N".
        create_pr: Whether to open a pull request.
        message: First line of the commit.
        description: The rest of it.
        code: See `removed_files`.

    Returns:
        The commit, and which files it has removed.

    Raises:
        ValueError: The repository is public and `private` was asked for, or the Hub says that a file is not valid.
        OSError: The Hub refuses, or cannot be reached.
    """
    try:
        repo_id = make_repository(api, repo_id, private, revision)
        obsolete = removed_files(api, repo_id, revision, folder, code)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=message,
            commit_description=description,
            revision=revision,
            create_pr=create_pr,
            delete_patterns=obsolete,
        )
        return commit, obsolete
    except BadRequestError as error:
        raise ValueError(f"the Hub does not take the files for {repo_id!r}: {_words(error, api.token)}") from error
    except (HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled) as error:
        raise OSError(f"cannot publish to {repo_id!r}: {_reason(error, api.token)}") from error
    except ValueError:
        raise
    except Exception as error:  # of huggingface_hub's HTTP library, whose name changes, and RuntimeError around it
        cause = error.__cause__ or error
        raise OSError(
            f"cannot publish to {repo_id!r}: the connection to {api.endpoint} failed ({_words(cause, api.token)}); "
            "run it again: what has arrived is not sent again"
        ) from error


def removed_files(api: HfApi, repo_id: str, revision: str | None, folder: Path, code: Sequence[str]) -> list[str]:
    """Which files of a repository go when a folder's come; see `sam_hf.model.pushing.obsolete_files`.

    Args:
        api: With the user's token.
        repo_id: "organisation/name".
        revision: Branch; None: the main one.
        folder: With the new files.
        code: Names of our source files. They go if the repository's config.json sends readers to them; source files of
            the same names in a repository of somebody else's are somebody else's.
    """
    found = list_repository(api, repo_id, revision)
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    present = [file.rfilename for file in found.siblings or []]
    old_code = [name for name in present if name in code and name not in files]
    if old_code and not _has_our_code(api, repo_id, found.sha):
        old_code = []
    return sorted({*obsolete_files(found, files), *old_code})


def _has_our_code(api: HfApi, repo_id: str, commit: str | None) -> bool:
    with tempfile.TemporaryDirectory(prefix="sam_hf-publish-") as folder:
        try:
            path = api.hf_hub_download(repo_id, CONFIG, revision=commit, local_dir=folder)
            auto_map = read_json(Path(path)).get("auto_map") or {}
        except (EntryNotFoundError, ValueError):
            return False
    return isinstance(auto_map, dict) and auto_map.get("AutoModel") == MODELS["AutoModel"]


def _reason(error: Exception, token: Any) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so nothing can be sent"
    if status == 401 or isinstance(error, LocalTokenNotFoundError):
        return "the Hub does not know this token; log in with `hf auth login`, or give a token that may write"
    if status == 403:
        return f"this token may not write there ({_words(error, token)})"
    if status == 404 or isinstance(error, RepositoryNotFoundError):
        return f"there is no such repository or branch, or this token may not see it ({_words(error, token)})"
    return f"the Hub answered {_words(error, token)}; run it again: what has arrived is not sent again"


def _words(error: BaseException, token: Any) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return scrubbed(" ".join(lines), token)[:300] or type(error).__name__
