"""Finetunes one model on one GLUE task with one setting.

    python finetune/run_glue.py --model_name_or_path FOLDER --task_name MRPC --glue_dir GLUE \\
        --do_train --do_eval --output_dir /tmp/mrpc

Writes `results.json`, `predictions_<split>.tsv` and the finetuned `model/` to the output folder.
The flags are those of transformers' script of this name; the search of main.py calls the same
functions.
"""

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a file: this folder's modules are not top-level ones
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from finetune.runs import (
    Source,
    TrainingSettings,
    model_path,
    predictions_path,
    save_model,
    write_predictions,
)
from finetune.tasks import TASKS, Task, find_task
from pipeline.artifacts import write_json
from pipeline.errors import StageError


def build_parser() -> argparse.ArgumentParser:
    """Every flag of the manual's command; defaults are those of transformers."""
    parser = argparse.ArgumentParser(
        description="Finetune one model on one GLUE task with one setting."
    )
    add = parser.add_argument
    add("--model_name_or_path", required=True, help="folder or Hub name of a checkpoint")
    add("--task_name", required=True, type=_task, help=", ".join(task.name for task in TASKS))
    add("--glue_dir", default="", help="GLUE in its TSV layout; default: nyu-mll/glue on the Hub")
    add("--output_dir", required=True, type=Path)
    add("--overwrite_output_dir", action="store_true", help="write into a folder that is not empty")
    add("--max_seq_length", type=int, default=128)
    add("--do_train", action="store_true", help="without it the checkpoint is used as it is")
    add("--do_eval", action="store_true", help="score the dev sets")
    add("--do_predict", action="store_true", help="predict the test sets")
    add("--evaluation_strategy", "--eval_strategy", choices=("no", "steps"), default="no")
    add("--eval_steps", type=int, default=500, help="with --evaluation_strategy steps")
    add("--per_device_train_batch_size", type=int, default=8)
    add("--per_device_eval_batch_size", type=int, default=8)
    add("--gradient_accumulation_steps", type=int, default=1)
    add("--learning_rate", type=float, default=5e-5)
    add("--weight_decay", type=float, default=0.0)
    add("--max_grad_norm", type=float, default=1.0)
    add("--num_train_epochs", type=float, default=3.0)
    add("--lr_scheduler_type", default="linear", help="by its transformers name")
    add("--warmup_steps", type=float, default=0, help="a share of all steps if below 1")
    add("--seed", type=int, default=42)
    return parser


def _task(name: str) -> Task:
    try:
        return find_task(name)
    except KeyError as error:
        raise argparse.ArgumentTypeError(error.args[0]) from error


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 done, 2 the command line is wrong, 3 the run failed."""
    parser = build_parser()
    flags = parser.parse_args(arguments)
    if not (flags.do_train or flags.do_eval or flags.do_predict):
        parser.error("nothing to do: give --do_train, --do_eval or --do_predict")
    folder = flags.output_dir
    if folder.exists() and any(folder.iterdir()) and not flags.overwrite_output_dir:
        parser.error(f"--output_dir: {folder} is not empty (--overwrite_output_dir writes into it)")
    try:
        results = run(flags)
    except (StageError, OSError, ValueError) as error:
        print(f"run_glue: {error}", file=sys.stderr)
        return 3
    for split, metrics in results["dev"].items():
        shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        print(f"{results['task']} {split}: {shown}")
    print(f"results are in {folder}")
    return 0


def run(flags: argparse.Namespace) -> dict:
    """Does what the flags say and returns what results.json holds."""
    from finetune.encoding import load_tokenizer
    from finetune.training import finetune_task

    task, folder = flags.task_name, flags.output_dir
    source = Source(flags.model_name_or_path, flags.model_name_or_path, flags.glue_dir)
    outcome = finetune_task(
        task, source, _settings(flags), print, flags.do_train, flags.do_eval, flags.do_predict
    )
    for split, values in outcome.predictions.items():
        write_predictions(predictions_path(folder, split), values)
    if flags.do_train:
        save_model(outcome.model, folder)
        load_tokenizer(source.base).save_pretrained(model_path(folder))
    results = {
        "task": task.name,
        "flags": {**vars(flags), "task_name": task.name, "output_dir": str(folder)},
        "dev": outcome.dev,
        "history": outcome.history,
        **outcome.counts,
    }
    write_json(folder / "results.json", results)
    return results


def _settings(flags: argparse.Namespace) -> TrainingSettings:
    import torch

    devices = max(1, torch.cuda.device_count())
    accumulation_steps = flags.gradient_accumulation_steps
    return TrainingSettings(
        epochs=flags.num_train_epochs,
        batch_size=flags.per_device_train_batch_size * devices * accumulation_steps,
        learning_rate=flags.learning_rate,
        seed=flags.seed,
        max_seq_length=flags.max_seq_length,
        weight_decay=flags.weight_decay,
        warmup=flags.warmup_steps,
        lr_scheduler_type=flags.lr_scheduler_type,
        max_grad_norm=flags.max_grad_norm,
        eval_batch_size=flags.per_device_eval_batch_size,
        accumulation_steps=accumulation_steps,
        eval_steps=flags.eval_steps if flags.evaluation_strategy == "steps" else 0,
    )


if __name__ == "__main__":
    sys.exit(main())
