"""One process makes a folder; others leave or wait, and learn for whom."""

import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.runtime.processes import this_process
from pipeline.store import ownership
from pipeline.store.ownership import (
    InUse,
    in_use,
    is_owned,
    lock_path,
    owned,
    owner,
    worked_on,
    worker_lock_path,
)

PROJECT = Path(__file__).resolve().parents[3]
OWN = """
import sys, time
from pathlib import Path
from pipeline.store import ownership
how, folder = getattr(ownership, sys.argv[1]), Path(sys.argv[2])
with how(folder, *map(int, sys.argv[3:]), print):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def another_process(how, folder, *number):
    """Has the folder until it is killed."""
    child = subprocess.Popen(
        [sys.executable, "-c", OWN, how, str(folder), *map(str, number)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "held\n"
    try:
        yield child
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()


@pytest.fixture(autouse=True)
def no_rest(monkeypatch):
    monkeypatch.setattr(ownership, "WAIT_SECONDS", 0.01)
    monkeypatch.setattr(ownership, "GLANCE_SECONDS", 0.001)


def test_the_second_one_learns_who_has_it_until_that_one_dies(tmp_path):
    folder, said = tmp_path / "run", []
    assert is_owned(folder) is False and owner(folder) == ""
    with another_process("owned", folder) as child:
        assert is_owned(folder)
        assert owner(folder).startswith(f"process {child.pid} on ")
        with pytest.raises(InUse, match=rf"being made by process {child.pid} on .* since "):
            owned(folder, said.append).__enter__()
        with pytest.raises(InUse, match=f"process {child.pid}"):
            in_use(folder, said.append).__enter__()
    assert is_owned(folder) is False  # killed
    with owned(folder, said.append):
        assert owner(folder).startswith(this_process())
    assert said == []


def test_one_that_waits_says_so_once_and_has_it_then(tmp_path):
    folder, said = tmp_path / "run", []

    def say(text):
        said.append(text)
        child.kill()

    with another_process("owned", folder) as child, owned(folder, say, wait=True):
        assert child.wait() == -signal.SIGKILL
    assert len(said) == 1
    assert said[0].startswith(f"waiting: {folder} is being made by process {child.pid} on ")


def test_what_others_build_on_is_not_made_anew(tmp_path):
    folder = tmp_path / "run"
    with owned(folder, print):
        pass
    with another_process("in_use", folder):
        assert is_owned(folder) is False  # it is not being made
        with in_use(folder, print):
            pass
        with pytest.raises(InUse, match="is being read by another run"):
            owned(folder, print).__enter__()
        assert is_owned(folder) is False
    with owned(folder, print):
        pass


@pytest.mark.parametrize("number", [0, 11])
def test_what_a_killed_owner_has_left_is_waited_for(tmp_path, number):
    """Also under another name of the folder, and without being asked to wait."""
    folder, said = tmp_path / "run", []
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)

    def say(text):
        assert owner(folder).startswith(this_process())  # not the one that was killed
        said.append(text)
        child.kill()

    with another_process("worked_on", tmp_path / "link", number) as child:
        assert is_owned(folder) is False  # it is not the owner
        with worked_on(folder, number + 1, say), owned(folder.with_name("run.2"), say):
            assert said == []  # neither another worker nor another folder is in the way
        with owned(folder, say):
            assert child.wait() == -signal.SIGKILL
    (line,) = said
    assert re.match(rf"waiting: {folder} is still being written by process {child.pid} on ", line)


def test_what_a_killed_owner_has_left_is_not_waited_for_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(ownership, "LEFTOVER_SECONDS", 0.03)
    folder, said = tmp_path / "run", []
    with another_process("worked_on", folder, 3) as child:
        for hold in (owned(folder, said.append), worked_on(folder, 3, said.append)):
            with pytest.raises(InUse, match=f"still being written by process {child.pid} on "):
                hold.__enter__()
    assert len(said) == 2
    with owned(folder, said.append), worked_on(folder, 3, said.append):
        assert is_owned(folder)
    assert len(said) == 2


def test_where_no_lock_can_be_made_a_worker_works_all_the_same(tmp_path, monkeypatch):
    """As in a folder that is mounted into a container, beside which nothing may be written."""

    def refuse(lock):
        raise PermissionError(errno.EACCES, "Permission denied", str(lock))

    monkeypatch.setattr(ownership, "_opened", refuse)
    said = []
    with worked_on(tmp_path / "run", 0, said.append):
        pass
    assert len(said) == 1 and ".run.lock.0 cannot be made (Permission denied)" in said[0]


def test_a_lock_lasts_as_long_as_the_children_that_inherit_it(tmp_path):
    """They live on if their parent is killed, here as the part of a script in brackets."""
    folder, number = tmp_path / "run", tmp_path / "number"
    code = (
        "import sys; from pathlib import Path; from pipeline.runtime import processes; "
        "from pipeline.store import ownership\n"
        "folder, log, script = sys.argv[1:]\n"
        "with ownership.owned(Path(folder), print) as lock:\n"
        "    processes.run_logged(['bash', '-c', script], Path(log), inherited=[lock])"
    )
    script = f"( echo $BASHPID > {number}.new; mv {number}.new {number}; sleep 60; true ); true"
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "log"), script]
    with subprocess.Popen(command, cwd=PROJECT) as parent:
        while not number.exists() and parent.poll() is None:
            time.sleep(0.01)
        parent.kill()
    assert is_owned(folder)
    os.killpg(os.getpgid(int(number.read_text())), signal.SIGKILL)
    with owned(folder, print, wait=True):
        assert owner(folder).startswith(this_process())


def test_an_owner_does_not_wait_for_the_workers_of_a_folder_whose_name_begins_alike(tmp_path):
    for folder in (tmp_path / "run.lock", tmp_path / "run.1", tmp_path / "[r]un"):
        with another_process("worked_on", folder, 1):
            with owned(tmp_path / "run", pytest.fail):
                pass
            assert worker_lock_path(folder, 1).exists()


def test_what_nobody_ever_had_can_be_read(tmp_path):
    with pytest.raises(FileNotFoundError), in_use(tmp_path / "run", print):
        raise FileNotFoundError  # of the work itself: it is not swallowed
    assert not any(tmp_path.iterdir())


def test_a_look_turns_nobody_away(tmp_path, monkeypatch):
    """The lock is held for an instant by `is_owned`."""
    folder = tmp_path / "run"
    lock_path(folder).touch()
    with open(lock_path(folder)) as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        monkeypatch.setattr(ownership.time, "sleep", lambda _: looking.close())
        with owned(folder, print):
            assert looking.closed


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told_and_used(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, "no such thing")

    folder, said = tmp_path / "run", []
    with worked_on(folder, 0, pytest.fail):
        pass
    monkeypatch.setattr(ownership.fcntl, "flock", refuse)
    with owned(folder, said.append):
        assert is_owned(folder) is None
        assert owner(folder).startswith(this_process())
    assert len(said) == 1 and "has no locks" in said[0] and str(folder) in said[0]


def test_a_lock_that_is_a_link_empties_no_file(tmp_path):
    """As one may be that came out of somebody else's archive."""
    (tmp_path / "letters.txt").write_text("years of letters")
    lock_path(tmp_path / "run").symlink_to(tmp_path / "letters.txt")
    with pytest.raises(OSError, match=r"\.run\.lock"), owned(tmp_path / "run", print):
        pass
    assert (tmp_path / "letters.txt").read_text() == "years of letters"
