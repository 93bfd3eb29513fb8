"""Paths under SYSTEM.OUTPUT_ROOT, and names of files that several stages use."""

from pathlib import Path

MODEL = "model"  # folder of an exported or finetuned model
CHECKPOINTS = "checkpoints"
MODELS_AT = "models_at"  # models exported before the end, and of runs since lengthened
METRICS = "metrics.jsonl"
PHASES = "phases.json"  # facts on the phases of a pretraining run, beside its checkpoints
MODEL_CARD = "README.md"  # for people, who may change it
SUMMARY = "summary.json"
REPORT_JSON = "report.json"
DEV_PREDICTIONS = "dev_predictions"  # folder beside the report
NAMED = "+"  # joins the two IDs in the name of a search's folder; no ID contains one


def sharded_text_dir(root: Path, dataset_id: str) -> Path:
    return root / "tmp" / "dataset" / dataset_id


def dataset_dir(root: Path, dataset_id: str) -> Path:
    return root / "data" / dataset_id


def pretrain_dir(root: Path, dataset_id: str, pretrain_id: str) -> Path:
    return root / "saved_models" / "pretrain" / dataset_id / pretrain_id


def search_name(pretrain_id: str, finetune_id: str) -> str:
    """Returns the name of a search's folders."""
    return f"{pretrain_id}{NAMED}{finetune_id}" if finetune_id else pretrain_id


def finetune_search_dir(root: Path, dataset_id: str, search: str) -> Path:
    """Returns the folder of the search's summary, beside the folders of the tasks."""
    return root / "output" / "finetune" / dataset_id / "search" / search


def finetune_task_dir(root: Path, dataset_id: str, task: str, search: str) -> Path:
    """Returns the folder of a task, with a subfolder for each setting."""
    return root / "output" / "finetune" / dataset_id / task / search


def demo_glue_dir(root: Path) -> Path:
    return root / "tmp" / "glue_demo"


def submission_dir(root: Path, dataset_id: str, search: str) -> Path:
    """Returns the folder of the submission's files; the zip is beside it."""
    return root / "output_test_translated" / "finetune" / dataset_id / search


def log_path(root: Path, stage: str, *parts: str) -> Path:
    """Returns `log/<stage>/<part>/.../<part>.log`."""
    path = root / "log" / stage / Path(*parts)
    return path.with_name(path.name + ".log")
