"""The order of samples, its independence of ranks and restarts, and the tensors of a batch."""

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.samples.hdf5_files import SampleWriter, read_samples, write_masking
from dataset.samples.masking import Masking
from pipeline.errors import StageError
from pipeline.store.atomic_files import write_json
from pretrain.optimization.batch_sizes import BatchSizes
from pretrain.optimization.masking_rate import MaskingRate
from pretrain.training.data_loader import (
    STEPS_AHEAD,
    PretrainDatasetProvider,
    SampleOrder,
    Shard,
    check_ids,
    count_predictions,
    list_shards,
    one_copy,
    validation_batches,
)
from pretrain.training.micro_batch import collate
from tests.damage import flip_byte
from tests.pretrain.shards import write_dataset

EIGHT = BatchSizes(8)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("dataset"))


def _rows(order, start, stop):
    return [(s.shard, int(row)) for s in order.slices(start, stop) for row in s.rows]


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any),
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 3),
)
def test_every_row_once_per_epoch(sizes, seed, epoch):
    order = SampleOrder(sizes, seed)
    n = order.num_samples
    rows = _rows(order, epoch * n, (epoch + 1) * n)
    assert sorted(rows) == [(shard, row) for shard, size in enumerate(sizes) for row in range(size)]


@settings(max_examples=50, deadline=None)
@given(start=st.integers(0, 40), middle=st.integers(0, 40), stop=st.integers(0, 40))
def test_cutting_the_stream_anywhere_changes_nothing(start, middle, stop):
    start, middle, stop = sorted((start, middle, stop))
    order = SampleOrder([4, 0, 7], seed=3)
    whole = _rows(order, start, stop)
    assert whole == _rows(order, start, middle) + _rows(SampleOrder([4, 0, 7], 3), middle, stop)


def test_epochs_and_seeds_differ():
    first = _rows(SampleOrder([50], 1), 0, 50)
    assert first != _rows(SampleOrder([50], 1), 50, 100)
    assert first != _rows(SampleOrder([50], 2), 0, 50)


def _ids(batches):
    return torch.cat([batch.input_ids for batch in batches])


def _provider(dataset, rank=0, world_size=1, micro_batch=2, sizes=EIGHT):
    return PretrainDatasetProvider(
        list_shards(dataset, "train"), 42, sizes, micro_batch, rank, world_size
    )


def test_any_number_of_ranks_trains_on_the_same_batches(dataset):
    with _provider(dataset) as alone:
        expected = [_ids(alone.batch(step)) for step in range(7)]
    for world_size in (2, 4):
        ranks = [_provider(dataset, rank, world_size) for rank in range(world_size)]
        for step in range(7):
            together = torch.cat([_ids(provider.batch(step)) for provider in ranks])
            assert torch.equal(together, expected[step])
        for provider in ranks:
            provider.close()


def test_a_restart_goes_on_with_the_same_batches(dataset):
    with _provider(dataset) as undisturbed, _provider(dataset) as restarted:
        expected = [_ids(undisturbed.batch(step)) for step in range(9)]
        assert torch.equal(_ids(restarted.batch(5)), expected[5])
        assert torch.equal(_ids(restarted.batch(6)), expected[6])
        assert torch.equal(_ids(restarted.batch(2)), expected[2])


def test_a_ramp_of_the_batch_size_leaves_the_order_of_the_samples_as_it_is(dataset):
    with _provider(dataset) as plain:
        expected = torch.cat([_ids(plain.batch(step)) for step in range(4)])
    ramp = BatchSizes(8, start=2, ramp_steps=6)  # 2, 2, 4, 4, 6, 6, 8
    with _provider(dataset, sizes=ramp) as provider:
        batches = [provider.batch(step) for step in range(7)]
        again = provider.batch(3)
    assert [len(_ids(batch)) for batch in batches] == [2, 2, 4, 4, 6, 6, 8]
    assert torch.equal(torch.cat([_ids(batch) for batch in batches]), expected)
    assert torch.equal(_ids(again), _ids(batches[3]))


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5), sample=st.integers(0, 60))
def test_visits_of_shards_are_counted(sizes, sample):
    order = SampleOrder(sizes, 7)
    seen = [piece.shard for piece in order.slices(0, sample)]
    cut = sample > 0 and order.first_sample(order.visits_before(sample)) != sample
    assert order.visits_before(sample) == len(seen) - cut
    assert order.visits_before(order.first_sample(11)) == 11


def test_waiting_for_data_is_measured(dataset):
    with _provider(dataset) as provider:
        provider.batch(0)
        assert provider.seconds_waited > 0


def test_micro_batches_cut_the_batch_without_changing_it(dataset):
    with _provider(dataset, micro_batch=2) as small, _provider(dataset, micro_batch=8) as large:
        assert len(small.batch(0)) == 4 and len(large.batch(0)) == 1
        assert torch.equal(_ids(small.batch(1)), _ids(large.batch(1)))


def test_all_mask_copies_are_trained_on(dataset):
    shards = list_shards(dataset, "train")
    assert [shard.path.name for shard in shards] == [
        f"train_{shard:05d}_{copy:02d}.hdf5" for shard in range(2) for copy in range(2)
    ]
    assert sum(shard.num_samples for shard in shards) == 2 * (7 + 5)


def test_an_error_while_reading_ahead_reaches_the_loop(dataset, tmp_path):
    shards = [Shard(tmp_path / "gone.hdf5", 8)]
    with (
        PretrainDatasetProvider(shards, 0, BatchSizes(4), 4) as provider,
        pytest.raises(Exception, match=r"gone\.hdf5"),
    ):
        provider.batch(0)


def test_missing_shards_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train_\*\.hdf5"):
        list_shards(tmp_path, "train")


def test_the_manifest_tells_which_shards_there_are(tmp_path):
    """With one more or one less, the samples would come in another order."""
    folder = write_dataset(tmp_path)
    shards = list_shards(folder, "train")
    listed = {shard.path.name: shard.num_samples for shard in shards}
    write_json(folder / "manifest.json", {"results": {"train_shards": listed}})
    shutil.copy(shards[0].path, folder / "train_00009_00.hdf5")
    assert list_shards(folder, "train") == shards
    assert [shard.path.name for shard in list_shards(folder, "test")] == ["test_00000.hdf5"]
    shutil.copy(shards[2].path, shards[0].path)
    with pytest.raises(StageError, match=r"train_00000_00\.hdf5: holds 5 samples, expected 7"):
        list_shards(folder, "train")
    shards[0].path.unlink()
    with pytest.raises(StageError, match=r"train_00000_00\.hdf5: missing"):
        list_shards(folder, "train")
    flip_byte(folder / "manifest.json", 0)
    with pytest.raises(StageError, match=r"manifest\.json: damaged; the dataset stage"):
        list_shards(folder, "train")


def test_tokens_of_another_tokenizer_are_found_before_training(dataset):
    shard = list_shards(dataset, "train")[0]
    largest = int(read_samples(shard.path)["input_ids"].max())
    check_ids(shard, largest + 1)
    with pytest.raises(StageError, match=rf"holds the token {largest}, expected less than"):
        check_ids(shard, largest)


def test_tensors_of_a_micro_batch(dataset):
    rows = read_samples(dataset / "train_00000_00.hdf5")
    batch = collate(rows)
    flat = batch.input_ids.flatten()
    assert (flat[batch.prediction_index] == 4).all()  # every prediction stands at a [MASK]
    assert len(batch.labels) == np.count_nonzero(rows["masked_lm_positions"])
    assert torch.equal(batch.attention_mask, torch.from_numpy(rows["input_mask"]).bool())
    assert batch.num_tokens == rows["input_mask"].sum()


def test_no_mask_where_nothing_is_padded(tmp_path):
    folder = write_dataset(tmp_path, padding=False)
    assert collate(read_samples(folder / "test_00000.hdf5")).attention_mask is None


def test_validation_is_the_first_rows_shared_out_over_the_ranks(dataset):
    shards = list_shards(dataset, "test")
    rows = torch.from_numpy(read_samples(shards[0].path)["input_ids"].astype(np.int64))
    assert torch.equal(_ids(validation_batches(shards, 5, 2)), rows[:5])
    assert torch.equal(_ids(validation_batches(shards, 0, 2)), rows)
    first, second = (validation_batches(shards, 0, 2, rank, 2) for rank in range(2))
    assert [len(batch.input_ids) for batch in first] == [2, 2, 1]
    assert [len(batch.input_ids) for batch in second] == [2, 2, 1]
    together = [first[0], second[0], first[1], second[1], first[2]]
    assert torch.equal(_ids(together), rows)
    assert second[2].num_predictions == 0  # only there so that all ranks take part


# --- samples that are stored unmasked ------------------------------------------------------------


@pytest.fixture(scope="module")
def unmasked(tmp_path_factory):
    """Two shards of 7 and 5 rows, as dynamic masking has them."""
    folder = tmp_path_factory.mktemp("unmasked")
    generator = np.random.default_rng(0)
    for shard, size in enumerate((7, 5)):
        ids = generator.integers(5, 61, (size, 32)).astype(np.uint16)
        ids[:, 0], ids[:, -1] = 2, 3
        with SampleWriter(folder / f"train_{shard:05d}.hdf5", "abc") as writer:
            ones = np.ones(ids.shape, np.uint8)
            writer.write({"input_ids": ids, "input_mask": ones, "segment_ids": 0 * ones})
            writer.finish({})
    write_masking(folder, Masking(4, 61, [0, 1, 2, 3, 4], [], 0.15, 8, 0.8, 0.1))
    return folder


def _restored(batches):
    """The rows with what was masked put back."""
    rows = []
    for batch in batches:
        flat = batch.input_ids.flatten().clone()
        flat[batch.prediction_index] = batch.labels
        rows += flat.view(batch.input_ids.shape).tolist()
    return rows


def test_unmasked_samples_are_masked_anew_in_each_epoch(unmasked):
    original = sorted(
        row
        for shard in list_shards(unmasked, "train")
        for row in read_samples(shard.path)["input_ids"].tolist()
    )
    seen = []
    with _provider(unmasked, sizes=BatchSizes(4)) as provider:
        for epoch in range(2):
            batches = [batch for t in range(3) for batch in provider.batch(3 * epoch + t)]
            assert sorted(_restored(batches)) == original
            assert all(len(batch.labels) == 2 * 4 for batch in batches)  # round(30 * 0.15) = 4
            by_row = zip(_restored(batches), _ids(batches).tolist(), strict=True)
            seen.append({tuple(row): masked for row, masked in by_row})
    assert sum(seen[0][row] != seen[1][row] for row in seen[0]) >= 10  # of 12


def test_any_number_of_ranks_masks_in_the_same_way(unmasked):
    with _provider(unmasked) as alone:
        expected = [_ids(alone.batch(step)) for step in range(4)]
    for micro_batch, world_size in ((1, 2), (2, 4), (8, 1)):
        ranks = [_provider(unmasked, rank, world_size, micro_batch) for rank in range(world_size)]
        for step in (0, 1, 2, 3, 1):
            together = torch.cat([_ids(provider.batch(step)) for provider in ranks])
            assert torch.equal(together, expected[step])
        for provider in ranks:
            provider.close()


# From 15 to 4 of a row's 30 tokens over 48 samples, four times all rows.
FALLING = MaskingRate(0.5, 0.125, 48)
RAMP = BatchSizes(8, start=4, ramp_steps=4)  # 4, 4, 4, 4, 8, 8, 8, 8


@pytest.fixture(scope="module")
def roomy(unmasked, tmp_path_factory):
    """The same rows, with room for more predictions."""
    folder = shutil.copytree(unmasked, tmp_path_factory.mktemp("roomy") / "data")
    write_masking(folder, Masking(4, 61, [0, 1, 2, 3, 4], [], 0.5, 15, 0.8, 0.1))
    return folder


def _steps(folder, steps, rank=0, world_size=1, micro_batch=1, rate=FALLING):
    """(masked tokens, predictions) of each sample in these steps."""
    shards = list_shards(folder, "train")
    with PretrainDatasetProvider(
        shards, 42, RAMP, micro_batch, rank, world_size, masking_rate=rate
    ) as provider:
        batches = [provider.batch(step) for step in steps]
    samples = []
    for batch in (batch for step in batches for batch in step):
        rows = batch.prediction_index // 32
        for row, ids in enumerate(batch.input_ids.tolist()):
            samples.append((ids, batch.labels[rows == row].tolist()))
    return samples


def test_a_falling_rate_follows_the_number_of_the_sample(roomy):
    counts = [len(labels) for _, labels in _steps(roomy, range(8))]
    assert counts == [round(30 * (0.5 - 0.375 * n / 48)) for n in range(48)]
    beyond = [len(labels) for _, labels in _steps(roomy, [9])]
    assert beyond == [round(30 * 0.125)] * 8


def test_a_falling_rate_is_the_same_for_any_ranks_and_after_a_restart(roomy):
    expected = _steps(roomy, range(8))
    assert _steps(roomy, range(8), micro_batch=4) == expected
    for world_size, micro_batch in ((2, 1), (4, 1), (2, 2)):
        ranks = [
            [_steps(roomy, [step], rank, world_size, micro_batch) for rank in range(world_size)]
            for step in range(8)
        ]
        assert [sample for step in ranks for rank in step for sample in rank] == expected
    for step in (0, 3, 4, 7):  # the first 4 steps have 4 samples, the others 8
        assert _steps(roomy, range(step, 8)) == expected[RAMP.samples_before(step) :]


def test_a_rate_that_ends_where_it_began_is_a_constant_one(roomy):
    constant = _steps(roomy, range(6), rate=None)
    assert _steps(roomy, range(6), rate=MaskingRate(0.5, 0.5, 48)) == constant


def test_in_hours_the_rate_is_that_of_the_progress_when_a_batch_is_read(roomy):
    rate = MaskingRate(0.5, 0.1)
    shards = list_shards(roomy, "train")
    with PretrainDatasetProvider(shards, 42, BatchSizes(4), 4, masking_rate=rate) as provider:
        counts = []
        for progress in (0.25, 0.5):  # the second is not the next step, and is read again
            (batch,) = provider.batch(int(40 * progress), progress)
            counts.append(len(batch.labels) / 4)
        for step in range(21, 21 + STEPS_AHEAD):
            provider.batch(step, 1.0)
        (last,) = provider.batch(21 + STEPS_AHEAD, 1.0)
        assert provider.rate_numbers(10**9, 0.25) == {"masked_lm_prob": 0.4}
    assert counts == [12, 9] and len(last.labels) / 4 == 3
    with PretrainDatasetProvider(shards, 42, BatchSizes(4), 4) as plain:
        assert plain.rate_numbers(3, 0.25) == {}


def test_predictions_are_counted(dataset):
    shards = list_shards(dataset, "train")
    labels = torch.cat([collate(read_samples(shard.path)).labels for shard in shards])
    assert torch.equal(count_predictions(shards, 1000), torch.bincount(labels, minlength=1000))


def test_of_unmasked_samples_what_may_be_predicted_is_counted(unmasked):
    shards = list_shards(unmasked, "train")
    ids = np.concatenate([read_samples(shard.path)["input_ids"].flatten() for shard in shards])
    expected = np.bincount(ids, minlength=61)
    assert expected[[2, 3]].all()  # [CLS] and [SEP], which are never predicted
    expected[:5] = 0
    assert count_predictions(shards, 61).tolist() == expected.tolist()


def test_one_copy_of_each_text(dataset):
    names = [shard.path.name for shard in one_copy(list_shards(dataset, "train"))]
    assert names == ["train_00000_00.hdf5", "train_00001_00.hdf5"]
    single = [Shard(dataset / f"train_{number:05d}.hdf5", 1) for number in range(2)]
    assert one_copy(single) == single
