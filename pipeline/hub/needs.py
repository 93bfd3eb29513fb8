"""Checks before a run: can everything be loaded that the stages need from the Hub?

A child process (pipeline/hub/probe.py) asks, with the library, token, proxy and cache of the later
stages; this process does not import the library.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

PROBE = "import sys; sys.path[:] = {path!r}; from pipeline.hub.probe import main; main()"


@dataclass(frozen=True)
class HubNeed:
    """A model or dataset of the Hub, needed by a stage.

    kind: model | dataset. key: the config key behind it. use: its purpose, in words. instead: an
    alternative for the user. The cache is enough without the Hub if it has a file of each group of
    patterns in `files` and each of the folders `subsets`.
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
    """Returns a line for each need without access on the Hub and without a cached copy."""
    needs = list(dict.fromkeys(needs))
    if not needs:
        return []
    request = {"parent": os.getpid(), "needs": [asdict(need) for need in needs]}
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(path=sys.path)],
        input=json.dumps(request),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        found = [f"the Hub could not be asked: {last}"] * len(needs)
    else:
        found = json.loads(done.stdout.splitlines()[-1])
    return [
        f"{need.key}: {need.name} is needed from the Hub as {need.use}: {problem}; "
        f"expected {need.instead}"
        for need, problem in zip(needs, found, strict=True)
        if problem
    ]
