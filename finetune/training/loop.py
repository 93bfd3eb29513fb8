"""The training of one classifier: batches, steps, evaluations on the way, the best weights."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from finetune.data.batches import epoch_batches, micro_batches
from finetune.data.encoding import Encoded
from finetune.search.job_folder import TrainingSettings
from finetune.training.device_model import Runner
from finetune.training.optimizer import FinetuningOptimizer
from finetune.training.schedules import FOLLOWS_SCORE, make_schedule
from pipeline.runtime.oom import is_out_of_memory

# Points of loss and learning rate that a run leaves behind, and lines in its log.
HISTORY_POINTS = 40


@dataclass
class Training:
    """What a training leaves behind beside the weights; see `Outcome` for history, evaluations."""

    num_steps: int = 0
    num_tokens: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """When what happens. evaluations: the steps after which the dev sets are evaluated."""

    steps_per_epoch: int
    num_steps: int
    evaluations: frozenset[int]


def make_plan(settings: TrainingSettings, num_samples: int) -> Plan:
    """A part of an epoch counts its steps up. The best weights can be those of the last step."""
    per_epoch = math.ceil(num_samples / settings.batch_size)
    num_steps = math.ceil(settings.epochs * per_epoch)
    evaluations: set[int] = set()
    if settings.eval_steps:
        evaluations |= set(range(settings.eval_steps, num_steps + 1, settings.eval_steps))
    if settings.evals_per_epoch:
        number = math.ceil(settings.epochs * settings.evals_per_epoch)
        steps = (round(i * per_epoch / settings.evals_per_epoch) for i in range(1, number + 1))
        evaluations |= {min(num_steps, max(1, step)) for step in steps}
    if settings.keep_best:
        evaluations.add(num_steps)
    return Plan(per_epoch, num_steps, frozenset(evaluations))


def train(
    runner: Runner,
    data: Encoded,
    settings: TrainingSettings,
    is_regression: bool,
    evaluate: Callable[[int], float],
    log: Callable[[str], None],
) -> Training:
    """Trains the runner's model in place. evaluate: gives the score after a step, higher is better.

    Raises ValueError if the loss is not finite in a step that was taken, or if the schedule needs
    evaluations that nobody asked for.
    """
    plan = make_plan(settings, len(data))
    torch.manual_seed(settings.seed)  # dropout's
    step = Step(runner, data, settings, is_regression, plan.num_steps, log)
    schedule = _schedule(settings, step.optimizer, plan)
    training, meter, lengths = Training(), _Meter(runner, plan), data.lengths
    best = _Best(runner, settings)
    for number, batch in enumerate(_batches(data, settings, plan), 1):
        meter.add(step.run(batch), step.optimizer.learning_rate)
        training.num_steps = number
        training.num_tokens += int(lengths[batch].sum())
        if meter.is_due(number):
            training.history.append(meter.read(number, log))
        if settings.lr_scheduler_type not in FOLLOWS_SCORE:
            schedule.step()
        if number in plan.evaluations:
            step.optimizer.flush()
            score = evaluate(number)
            epoch = number / plan.steps_per_epoch
            training.evaluations.append({"step": number, "epoch": epoch, "score": score})
            if settings.lr_scheduler_type in FOLLOWS_SCORE:
                schedule.step(-score)
            if best.is_over(number, score):
                log(f"no better score since step {best.step}: the training ends")
                break
    step.optimizer.flush()
    best.restore(training.num_steps, log)
    return training


def _batches(data: Encoded, settings: TrainingSettings, plan: Plan) -> Iterator[np.ndarray]:
    left = plan.num_steps
    for epoch in range(math.ceil(settings.epochs)):
        batches = epoch_batches(data.lengths, settings.batch_size, settings.seed, epoch)
        yield from batches[:left]
        left -= len(batches)


def _schedule(settings: TrainingSettings, optimizer: FinetuningOptimizer, plan: Plan):
    name = settings.lr_scheduler_type
    if name in FOLLOWS_SCORE and not plan.evaluations:
        raise ValueError(f"{name} follows the dev score, expected evaluations during training")
    return make_schedule(name, optimizer.dense, settings.warmup, plan.num_steps)


class Step:
    """A step of the optimizer on a batch of samples."""

    def __init__(
        self,
        runner: Runner,
        data: Encoded,
        settings: TrainingSettings,
        is_regression: bool,
        max_steps: int,
        log: Callable[[str], None],
    ):
        self.runner, self.data, self.is_regression, self.log = runner, data, is_regression, log
        self.num_parts = settings.accumulation_steps
        self.optimizer = FinetuningOptimizer(
            runner.model,
            settings.learning_rate,
            settings.weight_decay,
            settings.max_grad_norm,
            max_steps,
        )
        self.scaler = torch.amp.GradScaler(runner.device.type) if runner.needs_scaler else None

    def run(self, batch: np.ndarray) -> Tensor:
        """The batch's mean loss, on the device; nothing here waits for a GPU.

        A batch that does not fit into memory is begun anew in twice as many parts, as are those
        after it. The sum of its gradients is the same; dropout draws other numbers.
        """
        self.runner.model.train()
        while True:
            try:
                total = self._accumulate(batch)
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self.num_parts >= len(batch):
                    raise
            # Not in the handler, which keeps the error, and with it what it has in memory.
            self.optimizer.drop_gradients()
            self.num_parts *= 2
            self.log(f"out of memory: batches are accumulated in {self.num_parts} parts from now")
        self.optimizer.step(self.scaler)
        return total

    def _accumulate(self, batch: np.ndarray) -> Tensor:
        """Leaves the batch's gradient in the weights; returns its mean loss."""
        parts = [self.runner.batch(self.data, p) for p in micro_batches(batch, self.num_parts)]
        self.optimizer.prepare([part["input_ids"] for part in parts])
        labels = self.runner.to_device(self.data.labels[batch]).split(
            [len(part["input_ids"]) for part in parts]
        )
        total = torch.zeros((), device=self.runner.device)
        for part, wanted in zip(parts, labels, strict=True):
            loss = summed_loss(self.runner.logits(part), wanted, self.is_regression) / len(batch)
            (loss if self.scaler is None else self.scaler.scale(loss)).backward()
            total += loss.detach()
        return total


def summed_loss(logits: Tensor, labels: Tensor, is_regression: bool) -> Tensor:
    """Over the samples: squared errors, or cross entropies."""
    if is_regression:
        return functional.mse_loss(logits[:, 0], labels, reduction="sum")
    return functional.cross_entropy(logits, labels, reduction="sum")


class _Meter:
    """Loss and learning rate since the last point of the history.

    In fp16 the loss scaler skips a step with an overflow, and the training goes on: its loss is
    left out, and only points without any other end the run.
    """

    def __init__(self, runner: Runner, plan: Plan):
        self.plan, self.may_skip = plan, runner.needs_scaler
        self.sums = torch.zeros(2, device=runner.device)  # of finite losses, and their number
        self.num_steps, self.learning_rate = 0, 0.0

    def add(self, loss: Tensor, learning_rate: float) -> None:
        counted = torch.stack([loss, torch.ones_like(loss)])
        self.sums += counted.where(loss.isfinite(), 0.0)
        self.num_steps += 1
        self.learning_rate = learning_rate

    def is_due(self, step: int) -> bool:
        """HISTORY_POINTS times, evenly, the last step included."""
        points = min(HISTORY_POINTS, self.plan.num_steps)
        return step * points // self.plan.num_steps > (step - 1) * points // self.plan.num_steps

    def read(self, step: int, log: Callable[[str], None]) -> dict[str, float]:
        total, num_finite = self.sums.tolist()
        if num_finite < (1 if self.may_skip else self.num_steps):
            raise ValueError(f"the loss is not finite by step {step}: training diverged")
        loss = total / num_finite
        log(
            f"step {step} of {self.plan.num_steps}: loss {loss:.4g}, "
            f"learning_rate {self.learning_rate:.4g}"
        )
        self.sums.zero_()
        self.num_steps = 0
        epoch = step / self.plan.steps_per_epoch
        return {
            "step": step,
            "epoch": round(epoch, 4),
            "loss": loss,
            "learning_rate": self.learning_rate,
        }


class _Best:
    """The best score so far, and the weights of it if they are to be kept."""

    def __init__(self, runner: Runner, settings: TrainingSettings):
        self.model, self.keeps = runner.model, settings.keep_best
        self.patience = settings.patience
        self.score, self.step, self.num_worse = -math.inf, 0, 0
        self.weights: dict[str, Tensor] = {}

    def is_over(self, step: int, score: float) -> bool:
        """Notes a score; whether there have been too many in a row that were no better."""
        if score > self.score:
            self.score, self.step, self.num_worse = score, step, 0
            if self.keeps:
                self.weights = {
                    name: weight.detach().to("cpu", copy=True)
                    for name, weight in self.model.state_dict().items()
                }
        else:
            self.num_worse += 1
        return 0 < self.patience <= self.num_worse

    def restore(self, last_step: int, log: Callable[[str], None]) -> None:
        """Puts the best weights back, if others came after them."""
        if self.weights and self.step != last_step:
            self.model.load_state_dict(self.weights)
            log(f"the weights of step {self.step} are kept, with a score of {self.score:.4f}")
