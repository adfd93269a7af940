"""One folder to one repository of the Hub, and what can go wrong on the way in one sentence that names it."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)


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
    obsolete: Sequence[str],
) -> CommitInfo:
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
        obsolete: Patterns of files to remove where the folder has none of that name.

    Raises:
        ValueError: The repository is public and `private` was asked for, or the Hub says that a file is not valid.
        OSError: The Hub refuses, or cannot be reached.
    """
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if private and not api.repo_info(repo_id).private:
            raise ValueError(
                f"private: {repo_id!r} exists already and is public; nothing was sent. Make it private on its "
                "settings page first, or leave `private` out"
            )
        if revision is not None and revision != "main" and not revision.startswith("refs/pr/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=message,
            commit_description=description,
            revision=revision,
            create_pr=create_pr,
            delete_patterns=list(obsolete),
        )
    except BadRequestError as error:
        raise ValueError(f"the Hub does not take the files for {repo_id!r}: {_words(error)}") from error
    except (HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled) as error:
        raise OSError(f"cannot publish to {repo_id!r}: {_reason(error)}") from error
    except ValueError:
        raise
    except Exception as error:  # of huggingface_hub's HTTP library, whose name changes, and RuntimeError around it
        cause = error.__cause__ or error
        raise OSError(
            f"cannot publish to {repo_id!r}: the connection to {api.endpoint} failed ({_words(cause)}); run it again: "
            "what has arrived is not sent again"
        ) from error


def _reason(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so nothing can be sent"
    if status == 401 or isinstance(error, LocalTokenNotFoundError):
        return "the Hub does not know this token; log in with `hf auth login`, or give a token that may write"
    if status == 403:
        return f"this token may not write there ({_words(error)})"
    if status == 404 or isinstance(error, RepositoryNotFoundError):
        return f"there is no such repository or branch, or this token may not see it ({_words(error)})"
    return f"the Hub answered {_words(error)}; run it again: what has arrived is not sent again"


def _words(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:300] or type(error).__name__
