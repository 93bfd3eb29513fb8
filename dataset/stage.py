"""The dataset stage: raw text to a tokenizer and masked samples."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dataset.card import (
    decoded_sample,
    headline,
    mixture_lines,
    quality,
    write_card,
)
from dataset.checks import check_machine, most_sample_files
from dataset.estimate import estimate
from dataset.plan import DatasetPlan, plan
from dataset.samples.generation import SampleSettings, generate_samples
from dataset.samples.mixture import Mixture, SourceTokens, choose, shares_of
from dataset.samples.token_counts import count_tokens
from dataset.shards.file_records import read_record, write_record
from dataset.shards.passages import Passage, passages_by_source, whole_shard
from dataset.shards.split_plan import ShardSettings
from dataset.start_from import completed
from dataset.text_shards import in_mb, recorded_commits, text_shards_of
from dataset.tokenizers.build import build_and_forget, check_building
from dataset.tokenizers.corpus_check import check_tokenizer
from dataset.tokenizers.tokenizer_files import tokenizer_files
from dataset.tokenizers.vocabulary_training import Portion, train_tokenizer, weighted_portions
from dataset.workers import SampleFiles, Workers, in_subprocess, open_executor
from pipeline.console import Console, stage_console
from pipeline.errors import StageError
from pipeline.hub.repository import Repository, cached_commit
from pipeline.runtime.memory import PeakMemory
from pipeline.store.paths import log_path

if TYPE_CHECKING:
    from yacs.config import CfgNode

Settings = TypeVar("Settings", ShardSettings, SampleSettings)


def prepare_dataset(config: "CfgNode") -> None:
    """Prepares the dataset for pretraining: text shards, tokenizer and masked samples.

    Resumes an interrupted run. Raises ConfigError if a source is missing or the memory is too
    small, StageError if the text cannot be used.
    """
    config = completed(config)
    for link in plan(config).links:
        run(link.config or config, link)


def run(config: "CfgNode", plan: DatasetPlan) -> None:
    """Makes a planned dataset; see `prepare_dataset`."""
    artifact = plan.artifact
    root = Path(config.SYSTEM.OUTPUT_ROOT)
    with stage_console("dataset", log_path(root, "dataset", artifact.directory.name)) as console:
        if artifact.status().done:
            console.say(f"up to date ({artifact.directory})")
            return
        check_machine(config, plan)
        check_named_tokenizer(config.TOKENIZER)
        artifact.begin()
        console.show_life(artifact.directory)
        for note in estimate(config, plan).notes:
            console.say(note)
        with PeakMemory() as memory:
            plan.digests.save()  # the next plan need not read the files
            results, lines = make_dataset(config, plan, console)
        artifact.finish(results)
        for line in lines:
            console.say(line)
        peak, budget = memory.peak_bytes / 1e9, config.SYSTEM.MAX_MEMORY_IN_GB
        console.say(f"peak memory of this machine's processes {peak:.2f} GB of {budget:g}")


def check_named_tokenizer(tokenizer: "CfgNode") -> None:
    """Raises StageError for an unusable tokenizer on the Hub, before the text is sharded."""
    name = tokenizer.NAME_OR_PATH
    if not (tokenizer.TRAIN or os.path.exists(os.path.expanduser(name))):
        check_building(name, tokenizer.DO_LOWER_CASE, tokenizer.ACCENTS)


def make_dataset(config: "CfgNode", plan: DatasetPlan, console: Console) -> tuple[dict, list[str]]:
    """Runs all steps, each with its own workers to free their memory.

    Returns the manifest's results, and what is to be said of them.
    """
    artifact, sources, dataset = plan.artifact, list(plan.sources), config.DATASET
    identity, weights = artifact.fingerprint, list(dataset.WEIGHTS)
    # Absolute: the workers of a cluster have other working directories.
    directory = artifact.directory.absolute()
    tokenizer_dir = directory / "tokenizer"
    with open_workers(config.SYSTEM, most_sample_files(dataset), console) as workers:
        workers.check_sees(Path(source.name).absolute() for source in sources)
        sharding = settings_of(dataset, ShardSettings)
        text_of, text = text_shards_of(plan, sharding, workers, console)
    text_dir = text_of.parts[0].absolute()
    shards = [text_dir / name for name in text["shards"]]
    passages = passages_by_source(text["shards"], text_dir, dataset.SEED) if weights else []
    portions = portions_of(config.TOKENIZER, shards, passages, weights)
    if plan.tokenizer_from:
        copy_tokenizer(plan.tokenizer_from, tokenizer_dir, identity)
    make_tokenizer(config.TOKENIZER, portions, tokenizer_dir, identity, console)
    found = look_at_tokenizer(shards, tokenizer_dir, dataset.LANGUAGE, console)
    settings = settings_of(dataset, SampleSettings)
    tokenizer_bytes = (tokenizer_dir / "tokenizer.json").stat().st_size
    files = replace(most_sample_files(dataset), tokenizer_bytes=tokenizer_bytes)
    with open_workers(config.SYSTEM, files, console) as workers:
        mixture = None
        if weights:
            labels = [source.label for source in sources]
            tokens = make_counts(passages, labels, tokenizer_dir, identity, workers, console)
            mixture = Mixture(passages, tokens, weights, choose(tokens, weights))
            found["mixture"] = mixture.contributions(text["shards"])
        results = make_samples(shards, directory, settings, identity, workers, console, mixture)
        results |= found
    commits = recorded_commits(text_dir, text_of.fingerprint) | tokenizer_commit(config.TOKENIZER)
    names = [f"{source.kind}: {source.name} {source.subset}" for source in sources]
    names += [f"commit of {name} on the Hub: {commit}" for name, commit in commits.items()]
    results["commits"] = commits
    return describe(names, text, results, artifact.inputs, directory)


@contextmanager
def open_workers(system: "CfgNode", files: SampleFiles, console: Console) -> Iterator[Workers]:
    """Starts workers on this machine, or connects to the cluster of SYSTEM.DASK_SCHEDULER."""
    root = Path(system.OUTPUT_ROOT).absolute()
    with open_executor(
        system.DASK_SCHEDULER, root, system.NUM_WORKERS, system.MAX_MEMORY_IN_GB, files
    ) as workers:
        console.note(f"{workers}")
        yield workers


def settings_of(dataset: "CfgNode", kind: type[Settings]) -> Settings:
    """Returns settings of this dataclass, whose fields are keys of DATASET in lower case."""
    return kind(**{field.name: dataset[field.name.upper()] for field in fields(kind)})


def portions_of(
    tokenizer: "CfgNode",
    text_shards: list[Path],
    passages: Sequence[Sequence[Passage]],
    weights: Sequence[float],
) -> list[Portion]:
    """Returns the text for training a tokenizer. passages: of each source; none without weights."""
    max_bytes = int(tokenizer.MAX_TRAINING_MB * 1e6)
    if weights:
        return weighted_portions(passages, shares_of(weights), max_bytes)
    train_shards = [path for path in text_shards if path.name.startswith("train")]
    return [Portion([whole_shard(path) for path in train_shards], max_bytes)]


def make_tokenizer(
    tokenizer: "CfgNode", portions: list[Portion], folder: Path, identity: str, console: Console
) -> None:
    """Makes the tokenizer of config node TOKENIZER, unless its folder is intact."""
    if read_record(folder, identity):
        return
    if tokenizer.TRAIN:
        size = train_in_own_process(tokenizer, portions, folder, console)
        console.say(f"tokenizer: {size:,} entries, trained on the corpus")
    else:
        name, lower = tokenizer.NAME_OR_PATH, tokenizer.DO_LOWER_CASE
        build_and_forget(name, lower, folder, tokenizer.ACCENTS)
        console.say(f"tokenizer: {name}")
    write_record(folder, identity)


def copy_tokenizer(other: DatasetPlan, folder: Path, identity: str) -> None:
    """Copies another dataset's tokenizer, unless the folder is intact.

    Raises StageError if the other dataset is not finished.
    """
    if read_record(folder, identity):
        return
    found = other.artifact
    if not (status := found.status()).done:
        raise StageError(f"{found.directory} has no tokenizer for this one ({status.reason})")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(found.directory / "tokenizer", folder)
    write_record(folder, identity)


def look_at_tokenizer(
    text_shards: list[Path], folder: Path, language: str, console: Console
) -> dict[str, Any]:
    """Checks the tokenizer on the text and prints its faults. Returns results of the stage."""
    findings = check_tokenizer(text_shards, folder)
    for line in findings.lines(language):
        console.say(line)
    return findings.results


def tokenizer_commit(tokenizer: "CfgNode") -> dict[str, str]:
    """Returns the commit of a tokenizer from the Hub, if the cache has it."""
    name = tokenizer.NAME_OR_PATH
    if tokenizer.TRAIN or tokenizer_files(name):
        return {}
    commit = cached_commit(Repository(name, "model"))
    return {name: commit} if commit else {}


def train_in_own_process(
    tokenizer: "CfgNode", portions: list[Portion], folder: Path, console: Console
) -> int:
    """Trains a tokenizer in a child process, to free its memory; returns the vocabulary size."""
    console.say(f"training a {tokenizer.MODEL} tokenizer of {tokenizer.VOCAB_SIZE:,} entries")
    train = partial(
        train_tokenizer,
        model=tokenizer.MODEL,
        vocab_size=tokenizer.VOCAB_SIZE,
        do_lower_case=tokenizer.DO_LOWER_CASE,
        accents=tokenizer.ACCENTS,
        special_tokens=list(tokenizer.SPECIAL_TOKENS),
    )
    return in_subprocess(train, tuple(portions), folder)


def make_counts(
    passages: Sequence[Sequence[Passage]],
    names: list[str],
    tokenizer_dir: Path,
    identity: str,
    workers: Workers,
    console: Console,
) -> list[SourceTokens]:
    """Counts the tokens of each source's training text, with progress."""
    total = sum(passage.num_bytes for source in passages for passage in source) / 1e6
    with console.progress("counting tokens", total, "MB") as progress:
        return count_tokens(
            passages, names, tokenizer_dir, identity, workers.executor, in_mb(progress)
        )


def make_samples(
    text_shards: list[Path],
    directory: Path,
    settings: SampleSettings,
    identity: str,
    workers: Workers,
    console: Console,
    mixture: Mixture | None = None,
) -> dict:
    """Makes samples from text shards, with progress."""
    total = sum(path.stat().st_size for path in text_shards) / 1e6
    with console.progress("masking samples", total, "MB") as progress:
        return generate_samples(
            text_shards,
            directory,
            directory / "tokenizer",
            settings,
            identity,
            workers.executor,
            in_mb(progress),
            mixture,
        )


def describe(
    sources: list[str],
    text: Mapping[str, Any],
    results: Mapping[str, Any],
    settings: Mapping[str, Any],
    directory: Path,
) -> tuple[dict, list[str]]:
    """Writes the card. Returns the manifest's results, and lines for the console."""
    sample = decoded_sample(directory / next(iter(results["test_shards"])), directory / "tokenizer")
    write_card(directory, sources, text, results, settings, sample)
    lines = [*mixture_lines(results), headline(results), quality(results)]
    lines.append(f"a held-out sample:\n{sample}")
    return {**results, "headline": [headline(results)], "text": text["counts"]}, lines
