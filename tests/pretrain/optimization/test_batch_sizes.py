"""Batch sizes that grow."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.optimization.batch_sizes import BatchSizes


def test_a_ramp():
    sizes = BatchSizes(32, start=8, ramp_steps=6)
    assert [sizes.size(step) for step in range(8)] == [8, 8, 16, 16, 24, 24, 32, 32]
    assert sizes.samples_before(8) == 160


def test_without_a_ramp():
    sizes = BatchSizes(32)
    assert [sizes.size(step) for step in range(3)] == [32, 32, 32]
    assert sizes.samples_before(5) == 160 and sizes.first_step_at(33) == 2


@settings(max_examples=100, deadline=None)
@given(start=st.integers(1, 8), times=st.integers(1, 9), steps=st.integers(1, 40))
def test_samples_are_the_sum_of_the_sizes(start, times, steps):
    sizes = BatchSizes(start * times, start, steps)
    total = 0
    for step in range(steps + 3):
        assert sizes.samples_before(step) == total and sizes.size(step) % start == 0
        assert sizes.first_step_at(total) == step
        total += sizes.size(step)
    assert sizes.size(0) <= sizes.size(steps) == start * times
