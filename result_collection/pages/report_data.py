"""The content of report.json, from the folders of all stages.

The page can be drawn from report.json alone; a comparison also reads the dev predictions beside it.
It holds no secrets and no text of the dataset; text of dev rows only if that is asked for.
"""

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.defaults import get_default_config
from configs.loading import flatten
from dataset.card import CARD
from finetune.data.tasks import Task
from finetune.kept_models import kept_models
from finetune.plan import FinetunePlan
from finetune.search.job_folder import RESULT
from finetune.search.search import Search
from pipeline.errors import StageError
from pipeline.privacy import is_secret
from pipeline.store.paths import MODEL, REPORT_JSON, dataset_dir, log_path
from pipeline.store.record_files import MANIFEST, read_json, read_record, read_sealed
from pretrain.plan import PretrainPlan
from result_collection.pages.joined_metrics import joined_metrics
from result_collection.predictions.best_runs import BestRuns
from result_collection.predictions.collected import collected

if TYPE_CHECKING:
    from yacs.config import CfgNode

FORMAT = 1  # of report.json
MAX_POINTS = 1500  # of a curve: more than the page has pixels
TRAIN_COLUMNS = (
    *("step", "loss", "lr", "elapsed_seconds"),
    *("samples_per_second", "tokens_per_second", "peak_share"),
)
# The card's section with dataset text: reports are shared more widely than data.
QUOTED_SECTION = "## A held-out sample"
PACKAGES = ("torch", "deepspeed", "transformers", "datasets", "tokenizers", "numpy")
GPU_FILES = Path("/proc/driver/nvidia/gpus")


def collect(
    config: "CfgNode",
    searched: FinetunePlan,
    folder: Path,
    summary: Mapping[str, Any],
    submission: Mapping[str, Any],
    runs: Mapping[str, BestRuns],
) -> dict[str, Any]:
    """Returns the content of report.json; `pretraining` and `dataset` are None if not run here.

    folder: of the report; links are relative to it. submission: `zips`, a list of {benchmark, zip,
    problems}, and `own_predictions`, task -> path. runs: with dev predictions, by task.
    """
    search, model = searched.search, searched.search.model
    return {
        "format": FORMAT,
        "dataset_id": model.dataset_id,
        "pretrain_id": model.pretrain_id,
        "finetune_id": search.finetune_id,
        "written_at": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "summary": dict(summary),
        "submission": dict(submission),
        "scored_by": {task.name: _scored_by(search, task) for task in search.tasks},
        "predictions": collected(search, runs, config.RESULT_COLLECTION.SHOW_TEXT),
        "finetuning": {row["task"]: _best_run(search, row) for row in summary["tasks"]},
        "pretraining": _pretraining(searched.upstream) if searched.upstream else None,
        "dataset": _dataset(dataset_dir(search.root, model.dataset_id)) if model.artifact else None,
        "config": _config(config),
        "environment": environment(),
        "stages": _stages(searched, summary),
        "links": _links(search, folder, summary),
    }


def _scored_by(search: Search, task: Task) -> dict[str, Any]:
    """Returns the dev data (digests) and metrics of a task: equal for comparable scores."""
    files = search.task_inputs[task.name]["task_files"]
    if not isinstance(files, str):  # a string names a dataset on the Hub
        dev = task.dev or (task.train,)  # in folds
        files = {split.name: files[split.name] for split in dev}
    folds = {"folds": task.num_folds} if task.num_folds else {}
    return {"dev": files, "metrics": list(task.metrics), **folds}


def read_report(folder: Path) -> dict[str, Any]:
    """Reads report.json. Raises StageError if it is missing, invalid or of another format."""
    found = read_json(folder / REPORT_JSON) or {}
    if found.get("format") != FORMAT or not _has_plain_names(found):
        raise StageError(
            f"{folder / REPORT_JSON}: no report of this version, expected a results folder like "
            "output_test_translated/finetune/<ID>/<PRETRAIN.ID>"
        )
    return found


def _has_plain_names(report: Mapping[str, Any]) -> bool:
    """True if the names of the tasks are valid file names."""
    try:
        names = [row["task"] for row in report["summary"]["tasks"]]
    except (KeyError, TypeError):
        return False
    return all(isinstance(name, str) and Path(name).name == name for name in names)


def columns(lines: Sequence[Mapping[str, Any]], names: Iterable[str]) -> dict[str, list]:
    """Returns the values of each name, with None for missing ones.

    Keeps every n-th line and the last, at most MAX_POINTS + 1 lines. Means would hide the log's
    values.
    """
    stride = -(-len(lines) // MAX_POINTS) or 1
    kept = [*lines[:-1:stride], *lines[-1:]]
    return {name: [line.get(name) for line in kept] for name in names}


def _best_run(search: Search, row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the curves of a task's submitted run."""
    path = search.task_dir(row["task"]) / row["submitted"]["setting"] / RESULT
    result = read_sealed(path) or {}
    return {
        "history": columns(result.get("history", ()), ("epoch", "loss", "learning_rate")),
        "evaluations": columns(result.get("evaluations", ()), ("epoch", "score")),
        "num_train_rows": result.get("num_train_rows"),
        "num_steps": result.get("num_steps"),
        "seconds": result.get("seconds"),
    }


def _pretraining(plan: PretrainPlan) -> dict[str, Any] | None:
    """Returns results and curves; `phases` and the steps at which they begin, if there are any."""
    manifest = plan.artifact.manifest
    if not manifest:
        return None
    lines, begins = joined_metrics(plan)
    train = [line for line in lines if line["kind"] == "train"]
    validation = [line for line in lines if line["kind"] == "validation"]
    results = dict(manifest["results"])
    if begins and train:
        results |= {name: train[-1][name] for name in ("step", "samples", "tokens")}
    return {
        "results": results,
        "train": columns(train, TRAIN_COLUMNS),
        "validation": columns(validation, ("step", "loss", "accuracy")),
        "phases": results.get("phases", []),
        "phase_begins": begins,
    }


def _dataset(directory: Path) -> dict[str, Any] | None:
    manifest = read_record(directory / MANIFEST)
    if not manifest:
        return None
    card = directory / CARD
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    return {"results": manifest["results"], "card": _without_section(text, QUOTED_SECTION)}


def _without_section(text: str, heading: str) -> str:
    before, _, after = text.partition(heading)
    _, found, rest = after.partition("\n## ")
    return (before + "## " + rest if found else before).strip()


def _config(config: "CfgNode") -> dict[str, Any]:
    """Returns `values` of all keys but secrets, and `changed`: the defaults of changed keys."""
    values = {key: value for key, value in flatten(config).items() if not is_secret(key)}
    defaults = flatten(get_default_config())
    changed = {
        key: defaults.get(key) for key, value in values.items() if value != defaults.get(key)
    }
    return {"values": values, "changed": changed}


def environment() -> list[tuple[str, str]]:
    """Returns processor, memory and GPUs of this machine, and versions of packages."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = [(name, version) for name in PACKAGES if (version := _version(name))]
    return [
        ("processor", f"{_processor()}, {len(os.sched_getaffinity(0))} cores"),
        ("memory", f"{memory:.0f} GiB"),
        ("GPU", ", ".join(_gpus()) or "none"),
        ("system", platform.platform()),
        ("Python", platform.python_version()),
        *versions,
    ]


def _processor() -> str:
    """Returns the processor's name, or the architecture if the kernel gives no name."""
    names = _values_of(Path("/proc/cpuinfo"), "model name")
    return names[0] if names else platform.machine()


def _gpus() -> list[str]:
    """Returns the driver's names: `2 x NVIDIA H100 80GB HBM3`."""
    files = sorted(GPU_FILES.glob("*/information"))
    names = [name for file in files for name in _values_of(file, "Model")]
    return [f"{names.count(name)} x {name}" for name in dict.fromkeys(names)]


def _values_of(path: Path, key: str) -> list[str]:
    """Returns the values of `key : value` lines in a kernel file; empty if it is unreadable."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    pairs = (line.partition(":") for line in lines)
    return [value.strip() for name, _, value in pairs if name.strip() == key]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _stages(searched: FinetunePlan, summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the times of each stage: seconds and end of its last command, and work.

    work: seconds of pretraining over all restarts, or the sum of the search's runs.
    """
    search, model, stages = searched.search, searched.search.model, []
    if model.artifact:
        directory = dataset_dir(search.root, model.dataset_id)
        stages.append(_times("dataset", read_record(directory / MANIFEST), None))
    if searched.upstream:
        lines, _ = joined_metrics(searched.upstream)
        elapsed = [line["elapsed_seconds"] for line in lines if "elapsed_seconds" in line]
        work = elapsed[-1] if elapsed else None
        stages.append(_times("pretrain", _manifest_of_phases(searched.upstream), work))
    work = sum(row["seconds"] for row in summary["tasks"])
    return [*stages, _times("finetune", searched.artifact.manifest, work)]


def _manifest_of_phases(plan: PretrainPlan) -> Mapping[str, Any] | None:
    """Returns the manifest of the last phase, with the seconds of all of them."""
    manifest = plan.artifact.manifest
    others = [found for link in plan.earlier if (found := link.artifact.manifest)]
    if not others or not manifest or "seconds" not in manifest:
        return manifest
    return {**manifest, "seconds": sum(one.get("seconds", 0) for one in (manifest, *others))}


def _times(stage: str, manifest: Mapping[str, Any] | None, work: float | None) -> dict[str, Any]:
    recorded = {key: (manifest or {}).get(key) for key in ("seconds", "finished_at")}
    return {"stage": stage, **recorded, "work": work}


def _links(search: Search, folder: Path, summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns names and paths (relative to `folder`) of existing logs, folders and cards."""
    model, root, dataset_id = search.model, search.root, search.model.dataset_id
    paths = {
        "log of the dataset stage": log_path(root, "dataset", dataset_id),
        "log of pretraining": log_path(root, "pretrain", dataset_id, model.pretrain_id),
        "log of the search": search.log("search", search.name),
        "log of this stage": log_path(root, "result_collection", dataset_id, search.name),
        "dataset card": dataset_dir(root, dataset_id) / CARD,
    }
    if model.artifact:
        paths["pretrained model"] = model.artifact.directory / MODEL
    for row in summary["tasks"]:
        log = search.log(row["task"], search.name, row["submitted"]["setting"])
        paths[f"log of {row['task']}'s submitted run"] = log
    best = {row["task"]: row["submitted"]["setting"] for row in summary["tasks"]}
    models = kept_models(search, best)
    paths |= {f"finetuned model of {task}": model for task, model in models.items()}
    return [(name, os.path.relpath(path, folder)) for name, path in paths.items() if path.exists()]
