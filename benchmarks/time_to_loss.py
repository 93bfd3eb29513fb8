"""Held-out loss of several configs against training time, in one run.

    python -m benchmarks.time_to_loss configs/recipes/paper.yaml configs/recipes/fast.yaml \\
        --minutes 15 --size 4x256 --text FOLDER FOLDER

A contestant is a config, optionally with changed keys and a name:
`configs/recipes/fast.yaml:PRETRAIN.BATCH_SIZE=64,MODEL.GLU=False`, or `big=configs/...`. So a
recipe can be compared with itself after one change. --seeds trains each contestant several times,
to tell a better recipe from a lucky one.

Each contestant trains for the same time with the real pipeline and loop. The datasets are made
first; then all trainings take turns, so that other load on the machine affects all of them alike.
With --at_once a few train together; when fewer are left, the last turns get a larger share of the
machine. Only training counts; making the data, starting, compiling and measuring do not. All
contestants stay in memory until the end.

All are measured on the same held-out articles, as the paper has its samples: unpacked, with 15 % of
the tokens masked once. If the vocabularies differ, bits per character are compared instead of the
loss per token.

Writes contest.json and each model to --work_dir. The exit code is 1 if a contestant
failed; a divergence is a result.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from pipeline.environment import enter_environment

    enter_environment()

from benchmarks.contest import Training, hold_contest
from benchmarks.contest_results import Recipe, record, result_table
from benchmarks.harness import write_numbers
from benchmarks.sizes import parse_size

# Held-out samples are those of the paper, whatever the recipe trains on.
HELD_OUT_KEYS = {
    "DATASET.MASKING": "static",
    "DATASET.DUP_FACTOR": 1,
    "DATASET.PACKING": False,
    "DATASET.NEXT_SENTENCE_PREDICTION": False,
    "DATASET.WHOLE_WORD_MASKING": False,
    "DATASET.SHORT_SEQ_PROB": 0.0,
    "DATASET.MASKED_LM_PROB": 0.15,
    "DATASET.MASKED_LM_PROB_END": 0.0,
    "DATASET.MAX_PREDICTIONS_PER_SEQ": 20,
    "DATASET.MASK_TOKEN_SHARE": 0.8,
    "DATASET.RANDOM_TOKEN_SHARE": 0.1,
}
# Nothing but the end of a turn interrupts the training.
QUIET_KEYS = {
    "PRETRAIN.DO_VALIDATION": False,
    "PRETRAIN.CHECKPOINT_STEPS": 0,
    "PRETRAIN.CHECKPOINT_MINUTES": 0.0,
    "PRETRAIN.NUM_EPOCHS_BETWEEN_CHECKPOINTS": 0,
    "PRETRAIN.VALIDATION_MICRO_BATCH": 64,
}
# [NAME=]CONFIG[:KEY=VALUE[,KEY=VALUE...]]
CONTESTANT = re.compile(r"(?:(?P<name>[^:]+)=)?(?P<path>[^:=]+)(?::(?P<changes>.+))?")
COMMA_BEFORE_KEY = re.compile(r",(?=[\w.]+=)")  # values, such as lists, may have commas


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add(
        "contestants",
        nargs="+",
        type=parse_contestant,
        metavar="[NAME=]CONFIG[:KEY=VALUE[,KEY=VALUE...]]",
        help="YAML files, with changed keys; the first one is the baseline",
    )
    add("--minutes", type=float, default=15.0, help="of training, for each contestant and seed")
    add("--size", help="layers x hidden size of all models, e.g. 4x256; default: each config's")
    add("--text", nargs="+", default=[], help="folders of text; default: each config's")
    add("--set", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), help="for all")
    add("--seeds", nargs="+", type=int, default=[], help="of training; default: each config's")
    add("--at_once", type=int, default=1, help="trainings that run together and share the cores")
    add("--slice", type=float, default=0.0, help="seconds; default: a twentieth of the time")
    add("--samples", type=int, default=512, help="held-out samples to measure")
    add("--work_dir", type=Path, required=True, help="its datasets are reused")
    args = parser.parse_args(words)
    if args.at_once < 1:
        parser.error(f"--at_once: expected 1 or more, got {args.at_once}")
    if len(set(args.seeds)) < len(args.seeds):
        parser.error("--seeds: a seed appears twice")
    folders = [recipe.folder for recipe in args.contestants]
    for recipe in args.contestants:
        if folders.count(recipe.folder) > 1:
            parser.error(f"two contestants are named {recipe.name}; write NAME=CONFIG.yaml")
    return args


def parse_contestant(word: str) -> Recipe:
    """Reads `[NAME=]CONFIG[:KEY=VALUE[,KEY=VALUE...]]`.

    The default name is the file's, followed by the changes. Raises argparse.ArgumentTypeError.
    """
    parts = CONTESTANT.fullmatch(word)
    pairs = COMMA_BEFORE_KEY.split(parts["changes"]) if parts and parts["changes"] else []
    if not parts or not all("=" in pair for pair in pairs):
        raise argparse.ArgumentTypeError(
            f"expected [NAME=]CONFIG[:KEY=VALUE[,KEY=VALUE...]], got {word}"
        )
    changes = dict(pair.split("=", 1) for pair in pairs)
    path = Path(parts["path"])
    short = [f"{key.rpartition('.')[2]}={value}" for key, value in changes.items()]
    return Recipe(parts["name"] or " ".join([path.stem, *short]), path, changes)


def main() -> int:
    """Returns the exit code: 1 if a contestant failed."""
    args = parse_arguments()
    _check_folders(args)
    _make_datasets(args)
    for recipe in args.contestants:
        _prepare(recipe, args)
    # Seed by seed, so that compared trainings run close in time.
    same_seed = zip(*(recipe.trainings for recipe in args.contestants), strict=True)
    trainings = [training for group in same_seed for training in group]
    width = max(len(training.name) for training in trainings)
    for training in hold_contest(trainings, args.at_once):
        print(training.name.ljust(width), _news(training), flush=True)
    print("\n" + result_table(args.contestants))
    write_numbers(args.work_dir / "contest.json", record(args.contestants))
    return int(any(training.ending == "failed" for training in trainings))


def _news(training: Training) -> str:
    """Describes the contestant's last turn."""
    if training.failure:
        return f"{training.ending}: {training.failure}"
    last = training.standings[-1]
    return (
        f"{last.seconds / 60:6.2f} min, step {last.step:>6}, {last.tokens:>11,} tokens: "
        f"loss {last.loss:.4f}, accuracy {last.accuracy:.4f}"
    )


# --- preparation -----------------------------------------------------------------------------


def _output_dir(recipe: Recipe, seed: int | None, args: argparse.Namespace) -> Path:
    folder = args.work_dir / "trained" / recipe.folder
    return (folder if seed is None else folder / f"seed_{seed}").resolve()


def _check_folders(args: argparse.Namespace) -> None:
    """SystemExit if an output folder has an older model."""
    for recipe in args.contestants:
        for seed in args.seeds or [None]:
            output = _output_dir(recipe, seed, args)
            if (output / "checkpoints").exists():
                raise SystemExit(
                    f"{output} is from an earlier contest; delete it, or use another --work_dir"
                )


def _make_datasets(args: argparse.Namespace) -> None:
    """Makes all datasets for training and measuring. SystemExit if their articles differ."""
    from dataset.plan import plan as plan_dataset
    from dataset.stage import prepare_dataset

    configs: dict[str, Any] = {}
    for recipe in args.contestants:
        for more in ({}, HELD_OUT_KEYS):
            config = load_recipe(recipe, args, more)
            configs.setdefault(plan_dataset(config).artifact.directory.name, (recipe, config))
    first = next(iter(configs))
    for dataset_id, (recipe, config) in configs.items():
        prepare_dataset(config)
        if _article_digests(args.work_dir, dataset_id) != _article_digests(args.work_dir, first):
            raise SystemExit(
                f"{recipe.name} holds out other articles than {args.contestants[0].name}; they "
                "need the same text, DATASET.SEED, FRAC_TEST and NUM_TEST_SHARDS"
            )


def _article_digests(root: Path, dataset_id: str) -> list[str]:
    from pipeline.store.checksums import file_digest

    return [file_digest(text) for text in held_out_texts(root, dataset_id)]


def held_out_texts(root: Path, dataset_id: str) -> tuple[Path, ...]:
    """SystemExit if they are deleted: the dataset, complete without them, is not made again."""
    from pipeline.store.paths import dataset_dir, sharded_text_dir

    folder = sharded_text_dir(root, dataset_id)
    texts = tuple(sorted(folder.glob("test_*.txt")))
    if not texts:
        raise SystemExit(f"{folder}: its texts are gone; delete {dataset_dir(root, dataset_id)}")
    return texts


def _prepare(recipe: Recipe, args: argparse.Namespace) -> None:
    """Plans the trainings of a recipe, whose datasets exist."""
    from dataset.plan import plan as plan_dataset
    from pipeline.store.checksums import file_digest
    from pretrain.launch import flag_words, training_flags

    made = plan_dataset(load_recipe(recipe, args)).artifact.directory
    measured = plan_dataset(load_recipe(recipe, args, HELD_OUT_KEYS)).artifact.directory
    for seed in args.seeds or [None]:
        config = load_recipe(recipe, args, {} if seed is None else {"PRETRAIN.SEED": seed})
        flags = training_flags(config, made.resolve(), _output_dir(recipe, seed, args))
        recipe.trainings.append(
            Training(
                name=recipe.name if seed is None else f"{recipe.name}, seed {seed}",
                seed=config.PRETRAIN.SEED,
                flags=flag_words(flags),
                held_out=measured,
                num_samples=args.samples,
                slice_seconds=args.slice or args.minutes * 60 / 20,
            )
        )
    tokenizer = measured / "tokenizer" / "tokenizer.json"
    recipe.tokenizer = file_digest(tokenizer)
    texts = held_out_texts(args.work_dir, measured.name)
    recipe.tokens_per_character = tokens_per_character(tokenizer, texts)


@cache
def tokens_per_character(tokenizer: Path, texts: tuple[Path, ...]) -> float:
    """Returns the ratio over all lines of some text files."""
    from tokenizers import Tokenizer

    lines = [line for text in texts for line in text.read_text(encoding="utf-8").splitlines()]
    encoded = Tokenizer.from_file(str(tokenizer)).encode_batch(lines, add_special_tokens=False)
    return sum(len(line.ids) for line in encoded) / sum(map(len, lines))


def load_recipe(recipe: Recipe, args: argparse.Namespace, more: Mapping[str, Any] | None = None):
    """Returns the config with the common keys, then the recipe's changes, then `more`.

    SystemExit if it is invalid.
    """
    from configs.loading import load_config
    from pipeline.errors import ConfigError
    from pretrain.start.completion import completed

    common = {
        "PRETRAIN.LR_SCHEDULE": "time",
        "PRETRAIN.TOTAL_TRAINING_TIME": args.minutes / 60,
        "SYSTEM.OUTPUT_ROOT": str(args.work_dir),
        **QUIET_KEYS,
    }
    if args.text:
        common |= {"DATASET.CUSTOMIZED_DATASETS": args.text, "DATASET.HUGGINGFACE_DATASETS": []}
    size = parse_size(args.size) if args.size else None
    if size:
        common |= {
            "MODEL.NUM_HIDDEN_LAYERS": size.layers,
            "MODEL.HIDDEN_SIZE": size.hidden,
            "MODEL.NUM_ATTENTION_HEADS": size.heads,
        }
    own = [*args.set, *recipe.changes.items(), *(more or {}).items()]

    def load():
        words = [str(word) for pair in (*common.items(), *own) for word in pair]
        return completed(load_config(recipe.path, words, ["dataset", "pretrain"]))

    try:
        config = load()
        if size:  # the first config tells whether the model has a gate
            common["MODEL.INTERMEDIATE_SIZE"] = size.feed_forward(config.MODEL.GLU)
            config = load()
    except ConfigError as error:
        raise SystemExit(f"{recipe.name}:\n{error}") from error
    return config


if __name__ == "__main__":
    sys.exit(main())
