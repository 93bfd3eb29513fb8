"""Whether a root came out as the undisturbed one did: every file, but for what is named here."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

# Paths below the output root (`*` stands for any folders, too), and why they may differ.
OF_NO_FURTHER_USE = {
    "log/*": "logs tell times, and every attempt",
    "*.lock": "it tells who was at work last",
    "*.lock.[0-9]*": "it tells which rank was",
    "*.heartbeat.*": "it tells how far the stage was, and when",
    "*/model/README.md": "the model card tells how fast training was",
    "*/report.html": "the report tells times and the machine",
    "*/report.json": "the report tells times and the machine",
    "*.png": "drawings over time",
}
# Nobody looks at these once a stage is done.
TO_GO_ON = {
    "data/*/records/*": "what the samples were when they were made",
    "tmp/*": "text shards and their records, digests of input files, the demo benchmark",
    "*/micro_batch.json": "how the batches were cut up, which changes nothing",
    "*/checkpoints/*": "a run that is interrupted saves one more",
    "*/started.json": "a note of who began",
}
UNFINISHED = ("*/.*.tmp", "*/.*.tmp/*", "*/.aside/*", "*/.*.deleted/*")
# Keys of JSON files, at any depth: how long it took, when, and how fast; and digests that these
# are part of (the files themselves are compared).
TIMES = {
    *("seal", "files", "seconds", "finished_at", "elapsed", "elapsed_seconds", "exported_until"),
    *("samples_per_second", "tokens_per_second", "peak_share", "waiting_share"),
}


def outcome(root: Path) -> dict[str, str]:
    """Digest of what counts of each final file, by path below the root; with what is half-made."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_file() and (is_final(name) or is_unfinished(name)):
            found[name] = hashlib.sha256(_content(path)).hexdigest()
    return found


def is_final(name: str) -> bool:
    """Whether a path below a root is one of the results of a stage."""
    return is_read(name) and not _matches(name, TO_GO_ON)


def is_read(name: str) -> bool:
    """Whether it is a result, or of use to a run that goes on."""
    return not _matches(name, (*OF_NO_FURTHER_USE, *UNFINISHED))


def is_unfinished(name: str) -> bool:
    """Whether it is what a process was writing, or deleting, that was killed."""
    return _matches(name, UNFINISHED) and not _matches(name, OF_NO_FURTHER_USE)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _content(path: Path) -> bytes:
    """The bytes, but for JSON, which counts without its times."""
    raw = path.read_bytes()
    lines = {".json": [raw], ".jsonl": raw.splitlines()}.get(path.suffix)
    if lines is None:
        return raw
    try:
        values = [_without_times(json.loads(line)) for line in lines]
    except ValueError:
        return raw
    return json.dumps(values, sort_keys=True).encode()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items() if key not in TIMES}
    return [_without_times(item) for item in value] if isinstance(value, list) else value


def differences(expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """`differs: path`, `is missing: path` or `is left over: path` for each file that is not so."""

    def difference(name: str) -> str:
        if name not in found:
            return f"is missing: {name}"
        return f"differs: {name}" if name in expected else f"is left over: {name}"

    names = sorted(expected.keys() | found.keys())
    return [difference(name) for name in names if expected.get(name) != found.get(name)]
