"""The benchmark of finetuning runs both ways and compares their rates."""

import json
import subprocess
import sys

import pytest

from benchmarks.finetune import Turn, _jobs, jobs_per_hour, print_table
from benchmarks.harness import PROJECT
from finetune.data.demo_glue import write_demo_glue
from tests.finetune.conftest import tiny_model  # noqa: F401, a fixture


def test_rounds_take_settings_in_turn():
    first, second = (list(_jobs("RTE", 3, number, 2)) for number in (0, 1))
    assert [job.learning_rate for job in first] == [5e-5, 8e-5]
    assert [job.learning_rate for job in second] == [8e-5, 3e-5]
    jobs = [job for number in range(8) for job in list(_jobs("RTE", 3, number, 1))]
    assert len(set(jobs)) == 8  # then with other seeds


def test_rates_are_of_a_mix_of_the_tasks():
    rte = {"usual": [Turn(1, 10, 0.5), Turn(1, 30, 0.5)], "ours": [Turn(2, 8, 0.5)]}
    mrpc = {"usual": [Turn(1, 40, 0.5)], "ours": [Turn(2, 12, 0.5)]}
    assert jobs_per_hour([rte, mrpc]) == {"usual": 3600 / 30, "ours": 3600 / 5}


def test_the_table_compares_both_ways(capsys):
    print_table("RTE", {"usual": [Turn(1, 20.0, 0.7)], "ours": [Turn(2, 8.0, 0.8)]})
    usual, ours = capsys.readouterr().out.splitlines()[-2:]
    assert usual.split() == ["usual", "1", "20.0", "180.0", "0.700"]
    assert ours.split() == ["ours", "2", "4.0", "900.0", "0.800"]


@pytest.mark.slow
def test_command_line(tiny_model, tmp_path):  # noqa: F811
    task = "WNLI"
    write_demo_glue(tmp_path / "glue")
    command = [sys.executable, "-m", "benchmarks.finetune", "--model", tiny_model]
    command += ["--tasks", task, "--epochs", "1", "--glue_dir", str(tmp_path / "glue")]
    command += ["--json", str(tmp_path / "numbers.json")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    (ours,), (usual,) = numbers[task]["ours"], numbers[task]["usual"]
    assert usual["num_jobs"] == 1 and usual["wall"] > 0 and 0 <= usual["accuracy"] <= 1
    assert numbers["rates"]["ours"] == pytest.approx(3600 * ours["num_jobs"] / ours["wall"])
    assert "times as many" in done.stdout
