"""The install stage knows what is missing without importing it, and reads its flag without YAML."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import environment, install
from pipeline.artifacts import write_json
from pipeline.errors import StageError
from tests.other_run import other_run

PROJECT = Path(__file__).resolve().parent.parent.parent


def test_nothing_is_missing_here():
    assert environment.missing_packages() == []
    assert "torch" in environment.pinned_requirements()


def test_main_imports_only_the_standard_library():
    """In a Python without site-packages main.py must load and answer."""
    command = [sys.executable, "-S", "-c", "import main; print('loaded')"]
    done = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, env={"PATH": os.environ["PATH"]}
    )
    assert done.stdout == "loaded\n", done.stderr


@pytest.mark.parametrize(
    ("text", "overrides", "off"),
    [
        ("SYSTEM:\n  NUM_GPUS: 1\n", [], False),
        ("INSTALL:\n  # why\n\n  ENABLED: False\n", [], True),
        ("INSTALL:\n  ENABLED: True\nDATASET:\n  ENABLED: False\n", [], False),
        ("INSTALL:\nDATASET:\n  ENABLED: False\n", [], False),
        ("INSTALL: {ENABLED: False}\n", [], True),
        ("", ["INSTALL.ENABLED", "False"], True),
        ('\ufeff"INSTALL":\n  "ENABLED": "no"\n', [], True),
        ("_BASE_: site.yaml\n", [], True),
        ("_BASE_: 'site.yaml'  # ours\nINSTALL: {}\n", [], True),
        ("_BASE_: site.yaml\nINSTALL: {ENABLED: True}\n", [], False),
        ("_BASE_: x.yaml\n", [], False),
        ("_BASE_: none.yaml\n", [], False),
    ],
)
def test_flag_is_read_without_yaml(tmp_path, text, overrides, off):
    (tmp_path / "site.yaml").write_text("INSTALL:\n  ENABLED: off\n")
    file = tmp_path / "x.yaml"
    file.write_text(text)
    assert install.switched_off_in(file, overrides) is off


def bare_copy(tmp_path: Path) -> Path:
    """The project without its environment, as after a clone."""
    copy = tmp_path / "clone"
    ignore = shutil.ignore_patterns(".*", "data", "log", "output*", "saved_models", "tmp", "tests")
    shutil.copytree(PROJECT, copy, ignore=ignore)
    return copy


def run_script(copy: Path, python: str, *tools: str) -> str:
    """The last line of install.sh, run with a stand-in for Python and only the named tools."""
    tool_dir = copy / "tools"
    tool_dir.mkdir()
    for tool in ("dirname", *tools):
        (tool_dir / tool).symlink_to(shutil.which(tool))
    (tool_dir / "python3").write_text(f"#!{shutil.which('bash')}\n{python}")
    (tool_dir / "python3").chmod(0o755)
    done = subprocess.run(
        [shutil.which("bash"), "install.sh"],
        cwd=copy,
        env={"PATH": str(tool_dir)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done
    return done.stdout.splitlines()[-1]


def test_an_old_python_gets_a_sentence(tmp_path):
    line = run_script(
        bare_copy(tmp_path), 'if [ "$1" = -V ]; then echo Python 3.6.9; else exit 1; fi'
    )
    assert "Python 3.10 or newer is needed" in line and "PYTHON=" in line


def test_no_venv_module_gets_a_sentence(tmp_path):
    line = run_script(bare_copy(tmp_path), 'case "$2" in *ensurepip*) exit 1;; esac')
    assert "apt-get install python3-venv" in line


def test_no_network_gets_a_sentence(tmp_path):
    copy = bare_copy(tmp_path)
    pip = (
        'mkdir -p .venv/bin; cp "$0" .venv/bin/python; '
        'case "$*" in *"pip install"*|*--check*) exit 1;; esac'
    )
    line = run_script(copy, pip, "mkdir", "cp")
    assert "PIP_FIND_LINKS=wheels" in line
    assert not install.RECORD.is_relative_to(copy)


def test_no_place_for_the_log_gets_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(install, "ENVIRONMENT", tmp_path / ".venv")
    (tmp_path / "log").write_text("a file")
    with pytest.raises(StageError, match=r"install.sh cannot be run: .*log") as failure:
        install.run_install_script(tmp_path / "log" / "install.log", again=True)
    assert failure.value.stage == "install"


def test_an_environment_without_its_python_is_not_ready(tmp_path, monkeypatch):
    """As after an update of the system, which took away what it is a link to."""
    monkeypatch.setattr(environment, "RECORD", tmp_path / "installed.json")
    monkeypatch.setattr(environment, "PYTHON", tmp_path / "python")
    write_json(environment.RECORD, {"requirements": environment.requirements_digest()})
    environment.PYTHON.symlink_to(tmp_path / "python3.9")
    assert not environment.environment_is_ready() and not environment.locked_out()
    (tmp_path / "python3.9").touch(0o755)
    assert environment.environment_is_ready()


def test_what_an_environment_has_lost_is_installed_again_once(tmp_path):
    """Here in vain: it says that install.sh ran only after it did, and does not try for ever."""
    copy = bare_copy(tmp_path)
    (copy / "install.sh").write_text("echo nothing to do")
    python = copy / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!{shutil.which("bash")}\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    write_json(copy / ".venv/installed.json", {"requirements": environment.requirements_digest()})
    command = [sys.executable, "-S", "main.py", "--config", "configs/quickstart.yaml"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert "install: nothing to do" in done.stdout
    assert done.stderr.startswith("install failed: install.sh ran, still missing: torch")
    assert (copy / "log" / "install.log").exists()


def test_dry_run_on_a_bare_python_says_what_is_missing(tmp_path):
    """Without site-packages nothing is installed in a dry run, and nothing is written."""
    copy = bare_copy(tmp_path)
    before = sorted(path for path in copy.rglob("*") if "__pycache__" not in path.parts)
    done = subprocess.run(
        [sys.executable, "-S", "main.py", "--config", "configs/quickstart.yaml", "--dry-run"],
        cwd=copy,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert "missing packages: torch" in done.stdout
    assert before == sorted(path for path in copy.rglob("*") if "__pycache__" not in path.parts)


def test_switched_off_install_with_missing_packages_fails(tmp_path):
    copy = bare_copy(tmp_path)
    command = [sys.executable, "-S", "main.py", "--config", "configs/quickstart.yaml"]
    command += ["INSTALL.ENABLED", "False"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 3
    assert "install.sh" in done.stderr


def test_two_commands_do_not_make_the_environment_together(tmp_path, monkeypatch, capsys):
    """The second one waits, and finds it made."""
    environment = tmp_path / ".venv"
    monkeypatch.setattr(install, "ENVIRONMENT", environment)
    monkeypatch.setattr(install, "environment_is_ready", (environment / "ready").exists)
    monkeypatch.setattr(install, "run_logged", lambda *_, **__: pytest.fail("it is made twice"))

    def make():
        environment.mkdir()
        (environment / "ready").touch()

    with other_run(environment, monkeypatch, make):
        install.run_install_script(tmp_path / "install.log")
    waits = capsys.readouterr().out
    assert waits.startswith(f"install: waits, as {environment} is being made by process ")
