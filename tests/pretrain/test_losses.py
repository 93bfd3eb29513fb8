"""Losses that are not numbers, and losses that rise for good."""

import pytest
import torch

from pretrain.losses import LossWindow


def _feed(window, losses, step=0):
    for loss in losses:
        window.add(torch.tensor(loss))
    window.collect(step + len(losses))


def test_the_mean_of_a_window():
    window = LossWindow()
    _feed(window, [3.0, 1.0])
    _feed(window, [2.0], step=2)
    assert window.mean() == 2.0 and window.newest == 2.0
    assert window.losses == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_first_bad_step_is_named(bad):
    with pytest.raises(FloatingPointError, match=r"the loss is \w+ at step 12"):
        _feed(LossWindow(), [1.0, bad, bad], step=10)


def test_a_loss_that_rises_for_good_diverges():
    window = LossWindow(divergence_limit=2.0)
    _feed(window, [5.0] * 100)
    with pytest.raises(FloatingPointError, match=r"diverges: its average is 7\.\d+ at step"):
        _feed(window, [9.0] * 100, step=100)


def test_a_spike_does_not_diverge_and_neither_does_a_high_start():
    window = LossWindow(divergence_limit=2.0)
    _feed(window, [11.0, 10.0, *[5.0] * 100, 15.0, 12.0, 9.0, *[5.0] * 50])
    _feed(LossWindow(divergence_limit=0.0), [1.0] * 100 + [50.0] * 100)  # switched off


def test_the_state_is_a_copy_of_its_moment():
    window = LossWindow()
    _feed(window, [1.0])
    state = window.state()
    _feed(window, [2.0], step=1)
    assert state["losses"] == [1.0]


def test_a_loss_that_rises_is_not_sound_long_before_it_diverges():
    window = LossWindow(divergence_limit=2.0)
    assert window.is_sound
    _feed(window, [5.0] * 100)
    assert window.is_sound
    _feed(window, [7.0] * 20, step=100)
    assert not window.is_sound


def test_a_restart_remembers_the_lowest():
    window, restarted = LossWindow(2.0), LossWindow(2.0)
    _feed(window, [5.0] * 100)
    restarted.restore(window.state())
    with pytest.raises(FloatingPointError):
        _feed(restarted, [9.0] * 100, step=100)
