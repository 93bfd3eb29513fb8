"""The order of the samples, and the batches of each step, read ahead.

A sample's place depends on the seed and its number alone. Epoch e holds the numbers
[e * n, (e + 1) * n) and visits each row of each shard once: the shards in an order drawn for the
epoch, the rows of a shard in an order drawn for the visit. Each step takes the next numbers and
divides them among the ranks, so that restarts and any number of ranks train on the same batches.
Samples stored without masks are masked by their number, differently in each epoch.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path

import h5py
import numpy as np
import torch

from dataset.samples.hdf5_files import (
    count_samples,
    iter_sample_blocks,
    read_masking,
    read_samples,
)
from dataset.samples.masking import Masker, masking_key
from pipeline.errors import StageError
from pipeline.store.artifacts import MANIFEST
from pipeline.store.record_files import read_record
from pretrain.optimization.batch_sizes import BatchSizes
from pretrain.optimization.masking_rate import MaskingRate
from pretrain.training.micro_batch import MicroBatch, collate

STEPS_AHEAD = 3
TOKEN_ARRAYS = {"input_ids", "masked_lm_ids"}
MOST_COUNTED = 2_000_000  # predictions, for token frequencies

Rates = Callable[[np.ndarray], float | np.ndarray]


@dataclass(frozen=True)
class Shard:
    path: Path
    num_samples: int


@dataclass(frozen=True)
class Slice:
    """Rows of one shard in training order. start: sample number of the first."""

    start: int
    shard: int
    rows: np.ndarray


def list_shards(dataset_path: Path, split: str) -> list[Shard]:
    """Returns the shards of "train" (every mask copy) or "test", by name, with their sizes.

    A manifest's list takes precedence over the folder: other shards would change the order of the
    samples. Raises FileNotFoundError if there are no shards, and StageError naming the file if one
    is missing, damaged or different from the manifest.
    """
    path = dataset_path / MANIFEST
    manifest = read_record(path)
    if manifest is None and path.exists():
        raise StageError(f"{path}: damaged; the dataset stage recreates it")
    listed = (manifest or {}).get("results", {}).get(f"{split}_shards")
    if listed:
        if not isinstance(listed, dict):
            raise StageError(f"{path}: damaged, it lists no shards")
        return [_listed_shard(dataset_path, name, listed[name]) for name in sorted(listed)]
    paths = sorted(dataset_path.glob(f"{split}_*.hdf5"))
    if not paths:
        raise FileNotFoundError(f"{dataset_path}: holds no {split}_*.hdf5")
    return [Shard(path, count_samples(path)) for path in paths]


def one_copy(shards: list[Shard]) -> list[Shard]:
    """Returns the first of the mask copies of each shard."""
    by_text: dict[str, Shard] = {}
    for shard in shards:
        split, number, *_ = shard.path.stem.split("_")
        by_text.setdefault(f"{split}_{number}", shard)
    return list(by_text.values())


def _listed_shard(dataset_path: Path, name: str, num_samples: int) -> Shard:
    path = dataset_path / name
    if Path(name).name != name:
        raise StageError(f"{dataset_path / MANIFEST} lists {name}, expected a file of that folder")
    if not path.exists():
        raise StageError(
            f"{path}: missing, but listed in {MANIFEST}; the dataset stage recreates it"
        )
    found = count_samples(path)
    if found != num_samples:
        raise StageError(
            f"{path}: holds {found} samples, expected {num_samples}, as {MANIFEST} says; "
            "delete it and run the dataset stage again"
        )
    return Shard(path, num_samples)


def sequence_length(path: Path) -> int:
    """Returns the number of tokens per sample of a shard."""
    with h5py.File(path) as file:
        return file["input_ids"].shape[1]


def check_ids(shard: Shard, vocab_size: int) -> None:
    """Raises StageError for token ids outside the vocabulary, from another tokenizer."""
    for rows in iter_sample_blocks(shard.path):
        largest = max(int(rows[name].max(initial=0)) for name in TOKEN_ARRAYS & rows.keys())
        if largest >= vocab_size:
            raise StageError(
                f"{shard.path}: holds the token {largest}, expected less than {vocab_size}, the "
                "size of the vocabulary; was it made with another tokenizer?"
            )


def count_predictions(shards: list[Shard], vocab_size: int) -> torch.Tensor:
    """Returns the predictions of each token, int64 [vocab_size], in roughly the first MOST_COUNTED.

    In samples stored without masks, every token counts that may be masked.
    """
    counts, never = np.zeros(vocab_size, dtype=np.int64), []
    for rows in chain.from_iterable(iter_sample_blocks(shard.path) for shard in shards):
        if "masked_lm_ids" in rows:
            found = rows["masked_lm_ids"][rows["masked_lm_positions"] > 0]
        else:
            found = rows["input_ids"][rows["input_mask"] > 0]
            never = list(read_masking(shards[0].path.parent).banned_ids)
        counts += np.bincount(found.astype(np.int64), minlength=vocab_size)
        counts[never] = 0
        if counts.sum() >= MOST_COUNTED:
            break
    return torch.from_numpy(counts)


class SampleOrder:
    """Maps sample numbers to rows of shards."""

    def __init__(self, shard_sizes: list[int], seed: int):
        self.shard_sizes = np.asarray(shard_sizes, dtype=np.int64)
        self.num_samples = int(self.shard_sizes.sum())
        self.seed = seed
        self._row_order = lru_cache(maxsize=1)(self._draw_row_order)
        self._shard_order = lru_cache(maxsize=2)(self._draw_shard_order)

    def slices(self, start: int, stop: int) -> Iterator[Slice]:
        """Yields the samples [start, stop) in order, a slice per shard."""
        while start < stop:
            epoch, offset = divmod(start, self.num_samples)
            order = self._shard_order(epoch)
            ends = np.cumsum(self.shard_sizes[order])
            place = int(np.searchsorted(ends, offset, side="right"))
            shard = int(order[place])
            first = offset - int(ends[place] - self.shard_sizes[shard])
            count = min(stop - start, int(ends[place]) - offset)
            yield Slice(start, shard, self._row_order(epoch, shard)[first : first + count])
            start += count

    def visits_before(self, sample: int) -> int:
        """Returns the number of shard visits completed before a sample."""
        epoch, offset = divmod(sample, self.num_samples)
        ends = np.cumsum(self.shard_sizes[self._shard_order(epoch)])
        return epoch * len(self.shard_sizes) + int(np.searchsorted(ends, offset, side="right"))

    def first_sample(self, visit: int) -> int:
        """Returns the number of the first sample of a shard visit."""
        epoch, place = divmod(visit, len(self.shard_sizes))
        before = self.shard_sizes[self._shard_order(epoch)][:place]
        return epoch * self.num_samples + int(before.sum())

    def _draw_shard_order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.shard_sizes))

    def _draw_row_order(self, epoch: int, shard: int) -> np.ndarray:
        generator = np.random.default_rng([self.seed, epoch, shard])
        return generator.permutation(int(self.shard_sizes[shard]))


class ShardReader:
    """Reads rows of shards, and masks those stored without masks. seed: of the masks.

    rates: returns the masking rates of sample numbers [N]; default: the dataset's. Keeps the most
    recent shard in memory.
    """

    def __init__(self, shards: Sequence[Shard], seed: int, rates: Rates | None = None):
        self.shards, self.rates = shards, rates
        self.held: tuple[int, dict[str, np.ndarray]] | None = None
        self.masker: Masker | None = None
        self.key = masking_key(seed)

    def rows(self, slices: Iterator[Slice]) -> dict[str, np.ndarray]:
        parts = [self._rows(piece) for piece in slices]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _rows(self, piece: Slice) -> dict[str, np.ndarray]:
        shard = self._shard(piece.shard)
        rows = {name: array[piece.rows] for name, array in shard.items()}
        if "masked_lm_ids" in rows:
            return rows
        if self.masker is None:
            self.masker = Masker(read_masking(self.shards[piece.shard].path.parent))
        numbers = piece.start + np.arange(len(piece.rows))
        rates = self.rates(numbers) if self.rates else None
        return rows | self.masker.mask(rows["input_ids"], self.key, piece.start, rates)._asdict()

    def _shard(self, number: int) -> dict[str, np.ndarray]:
        if self.held is None or self.held[0] != number:
            self.held = None  # never two shards in memory at once
            self.held = number, read_samples(self.shards[number].path)
        return self.held[1]


def _read_ahead(items: Iterator[list[MicroBatch]]) -> Generator[list[MicroBatch], None, None]:
    """Yields from an endless iterator, run in a thread STEPS_AHEAD items ahead."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="read ahead")
    try:
        waiting = deque(thread.submit(next, items) for _ in range(STEPS_AHEAD))
        while True:
            item = waiting.popleft().result()
            waiting.append(thread.submit(next, items))
            yield item
    finally:
        thread.shutdown(cancel_futures=True)


class PretrainDatasetProvider(AbstractContextManager):
    """Training batches of one rank, read ahead by a thread; use it in a `with` block.

    batch_sizes: samples per step over all ranks. micro_batch: samples per forward pass, a divisor
    of each rank's share of every batch. masking_rate: if it changes over the run.
    """

    def __init__(
        self,
        shards: list[Shard],
        seed: int,
        batch_sizes: BatchSizes,
        micro_batch: int,
        rank: int = 0,
        world_size: int = 1,
        masking_rate: MaskingRate | None = None,
    ):
        self.order = SampleOrder([shard.num_samples for shard in shards], seed)
        if self.order.num_samples == 0:
            raise ValueError(f"{shards[0].path.parent}: the training shards hold no samples")
        self.shards = shards
        self.batch_sizes, self.micro_batch = batch_sizes, micro_batch
        self.rank, self.world_size = rank, world_size
        self.masking_rate, self._progress = masking_rate, 0.0
        self.seconds_waited = 0.0  # for batches
        self.num_pairs = 0  # of tokens that attend to each other, in all batches so far
        self._ahead: Generator[list[MicroBatch], None, None] | None = None
        self._next_step = -1

    def num_visits(self, step: int) -> int:
        """Returns the shard visits, the manual's epochs, completed after `step` steps."""
        return self.order.visits_before(self.batch_sizes.samples_before(step))

    def first_step_of(self, visit: int) -> int:
        """Returns the first step of a shard visit."""
        return self.batch_sizes.first_step_at(self.order.first_sample(visit))

    def batch(self, step: int, progress: float = 0.0) -> list[MicroBatch]:
        """Returns this rank's micro batches of a step. Consecutive steps are read ahead.

        progress: of the run, for a masking rate that follows it, in batches read from now on.
        """
        self._progress = progress
        if self._ahead is None or step != self._next_step:
            self.close()
            self._ahead = _read_ahead(self._batches(step))
        self._next_step = step + 1
        begin = time.perf_counter()
        batch = next(self._ahead)
        self.seconds_waited += time.perf_counter() - begin
        self.num_pairs += sum(micro_batch.num_pairs for micro_batch in batch)
        return batch

    def _batches(self, step: int) -> Iterator[list[MicroBatch]]:
        rate = self.masking_rate
        rates = (lambda numbers: rate.at(numbers, self._progress)) if rate else None
        reader = ShardReader(self.shards, self.order.seed, rates)
        while True:
            share = self.batch_sizes.size(step) // self.world_size
            start = self.batch_sizes.samples_before(step) + self.rank * share
            rows = reader.rows(self.order.slices(start, start + share))
            batches = [
                collate({name: array[i : i + self.micro_batch] for name, array in rows.items()})
                for i in range(0, share, self.micro_batch)
            ]
            yield [batch.pinned() for batch in batches] if torch.cuda.is_available() else batches
            step += 1

    def rate_numbers(self, sample: int, progress: float) -> dict[str, float]:
        """Returns a changing masking rate for a line of metrics, else nothing."""
        return self.masking_rate.numbers(sample, progress) if self.masking_rate else {}

    def close(self) -> None:
        if self._ahead:
            self._ahead.close()
            self._ahead = None

    def __exit__(self, *exception) -> None:
        self.close()


def validation_batches(
    shards: list[Shard], num_samples: int, micro_batch: int, rank: int = 0, world_size: int = 1
) -> list[MicroBatch]:
    """Returns this rank's micro batches of the first `num_samples` rows of the shards (0: all).

    All ranks get the same number, since a forward pass may need all ranks; the last one of some
    ranks may have no predictions. Raises ValueError without any samples.
    """
    if not sum(shard.num_samples for shard in shards):
        raise ValueError(f"{shards[0].path.parent}: the test shards hold no samples to validate on")
    rows = _read_first_rows(shards, num_samples or sum(shard.num_samples for shard in shards))
    num_rows, stride = len(rows["input_ids"]), world_size * micro_batch
    batches = []
    for start in range(rank * micro_batch, rank * micro_batch + num_rows, stride):
        part = {name: array[start : start + micro_batch] for name, array in rows.items()}
        if start >= num_rows:
            part = {name: array[:1] for name, array in rows.items()}
            part["masked_lm_positions"] = np.zeros_like(part["masked_lm_positions"])
        batches.append(collate(part))
    return batches


def _read_first_rows(shards: list[Shard], wanted: int) -> dict[str, np.ndarray]:
    parts = []
    for shard in shards:
        if wanted > 0:
            parts.append({name: array[:wanted] for name, array in read_samples(shard.path).items()})
            wanted -= shard.num_samples
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
