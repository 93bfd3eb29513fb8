"""Makes samples from text shards: each shard is tokenized once, and masked once per copy.

A worker streams a shard block by block into the files of all copies, so memory does not grow with
the shard.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset.samples.hdf5_files import SampleWriter, sample_file_name, write_masking
from dataset.samples.masking import Masker, Masking, masking_key
from dataset.samples.mixture import Mixture
from dataset.samples.next_sentence import iter_pair_blocks, iter_pairs
from dataset.samples.packing import (
    HISTOGRAM_BINS,
    RowFormat,
    iter_article_tokens,
    iter_row_blocks,
    iter_samples,
)
from dataset.shards.file_records import read_record, write_record
from dataset.shards.passages import Passage, whole_shard
from dataset.tokenizers.cached_encoder import WordEncoder
from dataset.tokenizers.load import CorpusTokenizer, load_tokenizer
from pipeline.errors import StageError
from pipeline.runtime.executor import run_unordered

if TYPE_CHECKING:
    import numpy as np

SPLIT_CODES = {"train": 0, "test": 1}
LENGTHS, MASKS = 0, 1  # purposes of random numbers
ONLY_COPY = -1


@dataclass(frozen=True)
class SampleSettings:
    """The settings of samples, from DATASET.* of the config."""

    max_seq_length: int
    masked_lm_prob: float
    max_predictions_per_seq: int
    short_seq_prob: float
    dup_factor: int
    seed: int
    masking: str = "static"
    mask_token_share: float = 0.8
    random_token_share: float = 0.1
    whole_word_masking: bool = False
    packing: bool = False
    next_sentence_prediction: bool = False

    def row_format(self, tokenizer: CorpusTokenizer) -> RowFormat:
        return RowFormat(
            max_seq_length=self.max_seq_length,
            short_seq_prob=self.short_seq_prob,
            packed=self.packing,
            cls_id=tokenizer.special_ids["cls_token"],
            sep_id=tokenizer.special_ids["sep_token"],
            pad_id=tokenizer.special_ids["pad_token"],
        )

    def masking_of(self, tokenizer: CorpusTokenizer) -> Masking:
        return Masking(
            mask_id=tokenizer.special_ids["mask_token"],
            vocab_size=tokenizer.vocab_size,
            banned_ids=tokenizer.banned_ids,
            continuing_ids=tokenizer.continuing_ids() if self.whole_word_masking else (),
            masked_lm_prob=self.masked_lm_prob,
            max_predictions_per_seq=self.max_predictions_per_seq,
            mask_token_share=self.mask_token_share,
            random_token_share=self.random_token_share,
        )


@dataclass(frozen=True)
class SampleJob:
    """A text shard, and the sample files of all its copies.

    passages: the text of the samples, which may come from other shards; None: the whole shard.
    """

    text_shard: Path
    directory: Path
    tokenizer_dir: Path
    settings: SampleSettings
    fingerprint: str
    passages: tuple[Passage, ...] | None = None

    @property
    def split(self) -> str:
        return self.text_shard.stem.split("_")[0]

    @property
    def shard(self) -> int:
        return int(self.text_shard.stem.split("_")[1])

    @property
    def masked(self) -> bool:
        """True with static masking; the held-out part is always masked, once."""
        return self.split == "test" or self.settings.masking == "static"

    @property
    def paths(self) -> dict[int, Path]:
        """Returns the file of each copy."""
        is_single = self.split == "test" or not self.masked
        copies = [ONLY_COPY] if is_single else range(self.settings.dup_factor)
        names = {copy: sample_file_name(self.split, self.shard, copy) for copy in copies}
        return {copy: self.directory / name for copy, name in names.items()}

    @property
    def identity(self) -> tuple[int, int, int]:
        """Returns the seed of the shard's random numbers."""
        return self.settings.seed, SPLIT_CODES[self.split], self.shard


def generate_samples(
    text_shards: Sequence[Path],
    directory: Path,
    tokenizer_dir: Path,
    settings: SampleSettings,
    fingerprint: str,
    executor: Executor,
    advance: Callable[[float], None],
    mixture: Mixture | None = None,
) -> dict[str, Any]:
    """Makes the samples of all shards; resumes an unfinished run with the same inputs.

    advance: receives the size in bytes of each finished shard. mixture: of the training text; None
    takes all of it once. Returns the manifest's results: num_samples of each file and in total, and
    counts of tokens. Raises StageError if a split has no samples.
    """
    tokenizer = load_tokenizer(tokenizer_dir)
    if settings.masking == "dynamic":
        write_masking(directory, settings.masking_of(tokenizer))
    jobs = (
        SampleJob(path, directory, tokenizer_dir, settings, fingerprint) for path in text_shards
    )
    if mixture:
        jobs = (
            replace(job, passages=mixture.text_of(job.shard)) if job.split == "train" else job
            for job in jobs
        )
    shards: dict[str, dict[str, int]] = {"train": {}, "test": {}}
    totals: dict[str, Counter[str]] = {"train": Counter(), "test": Counter()}
    for job, counts in run_unordered(executor, write_sample_files, jobs):
        advance(job.text_shard.stat().st_size)
        totals[job.split].update(counts, shards=bool(counts["rows"]))
        if counts["rows"]:
            shards[job.split].update({path.name: counts["rows"] for path in job.paths.values()})
    return _summarize(shards, totals) | {
        "vocab_size": tokenizer.vocab_size,
        "max_seq_length": settings.max_seq_length,
        "masking": settings.masking,
        "packed": settings.packing,
        "next_sentence": settings.next_sentence_prediction,
        "max_predictions_per_seq": settings.max_predictions_per_seq,
        "masked_lm_prob": settings.masked_lm_prob,
    }


def _summarize(
    shards: dict[str, dict[str, int]], totals: dict[str, Counter[str]]
) -> dict[str, Any]:
    """Returns the results of the stage, from the files and counts of each split."""
    for split, files in shards.items():
        if not files:
            raise StageError(f"the {split} part of the corpus has no tokens")
    for split, counts in totals.items():
        if not counts["predicted"]:
            raise StageError(
                f"no token of the {split} part can be predicted ({counts['unknown']:,} of "
                f"{counts['tokens']:,} are unknown), expected a tokenizer that knows the text"
            )
    both, train = totals["train"] + totals["test"], totals["train"]
    return {
        "num_train_samples": totals["train"]["rows"],
        "num_train_shards": totals["train"]["shards"],
        "num_test_samples": totals["test"]["rows"],
        "num_test_shards": totals["test"]["shards"],
        "num_tokens": both["tokens"],
        "num_unknown_tokens": both["unknown"],
        "num_padding": both["padding"],
        "num_positions": both["tokens"] + both["specials"] + both["padding"],
        "masked_share": train["predicted"] / train["predicted_of"],
        "random_share": both["random"] / both["samples"],
        "lengths": [both[f"length_{number:02d}"] for number in range(HISTOGRAM_BINS)],
        "train_shards": dict(sorted(shards["train"].items())),
        "test_shards": dict(sorted(shards["test"].items())),
    }


# --- one shard -------------------------------------------------------------------------------


def write_sample_files(job: SampleJob) -> dict[str, int]:
    """Writes the missing and damaged files of a shard. Returns its counts.

    A shard without tokens has no files.
    """
    records = {path: read_record(path, job.fingerprint) for path in job.paths.values()}
    finished = [record for record in records.values() if record]
    if len(finished) == len(records):
        return finished[0]["counts"]
    encoder = encoder_of(job.tokenizer_dir, job.fingerprint)
    counts = Counter(samples=0, rows=0, tokens=0, unknown=0, padding=0)
    blocks = iter_row_blocks_of(job, encoder, counts)
    first = next(blocks, None)
    if first is None:
        return dict(counts)
    masker = Masker(job.settings.masking_of(encoder.tokenizer))
    with ExitStack() as files:
        writers = {
            copy: files.enter_context(SampleWriter(path, job.fingerprint))
            for copy, path in job.paths.items()
            if not records[path]
        }
        _write_blocks(job, chain([first], blocks), writers, masker, counts)
        for writer in writers.values():
            writer.finish(counts)
    for writer in writers.values():
        write_record(writer.path, job.fingerprint, counts=counts)
    return dict(counts)


@lru_cache(maxsize=1)
def encoder_of(tokenizer_dir: Path, fingerprint: str) -> WordEncoder:
    """Returns the encoder of a dataset; a worker keeps it, with its cache, between shards."""
    return WordEncoder(load_tokenizer(tokenizer_dir))


def iter_row_blocks_of(
    job: SampleJob, encoder: WordEncoder, counts: Counter[str]
) -> Iterator[dict[str, "np.ndarray"]]:
    """Yields the unmasked rows of a shard in blocks, and counts them."""
    import numpy as np

    row_format = job.settings.row_format(encoder.tokenizer)
    passages = (whole_shard(job.text_shard),) if job.passages is None else job.passages
    rng = np.random.default_rng([*job.identity, LENGTHS])
    if job.settings.next_sentence_prediction:
        pairs = iter_pairs(passages, encoder.encode, row_format, rng)
        blocks = iter_pair_blocks(pairs, row_format, counts)
    else:
        articles = chain.from_iterable(iter_article_tokens(p, encoder.encode) for p in passages)
        blocks = iter_row_blocks(iter_samples(articles, row_format, rng), row_format, counts)
    unknown_id = encoder.tokenizer.special_ids["unk_token"]
    for block in blocks:
        counts["unknown"] += int((block["input_ids"] == unknown_id).sum())
        yield block


def _write_blocks(
    job: SampleJob,
    blocks: Iterable[dict[str, "np.ndarray"]],
    writers: Mapping[int, SampleWriter],
    masker: Masker,
    counts: Counter[str],
) -> None:
    """Writes all blocks to the files of all copies. writers: by copy.

    Adds the predicted tokens of the first block to counts, and the tokens it has. They are always
    those of the first copy, even if only other copies are written; without static masking, those of
    one epoch.
    """
    keys = {copy: masking_key(*job.identity, MASKS, copy + 1) for copy in job.paths}
    first_sample = 0
    for block in blocks:
        ids = block["input_ids"]
        if not first_sample:
            positions = masker.mask(ids, keys[next(iter(keys))]).masked_lm_positions
            counts["predicted"] += int((positions > 0).sum())
            counts["predicted_of"] += counts["tokens"]  # only this block's so far
        for copy, writer in writers.items():
            masks = masker.mask(ids, keys[copy], first_sample)._asdict() if job.masked else {}
            writer.write({**block, **masks})
        first_sample += len(ids)
