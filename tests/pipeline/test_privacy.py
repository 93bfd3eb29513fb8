"""Files for the user alone, and messages without secrets."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.console import Console, print_line, stage_console
from pipeline.errors import StageError
from pipeline.privacy import hidden, is_secret, private_files

PROJECT = Path(__file__).resolve().parents[2]
SECRET = "0123456789-secret"


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def usual_umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def token(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)


def test_files_of_this_process_and_its_children_are_private(tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o775)
    with private_files():
        (tmp_path / "shared" / "own").write_text("")
        (tmp_path / "folder").mkdir()
        code = "import sys; open(sys.argv[1], 'w')"
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "childs")], check=True)
    (tmp_path / "after").write_text("")
    assert mode(tmp_path / "shared" / "own") == mode(tmp_path / "childs") == 0o600
    assert mode(tmp_path / "folder") == 0o700
    assert mode(tmp_path / "shared") == 0o775  # the user's own: it stays as it is
    assert mode(tmp_path / "after") == 0o644


def test_a_decorated_function_leaves_the_umask_as_it_was(tmp_path):
    @private_files()
    def fail():
        (tmp_path / "file").write_text("")
        raise ValueError

    for _ in range(2):
        with pytest.raises(ValueError):
            fail()
    assert mode(tmp_path / "file") == 0o600
    assert os.umask(0o022) == 0o022


def test_a_crash_prints_no_secret(token):
    code = (
        "import os, sys; from pipeline.privacy import print_crash; sys.excepthook = print_crash; "
        "raise ValueError('the key is ' + os.environ['HF_TOKEN'])"
    )
    crashed = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True)
    assert crashed.returncode == 1 and b"Traceback" in crashed.stderr
    assert crashed.stderr.endswith(b"ValueError: the key is ***\n")


def test_secrets_are_told_by_their_names():
    for name in ("WANDB_API_KEY", "WANDB.API_KEY", "HF_TOKEN", "aws_secret", "PASSWORD"):
        assert is_secret(name)
    for name in ("PRETRAIN.NUM_TOKENS", "TOKENIZER", "KEYBOARD", "PATH"):
        assert not is_secret(name)


def test_what_libraries_quote_is_hidden(token, monkeypatch):
    assert (
        hidden(f"Illegal header value b'Bearer {SECRET}'") == "Illegal header value b'Bearer ***'"
    )
    assert hidden("cannot reach https://me:pass@word@host/a/b@c") == (
        "cannot reach https://***@host/a/b@c"
    )
    assert hidden("nothing to hide, tcp://server:8786") == "nothing to hide, tcp://server:8786"
    monkeypatch.setenv("HTTPS_PROXY", "http://me:long?password#x@proxy:3128")
    assert hidden("Invalid port: 'long?password#x'") == "Invalid port: '***'"


def test_short_values_are_words(monkeypatch):
    monkeypatch.setenv("USE_TOKEN", "on")
    monkeypatch.setenv("NO_TOKEN", "")
    assert hidden("one and only") == "one and only"


def test_of_two_secrets_the_longer_one_is_hidden_whole(token, monkeypatch):
    monkeypatch.setenv("OTHER_KEY", SECRET + "-and-more")
    assert hidden(f"{SECRET}-and-more, {SECRET}") == "***, ***"


def test_neither_console_nor_log_shows_them(token, tmp_path, capsys):
    print_line(f"the key is {SECRET}")
    print_line(f"the key is {SECRET}", sys.stderr)
    Console("pretrain", tmp_path / "a.log").say(f"the key is {SECRET}")
    with pytest.raises(StageError), stage_console("pretrain", tmp_path / "a.log") as console:
        console.note(f"the key is {SECRET}")
        raise ValueError(f"no such key: {SECRET}")
    shown = capsys.readouterr()
    assert SECRET not in shown.out + shown.err + (tmp_path / "a.log").read_text()
    assert "no such key: ***" in (tmp_path / "a.log").read_text()
