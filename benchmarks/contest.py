"""Trainings that take turns: each in a process of its own, one of them at work at a time.

A contestant trains with the real loop of pretraining. Whenever its slice of time is over, it is
measured on the held-out samples, reports, and waits for its next turn. Neither counts as training.
"""

import math
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from pipeline.errors import StageError
from pipeline.processes import PARENT_VARIABLE, exit_with_parent


@dataclass(frozen=True)
class Course:
    """What a contestant does. flags: of run_pretraining; held_out: a dataset, whose test samples
    it is measured on, `num_samples` of them; slice_seconds: of training between two reports."""

    name: str
    flags: tuple[str, ...]
    held_out: Path
    num_samples: int
    slice_seconds: float


@dataclass(frozen=True)
class Report:
    """A contestant after a slice. seconds: of training up to then; flops: of the training's matrix
    products; loss: in nats per predicted token; accuracy: share predicted right; eval_seconds: what
    this measurement took; preparation: seconds from the start of the process to the first step."""

    step: int
    samples: int
    tokens: int
    flops: float
    seconds: float
    loss: float
    accuracy: float
    eval_seconds: float
    preparation: float
    finished: bool


class Contestant:
    """A training in a process of its own, seen from here."""

    def __init__(self, course: Course):
        self.course, self.reports = course, []
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_contend, args=(course, theirs, os.getpid()), daemon=True
        )
        self._process.start()
        theirs.close()

    @property
    def finished(self) -> bool:
        return bool(self.reports) and self.reports[-1].finished

    def take_turn(self) -> Report:
        """Lets it train for a slice; at the first turn, it comes as far as its first step.

        Raises StageError if it ended instead.
        """
        if self.reports:
            self._connection.send("go on")
        try:
            self.reports.append(self._connection.recv())
        except EOFError as error:
            raise StageError(f"{self.course.name} ended before its time, see above") from error
        return self.reports[-1]

    def leave(self) -> None:
        """After its last report: lets it write its model and end."""
        self._connection.send("go on")
        self._process.join()


def hold_contest(courses: Sequence[Course]) -> Iterator[tuple[Contestant, Report]]:
    """Yields each report as it comes; all contestants take turns until the last has finished."""
    contestants = []
    for course in courses:  # one after the other, so that none disturbs another's preparation
        contestants.append(Contestant(course))
        yield contestants[-1], contestants[-1].take_turn()
    while waiting := [contestant for contestant in contestants if not contestant.finished]:
        for contestant in waiting:
            yield contestant, contestant.take_turn()
    for contestant in contestants:
        contestant.leave()


# --- in the contestant's process -------------------------------------------------------------


def _contend(course: Course, connection: Connection, parent: int) -> None:
    begin = time.perf_counter()
    os.environ[PARENT_VARIABLE] = str(parent)
    exit_with_parent()
    # As in a real run without GPU; read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from pretrain.data import list_shards, validation_batches
    from pretrain.distributed import start_ranks
    from pretrain.flags import parse_flags
    from pretrain.metrics import MetricsLog
    from pretrain.run_pretraining import run

    class QuietLog(MetricsLog):
        def say(self, text: str) -> None: ...

        def progress(self, *_, **__) -> None: ...

    args = parse_flags(course.flags)
    device = start_ranks()
    held_out = validation_batches(
        list_shards(course.held_out, "test"), course.num_samples, args.validation_micro_batch, 0, 1
    )
    log = QuietLog(Path(args.output_dir) / "metrics.jsonl")
    try:
        run(args, device, log, watch=_Turns(course, connection, args, held_out, begin))
    finally:
        log.close()


class _Turns:
    """Watches a run, and stops it where a slice is over."""

    def __init__(self, course: Course, connection: Connection, args, held_out, begin: float):
        self.course, self.connection, self.args = course, connection, args
        self.held_out, self.begin = held_out, begin
        self.preparation = math.nan
        self.end_of_slice = 0.0  # of the run's clock

    def __call__(self, run) -> None:
        elapsed = run.budget.elapsed
        if elapsed < self.end_of_slice and not run.budget.finished:
            return
        if math.isnan(self.preparation):
            self.preparation = time.perf_counter() - self.begin
        self.end_of_slice = elapsed + self.course.slice_seconds
        self.connection.send(self._measure(run))
        self.connection.recv()

    def _measure(self, run) -> Report:
        from pretrain.flops import training_flops
        from pretrain.interrupts import Interrupts
        from pretrain.validation import validate

        begin = time.perf_counter()
        result = validate(run.engine, self.held_out, Interrupts())
        length = self.args.max_seq_length
        return Report(
            step=run.budget.step,
            samples=run.num_samples,
            tokens=run.budget.num_tokens,
            flops=training_flops(self.args, run.num_samples, length, run.num_predictions),
            seconds=run.budget.elapsed,
            loss=result.loss,
            accuracy=result.accuracy,
            eval_seconds=time.perf_counter() - begin,
            preparation=self.preparation,
            finished=run.budget.finished,
        )
