"""The training loop: steps, metrics, validation, checkpoints, and when to stop."""

import math
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from pipeline.store.disk import is_full
from pretrain.engine import checkpoints, distributed
from pretrain.engine.engine import (
    Update,
    gradient_norm,
    loss_scale,
    norm_of_last_step,
    scales_loss,
    update_weights,
    weights_cast_once,
)
from pretrain.engine.interrupts import Interrupted, Interrupts, caught
from pretrain.engine.memory_limits import OutOfMemory, within_memory
from pretrain.optimization.budget import Budget
from pretrain.optimization.lr_curves import LearningRateSchedule
from pretrain.training.data_loader import MicroBatch, PretrainDatasetProvider
from pretrain.training.losses import LossWindow
from pretrain.training.metrics_file import MetricsLog, SilentLog
from pretrain.training.throughput import Throughput, Work
from pretrain.training.validation import is_validation_due, validate

CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
MODELS_AT = "models_at"


def train(
    args: Namespace,
    index: int,
    model,
    optimizer,
    lr_scheduler: LearningRateSchedule,
    pretrain_dataset_provider: PretrainDatasetProvider,
    validation_dataset: list[MicroBatch],
    log: MetricsLog | SilentLog | None = None,
    export: Callable[[Path], None] | None = None,
    interrupts: Interrupts | None = None,
    watch: Callable[["TrainingRun"], None] | None = None,
    alive: Callable[[], None] = lambda: None,
) -> tuple[float, int]:
    """Trains from the newest checkpoint in args.output_dir, or from the start, to the end.

    args: run_pretraining's flags. index: the epoch, that is, the visit of a shard, to begin with
    where there is no checkpoint. model: a DeepSpeed engine around the model, and optimizer its
    optimizer. lr_scheduler: sets the learning rate in every step. validation_dataset: this rank's
    micro batches. log: where metrics go; default: args.output_dir/metrics.jsonl on rank 0.
    export: writes the model as it is into a folder; for args.finetune_time_markers. interrupts:
    where signals are noted; default: they are noted here, while this function runs. watch: called
    with the run before its first step and after each one; its time does not count. alive: called
    after each bit of work, like a micro batch.

    Returns (eval_loss, stuck_steps): the last validation loss, nan if there was none, and the
    number of steps in a row, up to the last, that were stuck (see LossWindow).
    Raises FloatingPointError if the loss is not a number, or diverges, or too many steps are stuck;
    Interrupted, with a checkpoint saved, after SIGTERM or SIGINT; OutOfMemory if a micro batch does
    not fit, with one saved if there is a single rank.
    """
    if log is None:
        log = MetricsLog(Path(args.output_dir) / METRICS) if not distributed.rank() else SilentLog()
    run = TrainingRun(
        args, model, lr_scheduler, pretrain_dataset_provider, validation_dataset, log, export
    )
    run.watch, run.alive = watch, alive
    with nullcontext(interrupts) if interrupts else caught() as noted:
        try:
            run.restore(index)
            run.run(noted)
        finally:
            run.writer.close()
    return run.eval_loss, run.window.stuck_steps


class TrainingRun:
    """A run between its steps; what matters of it is saved in every checkpoint."""

    def __init__(self, args, engine, schedule, provider, validation, log, export):
        self.args, self.engine, self.schedule = args, engine, schedule
        self.provider, self.validation = provider, validation
        self.log, self.export = log, export
        self.directory = Path(args.output_dir) / CHECKPOINTS
        self.writer = checkpoints.CheckpointWriter(
            self.directory, args.keep_checkpoints, log.warn, log.say
        )
        distributed.finish_before_ending(self.writer.settle)
        self.budget = Budget(args)
        self.window = LossWindow(args.divergence_limit, args.scale_cnt_limit, scales_loss(engine))
        self.throughput = Throughput(args, engine.device)
        self.eval_loss = math.nan
        self.lr = 0.0  # of the last step
        self.grad_norm: float | None = None
        self.num_predictions = 0  # since this process began
        self.validation_due = self.closed = False  # closed: what comes at the end is done
        self.watch: Callable[[TrainingRun], None] | None = None
        self.alive: Callable[[], None] = lambda: None
        self.validated_step, self.exported_until = -1, 0.0  # the latter in seconds of the run
        self.saved_at = 0.0  # seconds of the run; the next checkpoint is due by that

    # --- state -------------------------------------------------------------------------------

    def restore(self, index: int) -> None:
        """Goes back to the newest checkpoint, and the metrics with it; the clock starts."""
        self.throughput.measure_peak()
        state = checkpoints.load_newest_checkpoint(
            self.engine, self.directory, self.args.optimizer_type, self.log.say
        )
        if state is None:
            self.budget.restore(self.provider.first_step_of(index), 0, 0.0, False)
        else:
            self._restore_state(state)
        self.log.truncate(self.budget.step, is_validated=not self.validation_due)
        self.throughput.restart(self._work_done())

    def _restore_state(self, state: dict[str, Any]) -> None:
        self.eval_loss = state["eval_loss"]
        still_hopeless = state["stopped_early"] and self._is_hopeless(state["elapsed"])
        self.budget.restore(state["step"], state["num_tokens"], state["elapsed"], still_hopeless)
        self.window.restore(state["window"], state["scale_counter"])
        self.validation_due, self.closed = state["validation_due"], state["closed"]
        self.exported_until = state["exported_until"]
        self.writer.saved_step, self.saved_at = state["step"], state["elapsed"]
        self.log.say(f"going on from the checkpoint of step {state['step']}")
        if still_hopeless:
            self.log.say("it was stopped early there, and stays so")
        if state["samples"] != self.num_samples:
            self.log.say(
                f"the batch size was another one: {state['samples']} samples have been seen, and "
                f"the next one is number {self.num_samples}"
            )

    def _save(self) -> None:
        self.writer.wait()  # the checkpoint before is the one that the losses prove good
        self._collect_losses()
        self.log.flush()
        budget = self.budget
        state = {
            "step": budget.step,
            "samples": self.num_samples,
            "num_tokens": budget.num_tokens,
            "elapsed": budget.elapsed,
            "optimizer_type": self.args.optimizer_type,
            "validation_due": self.validation_due,
            "closed": self.closed,
            "exported_until": self.exported_until,
            "stopped_early": budget.stopped_early,
            "window": self.window.state(),
            "eval_loss": self.eval_loss,
            "scale_counter": self.window.stuck_steps,
        }
        self.writer.save(self.engine, budget.step, state)
        self.saved_at = budget.elapsed

    @property
    def num_samples(self) -> int:
        return self.provider.batch_sizes.samples_before(self.budget.step)

    def _work_done(self) -> Work:
        return Work(
            self.num_samples,
            self.budget.num_tokens,
            self.num_predictions,
            self.provider.seconds_waited,
            self.provider.num_pairs,
        )

    # --- the loop ----------------------------------------------------------------------------

    def run(self, interrupts: Interrupts) -> None:
        self.engine.train()
        self._show_to_watch()
        if self.validation_due:  # an interrupt came between
            self._validate(interrupts)
        while not self.budget.finished:
            self.lr = self.schedule.set_progress(self.budget.progress)
            try:
                self._train_step(interrupts)
                self._after_step(interrupts)
                self._show_to_watch()
            except Interrupted:
                self._save_and_leave("interrupted")
                raise
            except OutOfMemory:
                if distributed.world_size() == 1:
                    self._save_if_possible()
                raise
        if not self.closed:  # a run of no steps, or one that ended while it validated
            self._after_step(interrupts)
        self.writer.wait()

    def _train_step(self, interrupts: Interrupts) -> None:
        """Forward, backward and update, over the micro batches of this rank.

        A signal ends all ranks between the same two micro batches, with Interrupted and without the
        update.
        """
        # Dropout is a function of seed, step and rank, so that a restart draws the same.
        torch.manual_seed(_step_seed(self.args.seed, self.budget.step, distributed.rank()))
        batches = self.provider.batch(self.budget.step)
        num_predictions, num_tokens = distributed.sum_numbers(
            sum(batch.num_predictions for batch in batches),
            sum(batch.num_tokens for batch in batches),
        )
        size = self.args.train_micro_batch_size_per_gpu
        with weights_cast_once(self.engine):
            step_loss = within_memory(
                lambda: self._accumulate(batches, num_predictions, interrupts), "training", size
            )
        self.window.add(step_loss, self._update())
        self.num_predictions += round(num_predictions)
        self.budget.count_step(round(num_tokens), self._clock())

    def _accumulate(
        self, batches: list[MicroBatch], num_predictions: float, interrupts: Interrupts
    ) -> torch.Tensor:
        """Leaves the gradient of a step in the engine; returns this rank's part of the loss, []."""
        step_loss = torch.zeros((), device=self.engine.device)
        for number, batch in enumerate(batches):
            interrupts.check()
            self.engine.set_gradient_accumulation_boundary(number == len(batches) - 1)
            # Weighted by its predictions, a micro batch adds to the mean over the whole batch.
            weight = batch.num_predictions / max(1.0, num_predictions)
            loss = self.engine(*batch.inputs(self.engine.device)) * weight
            # The engine averages over the ranks.
            self.engine.backward(loss * distributed.world_size(), scale_wrt_gas=False)
            step_loss += loss.detach()
            self._show_life()
        return step_loss

    def _update(self) -> Update:
        """Updates the weights; notes the gradient's norm where a line of metrics is to come."""
        if not self._is_line_due(self.budget.step + 1):
            self.grad_norm = None
            return update_weights(self.engine)
        norm = gradient_norm(self.engine)
        update = update_weights(self.engine)
        self.grad_norm = norm_of_last_step(self.engine) if norm is None else norm
        return update

    def _after_step(self, interrupts: Interrupts) -> None:
        """Metrics, validation and checkpoint, where they are due; all of them at the end.

        Raises Interrupted where some rank was sent a signal, before what takes long.
        """
        budget, last = self.budget, self.budget.finished
        self.writer.check()
        if last or self._is_line_due(budget.step):
            self._write_metrics()
        visits = range(
            self.provider.num_visits(max(0, budget.step - 1)), self.provider.num_visits(budget.step)
        )
        if self.args.do_validation and self.validated_step != budget.step:
            self.validation_due = last or is_validation_due(
                self.args, budget.step, budget.progress, visits
            )
        if not last:
            interrupts.check()
        begin, slow = time.perf_counter(), self.validation_due
        if self.validation_due:
            self._validate(interrupts)
        self._export_at_markers()
        self.closed = last
        if last or self._is_checkpoint_due(visits):
            slow = True
            self._save()
        if slow:
            self._leave_out(time.perf_counter() - begin)
        self._show_life(last)

    def _show_life(self, last: bool = False) -> None:
        """To be called after each bit of work; last: there is none to come."""
        self.alive()
        done, total = self.budget.position
        self.log.progress(last, done=done, total=total, loss=self.window.newest)

    def _show_to_watch(self) -> None:
        if self.watch:
            begin = time.perf_counter()
            self.watch(self)
            seconds = time.perf_counter() - begin
            self.budget.leave_out(seconds)
            self.throughput.skip(seconds)

    def _leave_out(self, seconds: float) -> None:
        """What is not training does not count in the rates; it does in the time of the run."""
        self.throughput.skip(seconds)
        self.budget.elapsed = self._clock()

    def _clock(self) -> float:
        """Rank 0's, on all ranks."""
        mine = self.budget.clock() if distributed.rank() == 0 else 0.0
        return distributed.sum_numbers(mine)[0]

    def _is_line_due(self, step: int) -> bool:
        args = self.args
        last = args.lr_schedule == "step" and step == args.max_steps
        return last or step % args.print_steps == 0

    def _is_checkpoint_due(self, visits: range) -> bool:
        args, budget = self.args, self.budget
        minutes = (budget.elapsed - self.saved_at) / 60  # by rank 0's clock, on all ranks
        epochs = args.num_epochs_between_checkpoints
        return (
            (args.checkpoint_steps > 0 and budget.step % args.checkpoint_steps == 0)
            or 0 < args.checkpoint_minutes <= minutes
            or (epochs > 0 and visits.stop // epochs > visits.start // epochs)
        )

    def _save_and_leave(self, why: str) -> None:
        self.writer.wait()
        # On a full disk, the first rank alone knows that this step's was not saved.
        is_saved = distributed.from_first_rank(self.writer.saved_step == self.budget.step)
        if self.budget.step and not is_saved:
            self._save()
            self.writer.wait()
        kept = f"the checkpoint of step {self.writer.saved_step} is saved"
        nothing = self.writer.saved_step <= 0
        self.log.say(f"{why}; {'there was nothing to save' if nothing else kept}")

    def _save_if_possible(self) -> None:
        """What cannot be saved now is trained again."""
        try:
            self._save_and_leave("out of memory")
        except (OSError, RuntimeError, MemoryError) as error:
            self.log.warn(f"out of memory, and no checkpoint could be saved ({error})")

    def _export_at_markers(self) -> None:
        """The model after the hours of finetune_time_markers that have passed since the last call.

        Before a checkpoint is saved, so that a kill between the two loses none of them.
        """
        begin, self.exported_until = self.exported_until, self.budget.elapsed
        for hours in self.args.finetune_time_markers:
            if self.export and begin < hours * 3600 <= self.budget.elapsed:
                folder = Path(self.args.output_dir) / MODELS_AT / f"{hours:g}h"
                self.log.say(f"after {hours:g} h the model goes to {folder}")
                try:
                    self.export(folder)
                except OSError as error:
                    if not is_full(error):
                        raise
                    self.log.warn(f"{error}; training goes on without it")

    # --- numbers -----------------------------------------------------------------------------

    def _collect_losses(self) -> None:
        try:
            self.window.collect(self.budget.step)
        except FloatingPointError as error:
            self.writer.close()
            raise FloatingPointError(f"{error}; {self._last_good()}") from None
        # A step's loss is that of the weights before it: a checkpoint proves good afterwards.
        saved_step = self.writer.saved_step
        if saved_step < self.window.measured_step and self.window.is_sound:
            self.writer.good_step = saved_step

    def _last_good(self) -> str:
        if self.writer.good_step < 0:
            return "there is no checkpoint that trained well"
        path = checkpoints.checkpoint_dir(self.directory, self.writer.good_step)
        newer = [p.name for p in checkpoints.list_checkpoints(self.directory) if p.name > path.name]
        advice = f"; to go on from it, delete {', '.join(newer)}" if newer else ""
        return f"the last good checkpoint is {path}{advice}"

    def _write_metrics(self) -> None:
        self._collect_losses()
        budget, skipped = self.budget, self.window.num_skipped
        if not self.window.losses:
            if skipped:
                self.log.say(f"step {budget.step}: the last {skipped} steps were skipped in fp16")
            return
        loss = self.window.mean()
        speed = self.throughput.line(self._work_done())
        self.log.write(
            {
                "kind": "train",
                "step": budget.step,
                "samples": self.num_samples,
                "tokens": budget.num_tokens,
                "loss": loss,
                "skipped_steps": skipped,
                "lr": self.lr,
                "loss_scale": loss_scale(self.engine),
                "grad_norm": self.grad_norm,
                "elapsed_seconds": round(budget.elapsed, 2),
                **speed,
            }
        )
        self.log.say(
            f"step {budget.step}: loss {loss:.4f}, lr {self.lr:.3g}, "
            f"{speed['samples_per_second']:.1f} samples/s, {speed['tokens_per_second']:,.0f} "
            f"tokens/s, {100 * speed['peak_share']:.0f} % of the matmul peak"
        )

    def _validate(self, interrupts: Interrupts) -> None:
        step = self.budget.step
        result = within_memory(
            lambda: validate(self.engine, self.validation, interrupts, self._show_life),
            *("validation", self.args.validation_micro_batch),
        )
        self.eval_loss, self.validation_due = result.loss, False
        self.validated_step = step
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
            f"step {step}: validation loss {result.loss:.4f}, accuracy {result.accuracy:.4f}, "
            f"perplexity {result.perplexity:.2f}"
        )
        self._stop_early_if_hopeless()

    def _stop_early_if_hopeless(self) -> None:
        budget = self.budget
        if not budget.finished and self._is_hopeless(budget.elapsed):
            budget.stopped_early = True
            self.log.write({"kind": "stopped_early", "step": budget.step, "loss": self.eval_loss})
            self.log.say(
                f"stopped early: after {budget.elapsed / 60:.1f} min the validation loss "
                f"{self.eval_loss:.4f} is above {self.args.early_stop_eval_loss}"
            )

    def _is_hopeless(self, elapsed: float) -> bool:
        """Whether the last validation was too bad for a run of so many seconds."""
        args = self.args
        late = elapsed / 60 >= args.early_stop_time
        return args.use_early_stopping and late and self.eval_loss > args.early_stop_eval_loss


def _step_seed(seed: int, step: int, rank: int) -> int:
    """A different 63-bit seed for each step and rank (odd multipliers spread the bits)."""
    mixed = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB) + 1
    return mixed & (2**63 - 1)
