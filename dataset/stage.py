"""The dataset stage: raw text to a tokenizer and masked samples."""

import shutil
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING

from dataset.artifact import dataset_artifact, megabytes, sources_of
from dataset.digests import FileDigests, digest_store, identity_of
from dataset.generation import SampleSettings, generate_samples
from dataset.inspection import decoded_sample
from dataset.layout import plan_layout
from dataset.sharding import PART_BYTES, read_summary, write_text_shards
from dataset.sources import Source, open_sources
from dataset.tokenizer import build_tokenizer, tokenizer_files
from dataset.tokenizer_training import train_tokenizer
from dataset.workers import plan_workers, worker_pool
from pipeline.artifacts import log_path
from pipeline.console import Console, stage_console

if TYPE_CHECKING:
    from yacs.config import CfgNode


def prepare_dataset(config: "CfgNode") -> None:
    """Prepare dataset for pretraining: text shards, tokenizer and masked samples.

    Goes on with what an interrupted run left. Raises ConfigError if a source is missing,
    StageError if the text cannot be used.
    """
    artifact = dataset_artifact(config)
    root = Path(config.SYSTEM.OUTPUT_ROOT)
    with stage_console("dataset", log_path(root, "dataset", artifact.directory.name)) as console:
        if artifact.status().done:
            console.say(f"up to date ({artifact.directory})")
            return
        artifact.begin()
        remember_digests(config, root)
        directory, text_dir, identity = artifact.directory, artifact.parts[0], artifact.fingerprint
        system, dataset = config.SYSTEM, config.DATASET
        workers = plan_workers(system.NUM_WORKERS, system.MAX_MEMORY_IN_GB, console.say)
        with worker_pool(workers) as executor:
            text = make_text_shards(
                sources_of(config),
                text_dir,
                (dataset.NUM_TRAIN_SHARDS, dataset.NUM_TEST_SHARDS),
                dataset.FRAC_TEST,
                dataset.SEED,
                identity,
                executor,
                console,
            )
            shards = [text_dir / name for name in text["shards"]]
            make_tokenizer(config.TOKENIZER, shards, directory / "tokenizer", console)
            results = make_samples(
                shards, directory, sample_settings(dataset), identity, executor, console
            )
        results = describe(text, results, directory, console)
        artifact.finish(results)


def remember_digests(config: "CfgNode", root: Path) -> None:
    """Writes the digests of all inputs, so that the next planning need not read the files."""
    digests = FileDigests(digest_store(root))
    for source in sources_of(config):
        identity_of(source, digests)
    for path in tokenizer_files(config.TOKENIZER.NAME_OR_PATH):
        digests.of(path)
    digests.save()


def sample_settings(dataset: "CfgNode") -> SampleSettings:
    return SampleSettings(
        max_seq_length=dataset.MAX_SEQ_LENGTH,
        masked_lm_prob=dataset.MASKED_LM_PROB,
        max_predictions_per_seq=dataset.MAX_PREDICTIONS_PER_SEQ,
        short_seq_prob=dataset.SHORT_SEQ_PROB,
        dup_factor=dataset.DUP_FACTOR,
        seed=dataset.SEED,
    )


def make_text_shards(
    sources: list[Source],
    text_dir: Path,
    num_shards: tuple[int, int],
    frac_test: float,
    seed: int,
    identity: str,
    executor: Executor,
    console: Console,
) -> dict:
    """Text shards out of sources, with progress; num_shards: (train, test), 0 for what fits."""
    done = read_summary(text_dir)
    if done and done["fingerprint"] == identity:
        return done
    slices = open_sources(sources, text_dir / "sources", PART_BYTES, console.say)
    num_bytes = sum(piece.num_bytes for piece in slices)
    layout = plan_layout(num_bytes, *num_shards, frac_test, seed)
    with console.progress("sharding text", num_bytes / 1e6, "MB") as progress:
        text = write_text_shards(slices, text_dir, layout, identity, executor, in_mb(progress))
    shutil.rmtree(text_dir / "sources", ignore_errors=True)  # text that was converted on the way
    console.say(text_summary(text))
    return text


def in_mb(progress) -> Callable[[float], None]:
    return lambda num_bytes: progress.advance(num_bytes / 1e6)


def text_summary(text: dict) -> str:
    """One line on what was read, one on what was dropped or cut."""
    total = {
        key: sum(shard[key] for shard in text["shards"].values())
        for key in ("bytes", "articles", "sentences")
    }
    held_out = sum(
        shard["articles"] for name, shard in text["shards"].items() if name.startswith("test")
    )
    dropped = [f"{count:,} {name.replace('_', ' ')}" for name, count in text["counts"].items()]
    return (
        f"text: {megabytes(total['bytes'])}, {total['articles']:,} articles "
        f"({held_out:,} held out), {total['sentences']:,} sentences, "
        f"{len(text['shards']):,} shards\n"
        f"dropped or cut: {', '.join(dropped) or 'nothing'}"
    )


def make_tokenizer(
    tokenizer: "CfgNode", text_shards: list[Path], folder: Path, console: Console
) -> None:
    """The tokenizer of config node TOKENIZER, unless the folder is there (it is made at once)."""
    if folder.exists():
        return
    if tokenizer.TRAIN:
        console.say(f"training a WordPiece tokenizer of {tokenizer.VOCAB_SIZE:,} entries")
        train = [path for path in text_shards if path.name.startswith("train")]
        size = train_tokenizer(train, tokenizer.VOCAB_SIZE, tokenizer.DO_LOWER_CASE, folder)
        console.say(f"tokenizer: {size:,} entries, trained on the corpus")
    else:
        build_tokenizer(tokenizer.NAME_OR_PATH, tokenizer.DO_LOWER_CASE, folder)
        console.say(f"tokenizer: {tokenizer.NAME_OR_PATH}")


def make_samples(
    text_shards: list[Path],
    directory: Path,
    settings: SampleSettings,
    identity: str,
    executor: Executor,
    console: Console,
) -> dict:
    """Masked samples out of text shards, with progress."""
    total = sum(path.stat().st_size for path in text_shards) / 1e6
    with console.progress("masking samples", total, "MB") as progress:
        return generate_samples(
            text_shards,
            directory,
            directory / "tokenizer",
            settings,
            identity,
            executor,
            in_mb(progress),
        )


def describe(text: dict, results: dict, directory: Path, console: Console) -> dict:
    """Says what was made, shows a sample, and returns the results for the manifest."""
    tokens, padding = results["num_tokens"], results["num_padding"]
    unknown = 1000 * results["num_unknown_tokens"] / tokens
    headline = (
        f"{results['num_train_samples']:,} training samples per mask copy, "
        f"{results['num_test_samples']:,} held out, vocabulary {results['vocab_size']:,}"
    )
    console.say(headline)
    console.say(
        f"{tokens:,} tokens, {unknown:.2f} of 1000 unknown, "
        f"{padding / (padding + tokens):.1%} of the positions are padding"
    )
    first = directory / next(iter(results["test_shards"]))
    console.say(f"a held-out sample:\n{decoded_sample(first, directory / 'tokenizer')}")
    return {**results, "headline": [headline], "text": text["counts"]}
