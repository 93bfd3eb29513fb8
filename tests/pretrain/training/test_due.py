"""When validations are due."""

from pretrain.flags import parse_flags
from pretrain.settings import TrainingSettings
from pretrain.training.due import is_validation_due


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
