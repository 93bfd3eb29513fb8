"""A contest of trainings with the real loop, which take turns on this machine.

After each of its turns, a training is measured on held-out samples; that time does not count. One
that diverges or dies leaves the contest; the others continue.
"""

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import Contestant, Ended, Report


@dataclass(frozen=True)
class Course:
    """The plan of a training. seed: of the training; flags: of run_pretraining; held_out: dataset
    with the test samples, of which `num_samples` are used; slice_seconds: of a turn."""

    name: str
    seed: int
    flags: tuple[str, ...]
    held_out: Path
    num_samples: int
    slice_seconds: float


@dataclass(frozen=True)
class Standing:
    """A training after a turn. seconds: of training so far; flops: of its matrix products; loss: in
    nats per predicted token; accuracy: share of correct predictions; eval_seconds: of this
    measurement; preparation: seconds from the start of the process to the first step."""

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
    """The standings of a training so far; failure: why it has ended early or left no model."""

    course: Course
    reports: list[Standing] = field(default_factory=list)
    failure: str = ""
    diverged: bool = False

    @property
    def finished(self) -> bool:
        return bool(self.reports) and self.reports[-1].finished

    @property
    def at_work(self) -> bool:
        return not self.failure and not self.finished

    @property
    def ending(self) -> str:
        """`diverged`, `failed` or, without a failure, an empty string."""
        return self.failure and ("diverged" if self.diverged else "failed")


def hold_contest(courses: Sequence[Course], at_once: int = 1) -> Iterator[Outcome]:
    """Yields a training's outcome after each of its turns, and again if it leaves no model.

    `at_once` trainings run together; each gets an equal share of the cores, unless OMP_NUM_THREADS
    is set.
    """
    from pipeline.runtime.executor import num_cores

    threads = max(1, num_cores() // at_once)
    trainings: list[tuple[Contestant, Outcome]] = []
    for begin in range(0, len(courses), at_once):  # preparations run `at_once` at a time, too
        group = [
            (Contestant(_train, course, threads=threads), Outcome(course))
            for course in courses[begin : begin + at_once]
        ]
        trainings += group
        yield from _reported(group)
    # A single queue keeps the groups full: a training on its own would be faster.
    queue = deque(training for training in trainings if training[1].at_work)
    while queue:
        group = [queue.popleft() for _ in range(min(at_once, len(queue)))]
        for contestant, _ in group:
            contestant.start_turn()
        yield from _reported(group)
        queue.extend(training for training in group if training[1].at_work)
    for contestant, outcome in trainings:
        if not outcome.failure:
            try:
                contestant.finish()
            except Ended as error:
                outcome.failure = f"left no model: {error}, see above"
                yield outcome


def _reported(group: Sequence[tuple[Contestant, Outcome]]) -> Iterator[Outcome]:
    for contestant, outcome in group:
        try:
            message = contestant.await_report()
        except Ended as error:
            outcome.failure = f"{error}, see above"
        else:
            if isinstance(message, Standing):
                outcome.reports.append(message)
            else:
                outcome.failure, outcome.diverged = str(message), True
                contestant.kill()
        yield outcome


def _train(report: Report, course: Course) -> None:
    """Runs in the contestant's process; reports standings, or an error if the training diverges."""
    begin = time.perf_counter()
    from benchmarks.trainings import run_loop
    from pretrain.engine.distributed import start_ranks
    from pretrain.engine.interrupts import Interrupts
    from pretrain.training.data_loader import list_shards, validation_batches
    from pretrain.training.flops import training_flops
    from pretrain.training.validation import validate

    end_of_turn, preparation, held_out = 0.0, math.nan, []

    def watch(run_: Any) -> None:  # called before the first step and after each one
        nonlocal end_of_turn, preparation, held_out
        now, settings, budget = time.perf_counter(), run_.settings, run_.budget
        if budget.elapsed < end_of_turn and not budget.finished:
            return
        if not held_out:
            preparation, micro = now - begin, settings.engine.validation_micro_batch
            shards = list_shards(course.held_out, "test")
            held_out = validation_batches(shards, course.num_samples, micro, 0, 1)
        end_of_turn = budget.elapsed + course.slice_seconds
        result = validate(run_.engine, held_out, Interrupts())
        if not math.isfinite(result.loss):  # the loop checks its own loss less often
            raise FloatingPointError(f"the held-out loss is {result.loss} at step {budget.step}")
        work = run_.num_samples, settings.model.max_seq_length, run_.num_predictions
        report(
            Standing(
                step=budget.step,
                samples=run_.num_samples,
                tokens=budget.num_tokens,
                flops=training_flops(settings.model, *work),
                seconds=budget.elapsed,
                loss=result.loss,
                accuracy=result.accuracy,
                eval_seconds=time.perf_counter() - now,
                preparation=preparation,
                finished=budget.finished,
            )
        )

    try:
        run_loop(course.flags, start_ranks(), watch)
    except FloatingPointError as error:
        report(error)
