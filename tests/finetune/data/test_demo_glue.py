"""The demo benchmark: readable as GLUE is, the same every time, balanced, not submittable."""

from collections import Counter

import pytest

from finetune.data import demo_glue
from finetune.data.demo_glue import demo_files, write_demo_glue
from finetune.data.examples import load_examples
from finetune.data.task_data import task_inputs
from finetune.data.tasks import GLUE
from pipeline.errors import StageError


def test_every_split_is_read_and_none_has_glues_row_count(tmp_path):
    write_demo_glue(tmp_path)
    for task in GLUE:
        for split in task.splits:
            examples = load_examples(task, split, str(tmp_path))
            assert len(examples.texts) > 50 and not examples.malformed
            assert len(examples.texts) != split.num_rows
            assert all(text for texts in examples.texts for text in texts)


def test_labels_are_balanced(tmp_path):
    write_demo_glue(tmp_path)
    for task in GLUE:
        for split in (task.train, *task.dev):
            counts = Counter(load_examples(task, split, str(tmp_path)).labels)
            assert max(counts.values()) - min(counts.values()) <= 1
            assert task.is_regression or len(counts) == len(task.labels)


def test_a_seed_decides_all_bytes():
    assert demo_files.__wrapped__(1) == demo_files.__wrapped__(1)
    assert demo_files.__wrapped__(1) != demo_files.__wrapped__(2)


def test_other_texts_are_never_written(tmp_path, monkeypatch):
    other = demo_files.__wrapped__(2)
    monkeypatch.setattr(demo_glue, "demo_files", lambda: other)
    with pytest.raises(StageError, match=r"builtin:demo: CoLA/train\.tsv: this Python draws other"):
        write_demo_glue(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_planned_digests_are_those_of_the_written_files(tmp_path):
    write_demo_glue(tmp_path)
    for task in GLUE:
        planned = task_inputs(task, str(tmp_path), is_demo=True)
        assert planned == task_inputs(task, str(tmp_path), is_demo=False)


def test_a_damaged_file_is_mended(tmp_path):
    write_demo_glue(tmp_path)
    file = tmp_path / "RTE" / "dev.tsv"
    file.write_text("broken")
    (tmp_path / "RTE" / ".dev.tsv.0123456789ab.tmp").write_text("of one that was killed")
    write_demo_glue(tmp_path)
    assert file.read_text() == demo_files()["RTE/dev.tsv"]
    assert not [*tmp_path.rglob(".*")]
