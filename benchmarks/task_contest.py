"""Runs of a task in the usual way and by our search, with a record of each."""

import json
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import main_command, run_alone, started, write_numbers
from benchmarks.task_data import (
    CLASSIFICATION,
    MULTI_LABEL,
    TOKENS,
    Task,
    labels_of,
    read_rows,
    some_of,
    write_rows,
)
from benchmarks.usual_tasks import Run, Settings, finetune_task_usually

USUAL, OURS = WAYS = ("usual", "ours")
CLOCK_SECONDS = 10  # between two records of our search's time


@dataclass(frozen=True)
class Entry:
    """A task in the contest.

    files: absolute path of each split. labels: all classes. labels_file: absolute, of multi-label
    tasks. identity: digest of all that a run depends on, beside the code and its seed.
    """

    task: Task
    files: Mapping[str, Path]
    labels: Sequence[str]
    labels_file: Path | None
    model: Path
    settings: Settings
    identity: str


@dataclass(frozen=True)
class Record:
    """A finished run. wall: seconds with its share of the start; starts: of the command."""

    way: str
    task: str
    identity: str
    run: Run
    wall: float
    starts: int = 1


# --- entries and records ----------------------------------------------------------------------


def enter(
    task: Task, model: Path, data: Path, work_dir: Path, settings: Settings, num_rows: int = 0
) -> Entry:
    """Returns an entry. num_rows: to train on, from a new file in `work_dir`; 0 for all.

    SystemExit if a folder or file is not there.
    """
    from pipeline.store.checksums import file_digest, fingerprint

    files = {split: (data / file).resolve() for split, file in task.files.items()}
    for path in (model, *files.values()):
        if not path.exists():
            raise SystemExit(f"{path}: there is no such file or folder")
    labels = labels_of(task, data)
    if num_rows:
        name = f"{task.name}_{num_rows}{files['train'].suffix or '.tsv'}"
        rows = some_of(read_rows(task, files["train"]), num_rows)
        files["train"] = (work_dir / "data" / name).resolve()
        write_rows(task, rows, files["train"])
    inputs = {
        "settings": asdict(settings),
        "labels": labels,
        "model": [file_digest(file) for file in _files_in(model)],
        "files": {s: [file_digest(file) for file in _files_in(files[s])] for s in files},
    }
    labels_file = (data / task.labels_file).resolve() if task.labels_file else None
    identity = fingerprint(inputs)
    return Entry(task, files, labels, labels_file, model.resolve(), settings, identity)


def _files_in(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def read_records(path: Path) -> list[Record]:
    if not path.exists():
        return []
    found = map(json.loads, path.read_text().splitlines())
    return [Record(**{**values, "run": Run(**values["run"])}) for values in found]


def write_records(path: Path, records: Sequence[Record]) -> None:
    """Replaces the file by one line per record, so that no line is ever partial."""
    from pipeline.store.atomic_files import write_text

    write_text(path, "".join(json.dumps(asdict(record)) + "\n" for record in records))


def runs_of(entry: Entry, way: str, records: Sequence[Record]) -> dict[int, Record]:
    """Returns the records of an entry by seed."""
    wanted = (way, entry.task.name, entry.identity)
    found = [record for record in records if (record.way, record.task, record.identity) == wanted]
    return {record.run.seed: record for record in found}


# --- both ways --------------------------------------------------------------------------------


def hold(
    entry: Entry,
    work_dir: Path,
    seeds: Sequence[int],
    ways: Sequence[str],
    records: Sequence[Record],
) -> Iterator[Record]:
    """Yields the runs that are not in `records`: half of the usual ones, ours, then the rest."""
    missing = {way: [s for s in seeds if s not in runs_of(entry, way, records)] for way in ways}
    usual, ours = missing.get(USUAL, []), missing.get(OURS, [])
    half = (len(usual) + 1) // 2
    for seed in usual[:half]:
        yield run_usual(entry, work_dir / "usual.log", seed)
    if ours:
        yield from run_ours(entry, work_dir, ours)
    for seed in usual[half:]:
        yield run_usual(entry, work_dir / "usual.log", seed)


def run_usual(entry: Entry, log: Path, seed: int) -> Record:
    arguments = (entry.task, entry.files, entry.labels, entry.model, entry.settings, seed)
    found, wall = run_alone(log, finetune_task_usually, *arguments)
    return Record(USUAL, entry.task.name, entry.identity, Run(**found), wall)


def run_ours(entry: Entry, work_dir: Path, seeds: Sequence[int]) -> list[Record]:
    """Runs a search, or the rest of it."""
    name = "-".join([entry.task.name, entry.identity[:8], *map(str, seeds)])
    folder = (work_dir / "ours" / name).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "config.yaml"
    config.write_text(json.dumps(search_config(entry, seeds), indent=1))
    seconds, starts = timed(main_command(config, folder, "finetune"), folder)
    return [
        Record(OURS, entry.task.name, entry.identity, run, seconds / len(seeds), starts)
        for run in finished_runs(folder, entry.task)
    ]


def timed(command: Sequence[str], folder: Path) -> tuple[float, int]:
    """Runs a command; returns its seconds and starts.

    They include those of earlier calls with this folder, up to CLOCK_SECONDS before they were
    killed. SystemExit with the end of its log if it fails.
    """
    clock, log = folder / "clock.json", folder / "search.log"
    before = json.loads(clock.read_text()) if clock.exists() else {"seconds": 0.0, "starts": 0}
    now, begin = {**before, "starts": before["starts"] + 1}, time.perf_counter()
    code = None
    with started(command, log) as process:
        while code is None:
            write_numbers(clock, now)
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(CLOCK_SECONDS)
            now["seconds"] = before["seconds"] + time.perf_counter() - begin
    write_numbers(clock, now)
    if code:
        raise SystemExit(f"our search failed: {log.read_text(errors='replace')[-3000:]}")
    return now["seconds"], now["starts"]


def search_config(entry: Entry, seeds: Sequence[int]) -> dict[str, Any]:
    """Returns the config of a search of one setting with several seeds."""
    name, settings = entry.task.name, entry.settings
    grid = {
        "EPOCHS": [settings.epochs],
        "BATCH_SIZES": [settings.batch_size],
        "LEARNING_RATES": [settings.learning_rate],
    }
    return {
        "INSTALL": {"ENABLED": False},  # children use this Python
        "DATASET": {"ENABLED": False},
        "PRETRAIN": {"ENABLED": False},
        "FINETUNE": {
            "MODEL_NAME_OR_PATH": str(entry.model),
            "TASKS": [name],
            "STILT_TASKS": [],
            "CUSTOM_TASKS": {name: our_config(entry)},
            "GRID": {"DEFAULT": grid},
            "SEEDS": list(seeds),
            "MAX_SEQ_LENGTH": settings.max_seq_length,
            "WEIGHT_DECAY": settings.weight_decay,
            "WARMUP_PROPORTION": settings.warmup,
            "LR_SCHEDULER_TYPE": "linear",
        },
    }


def our_config(entry: Entry) -> dict[str, Any]:
    """Returns FINETUNE.CUSTOM_TASKS.<name> of an entry."""
    task = entry.task
    files = {split.upper(): str(path) for split, path in entry.files.items()}
    if task.kind == TOKENS:
        return {**files, "TYPE": "token_classification", "TAG_COLUMN": 2}
    if task.kind == MULTI_LABEL:
        return {
            **files,
            "TYPE": "multi_label",
            "COLUMNS": ["text", "label", "id"],
            "TEXT_COLUMNS": ["text"],
            "LABEL_SEPARATOR": ",",
            "LABELS_FILE": str(entry.labels_file),
        }
    assert task.kind == CLASSIFICATION
    return {
        **files,
        "TEXT_COLUMNS": ["text"],
        "LABEL_COLUMN": task.label_column,
        "LABELS": list(entry.labels),  # some of the rows may lack a class
        "METRICS": [task.metric],
    }


def finished_runs(root: Path, task: Task) -> list[Run]:
    """Returns the runs of our search. SystemExit if the task's metric is not among theirs."""
    from finetune.search.job_folder import RESULT
    from pipeline.store.paths import SUMMARY, finetune_task_dir, search_name

    (path,) = root.glob(f"output/finetune/*/search/*/{SUMMARY}")
    summary = json.loads(path.read_text())
    search = search_name(summary["pretrain_id"], summary["finetune_id"])
    folder = finetune_task_dir(root, summary["dataset_id"], task.name, search)
    return [
        _our_run(row["seed"], json.loads((folder / row["setting"] / RESULT).read_text()), task)
        for row in summary["runs"]
    ]


def _our_run(seed: int, result: Mapping[str, Any], task: Task) -> Run:
    dev = result["dev"]["dev"]
    if task.metric not in dev:
        raise SystemExit(f"our search has no {task.metric} of {task.name}, only {', '.join(dev)}")
    return Run(
        seed=seed,
        dev=dev,
        test={},  # predicted, not scored
        seconds=result["seconds"],
        rows=result["num_train_rows"],
        tokens=result["num_tokens"],
        steps=result["num_steps"],
    )
