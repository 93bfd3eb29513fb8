"""The masking rate of a run: its line, its length in samples, and datasets that cannot have it."""

import numpy as np
import pytest

from dataset.samples.hdf5_files import SampleWriter, write_masking
from dataset.samples.masking import Masking
from pretrain.flags import parse_flags
from pretrain.optimization.masking_rate import MaskingRate, rate_of_run
from pretrain.settings import TrainingSettings
from tests.pretrain.shards import write_dataset

LENGTHS = (10, 16, 4, 6)  # tokens of the rows, of 16


@pytest.fixture
def shards(tmp_path):
    """Two shards of unmasked rows of 16 tokens, and room for 5 predictions."""
    paths = []
    for number in range(2):
        mask = (np.arange(16) < np.array(LENGTHS)[:, None]).astype(np.uint8)
        ids = np.where(mask, 7, 0).astype(np.uint16)
        paths.append(tmp_path / f"train_{number:05d}.hdf5")
        with SampleWriter(paths[-1], "abc") as writer:
            writer.write({"input_ids": ids, "input_mask": mask, "segment_ids": 0 * mask})
            writer.finish({})
    write_masking(tmp_path, Masking(4, 61, [0, 1, 2, 3, 4], [], 0.25, 5, 0.8, 0.1))
    return paths


def settings(*flags):
    return TrainingSettings.from_args(parse_flags(["--dataset_path=d", "--output_dir=o", *flags]))


def test_a_line_from_the_start_to_the_end():
    falling = MaskingRate(0.3, 0.15, 1000)
    rates = falling.at(np.arange(0, 1001, 250), 0.9)  # the progress is not looked at
    assert rates == pytest.approx([0.3, 0.2625, 0.225, 0.1875, 0.15])
    assert falling.at(5000, 0.0) == pytest.approx(0.15)  # longer than it was thought to be
    assert [falling.at(n, 0.0) for n in range(0, 1001, 250)] == rates.tolist()
    assert falling.numbers(500, 0.0) == {"masked_lm_prob": 0.225}
    assert falling.largest == MaskingRate(0.15, 0.3, 7).largest == 0.3


def test_in_hours_it_follows_the_progress():
    rising = MaskingRate(0.1, 0.3)
    assert [rising.at(10**6, progress) for progress in (0.0, 0.5, 1.0, 1.2)] == pytest.approx(
        [0.1, 0.2, 0.3, 0.3]
    )


def test_the_samples_of_a_run(shards):
    end = "--masked_lm_prob_end=0.125"
    assert rate_of_run(settings(), shards) is None
    steps = settings(end, "--max_steps=10", "--train_batch_size=8")
    assert rate_of_run(steps, shards) == MaskingRate(0.25, 0.125, 80)
    ramp = ("--batch_size_ramp_start=4", "--batch_size_ramp_steps=5")
    ramped = settings(end, "--max_steps=10", "--train_batch_size=8", *ramp)
    assert rate_of_run(ramped, shards) == MaskingRate(0.25, 0.125, 60)
    tokens = settings(end, "--lr_schedule=tokens", "--max_tokens=900")
    assert rate_of_run(tokens, shards) == MaskingRate(0.25, 0.125, 100)  # of 9 tokens
    hours = settings(end, "--lr_schedule=time")
    assert rate_of_run(hours, shards) == MaskingRate(0.25, 0.125, 0)


def test_no_room_for_the_larger_rate(shards):
    assert rate_of_run(settings("--masked_lm_prob_end=0.36"), shards)  # round(0.36 * 14) = 5
    said = r"--masked_lm_prob_end: .* room for 5 .* got 0\.4 after .* 0\.25, expected .* 6 for 0\.4"
    with pytest.raises(ValueError, match=said):
        rate_of_run(settings("--masked_lm_prob_end=0.4"), shards)


def test_samples_that_are_stored_with_their_masks(tmp_path):
    shards = sorted(write_dataset(tmp_path).glob("train_*"))
    with pytest.raises(ValueError, match=r"_prob_end: .* stored with their masks, got 0\.1"):
        rate_of_run(settings("--masked_lm_prob_end=0.1"), shards)
    assert rate_of_run(settings(), shards) is None
