"""Curves against equation (1), numbers worked out by hand, and torch's own schedulers."""

import math
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from configs.defaults import CURVES as CURVE_NAMES
from pretrain.optimization.lr_curves import (
    CURVES,
    CurveShape,
    LearningRateSchedule,
    curve_shape,
    lr_multiplier,
)

PAPER = CurveShape()
ROOT_HALF = 2**-0.5
ABOVE_0 = replace(PAPER, end_ratio=0.1)  # for the curves that cannot end at 0
NO_WARMUP = replace(ABOVE_0, warmup=0.0)

# r = 2^-1/2, l = 6: the border 1 - 2^(-i/2) at which interval i ends, and the factor 2^((6-i)/2)
# in it. Up to i = 6 the factor is 1.
BORDERS = [
    (1, 0.2928932188134524, 1.0),
    (2, 0.5, 1.0),
    (3, 0.6464466094067263, 1.0),
    (4, 0.75, 1.0),
    (5, 0.8232233047033631, 1.0),
    (6, 0.875, 1.0),
    (7, 0.9116116523516815, 0.7071067811865476),
    (8, 0.9375, 0.5),
    (9, 0.9558058261758408, 0.3535533905932738),
    (10, 0.96875, 0.25),
    (11, 0.9779029130879204, 0.1767766952966369),
    (12, 0.984375, 0.125),
    (13, 0.9889514565439602, 0.08838834764831845),
    (14, 0.9921875, 0.0625),
    (15, 0.99447572827198, 0.04419417382415922),
    (16, 0.99609375, 0.03125),
    (17, 0.99723786413599, 0.02209708691207961),
    (18, 0.998046875, 0.015625),
]


# --- elastic step decay ----------------------------------------------------------------------


@pytest.mark.parametrize(("i", "border", "factor"), BORDERS)
def test_each_interval_of_elastic_step_decay_is_closed_on_the_right(i, border, factor):
    assert border == pytest.approx(1 - ROOT_HALF**i, abs=1e-15)
    for progress in (border - 1e-6, border):
        assert lr_multiplier("elastic_step_decay", progress, PAPER) == pytest.approx(factor)
    after = lr_multiplier("elastic_step_decay", border + 1e-6, PAPER)
    assert after == pytest.approx(factor * ROOT_HALF if i >= 6 else 1.0)


def test_borders_hold_at_the_steps_of_the_papers_runs():
    for num_steps in (23000, 57500):
        for i, _, factor in BORDERS[5:]:
            last = math.floor((1 - ROOT_HALF**i) * num_steps + 1e-9)
            steps = (last, last + 1)
            at = [lr_multiplier("elastic_step_decay", t / num_steps, PAPER) for t in steps]
            assert at == pytest.approx([factor, factor * ROOT_HALF])


# (border, factor up to it, factor after it), by hand.
OTHERS = [
    # 1 - 0.8^2 = 0.36, then times 1 / 1.6 = 0.625 at 1 - 0.8^3, 1 - 0.8^4, ...
    (0.8, 2, [(0.36, 1, 0.625), (0.488, 0.625, 0.390625), (0.5904, 0.390625, 0.244140625)]),
    # 1 - 0.9^1 = 0.1, then times 1 / 1.8 = 5/9.
    (0.9, 1, [(0.1, 1, 5 / 9), (0.19, 5 / 9, 25 / 81), (0.271, 25 / 81, 125 / 729)]),
    # 1 - 0.6^3 = 0.784, then times 1 / 1.2 = 5/6.
    (0.6, 3, [(0.784, 1, 5 / 6), (0.8704, 5 / 6, 25 / 36), (0.92224, 25 / 36, 125 / 216)]),
    # 1 / (2r) = 1: never anything but the peak.
    (0.5, 2, [(0.75, 1, 1), (0.875, 1, 1), (0.9375, 1, 1)]),
]


@pytest.mark.parametrize(("r", "l", "borders"), OTHERS)
def test_other_r_and_l(r, l, borders):  # noqa: E741
    shape = CurveShape(warmup=0.0, r=r, l=l)
    for border, factor, next_factor in borders:
        values = [
            lr_multiplier("elastic_step_decay", t, shape)
            for t in (border - 1e-6, border, border + 1e-6)
        ]
        assert values == pytest.approx([factor, factor, next_factor])


def test_elastic_step_decay_counts_from_the_start_of_the_run():
    for warmup in (0.0, 0.06, 0.5):
        shape = replace(PAPER, warmup=warmup)
        assert lr_multiplier("elastic_step_decay", 0.93, shape) == pytest.approx(0.5)


# --- the other curves ------------------------------------------------------------------------


def _torchs(build, num_steps):
    """Multipliers that a scheduler of torch sets in steps 0 .. num_steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = build(optimizer)
    values = []
    for _ in range(num_steps + 1):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


@pytest.mark.parametrize(
    ("curve", "shape", "build"),
    [
        ("linear", NO_WARMUP, lambda o: lr_scheduler.LinearLR(o, 1.0, 0.1, total_iters=40)),
        ("cosine", NO_WARMUP, lambda o: lr_scheduler.CosineAnnealingLR(o, 40, eta_min=0.1)),
        ("exponential", NO_WARMUP, lambda o: lr_scheduler.ExponentialLR(o, 0.1 ** (1 / 40))),
        (
            "polynomial",
            replace(NO_WARMUP, end_ratio=0.0, power=2.5),
            lambda o: lr_scheduler.PolynomialLR(o, total_iters=40, power=2.5),
        ),
        ("constant", NO_WARMUP, lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
        (
            "inverse_time",
            NO_WARMUP,
            lambda o: lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + 9 * t / 40)),
        ),
    ],
)
def test_curves_equal_torchs_schedulers(curve, shape, build):
    ours = [lr_multiplier(curve, t / 40, shape) for t in range(41)]
    assert ours == pytest.approx(_torchs(build, 40), abs=1e-12)


def test_step_decay_equals_torchs():
    shape = replace(NO_WARMUP, num_decay_steps=5, end_ratio=0.0016)  # 0.2 from each to the next
    ours = [lr_multiplier("step_decay", t / 40, shape) for t in range(40)]
    theirs = _torchs(lambda o: lr_scheduler.StepLR(o, step_size=8, gamma=0.2), 39)
    assert ours == pytest.approx(theirs)
    assert ours[7:9] == pytest.approx([1.0, 0.2])
    assert lr_multiplier("step_decay", 1.0, shape) == pytest.approx(0.0016)


def test_step_decays_borders_hold_where_rounding_would_move_them():
    shape = CurveShape(warmup=0.1, end_ratio=0.0016, num_decay_steps=5)  # 18 of 100 steps each
    for step, factor in ((28, 0.2), (46, 0.04), (64, 0.008), (82, 0.0016)):
        at = [lr_multiplier("step_decay", t / 100, shape) for t in (step - 1, step)]
        assert at == pytest.approx([5 * factor, factor])


def test_warmup_and_linear_decay_equal_torchs_one_after_the_other():
    def build(optimizer):
        parts = [
            lr_scheduler.LinearLR(optimizer, 1e-12, 1.0, total_iters=10),
            lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=30),
        ]
        return lr_scheduler.SequentialLR(optimizer, parts, milestones=[10])

    shape = replace(ABOVE_0, warmup=0.25)
    ours = [lr_multiplier("linear", t / 40, shape) for t in range(41)]
    assert ours == pytest.approx(_torchs(build, 40), abs=1e-9)


# progress -> multiplier for a warmup of 0.2, an end ratio of 0.25, and wsd's last 0.4 of the run.
BY_HAND = {
    "linear": {0.4: 0.8125, 0.6: 0.625, 1.0: 0.25},
    "cosine": {0.4: 0.25 + 0.375 * (1 + ROOT_HALF), 0.6: 0.625, 1.0: 0.25},
    "exponential": {0.4: ROOT_HALF, 0.6: 0.5, 0.8: 0.5 * ROOT_HALF, 1.0: 0.25},
    "step_decay": {0.45: 1.0, 0.47: 0.5, 0.73: 0.5, 0.74: 0.25, 1.0: 0.25},  # of three intervals
    "inverse_time": {0.4: 1 / 1.75, 0.6: 0.4, 1.0: 0.25},  # 1 / (1 + 3x)
    "polynomial": {0.4: 0.25 + 0.75 * 0.5625, 0.6: 0.4375, 1.0: 0.25},  # of power 2
    "constant": {0.4: 1.0, 1.0: 1.0},
    "wsd": {0.4: 1.0, 0.6: 1.0, 0.7: 0.625, 0.8: 1 - 0.75 * ROOT_HALF, 1.0: 0.25},
    "wsd_linear": {0.4: 1.0, 0.6: 1.0, 0.7: 0.8125, 0.8: 0.625, 1.0: 0.25},
}


@pytest.mark.parametrize("curve", BY_HAND)
def test_numbers_worked_out_by_hand(curve):
    shape = CurveShape(
        warmup=0.2, end_ratio=0.25, power=2.0, num_decay_steps=3, decay_proportion=0.4
    )
    expected = BY_HAND[curve]
    assert {t: lr_multiplier(curve, t, shape) for t in expected} == pytest.approx(expected)


def test_a_wsd_without_decay_is_constant():
    for curve in ("wsd", "wsd_linear"):
        assert lr_multiplier(curve, 1.0, replace(PAPER, decay_proportion=0.0)) == 1.0


# --- all curves ------------------------------------------------------------------------------

# What configs.defaults accepts, with a plateau of elastic step decay that outlasts the warmup
# and no end ratio that the curves above 0 cannot have.
SHAPES = st.builds(
    CurveShape,
    warmup=st.just(0.0) | st.floats(1e-4, 0.3),
    r=st.floats(0.5, 0.95),
    l=st.integers(8, 12),
    end_ratio=st.floats(1e-6, 1.0),
    power=st.floats(0.1, 5.0),
    num_decay_steps=st.integers(2, 50),
    decay_proportion=st.floats(0.0, 0.7),
)
CURVE = st.sampled_from(sorted(CURVES))


@settings(deadline=None)
@given(CURVE, SHAPES, st.floats(0.0, 1.0))
def test_every_curve_stays_between_0_and_1(curve, shape, progress):
    assert 0.0 <= lr_multiplier(curve, progress, shape) <= 1.0


@settings(deadline=None)
@given(CURVE, SHAPES, st.floats(0.0, 1.0))
def test_every_warmup_is_linear_and_ends_at_1(curve, shape, share):
    value = lr_multiplier(curve, share * shape.warmup, shape)
    assert value == pytest.approx(share if shape.warmup else 1.0, abs=1e-6)
    assert lr_multiplier(curve, shape.warmup, shape) == pytest.approx(1.0, abs=1e-6)


@settings(deadline=None)
@given(CURVE, SHAPES)
def test_every_curve_reaches_its_end_and_keeps_it(curve, shape):
    end = {"elastic_step_decay": 0.0, "constant": 1.0}.get(curve, shape.end_ratio)
    if curve.startswith("wsd") and shape.decay_proportion == 0:
        end = 1.0
    for progress in (1.0, 1.5):
        assert lr_multiplier(curve, progress, shape) == pytest.approx(end, abs=1e-12)


@settings(deadline=None)
@given(CURVE, SHAPES, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_no_curve_rises_after_the_warmup(curve, shape, one, other):
    earlier, later = (shape.warmup + (1 - shape.warmup) * t for t in sorted((one, other)))
    values = [lr_multiplier(curve, t, shape) for t in (earlier, later)]
    assert values[1] <= values[0] + 1e-12


@pytest.mark.parametrize("curve", ["linear", "cosine", "polynomial", "wsd", "wsd_linear"])
def test_an_end_ratio_of_0_is_reached(curve):
    assert lr_multiplier(curve, 1.0, PAPER) == pytest.approx(0.0, abs=1e-12)
    assert lr_multiplier(curve, 0.99, PAPER) > 0


def test_an_unknown_curve_is_an_error():
    with pytest.raises(KeyError, match="liner"):
        lr_multiplier("liner", 0.5, PAPER)


def test_the_config_offers_every_curve():
    assert tuple(CURVES) == CURVE_NAMES


# --- adapters --------------------------------------------------------------------------------


def test_the_shape_is_made_of_the_flags():
    args = Namespace(
        warmup_proportion=0.1,
        esd_r=0.8,
        esd_l=3,
        lr_end_ratio=0.2,
        lr_power=2.0,
        lr_decay_steps=7,
        lr_decay_proportion=0.3,
        curve_begin=0.1,
        curve_end=0.9,
    )
    assert curve_shape(args) == CurveShape(0.1, 0.8, 3, 0.2, 2.0, 7, 0.3, 0.1, 0.9)


@pytest.mark.parametrize("curve", CURVES)
def test_runs_share_a_curve(curve):
    """Each covers its part of it, and the last one ends as a single run does."""
    whole = CurveShape(warmup=0.1, end_ratio=0.1)
    begin, end = 0.25, 0.875  # exact in binary
    first, last = replace(whole, end=begin), replace(whole, begin=end)
    middle = replace(whole, begin=begin, end=end)
    for progress in (0.0, 0.125, 0.5, 1.0):
        at = begin + progress * (end - begin)
        assert lr_multiplier(curve, progress, middle) == lr_multiplier(curve, at, whole)
        assert lr_multiplier(curve, progress, first) == lr_multiplier(curve, progress / 4, whole)
    assert lr_multiplier(curve, 2.0, last) == lr_multiplier(curve, 1.0, whole)


def _groups(*settings):
    return [{"params": [torch.nn.Parameter(torch.zeros(1))], **more} for more in settings]


def test_schedule_sets_every_parameter_group():
    optimizer = torch.optim.SGD(_groups({}, {}), lr=9.0)
    schedule = LearningRateSchedule(optimizer, 2e-3, "elastic_step_decay", PAPER)
    assert schedule.set_progress(0.9375) == pytest.approx(1e-3)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-3] * 2)


def test_groups_may_have_a_peak_of_their_own():
    optimizer = torch.optim.SGD(_groups({}, {"peak_lr": 0.02}), lr=9.0)
    schedule = LearningRateSchedule(optimizer, 2e-3, "elastic_step_decay", PAPER)
    for progress, multiplier in ((0.0, 0.0), (0.03, 0.5), (0.5, 1.0), (0.9375, 0.5)):
        assert schedule.set_progress(progress) == pytest.approx(2e-3 * multiplier)
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([2e-3 * multiplier, 0.02 * multiplier])


def test_curves_need_no_torch():
    """The planner imports them, and --help."""
    code = (
        "import sys, pretrain.optimization.lr_curves; "
        "sys.exit(bool({'torch', 'matplotlib'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
