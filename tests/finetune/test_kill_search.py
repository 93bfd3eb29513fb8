"""A search that is killed ends as one that was left alone; more kills: kill_search.py."""

import signal
import time

import pytest

from tests.finetune import kill_search


@pytest.fixture
def heeds_hangups():
    """Also where these tests run under nohup, whose programs inherit that they ignore SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
@pytest.mark.usefixtures("heeds_hangups")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_search_leaves_no_worker(tmp_path, tiny_model, number):
    kill_search.write_config(tmp_path / "search.yaml", tiny_model, ("MNLI",))
    search = kill_search.Search(tmp_path / "search.yaml", tmp_path / "root")
    while not (workers := search.workers()):
        assert search.process.poll() is None, search.log.read_text()
        time.sleep(0.05)
    time.sleep(0.5)  # a worker that has not read yet what it is to do says so when it is ended
    search.process.send_signal(number)
    assert search.process.wait(20) == 130
    assert not any(map(kill_search.is_worker, workers))
    assert search.log.read_text().splitlines()[-1].startswith("interrupted; the same command")


@pytest.mark.slow
def test_a_killed_search_ends_with_the_same(tmp_path, tiny_model):
    said = []
    kill_search.compare(tmp_path, tiny_model, 1, 0, said.append, tasks=("MNLI", "RTE"))
    assert said[-1] == "the same, byte for byte" and any("kill 1: " in line for line in said)
