"""How fast recipes learn: the held-out loss of several configs against time, in one run.

    python -m benchmarks.time_to_loss configs/recipes/paper.yaml configs/recipes/fast.yaml \\
        --minutes 15 --size 4x256 --text FOLDER FOLDER

A contestant is a config, with keys of its own changed where that is asked for, under a name:
`configs/recipes/fast.yaml:PRETRAIN.BATCH_SIZE=64,MODEL.GLU=False`, or `big=configs/...`. So a
recipe can stand against itself with one thing changed, and with --seeds each is trained several
times, to tell a better recipe from a lucky one.

Each contestant is trained for the same time, with the real pipeline and loop: the datasets are made
first, then all trainings take turns, a slice of time each, so that whatever else the machine does
hits all alike. With --at_once a few train together; only the last slices, when fewer are left, then
have more of the machine. Only training counts, not making the data, starting, compiling or
measuring. All stay in memory until the end.

What they are measured on is the same for all: held-out articles as the paper has samples, unpacked
and with 15 % of the tokens masked once and for all. Where the vocabularies differ, a loss per token
says nothing, and bits per character of the same text are compared.

Leaves contest.json, loss.png and each model in --work_dir. The exit code is 1 if a contestant
failed; to diverge is a result.
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

from benchmarks.contest import Course, Outcome, hold_contest
from benchmarks.contest_results import Entry, Recipe, Result, draw, record, result_table
from benchmarks.sizes import HEAD_DIM, feed_forward_width
from configs.loading import load_config
from dataset.stage import prepare_dataset
from pipeline.errors import ConfigError
from pipeline.store.atomic_files import write_json
from pipeline.store.checksums import file_digest
from pipeline.store.paths import dataset_dir, sharded_text_dir
from pretrain.launch import flag_words, training_flags
from tests.plans import dataset_artifact

# Held-out samples are made as the paper makes them, whatever the recipe trains on.
HELD_OUT_KEYS = {
    "DATASET.MASKING": "static",
    "DATASET.DUP_FACTOR": 1,
    "DATASET.PACKING": False,
    "DATASET.NEXT_SENTENCE_PREDICTION": False,
    "DATASET.WHOLE_WORD_MASKING": False,
    "DATASET.SHORT_SEQ_PROB": 0.0,
    "DATASET.MASKED_LM_PROB": 0.15,
    "DATASET.MAX_PREDICTIONS_PER_SEQ": 20,
    "DATASET.MASK_TOKEN_SHARE": 0.8,
    "DATASET.RANDOM_TOKEN_SHARE": 0.1,
}
# The slices are what saves and measures; nothing else interrupts the training.
QUIET_KEYS = {
    "PRETRAIN.DO_VALIDATION": False,
    "PRETRAIN.CHECKPOINT_STEPS": 0,
    "PRETRAIN.CHECKPOINT_MINUTES": 0.0,
    "PRETRAIN.NUM_EPOCHS_BETWEEN_CHECKPOINTS": 0,
    "PRETRAIN.VALIDATION_MICRO_BATCH": 64,
}
NOTHING: Mapping[str, Any] = {}
# [NAME=]CONFIG[:KEY=VALUE[,KEY=VALUE...]]
CONTESTANT = re.compile(r"(?:(?P<name>[^:]+)=)?(?P<path>[^:=]+)(?::(?P<changes>.+))?")
COMMA_BEFORE_KEY = re.compile(r",(?=[\w.]+=)")  # a value, such as a list, may have commas too


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add(
        "contestants",
        nargs="+",
        type=parse_contestant,
        metavar="[NAME=]CONFIG[:KEY=VALUE[,KEY=VALUE...]]",
        help="YAML files, with keys changed; the first one is what others are held to",
    )
    add("--minutes", type=float, default=15.0, help="of training, for each contestant and seed")
    add("--size", help="layers x hidden size of all models, e.g. 4x256; default: each config's own")
    add("--text", nargs="+", default=[], help="folders of text; default: each config's own")
    add("--set", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), help="for all")
    add("--seeds", nargs="+", type=int, default=[], help="of training; default: each config's own")
    add("--at_once", type=int, default=1, help="trainings that run together, and share the cores")
    add("--slice", type=float, default=0.0, help="seconds; default: a twentieth of the time")
    add("--samples", type=int, default=512, help="held-out samples to measure on")
    add("--work_dir", type=Path, required=True, help="datasets in it are used again")
    args = parser.parse_args(words)
    if args.at_once < 1:
        parser.error(f"--at_once: expected 1 or more, got {args.at_once}")
    if len(set(args.seeds)) < len(args.seeds):
        parser.error("--seeds: one stands there twice")
    folders = [entry.folder for entry in args.contestants]
    for entry in args.contestants:
        if folders.count(entry.folder) > 1:
            parser.error(f"two contestants are named {entry.name}; write NAME=CONFIG.yaml")
    return args


def parse_contestant(word: str) -> Entry:
    """An entry from `[NAME=]CONFIG[:KEY=VALUE[,KEY=VALUE...]]`.

    By default the name is the file's, and what was changed. Raises argparse.ArgumentTypeError.
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
    return Entry(parts["name"] or " ".join([path.stem, *short]), path, changes)


def main() -> int:
    """Returns the exit code: 1 if a contestant failed."""
    args = parse_arguments()
    _check_folders(args)
    _make_datasets(args)
    recipes = [_prepare(entry, args) for entry in args.contestants]
    # All recipes with a seed, then all with the next: what is compared runs close in time.
    same_seed = zip(*(recipe.courses for recipe in recipes), strict=True)
    courses = [course for group in same_seed for course in group]
    width = max(len(course.name) for course in courses)
    outcomes: dict[str, Outcome] = {}
    for outcome in hold_contest(courses, args.at_once):
        outcomes[outcome.course.name] = outcome
        print(outcome.course.name.ljust(width), _news(outcome), flush=True)
    results = [Result(r, [outcomes[course.name] for course in r.courses]) for r in recipes]
    print("\n" + result_table(results))
    write_json(args.work_dir / "contest.json", record(results))
    draw(results, args.work_dir / "loss.png")
    return int(any(outcome.ending == "failed" for outcome in outcomes.values()))


def _news(outcome: Outcome) -> str:
    """What the contestant's last turn brought."""
    if outcome.failure:
        return f"{outcome.ending}: {outcome.failure}"
    report = outcome.reports[-1]
    return (
        f"{report.seconds / 60:6.2f} min, step {report.step:>6}, {report.tokens:>11,} tokens: "
        f"loss {report.loss:.4f}, accuracy {report.accuracy:.4f}"
    )


# --- preparing -------------------------------------------------------------------------------


def _output_dir(entry: Entry, seed: int | None, args: argparse.Namespace) -> Path:
    folder = args.work_dir / "trained" / entry.folder
    return (folder if seed is None else folder / f"seed_{seed}").resolve()


def _check_folders(args: argparse.Namespace) -> None:
    """SystemExit if a model stands where one is to be trained."""
    for entry in args.contestants:
        for seed in args.seeds or [None]:
            output = _output_dir(entry, seed, args)
            if (output / "checkpoints").exists():
                raise SystemExit(
                    f"{output} is there from before; delete it, or name another --work_dir"
                )


def _make_datasets(args: argparse.Namespace) -> None:
    """Those that are trained and measured on, each once. SystemExit if their articles differ."""
    configs = {}
    for entry in args.contestants:
        for more in (NOTHING, HELD_OUT_KEYS):
            config = load_entry(entry, args, more)
            configs.setdefault(dataset_artifact(config).directory.name, (entry, config))
    first = next(iter(configs))
    for dataset_id, (entry, config) in configs.items():
        prepare_dataset(config)
        if _article_digests(args.work_dir, dataset_id) != _article_digests(args.work_dir, first):
            raise SystemExit(
                f"{entry.name} holds out other articles than {args.contestants[0].name}; they need "
                "the same text, DATASET.SEED, FRAC_TEST and NUM_TEST_SHARDS"
            )


def _prepare(entry: Entry, args: argparse.Namespace) -> Recipe:
    """The trainings of an entry, whose datasets are there."""
    made = dataset_artifact(load_entry(entry, args)).directory
    measured = dataset_artifact(load_entry(entry, args, HELD_OUT_KEYS)).directory
    courses = []
    for seed in args.seeds or [None]:
        config = load_entry(entry, args, NOTHING if seed is None else {"PRETRAIN.SEED": seed})
        flags = training_flags(config, made.resolve(), _output_dir(entry, seed, args))
        courses.append(
            Course(
                name=entry.name if seed is None else f"{entry.name}, seed {seed}",
                seed=config.PRETRAIN.SEED,
                flags=tuple(flag_words(flags)),
                held_out=measured,
                num_samples=args.samples,
                slice_seconds=args.slice or args.minutes * 60 / 20,
            )
        )
    tokenizer = measured / "tokenizer" / "tokenizer.json"
    ratio = tokens_per_character(tokenizer, held_out_texts(args.work_dir, measured.name))
    return Recipe(entry, courses, file_digest(tokenizer), ratio)


def held_out_texts(root: Path, dataset_id: str) -> tuple[Path, ...]:
    """SystemExit if they were deleted: the dataset, which is whole without, is not made again."""
    folder = sharded_text_dir(root, dataset_id)
    texts = tuple(sorted(folder.glob("test_*.txt")))
    if not texts:
        raise SystemExit(f"{folder}: its texts are gone; delete {dataset_dir(root, dataset_id)}")
    return texts


def _article_digests(root: Path, dataset_id: str) -> list[str]:
    return [file_digest(text) for text in held_out_texts(root, dataset_id)]


@cache
def tokens_per_character(tokenizer: Path, texts: tuple[Path, ...]) -> float:
    """Over all lines of some text files."""
    from tokenizers import Tokenizer

    lines = [line for text in texts for line in text.read_text(encoding="utf-8").splitlines()]
    encoded = Tokenizer.from_file(str(tokenizer)).encode_batch(lines, add_special_tokens=False)
    return sum(len(line.ids) for line in encoded) / sum(map(len, lines))


def load_entry(entry: Entry, args: argparse.Namespace, more: Mapping[str, Any] = NOTHING):
    """The config with what all contestants have in common, what is its own, and `more`.

    SystemExit if that makes no config.
    """
    common = {
        "PRETRAIN.LR_SCHEDULE": "time",
        "PRETRAIN.TOTAL_TRAINING_TIME": args.minutes / 60,
        "SYSTEM.OUTPUT_ROOT": str(args.work_dir),
        **QUIET_KEYS,
    }
    if args.text:
        common |= {"DATASET.CUSTOMIZED_DATASETS": args.text, "DATASET.HUGGINGFACE_DATASETS": []}
    if args.size:
        layers, hidden = map(int, args.size.split("x"))
        common |= {
            "MODEL.NUM_HIDDEN_LAYERS": layers,
            "MODEL.HIDDEN_SIZE": hidden,
            "MODEL.NUM_ATTENTION_HEADS": hidden // HEAD_DIM,
        }
    own = [*args.set, *entry.changes.items(), *more.items()]

    def load():
        words = [str(word) for pair in (*common.items(), *own) for word in pair]
        return load_config(entry.path, words, ["dataset", "pretrain"])

    try:
        config = load()
        if args.size:  # only now it is known whether there is a gate
            width = feed_forward_width(config.MODEL.HIDDEN_SIZE, config.MODEL.GLU)
            common["MODEL.INTERMEDIATE_SIZE"] = width
            config = load()
    except ConfigError as error:
        raise SystemExit(f"{entry.name}:\n{error}") from error
    return config


if __name__ == "__main__":
    sys.exit(main())
