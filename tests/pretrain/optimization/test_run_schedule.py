"""Two schedules are the same up to a step if a run of either has the same rates there."""

import json
import math
from dataclasses import replace

import pytest

from pretrain.flags import parse_flags
from pretrain.optimization.lr_curves import CurveShape, lr_multiplier
from pretrain.optimization.run_schedule import (
    NEVER_BEGUN,
    RunSchedule,
    changes_in_words,
    disagreement,
    warmup_kept,
)
from pretrain.settings import TrainingSettings


def schedule(length, curve="constant", unit="step", warmup=0.0, **shape):
    return RunSchedule(unit, length, curve, CurveShape(warmup=warmup, **shape), peak=1e-3)


def agreed_steps(done, wanted):
    """The steps of a run that a longer one would have done too, tried one by one."""
    return max(n for n in range(int(done.length) + 1) if not disagreement(done, wanted, n - 1))


@pytest.mark.parametrize(
    ("done", "wanted", "steps"),
    [
        (schedule(20), schedule(40), 20),
        (schedule(20, "wsd"), schedule(40, "wsd"), 16),
        (schedule(20, "wsd_linear", decay_proportion=0.5), schedule(40, "wsd_linear"), 11),
        (schedule(20, "wsd", warmup=0.1), schedule(40, "wsd", warmup=0.05), 16),
        (schedule(20, "constant"), schedule(24, "wsd", decay_proportion=1 / 6), 20),
        # The warmup is a share of the run: its first step begins at 0 in any case.
        (schedule(20, warmup=0.1), schedule(40, warmup=0.1), 1),
        (schedule(20, "linear"), schedule(40, "linear"), 1),
        (schedule(20, "cosine"), schedule(40, "cosine"), 1),
        # At its peak up to 7/8 of the run.
        (schedule(24, "elastic_step_decay"), schedule(40, "elastic_step_decay"), 22),
    ],
)
def test_steps_that_a_longer_run_shares(done, wanted, steps):
    assert agreed_steps(done, wanted) == steps
    for step in range(steps):
        ours, theirs = (
            lr_multiplier(run.curve, step / run.length, run.shape) for run in (done, wanted)
        )
        assert ours == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize("unit", ["time", "tokens"])
def test_steps_of_any_length(unit):
    """Steps of time and tokens begin anywhere, and may end after the run's end."""
    done, wanted = (schedule(length, "wsd", unit) for length in (10.0, 20.0))
    assert not disagreement(done, wanted, 7.99)
    assert disagreement(done, wanted, 8.01)
    assert not disagreement(done, done, 9.99)
    assert not disagreement(schedule(10.0, unit=unit), schedule(20.0, unit=unit), 9.99)


def test_long_runs_are_compared_at_spread_steps_and_the_last_one():
    done, wanted = schedule(10**7, "wsd"), schedule(2 * 10**7, "wsd")
    assert not disagreement(done, wanted, 8 * 10**6 - 1)
    assert "in step 8000003 the" in disagreement(done, wanted, 8 * 10**6 + 2)
    assert disagreement(schedule(10**7, warmup=0.1), schedule(2 * 10**7, warmup=0.1), 10**6)


def test_the_difference_that_is_told_is_the_largest():
    told = disagreement(schedule(20, "linear"), schedule(40, "linear"), 19)
    assert told == (
        "in step 20 the learning rate was 5e-05, in a run of 40 steps it would have been 0.000525"
    )
    told = disagreement(schedule(100, warmup=0.5), schedule(200, warmup=0.5), 99)
    assert told.startswith("in step 51 the learning rate was 0.001, in a run of 200 steps")
    told = disagreement(schedule(2.0, "linear", "time"), schedule(4.0, "linear", "time"), 1.5)
    assert told.startswith("after 1.5 h the learning rate was 0.00025")


def test_other_units_and_shorter_runs():
    assert disagreement(schedule(20), schedule(20, unit="tokens"), 3) == (
        "its length was 20 steps, and is 20 tokens now"
    )
    assert not disagreement(schedule(20), schedule(15), 14)
    assert disagreement(schedule(20), schedule(15), 15) == "it has trained for longer than 15 steps"


def test_a_masking_rate_that_changes_over_the_run_depends_on_its_length():
    done, wanted = (replace(schedule(n), masked_lm_prob_end=0.15) for n in (20, 40))
    for other in (wanted, schedule(40), schedule(20)):
        assert "share of masked tokens" in disagreement(done, other, 3)
        assert "share of masked tokens" in disagreement(other, done, 3)
    # Another curve of the same length leaves it alone.
    decaying = replace(done, curve="wsd")
    assert not disagreement(done, decaying, 15) and "rate" in disagreement(done, decaying, 19)


def test_nothing_done_yet_suits_any_run():
    assert not disagreement(schedule(0), schedule(40, "linear", warmup=0.1), NEVER_BEGUN)


def test_the_peak_is_no_part_of_the_comparison():
    other = replace(schedule(40), peak=1.0)
    assert not disagreement(schedule(20), other, 19)
    (line,) = changes_in_words(schedule(40).record(), other)
    assert "--lr was 0.001 up to there, and is 1 now" in line


def test_a_kept_warmup_agrees_for_any_lengths():
    for length in range(21, 400, 7):
        done = schedule(230, warmup=0.06)
        share = warmup_kept(done, length)
        assert math.isclose(share * length, 0.06 * 230)
        if share < 1:
            assert not disagreement(done, schedule(length, warmup=share), min(length, 230) - 1)
    assert warmup_kept(schedule(23000, warmup=0.06), 46000) == 0.03  # in short


def test_a_record_is_the_schedule():
    flags = ["--dataset_path=d", "--output_dir=o", "--curve=wsd", "--max_steps=7", "--lr=0.5"]
    ours = RunSchedule.of(TrainingSettings.from_args(parse_flags(flags)))
    assert RunSchedule.from_record(json.loads(json.dumps(ours.record()))) == ours
    assert (ours.unit, ours.length, ours.curve, ours.peak) == ("step", 7, "wsd", 0.5)
    assert list(changes_in_words(ours.record(), ours)) == []
    assert len(list(changes_in_words(None, ours))) == 1
