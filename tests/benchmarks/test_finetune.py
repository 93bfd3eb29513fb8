"""The benchmark runs both ways, and its numbers are what it says they are."""

import json
import subprocess
import sys

import pytest

from benchmarks.finetune import Done, _jobs, _rates, flops_per_token, report
from benchmarks.stage_runs import PROJECT
from finetune.data.demo_glue import write_demo_glue
from finetune.search.grid import Job
from tests.finetune.conftest import tiny_model  # noqa: F401, a fixture

JOB = Job("RTE", 3, 16, 5e-5, 42)


def _done(seconds: float, accuracy: float = 0.5) -> Done:
    return Done(JOB, seconds, training=seconds / 2, prediction=seconds / 4, accuracy=accuracy)


def test_rounds_take_settings_in_turn():
    first, second = (list(_jobs("RTE", 3, number, 2)) for number in (0, 1))
    assert [job.learning_rate for job in first] == [5e-5, 8e-5]
    assert [job.learning_rate for job in second] == [8e-5, 3e-5]
    jobs = [job for number in range(8) for job in list(_jobs("RTE", 3, number, 1))]
    assert len(set(jobs)) == 8  # then with other seeds


def test_rates_are_of_a_mix_of_the_tasks():
    usual = {"RTE": [_done(10), _done(30)], "MRPC": [_done(40)]}
    ours = {"RTE": [(8.0, [_done(6), _done(8)])], "MRPC": [(12.0, [_done(12), _done(9)])]}
    assert _rates(usual, ours) == {"usual": 3600 / 30, "ours": 3600 / 5}


def test_report_compares_the_same_setting(capsys):
    report("RTE", [_done(20, 0.7)], [(8.0, [_done(6, 0.8), _done(8, 0.1)])])
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
    ((wall, turn),) = numbers[task]["ours"]
    (usual,) = numbers[task]["usual"]
    assert wall >= max(one["seconds"] for one in turn) and usual["seconds"] > usual["training"] > 0
    assert all(one["training"] > 0 and one["prediction"] > 0 for one in turn)
    assert numbers["rates"]["ours"] == pytest.approx(3600 * len(turn) / wall)
    assert "times as many" in done.stdout and "GFLOP/s per process" in done.stdout
