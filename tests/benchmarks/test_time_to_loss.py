"""Contestants on the command line, figures of their curves, and a real contest."""

import json
import math
import subprocess
import sys
from argparse import ArgumentTypeError
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.contest import Standing, Training, hold_contest
from benchmarks.contest_results import Recipe, mean_curve, record, result_table, time_of
from benchmarks.harness import PROJECT
from benchmarks.sizes import Size
from benchmarks.time_to_loss import (
    HELD_OUT_KEYS,
    held_out_texts,
    load_recipe,
    parse_arguments,
    parse_contestant,
)

PAPER = "configs/recipes/paper.yaml"
FAST = "configs/recipes/fast.yaml"
REPORT = Standing(10, 400, 2e15, 60.0, 7.0, 0.1, False)


def test_a_goal_is_reached_on_the_line_between_two_points():
    points = [(0, 9.0), (60, 7.0), (120, 6.0)]
    assert time_of(7.0, points) == pytest.approx(60)
    assert time_of(6.5, points) == pytest.approx(90)
    assert time_of(9.5, points) == 0


def test_only_the_last_time_counts():
    assert time_of(6.5, [(0, 9.0), (60, 6.0), (120, 7.0), (180, 6.0)]) == pytest.approx(150)


def test_a_goal_that_was_missed():
    assert math.isinf(time_of(5.0, [(0, 9.0), (60, 6.0)]))


# --- contestants -----------------------------------------------------------------------------


def test_a_config_alone():
    assert parse_contestant(PAPER) == Recipe("paper", Path(PAPER), {})


def test_changed_keys_and_the_name_they_make():
    entry = parse_contestant(f"{PAPER}:PRETRAIN.BATCH_SIZE=32,PRETRAIN.LEARNING_RATE=2e-3")
    assert entry.name == "paper BATCH_SIZE=32 LEARNING_RATE=2e-3"
    assert entry.changes == {"PRETRAIN.BATCH_SIZE": "32", "PRETRAIN.LEARNING_RATE": "2e-3"}
    assert entry.folder == "paper_BATCH_SIZE=32_LEARNING_RATE=2e-3"


def test_a_name_and_values_with_commas():
    entry = parse_contestant(f"two marks={PAPER}:PRETRAIN.FINETUNE_TIME_MARKERS=[1,2],MODEL.GLU=1")
    assert (entry.name, entry.path) == ("two marks", Path(PAPER))
    assert entry.changes == {"PRETRAIN.FINETUNE_TIME_MARKERS": "[1,2]", "MODEL.GLU": "1"}


@pytest.mark.parametrize("word", [f"{PAPER}:MODEL.GLU", f"{PAPER}:", f"={PAPER}", ""])
def test_words_that_are_no_contestant(word):
    with pytest.raises(ArgumentTypeError, match=r"expected \[NAME=\]CONFIG"):
        parse_contestant(word)


@pytest.mark.parametrize("name", ["..", "../../up", "/etc", ".hidden"])
def test_a_name_stays_in_its_folder(name):
    folder = Recipe(name, Path(PAPER), {}).folder
    assert "/" not in folder and not folder.startswith(".")


@pytest.mark.parametrize("words", [[PAPER, PAPER], [f"a b={PAPER}", f"a/b={PAPER}"]])
def test_names_and_folders_are_unique(words, capsys):
    with pytest.raises(SystemExit):
        parse_arguments([*words, "--work_dir", "w"])
    assert "write NAME=CONFIG.yaml" in capsys.readouterr().err


def load(*words: str):
    args = parse_arguments([*words, "--text", "builtin:python-docs", "--work_dir", "w"])
    return load_recipe(args.contestants[0], args)


def test_size_sets_the_feed_forward_width_and_the_own_change_wins():
    assert Size(4, 256).feed_forward(gated=False) == 1024
    assert Size(12, 768).feed_forward(gated=True) == 2048
    gate = "MODEL.GLU=True"
    widths = [
        load(word, "--size", "2x256").MODEL.INTERMEDIATE_SIZE
        for word in (PAPER, f"{PAPER}:{gate}", f"{PAPER}:{gate},MODEL.INTERMEDIATE_SIZE=640")
    ]
    assert widths == [1024, 688, 640]


def test_all_are_measured_with_the_same_masks():
    falling = "DATASET.MASKED_LM_PROB_END=0.15"
    args = parse_arguments(
        [FAST, f"{FAST}:{falling}", "--text", "builtin:python-docs", "--work_dir", "w"]
    )
    constant, changed = (load_recipe(recipe, args) for recipe in args.contestants)
    assert (constant.DATASET.MASKED_LM_PROB_END, changed.DATASET.MASKED_LM_PROB_END) == (0, 0.15)
    held_out = [load_recipe(recipe, args, HELD_OUT_KEYS).DATASET for recipe in args.contestants]
    assert held_out[0] == held_out[1] and held_out[0].MASKED_LM_PROB == 0.15


def test_the_own_change_wins_over_what_is_set_for_all():
    set_for_all = ("--set", "PRETRAIN.BATCH_SIZE", "64")
    assert load(PAPER, *set_for_all).PRETRAIN.BATCH_SIZE == 64
    assert load(f"{PAPER}:PRETRAIN.BATCH_SIZE=32", *set_for_all).PRETRAIN.BATCH_SIZE == 32


def test_a_key_that_does_not_exist_is_named_with_its_contestant():
    with pytest.raises(SystemExit, match=r"(?s)paper BATCH=2:.*PRETRAIN\.BATCH"):
        load(f"{PAPER}:PRETRAIN.BATCH=2")


def test_held_out_articles_that_were_deleted(tmp_path):
    with pytest.raises(SystemExit, match=r"its texts are gone; delete .*made-of-books"):
        held_out_texts(tmp_path, "made-of-books")


# --- results ---------------------------------------------------------------------------------


def curve(*losses: float, finished: bool = True) -> list[Standing]:
    reports = [replace(REPORT, seconds=60.0 * n, loss=loss) for n, loss in enumerate(losses)]
    return [*reports[:-1], replace(reports[-1], finished=finished)]


def result(name: str, *curves: list[Standing], **ending) -> Recipe:
    trainings = [
        Training(f"{name}, seed {seed}", seed, (), Path("d"), 1, 1.0, curve)
        for seed, curve in enumerate(curves)
    ]
    vars(trainings[-1]).update(ending)
    return Recipe(name, Path(PAPER), {"A.B": "1"}, trainings, "same", 0.5)


def cells(results: list[Recipe]) -> tuple[list[str], list[list[str]]]:
    """The table's header, and its rows, by the columns' places."""
    header, line, *rows = result_table(results).splitlines()
    ends = [n for n, sign in enumerate(line) if sign == " " and line[n - 1] == "-"] + [None]
    begins = [0, *(end + 2 for end in ends[:-1])]
    spans = [slice(*span) for span in zip(begins, ends, strict=True)]
    return [header[s].strip() for s in spans], [[row[s].strip() for s in spans] for row in rows]


def test_the_mean_curve_joins_the_ends():
    short, long = curve(9.0, 7.0, 6.0), curve(9.0, 8.0, 7.0, 5.0)
    mean = mean_curve([short, long])
    assert [(report.seconds, report.loss) for report in mean] == [(0, 9), (60, 7.5), (150, 5.5)]
    assert mean[-1].finished and mean[-1].step == REPORT.step
    assert mean_curve([short]) == short and mean_curve([]) == []


def test_the_table_of_single_runs():
    header, rows = cells([result("a", curve(9.0, 7.0, 6.0)), result("b", curve(9.0, 6.0, 5.0))])
    assert header[:6] == ["recipe", "steps", "tokens", "PFLOP", "loss", "accuracy"]
    assert header[6:] == ["reaches a", "reaches b"]
    assert rows[0] == ["a", "10", "400", "2.00", "6.0000", "0.1000", "", "no"]
    assert rows[1][6:] == ["50.0 % (1.00 min)", ""]


def test_the_table_of_seeds():
    seeds = curve(9.0, 7.0, 6.0), curve(9.0, 6.0, 5.0)
    header, rows = cells([result("a", *seeds), result("b", curve(9.0, 5.5), curve(9.0, 5.5))])
    figures = dict(zip(header, rows[0], strict=True))
    assert (figures["seeds"], figures["loss"], figures["sd"]) == ("2", "5.5000", "0.7071")
    assert dict(zip(header, rows[1], strict=True))["reaches a"] == "50.0 % (1.00 min)"


def test_among_many_only_the_first_is_held_to():
    header, _ = cells([result(name, curve(9.0, 7.0)) for name in "abcdefg"])
    assert [name for name in header if "reaches" in name] == ["reaches a"]


def test_those_that_ended_early_show_their_last_report():
    broken = curve(9.0, 8.0, finished=False)
    lost = result("lost", broken, failure="the loss is nan", diverged=True)
    unlucky = result("unlucky", curve(9.0, 7.0), broken, failure="ended with exit code 2")
    dead = result("dead", [], failure="ended with exit code 2")
    header, rows = cells([lost, unlucky, dead])
    loss, ending = header.index("loss"), header.index("ending")
    assert [row[loss] for row in rows] == ["8.0000", "7.0000", ""]
    endings = ["diverged after 1.00 min", "1 of 2 failed", "1 of 1 failed"]
    assert [row[ending] for row in rows] == endings
    assert rows[1][header.index("seeds")] == "1" and "reaches lost" not in header


def test_what_is_kept():
    results = [result("a", curve(9.0, 7.0), curve(9.0, 6.0)), result("dead", [], failure="died")]
    kept = record(results)
    assert list(kept) == ["a, seed 0", "a, seed 1", "dead, seed 0"]
    one = kept["a, seed 1"]
    assert (one["recipe"], one["seed"], one["changes"]) == ("a", 1, {"A.B": "1"})
    assert [report["loss"] for report in one["reports"]] == [9.0, 6.0]
    assert kept["dead, seed 0"]["failure"] == "died"


# --- real contests ---------------------------------------------------------------------------


@pytest.mark.slow
def test_one_that_dies_is_named(tmp_path, capfd):
    (bad,) = hold_contest([Training("bad", 1, ("--no_such_flag",), tmp_path, 1, 1.0)])
    assert (bad.ending, bad.standings) == ("failed", [])
    assert "exit code 2" in bad.failure and "no_such_flag" in capfd.readouterr().err


@pytest.mark.slow
def test_a_contest(tmp_path):
    lines = [f"The {number} birds of hill {number % 7} sang a song." for number in range(200)]
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "birds.txt").write_text("\n\n".join(lines))
    command = [sys.executable, "-m", "benchmarks.time_to_loss", "configs/quickstart.yaml"]
    command += ["wild=configs/quickstart.yaml:PRETRAIN.LEARNING_RATE=1e9,PRETRAIN.PRECISION=fp32"]
    command += ["--text", str(tmp_path / "text"), "--work_dir", str(tmp_path / "work")]
    command += ["--minutes", "0.04", "--slice", "0.8", "--size", "1x64", "--at_once", "2"]
    command += ["--seeds", "7", "--samples", "8", "--set", "TOKENIZER.VOCAB_SIZE", "200"]
    for key in ("BATCH_SIZE", "MICRO_BATCH_SIZE"):
        command += ["--set", f"PRETRAIN.{key}", "8"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kept = json.loads((tmp_path / "work" / "contest.json").read_text())
    tame, wild = kept["quickstart, seed 7"], kept["wild, seed 7"]
    assert tame["reports"][-1]["finished"] and "--seed=7" in tame["flags"]
    assert tame["reports"][-1]["step"] > tame["reports"][0]["step"] == 0
    assert wild["ending"] == "diverged" and "diverged after" in done.stdout
    trained = tmp_path / "work" / "trained" / "quickstart" / "seed_7"
    assert (trained / "model" / "config.json").is_file()
    again = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert again.returncode == 1 and f"{trained} is from an earlier contest" in again.stderr
