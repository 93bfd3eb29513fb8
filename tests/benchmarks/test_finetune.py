"""The benchmark runs both ways, and its numbers are what it says they are."""

import json
import subprocess
import sys

import pytest

from benchmarks.finetune import Done, Turn, _jobs, flops_per_token, jobs_per_hour, print_table
from benchmarks.harness import PROJECT
from finetune.data.demo_glue import write_demo_glue
from finetune.search.grid import Job
from tests.finetune.conftest import tiny_model  # noqa: F401, a fixture

JOB = Job("RTE", 3, 16, 5e-5, 42)


def _done(seconds: float, accuracy: float = 0.5) -> Done:
    return Done(JOB, seconds, training=seconds / 2, prediction=seconds / 4, accuracy=accuracy)


def _turn(wall: float, *seconds: float) -> Turn:
    return Turn(wall, [_done(one) for one in seconds])


def test_rounds_take_settings_in_turn():
    first, second = (list(_jobs("RTE", 3, number, 2)) for number in (0, 1))
    assert [job.learning_rate for job in first] == [5e-5, 8e-5]
    assert [job.learning_rate for job in second] == [8e-5, 3e-5]
    jobs = [job for number in range(8) for job in list(_jobs("RTE", 3, number, 1))]
    assert len(set(jobs)) == 8  # then with other seeds


def test_rates_are_of_a_mix_of_the_tasks():
    rte = {"usual": [_turn(10, 10), _turn(30, 30)], "ours": [_turn(8, 6, 8)]}
    mrpc = {"usual": [_turn(40, 40)], "ours": [_turn(12, 12, 9)]}
    assert jobs_per_hour([rte, mrpc]) == {"usual": 3600 / 30, "ours": 3600 / 5}


def test_the_table_compares_the_same_setting(capsys):
    ours = Turn(8.0, [_done(6, 0.8), _done(8, 0.1)])
    print_table("RTE", {"usual": [Turn(20.0, [_done(20, 0.7)])], "ours": [ours]})
    usual, ours = capsys.readouterr().out.splitlines()[-2:]
    assert usual.split() == ["usual", "1", "20.0", "10.0", "5.0", "5.0", "0.700", "180.0"]
    assert ours.split() == ["ours", "2", "4.0", "3.5", "1.8", "1.8", "0.800", "900.0"]


def test_products_of_a_layer(tmp_path):
    config = {"hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert flops_per_token(tmp_path) == 6 * 2 * (4 * 16 + 2 * 32)


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
    jobs = ours["jobs"]
    assert ours["wall"] >= max(job["seconds"] for job in jobs)
    assert usual["wall"] == usual["jobs"][0]["seconds"] > usual["jobs"][0]["training"] > 0
    assert all(job["training"] > 0 and job["prediction"] > 0 for job in jobs)
    assert numbers["rates"]["ours"] == pytest.approx(3600 * len(jobs) / ours["wall"])
    assert "times as many" in done.stdout and "GFLOP/s per process" in done.stdout
