"""Curves against equation (1) and numbers worked out by hand."""

import math

import pytest

from pretrain.lr_curves import CURVES, CurveShape, LearningRateSchedule, lr_multiplier

PAPER = CurveShape()
ROOT_HALF = 2**-0.5

# r = 2^-1/2, l = 6: 1 - r^i for i = 6 .. 12 and 1/(2r) = 2^-1/2 per interval.
BORDERS = [
    (6, 0.875, 1.0),
    (7, 0.9116116523516816, 0.7071067811865476),
    (8, 0.9375, 0.5),
    (9, 0.9558058261758408, 0.3535533905932738),
    (10, 0.96875, 0.25),
    (11, 0.9779029130879204, 0.1767766952966369),
    (12, 0.984375, 0.125),
]


@pytest.mark.parametrize(("i", "border", "factor"), BORDERS)
def test_each_interval_of_elastic_step_decay_is_closed_on_the_right(i, border, factor):
    assert border == pytest.approx(1 - ROOT_HALF**i, abs=1e-15)
    assert lr_multiplier("elastic_step_decay", border, PAPER) == pytest.approx(factor)
    after = lr_multiplier("elastic_step_decay", border + 1e-6, PAPER)
    assert after == pytest.approx(factor * ROOT_HALF)


def test_borders_hold_at_the_steps_of_the_papers_runs():
    for num_steps in (23000, 57500):
        for i, _, factor in BORDERS:
            last = math.floor((1 - ROOT_HALF**i) * num_steps + 1e-9)
            steps = (last, last + 1)
            at = [lr_multiplier("elastic_step_decay", t / num_steps, PAPER) for t in steps]
            assert at == pytest.approx([factor, factor * ROOT_HALF])


def test_other_r_and_l():
    shape = CurveShape(warmup=0.0, r=0.8, l=2)  # 1 - 0.64 = 0.36, then times 1/1.6
    values = [lr_multiplier("elastic_step_decay", t, shape) for t in (0.36, 0.37, 0.488, 0.49)]
    assert values == pytest.approx([1.0, 0.625, 0.625, 0.390625])


def test_warmup_is_linear_and_part_of_the_run():
    for curve in CURVES:
        values = [lr_multiplier(curve, t, PAPER) for t in (0.0, 0.03, 0.06)]
        assert values == pytest.approx([0.0, 0.5, 1.0])


def test_linear_cosine_and_constant():
    half = 0.06 + 0.94 / 2
    assert lr_multiplier("linear", half, PAPER) == pytest.approx(0.5)
    assert lr_multiplier("cosine", half, PAPER) == pytest.approx(0.5)
    assert lr_multiplier("cosine", 0.06 + 0.94 / 3, PAPER) == pytest.approx(0.75)
    assert lr_multiplier("constant", 0.99, PAPER) == 1.0


@pytest.mark.parametrize("curve", ["elastic_step_decay", "linear", "cosine"])
def test_the_floor_is_reached_at_the_end_and_kept(curve):
    assert lr_multiplier(curve, 1.0, PAPER) == pytest.approx(0.0, abs=1e-12)
    assert lr_multiplier(curve, 1.5, PAPER) == pytest.approx(0.0, abs=1e-12)


def test_curves_never_rise_after_the_warmup():
    for curve in CURVES:
        values = [lr_multiplier(curve, t / 1000, PAPER) for t in range(60, 1001)]
        assert values == sorted(values, reverse=True)


def test_schedule_sets_every_parameter_group():
    import torch

    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(2)]
    optimizer = torch.optim.SGD(groups, lr=9.0)
    schedule = LearningRateSchedule(optimizer, 2e-3, "elastic_step_decay", PAPER)
    assert schedule.set_progress(0.9375) == pytest.approx(1e-3)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-3] * 2)
