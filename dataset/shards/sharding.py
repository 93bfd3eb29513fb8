"""Raw text to text shards: a shuffle on disk, in memory independent of the corpus.

1. The sources are cut into parts. A worker streams a part, splits its articles into sentences,
   and writes a run: the part's sentences grouped by shard.
2. A shard is the concatenation of its groups from all runs.

Split and shard of an article are drawn from a hash of the seed and the article's identity: the
bytes depend neither on the number of workers nor on their order. Every run and shard has a record
with its fingerprint, written after it, and is not made again.

A text shard holds one sentence per line and a blank line after each article, or after each section
of an article longer than a shard.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from itertools import count, islice
from pathlib import Path

from dataset.shards.file_records import is_as_recorded, read_record, write_record
from dataset.shards.shuffle_runs import RunWriter, copy_shard
from dataset.shards.split_plan import HASH_RANGE, Census, Layout, with_both_splits
from dataset.sources.article_stream import MAX_NOTES, Tally
from dataset.sources.registry import Slice, group_slices, number_of_source
from dataset.workers import Workers
from pipeline.runtime.executor import run_unordered
from pipeline.store.atomic_files import write_sealed, written_aside
from pipeline.store.checksums import fingerprint
from pipeline.store.record_files import read_sealed

SUMMARY = "shards.json"
COLUMNS = ("bytes", "articles", "sentences")


# --- jobs ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunJob:
    """Sentences of a part to a run."""

    path: Path
    part: tuple[Slice, ...]
    layout: Layout
    fingerprint: str
    buffer_bytes: int
    language: str

    @property
    def num_bytes(self) -> int:
        return sum(text_slice.num_bytes for text_slice in self.part)


def run_path(directory: Path, number: int) -> Path:
    return directory / "runs" / f"{number:06d}.run"


def write_run(job: RunJob) -> dict:
    """Splits a part into sentences and writes them grouped by shard.

    Returns its record: the `census` of its articles, `counts` and `notes` on dropped text.
    """
    record = read_record(job.path, job.fingerprint)
    if record:
        return record
    tally = Tally()
    with written_aside(job.path) as aside, open(aside, "wb") as file:
        run = RunWriter(file, job.layout, job.buffer_bytes, job.language)
        for text_slice in job.part:
            with tally.of_file(text_slice.path):
                run.add_all(text_slice, tally)
        run.finish()
    return write_record(
        job.path,
        job.fingerprint,
        census=asdict(run.census),
        counts=tally.counts,
        notes=tally.notes,
    )


@dataclass(frozen=True)
class ShardJob:
    """Groups of all runs to a shard.

    num_runs: of each source; a single number, of all runs, if the sources are not told apart.
    """

    path: Path
    number: int
    num_runs: tuple[int, ...]
    fingerprint: str
    by_source: bool = False


def write_shard(job: ShardJob) -> dict:
    """Concatenates a shard's groups. Returns its record: bytes, articles, sentences.

    `by_source`, if asked for, is a list of these for each source.
    """
    record = read_record(job.path, job.fingerprint)
    if record:
        return record
    runs, parts = count(), []
    with written_aside(job.path) as aside, open(aside, "wb") as file:
        for num_runs in job.num_runs:
            part: Counter = Counter(dict.fromkeys(COLUMNS, 0))
            for run in islice(runs, num_runs):
                sizes = copy_shard(run_path(job.path.parent, run), job.number, file)
                part.update(dict(zip(COLUMNS, sizes, strict=True)))
            parts.append(part)
    totals = {column: sum(part[column] for part in parts) for column in COLUMNS}
    more = {"by_source": parts} if job.by_source else {}
    return write_record(job.path, job.fingerprint, **totals, **more)


# --- both steps ------------------------------------------------------------------------------


def write_text_shards(
    slices: list[Slice],
    directory: Path,
    layout: Layout,
    inputs_fingerprint: str,
    workers: Workers,
    advance: Callable[[float], None],
    language: str,
    num_sources: int = 0,
) -> dict:
    """Makes all text shards in `directory`, resuming unfinished work with the same inputs.

    advance: called with the bytes of text done. num_sources: of the slices, to count each apart;
    the text is the same without it.
    Returns and writes to shards.json `{"fingerprint", "shards": {file name: {"bytes", "articles",
    "sentences"}}, "counts", "notes", "frac_test", "largest_held_out", "is_one_article"}`: counts
    and notes of dropped text, the wanted held-out share, the sizes of the largest held-out
    articles, and True for a corpus of one article, whose end is held out. With `num_sources`, the
    numbers of a shard include `by_source`, a list of the three for each source. Raises StageError
    for fewer than two sentences.
    """
    parts = group_slices(slices, by_source=num_sources > 0)
    executor, buffer_bytes = workers.executor, workers.buffer_bytes
    runs_of_source = Counter(number_of_source(part[0]) for part in parts)
    num_runs = tuple(runs_of_source[n] for n in range(num_sources)) or (len(parts),)

    def run_jobs(layout: Layout) -> Iterator[RunJob]:
        identity = fingerprint({"inputs": inputs_fingerprint, "layout": asdict(layout)})
        for number, part in enumerate(parts):
            path = run_path(directory, number)
            yield RunJob(path, part, layout, identity, buffer_bytes, language)

    asked = layout.test_draws / HASH_RANGE
    layout, tally, largest = _write_runs(run_jobs, layout, directory, executor, advance)
    identity = fingerprint({"inputs": inputs_fingerprint, "layout": asdict(layout)})
    shard_jobs = [
        ShardJob(directory / name, number, num_runs, identity, by_source=num_sources > 0)
        for number, name in enumerate(layout.shard_names())
    ]
    found = {job.path.name: x for job, x in run_unordered(executor, write_shard, shard_jobs)}
    records = {name: found[name] for name in layout.shard_names()}
    summary = {
        "fingerprint": inputs_fingerprint,
        "shards": {
            name: {key: record[key] for key in (*COLUMNS, "by_source") if key in record}
            for name, record in records.items()
        },
        "counts": dict(tally.counts),
        "notes": tally.notes,
        "frac_test": asked,
        "largest_held_out": list(largest),
        "is_one_article": layout.first_test_sentence > 0,
    }
    write_sealed(directory / SUMMARY, summary)
    shutil.rmtree(directory / "runs")
    return summary


def _write_runs(
    run_jobs: Callable[[Layout], Iterable[RunJob]],
    layout: Layout,
    directory: Path,
    executor: Executor,
    advance: Callable[[float], None],
) -> tuple[Layout, Tally, tuple[int, ...]]:
    """Writes all runs; repeats them with another layout if a split would be empty.

    Returns the layout, the tally of dropped text and the sizes of the largest held-out articles.
    Stores the other layout, which an interrupted run resumes with.
    """
    store = directory / "runs" / "layout.json"
    asked = asdict(layout)
    known = read_sealed(store)
    if known and known["asked"] == asked:
        layout = Layout(**known["found"])
    records = _run_all(run_jobs(layout), executor, advance)
    tally = _tally_of(records)
    if not layout.first_test_sentence:
        found = with_both_splits(layout, _census_of(records), str(tally))
        if found != layout:
            write_sealed(store, {"asked": asked, "found": asdict(found)})
            records, layout = _run_all(run_jobs(found), executor, lambda amount: None), found
    return layout, _tally_of(records), _census_of(records).largest


def _census_of(records: Iterable[dict]) -> Census:
    censuses = (record["census"] for record in records)  # of JSON, which has no tuples
    return sum((Census(**{**c, "nearest": tuple(c["nearest"])}) for c in censuses), Census())


def _tally_of(records: Iterable[dict]) -> Tally:
    tally = Tally()
    for record in records:
        tally.counts.update(record["counts"])
        tally.notes += record["notes"][: MAX_NOTES - len(tally.notes)]
    return tally


def _run_all(
    jobs: Iterable[RunJob], executor: Executor, advance: Callable[[float], None]
) -> list[dict]:
    """Writes runs. Returns their records in the order of the parts."""
    records = {}
    for job, record in run_unordered(executor, write_run, jobs):
        records[job.path] = record
        advance(job.num_bytes)
    return [records[path] for path in sorted(records)]


def read_summary(directory: Path) -> dict | None:
    """Returns the summary by `write_text_shards`, None if it is missing or shards are."""
    summary = read_sealed(directory / SUMMARY)
    # Compares names, as a path could lead out of the folder.
    complete = (
        summary
        and {"fingerprint", "shards", "counts", "notes"} <= summary.keys()
        and set(summary["shards"]) <= set(os.listdir(directory))
    )
    return summary if complete else None


def damaged_shards(directory: Path, summary: dict, executor: Executor) -> list[str]:
    """Returns the names of the shards whose checksum no longer matches."""
    paths = (directory / name for name in summary["shards"])
    checked = run_unordered(executor, is_as_recorded, paths)
    return sorted(path.name for path, is_intact in checked if not is_intact)
