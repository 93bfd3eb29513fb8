"""How fast recipes learn: the held-out loss of several configs against time, in one run.

    python -m benchmarks.time_to_loss configs/recipes/paper.yaml configs/recipes/fast.yaml \\
        --minutes 15 --size 4x256 --text FOLDER FOLDER

Each config is trained for the same time, with the real pipeline and loop: its dataset is made
first, then all trainings take turns, a slice of time each, so that whatever else the machine does
hits all alike. Only training counts; making the data, starting, compiling and measuring are shown
apart. What they are measured on is the same for all: held-out articles as the paper has samples,
unpacked and with 15 % of the tokens masked once and for all. Where the vocabularies differ, a loss
per token says nothing, and bits per character of the same text are compared.

Leaves contest.json, loss.png and each model in --work_dir.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.contest import Contestant, Course, Report, hold_contest
from configs.loading import load_config
from dataset.artifact import dataset_artifact
from dataset.stage import prepare_dataset
from pipeline.artifacts import file_digest, sharded_text_dir, write_json, written_aside
from pipeline.console import table
from pretrain.stage import flag_words, training_flags

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
HEAD_DIM = 64


@dataclass(frozen=True)
class Recipe:
    """A config that is ready to be trained. tokens_per_character: of the held-out text."""

    course: Course
    tokenizer: str
    tokens_per_character: float

    @property
    def name(self) -> str:
        return self.course.name

    def bits_per_character(self, loss: float) -> float:
        return loss / math.log(2) * self.tokens_per_character


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add(
        "configs", nargs="+", type=Path, help="YAML files; the first one is what others are held to"
    )
    add("--minutes", type=float, default=15.0, help="of training, for each config")
    add("--size", help="layers x hidden size of all models, e.g. 4x256; default: each config's own")
    add("--text", nargs="+", default=[], help="folders of text; default: each config's own")
    add("--set", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), help="for all")
    add("--slice", type=float, default=0.0, help="seconds; default: a twentieth of the time")
    add("--samples", type=int, default=512, help="held-out samples to measure on")
    add("--work_dir", type=Path, required=True, help="datasets in it are used again")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    recipes = [_prepare(path, args) for path in args.configs]
    _check_same_text(args)
    shown = _Lines(recipes)
    reports: dict[str, list[Report]] = {recipe.name: [] for recipe in recipes}
    for contestant, report in hold_contest([recipe.course for recipe in recipes]):
        reports[contestant.course.name].append(report)
        shown.say(contestant, report)
    print("\n" + result_table(recipes, reports))
    record = {
        recipe.name: {
            "flags": recipe.course.flags,
            "tokens_per_character": recipe.tokens_per_character,
            "reports": [asdict(report) for report in reports[recipe.name]],
        }
        for recipe in recipes
    }
    write_json(args.work_dir / "contest.json", record)
    draw(recipes, reports, args.work_dir / "loss.png")


# --- preparing -------------------------------------------------------------------------------


def _prepare(path: Path, args: argparse.Namespace) -> Recipe:
    """Makes the dataset of a config, and the held-out samples in its vocabulary."""
    config, held_out = _load(path, args), _load(path, args, HELD_OUT_KEYS)
    prepare_dataset(config)
    prepare_dataset(held_out)
    made, measured = dataset_artifact(config), dataset_artifact(held_out)
    output = (args.work_dir / "trained" / path.stem).resolve()
    if (output / "checkpoints").exists():
        raise SystemExit(f"{output} is there from before; delete it, or name another --work_dir")
    flags = training_flags(config, made.directory.resolve(), output, gpus=0)
    flags["precision"] = config.PRETRAIN.PRECISION
    course = Course(
        name=path.stem,
        flags=tuple(flag_words(flags)),
        held_out=measured.directory,
        num_samples=args.samples,
        slice_seconds=args.slice or args.minutes * 60 / 20,
    )
    tokenizer = measured.directory / "tokenizer" / "tokenizer.json"
    texts = _held_out_texts(args.work_dir, measured.directory.name)
    return Recipe(course, file_digest(tokenizer), tokens_per_character(tokenizer, texts))


def _held_out_texts(root: Path, dataset_id: str) -> list[Path]:
    return sorted(sharded_text_dir(root, dataset_id).glob("test_*.txt"))


def tokens_per_character(tokenizer: Path, texts: Sequence[Path]) -> float:
    """Over all lines of some text files."""
    from tokenizers import Tokenizer

    lines = [line for text in texts for line in text.read_text(encoding="utf-8").splitlines()]
    encoded = Tokenizer.from_file(str(tokenizer)).encode_batch(lines, add_special_tokens=False)
    return sum(len(line.ids) for line in encoded) / sum(map(len, lines))


def _load(path: Path, args: argparse.Namespace, more: Mapping[str, Any] = NOTHING):
    """The config with what all contestants have in common."""
    common = {
        "PRETRAIN.LR_SCHEDULE": "time",
        "PRETRAIN.TOTAL_TRAINING_TIME": args.minutes / 60,
        "SYSTEM.OUTPUT_ROOT": str(args.work_dir),
        **QUIET_KEYS,
        **more,
    }
    if args.size:
        layers, hidden = map(int, args.size.split("x"))
        common |= {
            "MODEL.NUM_HIDDEN_LAYERS": layers,
            "MODEL.HIDDEN_SIZE": hidden,
            "MODEL.NUM_ATTENTION_HEADS": hidden // HEAD_DIM,
        }
    if args.text:
        common |= {"DATASET.CUSTOMIZED_DATASETS": args.text, "DATASET.HUGGINGFACE_DATASETS": []}
    words = [str(word) for pair in (*common.items(), *args.set) for word in pair]
    return load_config(path, words, ["dataset", "pretrain"])


def _check_same_text(args: argparse.Namespace) -> None:
    """SystemExit if the configs do not hold out the same articles."""
    digests = {}
    for path in args.configs:
        for more in ({}, HELD_OUT_KEYS):
            dataset_id = dataset_artifact(_load(path, args, more)).directory.name
            texts = _held_out_texts(args.work_dir, dataset_id)
            digests[path.stem] = tuple(file_digest(text) for text in texts)
            if digests[path.stem] != next(iter(digests.values())):
                raise SystemExit(
                    f"{path} holds out other articles than {args.configs[0]}; they need the same "
                    "text, DATASET.SEED, FRAC_TEST and NUM_TEST_SHARDS"
                )


# --- what came of it -------------------------------------------------------------------------


class _Lines:
    """Says each report as it comes."""

    def __init__(self, recipes: Sequence[Recipe]):
        self.width = max(len(recipe.name) for recipe in recipes)

    def say(self, contestant: Contestant, report: Report) -> None:
        name = contestant.course.name.ljust(self.width)
        print(
            f"{name} {report.seconds / 60:6.2f} min, step {report.step:>6}, {report.tokens:>11,} "
            f"tokens: loss {report.loss:.4f}, accuracy {report.accuracy:.4f}",
            flush=True,
        )


def time_of(goal: float, points: Sequence[tuple[float, float]]) -> float:
    """When a loss was reached for good: seconds, between two points by a straight line.

    points: (seconds, loss) in the order of time. Infinite if the last one is above the goal.
    """
    if points[-1][1] > goal:
        return math.inf
    for (begin, before), (end, after) in reversed(list(pairwise(points))):
        if before > goal:
            return begin + (before - goal) / (before - after) * (end - begin)
    return points[0][0]


def result_table(recipes: Sequence[Recipe], reports: dict[str, list[Report]]) -> str:
    """The last report of each recipe, and when it reached what each of the others ended with."""
    measure = _Measure(recipes)
    header = ["recipe", "steps", "samples", "tokens", "PFLOP", measure.unit, "accuracy"]
    header += [f"reaches {other.name}" for other in recipes]
    header += ["preparing", "measuring"]
    rows = [header]
    for recipe in recipes:
        own = reports[recipe.name]
        last = own[-1]
        row = [recipe.name, f"{last.step:,}", f"{last.samples:,}", f"{last.tokens:,}"]
        row += [f"{last.flops / 1e15:.2f}", f"{measure(recipe, last):.4f}", f"{last.accuracy:.4f}"]
        row += [_share(measure, recipe, own, other, reports[other.name]) for other in recipes]
        row += [f"{last.preparation:.0f} s", f"{sum(r.eval_seconds for r in own):.0f} s"]
        rows.append(row)
    return table(rows)


class _Measure:
    """What recipes are compared by: the loss, or, where their vocabularies differ, bits."""

    def __init__(self, recipes: Sequence[Recipe]):
        self.is_loss = len({recipe.tokenizer for recipe in recipes}) == 1
        self.unit = "loss" if self.is_loss else "bits per character"

    def __call__(self, recipe: Recipe, report: Report) -> float:
        return report.loss if self.is_loss else recipe.bits_per_character(report.loss)


def _share(measure, recipe: Recipe, own, other: Recipe, theirs) -> str:
    """After what share of the other's time the recipe was as good as the other in the end."""
    if recipe is other:
        return ""
    goal = measure(other, theirs[-1])
    seconds = time_of(goal, [(report.seconds, measure(recipe, report)) for report in own])
    if math.isinf(seconds):
        return "no"
    return f"{100 * seconds / theirs[-1].seconds:.1f} % ({seconds / 60:.2f} min)"


def draw(recipes: Sequence[Recipe], reports: dict[str, list[Report]], path: Path) -> None:
    """The measure against time, samples, tokens and FLOPs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measure = _Measure(recipes)
    figure = Figure(figsize=(11, 8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = (
        ("minutes of training", lambda report: report.seconds / 60),
        ("samples", lambda report: report.samples),
        ("tokens", lambda report: report.tokens),
        ("PFLOP", lambda report: report.flops / 1e15),
    )
    for axes, (label, position) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        for recipe in recipes:
            own = reports[recipe.name][1:]  # the first one is of random weights
            axes.plot(
                [position(report) for report in own],
                [measure(recipe, report) for report in own],
                label=recipe.name,
            )
        axes.set_xlabel(label)
        axes.set_ylabel(f"held-out {measure.unit}")
        axes.grid(alpha=0.2)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False)
    with written_aside(path) as aside:
        figure.savefig(aside, format="png", dpi=120)


if __name__ == "__main__":
    main()
