"""Tokenizers, checkpoints and GLUE of the Hub."""

import json

import pyarrow.parquet
import pytest

from tests.dataset.dataset_helpers import save_bert_tokenizer
from tests.hub.asked import Child, glue, model, tokenizer
from tests.hub.repositories import GLUE, vocabulary, write_model, write_parquet
from tests.hub.whole_runs import SMALL_DATA, run_main
from tests.small_pipeline import PLANTED

MODEL_KEY = "FINETUNE.MODEL_NAME_OR_PATH"


@pytest.mark.slow
@pytest.mark.parametrize("has_owner", [False, True])
def test_a_tokenizer_by_name(hub, online, offline, tmp_path, new_repository, has_owner):
    name = "bert-large-uncased"
    if has_owner:
        name, _ = new_repository("models", name)
    save_bert_tokenizer(vocabulary(), True, tmp_path / "local")
    expected = (tmp_path / "local" / "tokenizer.json").read_text()
    assert online.ask(tokenizer, name, tmp_path / "online").result == expected
    hub.requests.clear()
    assert offline.ask(tokenizer, name, tmp_path / "offline").result == expected
    assert hub.requests == []


def test_a_model_without_tokenizer(online, tmp_path, new_repository):
    name, folder = new_repository("models")
    (folder / "config.json").write_text("{}")
    answer = online.ask(tokenizer, name, tmp_path / "made")
    assert answer.problem.startswith(f"TOKENIZER.NAME_OR_PATH: {name} has neither tokenizer.json")


def test_a_checkpoint_by_name(hub, online, offline, tiny_model):
    folder, commits, files = online.ask(model, tiny_model).result
    assert commits == {tiny_model: hub.commit(hub.folder / "models" / tiny_model)}
    assert files == [
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        "vocab.txt",
    ]
    hub.requests.clear()
    assert offline.ask(model, tiny_model).result == (folder, commits, files)
    never = offline.ask(model, "never/fetched").problem
    assert never.startswith(f"{MODEL_KEY}: model never/fetched is not, or not as a whole, in the")
    assert hub.requests == []


@pytest.mark.slow
@pytest.mark.parametrize("task", sorted(set(GLUE) - {"ax", "wnli"}))
def test_glue_is_read_as_it_is(hub, online, task):
    split = "validation_mismatched" if task == "mnli" else "train"
    texts, labels = online.ask(glue, task, "dev_mismatched" if task == "mnli" else "train").result
    columns, words = GLUE[task]
    [file] = (hub.folder / "datasets" / "nyu-mll" / "glue" / task).glob(f"{split}-*.parquet")
    rows = pyarrow.parquet.read_table(file).to_pylist()
    assert texts == [tuple(row[column] for column in columns) for row in rows]
    assert labels == [words[row["label"]] if words else row["label"] for row in rows]


@pytest.mark.slow
def test_glue_offline_and_from_another_hub(hub, online, offline):
    read = online.ask(glue, "qqp", "train").result
    hub.requests.clear()
    assert offline.ask(glue, "qqp", "train").result == read
    assert online.ask(glue, "qqp", "train").result == read
    assert hub.requests == []  # all runs of a search read the same
    lacking = offline.ask(glue, "wnli", "train").problem
    begin = "FINETUNE.GLUE_DIR (--glue_dir of run_glue) is empty, and dataset nyu-mll/glue is not, "
    assert lacking.startswith(f"{begin}or not")


@pytest.mark.slow
def test_labels_are_mapped_by_name(hub, tmp_path):
    """The ids of this copy run the other way round, which must not matter."""
    child = Child(hub.address, tmp_path)
    path = hub.folder / "datasets/nyu-mll/glue/rte/train-00000-of-00001.parquet"
    table, content = pyarrow.parquet.read_table(path), path.read_bytes()
    columns = {name: table[name].to_pylist() for name in table.column_names}
    try:
        write_parquet(path, columns, ["not_entailment", "entailment"])
        _, labels = child.ask(glue, "rte", "train").result
    finally:
        path.write_bytes(content)
        child.end()
    assert labels[:3] == ["not_entailment", "entailment", "not_entailment"]


@pytest.mark.slow
def test_a_checkpoint_of_the_hub_is_finetuned(hub, hub_home, tiny_model, tmp_path):
    done = run_main(
        *(hub, hub_home, tmp_path, "configs/evaluate.yaml", "--stages", "finetune"),
        *(MODEL_KEY, tiny_model, "FINETUNE.TASKS", "[CoLA, STS-B]", "FINETUNE.SEARCH", "grid"),
        *("FINETUNE.MAX_SEQ_LENGTH", "32", "FINETUNE.GRID.DEFAULT.EPOCHS", "[1]"),
        *("FINETUNE.GRID.DEFAULT.BATCH_SIZES", "[16]"),
        *("FINETUNE.GRID.DEFAULT.LEARNING_RATES", "[1e-3]", "SYSTEM.NUM_WORKERS", "1"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [manifest] = tmp_path.rglob("search/**/manifest.json")
    commits = json.loads(manifest.read_text())["results"]["commits"]
    assert commits == {
        tiny_model: hub.commit(hub.folder / "models" / tiny_model),
        "nyu-mll/glue": hub.commit(hub.folder / "datasets" / "nyu-mll" / "glue"),
    }
    summary = json.loads(next(tmp_path.rglob("summary.json")).read_text())
    assert summary["model"] == tiny_model and len(summary["runs"]) == 2
    assert PLANTED not in done.stdout + done.stderr


@pytest.mark.slow
def test_pretraining_starts_from_a_checkpoint_of_the_hub(hub, hub_home, tmp_path):
    name = "org/started"
    write_model(hub.folder / "models" / name)
    (tmp_path / "text.txt").write_text("the old river sees a house.\n\n" * 40)
    (tmp_path / "config.yaml").write_text(f"PRETRAIN: {{START_FROM: {name}, NUM_STEPS: 1}}")
    (hub.folder / "models" / name / "README.md").write_text("---\nlicense: mit\n---\n")
    arguments = (
        *(str(tmp_path / "config.yaml"), "--stages", "dataset,pretrain", *SMALL_DATA),
        *("DATASET.CUSTOMIZED_DATASETS", f"[{tmp_path / 'text.txt'}]", "PRETRAIN.BATCH_SIZE", "4"),
    )
    done = run_main(hub, hub_home, tmp_path, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    [manifest] = tmp_path.rglob("saved_models/**/manifest.json")
    record = json.loads(manifest.read_text())
    commit = hub.commit(hub.folder / "models" / name)
    assert record["results"]["commits"] == {name: commit}
    assert record["inputs"]["PRETRAIN.START_FROM"] == name
    card = (manifest.parent / "model" / "README.md").read_text()
    assert f"\nlicense: mit\nbase_model: {name}\n" in card
    again = run_main(hub, hub_home, tmp_path, *arguments, HF_HUB_OFFLINE="1")
    assert again.stdout.count("up to date") == 2, again.stdout + again.stderr
    lacking = run_main(hub, tmp_path / "home", tmp_path, *arguments, HF_HUB_OFFLINE="1")
    assert lacking.returncode == 2
    assert "PRETRAIN.START_FROM: model org/started is not, or not as a whole, in" in lacking.stderr
