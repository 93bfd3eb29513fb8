"""The benchmark of the dataset stage: text of the given size, all steps, the real stage."""

import pytest

from benchmarks.obvious_way import ObviousWay
from benchmarks.preprocess import STEPS, our_steps, report_steps, run_stage
from benchmarks.texts import read_articles, repeated_text

WORDS = ("the", "cat", "sat", "on", "a", "log", ".")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*SPECIAL, *WORDS]) + "\n")
    return path


@pytest.fixture
def text(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.txt").write_text(
        "\n\n".join(["The cat sat on a log. A cat sat on the log."] * 200)
    )
    return repeated_text([source], tmp_path / "text", 30_000)


def test_text_has_the_asked_size(text):
    assert sum(path.stat().st_size for path in text.iterdir()) == 30_000
    assert sum(len(article) + 2 for article in read_articles(text, 5000)) - 5000 < 100


def test_both_ways_take_the_same_steps(text, vocabulary, tmp_path, capsys):
    articles = list(read_articles(text, 1e9))
    ours = our_steps(articles, vocabulary, tmp_path, copies=2)
    obvious = ObviousWay(vocabulary).run(articles, tmp_path, copies=2)
    assert set(ours) == set(STEPS) and set(obvious) <= set(STEPS)
    report_steps(ours, 0.03, obvious, 0.03, 2)
    assert capsys.readouterr().out.count("\n") >= 8


def test_the_stage_is_measured_with_its_children(text, vocabulary, tmp_path):
    before = set(tmp_path.iterdir())
    run = run_stage(text, vocabulary, tmp_path, 2.0, 1, MASKING="dynamic")
    assert run.text_mb >= 0.03 and run.sample_mb > 0
    assert run.command.cpu > 0 and 0.05e9 < run.command.peak_bytes < 2e9
    assert set(tmp_path.iterdir()) == before
