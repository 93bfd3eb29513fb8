"""The micro batch that a run takes: what was asked for, what a trial finds, what is remembered."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pretrain.engine.memory_limits import FILE, lower_limit, remember
from pretrain.engine.memory_limits import circumstances as circumstances_of
from pretrain.flags import parse_flags
from pretrain.model.model import BasePretrainModel
from pretrain.settings import Settings
from pretrain.training import batch_fitting
from pretrain.training.batch_fitting import (
    Passes,
    find_by_trial,
    fit_micro_batches,
    in_words,
    largest_useful,
    state_bytes,
)
from pretrain.training.data_loader import list_shards
from tests.pipeline.runtime.test_oom import fail_to_allocate
from tests.pretrain.shards import write_dataset, write_unmasked

pytestmark = pytest.mark.usefixtures("one_thread")

CPU, GPU = torch.device("cpu"), torch.device("cuda")
GB = 10**9


# --- the search ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gigabytes", "rates", "expected"),
    [
        # Of a GPU that is full with 64: as fast again with each doubling.
        ([1, 2, 4, 8, 16], [10, 20, 40, 80, 160], (8, "16 samples need too much memory")),
        ([1, 2, 4, None, 16], [10, 20, 40, 80, 160], (4, "8 samples need too much memory")),
        ([1, 2, 3, 4, 5], [10, 20, 30, 31, 99], (4, "8 samples are no faster")),
        ([1, 2, 3, 4, 5], [10, 20, 30, 32, 34], (16, "larger ones are not tried")),
        ([9, 2, 3, 4, 5], [10, 20, 30, 32, 34], (1, "1 samples need too much memory")),
    ],
)
def test_the_largest_that_fits_and_is_worth_it(gigabytes, rates, expected):
    sizes = [1, 2, 4, 8, 16]
    passes = {
        size: number and Passes(number * GB, size / rate)
        for size, number, rate in zip(sizes, gigabytes, rates, strict=True)
    }
    assert largest_useful(sizes, passes.get, room=8.5 * GB) == expected


def test_bytes_of_weights_gradients_and_moments():
    assert state_bytes(1000, stage=0, num_ranks=4) == 16_000
    assert state_bytes(1000, stage=1, num_ranks=1) == 24_000
    assert state_bytes(1000, stage=1, num_ranks=4) == 15_000
    assert state_bytes(1000, stage=3, num_ranks=4) == 9_000


# --- the trial -------------------------------------------------------------------------------


class FakeGpu:
    """A GPU's memory that a sample takes 1 kB of, besides the weights."""

    def __init__(self, free, sizes):
        self.num_free, self.sizes, self.device = free, sizes, CPU

    def free(self):
        return self.num_free

    def peak_of(self, function):
        function()
        return 1000 * self.sizes[-1]

    def wait(self): ...


def ticks():
    return map(float, itertools.count())


@pytest.fixture
def trial(tmp_path, monkeypatch):
    """(function of the free bytes beyond those of the state and the first size without memory,
    sizes that the model saw); each doubling is as fast as its half, so twice the rate."""
    monkeypatch.setattr(batch_fitting, "time", SimpleNamespace(perf_counter=ticks().__next__))
    sizes, forward, most = [], BasePretrainModel.forward, [1000]

    def watched(self, input_ids, *others):
        sizes.append(len(input_ids))
        if len(input_ids) > most[0]:
            fail_to_allocate()
        return forward(self, input_ids, *others)

    monkeypatch.setattr(BasePretrainModel, "forward", watched)
    asked = settings(tmp_path / "out", "--zero_stage=0")
    shards = list_shards(write_dataset(tmp_path / "data"), "train")
    num_weights = sum(p.numel() for p in batch_fitting.build_model(asked.model).parameters())

    def find(room, fits=1000, share=512):
        most[0] = fits
        gpu = FakeGpu((room + 16 * num_weights) / 0.85, sizes)
        monkeypatch.setattr(batch_fitting, "GpuMemory", lambda device: gpu)
        return find_by_trial(asked, "fp32", CPU, shards, share)

    return find, sizes


def test_a_trial_on_the_datasets_samples(trial):
    find, sizes = trial
    before = torch.get_rng_state()
    assert find(room=32_500) == (32, "64 samples need too much memory")
    assert sorted(set(sizes)) == [1, 2, 4, 8, 16, 32, 64]  # there are 24 samples
    assert torch.equal(torch.get_rng_state(), before)


def test_an_allocation_that_fails_ends_the_trial(trial):
    find, _ = trial
    assert find(room=10**9, fits=8) == (8, "16 samples need too much memory")
    assert find(room=10**9, share=12) == (8, "larger ones are not tried")


# --- what a run takes ------------------------------------------------------------------------


def settings(output, *more):
    small = ("--hidden_size=32", "--num_hidden_layers=1", "--num_attention_heads=4")
    small += ("--intermediate_size=64", "--train_batch_size=4096")
    args = parse_flags(["--dataset_path=d", f"--output_dir={output}", *small, *more])
    return Settings.from_args(args, vocab_size=61, max_seq_length=16)


def fit(output, device, *more):
    """(micro batches of training and validation, what was said)."""
    said = []
    log = SimpleNamespace(say=said.append)
    return *fit_micro_batches(settings(output, *more), "fp16", device, [], log), said


def test_on_the_cpu_it_is_32_as_in_runs_of_before(tmp_path):
    assert fit(tmp_path / "new", CPU) == (32, 16, [])
    before = settings(tmp_path, "--train_micro_batch_size_per_gpu=32")  # once the default
    remember(tmp_path, circumstances_of(before.engine, in_words(CPU), 1), in_use=32, limit=8)
    assert fit(tmp_path, CPU)[:2] == (8, 8)


def test_a_number_is_taken_without_a_trial(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_fitting, "in_words", lambda device: "a GPU")
    monkeypatch.setattr(batch_fitting, "find_by_trial", None)
    assert fit(tmp_path, GPU, "--train_micro_batch_size_per_gpu=100") == (
        *(64, 16),
        ["micro batch 100 -> 64, so that 1 rank(s) make up the batch of 4096"],
    )


def test_a_trial_takes_the_larger_masking_rate(trial, tmp_path, monkeypatch):
    find, _ = trial
    asked = settings(tmp_path / "out", "--zero_stage=0")
    shards = list_shards(write_unmasked(tmp_path / "unmasked"), "train")
    collated = []
    collate = batch_fitting.collate
    monkeypatch.setattr(
        batch_fitting, "collate", lambda rows: collated.append(rows) or collate(rows)
    )
    find(room=8_500)
    for rate, predictions in ((0.2, 3), (0.4, 6)):  # of 14 tokens
        collated.clear()
        find_by_trial(asked, "fp32", CPU, shards, 4, rate)
        assert {*np.count_nonzero(collated[-1]["masked_lm_positions"], axis=1)} == {predictions}


def test_a_gpu_is_tried_once_and_then_remembered(tmp_path, monkeypatch):
    shares = []

    def tried(asked, precision, device, shards, share, rate):
        assert rate == 0.0  # the dataset's, which is constant
        shares.append((precision, share))
        return 128, "256 samples are no faster"

    monkeypatch.setattr(batch_fitting, "in_words", lambda device: "a GPU")
    monkeypatch.setattr(batch_fitting, "find_by_trial", tried)
    said = ["micro batch 128, found by trial: 256 samples are no faster"]
    assert fit(tmp_path, GPU) == (128, 16, said)
    says = f"as {tmp_path / FILE} says"
    assert fit(tmp_path, GPU) == (128, 16, [f"micro batch 128, {says}"])
    assert shares == [("fp16", 4096)]
    assert lower_limit(tmp_path, 128)  # memory ran out all the same
    assert fit(tmp_path, GPU) == (64, 16, [f"micro batch 64, {says}"])
    fit(tmp_path, GPU, "--train_batch_size=8192")
    assert shares[1:] == [("fp16", 8192)]
    fit(tmp_path, GPU, "--gradient_checkpointing")
    assert len(shares) == 3 and json.loads((tmp_path / FILE).read_text())["limit"] == 128


@pytest.mark.parametrize(("theirs", "expected"), [(64, 64), (256, 128), (128, 128)])
def test_all_ranks_take_what_the_smallest_gpu_can(monkeypatch, theirs, expected):
    def sum_numbers(*ours):
        assert len(ours) == 10 and sum(ours) == 1.0
        return [mine + (1 << n == theirs) for n, mine in enumerate(ours)]

    monkeypatch.setattr(batch_fitting, "sum_numbers", sum_numbers)
    size, why = batch_fitting._on_all_ranks(128, "256 samples are no faster")
    assert size == expected and ("another rank" in why) == (theirs == 64)
