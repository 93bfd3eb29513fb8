"""The plan of the dataset stage: folders and identity."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.keys import identity_inputs
from configs.phases import merged_problems, phase_configs
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


# Inputs that decide the text shards. Those of TOKENIZER decide a tokenizer trained on them, too.
TEXT_INPUTS = (
    *("sources", "format", "DATASET.LANGUAGE", "DATASET.FRAC_TEST", "DATASET.SEED"),
    *("DATASET.NUM_TRAIN_SHARDS", "DATASET.NUM_TEST_SHARDS", "DATASET.WEIGHTS"),
)
TOKENIZER_OF = "tokenizer_of"  # identity of the text that another dataset's tokenizer is trained on


@dataclass(frozen=True)
class DatasetPlan(StagePlan):
    """sources: as configured. digests: of their files, each file read once.

    before: plans of the datasets of the phases before the last one, one for each of these phases;
    equal datasets have equal plans. text_from: a dataset with the same text shards. tokenizer_from:
    the dataset whose trained tokenizer this one takes. otherwise_split: names of sources with other
    held-out articles in an earlier phase.
    """

    sources: tuple[Source, ...]
    digests: FileDigests
    before: tuple["DatasetPlan", ...] = ()
    text_from: "DatasetPlan | None" = None
    tokenizer_from: "DatasetPlan | None" = None
    otherwise_split: tuple[str, ...] = ()

    @property
    def of_phases(self) -> tuple["DatasetPlan", ...]:
        """The dataset of each phase."""
        return (*self.before, self)

    @property
    def links(self) -> tuple["DatasetPlan", ...]:
        """The different datasets; that of the first phase comes first, as others may need it."""
        own = replace(self, earlier=(), before=())
        is_first = bool(self.before) and self.before[0].artifact == self.artifact
        return (own, *self.earlier) if is_first else (*self.earlier, own)

    def reads(self) -> tuple[Artifact, ...]:
        found = (self.text_from, self.tokenizer_from)
        by_folder = {plan.artifact.directory: plan.artifact for plan in found if plan}
        return tuple(by_folder.values())


def plan(config: "CfgNode", upstream: None = None) -> DatasetPlan:
    """Plans the dataset of this config; that of the last phase, after those of the others.

    Raises ConfigError, with all problems, if a source or the tokenizer is missing, if sources
    share text, or if they lie in the folders that the dataset is written to.
    """
    digests = FileDigests(digest_store(Path(config.SYSTEM.OUTPUT_ROOT)))
    configs = phase_configs(config)
    plans: list[DatasetPlan] = []
    problems: list[list[str]] = []
    for number, own in enumerate(configs, 1):
        label = f"phase {number} of {len(configs)}" if len(configs) > 1 else ""
        try:
            plans.append(_plan_one(own, digests, plans, number if label else 0, label))
            problems.append([])
        except ConfigError as error:
            problems.append(error.problems)
    if any(problems):
        raise ConfigError(merged_problems(config, problems))
    *before, last = plans
    others = {one.artifact.directory: one for one in before}
    others.pop(last.artifact.directory, None)
    if not others:
        last = replace(last, phase=0, label="")
    return replace(last, before=tuple(before), earlier=tuple(others.values()))


def _plan_one(
    config: "CfgNode",
    digests: FileDigests,
    before: Sequence[DatasetPlan],
    phase: int,
    label: str,
) -> DatasetPlan:
    """Plans the dataset of one phase, after those before it."""
    root = Path(config.SYSTEM.OUTPUT_ROOT)
    sources = sources_of(config)
    inputs = dataset_inputs(config, sources, digests)
    text_from, tokenizer_from = _found_in(inputs, before), None
    if before and config.TOKENIZER.TRAIN:
        tokenizer_from = before[0]
        if not _has_text(inputs, before[0]):  # else it would train the same one
            inputs[TOKENIZER_OF] = _tokenizer_identity(before[0].artifact.inputs)
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
    same = [one for one in before if one.artifact.directory == directory]
    if same:
        return same[0]
    return DatasetPlan(
        *(artifact, None, tuple(sources), digests, (), text_from, tokenizer_from),
        otherwise_split=tuple(_otherwise_split(sources, before)),
        config=config,
        phase=phase,
        label=label,
    )


def _has_text(inputs: Mapping[str, Any], other: DatasetPlan) -> bool:
    """True if a dataset has the same text shards as another one."""
    return all(inputs.get(key) == other.artifact.inputs.get(key) for key in TEXT_INPUTS)


def _found_in(inputs: Mapping[str, Any], before: Sequence[DatasetPlan]) -> DatasetPlan | None:
    return next((other for other in before if _has_text(inputs, other)), None)


def _otherwise_split(sources: list[Source], before: Sequence[DatasetPlan]) -> Iterator[str]:
    """Yields sources with another number in an earlier phase: the split is drawn by it."""
    for number, source in enumerate(sources):
        numbers = {other.sources.index(source) for other in before if source in other.sources}
        if numbers - {number}:
            yield source.name


def _tokenizer_identity(inputs: Mapping[str, Any]) -> str:
    """Returns the identity of the tokenizer trained for a dataset with these inputs."""
    decisive = {
        key: value
        for key, value in inputs.items()
        if key in TEXT_INPUTS or key.startswith("TOKENIZER.")
    }
    return fingerprint(decisive)[:32]


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
