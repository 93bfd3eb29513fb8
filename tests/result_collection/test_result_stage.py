"""The stage on the record of a finished search: summary, files, zips or the list of what lacks."""

import shutil
import zipfile

import pytest

from configs.defaults import GLUE_TASKS
from finetune.data.demo_glue import write_demo_glue
from finetune.data.tasks import find_task
from finetune.search.job_folder import predictions_path
from pipeline.errors import ConfigError, StageError
from pipeline.store.atomic_files import write_json, write_text
from pipeline.store.record_files import read_json
from result_collection.estimate import run_notes
from result_collection.plan import plan
from result_collection.stage import collect_test_result
from tests.damage import flip_byte
from tests.plans import finetune_artifact, load_search, result_artifact, result_estimate
from tests.result_collection.finished_search import OWN_TASK, finish_search, make_finished_search


@pytest.fixture
def config(make_search):
    """A finished search over CoLA alone, with all of its 1063 predictions."""
    return make_search(["CoLA"], external=True, rates=(1e-5,))


def zips(config) -> list[str]:
    return sorted(path.name for path in result_artifact(config).directory.parent.glob("*.zip"))


def vouch_again(config) -> None:
    """For files of the search that a test has changed."""
    searched = finetune_artifact(config)
    searched.finish(searched.manifest["results"])


@pytest.mark.slow
def test_a_search_of_some_tasks_is_collected_without_a_zip(config, capsys):
    config.RESULT_COLLECTION.ALLOW_PARTIAL = True
    collect_test_result(config)
    assert len(zips(config)) == 1
    config.RESULT_COLLECTION.ALLOW_PARTIAL = False
    collect_test_result(config)
    said = "no zip was made, as these tasks were not searched: SST-2, MRPC, STS-B, QQP, MNLI, "
    output = capsys.readouterr().out
    assert f"GLUE: {said}QNLI, RTE, WNLI" in output and output.count(".tsv is missing") == 10
    assert "matthews correlation" in output
    artifact = result_artifact(config)
    assert zips(config) == [] and artifact.status().done
    assert said in (artifact.directory / "report.html").read_text()
    assert any(said in line for line in artifact.headline)


@pytest.fixture(scope="module")
def full_search(tmp_path_factory):
    """A finished search over all of GLUE, with predictions of as many rows as the server wants."""
    folder = tmp_path_factory.mktemp("full")
    return make_finished_search(
        folder, GLUE_TASKS, seeds=(1,), epochs=(3,), rates=(1e-5,), external=True
    )


@pytest.mark.slow
def test_a_full_search_is_zipped_and_one_that_the_server_refuses_is_an_error(full_search, capsys):
    config, search, task = full_search, load_search(full_search), find_task("CoLA")
    collect_test_result(config)
    name = result_artifact(config).directory.name
    assert zips(config) == [f"{name}.zip"]
    assert ".zip is ready for https://gluebenchmark.com" in capsys.readouterr().out

    best = read_json(finetune_artifact(config).directory / "summary.json")["best"]["CoLA"]
    path = predictions_path(search.task_dir("CoLA") / best, task.test[0])
    write_text(path, "index\tprediction\n" + "".join(f"{i}\tacceptable\n" for i in range(1000)))
    vouch_again(config)
    (result_artifact(config).directory / "manifest.json").unlink()
    with pytest.raises(StageError, match=r"CoLA\.tsv: 1000 rows, expected 1063"):
        collect_test_result(config)
    assert zips(config) == [] and not result_artifact(config).status().done

    path.unlink()
    vouch_again(config)
    with pytest.raises(StageError, match=r"CoLA\.tsv is missing"):
        collect_test_result(config)
    assert "no zip was made" in (result_artifact(config).directory / "report.html").read_text()


@pytest.mark.slow
def test_the_plan_says_what_a_submission_will_lack(config, make_search):
    [note] = result_estimate(config).notes
    assert note.startswith("GLUE: no zip, as SST-2, MRPC") and "CoLA" not in note
    assert note.endswith("WNLI are not in FINETUNE.TASKS")
    config.RESULT_COLLECTION.ALLOW_PARTIAL = True
    assert "a zip that cannot be submitted" in result_estimate(config).notes[0]
    own = make_search(["CB", OWN_TASK], external=True, seeds=(1,), epochs=(3,))
    [note] = result_estimate(own).notes
    assert note.startswith("SuperGLUE: no zip, as BoolQ, COPA") and "CB" not in note
    own.RESULT_COLLECTION.ALLOW_PARTIAL = True
    [note] = result_estimate(own).notes  # CB's test file is not there
    assert note.startswith("SuperGLUE: a zip") and "CB.jsonl" in note


def test_the_plan_says_that_a_full_search_of_the_demo_cannot_be_submitted(full_search):
    config = full_search.clone()
    [note] = result_estimate(config).notes
    assert note == (
        "GLUE: no zip, and an error at the end, as builtin:demo (FINETUNE.GLUE_DIR) has fewer "
        "rows than GLUE (RESULT_COLLECTION.ALLOW_PARTIAL is False; True "
        "makes one for trying out)"
    )
    config.RESULT_COLLECTION.ALLOW_PARTIAL = True
    [note] = result_estimate(config).notes
    assert note.startswith(
        "GLUE: a zip that cannot be submitted, as builtin:demo (FINETUNE.GLUE_DIR) has"
    )
    assert list(run_notes(config, plan(config))) == []


def test_the_plan_says_which_test_files_have_other_rows_than_the_server_expects(
    full_search, tmp_path
):
    config = full_search.clone()
    write_demo_glue(tmp_path)
    header = "index\tsentence1\tsentence2\n"
    rows = "".join(f"{i}\tA.\tB.\n" for i in range(146))
    (tmp_path / "WNLI" / "test.tsv").write_text(header + rows)  # as many as there should be
    config.FINETUNE.GLUE_DIR = str(tmp_path)
    assert result_estimate(config).notes == ()
    [note] = run_notes(config, plan(config))
    assert note.startswith("GLUE: no zip, and an error at the end, as ")
    assert f"{tmp_path}/CoLA/test.tsv has 90 rows, expected 1,063 (and 9 more such files)" in note
    config.FINETUNE.TASKS = ["CoLA"]  # no zip without an error, whatever CoLA's rows are
    assert list(run_notes(config, plan(config))) == []


@pytest.mark.slow
def test_a_partial_zip_says_so(config, capsys):
    config.RESULT_COLLECTION.ALLOW_PARTIAL = True
    directory = result_artifact(config).directory
    name = f"{directory.name}-partial-not-for-submission.zip"
    directory.parent.mkdir(parents=True)
    (directory.parent / f".{name}.0123456789ab.tmp").write_text("of a run that was killed")
    collect_test_result(config)
    assert zips(config) == [name] and not [*directory.parent.glob(".*.tmp")]
    assert "CANNOT BE SUBMITTED" in capsys.readouterr().out
    archive = zipfile.ZipFile(directory.parent / zips(config)[0])
    assert archive.namelist() == ["CoLA.tsv"]
    assert archive.read("CoLA.tsv") == (directory / "CoLA.tsv").read_bytes()
    assert read_json(directory / "summary.json")["averages"][0]["over"] == ["CoLA"]
    assert (directory / "summary.tsv").read_text().startswith("task\t")
    collect_test_result(config)
    assert "up to date" in capsys.readouterr().out
    (directory / "report.html").unlink()
    assert result_artifact(config).status().reason.startswith("report.html is missing")


@pytest.mark.slow
def test_a_miscounted_file_is_named(config, capsys):
    search, task = load_search(config), find_task("CoLA")
    best = read_json(finetune_artifact(config).directory / "summary.json")["best"]["CoLA"]
    path = predictions_path(search.task_dir("CoLA") / best, task.test[0])
    write_text(path, "index\tprediction\n" + "".join(f"{i}\tacceptable\n" for i in range(1000)))
    vouch_again(config)
    collect_test_result(config)  # of some tasks, which nobody submits
    assert "GLUE: CoLA.tsv: 1000 rows, expected 1063" in capsys.readouterr().out
    assert zips(config) == []


def test_an_unfinished_search_says_what_to_run(config):
    config.FINETUNE.GRID.CoLA.EPOCHS = [5]
    with pytest.raises(StageError, match=r"results of finetuning are not there.*EPOCHS \[3, 5\]"):
        collect_test_result(config)


@pytest.mark.slow
def test_each_benchmark_has_its_own_zip_and_own_tasks_have_none(make_search, capsys):
    own = make_search([OWN_TASK], external=True, seeds=(1,), epochs=(3,))
    collect_test_result(own)  # nothing to submit, so nothing is missing
    assert zips(own) == [] and result_artifact(own).status().done
    assert f"{OWN_TASK}: predictions in " in capsys.readouterr().out

    superglue = make_search(["CB", OWN_TASK], external=True, seeds=(1,), epochs=(3,))
    collect_test_result(superglue)
    output = capsys.readouterr().out
    assert "SuperGLUE: no zip was made, as these tasks were not searched: BoolQ, " in output
    assert zips(superglue) == [] and ".tsv is missing" not in output
    superglue.RESULT_COLLECTION.ALLOW_PARTIAL = True
    collect_test_result(superglue)
    name = result_artifact(superglue).directory.name
    assert zips(superglue) == [f"{name}-superglue-partial-not-for-submission.zip"]


@pytest.mark.slow
@pytest.mark.parametrize(("majority", "submitted"), [(0.4, "0"), (0.6, "1")])
def test_wnli_is_the_majority_label_unless_the_search_beat_it(
    make_search, majority, submitted, capsys
):
    """The runs predict not_entailment, 0, and have scores of 0.5; the majority is another."""
    config = make_search(["WNLI"], external=True, seeds=(1,), epochs=(3,), rates=(1e-5,))
    path = finetune_artifact(config).directory / "summary.json"
    found = read_json(path)
    for run in found["runs"]:
        run["majority"] = {"label": "entailment", "score": majority}
    write_json(path, found)
    vouch_again(config)
    config.RESULT_COLLECTION.ALLOW_PARTIAL = True
    collect_test_result(config)
    folder = result_artifact(config).directory
    lines = (folder / "WNLI.tsv").read_text().splitlines()
    assert lines[1:] == [f"{index}\t{submitted}" for index in range(146)]
    says_so = "so entailment is submitted for all rows"
    assert (says_so in capsys.readouterr().out) == (submitted == "1")
    assert (says_so in (folder / "report.html").read_text()) == (submitted == "1")


@pytest.mark.slow
def test_a_report_that_cannot_be_drawn_does_not_cost_the_zip(config, capsys):
    config.RESULT_COLLECTION.ALLOW_PARTIAL = True
    collect_test_result(config)
    folder = result_artifact(config).directory
    shutil.rmtree(folder / "plots")
    (folder / "plots").write_text("a file where the folder of the pictures should be")
    (folder / "manifest.json").unlink()
    collect_test_result(config)
    assert "the report could not be drawn" in capsys.readouterr().out
    assert len(zips(config)) == 1 and result_artifact(config).status().done


def _other_setting(found: dict) -> None:
    found["best"]["CoLA"] = found["runs"][0]["setting"] = "../../../outside"


@pytest.mark.parametrize("change", [_other_setting, lambda found: found.pop("runs")])
def test_a_summary_that_is_not_of_this_search_leads_nowhere(config, change):
    """A run's folder is found by what the summary calls it."""
    path = finetune_artifact(config).directory / "summary.json"
    found = read_json(path)
    change(found)
    write_json(path, found)
    vouch_again(config)
    with pytest.raises(StageError, match=r"summary\.json: is not the summary of this search"):
        collect_test_result(config)
    assert not result_artifact(config).directory.exists()


# --- several searches of one model -------------------------------------------------------------


def contents(folder) -> dict[str, bytes]:
    """Relative path -> bytes of all files of a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.slow
def test_searches_with_names_live_side_by_side(config):
    config.RESULT_COLLECTION.ALLOW_PARTIAL = True
    collect_test_result(config)
    first, searched = result_artifact(config), finetune_artifact(config)
    before = contents(first.directory), contents(searched.directory)

    config.FINETUNE.ID, config.FINETUNE.TASKS = "other", ["RTE"]
    assert finetune_artifact(config).status().state == "new"
    finish_search(config)
    collect_test_result(config)
    second = result_artifact(config)
    name = first.directory.name
    assert second.directory == first.directory.with_name(f"{name}+other")
    assert zips(config) == [
        f"{name}{search}-partial-not-for-submission.zip" for search in ("+other", "")
    ]
    assert f"{name}+other" in (second.directory / "report.html").read_text()
    report = read_json(second.directory / "report.json")
    assert (report["pretrain_id"], report["finetune_id"]) == (name, "other")
    assert before == (contents(first.directory), contents(searched.directory))
    assert first.status().done and searched.status().done and second.status().done


@pytest.mark.slow
def test_a_search_that_takes_the_place_of_another_says_so(config):
    collect_test_result(config)
    config.FINETUNE.TASKS = ["RTE"]
    plans = finetune_artifact(config), result_artifact(config)
    lost = "the summary of the other search", "the summary, zips and report of the other search"
    for artifact, what in zip(plans, lost, strict=True):
        reason = artifact.status().reason
        assert reason.endswith(f"; writes over {what} (set FINETUNE.ID to keep both)")
        artifact.check_owner()  # it may

    config.FINETUNE.TASKS = ["CoLA"]
    config.RESULT_COLLECTION.ALLOW_PARTIAL = True
    assert "FINETUNE.ID" not in result_artifact(config).status().reason


def test_a_named_search_keeps_its_settings(config):
    config.FINETUNE.ID = "mine"
    finish_search(config)
    config.FINETUNE.TASKS = ["CoLA", "RTE"]
    with pytest.raises(ConfigError, match=r"FINETUNE\.ID: .*was made with other settings"):
        finetune_artifact(config).check_owner()


@pytest.mark.slow
def test_a_zip_is_never_that_of_another_search(config):
    """The GLUE zip of `a-superglue` and the SuperGLUE zip of `a` have the same name."""
    config.FINETUNE.ID = "a"
    finish_search(config)
    collect_test_result(config)
    config.FINETUNE.ID = "a-superglue"
    finish_search(config)
    with pytest.raises(ConfigError, match=r"FINETUNE.ID: the zips of .*got a-superglue, expected"):
        collect_test_result(config)
    config.FINETUNE.ID = "a-super"
    finish_search(config)
    collect_test_result(config)


# --- damage ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["predictions_test.tsv", "result.json"])
def test_what_finetuning_has_not_made_like_that_is_not_submitted(config, name):
    search = load_search(config)
    best = finetune_artifact(config).manifest["results"]["best"]["CoLA"]
    flip_byte(search.task_dir("CoLA") / best / name, 40)
    refused = rf"not as they were: .*{name} is damaged.*run the finetune stage first"
    with pytest.raises(StageError, match=refused):
        collect_test_result(config)
    assert zips(config) == [] and not result_artifact(config).directory.exists()


@pytest.mark.slow
def test_damaged_results_are_named_and_made_again(config):
    config.RESULT_COLLECTION.ALLOW_PARTIAL = True
    collect_test_result(config)
    artifact = result_artifact(config)
    archive = f"../{zips(config)[0]}"
    for name in ("summary.json", "summary.tsv", "CoLA.tsv", archive, "report.html", "report.json"):
        path = artifact.directory / name
        content = path.read_bytes()
        flip_byte(path, len(content) // 2)
        assert artifact.status().reason == f"{name} is damaged and is made again"
        if not name.startswith("report"):  # which tells the time
            collect_test_result(config)
            assert path.read_bytes() == content
        path.write_bytes(content)
        assert artifact.status().done
