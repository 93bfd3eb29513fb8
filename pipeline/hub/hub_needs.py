"""What the stages will load from the Hub, and whether it can be loaded: looked at before they run.

A child process asks (pipeline/hub/hub_check.py), with the library, the token, the proxy and the
cache that the stages use later: this process does not import the library.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

CHECK = "import sys; sys.path[:] = {path!r}; from pipeline.hub.hub_check import main; main()"


@dataclass(frozen=True)
class HubNeed:
    """Something that a stage will load from the Hub.

    kind: model | dataset. name: on the Hub. key: that asks for it. use: what for, in words.
    instead: what the user may do in its place. The cache can stand in for the Hub if it has, of
    each group of patterns in `files`, a file, and each of the `subsets`, which are folders.
    """

    kind: str
    name: str
    key: str
    use: str
    instead: str
    files: tuple[tuple[str, ...], ...] = ()
    subsets: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind} {self.name} as {self.use} ({self.key})"


def hub_problems(needs: Sequence[HubNeed]) -> list[str]:
    """Returns a line for each need that is neither on the Hub, for this user, nor in the cache."""
    return list(_problems(list(dict.fromkeys(needs)))) if needs else []


def _problems(needs: Sequence[HubNeed]) -> Iterator[str]:
    request = {"parent": os.getpid(), "needs": [asdict(need) for need in needs]}
    done = subprocess.run(
        [sys.executable, "-c", CHECK.format(path=sys.path)],
        input=json.dumps(request),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        found = [f"the Hub could not be asked: {last}"] * len(needs)
    else:
        found = json.loads(done.stdout.splitlines()[-1])
    for need, problem in zip(needs, found, strict=True):
        if problem:
            yield (
                f"{need.key}: {need.name} is needed from the Hub as {need.use}: {problem}; "
                f"expected {need.instead}"
            )
