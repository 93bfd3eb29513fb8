"""Loading: the manual's files and the shipped ones, and all mistakes at once."""

from pathlib import Path

import pytest

from configs.loading import load_config
from configs.yaml_files import read_files
from dataset.plan import sources_of
from pipeline.errors import ConfigError
from tests.plans import dataset_estimate

PROJECT = Path(__file__).resolve().parent.parent.parent
SHIPPED = sorted((PROJECT / "configs").rglob("*.yaml"))
RECIPES = sorted((PROJECT / "configs" / "recipes").glob("*.yaml"))
# Keys that name data, a tokenizer or a model.
SOURCE_KEYS = (
    "DATASET.HUGGINGFACE_DATASETS",
    "DATASET.CUSTOMIZED_DATASETS",
    "TOKENIZER.NAME_OR_PATH",
    "FINETUNE.GLUE_DIR",
    "FINETUNE.SUPERGLUE_DIR",
    "FINETUNE.MODEL_NAME_OR_PATH",
    "FINETUNE.CUSTOM_TASKS",
)

# The YAML files of the user manual's figure 4 and the classic ones of the first toolkit.
SEED_FILES = {
    "data-preprocess": """
SYSTEM:
  NUM_GPUS: 8
DATASET:
  HUGGINGFACE_DATASETS:
    - [wikipedia, 20220301.en]
    - [bookcorpusopen, plain_text]
PRETRAIN:
  ENABLED: False
  NUM_STEPS: 57500
FINETUNE:
  ENABLED: False
RESULT_COLLECTION:
  ENABLED: False
TOKENIZER:
  NAME_OR_PATH: bert-large-uncased
""",
    "train": """
SYSTEM:
  NUM_GPUS: 8
DATASET:
  ENABLED: False
  HUGGINGFACE_DATASETS:
    - [wikipedia, 20220301.en]
    - [bookcorpusopen, plain_text]
PRETRAIN:
  NUM_STEPS: 57500
TOKENIZER:
  NAME_OR_PATH: bert-large-uncased
""",
    "customized": """
SYSTEM:
  NUM_GPUS: 4
  MAX_MEMORY_IN_GB: 64
DATASET:
  ENABLED: False
  ID: bert-dataset
  CUSTOMIZED_DATASETS:
    - raw_data/wikipedia
    - raw_data/bookcorpus
PRETRAIN:
  NUM_STEPS: 23000
  OPTIMIZER: adamw
  LEARNING_RATE: 1e-3
TOKENIZER:
  NAME_OR_PATH: bert-large-uncased
""",
    "simple": """
SYSTEM:
  NUM_GPUS: 4
DATASET:
  HUGGINGFACE_DATASETS:
    - [wikipedia, 20220301.simple]
    - [wikipedia, 20220301.frr]
PRETRAIN:
  NUM_STEPS: 100
FINETUNE:
  MULTIPROCESS_GPU_LIST:
    - [0, 1]
    - [2, 3]
WANDB:
  API_KEY: 0123456789abcdef
TOKENIZER:
  NAME_OR_PATH: bert-large-uncased
""",
}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_load(path, monkeypatch, tmp_path):
    (tmp_path / "raw_data" / "my_texts").mkdir(parents=True)
    (tmp_path / "glue_data").mkdir()
    monkeypatch.chdir(tmp_path)
    text = ["DATASET.CUSTOMIZED_DATASETS", "[raw_data/my_texts]"] if path in RECIPES else []
    load_config(path, text)


@pytest.mark.parametrize("name", SEED_FILES)
def test_seed_files_load_unchanged(load, name):
    config = load(SEED_FILES[name], stages=None)
    assert config.SYSTEM.NUM_GPUS in (4, 8)
    assert config.PRETRAIN.LEARNING_RATE == 1e-3


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_names_no_source(path):
    assert not {key for key, _ in read_files(path)} & set(SOURCE_KEYS)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    [problem] = caught.value.problems
    assert problem.startswith("DATASET.CUSTOMIZED_DATASETS: no text to train on")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_config_with_one_source_on_a_recipe_reads_that_alone(load, tmp_path, path):
    folder = tmp_path / "private"
    folder.mkdir()
    config = load(f"_BASE_: {path}\nDATASET: {{CUSTOMIZED_DATASETS: [{folder}]}}\n")
    [source] = sources_of(config)
    assert (source.kind, source.name) == ("folder", str(folder))


@pytest.mark.parametrize("name", ["bert-customized", "bert-small-cpu", "quickstart"])
def test_a_config_for_own_text_needs_nothing_from_the_hub(name, monkeypatch, tmp_path):
    text = tmp_path / "raw_data" / "my_texts"
    text.mkdir(parents=True)
    (text / "a.txt").write_text("A text. Of two sentences.\n")
    monkeypatch.chdir(tmp_path)
    config = load_config(PROJECT / "configs" / f"{name}.yaml", stages=["dataset", "pretrain"])
    assert not any(source.kind == "hub" for source in sources_of(config))
    assert config.TOKENIZER.TRAIN
    assert not dataset_estimate(config).hub
    assert config.FINETUNE.GLUE_DIR or not config.FINETUNE.ENABLED


def test_five_mistakes_get_five_messages(problems):
    found = problems(
        """
PRETRAIN:
  NUM_STEP: 100
  LEARNING_RATE: fast
  NUM_STEPS: -5
MODEL:
  HIDDEN_SIZE: 100
  NUM_ATTENTION_HEADS: 12
DATASET:
  CUSTOMIZED_DATASETS: [no/such/folder]
""",
        stages=None,
    )
    assert len(found) == 5
    keys = [line.partition(":")[0] for line in found]
    assert sorted(keys) == [
        "DATASET.CUSTOMIZED_DATASETS",
        "MODEL.HIDDEN_SIZE",
        "PRETRAIN.LEARNING_RATE",
        "PRETRAIN.NUM_STEP",
        "PRETRAIN.NUM_STEPS",
    ]
    assert "did you mean PRETRAIN.NUM_STEPS?" in " ".join(found)
    assert all("got" in line or "unknown key" in line for line in found)


def test_of_many_mistakes_the_first_are_told(problems):
    found = problems("\n".join(f"KEY{number}: 1" for number in range(150)))
    assert found[0] == "KEY0: unknown key" and len(found) == 101
    assert found[-1] == "and 50 more problems"


def test_messages_are_short_lines(problems):
    text = 'FINETUNE: {"a\\nb\\e": 1}\nSYSTEM: {NUM_GPUS: [' + "xxxxxxxxx, " * 400 + "]}\n"
    lines = problems(text)
    assert "FINETUNE.a\\nb\\x1b: unknown key" in lines
    lines += problems("", "k" * 5000, "1")
    assert lines[-1] == f"{'k' * 200}...: unknown key"
    assert all(len(line) < 400 for line in lines)


def test_home_is_expanded(load, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = load(
        "DATASET: {CUSTOMIZED_DATASETS: [~/texts], HUGGINGFACE_DATASETS: [[~/data, ~/x]]}\n"
        "SYSTEM: {NUM_GPUS: 0}\n"
        "FINETUNE: {CUSTOM_TASKS: {a: {TRAIN: ~/a.tsv, TEXT_COLUMNS: [~/x]}}}\n",
        "PRETRAIN.DEEPSPEED_CONFIG",
        "~/ds.json",
    )
    assert config.DATASET.CUSTOMIZED_DATASETS == ["/home/me/texts"]
    assert config.DATASET.HUGGINGFACE_DATASETS == [["/home/me/data", "~/x"]]
    assert config.PRETRAIN.DEEPSPEED_CONFIG == "/home/me/ds.json"
    task = config.FINETUNE.CUSTOM_TASKS.a
    assert (task.TRAIN, task.TEXT_COLUMNS) == ("/home/me/a.tsv", ["~/x"])


def test_a_login_is_refused(problems):
    assert problems("", "DATASET.CUSTOMIZED_DATASETS", "['https://me:secret@server/x']") == [
        "DATASET.CUSTOMIZED_DATASETS: an address with a login, which is not shown, expected it "
        "without"
    ]
