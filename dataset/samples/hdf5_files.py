"""Reads and writes samples: HDF5 files, one per shard and, for static masking, mask copy.

Datasets, N rows of L tokens with up to P predictions:

    input_ids [N, L]             tokens with [CLS] and [SEP], then padding
    input_mask [N, L]            0 for padding, else the number of the sample in its row, from 1;
                                 without packing a row is a sample
    segment_ids [N, L]           1 for the second segment of a next-sentence sample, else 0
    masked_lm_positions [N, P]   ascending; 0 (always [CLS]) after the last prediction
    masked_lm_ids [N, P]         original tokens at these positions; 0 after the last
    next_sentence_labels [N]     optional: 0 if the second segment follows the first, 1 if it is
                                 random

Files for dynamic masking have no positions and ids, and their input_ids are not masked; the
settings of masking are in masking.json beside them.

Attributes: format_version, num_samples (rows), fingerprint (of the inputs), checksum (CRC-32 of
each dataset, in the order above), counts (JSON). Files of older toolkits have no attributes; they
are read if their shapes agree.
"""

import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset.samples.masking import Masking
from pipeline.errors import StageError
from pipeline.store.atomic_files import write_json, written_aside
from pipeline.store.record_files import read_json
from pipeline.user_files.file_checks import problem_with_file

if TYPE_CHECKING:
    import numpy as np

FORMAT_VERSION = 2  # 1 had no packed rows and no files without masks
ROW_ARRAYS = ("input_ids", "input_mask", "segment_ids")
MASK_ARRAYS = ("masked_lm_positions", "masked_lm_ids")
ARRAYS = (*ROW_ARRAYS, *MASK_ARRAYS, "next_sentence_labels")  # possible in a file
MASKING_FILE = "masking.json"
READ_ROWS = 8192
MAX_ROW_LENGTH = 1 << 16  # positions are stored as uint16

Samples = Mapping[str, "np.ndarray"]


def sample_file_name(split: str, shard: int, copy: int) -> str:
    """Returns the name of a mask copy's file; copy -1: the only copy."""
    return f"{split}_{shard:05d}.hdf5" if copy < 0 else f"{split}_{shard:05d}_{copy:02d}.hdf5"


# --- writing ---------------------------------------------------------------------------------


@contextmanager
def _system_errors(path: Path) -> Iterator[None]:
    """Raises the operating system's error, like a full disk, instead of HDF5's several lines."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if not (number := re.search(r"errno = (\d+)", str(error))):
            raise
        code = int(number.group(1))
        raise OSError(code, os.strerror(code), str(path)) from error


class SampleWriter:
    """Writes a temporary file block by block; renames it at the end of a `with` block.

    Call `finish` after the last block.
    """

    def __init__(self, path: Path, fingerprint: str):
        self.path, self.fingerprint = path, fingerprint
        self.num_samples = 0
        self.datasets: dict[str, Any] = {}
        self.checksums: dict[str, int] = {}

    def __enter__(self) -> "SampleWriter":
        import h5py

        with ExitStack() as stack:
            stack.enter_context(_system_errors(self.path))
            aside = stack.enter_context(written_aside(self.path))
            # A block is a whole chunk, so a cache of chunks would not help.
            self.file = stack.enter_context(h5py.File(aside, "w", rdcc_nbytes=0))
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *exception) -> bool | None:
        return self.stack.__exit__(*exception)

    def write(self, block: Samples) -> None:
        """Appends rows: arrays by name, in their stored dtypes."""
        if not self.datasets:
            self._create_datasets(block)
        end = self.num_samples + len(block["input_ids"])
        for name, dataset in self.datasets.items():
            array = block[name]
            self.checksums[name] = zlib.crc32(array.tobytes(), self.checksums[name])
            dataset.resize(end, axis=0)
            if array.any():  # unwritten rows read as 0 and take no space
                dataset[self.num_samples : end] = array
        self.num_samples = end

    def _create_datasets(self, block: Samples) -> None:
        for name in (name for name in ARRAYS if name in block):
            array = block[name]
            small = name == "input_mask"  # shrinks a hundredfold
            self.datasets[name] = self.file.create_dataset(
                name,
                shape=(0, *array.shape[1:]),
                maxshape=(None, *array.shape[1:]),
                dtype=array.dtype,
                chunks=array.shape,
                compression="gzip" if small else None,
                compression_opts=1 if small else None,
                track_times=False,  # the same samples give the same bytes
            )
            self.checksums[name] = 0

    def finish(self, counts: Mapping[str, int]) -> None:
        """Writes the attributes, which mark the file as complete."""
        self.file.attrs["format_version"] = FORMAT_VERSION
        self.file.attrs["num_samples"] = self.num_samples
        self.file.attrs["fingerprint"] = self.fingerprint
        self.file.attrs["checksum"] = list(self.checksums.values())
        self.file.attrs["counts"] = json.dumps(dict(counts), sort_keys=True)


def write_masking(directory: Path, masking: Masking) -> None:
    """Writes the settings for the dynamic masking of a folder."""
    write_json(directory / MASKING_FILE, asdict(masking))


# --- reading ---------------------------------------------------------------------------------


def count_samples(path: Path) -> int:
    """Returns the number of rows in a file.

    Raises StageError, naming the file, if it is not a complete file of samples.
    """
    with _opened(path) as file:
        return len(file["input_ids"])


def read_masking(directory: Path) -> Masking:
    """Reads the settings for the dynamic masking of a folder.

    Raises StageError if they are missing or damaged.
    """
    fields = read_json(directory / MASKING_FILE)
    if fields is None:
        raise StageError(f"{directory}: its samples are not masked, and {MASKING_FILE} is missing")
    try:
        return Masking(**fields)
    except TypeError as error:
        raise StageError(f"{directory / MASKING_FILE}: damaged ({error})") from error


def read_samples(path: Path) -> dict[str, "np.ndarray"]:
    """Returns all samples of a file as arrays by name, in their stored dtypes.

    Raises StageError, naming the file, if it is damaged.
    """
    import numpy as np

    blocks = list(iter_sample_blocks(path))
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def iter_sample_blocks(path: Path) -> Iterator[dict[str, "np.ndarray"]]:
    """Yields the samples of a file in blocks of 8192, and checks them.

    Raises StageError, naming the file, if it is damaged; for a wrong checksum after the last block.
    """
    with _opened(path) as file:
        names = [name for name in ARRAYS if name in file]
        checksums = [0] * len(names)
        expected = file.attrs.get("checksum")
        for begin in range(0, max(1, len(file["input_ids"])), READ_ROWS):
            try:
                block = {name: file[name][begin : begin + READ_ROWS] for name in names}
            except OSError as error:
                raise StageError(f"{path}: damaged, rows from {begin} on cannot be read") from error
            for i, name in enumerate(names):
                checksums[i] = zlib.crc32(block[name].tobytes(), checksums[i])
            if problem := "" if expected is not None else _problem_with_rows(block):
                raise StageError(f"{path}: {problem}, in the rows from {begin} on")
            yield block
        if expected is not None and list(expected) != checksums:
            raise StageError(
                f"{path}: damaged, its checksum does not match; delete it and run again"
            )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Opens an HDF5 file and checks its structure.

    Raises StageError, naming the file, for any error of HDF5 in the `with` block.
    """
    import h5py

    if not os.path.lexists(path):
        raise StageError(f"{path}: does not exist")
    if problem := problem_with_file(path):
        raise StageError(f"{path}: {problem}")
    try:
        with h5py.File(path, "r") as file:
            if problem := _problem_with(file):
                raise StageError(f"{path}: {problem}")
            yield file
    except StageError:
        raise
    except OSError as error:
        raise StageError(
            f"{path}: truncated or not an HDF5 file; delete it and run again"
        ) from error
    except Exception as error:
        raise StageError(f"{path}: damaged ({error}); delete it and run again") from error


def _lies_in(file: Any, name: str) -> bool:
    """True if an array is in this file; links and virtual arrays read any file they name."""
    import h5py

    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        return False
    found = file[name]
    return isinstance(found, h5py.Dataset) and not found.external and not found.is_virtual


def _problem_with(file: Any) -> str:
    names = [name for name in ARRAYS if name in file]
    if elsewhere := [name for name in names if not _lies_in(file, name)]:
        return f"{', '.join(elsewhere)}: no array of this file, expected one"
    missing = [name for name in ROW_ARRAYS if name not in names]
    if missing or (set(MASK_ARRAYS) & set(names)) not in (set(), set(MASK_ARRAYS)):
        missing = missing or [name for name in MASK_ARRAYS if name not in names]
        return f"no dataset {', '.join(missing)}, expected samples of tokens"
    version = file.attrs.get("format_version", FORMAT_VERSION)
    if not 1 <= version <= FORMAT_VERSION:
        return f"format version {version}, expected at most {FORMAT_VERSION}"
    numbers = {len(file[name]) for name in names}
    numbers.add(int(file.attrs.get("num_samples", min(numbers))))
    if len(numbers) > 1:
        return f"numbers of samples disagree: {sorted(numbers)}"
    for name in names:
        if file[name].dtype.kind not in "iu":
            return f"{name} holds {file[name].dtype}, expected integers"
    for group in (ROW_ARRAYS, MASK_ARRAYS):
        widths = {name: file[name].shape[1] for name in group if name in names}
        if len(set(widths.values())) > 1:
            return f"lengths of rows disagree: {widths}"
        if max(widths.values(), default=0) > MAX_ROW_LENGTH:
            return f"rows are longer than {MAX_ROW_LENGTH}: {widths}"
    return ""


def _problem_with_rows(block: Samples) -> str:
    """Returns the problem with rows of a file without checksums, or ""."""
    negative = [name for name, array in block.items() if array.min(initial=0) < 0]
    if negative:
        return f"{negative[0]} holds negative numbers"
    length, positions = block["input_ids"].shape[1], block.get("masked_lm_positions")
    if positions is not None and positions.max(initial=0) >= length:
        return f"a prediction at position {positions.max()} of {length}"
    return ""
