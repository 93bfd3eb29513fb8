"""`train`, with the signature of the manual; the loop is in pretrain.training.training_run."""

from argparse import Namespace
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from pipeline.store.paths import METRICS
from pretrain.engine import distributed
from pretrain.engine.interrupts import Interrupts, caught
from pretrain.optimization.lr_curves import LearningRateSchedule
from pretrain.settings import Settings
from pretrain.training.data_loader import PretrainDatasetProvider
from pretrain.training.metrics_file import MetricsLog, SilentLog
from pretrain.training.micro_batch import MicroBatch
from pretrain.training.training_run import TrainingRun


def train(
    args: Namespace | Settings,
    index: int,
    model,
    optimizer,
    lr_scheduler: LearningRateSchedule,
    pretrain_dataset_provider: PretrainDatasetProvider,
    validation_dataset: list[MicroBatch],
    log: MetricsLog | SilentLog | None = None,
    export: Callable[[Path], None] | None = None,
    interrupts: Interrupts | None = None,
    watch: Callable[[TrainingRun], None] | None = None,
    alive: Callable[[], None] = lambda: None,
) -> tuple[float, int]:
    """Trains to the end, from the newest checkpoint in args.output_dir or from the start.

    args: run_pretraining's flags, with vocab_size, max_seq_length and a precision other than auto,
    or the settings made of them. index: epoch, that is, visit of a shard, to start with if there is
    no checkpoint. model: DeepSpeed's engine around the model, and optimizer its optimizer.
    lr_scheduler: sets the learning rate of every step. validation_dataset: this rank's micro
    batches. log: destination of the metrics; default: args.output_dir/metrics.jsonl on rank 0.
    export: writes the current model into a folder, for args.finetune_time_markers. interrupts:
    notes signals; default: they are noted while this function runs. watch: called with the run
    before its first step and after each one; its time is not counted. alive: called after each bit
    of work, like a micro batch.

    Returns (eval_loss, stuck_steps): the last validation loss, nan without one, and the number of
    consecutive stuck steps at the end (see LossWindow). Raises FloatingPointError if the loss is
    not finite or diverges, or if too many steps are stuck; OtherSchedule, before the first step, if
    all checkpoints are of runs with other rates; Interrupted, with a checkpoint saved,
    after SIGTERM or SIGINT; OutOfMemory if a micro batch does not fit, with a checkpoint saved if
    there is a single rank.
    """
    settings = Settings.from_args(args)
    if log is None:
        path = Path(settings.training.output_dir) / METRICS
        log = SilentLog() if distributed.rank() else MetricsLog(path)
    run = TrainingRun(
        settings, model, lr_scheduler, pretrain_dataset_provider, validation_dataset, log
    )
    run.export, run.watch, run.alive = export, watch, alive
    with nullcontext(interrupts) if interrupts else caught() as noted:
        try:
            run.restore(index)
            run.run(noted)
        finally:
            run.writer.close()
    return run.eval_loss, run.window.stuck_steps
