"""One curve over all phases of a run."""

import json
from pathlib import Path
from types import SimpleNamespace

from pipeline.store.paths import METRICS
from result_collection.pages.joined_metrics import joined_metrics


def link(folder: Path, phase: int, *lines):
    folder.mkdir()
    (folder / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return SimpleNamespace(phase=phase, artifact=SimpleNamespace(directory=folder))


def train(step, tokens, elapsed):
    line = {"kind": "train", "step": step, "samples": 2 * step, "tokens": tokens, "loss": 1.0}
    return line | {"elapsed_seconds": elapsed}


def validation(step, elapsed):
    return {"kind": "validation", "step": step, "loss": 2.0, "elapsed_seconds": elapsed}


def test_counts_go_on_from_phase_to_phase(tmp_path):
    first = link(tmp_path / "a", 1, train(5, 50, 1.0), train(10, 100, 2.0), validation(10, 2.5))
    second = link(tmp_path / "b", 2, validation(0, 0.1), train(3, 90, 1.5), validation(3, 2.0))
    third = link(tmp_path / "c", 3, train(1, 7, 0.5))
    lines, begins = joined_metrics(SimpleNamespace(links=(first, second, third)))
    trained = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in trained] == [5, 10, 13, 14]
    assert [line["samples"] for line in trained] == [10, 20, 26, 28]
    assert [line["tokens"] for line in trained] == [50, 100, 190, 197]
    assert [line["elapsed_seconds"] for line in trained] == [1.0, 2.0, 4.0, 5.0]
    assert [line["step"] for line in lines if line["kind"] == "validation"] == [10, 13]
    assert begins == [10, 13]


def test_a_run_of_one_phase_is_as_it_is(tmp_path):
    lines = (validation(0, 0.1), train(5, 50, 1.0))
    assert joined_metrics(SimpleNamespace(links=(link(tmp_path / "a", 0, *lines),))) == (
        *([*lines], []),
    )
