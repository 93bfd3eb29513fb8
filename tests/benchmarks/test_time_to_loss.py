"""When a loss was reached: between two measurements, for good, or not at all."""

import math

import pytest

from benchmarks.time_to_loss import time_of


def test_a_goal_is_reached_on_the_line_between_two_points():
    points = [(0, 9.0), (60, 7.0), (120, 6.0)]
    assert time_of(7.0, points) == pytest.approx(60)
    assert time_of(6.5, points) == pytest.approx(90)
    assert time_of(9.5, points) == 0


def test_only_the_last_time_counts():
    assert time_of(6.5, [(0, 9.0), (60, 6.0), (120, 7.0), (180, 6.0)]) == pytest.approx(150)


def test_a_goal_that_was_missed():
    assert math.isinf(time_of(5.0, [(0, 9.0), (60, 6.0)]))
