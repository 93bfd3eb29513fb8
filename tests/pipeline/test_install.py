"""The install stage knows what is missing without importing it, and reads its flag without YAML."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import environment, install
from pipeline.errors import StageError
from pipeline.runtime.nvidia import read_system
from pipeline.store.atomic_files import write_json
from tests.other_run import other_run
from tests.pipeline.machines import A100, OLD_DRIVER, Machine, add_smi, gpu

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
    hidden = shutil.ignore_patterns(".*")
    in_root = shutil.ignore_patterns("data", "log", "output*", "saved_models", "tmp", "tests")

    def ignored(folder: str, names: list[str]) -> set[str]:  # finetune/data is a package
        return hidden(folder, names) | (in_root(folder, names) if folder == str(PROJECT) else set())

    shutil.copytree(PROJECT, copy, ignore=ignored)
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
    assert not environment.environment_is_ready()
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
    assert waits.startswith(f"install: waiting: {environment} is being made by process ")


# --- torch -------------------------------------------------------------------------------------

PASSWORD = "planted-0123456789"
# In place of pip: writes down how it was called, and what it was given to read.
FAKE_PIP = """\
import json, os, sys
if "install" in sys.argv:
    files = [text for word, text in zip(sys.argv, sys.argv[1:]) if word == "-r"]
    call = {"words": sys.argv[1:], "index": os.environ.get("PIP_INDEX_URL")}
    with open("calls", "a") as calls:
        print(json.dumps({**call, "files": [open(file).read() for file in files]}), file=calls)
    sys.exit(bool(call["index"]) and "unreachable" in os.environ.get("FAKE_PIP", ""))
"""
# In place of the Python of .venv: it has no packages, and says that all of them import.
WITHOUT_PACKAGES = """\
#!{bash}
if [ "$*" = "-m pipeline.install" ]; then exit 0; fi
exec {python} -S "$@"
"""


@pytest.fixture
def clone(tmp_path) -> Path:
    """The project with an empty .venv and a pip that does nothing, on a machine without cards."""
    copy = bare_copy(tmp_path)
    (copy / "pip").mkdir()
    (copy / "pip" / "__init__.py").write_text("__version__ = '25.0'")
    (copy / "pip" / "__main__.py").write_text(FAKE_PIP)
    python = copy / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(WITHOUT_PACKAGES.format(bash=shutil.which("bash"), python=sys.executable))
    python.chmod(0o755)
    with (copy / "pipeline" / "runtime" / "nvidia.py").open(
        "a"
    ) as code:  # /proc of this machine is not read
        code.write(f"\n\nread_system.__defaults__ = (Path({str(tmp_path / 'machine')!r}),)\n")
    return copy


def install_in(
    copy: Path, *words: str, **variables: str
) -> tuple[subprocess.CompletedProcess, list]:
    """Runs install.sh; returns its output and pip's calls."""
    done = subprocess.run(
        [shutil.which("bash"), "install.sh", *words],
        cwd=copy,
        env={"PATH": f"{copy.parent / 'bin'}:{os.environ['PATH']}", **variables},
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    return done, [json.loads(line) for line in (copy / "calls").read_text().splitlines()]


def test_without_cards_torch_comes_from_pypi(clone):
    done, (torch, rest) = install_in(clone, "requirements-dask.txt")
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("installing torch 2.13.0\ninstalling requirements.txt")
    assert torch["words"][-1] == "torch==2.13.0" and "--no-deps" in torch["words"]
    assert torch["index"] is rest["index"] is None
    pins, dask = rest["files"]
    assert pins == (clone / "requirements.txt").read_text().replace("torch==2.13.0\n", "")
    assert dask == (clone / "requirements-dask.txt").read_text()


def test_an_older_driver_gets_a_torch_for_its_cuda(clone):
    add_smi(clone.parent / "bin", "535.129.03", [A100])
    done, (torch, rest) = install_in(clone)
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == (
        "installing torch 2.13.0+cu126 from https://download.pytorch.org/whl/cu126, because "
        "driver 535.129.03 is too old for CUDA 13.0, which needs 580.65.06 or newer"
    )
    assert torch["words"][-1] == "torch==2.13.0+cu126"
    assert torch["index"] == "https://download.pytorch.org/whl/cu126"
    assert rest["index"] is None


def test_a_torch_that_cannot_be_loaded_leaves_the_usual_one(clone):
    add_smi(clone.parent / "bin", "535.129.03", [A100])
    done, (fitting, usual, _) = install_in(clone, FAKE_PIP="unreachable")
    assert done.returncode == 0
    assert done.stdout.splitlines()[1:3] == [
        "it cannot be downloaded (TORCH_INDEX_URL can name a mirror), so the usual one is taken",
        "installing torch 2.13.0, although driver 535.129.03 is too old for CUDA 13.0, which needs "
        "580.65.06 or newer",
    ]
    assert fitting["words"][-1] == "torch==2.13.0+cu126"
    assert (usual["words"][-1], usual["index"]) == ("torch==2.13.0", None)


def test_a_driver_that_is_too_old_for_all_still_trains_on_the_cpu(clone):
    add_smi(clone.parent / "bin", "470.82.01", [A100], knows_capability=False)
    done, (torch, _) = install_in(clone)
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == (
        "installing torch 2.13.0, although driver 470.82.01 is too old for CUDA 13.0, which needs "
        "580.65.06 or newer, so that only the CPU can be used: update driver 470.82.01 to "
        "525.60.13 or newer"
    )
    assert (torch["words"][-1], torch["index"]) == ("torch==2.13.0", None)


@pytest.mark.slow
def test_a_torch_that_is_asked_for_is_the_one(clone):
    """And the password of its index is passed on in the environment alone."""
    add_smi(clone.parent / "bin", "535.129.03", [A100])
    url = f"https://me:{PASSWORD}@wheels.example/whl/cu128?token={PASSWORD}"
    asked = {"TORCH_INDEX_URL": url, "TORCH_VERSION": "2.11.0"}
    done, (torch, rest) = install_in(clone, **asked)
    assert done.stdout.splitlines()[0] == (
        "installing torch 2.11.0 from https://wheels.example/whl/cu128, as TORCH_INDEX_URL asks"
    )
    assert (torch["words"][-1], torch["index"]) == ("torch==2.11.0", url)
    assert rest["index"] is None
    assert PASSWORD not in done.stdout + str(torch["words"]) + str(rest)
    done, calls = install_in(clone, **asked, FAKE_PIP="unreachable")
    assert done.returncode == 1 and len(calls) == 3  # no other one is put in its place
    assert done.stdout.splitlines()[-1].startswith("torch could not be installed; ")


def test_a_label_names_the_index(clone):
    _, (torch, _) = install_in(clone, TORCH_VERSION="2.12.1+cu126")
    assert torch["words"][-1] == "torch==2.12.1+cu126"
    assert torch["index"] == "https://download.pytorch.org/whl/cu126"


# --- what is recorded --------------------------------------------------------------------------


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Machine:
    """A faked machine, and a record of its own."""
    faked = Machine(tmp_path, monkeypatch)
    monkeypatch.setattr(install, "read_system", partial(read_system, tmp_path))
    for module in (install, environment):
        monkeypatch.setattr(module, "RECORD", tmp_path / "installed.json")
    for name in environment.TORCH_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(environment, "PYTHON", Path(sys.executable))
    monkeypatch.setattr(install, "pinned_requirements", lambda: {"torch": "2.13.0"})
    monkeypatch.setitem(sys.modules, "deepspeed", SimpleNamespace(__version__="0.19.8"))
    return faked


def recorded() -> dict:
    """What install.sh records at its end."""
    install._report()
    return json.loads(install.RECORD.read_text())


def test_gpus_that_cannot_be_used_leave_an_environment_for_the_cpu(machine, monkeypatch, capsys):
    """torch counts them, and raises when it is asked for more."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80"])
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: pytest.fail("CUDA is started"))
    cards = (gpu(0, "Tesla V100", (7, 0)), gpu(1), gpu(2))
    machine.has(*cards, driver="470.82.01", driver_error=OLD_DRIVER)
    found = recorded()
    problem = (
        "torch 2.13.0 for CUDA 13.0 cannot use Tesla V100 and NVIDIA A100-SXM4-80GB (driver "
        "470.82.01): The NVIDIA driver on your system is too old (found version "
        "12020); update driver 470.82.01 to 525.60.13 or newer, or train on the CPU "
        "(SYSTEM.NUM_GPUS: 0, or DS_ACCELERATOR=cpu without main.py)"
    )
    assert found == found | {
        "cuda": "13.0",
        "kernels": "sm_75 sm_80",
        "driver": "470.82.01",
        "gpus": "Tesla V100 (compute capability 7.0), "
        "2 x NVIDIA A100-SXM4-80GB (compute capability 8.0)",
        "not usable": problem,
    }
    assert capsys.readouterr().out.endswith(f"\nnot usable: {problem}\n")
    assert environment.environment_is_ready()


def test_gpus_that_can_be_used_are_named(machine):
    machine.has(gpu(0))
    found = recorded()
    assert found["gpus"] == "NVIDIA A100-SXM4-80GB (compute capability 8.0)"
    assert "not usable" not in found


def has_changed() -> bool:
    return install.has_changed(install.other_versions())


def test_an_environment_is_ready_for_the_torch_that_it_was_asked_for(machine, monkeypatch):
    recorded()
    assert environment.environment_is_ready() and not has_changed()
    monkeypatch.setenv("TORCH_INDEX_URL", f"https://me:{PASSWORD}@wheels.example/cu126")
    assert not environment.environment_is_ready() and has_changed()
    assert recorded()["asked"] == {"TORCH_INDEX_URL": "https://wheels.example/cu126"}
    assert environment.environment_is_ready() and not has_changed()
    monkeypatch.setenv("TORCH_VERSION", "2.11.0")
    assert not environment.environment_is_ready()


def test_another_release_that_was_installed_is_left_alone(tmp_path, monkeypatch):
    """A label does not count, and what has changed since is put right."""
    installed = {**environment.pinned_requirements(), "torch": "2.11.0+cu128"}
    monkeypatch.setattr(install.importlib.metadata, "version", installed.get)
    monkeypatch.setattr(environment, "RECORD", tmp_path / "installed.json")
    expected = {"torch": "torch 2.11.0 (tested with 2.13.0)"}
    assert install.other_versions() == expected and has_changed()
    write_json(environment.RECORD, {"torch": "2.11.0+cu128"})
    assert install.other_versions() == expected and not install.has_changed(
        install.other_versions()
    )
    installed["torch"] = "2.13.0+cu126"
    assert install.other_versions() == {} and not has_changed()
    installed["numpy"] = "1.0"
    assert has_changed()
