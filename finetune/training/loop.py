"""Trains one classifier: batches, optimizer steps, evaluations, early stopping."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW

from finetune.data.batches import epoch_batches, micro_batches
from finetune.data.tokens import Encoded
from finetune.search.job_folder import TrainingSettings
from finetune.task_types.task_type import TaskType
from finetune.training.device_model import DeviceModel
from finetune.training.schedules import make_schedule
from pipeline.runtime.oom import is_out_of_memory

# Points of loss and learning rate in the result, and lines in the log.
HISTORY_POINTS = 40


@dataclass
class TrainingRecord:
    """The progress of a training; see `Outcome` for history and evaluations.

    num_tokens: trained on, without padding.
    """

    num_steps: int = 0
    num_tokens: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class StepPlan:
    """The steps of a training. evaluations: steps followed by an evaluation on the dev sets."""

    steps_per_epoch: int
    num_steps: int
    evaluations: frozenset[int]


def plan_steps(settings: TrainingSettings, num_samples: int) -> StepPlan:
    """Returns the steps for so many samples; a fraction of an epoch is rounded up to whole steps.

    To keep the best weights, the last step is evaluated too.
    """
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
    return StepPlan(per_epoch, num_steps, frozenset(evaluations))


def train(
    model: DeviceModel,
    data: Encoded,
    settings: TrainingSettings,
    task_type: TaskType,
    class_weights: np.ndarray | None,
    evaluate: Callable[[int], float],
    log: Callable[[str], None],
) -> TrainingRecord:
    """Trains the model in place.

    class_weights: as `TaskType.class_weights` returns them. evaluate: returns the dev score after a
    step, higher is better. Raises ValueError if the loss of an applied step is not finite.
    """
    plan = plan_steps(settings, len(data))
    torch.manual_seed(settings.seed)  # for dropout
    trainer = _Trainer(model, data, settings, task_type, class_weights, log)
    schedule = make_schedule(
        settings.lr_scheduler_type, trainer.optimizer, settings.warmup, plan.num_steps
    )
    record, meter, lengths = TrainingRecord(), _Meter(model, plan), data.lengths
    best = _BestWeights(model.model, settings)
    for step, batch in enumerate(_batches(data, settings, plan), 1):
        meter.add(trainer.step(batch), trainer.optimizer.param_groups[0]["lr"])
        record.num_steps = step
        record.num_tokens += int(lengths[batch].sum())
        if meter.is_due(step):
            record.history.append(meter.read(step, log))
        schedule.step()
        if step in plan.evaluations:
            score = evaluate(step)
            epoch = step / plan.steps_per_epoch
            record.evaluations.append({"step": step, "epoch": epoch, "score": score})
            best.update(step, score)
            if best.is_patience_over:
                log(f"no better score since step {best.step}: training stops early")
                break
    best.restore(record.num_steps, log)
    return record


def _batches(data: Encoded, settings: TrainingSettings, plan: StepPlan) -> Iterator[np.ndarray]:
    left = plan.num_steps
    for epoch in range(math.ceil(settings.epochs)):
        batches = epoch_batches(data.lengths, settings.batch_size, settings.seed, epoch)
        yield from batches[:left]
        left -= len(batches)


class _Trainer:
    """Takes optimizer steps on batches of samples."""

    def __init__(
        self,
        model: DeviceModel,
        data: Encoded,
        settings: TrainingSettings,
        task_type: TaskType,
        class_weights: np.ndarray | None,
        log: Callable[[str], None],
    ):
        self.model, self.data, self.task_type, self.log = model, data, task_type, log
        self.class_weights = class_weights
        self.weights = None if class_weights is None else model.to_device(class_weights)
        self.num_parts, self.max_grad_norm = settings.accumulation_steps, settings.max_grad_norm
        self.optimizer = _adamw(model.model, settings)
        self.scaler = torch.amp.GradScaler(model.device.type) if model.needs_scaler else None

    def step(self, batch: np.ndarray) -> Tensor:
        """Returns the batch's mean loss, on the device, without waiting for a GPU.

        A batch too large for memory is retried in twice as many parts, as are all later batches.
        The sum of the gradients stays the same; dropout draws other numbers.
        """
        self.model.model.train()
        while True:
            try:
                loss = self._accumulate(batch)
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self.num_parts >= len(batch):
                    raise
            # Outside of the handler: the error keeps its frames' tensors alive.
            self.optimizer.zero_grad()
            self.num_parts *= 2
            self.log(f"out of memory: batches are accumulated in {self.num_parts} parts from now")
        self._update()
        return loss

    def _accumulate(self, batch: np.ndarray) -> Tensor:
        """Adds up the batch's gradients part by part; returns its mean loss."""
        task_type, padding = self.task_type, self.model.padding
        split = micro_batches(batch, self.num_parts)
        parts = [self.model.batch(self.data, part) for part in split]
        targets = [task_type.batch_labels(self.data, part, padding) for part in split]
        num_targets = sum(task_type.num_targets(part, self.class_weights) for part in targets) or 1
        total = torch.zeros((), device=self.model.device)
        for part, labels in zip(parts, map(self.model.to_device, targets), strict=True):
            loss = (
                task_type.summed_loss(self.model.logits(part), labels, self.weights) / num_targets
            )
            (loss if self.scaler is None else self.scaler.scale(loss)).backward()
            total += loss.detach()
        return total

    def _update(self) -> None:
        """Clips the gradients and updates the weights with them."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self.max_grad_norm > 0:
            clip_grad_norm_(self.model.model.parameters(), self.max_grad_norm)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad()


def _adamw(model: nn.Module, settings: TrainingSettings) -> AdamW:
    """Returns AdamW; weight decay applies to matrices, not to biases and norms."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            groups[weight.ndim >= 2 and "bias" not in name].append(weight)
    return AdamW(
        [
            {"params": groups[True], "weight_decay": settings.weight_decay},
            {"params": groups[False], "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        fused=True,
    )


class _Meter:
    """Averages loss and learning rate between two points of the history.

    In fp16 the loss scaler skips a step with an overflow and training continues: such losses are
    left out, and training fails only if a point has no finite loss.
    """

    def __init__(self, model: DeviceModel, plan: StepPlan):
        self.plan, self.may_skip = plan, model.needs_scaler
        self.sums = torch.zeros(2, device=model.device)  # finite losses, and their number
        self.num_steps, self.learning_rate = 0, 0.0

    def add(self, loss: Tensor, learning_rate: float) -> None:
        counted = torch.stack([loss, torch.ones_like(loss)])
        self.sums += counted.where(loss.isfinite(), 0.0)
        self.num_steps += 1
        self.learning_rate = learning_rate

    def is_due(self, step: int) -> bool:
        """True HISTORY_POINTS times in a training, at even intervals, and after the last step."""
        points = min(HISTORY_POINTS, self.plan.num_steps)
        return step * points // self.plan.num_steps > (step - 1) * points // self.plan.num_steps

    def read(self, step: int, log: Callable[[str], None]) -> dict[str, float]:
        """Returns a point of the history and starts the next one."""
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
        epoch = round(step / self.plan.steps_per_epoch, 4)
        return {"step": step, "epoch": epoch, "loss": loss, "learning_rate": self.learning_rate}


class _BestWeights:
    """Tracks the best score, and keeps a copy of its weights if the settings ask for it."""

    def __init__(self, model: nn.Module, settings: TrainingSettings):
        self.model, self.settings = model, settings
        self.score, self.step, self.num_worse = -math.inf, 0, 0
        self.weights: dict[str, Tensor] = {}

    def update(self, step: int, score: float) -> None:
        self.num_worse += 1
        if score > self.score:
            self.score, self.step, self.num_worse = score, step, 0
            if self.settings.keep_best:
                self.weights = {
                    name: weight.detach().to("cpu", copy=True)
                    for name, weight in self.model.state_dict().items()
                }

    @property
    def is_patience_over(self) -> bool:
        return 0 < self.settings.patience <= self.num_worse

    def restore(self, last_step: int, log: Callable[[str], None]) -> None:
        """Loads the best weights if training continued after them."""
        if self.weights and self.step != last_step:
            self.model.load_state_dict(self.weights)
            log(f"the weights of step {self.step} are kept, with a score of {self.score:.4f}")
