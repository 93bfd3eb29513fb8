"""Faults that are done to one root, one after the other, and whether it recovers from them."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from tests.chaos.bench import Bench
from tests.chaos.comparison import differences, outcome
from tests.chaos.faults import DAMAGES, KINDS, Disturbance, unclear, worth_damaging
from tests.chaos.pipeline_folder import STAGES
from tests.chaos.processes import End, StillRunning

MOST_ATTEMPTS = 4  # to get a fault in before the run has ended
MOST_REMEDIES = 3
MOST_DIFFERENCES = 5  # named in a result
OUTCOMES = ("survived", "clear error", "failed", "skipped")
FORCE = re.compile(r"--force \w+")
WORD = re.compile(r"[^\s:;,'\"]+")


@dataclass(frozen=True)
class Fault:
    number: int
    stage: str
    kind: str


@dataclass(frozen=True)
class Result:
    """outcome: survived (all as if undisturbed) | clear error (the same, after doing what the error
    said) | failed | skipped. problem: what failed, or why it was skipped. episode: the numbers of
    the faults that were done to the same root."""

    number: int
    stage: str
    kind: str
    moment: str
    outcome: str
    problem: str
    seconds: float
    episode: list[int]

    def __str__(self) -> str:
        line = f"{self.number:4d}  {self.kind:12}  {self.outcome:11}  {self.seconds:5.1f} s  "
        line += f"{self.stage}: {self.moment}"
        return f"{line}; {self.problem}" if self.problem else line


class Episode:
    """Faults during one stage, until it is done; then the same command must find nothing left to
    do, and everything must be as if nothing had happened. Then it begins anew.

    record: is given the results. kept: where folders go that did not recover.
    """

    def __init__(
        self, bench: Bench, stage: str, seed: int, record: Callable[[Result], None], kept: Path
    ):
        self.bench, self.stage, self.seed = bench, stage, seed
        self.record, self.kept = record, kept
        self._begin()

    def _begin(self) -> None:
        self.bench.reset(without=[self.stage])
        self.pending: list[tuple[Fault, Disturbance, float]] = []  # with the seconds it took

    def add(self, fault: Fault) -> None:
        """Does a fault, again if it came too late."""
        rng, begin = Random(f"{self.seed} {fault.number}"), time.monotonic()
        for _ in range(MOST_ATTEMPTS):
            self._prepare(fault, rng)
            found = self._disturb(fault, rng)
            if found.happened or found.problem:
                break
            self.settle()
        else:
            found = replace(found, skipped="the run always ended before")
        self.pending.append((fault, found, time.monotonic() - begin))
        if found.problem or found.done:
            self.settle()

    def _prepare(self, fault: Fault, rng: Random) -> None:
        """Damage comes last, and needs something that is there: half-made by this episode, or all
        done, and read by the next stages or by none."""
        if fault.kind not in DAMAGES:
            if any(found.damaged for _, found, _ in self.pending):
                self.settle()
            return
        self.bench.outliving()
        half_made = self.pending and worth_damaging(fault.kind, self.stage, self.bench.root)
        if not half_made or rng.random() < 0.5:
            self.settle()
            later = STAGES[STAGES.index(self.stage) + 1 :]
            self.bench.reset(without=rng.choice((later, ())))

    def _disturb(self, fault: Fault, rng: Random) -> Disturbance:
        try:
            return KINDS[fault.kind](self.bench, self.stage, rng)
        except StillRunning as error:
            return Disturbance("", problem=str(error))

    # --- what came of it ---

    def settle(self) -> None:
        """Looks whether the root recovers, and records what has been done to it."""
        begin, clear = time.monotonic(), False
        problem = next((found.problem for _, found, _ in self.pending if found.problem), "")
        if self.pending and not problem:
            problem, clear = self._recover()
        seconds = (time.monotonic() - begin) / max(1, len(self.pending))
        if problem:
            self.bench.keep_as(self.kept / str(self.pending[-1][0].number))
        for fault, found, own_seconds in self.pending:
            self._record(fault, found, problem, clear, own_seconds + seconds)
        self._begin()

    def _record(
        self, fault: Fault, found: Disturbance, problem: str, clear: bool, seconds: float
    ) -> None:
        if found.skipped:
            result = "skipped"
        elif problem:
            result = "failed"
        else:
            result = "clear error" if clear and found.damaged else "survived"
        self.record(
            Result(
                number=fault.number,
                stage=fault.stage,
                kind=fault.kind,
                moment=found.moment,
                outcome=result,
                problem=found.skipped or problem,
                seconds=round(seconds, 1),
                episode=[other.number for other, _, _ in self.pending],
            )
        )

    def _recover(self) -> tuple[str, bool]:
        """Runs the command to its end, doing what its errors say where files were damaged.

        Returns what is wrong, if anything is, and whether there were such errors.
        """
        arguments: list[str] = []
        for number in range(MOST_REMEDIES + 1):
            try:
                end = self.bench.start(arguments=arguments).end()
            except StillRunning as error:
                return str(error), bool(number)
            if end.code == 0:
                return self.bench.outliving() or self._differences(), bool(number)
            if problem := self._problem_with(end):
                return f"the same command again {problem}", bool(number)
            remedy = remedy_in(end, self.bench.folder)
            if remedy is None:
                return f"no way to go on is told: {end.last_words}", bool(number)
            arguments = remedy
        return f"what the errors say does not help: {end.last_words}", True

    def _problem_with(self, end: End) -> str:
        """An error is in place only if a file is damaged, and must name it."""
        damaged = [found.damaged for _, found, _ in self.pending if found.damaged]
        if problem := unclear(end):
            return problem
        if not damaged:
            return f"failed: {end.last_words}"
        if not any(name in end.text for name in damaged):
            return f"does not name {' or '.join(damaged)}: {end.last_words}"
        return ""

    def _differences(self) -> str:
        found = differences(self.bench.reference.files, outcome(self.bench.root))
        named = found[:MOST_DIFFERENCES]
        if len(found) > MOST_DIFFERENCES:
            named.append(f"and {len(found) - MOST_DIFFERENCES} more")
        return f"not as if undisturbed: {', '.join(named)}" if found else ""


def remedy_in(end: End, folder: Path) -> list[str] | None:
    """Does what an error says is to be done: arguments for the next call; None if it says nothing.

    A file is deleted only below the folder's root, whatever the error says.
    """
    for line in reversed(end.text.splitlines()):
        if found := FORCE.search(line):
            return found.group().split()
        for word in WORD.findall(line) if "delete it" in line else ():
            path = (folder / word).resolve()
            if path.is_file() and (folder / "root").resolve() in path.parents:
                path.unlink()
                return []
    return None
