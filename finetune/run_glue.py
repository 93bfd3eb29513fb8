"""Finetunes one model on one task of GLUE or SuperGLUE with one setting.

    python finetune/run_glue.py --model_name_or_path FOLDER --task_name MRPC --glue_dir GLUE \\
        --do_train --do_eval --output_dir /tmp/mrpc

Writes `results.json`, `predictions_<split>.tsv` and the finetuned `model/` to the output folder.
The flags are those of transformers' script of this name, in its older and newer spellings; of
those that have no meaning here a note is printed. The search of main.py calls the same functions.
"""

import argparse
import math
import os
import sys
from pathlib import Path

if __name__ == "__main__":  # imports are those of the repository, not of this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from pipeline.environment import enter_environment

    enter_environment()

from configs.predicates import SEED, Rule, at_least, between, from_to, inside
from finetune.data.tasks import TASKS, Task, find_task
from finetune.search.job_folder import (
    Source,
    TrainingSettings,
    model_path,
    predictions_path,
    save_model,
    write_predictions,
)
from finetune.training.foreign_models import can_only_be_a_folder, local_model
from pipeline.console import WARNING_PREFIX, print_line
from pipeline.errors import StageError
from pipeline.privacy import private_files
from pipeline.runtime.devices import take_device
from pipeline.store.atomic_files import write_json

RESULTS = "results.json"  # tells the folder of an earlier run
# Flags of transformers' script that nothing here depends on, and what happens instead.
NOTED = {
    "save_strategy": "the model is saved once, when all is done",
    "save_steps": "the model is saved once, when all is done",
    "save_total_limit": "the model is saved once, when all is done",
    "logging_strategy": "about 40 points of the training are logged",
    "logging_steps": "about 40 points of the training are logged",
    "logging_first_step": "about 40 points of the training are logged",
    "logging_dir": "results.json holds the loss and the learning rate",
    "report_to": "results.json holds the loss and the learning rate",
    "run_name": "results.json holds the loss and the learning rate",
    "disable_tqdm": "there are lines instead of a bar",
    "fp16": "half precision is used where the device is built for it, bf16 first",
    "bf16": "half precision is used where the device is built for it, bf16 first",
    "metric_for_best_model": "the best model is that with the highest mean of the task's metrics",
    "greater_is_better": "the best model is that with the highest mean of the task's metrics",
    "pad_to_max_length": "samples are padded to the longest of their batch",
    "group_by_length": "batches are always made of samples of similar length",
    "train_sampling_strategy": "batches are always made of samples of similar length",
    "dataloader_num_workers": "batches are made in the process that trains",
    "dataloader_pin_memory": "it is pinned where there is a GPU",
    "use_fast_tokenizer": "the fast tokenizer is used where there is one",
    "overwrite_cache": "nothing is cached in files",
    "ignore_mismatched_sizes": "a head that does not fit the task is always drawn anew",
    "optim": "it is AdamW",
}
# Flags whose names transformers has given up, and their present ones.
RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "no_cuda": "use_cpu",
}

# Of flags that are numbers.
RANGES: dict[str, Rule] = {
    "max_seq_length": at_least(8),
    "max_train_samples": at_least(0),
    "max_eval_samples": at_least(0),
    "max_predict_samples": at_least(0),
    "eval_steps": at_least(1),
    "per_device_train_batch_size": at_least(1),
    "per_device_eval_batch_size": at_least(1),
    "gradient_accumulation_steps": at_least(1),
    "learning_rate": inside(0, math.inf),
    "weight_decay": between(0, math.inf),
    "max_grad_norm": between(0, math.inf),
    "num_train_epochs": between(0, math.inf),
    "warmup_steps": between(0, math.inf),
    "warmup_ratio": from_to(0, 1),
    "seed": SEED,
}


def build_parser() -> argparse.ArgumentParser:
    """Every flag of the manual's command; defaults are those of transformers."""
    parser = argparse.ArgumentParser(
        description="Finetune one model on one task of GLUE or SuperGLUE with one setting.",
        allow_abbrev=False,
    )
    _add_what_to_do(parser)
    _add_how_to_train(parser)
    for name, note in NOTED.items():
        help_text = f"has no effect: {note}"
        parser.add_argument(
            f"--{name}", nargs="?", const="", default=argparse.SUPPRESS, help=help_text
        )
    return parser


def _add_what_to_do(parser: argparse.ArgumentParser) -> None:
    add, switch = parser.add_argument, {"type": _truth, "nargs": "?", "const": True}
    add("--model_name_or_path", required=True, help="folder or Hub name of a checkpoint")
    add("--tokenizer_name", default="", help="the same for its tokenizer; default: the model's")
    add("--task_name", required=True, type=_task, help=", ".join(task.name for task in TASKS))
    add("--glue_dir", default="", help="GLUE in its TSV layout; default: nyu-mll/glue on the Hub")
    add("--superglue_dir", default="", help="SuperGLUE in its JSONL layout, for its tasks")
    add("--output_dir", required=True, type=Path)
    add("--overwrite_output_dir", **switch, help="write into a folder that is not empty")
    add("--max_seq_length", type=int, default=128)
    add("--max_train_samples", type=int, default=0, help="only the first ones; default: all")
    add("--max_eval_samples", type=int, default=0)
    add("--max_predict_samples", type=int, default=0)
    add("--do_train", **switch, help="without it the checkpoint is used as it is")
    add("--do_eval", **switch, help="score the dev sets")
    add("--do_predict", **switch, help="predict the test sets")
    add("--use_cpu", "--no_cuda", **switch, help="even if there are GPUs")


def _add_how_to_train(parser: argparse.ArgumentParser) -> None:
    add, switch = parser.add_argument, {"type": _truth, "nargs": "?", "const": True}
    strategies = ("no", "steps", "epoch")
    add("--eval_strategy", "--evaluation_strategy", choices=strategies, default="no")
    add("--eval_steps", type=int, default=500, help="with --eval_strategy steps")
    add("--load_best_model_at_end", **switch, help="the best of the evaluated weights count")
    add("--per_device_train_batch_size", "--per_gpu_train_batch_size", type=int, default=8)
    add("--per_device_eval_batch_size", "--per_gpu_eval_batch_size", type=int, default=8)
    add("--gradient_accumulation_steps", type=int, default=1)
    add("--learning_rate", type=float, default=5e-5)
    add("--weight_decay", type=float, default=0.0)
    add("--max_grad_norm", type=float, default=1.0)
    add("--num_train_epochs", type=float, default=3.0)
    add("--lr_scheduler_type", default="linear", help="by its transformers name")
    add("--warmup_steps", type=float, default=0, help="a share of all steps if below 1")
    add("--warmup_ratio", type=float, default=0.0, help="the same as --warmup_steps below 1")
    add("--seed", type=int, default=42)


def _task(name: str) -> Task:
    try:
        return find_task(name)
    except KeyError as error:
        raise argparse.ArgumentTypeError(error.args[0]) from error


def _truth(word: str) -> bool:
    """As transformers reads `--do_train True`."""
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if word.lower() not in words:
        raise argparse.ArgumentTypeError(f"got {word}, expected true or false")
    return words[word.lower()]


@private_files()
def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 done, 2 the command line is wrong, 3 the run failed."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = build_parser()
    flags = parser.parse_args(arguments)
    if problem := _problem(flags):
        parser.error(problem)
    for note in _notes(arguments, flags):
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
    """What is wrong with the flags, or an empty string."""
    from finetune.training.schedules import FOLLOWS_SCORE, scheduler_names

    folder, names = flags.output_dir, scheduler_names()
    for name, (is_in_range, expected) in RANGES.items():
        if not is_in_range(value := getattr(flags, name)):
            return f"--{name}: got {value}, expected {expected}"
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
    if flags.lr_scheduler_type not in names:
        return f"--lr_scheduler_type: got {flags.lr_scheduler_type}, expected {', '.join(names)}"
    needs_evaluations = {
        "--load_best_model_at_end": flags.load_best_model_at_end,
        f"--lr_scheduler_type {flags.lr_scheduler_type}": flags.lr_scheduler_type in FOLLOWS_SCORE,
    }
    needing = [name for name, needs in needs_evaluations.items() if needs]
    if needing and flags.eval_strategy == "no":
        return f"{needing[0]}: expected --eval_strategy steps or epoch beside it"
    return ""


def _notes(arguments: list[str], flags: argparse.Namespace) -> list[str]:
    """About flags that have no effect here, or that transformers has renamed, and models that
    come from the Hub."""
    given = {argument.split("=")[0].removeprefix("--") for argument in arguments}
    notes = [f"--{name} has no effect: {note}" for name, note in NOTED.items() if name in given]
    notes += [f"--{old} is now called --{new}" for old, new in RENAMED.items() if old in given]
    if flags.warmup_ratio and flags.warmup_steps:
        notes.append("--warmup_ratio has no effect: --warmup_steps is given")
    for name in ("model_name_or_path", "tokenizer_name"):
        model = getattr(flags, name)
        if model and not os.path.exists(model) and not can_only_be_a_folder(model):
            notes.append(f"--{name}: there is no folder {model}, so it is a name on the Hub")
    return notes


def run(flags: argparse.Namespace) -> dict:
    """Does what the flags say and returns what results.json holds."""
    import torch

    from finetune.data.encoding import load_tokenizer
    from finetune.training.training import MaxSamples, finetune_task

    if (num_gpus := torch.cuda.device_count()) > 1:
        print(
            f"note: {num_gpus} GPUs are visible and the first is used; CUDA_VISIBLE_DEVICES can "
            "name another"
        )
    task, folder = flags.task_name, flags.output_dir
    data_dir = flags.superglue_dir if task.benchmark == "SuperGLUE" else flags.glue_dir
    model, _ = local_model(flags.model_name_or_path, "--model_name_or_path")
    tokenizer = model
    if flags.tokenizer_name:
        tokenizer, _ = local_model(flags.tokenizer_name, "--tokenizer_name")
    source = Source(model, tokenizer, data_dir)
    outcome = finetune_task(
        task,
        source,
        _settings(flags),
        print,
        flags.do_train,
        flags.do_eval or flags.eval_strategy != "no",
        flags.do_predict,
        MaxSamples(flags.max_train_samples, flags.max_eval_samples, flags.max_predict_samples),
    )
    for warning in outcome.tokenization.warnings("--max_seq_length"):
        print_line(WARNING_PREFIX + warning)
    for split, values in outcome.predictions.items():
        write_predictions(predictions_path(folder, split), values)
    results = {
        "task": task.name,
        "flags": {**vars(flags), "task_name": task.name, "output_dir": str(folder)},
        "dev": outcome.dev,
        "history": outcome.history,
        "evaluations": outcome.evaluations,
        "majority": outcome.majority,
        "only_label": outcome.only_label,
        **outcome.counts,
        **outcome.tokenization.as_json(),
    }
    write_json(folder / RESULTS, results)
    if flags.do_train:  # behind RESULTS, by which a later run knows the model as its own
        save_model(outcome.model, folder)
        load_tokenizer(source.base).save_pretrained(model_path(folder))
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
        warmup=flags.warmup_steps or flags.warmup_ratio,
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
