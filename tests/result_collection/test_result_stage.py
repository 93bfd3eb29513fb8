"""The stage on the record of a finished search: summary, files, zip or the list of what lacks."""

import zipfile

import pytest

from configs.defaults import get_default_config
from finetune.artifact import finetune_artifact, load_search
from finetune.runs import RESULT, predictions_path
from finetune.tasks import find_task
from pipeline.artifacts import read_json, write_json, write_text
from pipeline.errors import StageError
from result_collection.artifact import result_artifact
from result_collection.stage import collect_test_result


@pytest.fixture
def config(tmp_path):
    """A finished search over CoLA alone, with all of its 1063 predictions."""
    model = tmp_path / "runs" / "a"
    model.mkdir(parents=True)
    config = get_default_config()
    config.SYSTEM.OUTPUT_ROOT = str(tmp_path / "root")
    config.FINETUNE.MODEL_NAME_OR_PATH = str(model)
    config.FINETUNE.GLUE_DIR = "builtin:demo"
    config.FINETUNE.TASKS = ["CoLA"]
    config.FINETUNE.GRID.DEFAULT.EPOCHS = [3]
    search = load_search(config)
    job = search.jobs[0]
    result = {"setting": job.setting, "score": 0.5, "dev": {"dev": {"matthews_correlation": 0.5}}}
    finetune_artifact(config).begin()
    write_json(search.job_dir(job) / RESULT, result)
    write_cola(search.job_dir(job), 1063)
    finetune_artifact(config).finish({"best": {"CoLA": job.setting}})
    return config


def write_cola(folder, num_rows):
    rows = "".join(f"{i}\tacceptable\n" for i in range(num_rows))
    write_text(predictions_path(folder, find_task("CoLA").test[0]), f"index\tprediction\n{rows}")


def zips(config) -> list[str]:
    return sorted(path.name for path in result_artifact(config).directory.parent.glob("*.zip"))


def test_all_that_is_missing_stops_it_and_no_zip_is_left(config, capsys):
    config.RESULT_COLLECTION.ALLOW_PARTIAL = True
    collect_test_result(config)
    assert len(zips(config)) == 1
    config.RESULT_COLLECTION.ALLOW_PARTIAL = False
    with pytest.raises(StageError) as error:
        collect_test_result(config)
    for name in ("SST-2", "MRPC", "STS-B", "QQP", "MNLI-m", "MNLI-mm", "AX", "QNLI", "RTE"):
        assert f"{name}.tsv is missing" in error.value.cause
    assert "CoLA.tsv" not in error.value.cause and zips(config) == []
    assert "matthews_correlation 50.0" in capsys.readouterr().out  # the summary is shown anyway
    assert not result_artifact(config).status().done


def test_a_partial_zip_says_so(config, capsys):
    config.RESULT_COLLECTION.ALLOW_PARTIAL = True
    collect_test_result(config)
    assert zips(config) == ["runs--a-partial-not-for-submission.zip"]
    assert "CANNOT BE SUBMITTED" in capsys.readouterr().out
    directory = result_artifact(config).directory
    archive = zipfile.ZipFile(directory.parent / zips(config)[0])
    assert archive.namelist() == ["CoLA.tsv"]
    assert archive.read("CoLA.tsv") == (directory / "CoLA.tsv").read_bytes()
    assert read_json(directory / "summary.json")["average"] == 0.5
    assert (directory / "summary.tsv").read_text().startswith("task\tscore")
    collect_test_result(config)
    assert "up to date" in capsys.readouterr().out


def test_a_miscounted_file_is_named(config):
    search = load_search(config)
    write_cola(search.job_dir(search.jobs[0]), 1000)
    with pytest.raises(StageError, match=r"CoLA\.tsv: 1000 rows, expected 1063"):
        collect_test_result(config)


def test_an_unfinished_search_says_what_to_run(config):
    config.FINETUNE.GRID.DEFAULT.EPOCHS = [5]
    with pytest.raises(StageError, match=r"results of finetuning are not there.*EPOCHS \[3\] ->"):
        collect_test_result(config)
