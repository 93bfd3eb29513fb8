"""The text shards of a dataset: made, resumed, or taken from the dataset of an earlier phase."""

import shutil
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

from dataset.card import text_lines
from dataset.plan import DatasetPlan
from dataset.shards.sharding import damaged_shards, read_summary, write_text_shards
from dataset.shards.split_plan import ShardSettings, plan_layout
from dataset.sources.registry import Source, hub_repository, open_sources, pinned, problem_with
from dataset.workers import Workers
from pipeline.console import Console
from pipeline.errors import StageError
from pipeline.store.artifacts import Artifact
from pipeline.store.atomic_files import write_sealed
from pipeline.store.record_files import read_sealed

COMMITS = "commits.json"  # of datasets from the Hub, beside the text shards


def text_shards_of(
    plan: DatasetPlan, settings: ShardSettings, workers: Workers, console: Console
) -> tuple[Artifact, dict]:
    """Returns the summary of a planned dataset's text shards, and the dataset that holds them.

    Makes them, unless a dataset of an earlier phase has the same ones.
    """
    if plan.text_from and (found := shared_text_shards(plan.text_from, workers.executor)):
        return plan.text_from.artifact, found
    artifact, weights = plan.artifact, plan.artifact.inputs.get("DATASET.WEIGHTS")
    # Absolute: the workers of a cluster have other working directories.
    text_dir, identity = artifact.parts[0].absolute(), artifact.fingerprint
    sources = list(plan.sources)
    text = make_text_shards(
        sources, text_dir, settings, identity, workers, console, by_source=bool(weights)
    )
    return artifact, text


def shared_text_shards(other: DatasetPlan, executor: Executor) -> dict | None:
    """Returns the summary of another dataset's intact text shards, None if there are none."""
    text_dir = other.artifact.parts[0].absolute()
    done = read_summary(text_dir) if text_dir.is_dir() else None
    if not done or done["fingerprint"] != other.artifact.fingerprint:
        return None
    if damaged_shards(text_dir, done, executor):
        return None
    return done


def make_text_shards(
    sources: list[Source],
    text_dir: Path,
    settings: ShardSettings,
    identity: str,
    workers: Workers,
    console: Console,
    by_source: bool = False,
) -> dict:
    """Makes text shards, with progress; returns their summary. by_source: counts each source."""
    converted = text_dir / "sources"  # text in an intermediate format
    done = finished_text_shards(text_dir, identity, workers.executor, console)
    if done:
        for scratch in (text_dir / "runs", converted):  # of a killed run
            shutil.rmtree(scratch, ignore_errors=True)
        return done
    if problems := [problem for source in sources if (problem := problem_with(source))]:
        raise StageError("; ".join(problems))
    sources = pinned(sources, recorded_commits(text_dir, identity))
    if commits := {hub_repository(s).name: s.commit for s in sources if s.kind == "hub"}:
        write_sealed(text_dir / COMMITS, {"fingerprint": identity, "commits": commits})
    slices = open_sources(sources, converted, console.say)
    num_bytes = sum(piece.num_bytes for piece in slices)
    layout = plan_layout(num_bytes, settings)
    with console.progress("sharding text", num_bytes / 1e6, "MB") as progress:
        text = write_text_shards(
            slices,
            text_dir,
            layout,
            identity,
            workers,
            in_mb(progress),
            settings.language,
            len(sources) if by_source else 0,
        )
    shutil.rmtree(converted, ignore_errors=True)
    for line in text_lines(text):
        console.say(line)
    return text


def recorded_commits(text_dir: Path, identity: str) -> dict[str, str]:
    """Returns the commit of each repository in the text shards: a resumed run uses the same."""
    record = read_sealed(text_dir / COMMITS) or {}
    return record.get("commits", {}) if record.get("fingerprint") == identity else {}


def finished_text_shards(
    text_dir: Path, identity: str, executor: Executor, console: Console
) -> dict | None:
    """Returns the summary of intact text shards, or None; names damaged ones."""
    done = read_summary(text_dir)
    if not done or done["fingerprint"] != identity:
        return None
    damaged = damaged_shards(text_dir, done, executor)
    for name in damaged:
        console.say(f"{text_dir / name} is damaged and is made again")
    return None if damaged else done


def in_mb(progress) -> Callable[[float], None]:
    return lambda num_bytes: progress.advance(num_bytes / 1e6)
