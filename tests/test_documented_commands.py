"""Every command of README.md, docs/*.md and docs/lab/*.md works as it is written.

The code of each page is run by bash, from top to bottom, in a copy of the repository that has a
.venv, with a python3 that has no packages. What takes long is not started: a stand-in records the
words that bash makes of it, and they are parsed by the program that they are for. A command that
nothing here knows is an error.
"""

import gzip
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import yaml

import main
from configs.loading import load_config
from pipeline import environment
from pipeline.errors import ConfigError
from tests.pipeline.test_install import bare_copy
from tests.result_collection.finished_search import OWN_TASK, make_finished_search

PROJECT = Path(__file__).resolve().parent.parent
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]
SYSTEM_PYTHON = f'#!/bin/sh\nexec {sys._base_executable} -S "$@"\n'

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?<=\n\n)((?:    .*\n)+)")
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
SHELLS = ("bash", "sh")
# Words that begin a command.
TOOLS = (
    *("python", "python3", "pip", "bash", "source", "deepspeed", "dask", "chmod", "for", "mkdir"),
    *("awk", "sed", "zcat", "tr", "iconv", "file", "split", "git", "docker", "export", "cp", "rm"),
)
COMMAND = re.compile(rf"(?:[A-Z_]+=\S* )*(?:\.venv/bin/\w+|(?:{'|'.join(TOOLS)}))(?= \S)|[A-Z]+=")
# What else stands in indented lines and in fences without a language.
LISTINGS = ("CoLA.tsv ", "# hosts\n", "main.py  ", "mine: at most ")
PLACEHOLDERS = {"<ID>": "mine", "FILE.zip|FOLDER": "FILE.zip"}

# Not started: what takes long, or changes the machine.
RECORDED = ("deepspeed", "bash", "dask", "hf", "pip", "python", "python3")
RECORDER = """#!/bin/bash -p
exec >> "$RECORD"
flock 1  # some commands run in the background
printf '%s\\0' "$(basename "$0")" "$@"
printf '\\n\\0'
"""
# Started as they are: they take a second or two. The FORMATS page is run as a whole.
STARTED = ("result_collection.", "configs.manual", "dataset/")


# --- what is documented ------------------------------------------------------------------------


def shell_code(page: Path) -> str:
    """All commands of a page in their order, of blocks and of sentences."""
    text = page.read_text(encoding="utf-8")
    code = {
        found.start(): textwrap.dedent(found[3])
        for found in FENCE.finditer(text)
        if found[2] in ("", *SHELLS) and is_shell(found[3], found[2])
    }
    rest = FENCE.sub(lambda fence: "\n" * len(fence[0]), text)
    code |= {
        found.start(): textwrap.dedent(found[1])
        for found in INDENTED.finditer(rest)
        if is_shell(found[1])
    }
    spans = {found.start(): " ".join(found[1].split()) for found in SPAN.finditer(rest)}
    code |= {start: span for start, span in spans.items() if COMMAND.match(span)}
    joined = "\n".join(code[start] for start in sorted(code))
    for placeholder, word in PLACEHOLDERS.items():
        joined = joined.replace(placeholder, word)
    return joined


def is_shell(block: str, language: str = "") -> bool:
    """False for what is known to be something else; fails for what nobody knows."""
    lines = textwrap.dedent(block).strip("\n")
    if "[KEY VALUE ...]" in lines:  # the list of options
        return False
    if language in SHELLS or any(COMMAND.match(line) for line in lines.splitlines()):
        return True
    is_config = re.match(r"[A-Z]+:\n", lines) and isinstance(yaml.safe_load(lines), dict)
    assert is_config or lines.startswith(LISTINGS), f"neither commands nor a listing:\n{lines}"
    return False


# --- running it --------------------------------------------------------------------------------


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """The repository after its install stage, with what the commands are about."""
    if not environment.environment_is_ready():
        pytest.skip("the tests do not run in .venv, which is not there")
    copy = bare_copy(tmp_path_factory.mktemp("documented"))
    shutil.copytree(PROJECT / "tests", copy / "tests", ignore=shutil.ignore_patterns(".*"))
    (copy / ".venv").symlink_to(environment.ENVIRONMENT.resolve())
    write_program(copy / "system" / "python3", SYSTEM_PYTHON)
    write_program(copy / "system" / "python", "#!/bin/sh\nexit 127\n")  # many systems have none
    (copy / "texts").mkdir()
    for name in ("x", "my-bert"):  # a user's own
        config = "_BASE_: configs/bert-customized.yaml\nDATASET: {CUSTOMIZED_DATASETS: [texts]}\n"
        (copy / f"{name}.yaml").write_text(config)
    for page in PAGES:  # the data that our figures are of
        for name in re.findall(r"\.\./shared/[\w/]+\b(?!\.)", page.read_text(encoding="utf-8")):
            (copy / name).mkdir(parents=True, exist_ok=True)
    (copy / "hosts").write_text("server1 slots=8\nserver2 slots=8\n")
    (copy / "output_test_translated" / "finetune" / "mine").mkdir(parents=True)
    (copy / "FILE.zip").write_bytes(b"no zip")
    write_results(copy)
    return copy


def write_results(copy: Path) -> None:
    """Two results folders, A and B."""
    from result_collection.stage import collect_test_result
    from tests.plans import result_artifact

    config = make_finished_search(copy / "search", [OWN_TASK], (1,), (3,), external=True)
    collect_test_result(config)
    for name in "AB":
        shutil.copytree(result_artifact(config).directory, copy / name)


def run_in(copy: Path, script: str, path: Path, **variables: str) -> subprocess.CompletedProcess:
    """Runs shell code with these programs before those of the system."""
    search = f"{path}:/usr/bin:/bin"
    return subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", script],
        cwd=copy,
        env={"PATH": search, "LANG": "C.UTF-8", "HOME": str(copy), **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )


def recorded(copy: Path, script: str) -> list[list[str]]:
    """The commands that bash makes of the code, as words; only harmless ones are started."""
    folder, record = copy / "recorders", copy / "record"
    for name in RECORDED:
        write_program(folder / name, RECORDER)
    record.write_text("")
    # `source` is a word of bash's own, and finds install.sh; .venv's programs have paths.
    script = 'source() { command bash source "$@"; }\n' + script.replace(".venv/bin/", "")
    done = run_in(copy, f"{script}\nwait", folder, RECORD=str(record))
    assert done.returncode == 0, done.stderr
    commands = record.read_text().removesuffix("\0\n\0").split("\0\n\0")
    return [command.split("\0") for command in commands if command]


# --- parsing it --------------------------------------------------------------------------------


def check_main(words: list[str]) -> None:
    options = main.parse_arguments(words)
    load_config(options.config, options.overrides, options.stages)


def check_module(name: str) -> Callable[[list[str]], None]:
    """For programs that have a parse_arguments of their own."""

    def check(words: list[str]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [name, *words])
            found = import_module(name).parse_arguments()
        for entry in getattr(found, "contestants", ()):  # configs of the contest
            pairs = [word for pair in entry.changes.items() for word in pair]
            load_config(entry.path, pairs, stages=("pretrain",))

    return check


def check_training(words: list[str]) -> None:
    from pretrain.flags import parse_flags

    parse_flags(words)


def check_run_glue(words: list[str]) -> None:
    from finetune.run_glue import build_parser

    build_parser().parse_args(words)


def check_predict(words: list[str]) -> None:
    from finetune.predict import build_parser

    build_parser().parse_args(words)


def check_tests(words: list[str]) -> None:
    """What follows --chaos is for that program; the docs use --fast alone."""
    from tests.chaos.__main__ import build_parser

    if words and words != ["--fast"]:
        assert words[0] == "--chaos"
        build_parser().parse_args(words[1:])


def check_requirements(words: list[str]) -> None:
    assert all(Path(word).is_file() for word in words if word != "-r"), words


def check_download(words: list[str]) -> None:
    """pip's own parser says whether it knows the options."""
    from pip._internal.commands import create_command

    options, packages = create_command("download").parse_args(words)
    assert not packages and all(Path(name).is_file() for name in options.requirements), words


def check_dask(words: list[str]) -> None:
    command = import_module(f"distributed.cli.dask_{words[0]}").main
    command.make_context(words[0], words[1:])


def check_hub(words: list[str]) -> None:
    """The Hub's own program says whether it knows the options."""
    program = environment.ENVIRONMENT / "bin" / "hf"
    done = subprocess.run([program, *words, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def check_number_of(count: int) -> Callable[[list[str]], None]:
    def check(words: list[str]) -> None:
        assert len(words) == count, words

    return check


BENCHMARKS = (
    *("preprocess", "pretrain", "finetune", "predict", "score_intervals", "tasks"),
    "time_to_loss",
)
CHECKS: dict[str, Callable[[list[str]], None]] = {
    "python3 main.py": check_main,
    "python3 finetune/run_glue.py": check_run_glue,
    "python3 -m finetune.predict": check_predict,
    **{f"python3 -m benchmarks.{name}": check_module(f"benchmarks.{name}") for name in BENCHMARKS},
    "python3 -m benchmarks.gpu_check": check_module("benchmarks.gpu_check.__main__"),
    "python3 -m benchmarks.frequency_baseline": check_number_of(1),
    "python3 -m tests.gpu.measured": check_number_of(0),
    "python3 -m tests.configs.fuzz_configs": check_module("tests.configs.fuzz_configs"),
    "python3 -m tests.finetune.kill_search": check_module("tests.finetune.kill_search"),
    "python3 tests/broken_files.py": check_number_of(0),
    "deepspeed pretrain/run_pretraining.py": check_training,
    "bash tests/run.sh": check_tests,
    "bash source install.sh": check_number_of(0),
    "bash install.sh": check_requirements,
    "hf": check_hub,
    "pip install -r": check_requirements,
    "python3 -m pip download": check_download,
    "pip install --no-deps --target minilm": check_number_of(1),
    **{
        f"dask {name}": lambda words, name=name: check_dask([name, *words])
        for name in ("scheduler", "worker")
    },
}


def check_of(words: list[str]) -> tuple[Callable[[list[str]], None], list[str]]:
    for length in range(len(words), 0, -1):
        if check := CHECKS.get(" ".join(words[:length])):
            return check, words[length:]
    pytest.fail(f"no check of {' '.join(words)}")


def is_started(words: list[str]) -> bool:
    program = words[2] if words[1] == "-m" else words[1]
    return words[0] == "python3" and program.startswith(STARTED)


# --- the pages ---------------------------------------------------------------------------------


def pages_besides(*names: str):
    pages = [page for page in PAGES if page.name not in names]
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.name)


@pages_besides("FORMATS.md")
@pytest.mark.slow
def test_the_commands_of_a_page(page, clone, monkeypatch):
    code = shell_code(page)
    commands = recorded(clone, code)
    assert len(commands) >= len(re.findall(r"^(?:python3|deepspeed|dask|pip) ", code, re.MULTILINE))
    monkeypatch.chdir(clone)
    for words in commands:
        if is_started(words):
            check_started(clone, words)
        else:
            check, rest = check_of(words)
            check(rest)


def check_started(clone: Path, words: list[str]) -> None:
    """Runs a command with the system's Python; a zip that is none is what has a fault here."""
    done = run_in(clone, shlex.join(words), clone / "system")
    expected = 1 if "result_collection.submission" in words else 0
    assert done.returncode == expected, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_the_commands_on_formats(clone):
    """All of them, with real files; what other packages bring is a stand-in."""
    files = {
        **{f"raw/{name}.txt": f"Chapter 1\n\nText of {name}.\n\nMore of it.\n" for name in "ab"},
        "raw/a.html": "<html><style>p {}</style><p>A page &amp; its text.</p></html>",
        "raw/a.pdf": "A line that is hyphen-\nated.\n\nAnother.\n",
        "short.txt": "An article.\nAnother.\n",
        "sentences.txt": "A sentence.\n" * 120,
        "array.json": '[{"body": "one"}, {"body": "two"}]',
        "bare.csv": "one\ntwo\n",
        "two.csv": "title,body\nA,one\nB,two\n",
        "name.txt": "text",
    }
    for name, text in files.items():
        (clone / name).parent.mkdir(exist_ok=True)
        (clone / name).write_text(text, encoding="utf-8")
    (clone / "windows.txt").write_text("größe", encoding="utf-16")
    (clone / "old.txt").write_bytes("größe\r".encode("cp1252"))
    (clone / "older.txt").write_bytes("größe".encode("latin1"))
    for name in ("big.txt.gz", "big.csv.gz"):
        (clone / name).write_bytes(gzip.compress(b"An article.\n\nAnother.\n"))
    write_program(clone / "system" / "pdftotext", '#!/bin/sh\nshift 3; cat "$1"\n')
    write_program(clone / "system" / "file", "#!/bin/sh\n")
    done = run_in(clone, shell_code(PROJECT / "docs" / "FORMATS.md"), clone / "system")
    assert done.returncode == 0, done.stderr
    made = {str(path.relative_to(clone / "mine")): path for path in (clone / "mine").rglob("*.*")}
    expected = ("short.txt", "sentences.txt", "books/bookcorpus_00000.txt", "a.txt", "rows.jsonl")
    expected += (
        "with_header.csv",
        "both.jsonl",
        "pages.txt",
        "windows.txt",
        "old.txt",
        "older.txt",
    )
    assert [name for name in expected if not made.pop(name).stat().st_size] == []
    assert any(name.startswith("part_") for name in made)
    assert (clone / "mine" / "pages.txt").read_text() == "A page & its text.\n\n"
    assert (clone / "mine" / "windows.txt").read_text(encoding="utf-8") == "größe"


def test_the_list_of_options(clone, monkeypatch):
    """Each is taken as the README has it, and none is left out."""
    text = PAGES[0].read_text(encoding="utf-8")
    usage = next(found[3] for found in FENCE.finditer(text) if "[KEY VALUE ...]" in found[3])
    first, *lines = usage.splitlines()
    command, example = re.fullmatch(
        r"python3 main\.py (.*) \[KEY VALUE \.\.\.] +e\.g\. (.*)", first
    ).groups()
    monkeypatch.chdir(clone)
    values = {"STAGE": "dataset", "DIR": "out"}
    named = set()
    for line in lines:
        option, value = re.match(r" {4}(--[\w-]+)(?: (\S+))?  +\w", line).groups()
        words = [option, values.get(value, value)] if value else [option]
        check_main([*command.split(), *words, *example.split()])
        named.add(option)
    usage = run_in(clone, "python3 main.py --help", clone / "system").stdout
    assert set(re.findall(r"--[\w-]+", usage)) - named == {"--help", "--config", "--config_file"}


@pytest.mark.slow
def test_the_programs_that_the_readme_names_explain_themselves(clone):
    text = PAGES[0].read_text(encoding="utf-8").split("see their `--help`")[0]
    named = re.findall(r"`((?:dataset|pretrain|finetune)/\w+\.py)`", text)
    assert len(named) >= 6
    for program in named:
        done = run_in(clone, f"python3 {program} --help", clone / "system")
        assert done.returncode == 0 and done.stdout.startswith("usage: "), done.stderr


def test_sourcing_install_puts_the_launcher_on_the_path(clone):
    script = "set +u; source install.sh && command -v deepspeed && command -v dask"
    done = run_in(clone, script, clone / "system")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"up to date: {clone}/.venv\n")


@pages_besides()
def test_what_is_in_the_environment_alone_is_named_as_such(page):
    """deepspeed, dask and pip are not on the path of a shell that has not sourced install.sh."""
    text = page.read_text(encoding="utf-8")
    for block in (found[3] for found in FENCE.finditer(text) if found[2] in SHELLS):
        bare = re.search(r"^\s*(deepspeed|dask|pip) ", block, re.MULTILINE)
        assert not bare or "source install.sh" in block[: bare.start()], bare[0]


@pages_besides()
def test_no_command_in_a_sentence_is_overlooked(page):
    rest = FENCE.sub("", page.read_text(encoding="utf-8"))
    spans = [found[1].split() for found in SPAN.finditer(rest)]
    unknown = [
        span
        for span in spans
        if len(span) > 1 and not COMMAND.match(" ".join(span)) and shutil.which(span[0])
    ]
    assert [span for span in unknown if span != ["kill", "-9"]] == []


# --- would it be seen? -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "```bash\npython3 -m benchmarks.nothing\n```\n",
        "Call `python3 nothing.py --now` for it.\n",
        "As root:\n\n    deepspeed other.py\n",
        "```bash\npython main.py --config x.yaml\n```\n",  # many systems have none
        "```bash\nconda activate bert\n```\n",
        "```\nfrobnicate --all\n```\n",
        "```bash\npython3 main.py --config x.yaml MODEL.HIDEN_SIZE 4\n```\n",
        "```bash\npython3 -m benchmarks.preprocess --megabyte_s 3\n```\n",
        "```bash\nbash install.sh requirements-more.txt\n```\n",
    ],
)
def test_a_command_that_is_wrong_or_unknown_is_an_error(text, clone, monkeypatch, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises((AssertionError, ConfigError, SystemExit, pytest.fail.Exception)):
        test_the_commands_of_a_page(page, clone, monkeypatch)
