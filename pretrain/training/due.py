"""When a run writes a line of metrics, validates, saves a checkpoint or stops early."""

from pretrain.optimization.run_schedule import RunSchedule
from pretrain.settings import TrainingSettings


def is_line_due(settings: TrainingSettings, step: int) -> bool:
    """True if a line of metrics follows this step."""
    is_last = settings.lr_schedule == "step" and step == settings.max_steps
    return is_last or step % settings.print_steps == 0


def is_checkpoint_due(settings: TrainingSettings, step: int, seconds: float, visits: range) -> bool:
    """True if a checkpoint follows this step.

    seconds: training time since the last one. visits: as for `is_validation_due`.
    """
    epochs = settings.num_epochs_between_checkpoints
    return (
        (settings.checkpoint_steps > 0 and step % settings.checkpoint_steps == 0)
        or 0 < settings.checkpoint_minutes <= seconds / 60
        or (epochs > 0 and _passes_multiple(visits, epochs))
    )


def is_stable_due(schedule: RunSchedule, last_begin: float, position: float) -> bool:
    """True if the next step, which begins at this position, is the first of the decay."""
    return schedule.is_decaying(position) and not schedule.is_decaying(last_begin)


def is_validation_due(
    settings: TrainingSettings, step: int, progress: float, visits: range
) -> bool:
    """True if a validation follows this step.

    progress: share of the run that has passed. visits: from the number of shard visits completed
    before the step to the number after it. With validation_steps 0, it is due after every
    validation_epochs_begin visits up to validation_begin_proportion of the run, every
    validation_epochs_end in its last validation_end_proportion, and every validation_epochs in
    between.
    """
    if not settings.do_validation:
        return False
    if settings.validation_steps:
        return step % settings.validation_steps == 0
    if progress < settings.validation_begin_proportion:
        interval = settings.validation_epochs_begin
    elif progress > 1.0 - settings.validation_end_proportion:
        interval = settings.validation_epochs_end
    else:
        interval = settings.validation_epochs
    return _passes_multiple(visits, interval)


def is_hopeless(settings: TrainingSettings, eval_loss: float, seconds: float) -> bool:
    """True if early stopping ends a run with this validation loss after this training time."""
    is_late = seconds / 60 >= settings.early_stop_time
    return settings.use_early_stopping and is_late and eval_loss > settings.early_stop_eval_loss


def _passes_multiple(visits: range, interval: int) -> bool:
    return visits.stop // interval > visits.start // interval
