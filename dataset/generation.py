"""Text shards to masked samples: each shard is tokenized once and masked once per copy.

A worker takes a whole shard. Its token rows go to a temporary file on disk, from which every copy
takes them in an order of its own, so that memory does not grow with the shard.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dataset.masking import Masking, mask_tokens
from dataset.packing import (
    BLOCK_ROWS,
    RowFormat,
    iter_article_tokens,
    iter_row_blocks,
    iter_samples,
)
from dataset.samples import read_attributes, sample_file_name, write_samples
from dataset.tokenizer import CorpusTokenizer, load_tokenizer
from pipeline.errors import StageError
from pipeline.executor import run_unordered

if TYPE_CHECKING:
    import numpy as np

SPLIT_CODES = {"train": 0, "test": 1}


@dataclass(frozen=True)
class SampleSettings:
    """What decides how text becomes samples; DATASET.* of the config."""

    max_seq_length: int
    masked_lm_prob: float
    max_predictions_per_seq: int
    short_seq_prob: float
    dup_factor: int
    seed: int


@dataclass(frozen=True)
class SampleJob:
    """All copies of a text shard."""

    text_shard: Path
    directory: Path
    tokenizer_dir: Path
    settings: SampleSettings
    fingerprint: str

    @property
    def split(self) -> str:
        return self.text_shard.stem.split("_")[0]

    @property
    def shard(self) -> int:
        return int(self.text_shard.stem.split("_")[1])

    @property
    def paths(self) -> list[Path]:
        copies = self.settings.dup_factor if self.split == "train" else 1
        names = [sample_file_name(self.split, self.shard, copy) for copy in range(copies)]
        return [self.directory / name for name in names]

    def rng(self, *purpose: int) -> "np.random.Generator":
        """Random numbers for a purpose; (0,): lengths, (1, copy): masks, (2, copy): order."""
        import numpy as np

        identity = [self.settings.seed, SPLIT_CODES[self.split], self.shard, *purpose]
        return np.random.default_rng(identity)


def generate_samples(
    text_shards: Sequence[Path],
    directory: Path,
    tokenizer_dir: Path,
    settings: SampleSettings,
    fingerprint: str,
    executor: Executor,
    advance: Callable[[float], None],
) -> dict:
    """Makes the samples of all shards, going on with what is there from the same inputs.

    advance: told the bytes of text that are done. Returns what the manifest records: num_samples
    of every file and in total, and counts of tokens. Raises StageError if a split has no samples.
    """
    for stray in directory.glob(".*.tmp"):  # of a run that was killed
        if stray.is_file():
            stray.unlink()
    jobs = [
        SampleJob(path, directory, tokenizer_dir, settings, fingerprint) for path in text_shards
    ]
    counts_of = {}
    for job, counts in run_unordered(executor, write_sample_files, jobs):
        counts_of[job] = counts
        advance(job.text_shard.stat().st_size)
    return summarize(counts_of, load_tokenizer(tokenizer_dir).vocab_size)


def summarize(counts_of: dict[SampleJob, dict], vocab_size: int) -> dict:
    """The results of the stage out of the counts of each shard."""
    shards: dict[str, dict[str, int]] = {"train": {}, "test": {}}
    totals = {"train": Counter(), "test": Counter()}
    for job, counts in counts_of.items():
        totals[job.split].update(counts)
        if counts["samples"]:
            shards[job.split].update({path.name: counts["samples"] for path in job.paths})
    for split, files in shards.items():
        if not files:
            raise StageError(f"the {split} part of the corpus has no tokens")
    both = totals["train"] + totals["test"]
    return {
        "num_train_samples": totals["train"]["samples"],
        "num_train_shards": len({name.split("_")[1] for name in shards["train"]}),
        "num_test_samples": totals["test"]["samples"],
        "num_test_shards": len(shards["test"]),
        "num_tokens": both["tokens"],
        "num_unknown_tokens": both["unknown"],
        "num_padding": both["padding"],
        "vocab_size": vocab_size,
        "train_shards": dict(sorted(shards["train"].items())),
        "test_shards": dict(sorted(shards["test"].items())),
    }


# --- one shard -------------------------------------------------------------------------------


def write_sample_files(job: SampleJob) -> dict:
    """Writes the files of a shard that are not there yet. Returns its counts.

    A shard without tokens has no files.
    """
    missing = [path for path in job.paths if not is_done(path, job.fingerprint)]
    if not missing:
        return read_attributes(job.paths[0])["counts"]
    tokenizer = load_tokenizer(job.tokenizer_dir)
    with token_rows(job, tokenizer) as (rows, counts):
        for path in missing if len(rows) else []:
            blocks = iter_masked_blocks(job, rows, tokenizer, job.paths.index(path))
            write_samples(path, blocks, len(rows), job.fingerprint, counts)
    return counts


def is_done(path: Path, fingerprint: str) -> bool:
    return path.exists() and read_attributes(path)["fingerprint"] == fingerprint


@contextmanager
def token_rows(
    job: SampleJob, tokenizer: CorpusTokenizer
) -> Iterator[tuple["np.ndarray", dict[str, int]]]:
    """Token rows [N, L] (int32) of a shard, mapped from a temporary file, and their counts."""
    import numpy as np

    ids = tokenizer.special_ids
    length = job.settings.max_seq_length
    row_format = RowFormat(
        max_seq_length=length,
        short_seq_prob=job.settings.short_seq_prob,
        cls_id=ids["cls_token"],
        sep_id=ids["sep_token"],
        pad_id=ids["pad_token"],
    )
    counts = Counter(samples=0, tokens=0, unknown=0, padding=0)
    path = job.directory / f".{job.text_shard.stem}.rows.tmp"
    try:
        with open(path, "wb") as file:
            pieces = iter_article_tokens(job.text_shard, tokenizer.encode)
            samples = iter_samples(pieces, row_format, job.rng(0))
            for block in iter_row_blocks(samples, row_format, counts):
                counts["unknown"] += int((block == ids["unk_token"]).sum())
                block.tofile(file)
        shape = (counts["samples"], length)
        rows = np.memmap(path, np.int32, "r", shape=shape) if counts["samples"] else []
        yield rows, dict(counts)
    finally:
        path.unlink(missing_ok=True)


def iter_masked_blocks(
    job: SampleJob, rows: "np.ndarray", tokenizer: CorpusTokenizer, copy: int
) -> Iterator[dict[str, "np.ndarray"]]:
    """Yields one mask copy of the rows, shuffled, in blocks as `write_samples` takes them."""
    import numpy as np

    masking = Masking(
        mask_id=tokenizer.special_ids["mask_token"],
        vocab_size=tokenizer.vocab_size,
        banned_ids=tokenizer.banned_ids,
        masked_lm_prob=job.settings.masked_lm_prob,
        max_predictions_per_seq=job.settings.max_predictions_per_seq,
    )
    id_type = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.int32
    order = job.rng(2, copy).permutation(len(rows))
    rng = job.rng(1, copy)
    for begin in range(0, len(rows), BLOCK_ROWS):
        block = rows[order[begin : begin + BLOCK_ROWS]].astype(id_type)
        input_ids, positions, original = mask_tokens(block, masking, rng)
        yield {
            "input_ids": input_ids,
            "input_mask": (block != tokenizer.special_ids["pad_token"]).astype(np.uint8),
            "segment_ids": np.zeros_like(block, dtype=np.uint8),
            "masked_lm_positions": positions.astype(np.uint16),
            "masked_lm_ids": original,
        }
