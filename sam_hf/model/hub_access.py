"""One question to the Hub before a checkpoint is loaded from it: which commit is it?

All files then come from that commit, and what is in the cache is not asked about again. If the Hub does not answer,
the cached copy is loaded without asking for every file anew, which takes minutes where connections hang; without one,
an error says so at once.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.file_download import repo_folder_name
from transformers.utils import cached_file, extract_commit_hash, logging

from .checkpoint_files import CONFIG, PROCESSOR_FILES

logger = logging.get_logger(__name__)

# Arguments of a `from_pretrained` that choose files.
HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")
_fetched: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()


@contextmanager
def pinned(name: Any, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Options of a `from_pretrained` with the commit in place of the branch; as they are for a folder.

    Once the block is through, so that everything is there, the cache learns that the branch is at this commit.

    Args:
        name: Hub id, or a folder.
        options: Of `from_pretrained`: `revision`, `token`, `cache_dir`, `local_files_only`, `subfolder` are read.

    Returns:
        `options` with another `revision` and, if the Hub does not answer, `local_files_only`. What the Hub says no to
        is left to transformers, which says it well.

    Raises:
        OSError: The Hub does not answer, and the cache does not have it.
        ValueError: `token` cannot be one.
    """
    if isinstance(options.get("token"), str):
        options = options | {"token": read_token(options["token"])}
    if not isinstance(name, str | os.PathLike) or Path(name).expanduser().exists():
        yield options
        return
    name, revision = str(name), options.get("revision")
    revision = getattr(revision, "resolved", revision)  # auto classes have asked already
    options = options if revision is None else options | {"revision": revision}
    cached = _cached_commit(name, options)
    if options.get("local_files_only") or constants.HF_HUB_OFFLINE or (cached is not None and cached == revision):
        yield options if cached is None else options | {"revision": cached}
        return
    commit, problem = _ask(name, options)
    if problem is None:
        yield options if commit is None else options | {"revision": commit}
        if commit is not None and commit != revision:
            _note(name, revision or "main", commit, options.get("cache_dir"))
        return
    if cached is None:
        which = "" if revision is None else f" of its revision {str(revision)!r}"
        raise OSError(
            f"cannot load {name!r}: the Hub at {constants.ENDPOINT} cannot be reached ({problem}), and the cache has "
            f"no copy{which}"
        )
    logger.warning(f"The Hub cannot be reached ({problem}): {name} is loaded from the cache, commit {cached}.")
    yield options | {"revision": cached, "local_files_only": True}


def with_config_cached(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Options of a configuration's `from_pretrained` that need no token any more: the file is fetched with it here,
    and read from the cache by its commit.

    transformers 5.10 takes the token and forgets it on the way to the file.
    """
    if options.get("token") is None or Path(name).expanduser().exists():
        return options
    given = {option: options[option] for option in HUB_OPTIONS if options.get(option) is not None}
    file = cached_file(name, CONFIG, **given)
    return options | {"revision": extract_commit_hash(file, None), "force_download": False}


def remember(thing: Any, options: dict[str, Any]) -> None:
    """Note how the files of something were fetched, for those that are fetched later; it itself carries no token."""
    _fetched[thing] = {name: options[name] for name in HUB_OPTIONS if name in options and name != "force_download"}


def fetched_by(thing: Any) -> dict[str, Any] | None:
    """The options noted by `remember`; None of what was built, copied or unpickled."""
    return _fetched.get(thing)


def read_token(token: Any) -> Any:
    """A token without the white space that files and clipboards leave around it; what is no text as it is.

    Raises:
        ValueError: It cannot be sent, so that some library would quote it in saying so.
    """
    if not isinstance(token, str):
        return token
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("token: expected the letters and digits of a token of the Hub, got something else")
    return token


def scrubbed(text: str, token: Any = None) -> str:
    """A message that may be shown: without the token, whichever library has quoted it."""
    if isinstance(token, str) and token.strip():
        text = text.replace(token, "***").replace(token.strip(), "***")
    return re.sub(r"(?i)(bearer\s+)(?!\*\*\*)[^\s'\"]+", r"\1***", text)


def _ask(name: str, options: dict[str, Any]) -> tuple[str | None, str | None]:
    """The commit that the revision is at, None if the Hub says no; or why it cannot be reached."""
    try:
        api = HfApi(token=options.get("token"))
        return api.model_info(name, revision=options.get("revision"), timeout=constants.HF_HUB_ETAG_TIMEOUT).sha, None
    except HFValidationError:
        return None, None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        return None, None if status < 500 else f"it answers {status}"
    except (OfflineModeIsEnabled, *_transport_errors()) as error:
        return None, scrubbed(str(error).strip(), options.get("token")) or type(error).__name__
    except (ValueError, TypeError, LookupError, AttributeError):  # not JSON, or not what the Hub says
        return None, "what answers there is not the Hub: a log-in page of the network, perhaps"


def _note(name: str, revision: str, commit: str, cache_dir: Any) -> None:
    """Write down where a branch is, in the cache's own way: files that were asked for by commit do not say it."""
    folder = repo_folder_name(repo_id=name, repo_type="model")
    place = Path(cache_dir or constants.HF_HUB_CACHE).expanduser() / folder / "refs" / revision
    with suppress(OSError):  # a cache that cannot be written to still serves
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(commit, encoding="utf-8")


def _cached_commit(name: str, options: dict[str, Any]) -> str | None:
    """The commit of the copy in the cache, if there is one."""
    for file in (CONFIG, *PROCESSOR_FILES):  # a checkpoint or a processor has one
        try:
            path = try_to_load_from_cache(
                name,
                f"{options['subfolder']}/{file}" if options.get("subfolder") else file,
                cache_dir=options.get("cache_dir"),
                revision=options.get("revision"),
            )
        except HFValidationError:
            return None
        if isinstance(path, str):
            return extract_commit_hash(path, None)
    return None


def _transport_errors() -> tuple[type[Exception], ...]:
    """What the HTTP library of the installed huggingface_hub raises where nobody answers; it has changed twice."""
    found: list[type[Exception]] = [ConnectionError, TimeoutError]
    for base in HfHubHTTPError.__mro__:
        module = __import__(base.__module__.split(".")[0])
        for kind in ("TransportError", "ConnectionError", "Timeout"):
            error = getattr(module, kind, None)
            if isinstance(error, type) and issubclass(error, Exception) and error not in found:
                found.append(error)
    return tuple(found)
