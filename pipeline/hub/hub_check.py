"""A child process that asks the Hub for what the stages will need; see pipeline/hub/hub_needs.py.

Reads `{"parent", "needs"}` as JSON from standard input and prints a list of texts: why a need
cannot be loaded, or nothing if it can.
"""

import glob
import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError

from pipeline.hub.repository import Repository, patiently, problem_in_words
from pipeline.runtime.processes import die_with_parent

MOST_AT_ONCE = 8
# Seconds that the library itself waits for an answer; a question is two requests.
TIMEOUT = constants.HF_HUB_ETAG_TIMEOUT
WAITS, LONGEST_WAIT = (1.0, 3.0), 5.0  # seconds before further attempts
# Small files that nearly every repository has: asked for first.
LIKELY_FILES = ("config.json", "README.md")


def main() -> None:
    request = json.load(sys.stdin)
    die_with_parent(request["parent"])
    print(json.dumps(problems_with(request["needs"])), flush=True)
    os._exit(0)  # threads may still wait for an answer


def problems_with(needs: list[dict[str, Any]]) -> list[str]:
    """Returns for each need why neither the Hub nor the cache has it, or an empty text."""
    if constants.HF_HUB_OFFLINE:
        found = ["HF_HUB_OFFLINE is set"] * len(needs)
    else:
        pool = ThreadPoolExecutor(MOST_AT_ONCE)
        asked = [pool.submit(problem_on_hub, need["kind"], need["name"]) for need in needs]
        rounds = -(-len(asked) // MOST_AT_ONCE)
        wait(asked, timeout=(sum(WAITS) + 4 * TIMEOUT) * rounds)
        late = f"no answer from {constants.ENDPOINT}"
        found = [answer.result() if answer.done() else late for answer in asked]
    lacks = f"and it is not in the cache ({constants.HF_HUB_CACHE})"
    return [
        f"{problem}, {lacks}" if problem and not is_cached(need) else ""
        for need, problem in zip(needs, found, strict=True)
    ]


# --- the Hub -------------------------------------------------------------------------------------


def problem_on_hub(kind: str, name: str) -> str:
    """Returns why the Hub does not give the repository to this user, or an empty text."""
    repository = Repository(name, kind)
    try:
        patiently(lambda: ask(repository), WAITS, LONGEST_WAIT)
    except Exception as error:  # of the library, of its HTTP client, of the network
        return problem_in_words(error, repository)
    return ""


def ask(repository: Repository) -> None:
    """Raises whatever the library does if the Hub does not give the repository."""
    name, kind = repository.name, repository.kind
    info = HfApi().repo_info(name, repo_type=kind, timeout=TIMEOUT)
    # Of a gated repository everybody sees the description, and not the files.
    files = [file.rfilename for file in info.siblings or ()]
    files.sort(key=lambda file: file not in LIKELY_FILES)
    if files:
        with suppress(EntryNotFoundError):
            url = hf_hub_url(name, files[0], repo_type=kind)
            get_hf_file_metadata(url, timeout=TIMEOUT)


# --- the cache -----------------------------------------------------------------------------------


def is_cached(need: dict[str, Any]) -> bool:
    """True if a commit in the Hub's cache, or what `datasets` has converted, has all of it."""
    folders = snapshots(need["kind"], need["name"])
    if need["kind"] == "dataset" and (converted := converted_dataset(need["name"])):
        folders.append(converted)
    groups = [*need["files"], *([f"{subset}/*"] for subset in need["subsets"])] or [["*"]]
    return any(
        all(any(any(folder.glob(pattern)) for pattern in group) for group in groups)
        for folder in folders
    )


def snapshots(kind: str, name: str) -> list[Path]:
    """Returns the folders of all commits of a repository in the Hub's cache."""
    repository = f"{kind}s--{name.replace('/', '--')}"
    return list(Path(constants.HF_HUB_CACHE).glob(f"{glob.escape(repository)}/snapshots/*/"))


def converted_dataset(name: str) -> Path | None:
    """Returns the folder of a dataset, `owner___name` in snake case, in the cache of `datasets`."""
    named = os.environ.get("HF_DATASETS_CACHE")
    cache = Path(os.path.expanduser(named)) if named else Path(constants.HF_HOME) / "datasets"
    return next((path for path in cache.glob("*/") if _plain(path.name) == _plain(name)), None)


def _plain(name: str) -> str:
    return re.sub("[_/]", "", name.lower())
