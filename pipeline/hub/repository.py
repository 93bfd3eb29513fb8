"""Repositories of the Hugging Face Hub: commits, file lists and downloads.

Files are in the Hub's cache (`HF_HOME`), in a folder per commit. `HF_ENDPOINT` names a mirror,
`HF_TOKEN` opens gated repositories, `HF_HUB_OFFLINE=1` restricts everything to the cache.
"""

import fnmatch
import glob
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import StageError
from pipeline.hub.requests import (
    WarningPrinter,
    bound_requests,
    causes,
    first_line,
    http_status,
    is_offline,
    temporary_problem,
    with_retries,
)

WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each further attempt
WAITS_FOR_FILES = (1.0, 4.0)  # the library itself makes several attempts
LIBRARY = "huggingface_hub"
SHOWN_COMMIT = 12  # characters
# The files of a model that transformers reads: weights in the first of these formats that exists.
WEIGHTS = (
    re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?"),
    re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin(\.index\.json)?"),
)
MODEL_FILES = ("config.json", "*token*", "vocab*", "merges*", "*.model")


@dataclass(frozen=True)
class Repository:
    """kind: model | dataset."""

    name: str
    kind: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


# --- downloads -------------------------------------------------------------------------------


def find_commit(repository: Repository) -> str:
    """Returns the commit of `main`, or the cached one if the Hub is offline or unreachable.

    Raises StageError if there is none, or if the Hub denies access.
    """
    from huggingface_hub import HfApi

    if is_offline():
        if commit := cached_commit(repository):
            return commit
        raise StageError(not_cached(repository))

    def find() -> str:
        return HfApi().resolve_revision(repository.name, repo_type=repository.kind).resolved

    with hub_session(repository):
        return with_retries(find, WAITS)


def cached_commit(repository: Repository) -> str:
    """Returns the last commit of `main` known to the cache, "" if there is none."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionResolutionError

    try:
        found = HfApi().resolve_revision(
            repository.name, repo_type=repository.kind, local_files_only=True
        )
    except (RevisionResolutionError, ValueError):
        return ""
    return found.resolved


def cached_folder(repository: Repository) -> Path | None:
    """Returns the folder of `cached_commit` in the cache, which may be incomplete, or None."""
    from huggingface_hub import constants

    commit = cached_commit(repository)
    name = f"{repository.kind}s--{repository.name.replace('/', '--')}"
    folder = Path(constants.HF_HUB_CACHE) / name / "snapshots" / commit
    return folder if commit and folder.is_dir() else None


def list_files(repository: Repository, commit: str) -> dict[str, int] | None:
    """Returns path -> bytes of all files of a commit.

    None if the Hub is unreachable and the cache has no list.
    """
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    name, kind = repository.name, repository.kind

    def fetch() -> Any:  # only the list
        return snapshot_download(name, repo_type=kind, revision=commit, allow_patterns=[])

    with hub_session(repository):
        try:
            found = get_cached_repo_tree(name, repo_type=kind, revision=commit)
        except CachedRepoTreeNotFoundError:
            with_retries(fetch, WAITS_FOR_FILES)
            try:
                found = get_cached_repo_tree(name, repo_type=kind, revision=commit)
            except CachedRepoTreeNotFoundError:
                return None
    return {file.path: file.size for file in found}


def download(repository: Repository, commit: str, paths: Iterable[str]) -> Path:
    """Fetches these files of a commit into the cache and returns the commit's folder.

    Cached files are not fetched again. Raises StageError if a download fails.
    """
    from huggingface_hub import snapshot_download

    name, kind = repository.name, repository.kind
    patterns = [glob.escape(path) for path in paths]

    def fetch() -> Path:
        return Path(
            snapshot_download(name, repo_type=kind, revision=commit, allow_patterns=patterns)
        )

    with hub_session(repository, with_bars=sys.stderr.isatty()):
        return with_retries(fetch, WAITS_FOR_FILES)


def fetch_matching(repository: Repository, patterns: Iterable[str]) -> Path:
    """Fetches the matching files of the present commit; returns the commit's folder in the cache.

    Offline, if the cache has no list of the files, the folder may be incomplete.
    """
    patterns = tuple(patterns)
    return _fetch(repository, lambda paths: _matching(paths, patterns))


def fetch_model(repository: Repository) -> Path:
    """Fetches config, weights and tokenizer as `fetch_matching` does."""
    return _fetch(repository, _files_of_model)


def _fetch(repository: Repository, choose: Callable[[Iterable[str]], list[str]]) -> Path:
    commit = find_commit(repository)
    return download(repository, commit, choose(list_files(repository, commit) or ()))


def _files_of_model(paths: Iterable[str]) -> list[str]:
    top = [path for path in paths if "/" not in path]
    weights = (list(filter(kind.fullmatch, top)) for kind in WEIGHTS)
    return [*next(filter(None, weights), []), *_matching(top, MODEL_FILES)]


def _matching(paths: Iterable[str], patterns: Iterable[str]) -> list[str]:
    return [path for path in paths if any(fnmatch.fnmatch(path, p) for p in patterns)]


# --- failures --------------------------------------------------------------------------------


@contextmanager
def hub_session(repository: Repository, with_bars: bool = False) -> Iterator[None]:
    """Limits the time of requests, prints the library's warnings, raises errors as StageError."""
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    bound_requests()
    logger = logging.getLogger(LIBRARY)
    before, logger.handlers = logger.handlers, [WarningPrinter(logging.WARNING)]
    (enable_progress_bars if with_bars else disable_progress_bars)()
    try:
        yield
    except StageError:
        raise
    except Exception as error:  # the answers of a mirror can have any form
        raise StageError(request_problem(error, repository)) from error
    finally:
        logger.handlers = before


def request_problem(error: BaseException, repository: Repository) -> str:
    """Returns one line about a failed request: the cause and the remedy."""
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import (
        DisabledRepoError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    name, found = repository.name, list(causes(error))

    def first(kind: type) -> Any:
        return next((cause for cause in found if isinstance(cause, kind)), None)

    page = f"{constants.ENDPOINT}/{'datasets/' if repository.kind == 'dataset' else ''}{name}"
    token = "the account of HF_TOKEN" if get_token() else "no HF_TOKEN is set"
    if first(OfflineModeIsEnabled):
        return not_cached(repository)
    if first(HFValidationError):
        return f"{name} is no name of a {repository.kind} on the Hub, expected OWNER/NAME"
    refused = first(HfHubHTTPError)
    if refused and "Invalid credentials" in (refused.server_message or str(refused)):
        return f"{page}: the Hub does not accept the token of HF_TOKEN; renew it, or unset it"
    if first(GatedRepoError):
        has_access = " has no access" if get_token() else ""
        return (
            f"{repository} is gated, and {token}{has_access}; ask for access at {page} and set "
            "HF_TOKEN to a token of that account"
        )
    if first(DisabledRepoError):
        return f"{repository} is disabled on the Hub, see {page}"
    if first(RepositoryNotFoundError):
        return (
            f"{repository} is not on the Hub ({page}), or is private; look for a typing mistake, "
            f"or set HF_TOKEN to a token that may read it ({token})"
        )
    if reason := temporary_problem(error):
        return (
            f"{repository} could not be fetched from the Hub ({constants.ENDPOINT}): {reason}; "
            "files that have arrived are kept, run again later (HF_ENDPOINT names a mirror)"
        )
    if refused:
        return f"{page}: the Hub answers {http_status(refused)}: {first_line(refused)}"
    return f"{repository} could not be fetched from the Hub: {first_line(error)}"


def not_cached(repository: Repository) -> str:
    """Returns one line about a repository missing in the cache while the Hub is unavailable."""
    from huggingface_hub import constants

    why = "HF_HUB_OFFLINE is set" if is_offline() else "the Hub cannot be reached"
    kind = " --repo-type dataset" if repository.kind == "dataset" else ""
    return (
        f"{repository} is not, or not as a whole, in the Hub's cache {constants.HF_HUB_CACHE}, and "
        f"{why}; fetch it where there is a network, by the same run or by "
        f"`hf download {repository.name}{kind}`"
    )
