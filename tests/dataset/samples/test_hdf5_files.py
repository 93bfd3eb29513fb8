"""The HDF5 format: round trips, damage, files of older toolkits."""

import h5py
import numpy as np
import pytest

from dataset.samples.hdf5_files import (
    MASK_ARRAYS,
    ROW_ARRAYS,
    SampleWriter,
    count_samples,
    read_masking,
    read_samples,
    write_masking,
)
from dataset.samples.masking import Masking
from pipeline.errors import StageError


def make_samples(num=30, length=16, predictions=4):
    rng = np.random.default_rng(0)
    return {
        "input_ids": rng.integers(1, 60_000, (num, length)).astype(np.uint16),
        "input_mask": np.ones((num, length), np.uint8),
        "segment_ids": np.zeros((num, length), np.uint8),
        "masked_lm_positions": rng.integers(1, length, (num, predictions)).astype(np.uint16),
        "masked_lm_ids": rng.integers(1, 60_000, (num, predictions)).astype(np.uint16),
    }


def write(path, samples, block=7):
    with SampleWriter(path, "abc") as writer:
        for begin in range(0, len(samples["input_ids"]), block):
            writer.write({name: array[begin : begin + block] for name, array in samples.items()})
        writer.finish({"tokens": 3})
    return path


def test_round_trip(tmp_path):
    samples = make_samples()
    path = write(tmp_path / "a.hdf5", samples)
    back = read_samples(path)
    assert list(back) == list(samples)
    for name, array in samples.items():
        assert back[name].dtype == array.dtype
        assert (back[name] == array).all()
    assert count_samples(path) == 30
    with h5py.File(path) as file:
        assert (file.attrs["fingerprint"], file.attrs["counts"]) == ("abc", '{"tokens": 3}')
    assert [file.name for file in tmp_path.iterdir()] == ["a.hdf5"]


def test_same_samples_same_bytes(tmp_path):
    paths = [write(tmp_path / name, make_samples(), block=7) for name in ("a.hdf5", "b.hdf5")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_what_fails_leaves_no_file(tmp_path):
    with (
        pytest.raises(RuntimeError, match="no more"),
        SampleWriter(tmp_path / "a.hdf5", "abc") as writer,
    ):
        writer.write(make_samples())
        raise RuntimeError("no more")
    assert list(tmp_path.iterdir()) == []


def test_rows_without_masks(tmp_path):
    samples = {name: array for name, array in make_samples().items() if name in ROW_ARRAYS}
    back = read_samples(write(tmp_path / "a.hdf5", samples))
    assert list(back) == list(ROW_ARRAYS)
    with pytest.raises(StageError, match=r"not masked, and masking\.json is missing"):
        read_masking(tmp_path)
    masking = Masking(4, 99, [0, 1], [5], 0.15, 20, 0.8, 0.1)
    write_masking(tmp_path, masking)
    assert read_masking(tmp_path) == masking


def test_labels_of_next_sentences(tmp_path):
    samples = {**make_samples(), "next_sentence_labels": np.arange(30, dtype=np.uint8) % 2}
    back = read_samples(write(tmp_path / "a.hdf5", samples))
    assert (back["next_sentence_labels"] == samples["next_sentence_labels"]).all()


def test_half_of_the_masks_is_an_error(tmp_path):
    samples = {name: array for name, array in make_samples().items() if name != MASK_ARRAYS[1]}
    path = write(tmp_path / "a.hdf5", samples)
    with pytest.raises(StageError, match="no dataset masked_lm_ids"):
        read_samples(path)


def test_every_truncation_is_found(tmp_path):
    path = write(tmp_path / "a.hdf5", make_samples())
    content = path.read_bytes()
    for size in range(0, len(content), 997):
        path.write_bytes(content[:size])
        with pytest.raises(StageError, match=r"a\.hdf5"):
            read_samples(path)


def test_a_changed_byte_is_found(tmp_path):
    samples = make_samples(num=300)
    path = write(tmp_path / "a.hdf5", samples)
    content = bytearray(path.read_bytes())
    at = content.find(samples["input_ids"][100].tobytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(StageError, match=r"a\.hdf5: damaged, its checksum"):
        read_samples(path)


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [("format_version", 99, "format version 99, expected at most"), ("num_samples", 7, "disagree")],
)
def test_wrong_attributes_are_found(tmp_path, attribute, value, message):
    path = write(tmp_path / "a.hdf5", make_samples())
    with h5py.File(path, "r+") as file:
        file.attrs[attribute] = value
    with pytest.raises(StageError, match=message):
        read_samples(path)


def test_files_of_older_toolkits(tmp_path):
    samples = make_samples()
    path = tmp_path / "train_shard_0.hdf5"
    with h5py.File(path, "w") as file:
        for name, array in samples.items():
            file.create_dataset(name, data=array.astype("i4"), compression="gzip")
    back = read_samples(path)
    assert all((back[name] == array).all() for name, array in samples.items())
    assert count_samples(path) == 30


def test_missing_dataset_is_named(tmp_path):
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        file["input_ids"] = [[1]]
    with pytest.raises(StageError, match="no dataset input_mask"):
        read_samples(path)
