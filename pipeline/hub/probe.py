"""A child process that checks access to the Hub; see pipeline/hub/needs.py.

Reads `{"parent", "needs"}` as JSON from standard input. Prints a list of strings: the problem with
each need, "" if it can be loaded.
"""

import glob
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError

from pipeline.hub.repository import Repository, request_problem
from pipeline.hub.requests import with_retries
from pipeline.runtime.processes import die_with_parent

MAX_PARALLEL = 8
TIMEOUT = constants.HF_HUB_ETAG_TIMEOUT  # seconds, of each request
WAITS, LONGEST_WAIT = (1.0, 3.0), 5.0  # seconds before further attempts
# Small files of nearly every repository: requested first.
LIKELY_FILES = ("config.json", "README.md")


def main() -> None:
    request = json.load(sys.stdin)
    die_with_parent(request["parent"])
    print(json.dumps(problems_with(request["needs"])), flush=True)


def problems_with(needs: list[dict[str, Any]]) -> list[str]:
    """Returns for each need the problem of the Hub if the cache has no copy either, else ""."""
    if constants.HF_HUB_OFFLINE:
        found = ["HF_HUB_OFFLINE is set"] * len(needs)
    else:
        with ThreadPoolExecutor(MAX_PARALLEL) as pool:
            found = list(pool.map(problem_on_hub, needs))
    lacks = f"and it is not in the cache ({constants.HF_HUB_CACHE})"
    return [
        f"{problem}, {lacks}" if problem and not is_cached(need) else ""
        for need, problem in zip(needs, found, strict=True)
    ]


# --- the Hub -------------------------------------------------------------------------------------


def problem_on_hub(need: dict[str, Any]) -> str:
    """Returns why this user cannot load the repository from the Hub, or ""."""
    repository = Repository(need["name"], need["kind"])
    try:
        with_retries(lambda: ask(repository), WAITS, LONGEST_WAIT)
    except Exception as error:  # of the library, of its HTTP client, of the network
        return request_problem(error, repository)
    return ""


def ask(repository: Repository) -> None:
    """Raises the library's error if the Hub denies access to the repository or a file of it."""
    name, kind = repository.name, repository.kind
    info: Any = HfApi().repo_info(name, repo_type=kind, timeout=TIMEOUT)
    # The description of a gated repository is public, its files are not.
    files = [file.rfilename for file in info.siblings or ()]
    files.sort(key=lambda file: file not in LIKELY_FILES)
    if files:
        with suppress(EntryNotFoundError):
            url = hf_hub_url(name, files[0], repo_type=kind)
            get_hf_file_metadata(url, timeout=TIMEOUT)


# --- the cache -----------------------------------------------------------------------------------


def is_cached(need: dict[str, Any]) -> bool:
    """True if one commit in the Hub's cache has the whole need."""
    repository = f"{need['kind']}s--{need['name'].replace('/', '--')}"
    pattern = f"{glob.escape(repository)}/snapshots/*/"
    folders = list(Path(constants.HF_HUB_CACHE).glob(pattern))
    groups = [*need["files"], *([f"{subset}/*"] for subset in need["subsets"])] or [["*"]]
    return any(
        all(any(any(folder.glob(pattern)) for pattern in group) for group in groups)
        for folder in folders
    )
