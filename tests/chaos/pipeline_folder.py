"""The small pipeline that is disturbed: its text, its tasks, its config, and whose files are whose.

A folder holds all of it: the command runs inside, so that no absolute path is part of a result.
"""

import random
import shutil
from collections.abc import Iterable
from pathlib import Path

STAGES = ("dataset", "pretrain", "finetune", "result_collection")
# What each stage makes, below the output root.
MADE_BY = {
    "dataset": ("data", "tmp/dataset"),
    "pretrain": ("saved_models",),
    "finetune": ("output", "tmp/glue_demo"),
    "result_collection": ("output_test_translated",),
}
# What each stage reads, below the folder.
READ_BY = {
    "dataset": ("text",),
    "pretrain": ("root/data/*/train_*.hdf5", "root/data/*/tokenizer/*.json"),
    "finetune": ("tasks/*.tsv", "root/saved_models/**/model/*.*"),
    "result_collection": ("root/output/**/predictions_*.tsv", "root/output/**/summary.json"),
}

CONFIG = """
SYSTEM: {NUM_GPUS: 0, NUM_WORKERS: 2, MAX_MEMORY_IN_GB: 2}
TOKENIZER: {TRAIN: True, VOCAB_SIZE: 400}
DATASET:
  CUSTOMIZED_DATASETS: [text]
  MAX_SEQ_LENGTH: 32
  MAX_PREDICTIONS_PER_SEQ: 5
  NUM_TRAIN_SHARDS: 3
  NUM_TEST_SHARDS: 1
  DUP_FACTOR: 2
  FRAC_TEST: 0.1
MODEL: {HIDDEN_SIZE: 32, NUM_HIDDEN_LAYERS: 2, NUM_ATTENTION_HEADS: 2, INTERMEDIATE_SIZE: 64}
PRETRAIN:
  NUM_STEPS: 40
  BATCH_SIZE: 16
  CHECKPOINT_STEPS: 5
  VALIDATION_STEPS: 20
  PRINT_STEPS: 10
FINETUNE:
  GLUE_DIR: builtin:demo
  TASKS: [MNLI, RTE, Tone]
  STILT_TASKS: [RTE]
  CUSTOM_TASKS:
    Tone:
      TRAIN: tasks/train.tsv
      DEV: tasks/dev.tsv
      TEST: tasks/test.tsv
      TEXT_COLUMNS: [text]
  MAX_SEQ_LENGTH: 32
  GRID:
    DEFAULT: {EPOCHS: [1], BATCH_SIZES: [32], LEARNING_RATES: [1e-3]}
    MNLI: {EPOCHS: [1], BATCH_SIZES: [32], LEARNING_RATES: [1e-3]}
RESULT_COLLECTION: {ALLOW_PARTIAL: True}
"""

THINGS = ("the river", "a small house", "the old road", "a garden", "the quiet town", "the bridge")
VERBS = ("finds", "leaves", "likes", "passes", "remembers", "sees")
TONES = {"good": ("gladly", "warmly", "with joy"), "bad": ("sadly", "coldly", "in anger")}


def write_inputs(folder: Path) -> None:
    """The config, two files of articles, and a task of one's own; always the same bytes."""
    rng = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(CONFIG)
    for name in ("first", "second"):
        articles = ("\n".join(_sentence(rng) for _ in range(8)) for _ in range(40))
        _write(folder / "text" / f"{name}.txt", "\n\n".join(articles))
    for name, num_rows in (("train", 160), ("dev", 40), ("test", 40)):
        rows = [f"{_sentence(rng, tone)}\t{tone}" for tone in [*TONES] * (num_rows // 2)]
        _write(folder / "tasks" / f"{name}.tsv", "\n".join(["text\tlabel", *rows]) + "\n")


def _sentence(rng: random.Random, tone: str = "") -> str:
    words = TONES[tone or rng.choice([*TONES])]
    made = (rng.choice(part) for part in (THINGS, VERBS, THINGS, words))
    return f"{' '.join(made).capitalize()}."


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def copy_without(source: Path, target: Path, stages: Iterable[str]) -> None:
    """A new folder like `source`, in which these stages have not run yet."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("said"))
    for stage in stages:
        for name in MADE_BY[stage]:
            shutil.rmtree(target / "root" / name, ignore_errors=True)


def files_made_by(stage: str, root: Path) -> list[Path]:
    """All files that a stage has made below an output root, sorted."""
    tops = (root / name for name in MADE_BY[stage])
    return sorted(path for top in tops for path in top.rglob("*") if path.is_file())


def stage_at(path: str) -> str:
    """The stage that a path below the output root belongs to, its log too; empty for none."""
    for stage, names in MADE_BY.items():
        if f"{path}/".startswith((*(f"{name}/" for name in names), f"log/{stage}/")):
            return stage
    return ""
