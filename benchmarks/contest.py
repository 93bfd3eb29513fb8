"""Trainings that take turns: each in a process of its own, one or a few at work at a time.

A contestant trains with the real loop of pretraining. Whenever its slice of time is over, it is
measured on the held-out samples, reports, and waits for its next turn. Neither counts as training.
One that diverges or dies leaves the contest; the others go on.
"""

import math
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from pipeline.runtime.executor import num_cores
from pipeline.runtime.processes import die_with_parent
from pretrain.kernels.cpu_settings import spin_briefly


@dataclass(frozen=True)
class Course:
    """What a contestant does. seed: of the training; flags: of run_pretraining; held_out: a
    dataset, whose test samples it is measured on, `num_samples` of them; slice_seconds: of training
    between two reports."""

    name: str
    seed: int
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


@dataclass
class Outcome:
    """What has come of a contestant so far.

    failure: why it ended before its time, or left no model; diverged: whether the training did.
    """

    course: Course
    reports: list[Report] = field(default_factory=list)
    failure: str = ""
    diverged: bool = False

    @property
    def finished(self) -> bool:
        return bool(self.reports) and self.reports[-1].finished

    @property
    def ending(self) -> str:
        """In a word; empty if nothing went wrong."""
        return self.failure and ("diverged" if self.diverged else "failed")


class Contestant:
    """A training in a process of its own, seen from here."""

    def __init__(self, course: Course, threads: int):
        self.outcome = Outcome(course)
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_contend, args=(course, theirs, os.getpid(), threads), daemon=True
        )
        self._process.start()
        theirs.close()

    @property
    def at_work(self) -> bool:
        """Whether it has another turn to take."""
        return not self.outcome.failure and not self.outcome.finished

    def go_on(self) -> None:
        """Lets it train for a slice."""
        with suppress(ConnectionError):  # it has died meanwhile, as `await_report` will find
            self._connection.send("go on")

    def await_report(self) -> None:
        """Waits until it is measured, at first before its first step, or until it has ended."""
        try:
            message = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            self.outcome.failure = f"ended with exit code {self._process.exitcode}, see above"
            return
        if isinstance(message, FloatingPointError):
            self.outcome.failure, self.outcome.diverged = str(message), True
        else:
            self.outcome.reports.append(message)

    def leave(self) -> None:
        """After its last report: lets it write its model and end."""
        self.go_on()
        self._process.join()
        if self._process.exitcode:
            self.outcome.failure = f"left no model, exit code {self._process.exitcode}, see above"


def hold_contest(courses: Sequence[Course], at_once: int = 1) -> Iterator[Outcome]:
    """Yields a contestant's outcome after each of its turns: it has a new report, or a failure.

    All take turns until the last has finished, `at_once` of them together with an equal share of
    the cores, unless OMP_NUM_THREADS says how many each gets. Those that leave no model are
    yielded once more.
    """
    threads = max(1, num_cores() // at_once)
    contestants: list[Contestant] = []
    for begin in range(0, len(courses), at_once):  # so few disturb each other's preparation
        group = [Contestant(course, threads) for course in courses[begin : begin + at_once]]
        contestants += group
        yield from _reported(group)
    # One queue, so that groups stay full: one that has the machine for itself is faster.
    queue = deque(contestant for contestant in contestants if contestant.at_work)
    while queue:
        group = [queue.popleft() for _ in range(min(at_once, len(queue)))]
        for contestant in group:
            contestant.go_on()
        yield from _reported(group)
        queue.extend(contestant for contestant in group if contestant.at_work)
    for contestant in contestants:
        if not contestant.outcome.failure:
            contestant.leave()
            if contestant.outcome.failure:
                yield contestant.outcome


def _reported(group: Sequence[Contestant]) -> Iterator[Outcome]:
    for contestant in group:
        contestant.await_report()
        yield contestant.outcome


# --- in the contestant's process -------------------------------------------------------------


def _contend(course: Course, connection: Connection, parent: int, threads: int) -> None:
    begin = time.perf_counter()
    die_with_parent(parent)
    # As in a real run without GPU; read when torch is imported.
    spin_briefly()
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    from pretrain.engine.distributed import start_ranks
    from pretrain.flags import parse_flags
    from pretrain.run_pretraining import run
    from pretrain.training.data_loader import list_shards, validation_batches
    from pretrain.training.metrics_file import MetricsLog

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
    except FloatingPointError as error:
        connection.send(error)
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
        report = self._measure(run)
        if not math.isfinite(report.loss):  # the loop itself looks at its loss now and then
            raise FloatingPointError(f"the held-out loss is {report.loss} at step {report.step}")
        self.connection.send(report)
        self.connection.recv()

    def _measure(self, run) -> Report:
        from pretrain.engine.interrupts import Interrupts
        from pretrain.training.flops import training_flops
        from pretrain.training.validation import validate

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
