"""Lines for people, the same in the log, and errors that keep their cause."""

import io
import os
import sys

import pytest

from pipeline import console as console_module
from pipeline.console import Console, duration, escape_unprintable, stage_console, table
from pipeline.errors import StageError


def test_lines_go_to_screen_and_log(tmp_path, capsys):
    console = Console("dataset", tmp_path / "a" / "b.log")
    console.say("one\ntwo")
    assert capsys.readouterr().out == "dataset: one\ndataset: two\n"
    assert [line[20:] for line in console.log.read_text().splitlines()] == ["one", "two"]


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_no_text_is_unprintable(tmp_path, monkeypatch, encoding):
    """Neither in another script, nor the name of a file that is not UTF-8."""
    screen = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", screen)
    console = Console("dataset", tmp_path / "x.log")
    console.say("سلام caf\udce9")
    shown = screen.buffer.getvalue().decode(encoding)
    salaam = "سلام" if encoding == "utf-8" else "\\u0633\\u0644\\u0627\\u0645"
    assert shown == f"dataset: {salaam} caf\\udce9\n"
    assert console.log.read_text(encoding="utf-8").endswith("سلام caf\\udce9\n")
    escape_unprintable()
    print("سلام", flush=True)


def test_a_reader_that_has_gone_ends_nothing(tmp_path, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as screen:
        monkeypatch.setattr(sys, "stdout", screen)
        console = Console("dataset", tmp_path / "x.log")
        console.say("one\ntwo")
        console.say("three")
    assert len(console.log.read_text().splitlines()) == 3


def test_plain_progress_tells_rate_and_rest(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(console_module, "PLAIN_LINE_SECONDS", 0.0)
    console = Console("pretrain", tmp_path / "x.log")
    with console.progress("training", 100, "steps") as progress:
        progress.update(40)  # resumed here: not counted into the rate
        progress.advance(10, "loss 3.2")
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("pretrain: training 50/100 steps")
    assert "steps/s" in line and "left" in line and line.endswith("loss 3.2")


def test_an_unexpected_error_becomes_one_line_with_the_log(tmp_path):
    log = tmp_path / "x.log"
    with pytest.raises(StageError) as caught, stage_console("dataset", log):
        raise ValueError("no such thing\nand more")
    assert caught.value.cause == "ValueError: no such thing"
    assert caught.value.log == log
    assert "Traceback" in log.read_text()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3, "3 s"), (720, "12 min"), (11100, "3 h 05 min"), (187200, "2 d 4 h")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_table_is_aligned():
    assert table([["task", "score"], ["CoLA", "0.5"]]) == "task  score\n----  -----\nCoLA  0.5"
