"""A child process that asks the Hub for what the stages will need; see pipeline/hub.py.

Reads `{"parent", "needs"}` as JSON from standard input and prints a list of texts: why a need
cannot be loaded, or nothing if it can.
"""

import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import get_token

from pipeline.processes import die_with_parent

MOST_AT_ONCE = 8
# Seconds that the library itself waits for an answer; a question is two requests.
TIMEOUT = constants.HF_HUB_ETAG_TIMEOUT
TRUE = ("1", "ON", "YES", "TRUE")
# Small files that nearly every repository has: asked for first.
LIKELY_FILES = ("config.json", "README.md")


def main() -> None:
    request = json.load(sys.stdin)
    die_with_parent(request["parent"])
    pool = ThreadPoolExecutor(MOST_AT_ONCE)
    asked = [pool.submit(problem_with, need) for need in request["needs"]]
    rounds = -(-len(asked) // MOST_AT_ONCE)
    wait(asked, timeout=2.5 * TIMEOUT * rounds)
    late = f"no answer from {constants.ENDPOINT}"
    found = [answer.result() if answer.done() else late for answer in asked]
    print(json.dumps(found), flush=True)
    os._exit(0)  # threads may still wait for an answer


def problem_with(need: dict[str, Any]) -> str:
    """Returns why neither the Hub nor the cache has it, or an empty text."""
    offline = constants.HF_HUB_OFFLINE
    if need["kind"] == "dataset" and "HF_DATASETS_OFFLINE" in os.environ:
        offline = os.environ["HF_DATASETS_OFFLINE"].upper() in TRUE
    problem = "HF_HUB_OFFLINE is set" if offline else problem_on_hub(need["kind"], need["name"])
    if not problem or is_cached(need):
        return ""
    return f"{problem}, and it is not in the cache ({cache_of(need)})"


# --- the Hub -------------------------------------------------------------------------------------


def problem_on_hub(kind: str, name: str) -> str:
    """Returns why the Hub does not give the repository to this user, or an empty text."""
    try:
        info = HfApi().repo_info(name, repo_type=kind, timeout=TIMEOUT)
        # Of a gated repository everybody sees the description, and not the files.
        files = [file.rfilename for file in info.siblings or ()]
        files.sort(key=lambda file: file not in LIKELY_FILES)
        if files:
            url = hf_hub_url(name, files[0], repo_type=kind)
            get_hf_file_metadata(url, timeout=TIMEOUT)
    except EntryNotFoundError:
        return ""
    except Exception as error:  # of the library, of its HTTP client, of the network
        return in_words(error)
    return ""


def in_words(error: Exception) -> str:
    if isinstance(error, HFValidationError):
        return "that is no name of a repository"
    if isinstance(error, GatedRepoError):
        asks = f"ask for access on its page at {constants.ENDPOINT}"
        if get_token():
            return f"it is gated, and the token (HF_TOKEN) has no access; {asks}"
        return f"it is gated, and HF_TOKEN is not set; {asks}"
    if isinstance(error, RepositoryNotFoundError):
        token = "" if get_token() else " (HF_TOKEN is not set)"
        return f"{constants.ENDPOINT} has no such repository, or a private one{token}"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        refused = ", the token (HF_TOKEN) is not valid" if status == 401 else ""
        return f"{constants.ENDPOINT} answers with status {status}{refused}"
    name = type(error).__name__
    if "Timeout" in name:
        seconds = f"{TIMEOUT} s (HF_HUB_ETAG_TIMEOUT)"
        return f"{constants.ENDPOINT} did not answer within {seconds}"
    reason = next(iter(str(error).strip().splitlines()), "no reason given")
    return f"{constants.ENDPOINT} cannot be reached ({name}: {reason})"


# --- the cache -----------------------------------------------------------------------------------


def is_cached(need: dict[str, Any]) -> bool:
    if need["subsets"]:
        converted = converted_dataset(need["name"])
        return converted is not None and all(
            any(converted.glob(f"{subset}/*/*/dataset_info.json")) for subset in need["subsets"]
        )
    if need["kind"] == "dataset" and converted_dataset(need["name"]):
        return True
    folder = snapshot(need["kind"], need["name"])
    groups = need["files"] or (("*",),)
    return folder is not None and all(
        any(any(folder.glob(pattern)) for pattern in group) for group in groups
    )


def snapshot(kind: str, name: str) -> Path | None:
    """Returns the folder of the main revision in the Hub's cache."""
    repository = Path(constants.HF_HUB_CACHE) / f"{kind}s--{name.replace('/', '--')}"
    try:
        commit = (repository / "refs" / constants.DEFAULT_REVISION).read_text().strip()
    except OSError:
        return None
    return repository / "snapshots" / commit


def datasets_cache() -> Path:
    """Returns where `datasets` keeps what it has converted."""
    named = os.environ.get("HF_DATASETS_CACHE")
    return Path(os.path.expanduser(named)) if named else Path(constants.HF_HOME) / "datasets"


def converted_dataset(name: str) -> Path | None:
    """Returns the folder of a dataset, `owner___name` in snake case, in the cache of `datasets`."""
    folders = datasets_cache().glob("*/")
    return next((path for path in folders if _plain(path.name) == _plain(name)), None)


def _plain(name: str) -> str:
    return re.sub("[_/]", "", name.lower())


def cache_of(need: dict[str, Any]) -> Path:
    return datasets_cache() if need["subsets"] else Path(constants.HF_HUB_CACHE)
