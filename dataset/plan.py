"""What the dataset stage makes, and out of what: planning, which reads and never writes."""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset.card import CARD
from dataset.samples.hdf5_files import MASKING_FILE
from dataset.shards import file_records
from dataset.shards.sharding import read_summary
from dataset.sources.article_stream import counted
from dataset.sources.digests import FileDigests, digest_of_files, digest_store, identity_of
from dataset.sources.heads import notes_on_heads, problems_with_heads
from dataset.sources.hub_text import present_name
from dataset.sources.overlaps import problems_with_output, problems_with_overlaps
from dataset.sources.registry import Source, configured_sources, problem_with, slug
from dataset.sources.saved_datasets import split_in_words
from dataset.tokenizers.build import (
    ACCENTS_KEY,
    NAME_KEY,
    check_building,
    problem_with_tokenizer,
    tokenizer_bytes,
)
from dataset.tokenizers.tokenizer_files import tokenizer_files
from dataset.tokenizers.vocabulary_training import (
    TRAINING_BYTES,
    TRAINING_KEYS,
    problem_with_training,
)
from dataset.workers import MAIN_PROCESS_GB, SampleFiles, plan_work
from pipeline.console import WARNING_PREFIX
from pipeline.errors import ConfigError, StageError
from pipeline.hub.needs import HubNeed
from pipeline.store.artifacts import Artifact, fingerprint
from pipeline.store.disk import DiskNeed, size_in_words
from pipeline.store.paths import dataset_dir, sharded_text_dir
from pipeline.store.record_files import MANIFEST, read_record

if TYPE_CHECKING:
    from yacs.config import CfgNode

SCRATCH = ("runs", "records", "sources")  # in the folder of the text shards
FORMAT = 4  # raised whenever the same inputs would give other files
SHAPING_KEYS = (
    "NUM_TRAIN_SHARDS",
    "NUM_TEST_SHARDS",
    "FRAC_TEST",
    "MAX_SEQ_LENGTH",
    "MASKED_LM_PROB",
    "MAX_PREDICTIONS_PER_SEQ",
    "SHORT_SEQ_PROB",
    "MASKING",
    "MASK_TOKEN_SHARE",
    "RANDOM_TOKEN_SHARE",
    "WHOLE_WORD_MASKING",
    "PACKING",
    "NEXT_SENTENCE_PREDICTION",
    "LANGUAGE",
    "SEED",
)
LEAST_SHARE_OF_PREDICTIONS = 0.9  # of those that MASKED_LM_PROB asks for, without a warning
MOST_SHARDS = 4096  # that the stage makes of itself
SHARDING_SHARE = 2  # of the text's size: the text shards, and what they are made from
BYTES_PER_TOKEN = 4.3  # of English text in BERT's vocabulary
LISTED_SOURCES = 30  # in the plan
FILLED_SHARE = 0.85  # of the positions of a sample, roughly


def dataset_artifact(config: "CfgNode") -> Artifact:
    """Raises ConfigError, with all problems, if a source or the tokenizer is not there.

    Also if sources share text, or lie in the folders that the dataset is written to.
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
    files = [path for source in sources for path in digests.files_of(source)]
    num_bytes = sum(map(digests.size_of, files))
    is_static = config.DATASET.MASKING == "static"
    samples = ("the samples", "DATASET.DUP_FACTOR" if is_static else "")
    notes = (
        *size_notes(config, sources, len(files), num_bytes),
        *source_notes(sources, digests),
        *unused_notes(config),
        *prediction_notes(config.DATASET),
    )
    return Artifact(
        stage="dataset",
        directory=directory,
        inputs=inputs,
        parts=(text_dir,),
        user_named="DATASET.ID" if config.DATASET.ID else "",
        made_from="sources",
        notes=(*notes, *notes_on_heads(sources, digests.files_of)),
        scratch=SCRATCH,
        files_in=files_of_samples,
        hub=tuple(hub_needs(config, sources, directory, text_dir, fingerprint(inputs))),
        disk=(
            DiskNeed(text_dir, SHARDING_SHARE * num_bytes, "the text"),
            DiskNeed(directory, sample_bytes_per_text_byte(config) * num_bytes, *samples),
        ),
    )


def files_of_samples(results: Mapping[str, Any]) -> Iterator[str]:
    """What the folder of a finished dataset holds."""
    yield from ("tokenizer", CARD)
    if results["masking"] == "dynamic":
        yield MASKING_FILE
    for split in ("train", "test"):
        yield from results[f"{split}_shards"]


def check_machine(config: "CfgNode") -> None:
    """Raises ConfigError if the stage may not use the memory that it needs, or has no tokenizer."""
    memory, tokenizer = config.SYSTEM.MAX_MEMORY_IN_GB, config.TOKENIZER
    files = replace(
        most_sample_files(config.DATASET),
        tokenizer_bytes=0 if tokenizer.TRAIN else tokenizer_bytes(tokenizer.NAME_OR_PATH),
    )
    plan_work(config.SYSTEM.NUM_WORKERS, memory, files)
    needed = MAIN_PROCESS_GB + TRAINING_BYTES / 1e9
    if tokenizer.TRAIN and memory < needed - 1e-9:
        raise ConfigError(
            [
                "SYSTEM.MAX_MEMORY_IN_GB: too little for TOKENIZER.TRAIN, got "
                f"{memory:g}, expected at least {math.ceil(needed * 100) / 100:g}"
            ]
        )
    if not tokenizer.TRAIN and os.path.exists(os.path.expanduser(tokenizer.NAME_OR_PATH)):
        try:
            check_building(tokenizer.NAME_OR_PATH, tokenizer.DO_LOWER_CASE, tokenizer.ACCENTS)
        except StageError as error:
            raise ConfigError([error.cause]) from error


def most_sample_files(dataset: "CfgNode") -> SampleFiles:
    copies = dataset.DUP_FACTOR if dataset.MASKING == "static" else 1
    num_train_shards = dataset.NUM_TRAIN_SHARDS or MOST_SHARDS
    total = num_train_shards * copies + (dataset.NUM_TEST_SHARDS or MOST_SHARDS)
    return SampleFiles(total, copies)


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
    """Everything that decides the samples' content.

    Raises ConfigError for what is missing, unless the dataset has a name and is finished (made
    elsewhere, or its text has been moved away): then its record says what it was made from.
    """
    inputs = {f"DATASET.{key}": config.DATASET[key] for key in SHAPING_KEYS}
    if config.DATASET.MASKING == "static":
        inputs["DATASET.DUP_FACTOR"] = config.DATASET.DUP_FACTOR
    inputs |= {"TOKENIZER.TRAIN": config.TOKENIZER.TRAIN, "format": FORMAT}
    inputs["TOKENIZER.DO_LOWER_CASE"] = config.TOKENIZER.DO_LOWER_CASE
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
    """The inputs of the finished dataset of a user's name; nothing if there is none."""
    if not config.DATASET.ID:
        return {}
    directory = dataset_dir(Path(config.SYSTEM.OUTPUT_ROOT), config.DATASET.ID)
    return (read_record(directory / MANIFEST) or {}).get("inputs", {})


def tokenizer_inputs(
    config: "CfgNode", digests: FileDigests, recorded: dict[str, Any], problems: list[str]
) -> dict[str, Any]:
    """The tokenizer's part of the inputs. Raises ConfigError with `problems` and its own."""
    tokenizer = config.TOKENIZER
    name = tokenizer.NAME_OR_PATH
    if tokenizer.TRAIN:
        sizes = (tokenizer.MODEL, tokenizer.VOCAB_SIZE, tokenizer.SPECIAL_TOKENS)
        problem = problem_with_training(*sizes)
        problems = [*problems, problem] if problem else problems
        found = {f"TOKENIZER.{key}": tokenizer[key] for key in TRAINING_KEYS}
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
    return found | {ACCENTS_KEY: tokenizer.ACCENTS}


def hub_needs(
    config: "CfgNode", sources: list[Source], directory: Path, text_dir: Path, identity: str
) -> Iterator[HubNeed]:
    """Yields what the stage loads from the Hub, as far as it has not done so yet."""
    name = config.TOKENIZER.NAME_OR_PATH
    is_local = config.TOKENIZER.TRAIN or os.path.exists(os.path.expanduser(name))
    if not is_local and not file_records.read_record(directory / "tokenizer", identity):
        yield HubNeed(
            "model",
            name,
            NAME_KEY,
            "the tokenizer",
            "a folder or a vocab.txt here, or TOKENIZER.TRAIN True to make one of the text",
            files=(("tokenizer.json", "vocab*", "*.model"),),
        )
    if (read_summary(text_dir) or {}).get("fingerprint") == identity:
        return
    for source in sources:
        if source.kind == "hub":
            home, _ = present_name(source.name, source.subset)
            instead = "a folder here in its place, or text in DATASET.CUSTOMIZED_DATASETS"
            yield HubNeed("dataset", home, source.key, "text", instead)


def source_notes(sources: list[Source], digests: FileDigests) -> Iterator[str]:
    """Yields a line for each source; of very many, the first."""
    for source in sources[:LISTED_SOURCES]:
        if source.kind == "hub":
            home = present_name(source.name, source.subset)
            parts = [*home, source.split, "from the Hub"]
            if home != (source.name, source.subset):
                parts.append(f"the present home of [{source.name}, {source.subset}]")
        elif source.kind == "python-docs":
            parts = [source.name, "the documentation that comes with Python"]
        else:
            files = digests.files_of(source)
            size = size_in_words(sum(map(digests.size_of, files)))
            number = f"{len(files):,} file{'' if len(files) == 1 else 's'}"
            subset = source.subset if source.kind == "files" else ""
            parts = [source.name, subset, f"{size} in {number}"]
        yield f"source: {', '.join(filter(None, parts))}"
    if len(sources) > LISTED_SOURCES:
        yield f"and {len(sources) - LISTED_SOURCES} more sources"


def unused_notes(config: "CfgNode") -> Iterator[str]:
    """Yields a line if finetuning starts from a model that this dataset has no part in."""
    model = config.FINETUNE.MODEL_NAME_OR_PATH
    if config.FINETUNE.ENABLED and model and not config.PRETRAIN.ENABLED:
        yield f"not used by finetuning, which starts from {model} (FINETUNE.MODEL_NAME_OR_PATH)"


def prediction_notes(dataset: "CfgNode") -> Iterator[str]:
    """Yields a warning if full samples have far fewer predictions than MASKED_LM_PROB asks for."""
    length, most = dataset.MAX_SEQ_LENGTH, dataset.MAX_PREDICTIONS_PER_SEQ
    asked = dataset.MASKED_LM_PROB * length
    if most < LEAST_SHARE_OF_PREDICTIONS * asked:
        yield (
            f"{WARNING_PREFIX}DATASET.MAX_PREDICTIONS_PER_SEQ: {most} are at most "
            f"{most / length:.1%} of the {length} tokens of a sample; "
            f"DATASET.MASKED_LM_PROB {dataset.MASKED_LM_PROB:g} needs {math.ceil(asked)}"
        )


def size_notes(
    config: "CfgNode", sources: list[Source], num_files: int, num_bytes: int
) -> tuple[str, ...]:
    """Size of the text and of what will be made from it, for the plan."""
    unknown = sum(source.kind in ("hub", "python-docs") for source in sources)
    notes = []
    if num_bytes:
        disk = num_bytes * (1 + sample_bytes_per_text_byte(config))
        notes.append(
            f"text: {size_in_words(num_bytes)} in {counted(num_files, 'files')}; disk: about "
            f"{size_in_words(disk)}, and {size_in_words(num_bytes)} more while it is made"
        )
    notes += [split for source in sources if (split := split_in_words(Path(source.name)))]
    if unknown:
        notes.append(f"{unknown} of {len(sources)} sources: size not known before they are loaded")
    return tuple(notes)


def sample_bytes_per_text_byte(config: "CfgNode") -> float:
    """Rough size of the samples, with 2 bytes per id and per position."""
    dataset = config.DATASET
    filled = 1.0 if dataset.PACKING else FILLED_SHARE
    text_bytes = (dataset.MAX_SEQ_LENGTH - 2) * filled * BYTES_PER_TOKEN
    row, mask = 2 * dataset.MAX_SEQ_LENGTH, 4 * dataset.MAX_PREDICTIONS_PER_SEQ
    train = row if dataset.MASKING == "dynamic" else (row + mask) * dataset.DUP_FACTOR
    return ((1 - dataset.FRAC_TEST) * train + dataset.FRAC_TEST * (row + mask)) / text_bytes
