"""When validations are due."""

from pretrain.flags import parse_flags
from pretrain.optimization.lr_curves import CURVES, CurveShape
from pretrain.optimization.run_schedule import NEVER_BEGUN, RunSchedule
from pretrain.settings import TrainingSettings
from pretrain.training.due import is_stable_due, is_validation_due


def _settings(*flags):
    return TrainingSettings.from_args(parse_flags(["--dataset_path=d", "--output_dir=o", *flags]))


def _due(settings, num_steps):
    """Steps after which to validate, in a run in which each step is a visit of a shard."""
    return [
        step
        for step in range(1, num_steps + 1)
        if is_validation_due(settings, step, step / num_steps, range(step - 1, step))
    ]


def test_validations_of_the_manual_come_every_few_shards():
    settings = _settings(
        *("--max_steps=100", "--validation_epochs=20", "--validation_epochs_begin=2"),
        *("--validation_epochs_end=1", "--validation_begin_proportion=0.07"),
        "--validation_end_proportion=0.03",
    )
    assert settings.validation_steps == 0  # as the epochs are given, and the steps are not
    assert _due(settings, 100) == [2, 4, 6, 20, 40, 60, 80, 98, 99, 100]


def test_a_step_may_pass_several_shards():
    settings = _settings(
        "--max_steps=10", "--validation_epochs=5", "--validation_begin_proportion=0"
    )
    assert is_validation_due(settings, 3, 0.5, range(3, 7))
    assert not is_validation_due(settings, 3, 0.5, range(5, 9))


def test_validation_by_steps_and_none_at_all():
    assert _due(_settings("--max_steps=10", "--validation_steps=4"), 10) == [4, 8]
    assert _due(_settings("--max_steps=10", "--no-do_validation", "--validation_steps=4"), 10) == []


def test_a_stable_checkpoint_is_due_once_before_the_decay():
    def steps_due(curve, decay, warmup=0.1):
        shape = CurveShape(warmup=warmup, decay_proportion=decay, end_ratio=0.1)
        schedule = RunSchedule("step", 20, curve, shape, peak=1e-3)
        begins = [NEVER_BEGUN, *range(20)]
        return [step for step in range(20) if is_stable_due(schedule, begins[step], step)]

    for curve in CURVES:
        assert steps_due(curve, 0.2) == ([16] if curve.startswith("wsd") else [])
    assert steps_due("wsd", 0.9) == [3] and steps_due("wsd", 1.0, warmup=0.0) == [1]
    assert steps_due("wsd", 0.0) == []
