"""A training run: its state between the steps, and the work after each step."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pipeline.store.disk import is_full
from pipeline.store.paths import CHECKPOINTS, MODELS_AT
from pretrain.engine import checkpoints, distributed
from pretrain.engine.engine import loss_scale, scales_loss
from pretrain.engine.interrupts import Interrupted, Interrupts
from pretrain.engine.memory_limits import OutOfMemory, within_memory
from pretrain.optimization.budget import Budget
from pretrain.optimization.lr_curves import LearningRateSchedule
from pretrain.optimization.run_schedule import NEVER_BEGUN, RunSchedule, changes_in_words
from pretrain.settings import Settings
from pretrain.training import due
from pretrain.training.data_loader import PretrainDatasetProvider
from pretrain.training.losses import LossWindow
from pretrain.training.metrics_file import Log, train_line_in_words
from pretrain.training.micro_batch import MicroBatch
from pretrain.training.step import step_seed, take_step
from pretrain.training.throughput import Throughput, Work
from pretrain.training.validation import validate


class TrainingRun:
    """The state of a run between its steps; every checkpoint saves it."""

    def __init__(
        self,
        settings: Settings,
        engine,
        schedule: LearningRateSchedule,
        provider: PretrainDatasetProvider,
        validation: list[MicroBatch],
        log: Log,
    ):
        training = settings.training
        self.settings, self.training = settings, training
        self.engine, self.schedule, self.log = engine, schedule, log
        self.provider, self.validation = provider, validation
        self.directory = Path(training.output_dir) / CHECKPOINTS
        self.writer = checkpoints.CheckpointWriter(
            self.directory, training.keep_checkpoints, log.warn, log.say
        )
        distributed.finish_before_ending(self.writer.settle)
        self.budget, self.run_schedule = Budget(training), RunSchedule.of(training)
        self.last_begin = NEVER_BEGUN  # position at the begin of the last step, see RunSchedule
        self.window = LossWindow(
            training.divergence_limit, training.scale_cnt_limit, scales_loss(engine)
        )
        self.throughput = Throughput(settings.model, settings.engine.precision, engine.device)
        self.eval_loss = math.nan
        self.lr = 0.0  # of the last step
        self.grad_norm: float | None = None  # of the last step, if it has a line of metrics
        self.num_predictions = 0  # since this process began
        self.validation_due = False
        self.closed = False  # True once the last metrics, validation and checkpoint are done
        self.export: Callable[[Path], None] | None = None
        self.watch: Callable[[TrainingRun], None] | None = None
        self.alive: Callable[[], None] = lambda: None
        self.validated_step, self.exported_until = -1, 0.0  # the latter in seconds of the run
        self.saved_at = 0.0  # seconds of the run; the next checkpoint is due by that

    # --- state -------------------------------------------------------------------------------

    def restore(self, index: int) -> None:
        """Resumes from the newest checkpoint, truncates the metrics to it, and starts the clock."""
        self.throughput.measure_peak()
        state = checkpoints.load_newest_checkpoint(
            *(self.engine, self.directory, self.training.optimizer_type, self.run_schedule),
            self.log.say,
        )
        if state is None:
            self.budget.restore(self.provider.first_step_of(index), 0, 0.0, False)
        else:
            self._restore_state(state)
        self.log.truncate(self.budget.step, is_validated=not self.validation_due)
        self.throughput.restart(self._work_done())

    def _restore_state(self, state: dict[str, Any]) -> None:
        self.eval_loss = state["eval_loss"]
        still_hopeless = state["stopped_early"] and due.is_hopeless(
            self.training, self.eval_loss, state["elapsed"]
        )
        self.budget.restore(state["step"], state["num_tokens"], state["elapsed"], still_hopeless)
        self.window.restore(state["window"], state["scale_counter"])
        self.validation_due = state["validation_due"]
        self.closed = state["closed"] and self.budget.finished  # else lengthened since
        self.last_begin = state.get("last_begin", self.budget.position[0])  # not in old ones
        self.exported_until = state["exported_until"]
        self.writer.saved_step, self.saved_at = state["step"], state["elapsed"]
        self.log.say(f"resuming from the checkpoint of step {state['step']}")
        for line in changes_in_words(state.get("schedule"), self.run_schedule):
            self.log.say(line)
        if still_hopeless:
            self.log.say("the run was stopped early there, and remains stopped")
        if state["samples"] != self.num_samples:
            self.log.say(
                f"the batch size has changed: after {state['samples']} samples, training continues "
                f"with number {self.num_samples}"
            )

    def _save(self, is_stable: bool = False) -> None:
        self.writer.wait()  # the losses prove the previous checkpoint good
        self._collect_losses()
        self.log.flush()
        state = {
            **self.budget.state(),
            "samples": self.num_samples,
            "optimizer_type": self.training.optimizer_type,
            "validation_due": self.validation_due,
            "closed": self.closed,
            "exported_until": self.exported_until,
            "window": self.window.state(),
            "eval_loss": self.eval_loss,
            "scale_counter": self.window.stuck_steps,
            "schedule": self.run_schedule.record(),
            "last_begin": self.last_begin,
        }
        self.writer.save(self.engine, self.budget.step, state, is_stable)
        self.saved_at = self.budget.elapsed

    @property
    def num_samples(self) -> int:
        return self.provider.batch_sizes.samples_before(self.budget.step)

    def _work_done(self) -> Work:
        return Work(
            *(self.num_samples, self.budget.num_tokens, self.num_predictions),
            *(self.provider.seconds_waited, self.provider.num_pairs),
        )

    # --- the loop ----------------------------------------------------------------------------

    def run(self, interrupts: Interrupts) -> None:
        self.engine.train()
        self._show_to_watch()
        if self.validation_due:  # an interrupt prevented it
            self.validate_now(interrupts)
        while not self.budget.finished:
            self._keep_stable_if_due()
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
        if not self.closed:  # no step was left, or the last validation was interrupted
            self._after_step(interrupts)
        self.writer.wait()

    def _train_step(self, interrupts: Interrupts) -> None:
        """Takes a step. Raises Interrupted, without the update, on all ranks at the same point."""
        # Dropout depends on seed, step and rank alone, so that a resumed run draws the same.
        torch.manual_seed(step_seed(self.training.seed, self.budget.step, distributed.rank()))
        result = take_step(
            self.engine,
            self.provider.batch(self.budget.step, self.budget.progress),
            self.settings.engine.train_micro_batch_size_per_gpu,
            due.is_line_due(self.training, self.budget.step + 1),
            interrupts.check,
            self._show_life,
        )
        self.window.add(result.loss, result.update)
        self.grad_norm = result.update.grad_norm
        self.num_predictions += result.num_predictions
        self.last_begin = self.budget.position[0]
        self.budget.count_step(result.num_tokens, self._clock())

    def _after_step(self, interrupts: Interrupts) -> None:
        """Writes metrics, validates and saves a checkpoint if due, and always at the end.

        Raises Interrupted, before the slow parts, if a rank received a signal.
        """
        budget, last = self.budget, self.budget.finished
        self.writer.check()
        if last or due.is_line_due(self.training, budget.step):
            self._write_metrics()
        visits = range(
            self.provider.num_visits(max(0, budget.step - 1)), self.provider.num_visits(budget.step)
        )
        if self.training.do_validation and self.validated_step != budget.step:
            self.validation_due = last or due.is_validation_due(
                self.training, budget.step, budget.progress, visits
            )
        if not last:
            interrupts.check()
        begin, slow = time.perf_counter(), self.validation_due
        if self.validation_due:
            self.validate_now(interrupts)
        self._export_at_markers()
        self.closed = last
        unsaved = budget.elapsed - self.saved_at  # by rank 0's clock, on all ranks
        if last or due.is_checkpoint_due(self.training, budget.step, unsaved, visits):
            slow = True
            self._save()
        if slow:
            self._end_pause(begin)
        self._show_life(last)

    def _end_pause(self, begin: float) -> None:
        """Leaves the time since `begin` out of the rates, but not out of the run's time."""
        self.throughput.skip(time.perf_counter() - begin)
        self.budget.elapsed = self._clock()

    def _show_life(self, last: bool = False) -> None:
        """Reports progress after each bit of work. last: no more follows."""
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

    def _clock(self) -> float:
        """Returns rank 0's clock on all ranks."""
        mine = self.budget.clock() if distributed.rank() == 0 else 0.0
        return distributed.sum_numbers(mine)[0]

    def _keep_stable_if_due(self) -> None:
        """Saves a checkpoint before the first step of a decay: a longer run resumes from it."""
        position = self.budget.position[0]
        if not due.is_stable_due(self.run_schedule, self.last_begin, position):
            return
        begin = time.perf_counter()
        self.log.say(f"step {self.budget.step}: the decay begins; this checkpoint is kept")
        self._save(is_stable=True)
        self._end_pause(begin)

    def _save_and_leave(self, why: str) -> None:
        self.writer.wait()
        # Only rank 0 knows of a checkpoint that found no room on the disk.
        is_saved = distributed.from_first_rank(self.writer.saved_step == self.budget.step)
        if self.budget.step and not is_saved:
            self._save()
            self.writer.wait()
        saved = self.writer.saved_step
        kept = f"the checkpoint of step {saved} is saved" if saved > 0 else "nothing to save"
        self.log.say(f"{why}; {kept}")

    def _save_if_possible(self) -> None:
        """Saves a checkpoint, or warns: a failure only costs the steps since the last one."""
        try:
            self._save_and_leave("out of memory")
        except (OSError, RuntimeError, MemoryError) as error:
            self.log.warn(f"out of memory, and no checkpoint could be saved ({error})")

    def _export_at_markers(self) -> None:
        """Exports the model for each finetune_time_marker (hours) passed since the last call.

        Call it before saving a checkpoint, so that a kill between the two loses no export.
        """
        begin, self.exported_until = self.exported_until, self.budget.elapsed
        for hours in self.training.finetune_time_markers:
            if self.export and begin < hours * 3600 <= self.budget.elapsed:
                folder = self.directory.with_name(MODELS_AT) / f"{hours:g}h"
                self.log.say(f"after {hours:g} h: writing the model to {folder}")
                try:
                    self.export(folder)
                except OSError as error:
                    if not is_full(error):
                        raise
                    self.log.warn(f"{error}; training continues without it")

    # --- numbers -----------------------------------------------------------------------------

    def _collect_losses(self) -> None:
        try:
            self.window.collect(self.budget.step)
        except FloatingPointError as error:
            self.writer.close()
            raise FloatingPointError(f"{error}; {self.writer.last_good()}") from None
        # A step's loss is that of the weights before it: a later one proves a checkpoint good.
        saved_step = self.writer.saved_step
        if saved_step < self.window.measured_step and self.window.is_sound:
            self.writer.good_step = saved_step

    def _write_metrics(self) -> None:
        self._collect_losses()
        budget, skipped = self.budget, self.window.num_skipped
        if not self.window.losses:
            if skipped:
                self.log.say(f"step {budget.step}: the last {skipped} steps were skipped in fp16")
            return
        line = {
            "kind": "train",
            "step": budget.step,
            "samples": self.num_samples,
            "tokens": budget.num_tokens,
            "loss": self.window.mean(),
            "skipped_steps": skipped,
            "lr": self.lr,
            "loss_scale": loss_scale(self.engine),
            "grad_norm": self.grad_norm,
            "elapsed_seconds": round(budget.elapsed, 2),
            **self.provider.rate_numbers(self.num_samples, budget.progress),
            **self.throughput.line(self._work_done()),
        }
        self.log.write(line)
        self.log.say(train_line_in_words(line))

    def validate_now(self, interrupts: Interrupts) -> None:
        step = self.budget.step
        result = within_memory(
            lambda: validate(self.engine, self.validation, interrupts, self._show_life),
            *("validation", self.settings.engine.validation_micro_batch),
        )
        self.eval_loss, self.validation_due = result.loss, False
        self.validated_step = step
        self.log.write(
            {
                "kind": "validation",
                "step": step,
                **asdict(result),
                "perplexity": result.perplexity,
                "elapsed_seconds": round(self.budget.elapsed, 2),
            }
        )
        self.log.say(f"step {step}: {result.in_words}")
        self._stop_early_if_hopeless()

    def _stop_early_if_hopeless(self) -> None:
        budget = self.budget
        if not budget.finished and due.is_hopeless(self.training, self.eval_loss, budget.elapsed):
            budget.stopped_early = True
            self.log.write({"kind": "stopped_early", "step": budget.step, "loss": self.eval_loss})
            self.log.say(
                f"stopped early: after {budget.elapsed / 60:.1f} min the validation loss "
                f"{self.eval_loss:.4f} is above {self.training.early_stop_eval_loss}"
            )
