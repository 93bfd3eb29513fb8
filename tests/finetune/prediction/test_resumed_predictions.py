"""Predictions that are killed, and go on: the same bytes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finetune import predict
from finetune.prediction.text_jobs import TextJob
from finetune.prediction.unfinished import ANSWERS, RECORD, Unfinished
from pipeline.console import Console
from pipeline.runtime.memory import PeakMemory
from tests.finetune.classifiers import WORDS, build_classifier_of_transformers
from tests.finetune.predictions import ENDINGS, PIECE, Killed, die, read_rows, run, write_rows

pytestmark = pytest.mark.usefixtures("one_thread")
PROJECT = Path(predict.__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_kill_at_any_point_changes_no_byte(model, tmp_path, monkeypatch, ending):
    """Four pieces; after each, answers are half written, and at the end the output."""
    write_rows(tmp_path / "in.csv", 4 * PIECE - 3)
    output = tmp_path / f"out{ending}"
    assert run(model, tmp_path / "in.csv", tmp_path / f"expected{ending}") == 0
    expected = (tmp_path / f"expected{ending}").read_bytes()
    add = Unfinished.add
    for kill_after in range(5):
        left = [kill_after]

        def add_or_die(self, answers, *rest, left=left):
            if not left[0]:
                with open(self.folder / ANSWERS, "ab") as file:
                    file.write(b'["lo')
                raise Killed
            left[0] -= 1
            add(self, answers, *rest)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Unfinished, "add", add_or_die)
            patch.setattr("finetune.prediction.predicting.delete_tree", die)
            run(model, tmp_path / "in.csv", output)
        assert output.exists() == (kill_after == 4)
        assert run(model, tmp_path / "in.csv", output) == 2  # never begins anew by mistake
        assert run(model, tmp_path / "in.csv", output, "--resume") == 0
        assert output.read_bytes() == expected
        assert not (tmp_path / f"out{ending}.part").exists()
        output.unlink()


@pytest.mark.usefixtures("small_pieces")
def test_what_an_interrupted_prediction_does_not_go_on_with(model, tmp_path, monkeypatch, capsys):
    write_rows(tmp_path / "in.csv", 3 * PIECE)
    output, part = tmp_path / "out.csv", tmp_path / "out.csv.part"
    with monkeypatch.context() as patch:
        patch.setattr(Console, "progress", lambda *_: die())
        with pytest.raises(Killed):
            run(model, tmp_path / "in.csv", output)
    assert json.loads((part / RECORD).read_text())["rows"] == 0
    other = build_classifier_of_transformers(tmp_path / "other", ["low", "mid", "high"])
    for command, changed in (
        ((other, tmp_path / "in.csv", output), "MODEL"),
        ((model, tmp_path / "in.csv", output, "--windows"), "--windows"),
        ((model, tmp_path / "in.csv", output, "--text_columns", "note"), "--text_columns"),
    ):
        assert run(*command, "--resume") == 2
        assert f"was begun with another {changed};" in capsys.readouterr().err
    with open(tmp_path / "in.csv", "a") as file:
        file.write("x,y,z\n")
    assert run(model, tmp_path / "in.csv", output, "--resume") == 2
    assert "another FILE; --overwrite without --resume begins anew" in capsys.readouterr().err
    (part / "own.txt").write_text("of the user")
    assert run(model, tmp_path / "in.csv", output, "--overwrite") == 2
    assert "is no unfinished prediction, and not deleted" in capsys.readouterr().err
    (part / "own.txt").unlink()
    assert run(model, tmp_path / "in.csv", output, "--overwrite") == 0
    assert len(read_rows(output)) == 3 * PIECE + 1


def test_a_file_that_changes_meanwhile(model, tmp_path, monkeypatch, capsys):
    write_rows(tmp_path / "in.csv", 5)
    answers = Unfinished.answers

    def answers_and_a_change(unfinished):
        yield from answers(unfinished)
        os.utime(tmp_path / "in.csv", (0, 0))

    monkeypatch.setattr(Unfinished, "answers", answers_and_a_change)
    assert run(model, tmp_path / "in.csv", tmp_path / "out.csv") == 3
    assert "in.csv: has changed while it was read" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.slow
def test_signals_end_it_and_it_goes_on(model, tmp_path):
    write_rows(tmp_path / "in.csv", 8500)
    output, undisturbed = tmp_path / "out.csv", tmp_path / "undisturbed.csv"
    command = [sys.executable, "-m", "finetune.predict", model, str(tmp_path / "in.csv")]
    for number, code in ((signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)):
        process = subprocess.Popen(
            [*command, "--output", str(output), "--resume", "--use_cpu"],
            cwd=PROJECT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        before = rows_done(tmp_path)
        while rows_done(tmp_path) <= before and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == code, errors
        if number == signal.SIGTERM:
            assert errors.splitlines()[-1] == "predict: interrupted; --resume goes on from here"
    assert rows_done(tmp_path) >= 8192
    assert run(model, tmp_path / "in.csv", output, "--resume") == 0
    assert run(model, tmp_path / "in.csv", undisturbed) == 0
    assert output.read_bytes() == undisturbed.read_bytes()


def rows_done(folder: Path) -> int:
    try:
        return json.loads((folder / "out.csv.part" / RECORD).read_text())["rows"]
    except FileNotFoundError:
        return 0


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(model, tmp_path, monkeypatch):
    """Pieces are small against the file, of which any copy would show."""
    monkeypatch.setattr(TextJob, "piece_characters", 1 << 17)
    row = {"text": " ".join(random.Random(1).choices(WORDS, k=60)), "note": "abc " * 4000}
    peaks = []
    for number in (500, 3000):
        with open(tmp_path / f"{number}.jsonl", "w") as file:
            file.writelines(json.dumps(row | {"id": i}) + "\n" for i in range(number))
        with PeakMemory(0.02) as memory:
            assert run(model, tmp_path / f"{number}.jsonl", tmp_path / f"{number}.csv") == 0
        peaks.append(memory.peak_bytes)
    assert (tmp_path / "3000.jsonl").stat().st_size > 48e6
    assert peaks[1] - peaks[0] < 24e6  # the memory of libraries still grows a little
