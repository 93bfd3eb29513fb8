"""The Hugging Face Hub: downloads, how long an answer is waited for, and what failed in one line.

A repository's files lie in the Hub's cache (`HF_HOME`), in a folder that is called after their
commit. `HF_ENDPOINT` names a mirror, `HF_TOKEN` opens gated repositories, `HF_HUB_OFFLINE=1` does
with what the cache has.
"""

import fnmatch
import glob
import logging
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pipeline.console import print_line
from pipeline.errors import StageError, in_one_line

Result = TypeVar("Result")

WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each of the further attempts
WAITS_FOR_FILES = (1.0, 4.0)  # the library tries several times itself
LONGEST_WAIT = 600.0  # that the Hub may ask for: it counts requests over five minutes
BUSY = (408, 429, 500, 502, 503, 504)
LIBRARY = "huggingface_hub"
SHOWN_COMMIT = 12  # characters
MAX_WARNING = 300  # characters of what the library warns of
# Of a model, what transformers reads: the first of these kinds of weights that there is.
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
    """The commit that `main` is at; the one in the cache if the Hub cannot be asked.

    Raises StageError if there is none, or the Hub gives no access.
    """
    from huggingface_hub import HfApi

    if is_offline():
        if commit := cached_commit(repository):
            return commit
        raise StageError(not_cached(repository))

    def find() -> str:
        return HfApi().resolve_revision(repository.name, repo_type=repository.kind).resolved

    with hub_session(repository):
        return patiently(find, WAITS)


def cached_commit(repository: Repository) -> str:
    """The commit that was looked at last, by the cache alone; an empty string if none was."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionResolutionError

    try:
        found = HfApi().resolve_revision(
            repository.name, repo_type=repository.kind, local_files_only=True
        )
    except (RevisionResolutionError, ValueError):
        return ""
    return found.resolved


def list_files(repository: Repository, commit: str) -> dict[str, int] | None:
    """Size by path of all files of a commit; None if the Hub is not reached and the cache has no
    list."""
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    name, kind = repository.name, repository.kind

    def fetch() -> Any:  # the list, and nothing else
        return snapshot_download(name, repo_type=kind, revision=commit, allow_patterns=[])

    with hub_session(repository):
        try:
            found = get_cached_repo_tree(name, repo_type=kind, revision=commit)
        except CachedRepoTreeNotFoundError:
            patiently(fetch, WAITS_FOR_FILES)
            try:
                found = get_cached_repo_tree(name, repo_type=kind, revision=commit)
            except CachedRepoTreeNotFoundError:
                return None
    return {file.path: file.size for file in found}


def download(repository: Repository, commit: str, paths: Iterable[str]) -> Path:
    """The folder in the cache with these files of a commit; what is there is not fetched again.

    Raises StageError if one cannot be fetched.
    """
    from huggingface_hub import snapshot_download

    patterns = [glob.escape(path) for path in paths]

    def fetch() -> Path:
        return Path(
            snapshot_download(
                repository.name,
                repo_type=repository.kind,
                revision=commit,
                allow_patterns=patterns,
            )
        )

    with hub_session(repository, with_bars=sys.stderr.isatty()):
        return patiently(fetch, WAITS_FOR_FILES)


def fetch_matching(repository: Repository, patterns: Iterable[str]) -> Path:
    """The folder in the cache with those files of the present commit that match a pattern.

    When offline, the cache may not know what there is: then it is what the cache has.
    """
    return _fetch(repository, partial(_matching, patterns=tuple(patterns)))


def fetch_model(repository: Repository) -> Path:
    """The folder in the cache with config, weights and tokenizer of the present commit."""
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


@contextmanager
def hub_session(repository: Repository, with_bars: bool = False) -> Iterator[None]:
    """Around requests to the Hub: none waits without end, what fails is a StageError in one line,
    and what the library warns of, like a second attempt, is printed."""
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    bound_requests()
    logger = logging.getLogger(LIBRARY)
    before, logger.handlers = logger.handlers, [_Teller(logging.WARNING)]
    (enable_progress_bars if with_bars else disable_progress_bars)()
    try:
        yield
    except StageError:
        raise
    except Exception as error:  # a mirror's answers may be of any form
        raise StageError(problem_in_words(error, repository)) from error
    finally:
        logger.handlers = before


class _Teller(logging.Handler):
    """Passes on what the library warns of, each as one line."""

    def emit(self, record: logging.LogRecord) -> None:
        line = " ".join(record.getMessage().split())[:MAX_WARNING]
        if not line.startswith("No files matched"):  # as asked, when just the list is fetched
            print_line(f"the Hub: {line}")


def bound_requests() -> None:
    """From now on, no request of this process to the Hub waits without end for an answer.

    The library sets no limit for several requests, as for the list of a repository's files.
    """
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http

    if _http._GLOBAL_CLIENT_FACTORY is not bounded_client:
        set_client_factory(bounded_client)


def bounded_client() -> Any:
    from huggingface_hub.utils._http import default_client_factory

    client = default_client_factory()
    client.event_hooks["request"].append(_bound)
    return client


def _bound(request: Any) -> None:
    from huggingface_hub import constants

    most = max(constants.HF_HUB_DOWNLOAD_TIMEOUT, constants.HF_HUB_ETAG_TIMEOUT)
    limits = request.extensions.get("timeout") or {}
    kinds = ("connect", "read", "write", "pool")
    request.extensions["timeout"] = {kind: min(limits.get(kind) or most, most) for kind in kinds}


def patiently(
    call: Callable[[], Result], waits: Iterable[float], longest_wait: float = LONGEST_WAIT
) -> Result:
    """The result of a call, which is repeated after a while if the Hub is busy or not reached.

    longest_wait: seconds that the Hub may ask for.
    """
    for wait in waits:
        try:
            return call()
        except Exception as error:
            reason = passing_problem(error)
            if not reason:
                raise
            asked = _asked_wait(error)
            if asked > longest_wait:
                raise
            wait = max(wait, asked)
            print_line(f"the Hub: {reason}; another attempt in {wait:g} s")
            time.sleep(wait)
    return call()


# --- what went wrong -------------------------------------------------------------------------


def is_offline() -> bool:
    from huggingface_hub import constants

    return constants.is_offline_mode()


def passing_problem(error: BaseException) -> str:
    """What may be over in a moment, in a few words; an empty string for anything else."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx

    for cause in causes(error):
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            return f"it answers {_status(cause)}" if status in BUSY else ""
        if isinstance(cause, httpx.TimeoutException):
            return "it does not answer in time"
        if isinstance(cause, httpx.ConnectError):
            return f"it cannot be reached ({first_line(cause)})"
        if isinstance(cause, httpx.TransportError) or "Consistency check failed" in str(cause):
            return f"the connection broke off ({first_line(cause)})"
    return ""


def _asked_wait(error: BaseException) -> float:
    """Seconds after which the Hub asks to come again."""
    for cause in causes(error):
        asked = getattr(getattr(cause, "response", None), "headers", {}).get("Retry-After", "")
        if asked.isdigit():
            return float(asked)
    return 0.0


def problem_in_words(error: BaseException, repository: Repository) -> str:
    """One line on what a request for a repository failed with, and the way out."""
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

    def first(*kinds: type) -> Any:
        return next((cause for cause in found if isinstance(cause, kinds)), None)

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
        has_access = "has no access" if get_token() else ""
        return (
            f"{repository} is gated, and {token} {has_access}".rstrip() + f"; ask for access at "
            f"{page} and set HF_TOKEN to a token of that account"
        )
    if first(DisabledRepoError):
        return f"{repository} is disabled on the Hub, see {page}"
    if first(RepositoryNotFoundError):
        return (
            f"{repository} is not on the Hub ({page}), or is private; look for a typing mistake, "
            f"or set HF_TOKEN to a token that may read it ({token})"
        )
    if reason := passing_problem(error):
        return (
            f"{repository} could not be fetched from the Hub ({constants.ENDPOINT}): {reason}; "
            "files that have arrived are kept, run again later (HF_ENDPOINT names a mirror)"
        )
    if refused:
        return f"{page}: the Hub answers {_status(refused)}: {first_line(refused)}"
    return f"{repository} could not be fetched from the Hub: {first_line(error)}"


def not_cached(repository: Repository) -> str:
    """One line for what the cache lacks while the Hub is not asked, or cannot be."""
    from huggingface_hub import constants

    why = "HF_HUB_OFFLINE is set" if is_offline() else "the Hub cannot be reached"
    kind = " --repo-type dataset" if repository.kind == "dataset" else ""
    return (
        f"{repository} is not, or not as a whole, in the Hub's cache {constants.HF_HUB_CACHE}, and "
        f"{why}; fetch it where there is a network, by the same run or by "
        f"`hf download {repository.name}{kind}`"
    )


def _status(error: Any) -> str:
    response = error.response
    return f"{response.status_code} {response.reason_phrase}".strip()


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from, the first cause last."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def first_line(text: Any) -> str:
    """Of an error or a message, without the numbers that the Hub gives to requests."""
    lines = str(text).strip().splitlines()
    line = lines[0] if lines else type(text).__name__
    return in_one_line(re.sub(r" \((Request ID|Amzn Trace ID|Amz CF ID): [^)]*\)", "", line))
