"""Rules of single keys, contradictions between keys, and the needs of the stages that run."""

import os
from pathlib import Path

import pytest

import main

OFF = "DATASET: {ENABLED: False}\n"
TASK = "{TRAIN: t.tsv, DEV: d.tsv, TEXT_COLUMNS: [a]}"
TAGS = "TYPE: token_classification"
FOLDER = Path(__file__).parent


def own_task(keys: str) -> str:
    """Returns a config with nothing but a task of the user's own."""
    return f"FINETUNE: {{TASKS: [x], STILT_TASKS: [], CUSTOM_TASKS: {{x: {{{keys}}}}}}}"


# --- names of folders ------------------------------------------------------------------------

NO_NAMES = (
    *("../../x", "..", ".", "/x", "a/b", "a/", "a\\b", "~", "x" * 129, ".hidden", "-x", "a b"),
    *("a\nb", "a\n", "a\0b", "a\x1b[0m", "a\u2028b", "é", "\udc80"),
)


@pytest.mark.parametrize("key", ["DATASET.ID", "PRETRAIN.ID", "FINETUNE.ID", "MODEL.TYPE"])
def test_names_are_those_of_single_folders(problems, key):
    for name in NO_NAMES:
        (line,) = problems("", key, name)
        assert line.startswith(f"{key}: ")


def test_the_name_of_a_search_is_short(problems):
    for name in ("a+b", "x" * 65):
        (problem,) = problems("", "FINETUNE.ID", name)
        assert problem.startswith("FINETUNE.ID: ") and "at most 64 characters" in problem


def test_so_are_the_names_of_tasks(problems):
    for name in ("../../x", "..", "/x", "a/b", "x" * 129, "", "search"):
        found = problems(f"FINETUNE: {{CUSTOM_TASKS: {{'{name}': {TASK}}}}}")
        assert any(line.startswith(f"FINETUNE.CUSTOM_TASKS.{name}") for line in found)


def test_a_name_on_the_hub_makes_a_name(load, problems):
    for name in ("x" * 97, "a/..", "a b", "a\nb", "a/" + "x" * 97, "é"):
        (line,) = problems("", "FINETUNE.MODEL_NAME_OR_PATH", name)
        assert line.startswith("FINETUNE.MODEL_NAME_OR_PATH: ")
    Path("my model").mkdir()
    for name in ("my model", "bert-base-uncased", "google/bert_uncased_L-2_H-128_A-2", "", "../b"):
        load("", "FINETUNE.MODEL_NAME_OR_PATH", name)


def test_nothing_is_made_for_a_name_that_leads_away(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    Path("config.yaml").write_text("DATASET: {ID: ../../x, ENABLED: False}\n")
    before = sorted(tmp_path.rglob("*"))
    for options in ((), ("--dry-run",), ("--force", "dataset"), ("--clear_cache",), ("--status",)):
        assert main.main(["--config", "config.yaml", *options]) == 2
        assert "DATASET.ID: value out of range, got '../../x'" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "key",
    [
        *("SYSTEM.OUTPUT_ROOT", "SYSTEM.HOSTFILE", "PRETRAIN.DEEPSPEED_CONFIG"),
        *("TOKENIZER.NAME_OR_PATH", "FINETUNE.GLUE_DIR", "FINETUNE.SUPERGLUE_DIR"),
        *("FINETUNE.MODEL_NAME_OR_PATH", "DATASET.CUSTOMIZED_DATASETS"),
        *("DATASET.HUGGINGFACE_DATASETS", "FINETUNE.CUSTOM_TASKS.x.TRAIN"),
    ],
)
def test_paths_are_of_files_and_folders(problems, tmp_path, key):
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", "./pipe", "a\tb", "a\0", "\ud800"):
        value = f'["{path}"]' if key.endswith("CUSTOMIZED_DATASETS") else path
        if key.endswith("HUGGINGFACE_DATASETS"):
            value = f'[["{path}", a]]'
        assert any(line.startswith(key) for line in problems("", key, value))


def test_a_link_to_nowhere_is_no_root(problems, tmp_path):
    (tmp_path / "root").symlink_to("nowhere")
    assert "SYSTEM.OUTPUT_ROOT: not a folder" in problems("", "SYSTEM.OUTPUT_ROOT", "root")[0]


# --- values ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("DATASET: {HUGGINGFACE_DATASETS: [[wikipedia]]}", "[name, subset]"),
        ("FINETUNE: {TASKS: [RTE, CoLA]}", "MNLI is not in FINETUNE.TASKS"),
        ("FINETUNE: {MAX_SEQ_LENGTH: 512}", "longer than the pretrained model's positions"),
        (
            "FINETUNE: {GRID: {DEFAULT: {MAX_SEQ_LENGTH: 512}}}",
            "FINETUNE.GRID.DEFAULT.MAX_SEQ_LENGTH: longer than the pretrained model's positions",
        ),
        ("FINETUNE: {GRID: {reviews: {}}}", "FINETUNE.GRID.reviews: unknown task"),
        ("FINETUNE: {CUSTOM_TASKS: {sts_b: {}}}", "CUSTOM_TASKS.sts_b: not a name for a task"),
        ("FINETUNE: {CUSTOM_TASKS: {a-b: {}, a_b: {}}}", "in case or punctuation only"),
        (own_task("TRAIN: a.csv, DEV: a.csv"), "x.DEV: got the file of TRAIN"),
        (own_task("TRAIN: a.csv"), "x.DEV: no such file, got nothing, expected a .tsv, "),
        (
            own_task("TRAIN: a.csv"),
            ".parquet files, or a DEV_SHARE or FOLDS of TRAIN",
        ),
        (
            own_task("DEV: a.csv, DEV_SHARE: 0.1"),
            "x.DEV_SHARE: got DEV a.csv and DEV_SHARE 0.1,",
        ),
        (own_task("DEV_SHARE: 1.0"), "x.DEV_SHARE: value out of range, got 1.0"),
        (
            own_task("GROUP_COLUMN: a"),
            "got a, expected a DEV_SHARE or FOLDS beside it",
        ),
        (own_task("GROUP_COLUMN: label, DEV_SHARE: 0.1"), "x.GROUP_COLUMN: got LABEL_COLUMN"),
        (own_task("LABELS_FILE: no/such.txt"), "x.LABELS_FILE: no such file, got"),
        (own_task(f"LABELS_FILE: {__file__}, LABELS: [a, b]"), "x.LABELS_FILE: got one and LABELS"),
        (own_task(f"LABELS_FILE: {__file__}, SCORE_RANGE: [0, 1]"), "got one and SCORE_RANGE [0.0"),
        (own_task("COLUMNS: [a, a]"), "x.COLUMNS: value out of range, got ['a', 'a']"),
        (
            own_task("COLUMNS: [a, label], TEXT_COLUMNS: [b]"),
            "x.TEXT_COLUMNS: got b, expected so",
        ),
        (own_task("COLUMNS: [a], TEXT_COLUMNS: [a]"), "x.LABEL_COLUMN: got label, expected one of"),
        (
            own_task("COLUMNS: [a, label], TEXT_COLUMNS: [a], TRAIN: a.jsonl"),
            "x.COLUMNS: got ['a', 'label'], and a.jsonl as TRAIN",
        ),
        (own_task("TEXT_COLUMNS: [label]"), "x.LABEL_COLUMN: got label, expected none of TEXT_COL"),
        (own_task("TEXT_COLUMNS: [a, a]"), "x.TEXT_COLUMNS: value out of range, got ['a', 'a']"),
        (own_task("TRAIN: a.csv"), "x.TEXT_COLUMNS: got nothing, expected one or two names"),
        (own_task("TEXT_COLUMNS: [a, b, c]"), "x.TEXT_COLUMNS: value out of range"),
        (own_task("LABELS: [a]"), "x.LABELS: got ['a'], expected at least two different words"),
        (own_task("TYPE: tags"), "x.TYPE: value out of range, got 'tags', expected one of"),
        (own_task("TYPE: regression"), "x.SCORE_RANGE: got nothing, expected [lowest, highest]"),
        (own_task("TYPE: classification, SCORE_RANGE: [0, 5]"), "got [0.0, 5.0], expected none"),
        (own_task("TAG_COLUMN: 2"), "x.TAG_COLUMN: got 2, expected none without TYPE token_class"),
        (own_task(f"{TAGS}, TAG_COLUMN: 1"), "x.TAG_COLUMN: value out of range, got 1"),
        (own_task(f"{TAGS}, TRAIN: no"), "expected a file of tagged sentences, or a folder of"),
        (own_task(f"{TAGS}, TEXT_COLUMNS: [a]"), "x.TEXT_COLUMNS: got ['a'], expected none with"),
        (own_task(f"{TAGS}, DEV_SHARE: 0.1"), "x.DEV_SHARE: got 0.1, expected none with TYPE"),
        (own_task(f"{TAGS}, METRICS: [f1]"), "x.METRICS: got ['f1'], expected entity_f1 with"),
        (own_task("METRICS: [entity_f1]"), "x.METRICS: got ['entity_f1'], expected for a class"),
        (own_task(f"{TAGS}, LABELS: [O, B-X]"), "x.LABELS: got ['O', 'B-X'], expected types of"),
        (own_task(f"TRAIN: {__file__}"), f"x.TRAIN: got {__file__}, expected a .tsv, .csv, "),
        (
            own_task(f"TRAIN: {FOLDER}, DEV: {FOLDER}/test_keys.py"),
            "x.DEV: got a file in the folder of TRAIN",
        ),
        ("FINETUNE: {SEEDS: []}", "at least one seed"),
        ("FINETUNE: {TASKS: [sst3]}", "got sst3, expected some of CoLA, SST-2"),
        ("PRETRAIN: {SEED: 99999999999}", "below 2^32"),
        ("SYSTEM: {OUTPUT_ROOT: /dev/null/x}", "SYSTEM.OUTPUT_ROOT: not a folder"),
        ("MODEL: {TYPE: bert, GLU: True}", "MODEL.GLU: only bert-mlm has it, got True with MODEL"),
        ("MODEL: {ATTENTION_WINDOW: 7}", "MODEL.ATTENTION_WINDOW: value out of range, got 7, exp"),
        (
            "DATASET: {MAX_SEQ_LENGTH: 64}\nMODEL: {ATTENTION_WINDOW: 126}",
            "covers whole rows of DATASET.MAX_SEQ_LENGTH 64, got 126, expected less than 126",
        ),
        ("MODEL: {ATTENTION_WINDOW: 8, GLOBAL_ATTENTION_EVERY: 1}", "leaves no layer for MODEL."),
        ("MODEL: {TYPE: bert, RESIDUAL_INIT: zero}", "MODEL.RESIDUAL_INIT: only bert-mlm has it"),
        (
            "PRETRAIN: {BATCH_SIZE: 4096, BATCH_SIZE_RAMP_START: 1, BATCH_SIZE_RAMP_STEPS: 9}",
            "4,096 sizes, expected at most 1,000",
        ),
    ],
)
def test_each_mistake_is_named(problems, text, expected):
    assert expected in "\n".join(problems(text, stages=None))


DYNAMIC = "DATASET: {MASKING: dynamic, MASKED_LM_PROB: 0.3, MASKED_LM_PROB_END: 0.15}"
ROOM = "DATASET.MAX_PREDICTIONS_PER_SEQ"


def test_a_masking_rate_that_changes_needs_dynamic_masks_and_room(load, problems):
    [static] = problems("", "DATASET.MASKED_LM_PROB_END", "0.1")
    assert static.startswith("DATASET.MASKED_LM_PROB_END: needs masks drawn during training, got")
    assert static.endswith("with DATASET.MASKING static, expected DATASET.MASKING dynamic, or 0")
    [start] = problems(DYNAMIC, ROOM, "37")
    assert start == (
        f"{ROOM}: cuts off 3% of the predictions of DATASET.MASKED_LM_PROB 0.3, got 37, expected "
        "at least 38"
    )
    [end] = problems(DYNAMIC, ROOM, "38", "DATASET.MASKED_LM_PROB_END", "0.4")
    assert "25% of" not in end and "24% of the predictions of DATASET.MASKED_LM_PROB_END 0.4" in end
    load(DYNAMIC, ROOM, "38")  # round(0.3 * 126)
    load("", ROOM, "10")  # a constant rate is cut, and the plan says so
    [value] = problems(DYNAMIC, "DATASET.MASKED_LM_PROB_END", "1", ROOM, "38")
    assert "MASKED_LM_PROB_END: value out of range, got 1.0" in value


def test_another_model_than_the_pretrained_one_is_refused(load, problems):
    text = OFF + "FINETUNE: {MODEL_NAME_OR_PATH: bert-base-uncased}\n"
    [problem] = problems(text, stages=None)
    assert problem.startswith("FINETUNE.MODEL_NAME_OR_PATH: got bert-base-uncased with PRETRAIN.")
    for way_out in ("PRETRAIN.ENABLED False", "--stages finetune", "an empty value"):
        assert way_out in problem
    only_results = problems(text, "FINETUNE.ENABLED", "False", stages=None)
    assert only_results == [problem]  # they would be those of that model

    load(text, stages=["finetune", "result_collection"])
    load(text, stages=["pretrain"])
    load(text, "PRETRAIN.ENABLED", "False", stages=None)
    off = ("FINETUNE.ENABLED", "False", "RESULT_COLLECTION.ENABLED", "False")
    load(text, *off, stages=None)
    load(text, "FINETUNE.MODEL_NAME_OR_PATH", "", stages=None)


def test_a_tokenizer_that_would_not_be_used_is_refused(load, problems):
    text = "DATASET: {CUSTOMIZED_DATASETS: [.]}\nTOKENIZER: {TRAIN: True}\n"
    vocabulary = ("TOKENIZER.NAME_OR_PATH", "my/vocab")
    [problem] = problems(text, *vocabulary, stages=None)
    assert problem.startswith("TOKENIZER.NAME_OR_PATH: got my/vocab with TOKENIZER.TRAIN True")
    load(text, *vocabulary, "TOKENIZER.TRAIN", "False", stages=None)
    load(text, stages=None)


def test_needs_of_other_stages_are_not_checked(load, problems):
    text = "FINETUNE: {GLUE_DIR: no/such/folder}"
    load(text, stages=["pretrain"])
    [problem] = problems(text, stages=["finetune"])
    assert problem.startswith("FINETUNE.GLUE_DIR: no such folder")


def test_a_weight_for_each_source(load, problems):
    sources = "CUSTOMIZED_DATASETS: [a, b], HUGGINGFACE_DATASETS: [[wiki, en]]"
    assert load(f"DATASET: {{{sources}, WEIGHTS: [3, 1, 0.5]}}").DATASET.WEIGHTS == [3.0, 1.0, 0.5]
    [problem] = problems(f"DATASET: {{{sources}, WEIGHTS: [3, 1]}}")
    assert problem == (
        "DATASET.WEIGHTS: got [3.0, 1.0], expected 3, one for each source: wiki en, a, b"
    )
    for wrong in ("0", "-1"):
        [problem] = problems(f"DATASET: {{{sources}, WEIGHTS: [3, 1, {wrong}]}}")
        assert problem.startswith("DATASET.WEIGHTS: value out of range")


def test_a_weight_beside_a_source_is_sent_to_its_key(problems):
    for text in ("CUSTOMIZED_DATASETS: [[a, 3], b]", "HUGGINGFACE_DATASETS: [[w, en, s, text, 3]]"):
        [problem] = problems(f"DATASET: {{{text}}}")
        assert problem.endswith(" (weights: DATASET.WEIGHTS)")
