"""Tasks of tagged sentences: their keys, checks, notes, identity and rows."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from configs.defaults import custom_task_node, get_default_config
from finetune.data.examples import has_split, load_examples
from finetune.data.row_checks import notes_on_task
from finetune.data.task_data import configured_tasks, task_inputs
from finetune.search.job_folder import write_predictions
from finetune.tagging.tag_checks import types_of
from pipeline.errors import ConfigError, StageError
from result_collection.tagged_predictions import write_tagged

TRAIN = "Ann\tx\tB-PER\nLee\tx\tI-PER\nsang\ty\tO\n\nOslo\ty\tB-a place\n"
DEV = "In\ty\tO\nOslo\ty\tB-a place\n"
REAL = Path("../shared/data/ner")


@pytest.fixture
def node(tmp_path, monkeypatch):
    """The keys of a task, with files in the present folder."""
    monkeypatch.chdir(tmp_path)
    Path("train.conll").write_text(TRAIN)
    Path("dev.conll").write_text(DEV)
    node = custom_task_node()
    node.TYPE, node.TRAIN, node.DEV = "token_classification", "train.conll", "dev.conll"
    return node


def make(node):
    config = get_default_config()
    config.FINETUNE.CUSTOM_TASKS["mine"] = node
    config.FINETUNE.TASKS = ["mine"]
    (task,) = configured_tasks(config.FINETUNE)
    return task


def notes(node) -> list[str]:
    return [note.replace("mine: ", "") for note in notes_on_task(make(node), ".")]


def test_labels_are_the_tags_of_the_types_in_train(node):
    task = make(node)
    assert task.labels == {
        "O": "O",
        "B-PER": "B-PER",
        "I-PER": "I-PER",
        "B-a place": "B-a_place",
        "I-a place": "I-a_place",
    }
    assert (task.type, task.metrics, task.scheme) == (node.TYPE, ("entity_f1",), "IOB2")
    assert types_of(task) == ["PER", "a place"] and task.text_columns == ()
    node.LABELS = ["a place", "PER", "unseen"]
    assert types_of(make(node)) == ["PER", "a place", "unseen"]


def test_rows_are_sentences_with_their_words(node):
    Path("test.conll").write_text("In\nOslo\n\nAnn\n")
    node.TEST = "test.conll"
    task = make(node)
    train, test = (load_examples(task, split, ".") for split in (task.train, task.test[0]))
    assert train.texts == [("Ann Lee sang",), ("Oslo",)]
    assert [words.tolist() for words in train.words] == [[[0, 3], [4, 7], [8, 12]], [[0, 4]]]
    assert train.tags == [("B-PER", "I-PER", "O"), ("B-a place",)]
    assert test.texts == [("In Oslo",), ("Ann",)] and test.tags == []
    assert has_split(task.test[0], ".")
    Path("test.conll").unlink()
    assert not has_split(task.test[0], ".")


def test_the_column_of_the_tags_is_that_of_train_in_all_files(node):
    """The last column of a test file without tags holds something else, and stays."""
    Path("test.conll").write_text("In\ty\nOslo\ty\n")
    node.TEST = "test.conll"
    task = make(node)
    assert [split.tag_column for split in task.splits] == [3, 3, 3]
    write_predictions(Path("tags.tsv"), [("0", "O B-a_place")])
    target = write_tagged(task, task.test[0], Path("tags.tsv"), Path("out"))
    assert target == Path("out/mine.predicted.conll")
    assert target.read_text() == "In\ty\tO\nOslo\ty\tB-a place\n"
    Path("dev.conll").write_text("In\ty\nOslo\ty\n")
    with pytest.raises(ConfigError, match=r"mine\.DEV: dev\.conll:1: no tags in column 3"):
        make(node)


def test_predictions_are_in_the_scheme_and_the_files_of_the_test_set(node):
    Path("train.conll").write_text("Ann\tB-PER\nLee\tE-PER\nsang\tO\n\nOslo\tS-LOC\n")
    Path("dev.conll").write_text("Oslo\tS-LOC\n")
    folder = Path("news")
    folder.mkdir()
    (folder / "b.conll").write_text("Oslo\n")
    (folder / "a.conll").write_text("Ann\nLee\n\nAnn\n")
    node.TEST = "news"
    task = make(node)
    write_predictions(Path("tags.tsv"), [("0", "B-PER I-PER"), ("1", "O"), ("2", "B-LOC")])
    (Path("out") / "mine.predicted").mkdir(parents=True)
    (Path("out") / "mine.predicted" / "old.conll").touch()
    target = write_tagged(task, task.test[0], Path("tags.tsv"), Path("out"))
    found = {path.name: path.read_text() for path in target.iterdir()}
    assert found == {"a.conll": "Ann\tB-PER\nLee\tE-PER\n\nAnn\tO\n", "b.conll": "Oslo\tS-LOC\n"}
    (folder / "b.conll").write_text("Oslo\n\nOslo\n")
    with pytest.raises(StageError, match="news: not the test set of the search any more"):
        write_tagged(task, task.test[0], Path("tags.tsv"), Path("out"))


# --- checks and notes ---------------------------------------------------------------------------


def test_notes_count_sentences_and_entities(node):
    Path("test.conll").write_text("Ann\n")
    node.TEST = "test.conll"
    assert notes(node) == [
        "train 2 sentences, 4 words, entities: PER 1, a place 1",
        "dev 1 sentence, 2 words, entities: a place 1",
        "test 1 sentence, 1 word",
        "train.conll: tags in column 3 are IOB2",
        "dev.conll: 1 entity only, so entity_f1 moves in steps of about 50.0 points",
    ]


def test_notes_name_what_misleads(node):
    Path("train.conll").write_text("Ann\tB-PER\nx\tO\nx\tI-PER\n\nOslo\tB-LOC\n")
    Path("dev.conll").write_text("Oslo\tB-LOC\n\nUN\tB-ORG\nUN\tB-ORG\n")
    found = notes(node)
    warning = "WARNING: "
    assert found[3] == (
        f"{warning}train.conll: 1 tag against IOB2, the first at train.conll:3; they are read as "
        "conlleval and seqeval do"
    )
    assert found[4] == (
        f"{warning}dev.conll: 2 entities of ORG, which train.conll lacks, so no model can find them"
    )
    assert found[5] == (
        f"{warning}dev.conll: 1 of 2 sentences are also in train.conll, which makes scores too high"
    )
    node.LABELS = ["LOC", "PER", "ORG"]
    assert f"{warning}train.conll: no entity of ORG of LABELS" in notes(node)


def test_notes_name_widened_spans_and_another_scheme(node):
    row = {"text": "Ann Lee", "spans": [{"start": 0, "end": 2, "label": "PER"}]}
    Path("train.jsonl").write_text(json.dumps(row))
    Path("dev.conll").write_text("Ann\tI-PER\nLee\tI-PER\n")
    node.TRAIN = "train.jsonl"
    found = notes(node)
    assert "dev.conll: tags are IOB1" in found
    assert "train.jsonl: widened to whole words, 1 span, the first at train.jsonl:1" in found


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("train.conll", "Ann\tO\n", r"TRAIN: train\.conll: no entity, all tags are O"),
        ("dev.conll", "In\ty\tO\n", r"DEV: dev\.conll: no entity, all tags are O"),
        ("dev.conll", "", r"DEV: dev\.conll: no sentence"),
        ("test.conll", "\n", r"TEST: test\.conll: no sentence"),
        ("train.conll", "Ann\tB-PER\nLee\n", r"TRAIN: train\.conll:2: 1 column, expected 2"),
        ("test.conll", "Ann\tx\nLee\n", r"TEST: test\.conll:2: 1 column"),
        (
            "train.conll",
            "Ann\tx\tB-a b\n\nLee\tx\tB-a_b\n",
            "LABELS: types 'a b' and 'a_b' differ in",
        ),
    ],
)
def test_what_cannot_be_learned_or_scored_is_an_error(node, file, content, expected):
    Path(file).write_text(content)
    node.TEST = "test.conll" if file == "test.conll" else ""
    with pytest.raises(ConfigError, match=f"mine.{expected}"):
        make(node)


def test_a_type_beside_those_of_labels_is_an_error(node):
    node.LABELS = ["PER"]
    with pytest.raises(ConfigError, match=r"train\.conll:5: tag 'B-a place', expected O or one of"):
        make(node)


# --- identity -----------------------------------------------------------------------------------


def test_the_identity_covers_files_and_keys_but_no_place(node):
    def identity():
        return task_inputs(make(node), ".", False)

    before = identity()
    assert before["task_keys"]["type"] == "token_classification"
    Path("there").mkdir()
    Path("train.conll").rename("there/train.conll")
    node.TRAIN = "there/train.conll"
    assert identity() == before
    node.TAG_COLUMN = 3  # the same as the last one
    assert identity() == before
    node.LABELS = ["PER", "a place", "more"]
    assert identity() != before
    node.LABELS = []
    node.TRAIN = "there"
    of_folder = identity()
    assert of_folder != before
    Path("there/more.conll").write_text(TRAIN)
    assert identity() != of_folder


def test_the_checks_do_without_torch(node):
    code = (
        "import sys\n"
        "import finetune.estimate, finetune.plan, result_collection.plan\n"
        "found = {'torch', 'transformers', 'sklearn', 'pandas', 'pyarrow'} & sys.modules.keys()\n"
        "sys.exit(str(found) if found else 0)"
    )
    project = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=project)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="needs data of its own")
@pytest.mark.parametrize(
    ("name", "train", "dev", "number"),
    [
        ("litbank", "train", "dev", 6),
        ("wnut17", "train.conll", "dev.conll", 6),
        ("ncbi_disease", "train.tsv", "dev.tsv", 1),
    ],
)
def test_real_files_make_tasks(name, train, dev, number):
    node = custom_task_node()
    node.TYPE, node.TAG_COLUMN = "token_classification", 2
    node.TRAIN, node.DEV = str(REAL / name / train), str(REAL / name / dev)
    task = make(node)
    assert len(types_of(task)) == number and len(task.labels) == 2 * number + 1
    examples = load_examples(replace(task), task.dev[0], ".")
    assert list(map(len, examples.words)) == list(map(len, examples.tags))
