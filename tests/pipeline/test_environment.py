"""Every program goes on in .venv, from any Python, or says in one line why it cannot."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import environment
from pipeline.store.atomic_files import write_json
from tests.pipeline.test_install import bare_copy

PROJECT = Path(__file__).resolve().parent.parent.parent
BARE = [sys.executable, "-S"]  # finds no package
# What python3 is on older systems, where one is at hand.
SEVERAL = Path(sys.base_prefix).parent  # as pyenv has them
OLD = next(
    (
        path
        for version in ("3.8", "3.9", "3.7")
        for path in (
            *SEVERAL.glob(f"{version}.*/bin/python3"),
            *map(Path, filter(None, [shutil.which(f"python{version}")])),
        )
        if subprocess.run([path, "-c", ""], capture_output=True).returncode == 0
    ),
    None,
)
CONFIG = ("--config", "configs/quickstart.yaml")
ENVIRONMENT = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
# Exits with what this process sees, in place of the packages.
STAND_IN = """#!/bin/sh
exec {python} -c 'import json, os, sys; print(json.dumps([os.getcwd(), *sys.argv[1:]]))' "$@"
"""

PROGRAMS = {
    **{f"dataset/{name}.py": f"dataset.{name}" for name in ("process_data", "shard_data")},
    **{f"dataset/{name}.py": f"dataset.{name}" for name in ("merge_shards", "generate_samples")},
    "pretrain/run_pretraining.py": "pretrain.run_pretraining",
    "finetune/run_glue.py": "finetune.run_glue",
    "finetune/predict.py": "finetune.predict",
}
MODULES = (
    *PROGRAMS.values(),
    *("result_collection.report", "result_collection.submission", "configs.manual"),
    *(f"benchmarks.{name}" for name in ("preprocess", "pretrain", "finetune", "time_to_loss")),
    *(f"benchmarks.{name}" for name in ("predict", "score_intervals", "tasks")),
    *("benchmarks.frequency_baseline", "benchmarks.gpu_check"),
)


@pytest.fixture
def clone(tmp_path) -> Path:
    """The project as after the install stage, with a .venv that prints how it was called."""
    copy = bare_copy(tmp_path)
    make_environment(copy)
    return copy


def make_environment(copy: Path, script: str = STAND_IN.format(python=sys.executable)) -> Path:
    python = copy / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(script)
    python.chmod(0o755)
    record = {"requirements": environment.requirements_digest()}
    write_json(copy / ".venv" / "installed.json", record)
    return python


def run(command, cwd: Path, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=60, env=ENVIRONMENT, **options
    )


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_a_module_goes_on_in_the_environment_under_its_name(clone, module):
    words = ["a b", "--flag=$X", ""]
    done = run([*BARE, "-m", module, *words], clone)
    name = f"{module}.__main__" if module == "benchmarks.gpu_check" else module
    assert json.loads(done.stdout) == [str(clone), "-m", name, *words], done.stderr


@pytest.mark.parametrize("script", [*PROGRAMS, "main.py"])
def test_a_script_goes_on_in_the_environment_from_any_folder(clone, tmp_path, script):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.yaml").touch()
    words = ["--config", "x.yaml"]
    done = run([*BARE, f"../clone/{script}", *words], tmp_path / "other")
    found = json.loads(done.stdout)
    assert found == [str(tmp_path / "other"), f"../clone/{script}", *words], done.stderr


def test_every_program_of_the_packages_is_tried_here():
    packages = ("dataset", "pretrain", "finetune", "result_collection", "configs", "benchmarks")
    files = [file for package in packages for file in (PROJECT / package).rglob("*.py")]
    found = {
        ".".join(file.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__main__")
        for file in files
        if 'if __name__ == "__main__":' in file.read_text(encoding="utf-8")
    }
    # usual_finetuning is started by benchmarks.finetune alone, which is in .venv by then.
    assert found - {"benchmarks.usual_finetuning"} == set(MODULES)


def test_the_baseline_of_frequencies_says_what_it_expects(tmp_path):
    program = [sys.executable, "-m", "benchmarks.frequency_baseline"]
    done = run([*program, "--help"], PROJECT)
    assert done.returncode == 0 and "usage: python -m benchmarks.frequency_baseline" in done.stdout
    done = run([*program, str(tmp_path)], PROJECT)
    assert done.returncode == 2
    assert done.stderr.endswith(
        f"{tmp_path} is no folder of a finished dataset, expected data/<ID>\n"
    )


def test_imported_as_a_library_nothing_happens(clone):
    command = [
        sys.executable,
        "-c",
        "import dataset.process_data, finetune.search.job_folder; print('here')",
    ]
    assert "here" in run(command, clone).stdout


def test_packages_that_are_here_are_used_here(clone):
    done = run([sys.executable, "dataset/process_data.py", "--help"], clone)
    assert done.stdout.startswith("usage: process_data.py"), done.stderr


@pytest.mark.parametrize(
    "program", [["-m", "result_collection.report", "A"], ["finetune/run_glue.py"]]
)
def test_without_an_environment_a_line_says_what_makes_it(tmp_path, program):
    copy = bare_copy(tmp_path)
    done = run([*BARE, *program], copy)
    assert done.returncode == 3 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("missing packages: torch, ")
    assert f"`bash {copy}/install.sh` or `python3 {copy}/main.py --config YAML`" in line


def test_an_environment_that_has_lost_its_packages_is_not_entered_for_ever(tmp_path):
    copy = bare_copy(tmp_path)
    make_environment(copy, f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    done = run([*BARE, "-m", "result_collection.report", "A"], copy)
    assert done.returncode == 3
    assert f"EXTREMEBERT_REINSTALL=1 bash {copy}/install.sh" in done.stderr


@pytest.mark.parametrize("off", [("INSTALL.ENABLED", "False"), ("--stages", "dataset")])
def test_packages_lost_are_put_back_by_a_command_that_does_so(tmp_path, off):
    """`bash install.sh` alone would say "up to date"."""
    copy = bare_copy(tmp_path)
    make_environment(copy, f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    done = run([*BARE, "main.py", *CONFIG, *off], copy)
    assert done.returncode == 3
    assert f"run `EXTREMEBERT_REINSTALL=1 bash {copy}/install.sh` first" in done.stderr


@pytest.mark.parametrize(
    "program",
    [["main.py", *CONFIG], ["-m", "result_collection.report", "A"]],
    ids=["main", "other"],
)
def test_a_python_that_the_system_cannot_run_is_named_in_a_line(tmp_path, program):
    copy = bare_copy(tmp_path)
    python = make_environment(copy, "of another machine")
    done = run([*BARE, *program], copy)
    assert done.returncode == 3 and done.stdout == ""
    assert done.stderr == (
        f"{python} cannot be run (Exec format error); `bash {copy}/install.sh` makes "
        f"{copy}/.venv again\n"
    )


# --- a Python that is too old ------------------------------------------------------------------


def test_an_old_python_can_load_what_it_must():
    """All of it is compiled before the first line runs."""
    names = [PROJECT / module.replace(".", "/") for module in MODULES]
    files = [path / "__main__.py" if path.is_dir() else path.with_suffix(".py") for path in names]
    parts = dict.fromkeys(files, (3, 8))
    parts |= {PROJECT / "main.py": (3, 7), PROJECT / "pipeline/environment.py": (3, 7)}
    for file, version in parts.items():
        ast.parse(file.read_text(encoding="utf-8"), str(file), feature_version=version)


@pytest.mark.skipif(OLD is None, reason="needs a Python 3.7, 3.8 or 3.9")
@pytest.mark.parametrize(
    "program",
    [["main.py", *CONFIG], ["pretrain/run_pretraining.py"], ["-m", "result_collection.report"]],
)
def test_an_old_python_goes_on_in_the_environment_or_gets_a_sentence(tmp_path, program):
    copy = bare_copy(tmp_path)
    done = run([OLD, *program], copy)
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith("ExtremeBERT needs Python 3.10 or newer, this is 3.")
    assert len(done.stderr.splitlines()) == 1
    make_environment(copy)
    done = run([OLD, *program], copy)
    assert json.loads(done.stdout) == [str(copy), *program], done.stderr


# --- the dry run -------------------------------------------------------------------------------


def test_dry_run_says_what_would_run(tmp_path):
    done = run([*BARE, "main.py", *CONFIG, "--dry-run"], bare_copy(tmp_path))
    assert done.returncode == 0
    assert done.stdout.startswith("install: would run, missing packages: torch")


@pytest.mark.parametrize("off", [("INSTALL.ENABLED", "False"), ("--stages", "dataset")])
def test_dry_run_fails_as_the_run_would_where_the_install_stage_is_off(tmp_path, off):
    copy = bare_copy(tmp_path)
    planned = run([*BARE, "main.py", *CONFIG, *off, "--dry-run"], copy)
    done = run([*BARE, "main.py", *CONFIG, *off], copy)
    assert planned.returncode == done.returncode == 3
    assert planned.stderr == done.stderr and planned.stdout == done.stdout == ""
    assert f"run `bash {copy}/install.sh` first" in done.stderr


def test_status_says_that_the_install_stage_is_off(tmp_path):
    copy = bare_copy(tmp_path)
    done = run([*BARE, "main.py", *CONFIG, "--status"], copy)
    assert done.stdout.startswith("install: not begun, missing packages: torch")
    done = run([*BARE, "main.py", *CONFIG, "--status", "INSTALL.ENABLED", "False"], copy)
    assert done.stdout.startswith("install: switched off, missing packages: torch")
