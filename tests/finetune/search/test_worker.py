"""What a worker does with the log of a job."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from finetune.search import worker


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A job that says something and prints something."""

    def do(run, log):
        log("naïve \udc80")
        print("of a library")
        return {"score": 1.0}

    monkeypatch.setattr(worker, "_run_job", do)
    return SimpleNamespace(log=tmp_path / "logs" / "job.log")


def test_the_log_has_all_attempts(run):
    assert [worker.run_job(run) for _ in range(2)] == [{"score": 1.0}] * 2
    first, said, printed, second, *_ = run.log.read_text(encoding="utf-8").splitlines()
    assert first.startswith("attempt 1, ") and second.startswith("attempt 2, ")
    assert (said, printed) == ("naïve \\udc80", "of a library")


def test_a_log_that_takes_no_more_ends_no_job(run, monkeypatch):
    run.log = Path("/dev/full")
    monkeypatch.setattr(worker, "_num_attempts", lambda log: 0)  # it reads as zeros without end
    assert worker.run_job(run) == {"score": 1.0}
