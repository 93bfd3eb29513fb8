"""Loading: the manual's files load unchanged, types are mended, and every mistake is named."""

import ast
from pathlib import Path

import pytest

from configs.defaults import get_default_config
from configs.loading import flatten, load_config
from configs.manual import MANUAL, comments, render
from configs.yaml_files import read_files
from dataset.plan import dataset_artifact, sources_of
from pipeline.errors import ConfigError
from pretrain.flags import flag_keys

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


def load_text(tmp_path: Path, text: str, *overrides: str):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return load_config(file, overrides)


def problems(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_text(tmp_path, text, *overrides)
    return caught.value.problems


def own_task(keys: str) -> str:
    """A config of nothing but a task of the user's own."""
    return f"FINETUNE: {{TASKS: [x], STILT_TASKS: [], CUSTOM_TASKS: {{x: {{{keys}}}}}}}"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_load(path, monkeypatch, tmp_path):
    (tmp_path / "raw_data" / "my_texts").mkdir(parents=True)
    (tmp_path / "glue_data").mkdir()
    monkeypatch.chdir(tmp_path)
    text = ["DATASET.CUSTOMIZED_DATASETS", "[raw_data/my_texts]"] if path in RECIPES else []
    load_config(path, text)


# --- configs for one's own text --------------------------------------------------------------


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_names_no_source(path):
    assert not {key for key, _ in read_files(path)} & set(SOURCE_KEYS)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    [problem] = caught.value.problems
    assert problem.startswith("DATASET.CUSTOMIZED_DATASETS: no text to train on")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_config_with_one_source_on_a_recipe_reads_that_alone(path, tmp_path):
    folder = tmp_path / "private"
    folder.mkdir()
    config = load_text(tmp_path, f"_BASE_: {path}\nDATASET: {{CUSTOMIZED_DATASETS: [{folder}]}}\n")
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
    assert not dataset_artifact(config).hub
    assert config.FINETUNE.GLUE_DIR or not config.FINETUNE.ENABLED


def test_another_model_than_the_pretrained_one_is_refused(tmp_path):
    (tmp_path / "private").mkdir()
    text = (
        f"DATASET: {{CUSTOMIZED_DATASETS: [{tmp_path / 'private'}]}}\n"
        "FINETUNE: {MODEL_NAME_OR_PATH: bert-base-uncased}\n"
    )
    [problem] = problems(tmp_path, text)
    assert problem.startswith("FINETUNE.MODEL_NAME_OR_PATH: got bert-base-uncased with PRETRAIN.")
    for way_out in ("PRETRAIN.ENABLED False", "--stages finetune", "an empty value"):
        assert way_out in problem
    only_results = problems(tmp_path, text, "FINETUNE.ENABLED", "False")
    assert only_results == [problem]  # they would be those of that model

    config = tmp_path / "config.yaml"
    load_config(config, stages=["finetune", "result_collection"])
    load_config(config, stages=["dataset", "pretrain"])
    load_config(config, ["PRETRAIN.ENABLED", "False"])
    load_config(config, ["FINETUNE.ENABLED", "False", "RESULT_COLLECTION.ENABLED", "False"])
    load_config(config, ["FINETUNE.MODEL_NAME_OR_PATH", ""])


def test_a_tokenizer_that_would_not_be_used_is_refused(tmp_path):
    (tmp_path / "private").mkdir()
    text = (
        f"DATASET: {{CUSTOMIZED_DATASETS: [{tmp_path / 'private'}]}}\nTOKENIZER: {{TRAIN: True}}\n"
    )
    vocabulary = ("TOKENIZER.NAME_OR_PATH", "my/vocab")
    [problem] = problems(tmp_path, text, *vocabulary)
    assert problem.startswith("TOKENIZER.NAME_OR_PATH: got my/vocab with TOKENIZER.TRAIN True")
    load_text(tmp_path, text, *vocabulary, "TOKENIZER.TRAIN", "False")
    load_text(tmp_path, text)


def test_the_name_of_a_search_is_a_short_file_name(tmp_path):
    for name in ("a+b", "a/b", "x" * 65):
        [problem] = problems(tmp_path, "DATASET: {ENABLED: False}", "FINETUNE.ID", name)
        assert problem.startswith("FINETUNE.ID: ") and "at most 64 characters" in problem


@pytest.mark.parametrize("name", SEED_FILES)
def test_seed_files_load_unchanged(tmp_path, name):
    config = load_text(tmp_path, SEED_FILES[name])
    assert config.SYSTEM.NUM_GPUS in (4, 8)
    assert config.PRETRAIN.LEARNING_RATE == 1e-3


def test_defaults_are_the_papers():
    flat = flatten(get_default_config())
    paper = {
        "PRETRAIN.NUM_STEPS": 23000,
        "PRETRAIN.BATCH_SIZE": 4096,
        "PRETRAIN.LEARNING_RATE": 1e-3,
        "PRETRAIN.WARMUP_PROPORTION": 0.06,
        "PRETRAIN.ESD_R": 2**-0.5,
        "PRETRAIN.ESD_L": 6,
        "PRETRAIN.OPTIMIZER": "adamw",
        "PRETRAIN.ADAM_BETA1": 0.9,
        "PRETRAIN.ADAM_BETA2": 0.98,
        "PRETRAIN.ADAM_EPS": 1e-6,
        "PRETRAIN.WEIGHT_DECAY": 0.01,
        "MODEL.HIDDEN_SIZE": 1024,
        "MODEL.NUM_HIDDEN_LAYERS": 24,
        "MODEL.HIDDEN_DROPOUT_PROB": 0.1,
        "DATASET.MAX_SEQ_LENGTH": 128,
        "DATASET.MASKED_LM_PROB": 0.15,
        "DATASET.MAX_PREDICTIONS_PER_SEQ": 20,
        "DATASET.FRAC_TEST": 0.005,
    }
    assert {key: flat[key] for key in paper} == paper


def test_values_take_the_type_of_their_default(tmp_path):
    config = load_text(
        tmp_path,
        "PRETRAIN: {LEARNING_RATE: 1e-4, WEIGHT_DECAY: 1, NUM_STEPS: 23e3}\n"
        "FINETUNE: {GRID: {RTE: {LEARNING_RATES: [1e-5, 3e-5]}}, ENABLED: False}\n"
        "DATASET: {ID: 2022, ENABLED: False}\n",
    )
    assert config.PRETRAIN.LEARNING_RATE == 1e-4
    assert config.PRETRAIN.NUM_STEPS == 23000 and isinstance(config.PRETRAIN.NUM_STEPS, int)
    assert isinstance(config.PRETRAIN.WEIGHT_DECAY, float)
    assert config.FINETUNE.GRID.RTE.LEARNING_RATES == [1e-5, 3e-5]
    assert config.DATASET.ID == "2022"


@pytest.mark.parametrize(
    ("key", "written", "value"),
    [
        ("PRETRAIN.NUM_STEPS", "'500'", 500),
        ("PRETRAIN.NUM_STEPS", "1_000", 1000),
        ("PRETRAIN.NUM_STEPS", "010", 10),
        ("PRETRAIN.NUM_STEPS", "999999999999999", 999_999_999_999_999),
        ("PRETRAIN.NUM_TOKENS", "1e9", 10**9),
        ("PRETRAIN.LEARNING_RATE", "1e-4", 1e-4),
        ("PRETRAIN.LEARNING_RATE", ".001", 1e-3),
        ("PRETRAIN.COMPILE", "On", True),
        ("PRETRAIN.COMPILE", "'yes'", True),
        ("PRETRAIN.COMPILE", "NO", False),
        ("PRETRAIN.ID", "null", ""),
        ("PRETRAIN.ID", "", ""),
        ("FINETUNE.STILT_TASKS", "", []),
        ("FINETUNE.MULTIPROCESS_GPU_LIST", "[[0, '1'], [2]]", [[0, 1], [2]]),
    ],
)
def test_the_key_decides_what_a_text_stands_for(tmp_path, key, written, value):
    config = load_text(tmp_path, f"DATASET.ENABLED: False\n{key}: {written}\n")
    found = flatten(config)[key]
    assert found == value and type(found) is type(value)


def test_every_list_may_be_empty_in_the_file_that_is_built_upon(tmp_path):
    """So no list shows what its elements are like."""
    lists = [key for key, default in flatten(get_default_config()).items() if default == []]
    for key in ("FINETUNE.SEEDS", "FINETUNE.TASKS", *lists):
        (tmp_path / "base.yaml").write_text(f"{key}: []")
        (line,) = (
            line
            for line in problems(tmp_path, f"_BASE_: base.yaml\n{key}: text")
            if line.startswith(f"{key}: wrong type")
        )
        assert "got text, expected a list like [" in line


def test_five_mistakes_get_five_messages(tmp_path):
    found = problems(
        tmp_path,
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SYSTEM: {NUM_GPUS: 1, NUM_GPUS: 2}", "appears twice"),
        ("SYSTEM: [1, 2", "line 1"),
        ("- a\n- b", "expected sections"),
        ("SYSTEM: 3", "expected a section"),
        ("SYSTEM: {MAX_MEMORY_IN_GB: .nan}", "expected a number"),
        ("PRETRAIN: {NUM_STEPS: True}", "expected a whole number"),
        ("PRETRAIN: {NUM_STEPS: 2.5}", "expected a whole number"),
        ("DATASET: {CUSTOMIZED_DATASETS: folder}", "expected a list"),
        ("DATASET: {HUGGINGFACE_DATASETS: [[wikipedia]]}", "[name, subset]"),
        ("DATASET: {HUGGINGFACE_DATASETS: [wikipedia]}", "expected a list"),
        ("DATASET: {ID: ../../x}", "plain file name"),
        ("DATASET: {ID: ..}", "plain file name"),
        ("NUM_STEPS: 5", "did you mean PRETRAIN.NUM_STEPS?"),
        ("FINETUNE: {TASKS: [RTE, CoLA]}", "MNLI is not in FINETUNE.TASKS"),
        ("FINETUNE: {MAX_SEQ_LENGTH: 512}", "longer than the pretrained model's positions"),
        (
            "FINETUNE: {GRID: {DEFAULT: {MAX_SEQ_LENGTH: 512}}}",
            "FINETUNE.GRID.DEFAULT.MAX_SEQ_LENGTH: longer than the pretrained model's positions",
        ),
        (
            "FINETUNE: {GRID: {EPOCHS: [3]}}",
            "FINETUNE.GRID.EPOCHS: got [3], expected FINETUNE.GRID.NAME",
        ),
        ("FINETUNE: {GRID: {reviews: {}}}", "FINETUNE.GRID.reviews: unknown task"),
        (
            "FINETUNE: {CUSTOM_TASKS: {reviews: 3}}",
            "FINETUNE.CUSTOM_TASKS.reviews: got 3, expected",
        ),
        ("FINETUNE: {CUSTOM_TASKS: {search: {}}}", "CUSTOM_TASKS.search: not a name for a task"),
        ("FINETUNE: {CUSTOM_TASKS: {sts_b: {}}}", "CUSTOM_TASKS.sts_b: not a name for a task"),
        ("FINETUNE: {CUSTOM_TASKS: {a-b: {}, a_b: {}}}", "only case or punctuation tells it from"),
        (own_task("TRAIN: a.csv, DEV: a.csv"), "x.DEV: got the file of TRAIN"),
        (own_task("TEXT_COLUMNS: [label]"), "x.LABEL_COLUMN: got label, expected none of TEXT_COL"),
        (own_task("TEXT_COLUMNS: [a, a]"), "x.TEXT_COLUMNS: value out of range, got ['a', 'a']"),
        (own_task(f"TRAIN: {__file__}"), f"x.TRAIN: got {__file__}, expected a .tsv, .csv or"),
        ("FINETUNE: {SEEDS: []}", "at least one seed"),
        ("_BASE_: missing.yaml", "cannot be read"),
        ("_BASE_: config.yaml", "leads back"),
        ("TOKENIZER: {NAME_OR_PATH: ./no/vocab.txt}", "TOKENIZER.NAME_OR_PATH: not there"),
        ("FINETUNE: {TASKS: [sst3]}", "got sst3, expected some of CoLA, SST-2"),
        ("PRETRAIN: {SEED: 99999999999}", "below 2^32"),
        ("FINETUNE: {GRID: {RTE: {EPOCHS: 5}}}", "wrong type, got 5, expected a list like [3]"),
        ("SYSTEM: {OUTPUT_ROOT: /dev/null/x}", "SYSTEM.OUTPUT_ROOT: not a folder"),
        ("MODEL: {TYPE: bert, GLU: True}", "MODEL.GLU: only bert-mlm has it, got True with MODEL"),
        ("MODEL: {ATTENTION_WINDOW: 7}", "MODEL.ATTENTION_WINDOW: value out of range, got 7, exp"),
        (
            "DATASET: {MAX_SEQ_LENGTH: 64}\nMODEL: {ATTENTION_WINDOW: 126}",
            "reaches over whole rows of DATASET.MAX_SEQ_LENGTH 64, got 126, expected less than 126",
        ),
        ("MODEL: {ATTENTION_WINDOW: 8, GLOBAL_ATTENTION_EVERY: 1}", "leaves no layer for MODEL."),
        ("MODEL: {TYPE: bert, RESIDUAL_INIT: zero}", "MODEL.RESIDUAL_INIT: only bert-mlm has it"),
        ("TOKENIZER: !!python/object/apply:os.getcwd []", "line 1"),
    ],
)
def test_each_mistake_is_named(tmp_path, text, expected):
    assert expected in "\n".join(problems(tmp_path, text))


def test_overrides_come_last_and_are_checked(tmp_path):
    off = "DATASET: {ENABLED: False}\n"
    config = load_text(tmp_path, off, "PRETRAIN.NUM_STEPS", "7", "FINETUNE.SEEDS", "[1, 2]")
    assert (config.PRETRAIN.NUM_STEPS, config.FINETUNE.SEEDS) == (7, [1, 2])
    assert "without a value" in problems(tmp_path, off, "PRETRAIN.NUM_STEPS")[0]
    assert "unknown key" in problems(tmp_path, off, "PRETRAIN.STEPS", "7")[0]


def test_text_is_taken_as_it_is(tmp_path):
    off = "DATASET: {ENABLED: False, ID: 2024-01-05}\n"
    for name in ("2024-01-05", "010", "1.10", "1_000", "0x1F", "1e3", "yes", "off"):
        quoted = f"'{name}'"
        for written in (name, quoted):
            config = load_text(tmp_path, f"DATASET: {{ENABLED: False, ID: {written}}}\n")
            assert config.DATASET.ID == name
    assert load_text(tmp_path, "DATASET: {ENABLED: No, LANGUAGE: no}").DATASET.LANGUAGE == "no"
    overridden = load_text(tmp_path, off, "DATASET.ID", "010", "PRETRAIN.ID", "1.10")
    assert (overridden.DATASET.ID, overridden.PRETRAIN.ID) == ("010", "1.10")
    with pytest.raises(ConfigError, match="plain file name"):
        load_text(tmp_path, off, "DATASET.ID", "2024-13-45 #1")


def test_home_is_expanded_and_anchors_merge(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "texts").mkdir()
    text = "DATASET: {CUSTOMIZED_DATASETS: [~/texts]}\nSYSTEM: {OUTPUT_ROOT: ~/runs}\n"
    config = load_text(tmp_path, text)
    assert config.DATASET.CUSTOMIZED_DATASETS == [str(tmp_path / "texts")]
    assert config.SYSTEM.OUTPUT_ROOT == str(tmp_path / "runs")
    grid = "FINETUNE: {GRID: {RTE: &small {EPOCHS: [1]}, MRPC: {<<: *small}}}\n"
    assert load_text(tmp_path, text + grid).FINETUNE.GRID.MRPC.EPOCHS == [1]


def test_a_secret_is_not_shown(tmp_path):
    (message,) = problems(tmp_path, "WANDB: {API_KEY: [sk-secret]}\nDATASET: {ENABLED: False}")
    assert "sk-secret" not in message


def test_base_file_is_built_upon(tmp_path):
    (tmp_path / "base.yaml").write_text(
        "PRETRAIN: {NUM_STEPS: 1, SEED: 9}\nDATASET: {ENABLED: False}"
    )
    config = load_text(tmp_path, "_BASE_: base.yaml\nPRETRAIN: {NUM_STEPS: 2}\n")
    assert (config.PRETRAIN.NUM_STEPS, config.PRETRAIN.SEED) == (2, 9)


def test_what_other_stages_need_is_not_checked(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("FINETUNE: {GLUE_DIR: no/such/folder}")
    load_config(file, stages=("pretrain",))
    with pytest.raises(ConfigError, match="GLUE_DIR"):
        load_config(file, stages=("finetune",))


def test_every_key_has_a_comment_and_the_manual_is_current():
    explained = comments()
    for key in flatten(get_default_config()):
        assert explained.get(key) or key.startswith("FINETUNE.GRID."), key
    assert MANUAL.read_text() == render(), "run python -m configs.manual"


def test_every_rule_belongs_to_a_key():
    assert set(RULES) <= set(flatten(get_default_config()))


def test_every_key_is_read_somewhere():
    """Outside of configs/, an attribute chain ends in SECTION.KEY for each key, or in its flag."""
    read = set()
    for path in PROJECT.glob("*/*.py"):
        if path.parent.name in ("configs", "tests", "benchmarks"):
            continue
        source = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute | ast.Constant):
                name = node.attr if isinstance(node, ast.Attribute) else node.value
                read.add(name)
    flags = {key: flag for flag, key in flag_keys().items()}
    keys = {flags.get(key, key.rpartition(".")[2]) for key in flatten(get_default_config())}
    assert keys - read == set()
    assert set(GRID_RULES) <= read
