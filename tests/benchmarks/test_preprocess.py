"""The benchmark of the dataset stage: text of the given size, the obvious way, the real stage."""

import h5py
import pytest

from benchmarks.harness import CommandRun
from benchmarks.obvious_way import prepare_obviously
from benchmarks.preprocess import StageRun, run_stage, stage_table
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


def test_the_obvious_way_writes_all_copies(text, vocabulary, tmp_path):
    articles = list(read_articles(text, 1e9))
    segmentation, copy = prepare_obviously(articles, vocabulary, tmp_path, copies=2)
    assert segmentation > 0 and copy > 0
    with h5py.File(tmp_path / "obvious_01.hdf5") as samples:
        assert samples["input_ids"].shape[1] == 128 and samples["masked_lm_ids"][:].any()


def test_the_table_compares_by_masking():
    runs = {
        f"{masking}, {count}": StageRun(CommandRun(10.0, 20.0, 10**9), 40.0, 80.0)
        for masking in ("static", "dynamic")
        for count in ("1 worker", "2 workers")
    }
    static, _, dynamic, _ = stage_table(runs, {"static": 5.0, "dynamic": 1.0}).splitlines()[2:]
    assert static.split()[-6:] == ["0.500", "10.0", "4.0", "1.00", "2.00", "10.0"]
    assert dynamic.split()[-1] == "2.0"


@pytest.mark.slow
def test_the_stage_is_measured_with_its_children(text, vocabulary, tmp_path):
    before = set(tmp_path.iterdir())
    run = run_stage(text, vocabulary, tmp_path, 2.0, 1, MASKING="dynamic")
    assert run.text_mb >= 0.03 and run.sample_mb > 0
    assert run.command.cpu > 0 and 0.05e9 < run.command.peak_bytes < 2e9
    assert set(tmp_path.iterdir()) == before
