"""The format of masked samples: one HDF5 file per shard and mask copy.

Datasets, N samples of L tokens with up to P predictions:

    input_ids [N, L]            masked tokens with [CLS] and [SEP], then padding
    input_mask [N, L]           1 for tokens, 0 for padding
    segment_ids [N, L]          all 0: a sample is one segment
    masked_lm_positions [N, P]  ascending; 0 (always [CLS]) after the last prediction
    masked_lm_ids [N, P]        original tokens at these positions; 0 after the last

Attributes: format_version, num_samples, fingerprint (of what it was made from), checksum (CRC-32 of
each dataset, in this order), counts (JSON). Files without attributes, as older toolkits wrote
them, are read too, as far as their shapes agree.
"""

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts import written_aside
from pipeline.errors import StageError

if TYPE_CHECKING:
    import numpy as np

FORMAT_VERSION = 1
ARRAYS = ("input_ids", "input_mask", "segment_ids", "masked_lm_positions", "masked_lm_ids")
CHUNK_BYTES = 1 << 20
READ_ROWS = 8192

Samples = Mapping[str, "np.ndarray"]


def sample_file_name(split: str, shard: int, copy: int) -> str:
    """Test samples have one mask, training samples a file per mask copy."""
    return f"train_{shard:05d}_{copy:02d}.hdf5" if split == "train" else f"test_{shard:05d}.hdf5"


# --- writing ---------------------------------------------------------------------------------


def write_samples(
    path: Path,
    blocks: Iterable[Samples],
    num_samples: int,
    fingerprint: str,
    counts: Mapping[str, int],
) -> None:
    """Writes a file from blocks of samples (ARRAYS, of the dtypes that are stored)."""
    import h5py

    with written_aside(path) as aside, h5py.File(aside, "w") as file:
        checksums = [0] * len(ARRAYS)
        begin = 0
        for block in blocks:
            if begin == 0:
                _create_datasets(file, block, num_samples)
            end = begin + len(block["input_ids"])
            for i, name in enumerate(ARRAYS):
                checksums[i] = zlib.crc32(block[name].tobytes(), checksums[i])
                if block[name].any():  # what is never written reads as 0 and takes no space
                    file[name][begin:end] = block[name]
            begin = end
        if begin != num_samples:
            raise ValueError(f"{path}: {begin} samples written, expected {num_samples}")
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["num_samples"] = num_samples
        file.attrs["fingerprint"] = fingerprint
        file.attrs["checksum"] = checksums
        file.attrs["counts"] = json.dumps(dict(counts), sort_keys=True)


def _create_datasets(file: Any, block: Samples, num_samples: int) -> None:
    for name in ARRAYS:
        array = block[name]
        width = array.shape[1]
        rows = max(1, min(num_samples, CHUNK_BYTES // (width * array.itemsize)))
        file.create_dataset(
            name,
            shape=(num_samples, width),
            dtype=array.dtype,
            chunks=(rows, width),
            compression="gzip" if name == "input_mask" else None,  # shrinks it a hundredfold
            compression_opts=1 if name == "input_mask" else None,
            track_times=False,  # the same samples give the same bytes
        )


# --- reading ---------------------------------------------------------------------------------


def read_attributes(path: Path) -> dict:
    """`{"num_samples", "fingerprint", "counts"}`; no fingerprint in files of older toolkits.

    Raises StageError, naming the file, if it is not a complete file of samples.
    """
    with _opened(path) as file:
        return {
            "num_samples": len(file["input_ids"]),
            "fingerprint": file.attrs.get("fingerprint", ""),
            "counts": json.loads(file.attrs.get("counts", "{}")),
        }


def read_samples(path: Path) -> dict[str, "np.ndarray"]:
    """All samples of a file as arrays by name, in the dtypes that are stored.

    Raises StageError, naming the file, if it is damaged.
    """
    import numpy as np

    blocks = list(iter_sample_blocks(path))
    return {name: np.concatenate([block[name] for block in blocks]) for name in ARRAYS}


def iter_sample_blocks(path: Path) -> Iterator[dict[str, "np.ndarray"]]:
    """Yields the samples of a file in blocks of 8192, and checks them as it goes.

    Raises StageError, naming the file, if it is damaged; for a wrong checksum after the last block.
    """
    with _opened(path) as file:
        checksums = [0] * len(ARRAYS)
        for begin in range(0, max(1, len(file["input_ids"])), READ_ROWS):
            try:
                block = {name: file[name][begin : begin + READ_ROWS] for name in ARRAYS}
            except OSError as error:
                raise StageError(f"{path}: damaged, rows from {begin} on cannot be read") from error
            for i, name in enumerate(ARRAYS):
                checksums[i] = zlib.crc32(block[name].tobytes(), checksums[i])
            yield block
        expected = file.attrs.get("checksum")
        if expected is not None and list(expected) != checksums:
            raise StageError(
                f"{path}: damaged, its checksum does not match; delete it and run again"
            )


def _opened(path: Path) -> Any:
    """The open HDF5 file after a check of its structure."""
    import h5py

    try:
        file = h5py.File(path, "r")
    except FileNotFoundError as error:
        raise StageError(f"{path}: does not exist") from error
    except OSError as error:
        raise StageError(
            f"{path}: truncated or not an HDF5 file; delete it and run again"
        ) from error
    problem = _problem_with(file)
    if problem:
        file.close()
        raise StageError(f"{path}: {problem}")
    return file


def _problem_with(file: Any) -> str:
    missing = [name for name in ARRAYS if name not in file]
    if missing:
        return f"no dataset {', '.join(missing)}, expected masked samples"
    version = file.attrs.get("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        return f"format version {version}, expected {FORMAT_VERSION}"
    numbers = {len(file[name]) for name in ARRAYS}
    numbers.add(int(file.attrs.get("num_samples", min(numbers))))
    if len(numbers) > 1:
        return f"numbers of samples disagree: {sorted(numbers)}"
    widths = [file[name].shape[1] for name in ARRAYS]
    if len(set(widths[:3])) > 1 or widths[3] != widths[4]:
        return f"lengths of rows disagree: {dict(zip(ARRAYS, widths, strict=True))}"
    return ""
