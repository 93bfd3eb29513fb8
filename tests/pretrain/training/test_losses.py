"""Losses that are not numbers, losses that rise for good, and steps that are skipped."""

import pytest
import torch

from pretrain.engine.engine import Update
from pretrain.training.losses import LossWindow

NAN, INF = float("nan"), float("inf")


def _feed(window, losses, step=0, skipped=(), scale=1024.0):
    """skipped: places in `losses` of the steps that were."""
    for place, loss in enumerate(losses):
        window.add(torch.tensor(loss), Update(place in skipped, scale))
    window.collect(step + len(losses))


def test_the_mean_of_a_window():
    window = LossWindow()
    _feed(window, [3.0, 1.0])
    _feed(window, [2.0], step=2)
    assert window.mean() == 2.0 and window.newest == 2.0
    assert window.losses == []


@pytest.mark.parametrize("bad", [NAN, INF])
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
    restarted.restore(window.state(), stuck_steps=0)
    with pytest.raises(FloatingPointError):
        _feed(restarted, [9.0] * 100, step=100)


# --- steps that were skipped ------------------------------------------------------------------


def test_a_skipped_step_may_have_any_loss_in_fp16():
    window = LossWindow(divergence_limit=1.0, scales_loss=True)
    _feed(window, [4.0, NAN, INF, 2.0, -INF], skipped=(1, 2, 3, 4))
    assert window.losses == [4.0, 2.0] and window.newest == 2.0 and window.num_skipped == 4
    assert window.mean() == 3.0 and window.num_skipped == 0
    with pytest.raises(FloatingPointError, match="the loss is nan at step 7"):
        _feed(window, [NAN, NAN], step=5, skipped=(0,))


def test_without_a_loss_scale_no_skipping_excuses_a_loss():
    """In bf16, DeepSpeed skips what has no finite gradient; there is no scale to come down."""
    with pytest.raises(FloatingPointError, match="the loss is nan at step 1"):
        _feed(LossWindow(), [NAN], skipped=(0,))


def test_the_numbers_of_torchs_scaler_stay_on_the_device_until_then():
    window = LossWindow(scales_loss=True)
    for loss, skipped, scale in ((NAN, True, 512.0), (3.0, False, 512.0)):
        window.add(torch.tensor(loss), Update(torch.tensor(skipped), torch.tensor(scale)))
    window.collect(2)
    assert window.losses == [3.0] and window.num_skipped == 1


@pytest.mark.parametrize(
    ("scales_loss", "scale", "skipped", "said"),
    [
        (True, 1.0, (), "the fp16 loss scale was 1 or less for 3 steps, up to step 5"),
        (True, 2.0**-3, range(5), "the fp16 loss scale was 1 or less for 3 steps, up to step 3"),
        (False, 1.0, range(5), "the gradient was not finite for 3 steps, up to step 3"),
    ],
)
def test_too_many_stuck_steps_in_a_row(scales_loss, scale, skipped, said):
    window = LossWindow(stuck_limit=3, scales_loss=scales_loss)
    if not skipped:  # two stuck steps, and one that is not
        _feed(window, [5.0, 5.0], step=-1, scale=1.0)
        _feed(window, [5.0], step=1)
    with pytest.raises(FloatingPointError, match=said):
        _feed(window, [5.0] * 5, step=0 if skipped else 2, skipped=skipped, scale=scale)


def test_only_a_finite_loss_measures_the_weights():
    """A checkpoint is good if a step after it had a finite loss."""
    window = LossWindow(scales_loss=True)
    _feed(window, [4.0, NAN, NAN], step=6, skipped=(1, 2))
    assert window.measured_step == 7
    _feed(window, [4.0], step=9)
    assert window.measured_step == 10


def test_a_restart_remembers_what_was_stuck_and_skipped():
    window, restarted = LossWindow(stuck_limit=3, scales_loss=True), LossWindow(stuck_limit=3)
    _feed(window, [5.0, 5.0], skipped=(0,), scale=1.0)
    assert window.stuck_steps == 2
    restarted.restore(window.state(), window.stuck_steps)
    assert restarted.num_skipped == 1 and restarted.stuck_steps == 2
    old = {name: value for name, value in window.state().items() if name != "num_skipped"}
    restarted.restore(old, 0)
    assert restarted.num_skipped == 0
