"""The plan of the dataset stage: folders and identity."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.keys import identity_inputs
from dataset.card import CARD
from dataset.samples.hdf5_files import MASKING_FILE
from dataset.sources.digests import FileDigests, digest_of_files, digest_store, identity_of
from dataset.sources.registry import Source, configured_sources, problem_with, slug
from dataset.sources.source_checks import (
    problems_with_heads,
    problems_with_output,
    problems_with_overlaps,
)
from dataset.tokenizers.build import NAME_KEY, problem_with_tokenizer
from dataset.tokenizers.tokenizer_files import tokenizer_files
from dataset.tokenizers.vocabulary_training import problem_with_training
from pipeline.errors import ConfigError
from pipeline.stage_plan import StagePlan
from pipeline.store.artifacts import Artifact
from pipeline.store.checksums import fingerprint
from pipeline.store.paths import dataset_dir, sharded_text_dir
from pipeline.store.record_files import MANIFEST, read_record

if TYPE_CHECKING:
    from yacs.config import CfgNode

SCRATCH = ("runs", "records", "sources")  # in the folder of the text shards
FORMAT = 4  # raised whenever the same inputs would give other files


@dataclass(frozen=True)
class DatasetPlan(StagePlan):
    """sources: as configured. digests: of their files, each file read once."""

    sources: tuple[Source, ...]
    digests: FileDigests


def plan(config: "CfgNode", upstream: None = None) -> DatasetPlan:
    """Plans the dataset of this config.

    Raises ConfigError, with all problems, if a source or the tokenizer is missing, if sources
    share text, or if they lie in the folders that the dataset is written to.
    """
    root = Path(config.SYSTEM.OUTPUT_ROOT)
    sources = sources_of(config)
    digests = FileDigests(digest_store(root))
    inputs = dataset_inputs(config, sources, digests)
    dataset_id = config.DATASET.ID or f"{slug(sources)}-{fingerprint(inputs)[:10]}"
    directory, text_dir = dataset_dir(root, dataset_id), sharded_text_dir(root, dataset_id)
    problems = problems_with_output(sources, (directory, text_dir))
    if problems:
        raise ConfigError(problems)
    artifact = Artifact(
        stage="dataset",
        directory=directory,
        inputs=inputs,
        parts=(text_dir,),
        user_named="DATASET.ID" if config.DATASET.ID else "",
        made_from="sources",
        scratch=SCRATCH,
        files_in=files_of_samples,
    )
    return DatasetPlan(artifact, None, tuple(sources), digests)


def files_of_samples(results: Mapping[str, Any]) -> Iterator[str]:
    """Yields the paths in the folder of a finished dataset."""
    yield from ("tokenizer", CARD)
    if results["masking"] == "dynamic":
        yield MASKING_FILE
    for split in ("train", "test"):
        yield from results[f"{split}_shards"]


def sources_of(config: "CfgNode") -> list[Source]:
    dataset = config.DATASET
    return configured_sources(
        dataset.HUGGINGFACE_DATASETS,
        dataset.CUSTOMIZED_DATASETS,
        dataset.TEXT_COLUMN,
        dataset.STREAMING,
    )


def dataset_inputs(
    config: "CfgNode", sources: list[Source], digests: FileDigests
) -> dict[str, Any]:
    """Returns all inputs that decide the content of the samples.

    Raises ConfigError for what is missing, unless the dataset has a name and is finished (made
    elsewhere, or its text has been moved away): then its record says what it was made from.
    """
    inputs = identity_inputs(config, "DATASET") | identity_inputs(config, "TOKENIZER")
    inputs["format"] = FORMAT
    recorded = recorded_inputs(config)
    found = [problem_with(source, digests.files_of) for source in sources]
    problems = [problem for problem in found if problem]
    if not sources:
        problems = ["DATASET.CUSTOMIZED_DATASETS: no text, expected folders of .txt files"]
    if problems and "sources" in recorded:
        inputs["sources"] = recorded["sources"]
        problems = []
    else:
        problems += problems_with_overlaps(sources)
        problems += [] if problems else problems_with_heads(sources, digests.files_of)
        if not problems:
            identities = [identity_of(source, digests) for source in sources]
            inputs["sources"] = fingerprint({"sources": identities})[:32]
    return inputs | tokenizer_inputs(config, digests, recorded, problems)


def recorded_inputs(config: "CfgNode") -> dict[str, Any]:
    """Returns the inputs of the finished dataset with the user's DATASET.ID, or an empty dict."""
    if not config.DATASET.ID:
        return {}
    directory = dataset_dir(Path(config.SYSTEM.OUTPUT_ROOT), config.DATASET.ID)
    return (read_record(directory / MANIFEST) or {}).get("inputs", {})


def tokenizer_inputs(
    config: "CfgNode", digests: FileDigests, recorded: dict[str, Any], problems: list[str]
) -> dict[str, Any]:
    """Returns the tokenizer's inputs. Raises ConfigError with `problems` and its own ones."""
    tokenizer = config.TOKENIZER
    name = tokenizer.NAME_OR_PATH
    if tokenizer.TRAIN:
        sizes = (tokenizer.MODEL, tokenizer.VOCAB_SIZE, tokenizer.SPECIAL_TOKENS)
        problem = problem_with_training(*sizes)
        problems = [*problems, problem] if problem else problems
        found = {}
    elif problem := problem_with_tokenizer(name, tokenizer.DO_LOWER_CASE, tokenizer.ACCENTS):
        if "tokenizer" not in recorded or os.path.exists(os.path.expanduser(name)):
            raise ConfigError([*problems, problem])
        found = {"tokenizer": recorded["tokenizer"]}
    elif files := tokenizer_files(name):
        folder = Path(os.path.expanduser(name))
        found = {"tokenizer": digest_of_files(files, folder, digests)}
    else:
        found = {NAME_KEY: name}
    if problems:
        raise ConfigError(problems)
    return found
