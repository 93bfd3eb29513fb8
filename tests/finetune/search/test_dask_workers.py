"""A search on a Dask cluster: a real scheduler and two workers, which know nothing of this."""

from pathlib import Path

import pytest

pytest.importorskip("distributed")

from configs.defaults import get_default_config
from finetune.search.dask_workers import dask_workers
from finetune.search.scheduler import WorkerDied, run_jobs
from finetune.stage import finetune
from pipeline.errors import StageError
from pipeline.store.record_files import read_json
from tests.pipeline import dask_cluster


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    from distributed import Client

    folder = tmp_path_factory.mktemp("dask")
    with dask_cluster.scheduler(folder) as (address, _), dask_cluster.workers(folder, address):
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        yield address


def searched(root: Path, model: str, scheduler: str) -> tuple[dict, dict]:
    """Summary without times, and predictions, of MNLI and RTE from the best of two settings."""
    config = get_default_config()
    config.SYSTEM.OUTPUT_ROOT, config.SYSTEM.DASK_SCHEDULER = str(root), scheduler
    config.SYSTEM.NUM_GPUS = 0
    config.FINETUNE.MODEL_NAME_OR_PATH = model
    config.FINETUNE.GLUE_DIR, config.FINETUNE.TASKS = "builtin:demo", ["RTE", "MNLI"]
    for name in ("DEFAULT", "MNLI"):
        grid = config.FINETUNE.GRID[name]
        grid.EPOCHS, grid.BATCH_SIZES, grid.LEARNING_RATES = [1], [32], [1e-3]
    config.FINETUNE.GRID.MNLI.LEARNING_RATES = [1e-3, 2e-3]
    finetune(config)
    [path] = root.glob("output/finetune/*/search/*/summary.json")
    summary = read_json(path)
    for run in summary["runs"]:
        del run["seconds"]
    files = {path.name: path.read_bytes() for path in root.rglob("predictions_*.tsv")}
    return summary, files


@pytest.mark.slow
def test_the_search_gives_the_same_as_here(address, tmp_path, tiny_model, monkeypatch, capsys):
    here = searched(tmp_path / "here", tiny_model, "")
    monkeypatch.chdir(tmp_path)  # relative paths hold for this process alone
    assert searched(Path("cluster"), tiny_model, address) == here
    assert f"on 2 workers of {address}" in capsys.readouterr().out


@pytest.mark.slow
def test_what_fails_is_tried_twice_and_what_kills_workers_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "0")
    deadly, notes = "__import__('signal').raise_signal(9)", []
    with (
        dask_cluster.scheduler(tmp_path) as (address, _),
        dask_cluster.workers(tmp_path, address, 2),
        dask_workers(address, tmp_path / "shared", [tmp_path]) as workers,
    ):
        jobs = iter(["1 / 0", deadly, "2 + 2"])
        outcomes = dict(run_jobs(workers, eval, lambda: next(jobs, None), notes.append))
    assert outcomes["2 + 2"] == 4
    assert notes == ["1 / 0 is tried again: ZeroDivisionError: division by zero"]
    assert str(outcomes["1 / 0"]) == "ZeroDivisionError: division by zero"
    assert isinstance(outcomes[deadly], WorkerDied)
    assert str(outcomes[deadly]) == "it ended 1 worker(s), most likely out of memory"


@pytest.mark.slow
def test_no_scheduler_is_a_stage_error(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setattr("pipeline.runtime.cluster.CONNECT_SECONDS", 0.5)
    with pytest.raises(StageError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        searched(tmp_path, tiny_model, "tcp://127.0.0.1:9")
