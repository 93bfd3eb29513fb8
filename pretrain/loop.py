"""The training loop: steps, metrics, validation, checkpoints, and when to stop."""

import math
import time
from argparse import Namespace
from pathlib import Path

import torch

from pretrain import checkpoints, distributed
from pretrain.budget import Budget
from pretrain.data import MicroBatch, PretrainDatasetProvider
from pretrain.engine import loss_scale
from pretrain.losses import LossWindow
from pretrain.lr_curves import LearningRateSchedule
from pretrain.metrics import MetricsLog, SilentLog
from pretrain.validation import is_validation_due, validate

CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"


def train(
    args: Namespace,
    index: int,
    model,
    optimizer,
    lr_scheduler: LearningRateSchedule,
    pretrain_dataset_provider: PretrainDatasetProvider,
    validation_dataset: list[MicroBatch],
    log: MetricsLog | SilentLog | None = None,
) -> tuple[float, int]:
    """Trains from the newest checkpoint in args.output_dir, or from the start, to the end.

    args: run_pretraining's flags. index: the epoch to begin with where there is no checkpoint.
    model: a DeepSpeed engine around BasePretrainModel, and optimizer its optimizer.
    lr_scheduler: sets the learning rate in every step. validation_dataset: this rank's micro
    batches. log: where metrics go; default: args.output_dir/metrics.jsonl on rank 0.

    Returns (eval_loss, scale_counter_at_1): the last validation loss, nan if there was none, and
    the number of steps in a row, up to the last, with the fp16 loss scale at 1.
    Raises FloatingPointError if the loss is not a number or the scale stays at 1.
    """
    if log is None:
        log = MetricsLog(Path(args.output_dir) / METRICS) if not distributed.rank() else SilentLog()
    run = TrainingRun(
        args, model, optimizer, lr_scheduler, pretrain_dataset_provider, validation_dataset, log
    )
    run.restore(index)
    run.run()
    return run.eval_loss, run.scale_counter


class TrainingRun:
    """A run between its steps; what matters of it is saved in every checkpoint."""

    def __init__(self, args, engine, optimizer, schedule, provider, validation, log):
        self.args, self.engine, self.optimizer = args, engine, optimizer
        self.schedule, self.provider = schedule, provider
        self.validation, self.log = validation, log
        self.directory = Path(args.output_dir) / CHECKPOINTS
        self.budget = Budget(args)
        self.window = LossWindow()
        self.eval_loss = math.nan
        self.scale_counter = 0
        self.saved_step = -1
        self.line_time, self.line_step = time.monotonic(), 0  # of the last line of metrics

    # --- state -------------------------------------------------------------------------------

    def restore(self, index: int) -> None:
        """Goes back to the newest checkpoint, and the metrics with it."""
        state = checkpoints.load_newest_checkpoint(self.engine, self.directory, self.log.say)
        if state is None:
            first_step = -(-index * self.provider.order.num_samples // self.provider.batch_size)
            self.budget.restore(first_step, 0.0, False)
        else:
            self.budget.restore(state["step"], state["elapsed"], state["stopped_early"])
            self.window.losses = list(state["losses"])
            self.window.num_tokens = state["num_tokens"]
            self.eval_loss, self.scale_counter = state["eval_loss"], state["scale_counter"]
            self.saved_step = state["step"]
            self.log.say(f"going on from the checkpoint of step {state['step']}")
        self.log.truncate(self.budget.step)
        self.line_step = self.budget.step

    def _save(self) -> None:
        self._collect_losses()
        self.log.flush()
        state = {
            "step": self.budget.step,
            "elapsed": self.budget.elapsed,
            "stopped_early": self.budget.stopped_early,
            "losses": self.window.losses,
            "num_tokens": self.window.num_tokens,
            "eval_loss": self.eval_loss,
            "scale_counter": self.scale_counter,
        }
        checkpoints.save_checkpoint(
            self.engine, self.directory, self.budget.step, state, self.args.keep_checkpoints
        )
        self.saved_step = self.budget.step

    # --- the loop ----------------------------------------------------------------------------

    def run(self) -> None:
        self.engine.train()
        while not self.budget.finished:
            before = self.budget.progress
            lr = self.schedule.set_progress(before)
            self._train_step()
            self.budget.count_step()
            self._after_step(before, lr)
        if self.saved_step != self.budget.step:  # a run of no steps
            self._after_step(self.budget.progress, 0.0)

    def _train_step(self) -> None:
        """Forward, backward and update, over the micro batches of this rank."""
        # Dropout is a function of seed, step and rank, so that a restart draws the same.
        torch.manual_seed(_step_seed(self.args.seed, self.budget.step, distributed.rank()))
        batches = self.provider.batch(self.budget.step)
        # Weighted by its predictions, a micro batch adds to the mean over the whole batch. The
        # engine divides by the accumulation steps and averages over the ranks, hence `parts`.
        share = 1.0 / self._num_predictions(batches)
        parts = len(batches) * distributed.world_size()
        step_loss = torch.zeros((), device=self.engine.device)
        for batch in batches:
            loss = self.engine(*batch.inputs(self.engine.device)) * (batch.num_predictions * share)
            self.engine.backward(loss * parts)
            self.engine.step()
            step_loss += loss.detach()
        self.window.add(step_loss, sum(batch.num_tokens for batch in batches))

    def _num_predictions(self, batches: list[MicroBatch]) -> torch.Tensor | int:
        """Predicted tokens of the batch, over all ranks."""
        count = max(1, sum(batch.num_predictions for batch in batches))
        if distributed.world_size() == 1:
            return count
        return distributed.sum_over_ranks(torch.tensor(float(count), device=self.engine.device))

    def _after_step(self, before: float, lr: float) -> None:
        """Metrics, validation and checkpoint, where they are due; all of them at the end."""
        args, budget, last = self.args, self.budget, self.budget.finished
        self._count_scale_at_1()
        if last or budget.step % args.print_steps == 0:
            self._write_metrics(lr)
        if last or is_validation_due(args, budget.step, before, budget.progress):
            self._validate()
        if last or budget.stopped_early or self._is_checkpoint_due():
            self._save()
        self.log.progress(last, step=budget.step, steps=budget.total_steps, loss=self.window.newest)

    def _is_checkpoint_due(self) -> bool:
        interval, epochs = self.args.checkpoint_steps, self.args.num_epochs_between_checkpoints
        step, epoch_of = self.budget.step, self.provider.epoch_of
        return (interval > 0 and step % interval == 0) or (
            epochs > 0 and epoch_of(step) // epochs > epoch_of(step - 1) // epochs
        )

    # --- numbers -----------------------------------------------------------------------------

    def _collect_losses(self) -> None:
        try:
            self.window.collect(self.budget.step)
        except FloatingPointError as error:
            raise FloatingPointError(f"{error}; {self._last_good()}") from None

    def _last_good(self) -> str:
        if self.saved_step < 0:
            return "there is no checkpoint before it"
        path = checkpoints.checkpoint_dir(self.directory, self.saved_step)
        return f"the last good checkpoint is {path}"

    def _write_metrics(self, lr: float) -> None:
        self._collect_losses()
        if not self.window.losses:
            return
        now, step, loss = time.monotonic(), self.budget.step, self.window.mean()
        num_samples = (step - self.line_step) * self.args.train_batch_size
        rate = num_samples / max(1e-9, now - self.line_time)
        self.log.write(
            {
                "kind": "train",
                "step": step,
                "samples": step * self.args.train_batch_size,
                "tokens": self.window.num_tokens,
                "loss": loss,
                "lr": lr,
                "loss_scale": loss_scale(self.engine),
                "samples_per_second": round(rate, 2),
                "elapsed_seconds": round(self.budget.elapsed, 2),
            }
        )
        self.log.say(f"step {step}: loss {loss:.4f}, lr {lr:.3g}, {rate:.1f} samples/s")
        self.line_time, self.line_step = now, step

    def _validate(self) -> None:
        if not self.args.do_validation:
            return
        result, step = validate(self.engine, self.validation), self.budget.step
        self.eval_loss = result.loss
        self.log.write(
            {
                "kind": "validation",
                "step": step,
                "loss": result.loss,
                "accuracy": result.accuracy,
                "perplexity": result.perplexity,
                "elapsed_seconds": round(self.budget.elapsed, 2),
            }
        )
        self.log.say(
            f"step {step}: validation loss {result.loss:.4f}, accuracy {result.accuracy:.4f}"
        )
        self._stop_early_if_hopeless()

    def _stop_early_if_hopeless(self) -> None:
        args = self.args
        late = self.budget.elapsed / 60 >= args.early_stop_time
        if args.use_early_stopping and late and self.eval_loss > args.early_stop_eval_loss:
            self.budget.stopped_early = True
            self.log.say(
                f"stopped early: after {self.budget.elapsed / 60:.1f} min the validation loss "
                f"{self.eval_loss:.4f} is above {args.early_stop_eval_loss}"
            )

    def _count_scale_at_1(self) -> None:
        stuck = self.engine.fp16_enabled() and loss_scale(self.engine) <= 1.0
        self.scale_counter = self.scale_counter + 1 if stuck else 0
        if 0 < self.args.scale_cnt_limit <= self.scale_counter:
            raise FloatingPointError(
                f"the fp16 loss scale was 1 for {self.scale_counter} steps, "
                f"up to step {self.budget.step}; {self._last_good()}"
            )


def _step_seed(seed: int, step: int, rank: int) -> int:
    """A different 63-bit seed for each step and rank (odd multipliers spread the bits)."""
    mixed = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB) + 1
    return mixed & (2**63 - 1)
