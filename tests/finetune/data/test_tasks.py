"""The table of tasks: names, labels, files, and the Hub's label names."""

import pickle

import pytest

from configs.defaults import GLUE_TASKS, SUPERGLUE_TASKS
from finetune.data.tasks import TASKS, find_task, submission_splits


def test_tasks_are_those_of_the_config():
    assert [task.name for task in TASKS] == [*GLUE_TASKS, *SUPERGLUE_TASKS]
    assert [task.name for task in TASKS if task.benchmark == "GLUE"] == GLUE_TASKS


@pytest.mark.parametrize(
    "spelling, name",
    [("STS-B", "STS-B"), ("stsb", "STS-B"), ("sts_b", "STS-B"), ("sst2", "SST-2"), ("SST", "SST-2"),
     ("mrpc", "MRPC"), ("cola", "CoLA"), ("Mnli", "MNLI"), ("boolq", "BoolQ"), ("cb", "CB"),
     ("multi_rc", "MultiRC"), ("record", "ReCoRD"), ("superglue_rte", "SuperGLUE-RTE"),
     ("rte_superglue", "SuperGLUE-RTE"), ("rte", "RTE"), ("wic", "WiC"), ("wsc", "WSC")],
)  # fmt: skip
def test_usual_spellings(spelling, name):
    assert find_task(spelling).name == name


@pytest.mark.parametrize("name", ["sst3", "ax-b", ""])
def test_unknown_task_lists_the_known_ones(name):
    with pytest.raises(KeyError, match=f"{name} is not a task, expected one of CoLA, .*, WSC"):
        find_task(name)


def test_tasks_can_be_dictionary_keys_and_travel_to_other_processes():
    for task in TASKS:
        assert {pickle.loads(pickle.dumps(task)): 1}[task] == 1


def test_eleven_submitted_files_with_the_server_counts():
    counts = {name: split.num_rows for name, (_, split) in submission_splits().items()}
    assert counts == {
        "CoLA": 1063, "SST-2": 1821, "MRPC": 1725, "STS-B": 1379, "QQP": 390965, "MNLI-m": 9796,
        "MNLI-mm": 9847, "AX": 1104, "QNLI": 5463, "RTE": 3000, "WNLI": 146,
    }  # fmt: skip


def test_ten_files_of_superglue_with_the_server_counts():
    counts = {name: split.num_rows for name, (_, split) in submission_splits("SuperGLUE").items()}
    assert counts == {
        "BoolQ": 3245, "CB": 250, "COPA": 500, "MultiRC": 9693, "ReCoRD": 10000, "RTE": 3000,
        "AX-b": 1104, "AX-g": 356, "WiC": 1400, "WSC": 146,
    }  # fmt: skip
