"""SuperGLUE's files in their official format become samples; broken rows are named."""

import json

import numpy as np
import pytest

from finetune.data.examples import has_split, load_examples, num_train_rows
from finetune.data.tasks import find_task
from finetune.task_types.label_metrics import predicted_rows, score_predictions
from pipeline.errors import StageError
from result_collection.submission import submission_text

PASSAGE = "Ann met Bob in Rome.\n@highlight\nRome is old\n@highlight\nBob left"

# A training row of each task, as the official files have it.
ROWS = {
    "BoolQ": {"question": "is it so", "passage": "It is so.", "idx": 0, "label": True},
    "CB": {"premise": "He said so.", "hypothesis": "so", "label": "neutral", "idx": 0},
    "COPA": {"premise": "It fell.", "choice1": "It broke.", "choice2": "It flew.",
             "question": "effect", "label": 0, "idx": 0},
    "MultiRC": {"idx": 0, "version": 1.1, "passage": {"text": "Ann ran.", "questions": [
        {"question": "Who ran?", "idx": 0, "answers": [
            {"text": "Ann", "idx": 0, "label": 1}, {"text": "Bob", "idx": 1, "label": 0}]},
        {"question": "Who sat?", "idx": 1, "answers": [{"text": "Ann", "idx": 2, "label": 0}]}]}},
    "ReCoRD": {"source": "Daily mail", "idx": 0, "passage": {"text": PASSAGE, "entities": [
        {"start": 8, "end": 10}, {"start": 0, "end": 2}, {"start": 15, "end": 18},
        {"start": PASSAGE.rindex("Bob"), "end": PASSAGE.rindex("Bob") + 2}]},
        "qas": [{"query": "In @placeholder they met", "idx": 5,
                 "answers": [{"start": 15, "end": 18, "text": "Rome"},
                             {"start": 34, "end": 37, "text": "Rome"}]}]},
    "RTE": {"premise": "Bob is old.", "hypothesis": "Bob is.", "label": "entailment", "idx": 0},
    "WiC": {"word": "place", "sentence1": "Come to my place.", "sentence2": "Places vary", "idx": 0,
            "label": False, "start1": 11, "start2": 0, "end1": 16, "end2": 6, "version": 1.1},
    "WSC": {"text": "Mark's dog bit Jim, so he cried.", "idx": 0, "label": True, "target": {
        "span1_index": 0, "span1_text": "Mark", "span2_index": 5, "span2_text": "he"}},
}  # fmt: skip

# Texts and label words of the samples of these rows.
SAMPLES = {
    "BoolQ": [(("It is so.", "is it so"), "true")],
    "CB": [(("He said so.", "so"), "neutral")],
    "COPA": [(("It fell. What happened as a result?", "It broke."), "right"),
             (("It fell. What happened as a result?", "It flew."), "wrong")],
    "MultiRC": [(("Ann ran.", "Who ran? Ann"), "right"), (("Ann ran.", "Who ran? Bob"), "wrong"),
                (("Ann ran.", "Who sat? Ann"), "wrong")],
    "ReCoRD": [(("Ann met Bob in Rome. Rome is old. Bob left.", f"In {name} they met"), word)
               for name, word in (("Bob", "wrong"), ("Ann", "wrong"), ("Rome", "right"))],
    "RTE": [(("Bob is old.", "Bob is."), "entailment")],
    "WiC": [(("Come to my * place *.", "* Places * vary"), "false")],
    "WSC": [(("* Mark's * dog bit Jim, so # he # cried.", "Mark"), "true")],
}  # fmt: skip
NAMES = {folder: "SuperGLUE-RTE" if folder == "RTE" else folder for folder in ROWS}


def write(folder, name, *lines):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(text) + "\n")
    return path


def without_labels(row):
    """The row as a test file has it."""
    if isinstance(row, list):
        return [without_labels(item) for item in row]
    if isinstance(row, dict):
        return {k: without_labels(v) for k, v in row.items() if k != "label"}
    return row


@pytest.mark.parametrize("folder", ROWS)
def test_rows_become_samples(tmp_path, folder):
    write(tmp_path, f"{folder}/train.jsonl", ROWS[folder])
    task = find_task(NAMES[folder])
    examples = load_examples(task, task.train, str(tmp_path))
    words = [list(task.labels)[label] for label in examples.labels]
    assert list(zip(examples.texts, words, strict=True)) == SAMPLES[folder]
    assert len(set(examples.keys)) == len(examples.texts) and examples.malformed == []
    assert num_train_rows(task, str(tmp_path)) == {"MultiRC": 3}.get(folder, 1)


@pytest.mark.parametrize("folder", ROWS)
def test_a_perfect_model_scores_1_and_its_predictions_are_submitted(tmp_path, folder):
    from finetune.search.job_folder import write_predictions

    test_row = without_labels(ROWS[folder])
    for query in test_row.get("qas", ()):
        del query["answers"]
    write(tmp_path, f"{folder}/val.jsonl", ROWS[folder])
    write(tmp_path, f"{folder}/test.jsonl", test_row)
    task = find_task(NAMES[folder])
    dev = load_examples(task, task.dev[0], str(tmp_path))
    test = load_examples(task, task.test[0], str(tmp_path))
    assert test.texts == dev.texts and test.labels == [] and test.keys == dev.keys
    outputs = np.eye(len(task.labels))[dev.labels]
    assert score_predictions(task, outputs, dev)[task.metrics[0]] == 1
    write_predictions(tmp_path / "p.tsv", predicted_rows(task, outputs, test))
    line = json.loads(submission_text(task, tmp_path / "p.tsv"))
    expected = {
        "COPA": 0, "ReCoRD": "Rome", "WSC": "True", "BoolQ": "true", "WiC": "false"
    }.get(folder, SAMPLES[folder][0][1])  # fmt: skip
    if folder == "MultiRC":
        answers = [[a["label"] for a in q["answers"]] for q in line["passage"]["questions"]]
        assert answers == [[1, 0], [0]]
    else:
        assert line == {"idx": 5 if folder == "ReCoRD" else 0, "label": expected}


def test_both_diagnostics_are_test_sets_of_rte(tmp_path):
    task = find_task("superglue-rte")
    broad = {"sentence1": "a", "sentence2": "b", "idx": "3", "label": "entailment", "logic": "x"}
    gender = {"premise": "c", "hypothesis": "d", "pair_id": 1, "label": "entailment", "idx": 0}
    write(tmp_path, "AX-b/AX-b.jsonl", broad)
    write(tmp_path, "AX-g/AX-g.jsonl", gender)
    assert [split.name for split in task.test] == ["test", "AX-b", "AX-g"]
    assert not has_split(task.test[0], str(tmp_path))
    ax_b, ax_g = (load_examples(task, split, str(tmp_path)) for split in task.test[1:])
    assert (ax_b.texts, ax_b.keys, ax_b.labels) == ([("a", "b")], [(3,)], [])
    assert ax_g.texts == [("c", "d")]


@pytest.mark.parametrize("label", [True, "true", "True"])
def test_true_is_spelled_in_three_ways(tmp_path, label):
    write(tmp_path, "WSC/train.jsonl", ROWS["WSC"] | {"label": label})
    task = find_task("WSC")
    assert load_examples(task, task.train, str(tmp_path)).labels == [1]


BROKEN = [
    ("CB", '{"premise": "a"', "not JSON, Expecting ',' delimiter in column 16"),
    ("CB", "[1, 2]", "not a JSON object"),
    ("CB", "", "not JSON, Expecting value in column 1"),
    ("CB", {"premise": "a", "label": "neutral"}, "no hypothesis"),
    ("CB", {"premise": "a", "hypothesis": "b"}, "no label"),
    ("CB", ROWS["CB"] | {"premise": None}, "premise is None, expected text"),
    ("CB", ROWS["CB"] | {"premise": "\ud800"}, "half of a surrogate pair"),
    ("CB", ROWS["CB"] | {"idx": 1.5}, "idx 1.5, expected a whole number"),
    ("COPA", ROWS["COPA"] | {"question": "why"}, "question 'why', expected cause or effect"),
    ("WiC", ROWS["WiC"] | {"end1": 99}, "word 1 at 11 to 99 of 17 characters"),
    ("WSC", ROWS["WSC"] | {"target": {}}, "no span1_text"),
    ("MultiRC", {"idx": 0, "passage": {"text": "a"}}, "no questions"),
    ("ReCoRD", ROWS["ReCoRD"] | {"passage": {"text": "a", "entities": [{"start": 0, "end": 5}]}},
     "entity at 0 to 5 of 1 characters"),
]  # fmt: skip


@pytest.mark.parametrize("folder, line, problem", BROKEN)
def test_broken_rows_are_left_out_and_named_but_not_of_a_test_set(tmp_path, folder, line, problem):
    task = find_task(folder)
    path = write(tmp_path, f"{folder}/train.jsonl", ROWS[folder], line, ROWS[folder])
    examples = load_examples(task, task.train, str(tmp_path))
    left_out = examples.unlabelled if problem == "no label" else examples.malformed
    assert left_out == [*examples.malformed, *examples.unlabelled] == [f"{path}:2: {problem}"]
    assert len(examples.texts) == len(examples.labels) == 2 * len(SAMPLES[folder])
    if problem != "no label":
        write(tmp_path, f"{folder}/test.jsonl", line, ROWS[folder])
        with pytest.raises(StageError, match=r"test\.jsonl:1: .* test row cannot be left out"):
            load_examples(task, task.test[0], str(tmp_path))


@pytest.mark.parametrize(
    "folder, change, expected",
    [("CB", {"label": "maybe"}, "'maybe', expected one of entailment"),
     ("COPA", {"label": 2}, "2, expected one of 0, 1"),
     ("BoolQ", {"label": 1}, "1, expected one of false, true")],
)  # fmt: skip
def test_an_unknown_label_names_file_and_line(tmp_path, folder, change, expected):
    task = find_task(folder)
    write(tmp_path, f"{folder}/val.jsonl", ROWS[folder], ROWS[folder] | change | {"idx": 1})
    with pytest.raises(StageError, match=rf"val\.jsonl:2: label {expected}"):
        load_examples(task, task.dev[0], str(tmp_path))


def test_a_repeated_idx_would_mix_up_predictions(tmp_path):
    task = find_task("COPA")
    write(tmp_path, "COPA/test.jsonl", ROWS["COPA"], ROWS["COPA"])
    with pytest.raises(StageError, match=r"test\.jsonl:2: idx 0, as in line 1"):
        load_examples(task, task.test[0], str(tmp_path))


def test_other_mistakes_with_files(tmp_path):
    task = find_task("CB")
    with pytest.raises(StageError, match=r"CB/train\.jsonl: no such file"):
        load_examples(task, task.train, str(tmp_path))
    with pytest.raises(StageError, match="CB: is not in nyu-mll/glue"):
        load_examples(task, task.train, "")
    write(tmp_path, "CB/train.jsonl", "premise,hypothesis,label")
    with pytest.raises(StageError, match=r"no row that can be read, the first is .*jsonl:1: not"):
        load_examples(task, task.train, str(tmp_path))


def test_a_byte_order_mark_and_crlf(tmp_path):
    path = write(tmp_path, "CB/train.jsonl", ROWS["CB"], ROWS["CB"])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    task = find_task("CB")
    assert len(load_examples(task, task.train, str(tmp_path)).texts) == 2


@pytest.mark.parametrize(
    "span, index, marked",
    [("dog", 1, "Mark's # dog, # ran"), ("dog", 2, "Mark's # dog, # ran"),
     ("mark", 0, "# Mark's # dog, ran"), ("Ann and Jim", 2, "Mark's dog, # ran #")],
)  # fmt: skip
def test_spans_that_do_not_stand_where_they_are_said_to(tmp_path, span, index, marked):
    target = ROWS["WSC"]["target"] | {"span2_text": span, "span2_index": index}
    target |= {"span1_text": "Tim", "span1_index": 3}
    row = ROWS["WSC"] | {"text": "Mark's dog, ran Tim", "target": target}
    write(tmp_path, "WSC/train.jsonl", row)
    task = find_task("WSC")
    assert load_examples(task, task.train, str(tmp_path)).texts[0][0] == f"{marked} * Tim *"


def test_real_files_are_read_completely(shared_data):
    expected = {
        ("CB", "train"): 250, ("CB", "dev"): 56, ("CB", "test"): 250, ("COPA", "dev"): 200,
        ("COPA", "test"): 1000, ("WSC", "dev"): 104, ("WSC", "test"): 146,
        ("SuperGLUE-RTE", "AX-b"): 1104,
    }  # fmt: skip
    folder = str(shared_data / "superglue")
    for (name, split_name), num_samples in expected.items():
        task = find_task(name)
        split = next(split for split in task.splits if split.name == split_name)
        examples = load_examples(task, split, folder)
        assert len(examples.texts) == num_samples and not examples.malformed
        rows = predicted_rows(task, np.zeros((num_samples, len(task.labels))), examples)
        num_rows = num_samples // 2 if name == "COPA" else num_samples
        assert [index for index, _ in rows] == [str(i) for i in range(num_rows)]
        assert split not in task.test or num_rows == split.num_rows
    wsc = find_task("WSC")
    texts = load_examples(wsc, wsc.test[0], folder).texts
    assert all(text.count("*") >= 2 and text.count("#") >= 2 for text, _ in texts)
