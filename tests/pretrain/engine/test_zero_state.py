"""A state goes from any ZeRO stage to any other, on one rank and on several, without a trace."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.engine.ports import free_port

PROJECT = Path(__file__).resolve().parents[3]
MODULE = "tests.pretrain.engine_state_ranks"


def _results(num_ranks, *words):
    command = [sys.executable, "-m", MODULE, *words]
    if num_ranks > 1:
        command = [
            *(sys.executable, "-m", "deepspeed.launcher.runner", "--log_level", "error"),
            *("--num_gpus", str(num_ranks), "--master_port", str(free_port())),
            *("--module", MODULE, *words),
        ]
    done = subprocess.run(
        command,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"')]
    assert lines, done.stderr[-2000:]
    return json.loads(lines[-1])


@pytest.mark.parametrize(
    ("num_ranks", "precision", "stages"),
    [(2, "fp32", "0123"), (1, "fp16", "123"), (2, "bf16", "1")],
)
def test_training_goes_on_exactly_whatever_the_stage(num_ranks, precision, stages):
    results = _results(num_ranks, precision, *stages)
    assert len(results) == len(stages) + len(stages) ** 2
    assert len({tuple(losses) for losses in results.values()}) == 1, results
