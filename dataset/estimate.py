"""Size and needs of the dataset stage."""

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dataset.plan import DatasetPlan
from dataset.samples.mixture import shares_of
from dataset.shards import file_records
from dataset.shards.sharding import read_summary
from dataset.sources.article_stream import counted
from dataset.sources.corpus_files import COMPRESSION_FACTOR, is_compressed
from dataset.sources.digests import FileDigests
from dataset.sources.hub_text import present_name
from dataset.sources.registry import Source
from dataset.sources.saved_datasets import split_in_words
from dataset.sources.source_checks import notes_on_heads
from dataset.tokenizers.build import NAME_KEY
from pipeline.console import WARNING_PREFIX
from pipeline.hub.needs import HubNeed
from pipeline.stage_plan import Estimate
from pipeline.store.disk import DiskNeed, size_in_words

if TYPE_CHECKING:
    from yacs.config import CfgNode

LEAST_SHARE_OF_PREDICTIONS = 0.9  # of MASKED_LM_PROB; below it, a warning
SHARDING_SHARE = 2  # of the text's size: the text shards and their intermediate files
BYTES_PER_TOKEN = 4.3  # of English text in BERT's vocabulary
LISTED_SOURCES = 30  # in the plan
MANY_TIMES = 10  # a source is repeated: a warning, as weights are no factors
FILLED_SHARE = 0.85  # of the positions of a sample, roughly


def estimate(config: "CfgNode", plan: DatasetPlan) -> Estimate:
    """Returns the size of the text and the samples, and what comes from the Hub."""
    sources, digests = plan.sources, plan.digests
    files = [path for source in sources for path in digests.files_of(source)]
    num_bytes = sum(map(digests.size_of, files))
    directory, text_dir = plan.artifact.folders
    is_static = config.DATASET.MASKING == "static"
    text = () if plan.text_from else (DiskNeed(text_dir, SHARDING_SHARE * num_bytes, "the text"),)
    samples = ("the samples", "DATASET.DUP_FACTOR" if is_static else "")
    return Estimate(
        notes=(
            *size_notes(config, sources, len(files), num_bytes),
            *source_notes(sources, digests),
            *weight_notes(sources, digests, config.DATASET.WEIGHTS),
            *phase_notes(plan),
            *unused_notes(config),
            *prediction_notes(config.DATASET),
            *notes_on_heads(sources, digests.files_of),
        ),
        disk=(
            *text,
            DiskNeed(directory, sample_bytes_per_text_byte(config) * num_bytes, *samples),
        ),
        hub=tuple(hub_needs(config, plan)),
    )


def phase_notes(plan: DatasetPlan) -> Iterator[str]:
    """Yields lines on the parts of the datasets of earlier phases."""
    if plan.text_from:
        yield f"text shards: those of {plan.text_from.artifact.directory.name}"
    if plan.tokenizer_from:
        yield f"tokenizer: that of {plan.tokenizer_from.artifact.directory.name}"
    for name in plan.otherwise_split:
        yield (
            f"{WARNING_PREFIX}{name}: an earlier phase trains on some of the articles held out "
            "here, as this is another one of its sources; sources in the same order in all phases "
            "are split alike"
        )


def hub_needs(config: "CfgNode", plan: DatasetPlan) -> Iterator[HubNeed]:
    """Yields the repositories that the stage has yet to load from the Hub."""
    identity = plan.artifact.fingerprint
    directory, text_dir = plan.artifact.folders
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
    if plan.text_from or (read_summary(text_dir) or {}).get("fingerprint") == identity:
        return
    for source in plan.sources:
        if source.kind == "hub":
            home, _ = present_name(source.name, source.subset)
            instead = "a folder here in its place, or text in DATASET.CUSTOMIZED_DATASETS"
            yield HubNeed("dataset", home, source.key, "text", instead)


def source_notes(sources: Sequence[Source], digests: FileDigests) -> Iterator[str]:
    """Yields a line for each of the first sources."""
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


def weight_notes(
    sources: Sequence[Source], digests: FileDigests, weights: Sequence[float]
) -> Iterator[str]:
    """Yields a line on the share of each source, with a warning if it is repeated very often.

    The times that it is taken are estimated from the sizes of the files, if all are known.
    """
    if not weights:
        return
    sizes = [sum(_text_size(path, digests) for path in digests.files_of(x)) for x in sources]
    for source, size, weight, share in zip(
        sources, sizes, weights, shares_of(weights), strict=True
    ):
        line = f"weight {weight:g} of {source.label}: {share:.2%} of the training tokens"
        times = share * sum(sizes) / size if all(sizes) else 0
        if times:
            line += (
                f", taken about {times:.2g} times" if times > 1 else f", about {times:.0%} of it"
            )
        is_often = times > MANY_TIMES
        yield f"{WARNING_PREFIX}{line}, as it is small beside the others" if is_often else line


def _text_size(path: Path, digests: FileDigests) -> int:
    return digests.size_of(path) * (COMPRESSION_FACTOR if is_compressed(str(path)) else 1)


def unused_notes(config: "CfgNode") -> Iterator[str]:
    """Yields a line if finetuning starts from a model of other origin."""
    model = config.FINETUNE.MODEL_NAME_OR_PATH
    if config.FINETUNE.ENABLED and model and not config.PRETRAIN.ENABLED:
        yield f"not used by finetuning, which starts from {model} (FINETUNE.MODEL_NAME_OR_PATH)"


def prediction_notes(dataset: "CfgNode") -> Iterator[str]:
    """Yields a warning if MAX_PREDICTIONS_PER_SEQ is far below MASKED_LM_PROB."""
    length, most = dataset.MAX_SEQ_LENGTH, dataset.MAX_PREDICTIONS_PER_SEQ
    asked = dataset.MASKED_LM_PROB * length
    if most < LEAST_SHARE_OF_PREDICTIONS * asked:
        yield (
            f"{WARNING_PREFIX}DATASET.MAX_PREDICTIONS_PER_SEQ: {most} are at most "
            f"{most / length:.1%} of the {length} tokens of a sample; "
            f"DATASET.MASKED_LM_PROB {dataset.MASKED_LM_PROB:g} needs {math.ceil(asked)}"
        )


def size_notes(
    config: "CfgNode", sources: Sequence[Source], num_files: int, num_bytes: int
) -> tuple[str, ...]:
    """Returns lines on the size of the text, and on the disk space for its samples."""
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
    """Returns the rough size of the samples: 2 bytes for each token ID and position."""
    dataset = config.DATASET
    filled = 1.0 if dataset.PACKING else FILLED_SHARE
    text_bytes = (dataset.MAX_SEQ_LENGTH - 2) * filled * BYTES_PER_TOKEN
    row, mask = 2 * dataset.MAX_SEQ_LENGTH, 4 * dataset.MAX_PREDICTIONS_PER_SEQ
    train = row if dataset.MASKING == "dynamic" else (row + mask) * dataset.DUP_FACTOR
    return ((1 - dataset.FRAC_TEST) * train + dataset.FRAC_TEST * (row + mask)) / text_bytes
