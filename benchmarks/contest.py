"""A contest of trainings with the real loop, which take turns on this machine.

After each of its turns, a training is measured on held-out samples; that time does not count. One
that diverges or dies leaves the contest; the others continue.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import Contestant, Ended, Report


@dataclass(frozen=True)
class Standing:
    """A training after a turn. flops: of its matrix products; seconds: of training so far; loss: in
    nats per predicted token; accuracy: share of correct predictions."""

    step: int
    tokens: int
    flops: float
    seconds: float
    loss: float
    accuracy: float
    finished: bool


@dataclass
class Training:
    """A training and its standings so far.

    flags: of run_pretraining; held_out: dataset with the test samples, of which `num_samples` are
    used; slice_seconds: of a turn; failure: why it has ended early or left no model.
    """

    name: str
    seed: int
    flags: Sequence[str]
    held_out: Path
    num_samples: int
    slice_seconds: float
    standings: list[Standing] = field(default_factory=list)
    failure: str = ""
    diverged: bool = False

    @property
    def finished(self) -> bool:
        return bool(self.standings) and self.standings[-1].finished

    @property
    def ending(self) -> str:
        """`diverged`, `failed` or, without a failure, an empty string."""
        return self.failure and ("diverged" if self.diverged else "failed")


def hold_contest(trainings: Sequence[Training], at_once: int = 1) -> Iterator[Training]:
    """Runs the trainings; yields each after each of its turns, and again if it leaves no model.

    `at_once` trainings run together; each gets an equal share of the cores, unless OMP_NUM_THREADS
    is set.
    """
    from pipeline.runtime.executor import num_cores

    threads = max(1, num_cores() // at_once)
    started: list[tuple[Contestant, Training]] = []
    for begin in range(0, len(trainings), at_once):  # preparations run `at_once` at a time, too
        these = trainings[begin : begin + at_once]
        group = [(Contestant(_train, training, threads=threads), training) for training in these]
        started += group
        yield from _reported(group)
    # A single queue keeps the groups full: a training on its own would be faster.
    queue = deque(_at_work(started))
    while queue:
        group = [queue.popleft() for _ in range(min(at_once, len(queue)))]
        for contestant, _ in group:
            contestant.start_turn()
        yield from _reported(group)
        queue.extend(_at_work(group))
    for contestant, training in started:
        if not training.failure:
            try:
                contestant.finish()
            except Ended as error:
                training.failure = f"left no model: {error}, see above"
                yield training


def _at_work(group: Sequence[tuple[Contestant, Training]]) -> list[tuple[Contestant, Training]]:
    return [pair for pair in group if not pair[1].failure and not pair[1].finished]


def _reported(group: Sequence[tuple[Contestant, Training]]) -> Iterator[Training]:
    for contestant, training in group:
        try:
            message = contestant.await_report()
        except Ended as error:
            training.failure = f"{error}, see above"
        else:
            if isinstance(message, Standing):
                training.standings.append(message)
            else:
                training.failure, training.diverged = str(message), True
                contestant.kill()
        yield training


def _train(report: Report, training: Training) -> None:
    """Runs in the contestant's process; reports standings, or an error if the training diverges."""
    from benchmarks.trainings import run_loop
    from pretrain.engine.distributed import start_ranks
    from pretrain.engine.interrupts import Interrupts
    from pretrain.training.data_loader import list_shards, validation_batches
    from pretrain.training.flops import training_flops
    from pretrain.training.validation import validate

    end_of_turn = 0.0
    held_out: list[Any] = []

    def watch(run_: Any) -> None:  # called before the first step and after each one
        nonlocal end_of_turn, held_out
        settings, budget = run_.settings, run_.budget
        if budget.elapsed < end_of_turn and not budget.finished:
            return
        if not held_out:
            shards = list_shards(training.held_out, "test")
            micro = settings.engine.validation_micro_batch
            held_out = validation_batches(shards, training.num_samples, micro, 0, 1)
        end_of_turn = budget.elapsed + training.slice_seconds
        result = validate(run_.engine, held_out, Interrupts())
        if not math.isfinite(result.loss):  # the loop checks its own loss less often
            raise FloatingPointError(f"the held-out loss is {result.loss} at step {budget.step}")
        work = run_.num_samples, settings.model.max_seq_length, run_.num_predictions
        report(
            Standing(
                step=budget.step,
                tokens=budget.num_tokens,
                flops=training_flops(settings.model, *work),
                seconds=budget.elapsed,
                loss=result.loss,
                accuracy=result.accuracy,
                finished=budget.finished,
            )
        )

    try:
        run_loop(training.flags, start_ranks(), watch)
    except FloatingPointError as error:
        report(error)
