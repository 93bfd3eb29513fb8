"""Lines that the ranks print for the stage that has started them."""

from pretrain.training.metrics_file import ProgressLines, parse_progress


def test_progress_is_read_back_and_nothing_else(capsys):
    numbers = {"done": 1.5, "total": 2.0, "loss": None}
    ProgressLines().show(True, **numbers)
    line = capsys.readouterr().out.rstrip("\n")
    assert parse_progress(line) == parse_progress(f"server: {line}") == numbers
    assert parse_progress("step 1: loss 3.2") is None
    assert parse_progress(line[:-2]) is None
    assert parse_progress(f"{line}[WARNING] of another rank") is None
