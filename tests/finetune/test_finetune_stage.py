"""The stage on a tiny model: real runs, resume, failures that name themselves."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from configs.defaults import GLUE_TASKS, custom_task_node, get_default_config
from finetune.checks import check_machine
from finetune.data.demo_glue import write_demo_glue
from finetune.plan import plan
from finetune.search.job_folder import RESULT, model_path
from finetune.search.worker import run_job
from finetune.stage import finetune
from pipeline.errors import ConfigError, StageError
from pipeline.store.record_files import read_json
from tests.damage import flip_byte
from tests.plans import finetune_artifact, finetune_estimate, load_search

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def config(tmp_path, tiny_model, monkeypatch):
    """MNLI in two settings and RTE from the best of them, on the demo benchmark."""
    monkeypatch.setattr(
        "finetune.search.local_workers.num_cores", lambda: 1
    )  # each worker has to import torch
    config = get_default_config()
    config.SYSTEM.OUTPUT_ROOT = str(tmp_path)
    config.SYSTEM.NUM_GPUS = 0
    config.FINETUNE.MODEL_NAME_OR_PATH = tiny_model
    config.FINETUNE.GLUE_DIR = "builtin:demo"
    config.FINETUNE.TASKS = ["RTE", "MNLI"]
    for name, epochs in (("DEFAULT", [1]), ("MNLI", [1, 2])):
        grid = config.FINETUNE.GRID[name]
        grid.EPOCHS, grid.BATCH_SIZES, grid.LEARNING_RATES = epochs, [32], [1e-3]
    return config


def result_files(config) -> dict:
    root = load_search(config).root / "output" / "finetune"
    return {path: path.stat().st_mtime_ns for path in sorted(root.glob(f"**/{RESULT}"))}


def planned_runs(config) -> list:
    """The runs of the search, those of RTE starting from the better MNLI job."""
    search = load_search(config)
    [best] = [
        job
        for job in search.jobs
        if job.task == "MNLI" and job.setting == best_settings(config)["MNLI"]
    ]
    return [search.make_run(job, best if job.stilt else None) for job in search.jobs]


def best_settings(config) -> dict:
    return read_json(finetune_artifact(config).directory / "summary.json")["best"]


def summary_of(config) -> dict:
    return read_json(finetune_artifact(config).directory / "summary.json")


def scores(config) -> dict:
    return {(run["task"], run["setting"]): run["dev"] for run in summary_of(config)["runs"]}


def predictions(config) -> dict:
    root = load_search(config).root
    return {path: path.read_bytes() for path in sorted(root.glob("output/**/predictions_*.tsv"))}


def test_runs_resumes_and_reruns_what_changed(config, capsys, tmp_path):
    finetune(config)
    assert finetune_artifact(config).status().done
    before, first_scores, first_predictions = (
        result_files(config),
        scores(config),
        predictions(config),
    )
    assert len(before) == 3
    models = sorted(tmp_path.glob("output/finetune/*/*/*/*/model"))
    assert [model.parents[2].name for model in models] == ["MNLI", "RTE"]  # the best ones
    check_predictions(models[0].parent)
    finetune(config)
    assert "up to date" in capsys.readouterr().out and result_files(config) == before

    rte = next(path for path in before if path.parents[2].name == "RTE")
    rte.unlink()  # as if killed before that run was done
    (rte.parent / ".model.x.tmp").mkdir()
    (rte.parent / ".predictions.tsv.x.tmp").touch()
    shutil.rmtree(models[0])  # RTE starts from it
    (finetune_artifact(config).directory / "manifest.json").unlink()
    finetune(config)
    said, after = capsys.readouterr().out, result_files(config)
    assert "3 runs (MNLI 2, RTE 1), 2 of them done" in said
    mnli = models[0].with_name(RESULT)
    assert f"MNLI {mnli.parent.name} runs again, as its model is needed" in said
    assert [path for path in before if before[path] != after[path]] == [mnli, rte]
    # A job's result depends on nothing else, like what its worker did before.
    assert scores(config) == first_scores and predictions(config) == first_predictions
    assert list(rte.parent.glob(".*")) == []
    log = next(tmp_path.glob(f"log/finetune/*/RTE/*/{rte.parent.name}.log")).read_text()
    assert "attempt 1, " in log and "attempt 2, " in log

    [predicted] = rte.parent.glob("predictions_*.tsv")
    flip_byte(predicted)
    reason = finetune_artifact(config).status().reason
    assert reason.endswith(f"{rte.parent.name}/{predicted.name} is damaged and is made again")
    flip_byte(models[0] / "model.safetensors")  # RTE starts from it
    reason = finetune_artifact(config).status().reason
    assert reason.endswith("model/model.safetensors is damaged and is made again")
    finetune(config)
    said = capsys.readouterr().out
    assert f"RTE {rte.parent.name} runs again, as {predicted.name} is damaged" in said
    assert f"MNLI {mnli.parent.name} runs again, as its model is needed and is damaged" in said
    assert scores(config) == first_scores and predictions(config) == first_predictions
    assert finetune_artifact(config).status().done

    config.FINETUNE.GRID.RTE.LEARNING_RATES = [1e-3, 5e-4]
    assert sum(run.result is not None for run in planned_runs(config)) == 3  # one is new
    config.FINETUNE.WEIGHT_DECAY = 0.2
    assert all(run.result is None for run in planned_runs(config))


def check_predictions(folder) -> None:
    """All test sets of MNLI, and AX."""
    files = {path.name: path for path in folder.glob("predictions_*.tsv")}
    assert set(files) == {
        "predictions_test_matched.tsv",
        "predictions_test_mismatched.tsv",
        "predictions_diagnostic.tsv",
    }
    lines = files["predictions_diagnostic.tsv"].read_text().splitlines()
    assert lines[0] == "index\tprediction" and len(lines) == 61
    words = {line.split("\t")[1] for line in lines[1:]}
    assert words <= {"entailment", "neutral", "contradiction"}


def test_a_failing_run_is_named_and_the_others_are_kept(config, tmp_path):
    own_task(config, tmp_path / "own")
    config.FINETUNE.TASKS = ["CoLA", "Reviews"]
    config.FINETUNE.GRID.CoLA.LEARNING_RATES = [1e30]
    with pytest.raises(StageError) as error:
        finetune(config)
    assert "1 of 2 runs failed; CoLA lr1e+30_bs32_ep1_seed42 failed: " in error.value.cause
    assert error.value.cause.endswith("1 results are kept for the next run")
    [log] = tmp_path.glob("log/finetune/*/CoLA/*/*.log")
    assert log.read_text().count("training diverged") >= 2  # once for each attempt
    [kept] = result_files(config)
    assert kept.parents[2].name == "reviews" and not finetune_artifact(config).status().done

    config.FINETUNE.GRID.CoLA.LEARNING_RATES = []
    finetune(config)
    setting = "lr0.001_bs32_ep1_seed42"
    assert set(scores(config)) == {("CoLA", setting), ("reviews", setting)}


def test_files_that_cannot_be_read_are_named_before_anything_runs(config, tmp_path):
    glue = tmp_path / "glue"
    write_demo_glue(glue)
    (glue / "CoLA" / "dev.tsv").write_text("demo\tperhaps\t\tA sentence .\n")
    (glue / "MNLI" / "test_matched.tsv").write_text("index\tsentence1\tsentence2\n0\tcut\n")
    config.FINETUNE.GLUE_DIR, config.FINETUNE.TASKS = str(glue), ["CoLA", "MNLI"]
    with pytest.raises(ConfigError) as error:
        finetune(config)
    first, second = error.value.problems
    key = "FINETUNE.GLUE_DIR"
    assert first.startswith(f"{key}: {glue}/CoLA/dev.tsv:1: label 'perhaps', expected")
    assert second.startswith(f"{key}: {glue}/MNLI/test_matched.tsv:2: 2 fields, expected 3")
    assert not list(tmp_path.glob("log/finetune/*/CoLA"))


def test_what_is_truncated_is_said_and_the_length_that_was_used_is_recorded(config, capsys):
    root = Path(config.SYSTEM.OUTPUT_ROOT)
    own_task(config, root / "own")
    for name in ("train", "dev"):
        path = root / "own" / f"{name}.tsv"
        path.write_text(path.read_text().replace("one", "sentence " * 128))
    config.FINETUNE.TASKS, config.FINETUNE.MAX_SEQ_LENGTH = ["reviews"], 512
    assert (
        "WARNING: samples are cut, as the model has only 66 positions; "
        "FINETUNE.MAX_SEQ_LENGTH is 512"
    ) in finetune_estimate(config).notes
    finetune(config)
    said = capsys.readouterr().out
    # 131 tokens each, of which the model takes 65 with two special ones.
    assert "reviews: at most 65 tokens per sample; truncated: train 100.0 % of samples" in said
    assert said.count("WARNING: reviews: 100.0 % of samples are truncated to 65 tokens, ") == 1
    assert "the model has only 65 positions, FINETUNE.MAX_SEQ_LENGTH is 512" in said
    [path] = result_files(config)
    result = read_json(path)
    assert (result["max_seq_length"], result["max_seq_length_asked"]) == (65, 512)
    for split in ("train", "dev"):
        counts = result["tokenization"][split]
        assert counts["num_samples"] == counts["num_truncated"] == 40
        assert counts["cut_share"] == pytest.approx(68 / 131)
        assert counts["unknown_character_share"] == 0.0
    [row] = summary_of(config)["runs"]
    assert row["tokenization"] == result["tokenization"] and row["max_seq_length_asked"] == 512


def test_texts_that_the_tokenizer_does_not_know_end_the_search_before_any_run(config, tmp_path):
    own_task(config, tmp_path / "own")
    for name in ("train", "dev"):
        path = tmp_path / "own" / f"{name}.tsv"
        path.write_text(path.read_text().replace("A ", "\N{CYRILLIC SMALL LETTER ZHE}" * 90 + " "))
    config.FINETUNE.TASKS = ["CoLA", "reviews"]
    known = r"reviews: 9\d\.\d % of the characters of its train set .* vocabulary lacks .*CYRILLIC"
    with pytest.raises(StageError, match=known):
        finetune(config)
    assert not list(tmp_path.glob("log/finetune/*/CoLA")) and not result_files(config)


def test_halving_and_its_table(config, capsys):
    config.FINETUNE.TASKS, config.FINETUNE.SEARCH = ["CoLA"], "halving"
    config.FINETUNE.GRID.CoLA.EPOCHS = [2, 1]
    config.FINETUNE.GRID.CoLA.LEARNING_RATES = [1e-3, 1e-2, 1e-5]
    config.FINETUNE.EVALS_PER_EPOCH = 1
    assert "halving: 5 of the grid's 6 runs" in finetune_estimate(config).notes
    finetune(config)
    said, summary = capsys.readouterr().out, summary_of(config)
    assert "5 runs (CoLA 5), by halving; in 1 process(es)" in said
    assert [run["epochs"] for run in summary["runs"]].count(2) == 2
    best = max(summary["runs"], key=lambda run: (run["score"], -run["epochs"]))
    submitted = next(r for r in summary["runs"] if r["setting"] == summary["best"]["CoLA"])
    assert submitted["score"] == best["score"]
    assert summary["search"] == "halving" and summary["model"] == config.FINETUNE.MODEL_NAME_OR_PATH
    assert {"task", "setting", "epochs", "batch_size", "learning_rate", "seed", "stilt"} <= {*best}
    before = result_files(config)
    config.FINETUNE.SEARCH = "grid"
    finetune(config)
    assert "6 runs (CoLA 6), 5 of them done" in capsys.readouterr().out
    assert before.items() < result_files(config).items()


# --- planning ----------------------------------------------------------------------------------


def test_planning_writes_nothing_and_names_what_is_missing(config, tmp_path):
    finetune_artifact(config)
    assert list(tmp_path.iterdir()) == []
    config.FINETUNE.GLUE_DIR = str(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"FINETUNE\.GLUE_DIR: no such folder"):
        finetune_artifact(config)
    write_demo_glue(tmp_path / "glue")
    (tmp_path / "glue" / "MNLI" / "dev_mismatched.tsv").unlink()
    config.FINETUNE.GLUE_DIR = str(tmp_path / "glue")
    with pytest.raises(ConfigError, match=r"FINETUNE\.GLUE_DIR: no file MNLI/dev_mismatched\.tsv"):
        finetune_artifact(config)
    config.FINETUNE.GLUE_DIR, config.FINETUNE.TASKS = "builtin:demo", ["RTE"]
    with pytest.raises(ConfigError, match=r"FINETUNE\.STILT_TASKS: RTE .* add MNLI"):
        finetune_artifact(config)
    config.FINETUNE.TASKS = ["BoolQ"]
    with pytest.raises(ConfigError, match=r"FINETUNE\.SUPERGLUE_DIR: no such folder.* for BoolQ"):
        finetune_artifact(config)
    config.FINETUNE.TASKS = ["RTTE"]
    with pytest.raises(ConfigError, match=r"FINETUNE\.TASKS: RTTE is not a task"):
        finetune_artifact(config)


def test_any_spelling_and_groups(config):
    for names in (["glue"], [name.lower().replace("-", "_") for name in GLUE_TASKS] + ["rte"]):
        config.FINETUNE.TASKS = names
        assert [task.name for task in load_search(config).tasks] == sorted(GLUE_TASKS)
    config.FINETUNE.STILT_TASKS = ["mrpc"]
    assert {job.task for job in load_search(config).jobs if job.stilt} == {"MRPC"}


def test_identity_follows_what_matters(config, tmp_path):
    before = finetune_artifact(config).fingerprint
    config.SYSTEM.NUM_WORKERS = 1
    config.FINETUNE.EVAL_BATCH_SIZE = 7
    config.FINETUNE.TASKS = ["mnli", "rte"]
    config.FINETUNE.GRID.CoLA.EPOCHS = [7]  # not searched
    assert finetune_artifact(config).fingerprint == before
    config.FINETUNE.GRID.RTE.EPOCHS = [2]
    assert finetune_artifact(config).fingerprint != before


def test_what_a_run_depends_on(config):
    def runs():
        return {run.job.task: run.fingerprint for run in planned(config)}

    before = runs()
    config.FINETUNE.GRID.RTE.MAX_SEQ_LENGTH = 32
    assert runs()["MNLI"] == before["MNLI"] and runs()["RTE"] != before["RTE"]
    assert str(planned(config)[0]) == "MNLI lr0.001_bs32_ep1_seed42"
    assert [run.settings.max_seq_length for run in planned(config)] == [128, 128, 32]
    config.FINETUNE.EVALS_PER_EPOCH, config.FINETUNE.EARLY_STOPPING_PATIENCE = 2, 3
    assert runs()["MNLI"] != before["MNLI"]
    settings = planned(config)[0].settings
    assert (settings.evals_per_epoch, settings.keep_best, settings.patience) == (2, True, 3)


def planned(config) -> list:
    search = load_search(config)
    return [search.make_run(job, None) for job in search.jobs]


def own_task(config, folder) -> None:
    """A task with a train and a dev file in the folder."""
    folder.mkdir()
    for name in ("train", "dev"):
        rows = "A good one .\tgood\nA bad one .\tbad\n" * 20
        (folder / f"{name}.tsv").write_text(f"text\tlabel\n{rows}")
    node = custom_task_node()
    node.TRAIN, node.DEV = f"{folder}/train.tsv", f"{folder}/dev.tsv"
    node.TEXT_COLUMNS = ["text"]
    config.FINETUNE.CUSTOM_TASKS["reviews"] = node


def test_results_follow_the_data_wherever_it_lies(config, tmp_path):
    own_task(config, tmp_path / "here")
    config.FINETUNE.TASKS = ["reviews", "CoLA"]
    write_demo_glue(tmp_path / "glue")
    config.FINETUNE.GLUE_DIR = str(tmp_path / "glue")
    before = [run.fingerprint for run in planned(config)]
    (tmp_path / "glue").rename(tmp_path / "elsewhere")
    (tmp_path / "here").rename(tmp_path / "there")
    config.FINETUNE.GLUE_DIR = str(tmp_path / "elsewhere")
    node = config.FINETUNE.CUSTOM_TASKS.reviews
    with pytest.raises(
        ConfigError, match=r"FINETUNE\.CUSTOM_TASKS\.reviews\.TRAIN: .*No such file"
    ):
        load_search(config)
    node.TRAIN, node.DEV = (f"{tmp_path}/there/{name}.tsv" for name in ("train", "dev"))
    assert [run.fingerprint for run in planned(config)] == before
    node.LABELS = ["good", "bad"]  # in another order
    assert [run.fingerprint for run in planned(config)] != before
    node.LABELS = []
    with open(node.TRAIN, "a") as file:
        file.write("Another one .\tbad\n")
    cola, reviews = (run.fingerprint for run in planned(config))
    assert cola == before[0] and reviews != before[1]


def test_a_run_leaves_no_weights_of_another_run_behind(config, tmp_path):
    """They would be taken for its own once a task starts from them."""
    write_demo_glue(tmp_path / "glue")
    config.FINETUNE.GLUE_DIR, config.FINETUNE.MAX_SEQ_LENGTH = str(tmp_path / "glue"), 16
    kept = planned(config)[0]
    run_job(kept)
    assert kept.keep_model and kept.result and model_path(kept.folder).is_dir()
    config.FINETUNE.STILT_TASKS, config.FINETUNE.WEIGHT_DECAY = [], 0.2
    config.FINETUNE.KEEP_MODELS = "none"
    run = planned(config)[0]
    run_job(run)
    assert run.folder == kept.folder and not run.keep_model and run.result
    assert not model_path(run.folder).exists()


def test_models_of_the_same_name_have_folders_of_their_own(config, tmp_path, tiny_model):
    def directory(model) -> Path:
        config.FINETUNE.MODEL_NAME_OR_PATH = str(model)
        return finetune_artifact(config).directory

    for name, parts in (("a", "run/model"), ("b", "run/model"), ("c", "\N{SNOWMAN}" * 80)):
        shutil.copytree(tiny_model, tmp_path / name / parts)
    here = directory(tmp_path / "a" / "run" / "model")
    assert here.name.startswith("run--model-")
    assert directory(tmp_path / "b" / "run" / "model") == here  # a copy
    (tmp_path / "b" / "run" / "model" / ".DS_Store").touch()
    (tmp_path / "b" / "run" / "model" / "README.md").write_text("Corrected.")
    assert directory(tmp_path / "b" / "run" / "model") == here
    (tmp_path / "b" / "run" / "model" / "config.json").write_text("{}")
    assert directory(tmp_path / "b" / "run" / "model") not in (here, here.parent)
    directory(tmp_path / "c" / ("\N{SNOWMAN}" * 80)).mkdir(parents=True)  # not too long a name
    assert directory("google/bert").name == "google--bert"
    for name in ("models/not/there", "./model", "model/"):
        with pytest.raises(ConfigError, match=r"MODEL_NAME_OR_PATH: no such folder, got /"):
            directory(name)


def test_a_model_that_is_of_no_use_is_named_before_all_runs_fail(config, tmp_path, tiny_model):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    config.FINETUNE.MODEL_NAME_OR_PATH = str(model)
    check_machine(config, plan(config))
    (model / "config.json").write_text('{"model_type": "unheard-of"}')
    with pytest.raises(StageError, match=r"^/.*/model cannot be loaded: .*unheard-of") as error:
        finetune(config)
    assert "runs failed" not in error.value.cause and "\n" not in error.value.cause
    for what, pattern in (("tokenizer", "[tv]o[kc]*"), ("weights", "model.*"), ("config", "*")):
        for path in model.glob(pattern):
            path.unlink()
        with pytest.raises(ConfigError, match=rf"MODEL_NAME_OR_PATH: no {what} in /.*/model,"):
            check_machine(config, plan(config))


def test_lengths_of_the_default_grid_and_a_lost_table(config):
    config.FINETUNE.GRID.DEFAULT.MAX_SEQ_LENGTH = 16
    config.FINETUNE.GRID.RTE.MAX_SEQ_LENGTH = 32
    assert load_search(config).max_seq_lengths == {"MNLI": 16, "RTE": 32}
    artifact = finetune_artifact(config)
    artifact.begin()
    artifact.finish({"best": {}})
    assert artifact.status().reason == "summary.json is missing and is made again"


def test_the_plan_counts_without_torch():
    """`--dry-run` must be quick."""
    code = (
        "import sys\n"
        "import finetune.stage\n"
        "from configs.defaults import get_default_config\n"
        "from tests.plans import finetune_estimate\n"
        "config = get_default_config()\n"
        "config.FINETUNE.MODEL_NAME_OR_PATH = 'bert-base-uncased'\n"
        "config.FINETUNE.GLUE_DIR, config.FINETUNE.TASKS = 'builtin:demo', ['CoLA']\n"
        "print(*finetune_estimate(config).notes, sep='\\n')\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    counts, rows = found.stdout.splitlines()
    assert counts == "24 runs: CoLA 24"
    assert rows == f"{8 * (3 + 5 + 10) * 400:,} rows to train on, over all runs and epochs"


def test_a_missing_pretrained_model_says_what_to_run(config):
    config.FINETUNE.MODEL_NAME_OR_PATH = ""
    config.DATASET.CUSTOMIZED_DATASETS = ["builtin:python-docs"]
    config.TOKENIZER.TRAIN = True
    with pytest.raises(StageError, match=r"the pretrained model is not there.*--stages pretrain"):
        finetune(config)
