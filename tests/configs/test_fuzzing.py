"""Random and mutated configs: what main.py promises of every one of them."""

import subprocess
import sys

import pytest

from tests.configs.config_cases import CONFIG, KINDS, PROJECT, Case, make_case
from tests.configs.fuzz_configs import Broken, check, fuzz, sandbox

NUM_CASES = 20 * len(KINDS)  # longer: python -m tests.configs.fuzz_configs


@pytest.mark.slow
def test_no_config_breaks_a_promise(tmp_path):
    counts = fuzz(range(NUM_CASES), seed=0, top=tmp_path / "top")
    assert counts.total() == NUM_CASES
    assert {code for _, code in counts} == {0, 2}


def test_a_case_follows_from_its_numbers():
    numbers = range(2 * len(KINDS))
    cases = [make_case(7, number) for number in numbers]
    assert cases == [make_case(7, number) for number in numbers]
    assert {kind for kind, _ in cases} == {kind.__name__ for kind in KINDS}


def test_a_process_of_its_own_ends_like_that(tmp_path):
    number = [kind.__name__ for kind in KINDS].index("mutated_bytes")
    _, case = make_case(0, number)
    (tmp_path / CONFIG).write_bytes(case.files[CONFIG])
    done = subprocess.run(
        [sys.executable, PROJECT / "main.py", "--config", CONFIG],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and str(tmp_path) in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == [CONFIG]


@pytest.mark.parametrize(
    ("main", "complaint"),
    [
        (lambda words: open("new", "w").close() or 0, "files were changed"),
        (lambda words: 1 / 0, "ZeroDivisionError"),
        (lambda words: 3, "exit code 3"),
        (lambda words: 2, "exit code 2 with the message ''"),
        (lambda words: print("?", file=sys.stderr) or 2, "names neither file nor key"),
        (lambda words: sys.exit(1), "exit code 1"),
    ],
)
def test_a_broken_promise_is_seen(tmp_path, monkeypatch, main, complaint):
    monkeypatch.setattr("main.main", main)
    with sandbox(tmp_path / "top"), pytest.raises(Broken, match=complaint):
        check(Case({CONFIG: b""}))
