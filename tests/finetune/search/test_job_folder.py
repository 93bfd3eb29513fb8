"""What a finished run has left counts only as long as it is what it was."""

import pytest

from finetune.data.tasks import find_task
from finetune.search.grid import Grid, plan_jobs
from finetune.search.job_folder import (
    RESULT,
    SUMMARY_KEYS,
    InputPaths,
    JobRun,
    TrainingSettings,
    damage_to_run,
    has_model,
    model_path,
    predictions_path,
    write_predictions,
    write_result,
)
from finetune.search.search_state import SearchState
from tests.damage import flip_byte

[PREDICTIONS] = (f"predictions_{split.name}.tsv" for split in find_task("RTE").test)
[MNLI, RTE] = plan_jobs(dict.fromkeys(("MNLI", "RTE"), Grid((1,), (32,), (1e-3,))), [42], ["RTE"])


@pytest.fixture
def make_run(tmp_path):
    """A run of a job in a folder of its name, from another one if that is given."""

    def make(job, source=None) -> JobRun:
        settings = TrainingSettings(1, 32, 1e-3, 42, 32, 0.1, 0.06, "linear", 1.0, 64)
        return JobRun(
            job=job,
            task=find_task(job.task),
            inputs={"seed": 42, "start": str(source)},
            paths=InputPaths("model", "model", "data"),
            settings=settings,
            folder=tmp_path / job.task,
            log=tmp_path / "log",
            keep_model=job.task == "MNLI",
        )

    return make


def finish(run: JobRun) -> JobRun:
    """Writes what a worker does."""
    for split in run.task.test:
        write_predictions(predictions_path(run.folder, split), [("0", "entailment")] * 9)
    if run.keep_model:
        model_path(run.folder).mkdir(parents=True)
        (model_path(run.folder) / "model.safetensors").write_bytes(bytes(100))
    found = {"fingerprint": run.fingerprint, **dict.fromkeys(SUMMARY_KEYS, 0.5)}
    write_result(run, found)
    assert found.items() <= run.result.items() and damage_to_run(run.folder) == ""
    return run


@pytest.mark.parametrize("name", [RESULT, PREDICTIONS])
def test_a_run_that_is_damaged_is_not_done(make_run, name):
    run = finish(make_run(RTE))
    content = (run.folder / name).read_bytes()
    for place in range(0, len(content), 7):
        flip_byte(run.folder / name, place)
        assert damage_to_run(run.folder) == f"{name} is damaged" and run.result is None
        (run.folder / name).write_bytes(content)
    (run.folder / name).write_bytes(content[:-20])
    assert damage_to_run(run.folder) == f"{name} is damaged" and run.result is None


def test_a_run_whose_files_are_gone_is_not_done(make_run):
    run = finish(make_run(RTE))
    (run.folder / PREDICTIONS).unlink()
    assert damage_to_run(run.folder) == f"{PREDICTIONS} is missing" and run.result is None
    (run.folder / RESULT).unlink()
    assert damage_to_run(run.folder) == "" and run.result is None  # as if it had never been


def test_weights_count_only_where_another_run_needs_them(make_run):
    run = finish(make_run(MNLI))
    assert has_model(run.folder)
    flip_byte(model_path(run.folder) / "model.safetensors", 50)
    assert run.result and not has_model(run.folder)


def test_a_search_makes_damaged_weights_again_before_anything_starts_from_them(make_run):
    mnli = finish(make_run(MNLI))
    flip_byte(model_path(mnli.folder) / "model.safetensors", 50)
    progress = SearchState([MNLI, RTE], make_run)
    assert list(progress.results) == [MNLI]
    assert progress.next_run().job == MNLI and progress.next_run() is None


def test_a_search_does_without_weights_that_nothing_is_to_start_from(make_run):
    mnli = finish(make_run(MNLI))
    finish(make_run(RTE, MNLI))
    (model_path(mnli.folder) / "model.safetensors").unlink()
    progress = SearchState([MNLI, RTE], make_run, keep_models="none")
    assert list(progress.results) == [MNLI, RTE] and progress.next_run() is None
