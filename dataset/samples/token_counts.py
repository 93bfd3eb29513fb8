"""Counts the tokens of each source in the training text, for the mixture by DATASET.WEIGHTS."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from dataset.samples.generation import encoder_of
from dataset.samples.mixture import SourceTokens
from dataset.samples.packing import iter_article_tokens
from dataset.shards.file_records import record_path
from dataset.shards.passages import NUM_DRAWS, Passage
from pipeline.runtime.executor import run_unordered
from pipeline.store.atomic_files import write_sealed
from pipeline.store.record_files import read_sealed


@dataclass(frozen=True)
class CountJob:
    """The passages of all sources in one text shard."""

    passages: tuple[Passage, ...]
    tokenizer_dir: Path
    fingerprint: str

    @property
    def record(self) -> Path:
        path = record_path(self.passages[0].path)
        return path.with_name(f"{path.stem}.tokens.json")

    @property
    def num_bytes(self) -> int:
        return sum(passage.num_bytes for passage in self.passages)


def count_tokens(
    sources: Sequence[Sequence[Passage]],
    names: Sequence[str],
    tokenizer_dir: Path,
    fingerprint: str,
    executor: Executor,
    advance: Callable[[float], None],
) -> list[SourceTokens]:
    """Counts the tokens of each source's articles, by draw; resumes an unfinished count.

    sources: passages, one in each shard. advance: receives the bytes of each finished shard.
    """
    totals = [[0] * NUM_DRAWS for _ in sources]
    jobs = (CountJob(shard, tokenizer_dir, fingerprint) for shard in zip(*sources, strict=True))
    for job, counts in run_unordered(executor, count_shard, jobs):
        for total, found in zip(totals, counts, strict=True):
            for draw, tokens in found.items():
                total[int(draw)] += tokens
        advance(job.num_bytes)
    return [SourceTokens(name, total) for name, total in zip(names, totals, strict=True)]


def count_shard(job: CountJob) -> list[dict[str, int]]:
    """Returns {draw: tokens of the articles with it} for each source in a shard."""
    record = read_sealed(job.record) or {}
    if record.get("fingerprint") == job.fingerprint:
        return record["tokens"]
    encoder = encoder_of(job.tokenizer_dir, job.fingerprint)
    counts = []
    for passage in job.passages:
        by_draw: Counter[str] = Counter()
        number = 0
        for ids, ends in iter_article_tokens(passage, encoder.encode):
            by_draw[str(passage.draw(number))] += len(ids)
            number += ends
        counts.append(dict(by_draw))
    write_sealed(job.record, {"fingerprint": job.fingerprint, "tokens": counts})
    return counts
