"""Finetunes one model on one task of GLUE or SuperGLUE with one setting.

    python finetune/run_glue.py --model_name_or_path FOLDER --task_name MRPC --glue_dir GLUE \\
        --do_train --do_eval --output_dir /tmp/mrpc

Writes `results.json`, `predictions_<split>.tsv` and the finetuned `model/` to the output folder.
The flags are those of transformers' script of this name, in its older and newer spellings; flags
without an effect here are accepted with a note. The search of main.py calls the same functions.
"""

import argparse
import math
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

if __name__ == "__main__":  # imports are those of the repository, not of this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from pipeline.environment import enter_environment

    enter_environment()

from configs.predicates import SEED, Rule, at_least, between, inside
from finetune.data.tasks import TASKS, Task, find_task
from finetune.search.job_folder import (
    InputPaths,
    TrainingSettings,
    model_path,
    predictions_path,
    write_predictions,
)
from finetune.training.schedules import SCHEDULES
from pipeline.console import WARNING_PREFIX, print_line
from pipeline.errors import StageError
from pipeline.hub.models import can_only_be_a_folder, local_model
from pipeline.privacy import private_files
from pipeline.runtime.devices import take_device
from pipeline.store.atomic_files import write_json

RESULTS = "results.json"  # marks the output folder of an earlier run
# Flags of transformers' script without an effect here.
IGNORED = (
    *("save_strategy", "save_steps", "save_total_limit", "overwrite_cache", "pad_to_max_length"),
    *("logging_strategy", "logging_steps", "logging_first_step", "logging_dir", "report_to"),
    *("run_name", "disable_tqdm", "fp16", "bf16", "optim", "use_fast_tokenizer"),
    *("metric_for_best_model", "greater_is_better", "ignore_mismatched_sizes"),
    *("group_by_length", "train_sampling_strategy"),
    *("dataloader_num_workers", "dataloader_pin_memory"),
)


def build_parser() -> argparse.ArgumentParser:
    """Returns a parser of transformers' flags, with transformers' defaults."""
    parser = argparse.ArgumentParser(
        description="Finetune one model on one task of GLUE or SuperGLUE with one setting.",
        allow_abbrev=False,
    )
    _add_task_flags(parser)
    _add_training_flags(parser)
    for name in IGNORED:
        parser.add_argument(
            f"--{name}", nargs="?", const="", default=argparse.SUPPRESS, help="has no effect"
        )
    return parser


def _add_task_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    switch = partial(add, type=_truth, nargs="?", const=True)
    add("--model_name_or_path", required=True, help="folder or Hub name of a checkpoint")
    add("--task_name", required=True, type=_task, help=", ".join(task.name for task in TASKS))
    add("--glue_dir", default="", help="GLUE in TSV or Parquet; default: nyu-mll/glue on the Hub")
    add("--superglue_dir", default="", help="SuperGLUE in its JSONL layout, for its tasks")
    add("--output_dir", required=True, type=Path)
    switch("--overwrite_output_dir", help="write into a folder that is not empty")
    add("--max_seq_length", type=_number(int, at_least(8)), default=128)
    switch("--do_train", help="without it the checkpoint is used as it is")
    switch("--do_eval", help="score the dev sets")
    switch("--do_predict", help="predict the test sets")
    switch("--use_cpu", "--no_cuda", help="even if there are GPUs")


def _add_training_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    switch = partial(add, type=_truth, nargs="?", const=True)
    count = _number(int, at_least(1))
    positive = _number(float, inside(0, math.inf))
    not_negative = _number(float, between(0, math.inf))
    add("--eval_strategy", "--evaluation_strategy", choices=("no", "steps", "epoch"), default="no")
    add("--eval_steps", type=count, default=500, help="with --eval_strategy steps")
    switch("--load_best_model_at_end", help="the best of the evaluated weights count")
    add("--per_device_train_batch_size", "--per_gpu_train_batch_size", type=count, default=8)
    add("--per_device_eval_batch_size", "--per_gpu_eval_batch_size", type=count, default=8)
    add("--gradient_accumulation_steps", type=count, default=1)
    add("--learning_rate", type=positive, default=5e-5)
    add("--weight_decay", type=not_negative, default=0.0)
    add("--max_grad_norm", type=not_negative, default=1.0)
    add("--num_train_epochs", type=not_negative, default=3.0)
    add("--lr_scheduler_type", choices=SCHEDULES, default="linear")
    warmup_help = "a share of all steps if below 1"
    add("--warmup_steps", "--warmup_ratio", type=not_negative, default=0.0, help=warmup_help)
    add("--seed", type=_number(int, SEED), default=42)


def _number(kind: Callable[[str], float], rule: Rule) -> Callable[[str], float]:
    """Returns a parser of numbers that keep a rule."""
    is_valid, expected = rule

    def number(text: str) -> float:
        if not is_valid(value := kind(text)):
            raise argparse.ArgumentTypeError(f"got {text}, expected {expected}")
        return value

    return number


def _task(name: str) -> Task:
    try:
        return find_task(name)
    except KeyError as error:
        raise argparse.ArgumentTypeError(error.args[0]) from error


def _truth(word: str) -> bool:
    """Reads the value of `--do_train True`, as transformers does."""
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if word.lower() not in words:
        raise argparse.ArgumentTypeError(f"got {word}, expected true or false")
    return words[word.lower()]


@private_files()
def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 done, 2 the command line is wrong, 3 the run failed."""
    parser = build_parser()
    flags = parser.parse_args(arguments)
    if problem := _problem(flags):
        parser.error(problem)
    for note in _notes(flags):
        print(f"note: {note}")
    take_device("cpu" if flags.use_cpu else "auto")
    try:
        results = run(flags)
    except (StageError, OSError, ValueError) as error:
        print_line(f"run_glue: {error}", sys.stderr)
        return 3
    for split, metrics in results["dev"].items():
        shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        print(f"{results['task']} {split}: {shown}")
    print(f"results are in {flags.output_dir}")
    return 0


def _problem(flags: argparse.Namespace) -> str:
    """Returns an error message for wrong flags, else ""."""
    folder = flags.output_dir
    if folder.exists() and not folder.is_dir():
        return f"--output_dir: {folder} is a file, expected a folder"
    if not (flags.do_train or flags.do_eval or flags.do_predict):
        return "nothing to do: give --do_train, --do_eval or --do_predict"
    if folder.exists() and any(folder.iterdir()) and not flags.overwrite_output_dir:
        return f"--output_dir: {folder} is not empty (--overwrite_output_dir writes into it)"
    if flags.do_train and model_path(folder).exists() and not (folder / RESULTS).is_file():
        return f"--output_dir: {model_path(folder)} is no model of this program, and not deleted"
    if flags.task_name.benchmark == "SuperGLUE" and not flags.superglue_dir:
        return f"--superglue_dir: expected the folder of {flags.task_name.name}, a SuperGLUE task"
    if flags.load_best_model_at_end and flags.eval_strategy == "no":
        return "--load_best_model_at_end: expected --eval_strategy steps or epoch beside it"
    return ""


def _notes(flags: argparse.Namespace) -> list[str]:
    """Returns notes on flags without an effect, and on a model from the Hub."""
    notes = [f"--{name} has no effect" for name in IGNORED if name in flags]
    model = flags.model_name_or_path
    if not os.path.exists(model) and not can_only_be_a_folder(model):
        notes.append(
            f"--model_name_or_path: there is no folder {model}, so it is a name on the Hub"
        )
    return notes


def run(flags: argparse.Namespace) -> dict:
    """Finetunes by the flags; returns the content of results.json."""
    import torch

    from finetune.training.finished_model import save_finished
    from finetune.training.training import finetune_task

    if (num_gpus := torch.cuda.device_count()) > 1:
        print(
            f"note: {num_gpus} GPUs are visible and the first is used; CUDA_VISIBLE_DEVICES can "
            "name another"
        )
    task, folder = flags.task_name, flags.output_dir
    data_dir = flags.superglue_dir if task.benchmark == "SuperGLUE" else flags.glue_dir
    model, _ = local_model(flags.model_name_or_path, "--model_name_or_path")
    outcome = finetune_task(
        task,
        InputPaths(model, model, data_dir),
        _settings(flags),
        print,
        flags.do_train,
        flags.do_eval or flags.eval_strategy != "no",
        flags.do_predict,
    )
    for warning in outcome.tokenization.warnings("--max_seq_length"):
        print_line(WARNING_PREFIX + warning)
    for split, values in outcome.predictions.items():
        write_predictions(predictions_path(folder, split), values)
    results = {
        "task": task.name,
        "flags": {**vars(flags), "task_name": task.name, "output_dir": str(folder)},
        **outcome.as_json(),
    }
    write_json(folder / RESULTS, results)
    if flags.do_train:  # after RESULTS, which allows a later run to overwrite the model
        save_finished(outcome, task, _settings(flags), model, folder)
    return results


def _settings(flags: argparse.Namespace) -> TrainingSettings:
    accumulation_steps = flags.gradient_accumulation_steps
    return TrainingSettings(
        epochs=flags.num_train_epochs,
        batch_size=flags.per_device_train_batch_size * accumulation_steps,
        learning_rate=flags.learning_rate,
        seed=flags.seed,
        max_seq_length=flags.max_seq_length,
        weight_decay=flags.weight_decay,
        warmup=flags.warmup_steps,
        lr_scheduler_type=flags.lr_scheduler_type,
        max_grad_norm=flags.max_grad_norm,
        eval_batch_size=flags.per_device_eval_batch_size,
        accumulation_steps=accumulation_steps,
        eval_steps=flags.eval_steps if flags.eval_strategy == "steps" else 0,
        evals_per_epoch=1 if flags.eval_strategy == "epoch" else 0,
        keep_best=bool(flags.load_best_model_at_end),
    )


if __name__ == "__main__":
    sys.exit(main())
