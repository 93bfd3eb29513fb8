"""Raw text to text shards: a shuffle on disk whose memory does not grow with the corpus.

1. The sources are cut into parts of fixed size. A worker streams a part, splits its articles into
   sentences, and writes a run: the part's articles grouped by the shard that they belong to.
2. A shard is the concatenation of its groups from all runs.

Split and shard of an article are drawn from a hash of the seed and the article's identity, so the
bytes depend neither on the number of workers nor on the order in which they finish. Every run and
shard has a record with its fingerprint, written after it: what is finished is not made again.

A text shard holds one sentence per line and a blank line after each article.
"""

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from pathlib import Path

from dataset.layout import Layout, with_both_splits
from dataset.sources import Slice, group_slices
from pipeline.artifacts import fingerprint, read_json, write_json, written_aside
from pipeline.executor import run_unordered

PART_BYTES = 32 << 20  # a run is grouped in memory, so this bounds a worker
SPLITS = ("train", "test")
SUMMARY = "shards.json"


# --- runs ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunJob:
    path: Path
    part: tuple[Slice, ...]
    layout: Layout
    fingerprint: str

    @property
    def num_bytes(self) -> int:
        return sum(piece.num_bytes for piece in self.part)


def write_run(job: RunJob) -> dict:
    """Segments a part and writes its articles grouped by shard.

    Returns its record: `groups` lists [split, shard, offset, bytes, articles, sentences];
    `draws` is the smallest and the largest draw; `counts` is what was read and dropped.
    """
    record = read_record(job.path, job.fingerprint)
    if record:
        return record
    counts: Counter = Counter()
    texts, sizes, draws = defaultdict(list), defaultdict(Counter), set()
    for draw, sentences in iter_segmented(job.part, job.layout, counts):
        group = job.layout.place(draw)
        texts[group].append("\n".join([*sentences, "\n"]).encode())
        sizes[group].update(articles=1, sentences=len(sentences))
        draws.add(draw[0])
    groups = []
    with written_aside(job.path) as aside, open(aside, "wb") as file:
        for (split, shard), articles in sorted(texts.items()):
            size, offset = sizes[split, shard], file.tell()
            file.writelines(articles)
            length = file.tell() - offset
            groups.append([split, shard, offset, length, size["articles"], size["sentences"]])
    extremes = [min(draws), max(draws)] if draws else []
    return write_record(job.path, job.fingerprint, groups=groups, draws=extremes, counts=counts)


def iter_segmented(
    part: tuple[Slice, ...], layout: Layout, counts: Counter
) -> Iterator[tuple[tuple[int, int], list[str]]]:
    """Yields (draw, sentences) of each article that is not empty."""
    for piece in part:
        for position, text in piece.articles(counts):
            sentences = segment(text)
            if sentences:
                yield layout.draw(piece.name, position), sentences
            else:
                counts["empty_articles"] += 1


def segment(text: str) -> list[str]:
    """Sentences of an article. Every run of white space becomes one space."""
    import sentencex

    sentences = (sentence.strip() for sentence in sentencex.segment("en", " ".join(text.split())))
    return [sentence for sentence in sentences if sentence]


# --- shards ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ShardJob:
    """ranges: (run file, offset, bytes) in the order of the runs."""

    path: Path
    ranges: tuple[tuple[Path, int, int], ...]
    num_articles: int
    num_sentences: int
    fingerprint: str

    @property
    def num_bytes(self) -> int:
        return sum(length for _, _, length in self.ranges)


def write_shard(job: ShardJob) -> dict:
    """Concatenates a shard's groups. Returns its record: bytes, articles, sentences."""
    record = read_record(job.path, job.fingerprint)
    if record:
        return record
    with written_aside(job.path) as aside, open(aside, "wb") as file:
        for run, offset, length in job.ranges:
            with open(run, "rb") as source:
                source.seek(offset)
                file.write(source.read(length))
    return write_record(
        job.path,
        job.fingerprint,
        bytes=job.num_bytes,
        articles=job.num_articles,
        sentences=job.num_sentences,
    )


def plan_shards(runs: list[tuple[RunJob, dict]], directory: Path, layout: Layout) -> list[ShardJob]:
    """The shards of both splits, empty ones included. runs: in the order of the parts."""
    groups = defaultdict(list)
    for job, record in runs:
        for split, shard, offset, length, articles, sentences in record["groups"]:
            groups[split, shard].append((job.path, offset, length, articles, sentences))
    numbers = {"train": layout.num_train_shards, "test": layout.num_test_shards}
    return [
        ShardJob(
            directory / shard_name(split, shard),
            tuple(group[:3] for group in groups[split, shard]),
            sum(group[3] for group in groups[split, shard]),
            sum(group[4] for group in groups[split, shard]),
            runs[0][0].fingerprint,
        )
        for split in SPLITS
        for shard in range(numbers[split])
    ]


def shard_name(split: str, shard: int) -> str:
    return f"{split}_{shard:05d}.txt"


# --- both steps ------------------------------------------------------------------------------


def write_text_shards(
    slices: list[Slice],
    directory: Path,
    layout: Layout,
    inputs_fingerprint: str,
    executor: Executor,
    advance: Callable[[float], None],
    part_bytes: int = PART_BYTES,
) -> dict:
    """Makes all text shards in `directory`, going on with what is there from the same inputs.

    advance: told the bytes of text that are done. Returns and writes to shards.json
    `{"fingerprint", "shards": {file name: {"bytes", "articles", "sentences"}}, "counts"}`.
    Raises StageError if there are fewer than two articles.
    """
    done = read_summary(directory)
    if done and done["fingerprint"] == inputs_fingerprint:
        return done
    parts = group_slices(slices, part_bytes)
    layout, runs = _write_runs(parts, directory, layout, inputs_fingerprint, executor, advance)
    jobs = plan_shards(runs, directory, layout)
    records = {job.path.name: result for job, result in run_unordered(executor, write_shard, jobs)}
    counts = sum((Counter(record["counts"]) for _, record in runs), Counter())
    columns = ("bytes", "articles", "sentences")
    shards = {job.path.name: {key: records[job.path.name][key] for key in columns} for job in jobs}
    summary = {"fingerprint": inputs_fingerprint, "shards": shards, "counts": dict(counts)}
    write_json(directory / SUMMARY, summary)
    shutil.rmtree(directory / "runs")
    return summary


def read_summary(directory: Path) -> dict | None:
    """What `write_text_shards` returned, or None if it has not finished or files are missing."""
    summary = read_json(directory / SUMMARY)
    complete = summary and all((directory / name).exists() for name in summary["shards"])
    return summary if complete else None


def _write_runs(
    parts: list[tuple[Slice, ...]],
    directory: Path,
    layout: Layout,
    inputs_fingerprint: str,
    executor: Executor,
    advance: Callable[[float], None],
) -> tuple[Layout, list[tuple[RunJob, dict]]]:
    """Writes all runs; once more with another layout if a split would stay empty."""
    identity = fingerprint({"inputs": inputs_fingerprint, "layout": asdict(layout)})
    jobs = [
        RunJob(directory / "runs" / f"{number:06d}.run", part, layout, identity)
        for number, part in enumerate(parts)
    ]
    records = {}
    for job, record in run_unordered(executor, write_run, jobs):
        records[job.path] = record
        advance(job.num_bytes)
    runs = [(job, records[job.path]) for job in jobs]
    adjusted = with_both_splits(layout, [record["draws"] for _, record in runs if record["draws"]])
    if adjusted == layout:
        return layout, runs
    return _write_runs(
        parts, directory, adjusted, inputs_fingerprint, executor, lambda amount: None
    )


# --- records ---------------------------------------------------------------------------------


def record_path(path: Path) -> Path:
    return path.parent / "records" / f"{path.name}.json"


def read_record(path: Path, wanted_fingerprint: str) -> dict | None:
    """The record of a finished file, or None if it is not finished or from other inputs."""
    record = read_json(record_path(path))
    if not record or record["fingerprint"] != wanted_fingerprint or not path.exists():
        return None
    return record


def write_record(path: Path, own_fingerprint: str, **content) -> dict:
    record = json.loads(json.dumps({"fingerprint": own_fingerprint, **content}))
    write_json(record_path(path), record)
    return record
