"""The task contest: its arguments, records, our configs, table, and a small real contest."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.harness import PROJECT
from benchmarks.task_contest import (
    OURS,
    USUAL,
    Entry,
    Record,
    enter,
    our_config,
    read_records,
    runs_of,
    search_config,
    timed,
    write_records,
)
from benchmarks.task_data import TASKS, read_rows, write_rows
from benchmarks.tasks import earlier_records, notes, parse_arguments, result_table
from benchmarks.usual_tasks import Run
from tests.benchmarks.test_usual_tasks import SETTINGS
from tests.finetune.conftest import tiny_model  # noqa: F401, a fixture

SCI_CITE, GOEMOTIONS, LITBANK = TASKS["sci_cite"], TASKS["goemotions"], TASKS["litbank"]
ROWS = [("the cat sat", "background"), ("a dog ran", "method"), ("it is so", "result")]


@pytest.fixture
def data(tmp_path) -> Path:
    for file in SCI_CITE.files.values():
        write_rows(SCI_CITE, ROWS * 4, tmp_path / "data" / file)
    return tmp_path / "data"


@pytest.fixture
def entry(data, tmp_path) -> Entry:
    (tmp_path / "checkpoint").mkdir()
    return enter(SCI_CITE, tmp_path / "checkpoint", data, tmp_path, SETTINGS)


def record(entry: Entry, way: str, seed: int, score: float, wall: float = 36.0) -> Record:
    dev = {entry.task.metric: score}
    run = Run(seed, dev, {}, seconds=1.0, rows=100, tokens=900, steps=7)
    return Record(way, entry.task.name, entry.identity, run, wall)


# --- entries and records ----------------------------------------------------------------------


def test_some_rows_are_written_for_both_ways(data, tmp_path):
    entry = enter(SCI_CITE, data, data, tmp_path, SETTINGS, num_rows=2)
    assert read_rows(SCI_CITE, entry.files["train"]) == [ROWS[0], ROWS[0]]
    assert list(entry.labels) == ["background", "method", "result"]  # of the whole file
    assert our_config(entry)["LABELS"] == list(entry.labels)
    assert our_config(entry)["TRAIN"] == str(entry.files["train"])


def test_a_missing_file_is_named(data, tmp_path):
    (data / SCI_CITE.dev).unlink()
    with pytest.raises(SystemExit, match=r"dev\.jsonl: there is no such file"):
        enter(SCI_CITE, data, data, tmp_path, SETTINGS)


def test_other_settings_data_or_models_are_other_runs(entry, data, tmp_path):
    def identity(settings=SETTINGS) -> str:
        return enter(SCI_CITE, entry.model, data, tmp_path, settings).identity

    assert identity() == entry.identity
    identities = {entry.identity, identity(replace(SETTINGS, epochs=2))}
    write_rows(SCI_CITE, ROWS, data / SCI_CITE.dev)
    identities.add(identity())
    (entry.model / "model.safetensors").write_text("other weights")
    identities.add(identity())
    assert len(identities) == 4
    assert runs_of(replace(entry, identity=""), USUAL, [record(entry, USUAL, 1, 0.5)]) == {}


def test_records_are_read_as_written(entry, tmp_path):
    records = [record(entry, USUAL, 1, 0.5), record(entry, OURS, 2, 0.25)]
    write_records(tmp_path / "runs.jsonl", records)
    assert read_records(tmp_path / "runs.jsonl") == records
    assert runs_of(entry, OURS, records) == {2: records[1]}
    assert read_records(tmp_path / "nothing.jsonl") == []


def test_finished_runs_need_resume(entry, tmp_path):
    words = ["--model", "m", "--work_dir", str(tmp_path)]
    assert earlier_records(parse_arguments(words)) == []
    records = [record(entry, USUAL, 1, 0.5)]
    write_records(tmp_path / "runs.jsonl", records)
    with pytest.raises(SystemExit, match="has runs; add --resume"):
        earlier_records(parse_arguments(words))
    assert earlier_records(parse_arguments([*words, "--resume"])) == records


def test_a_seed_given_twice_is_an_error(tmp_path):
    with pytest.raises(SystemExit):
        parse_arguments(["--model", "m", "--work_dir", str(tmp_path), "--seeds", "1", "1"])


# --- our search -------------------------------------------------------------------------------


def test_our_config_of_a_classification_is_valid(entry, tmp_path):
    from configs.loading import load_config

    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(search_config(entry, [4, 5])))
    config = load_config(path, [], ["finetune"])
    assert config.FINETUNE.SEEDS == [4, 5]
    assert config.FINETUNE.GRID.DEFAULT.LEARNING_RATES == [SETTINGS.learning_rate]
    assert config.FINETUNE.CUSTOM_TASKS.sci_cite.METRICS == ["f1_macro"]


def test_our_configs_of_the_other_kinds(entry):
    names = Path("/labels.txt")
    labels = our_config(replace(entry, task=GOEMOTIONS, labels_file=names))
    assert (labels["TYPE"], labels["LABELS_FILE"]) == ("multi_label", str(names))
    tags = our_config(replace(entry, task=LITBANK))
    assert (tags["TYPE"], tags["TAG_COLUMN"]) == ("token_classification", 2)


def test_time_before_an_interruption_counts(tmp_path):
    (tmp_path / "clock.json").write_text('{"seconds": 100.0, "starts": 1}')
    seconds, starts = timed([sys.executable, "-c", ""], tmp_path)
    assert 100 < seconds < 150 and starts == 2
    with pytest.raises(SystemExit, match="our search failed: no rows"):
        timed([sys.executable, "-c", "raise SystemExit('no rows')"], tmp_path)
    assert json.loads((tmp_path / "clock.json").read_text())["starts"] == 3


# --- report -----------------------------------------------------------------------------------


def test_the_table_compares_both_ways(entry):
    runs = [record(entry, USUAL, seed, score) for seed, score in ((1, 0.5), (2, 0.6))]
    runs += [record(entry, OURS, seed, score, 9.0) for seed, score in ((1, 0.6), (2, 0.7))]
    row = result_table([entry], runs).splitlines()[-1]
    assert row.split("  ")[0] == "sci_cite"
    for cell in ("f1_macro", "55.0 ± 7.1", "65.0 ± 7.1", "+1.4 sd", "100.00", "400.00", "4.00"):
        assert cell in row


def test_the_table_of_one_way(entry):
    row = result_table([entry], [record(entry, USUAL, 1, 0.5)]).splitlines()[-1]
    assert row.split() == ["sci_cite", "f1_macro", "50.0", "100.00"]


def test_notes_name_unequal_work_and_lost_time(entry):
    usual, ours = record(entry, USUAL, 1, 0.5), record(entry, OURS, 1, 0.5)
    assert list(notes(entry, {USUAL: [usual], OURS: [ours]})) == []
    dev = {"entity_f1": 0.5, "entity_f1_seen": 0.6, "unseen_words": 0.125}
    cut = replace(usual, run=replace(usual.run, dev=dev))
    less = replace(ours, run=replace(ours.run, rows=98), starts=2)
    rows, starts, unseen = notes(entry, {USUAL: [cut], OURS: [less]})
    assert rows == "trained on 100 rows in the usual way, 98 in ours"
    assert "started 2 times" in starts
    assert unseen.startswith("12.5% of the dev words are cut off") and "60.0" in unseen


@pytest.mark.slow
def test_command_line(tiny_model, data, tmp_path):  # noqa: F811
    command = [sys.executable, "-m", "benchmarks.tasks", "--model", tiny_model, "--epochs", "1"]
    command += ["--tasks", "sci_cite", "--rows", "9", "--max_seq_length", "16"]
    command += ["--data", str(data), "--work_dir", str(tmp_path / "work"), "--seeds"]

    def run(*words: str) -> list[str]:
        done = subprocess.run([*command, *words], cwd=PROJECT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()

    first = run("1", "2")
    news = [line.split(":")[0] for line in first[:4]]
    order = ["seed 1, usual", "seed 1, ours", "seed 2, ours", "seed 2, usual"]
    assert news == [f"sci_cite, {turn}" for turn in order]
    records = read_records(tmp_path / "work" / "runs.jsonl")
    work = {(one.run.rows, one.run.tokens, one.run.steps) for one in records}
    assert len(records) == 4 and len(work) == 1  # both ways train on the same
    assert run("1", "2", "--resume") == first[4:]  # the same table, without a run
