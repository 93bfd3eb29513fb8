"""Has main.py plan random and mutated configs, and checks what it promises of every one of them.

    python -m tests.configs.fuzz_configs --cases 2000 --seed 0

With --dry-run it exits with 0, or with 2 and lines that name the file or the key; what it refuses
so, it refuses without --dry-run too. There is no exception, no case takes long, no file
is written, and no name of a folder leads elsewhere. A case follows from the seed and its
number; the first one that breaks a promise is written out, and the exit code is 1.
"""

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from pipeline.environment import enter_environment

    enter_environment()

import main
from configs.loading import flatten, load_config
from pipeline.errors import MAX_LINE, ConfigError, in_one_line
from tests.configs.config_cases import CONFIG, KINDS, SECTIONS, STAGES, Case, make_case

MAX_SECONDS = 20  # a case takes a hundredth of that; a busy machine is no hang
# What a message names: a file, an option, a key, a stage, or what is no key.
NAMED = re.compile(rf"/|--|({'|'.join((*SECTIONS, *STAGES))})\b|.*unknown key|and [\d,]+ more prob")


class Broken(AssertionError):
    """A promise that a case breaks."""


class TooSlow(BaseException):
    """The alarm of a case that takes too long; nothing on the way takes it for its own error."""


@contextlib.contextmanager
def sandbox(top: Path) -> Iterator[Path]:
    """The working directory and home of the cases, some levels below `top`; what is there:
    folders of text and of data, a task, a pipe, and two links that lead nowhere."""
    folder = top / "a" / "b" / "work"
    for name in ("texts", "raw_data/my_texts", "glue_data"):
        (folder / name).mkdir(parents=True)
    (folder / "texts" / "text.txt").write_text("A sentence.\n\nAnother article.\n" * 20)
    for name in ("train.tsv", "dev.tsv"):
        (folder / name).write_text("text\tlabel\n" + "good\t1\nbad\t0\n" * 4)
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    (folder / "gone").symlink_to("nowhere")
    before, home = os.getcwd(), os.environ.get("HOME", "")
    changed = (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
    handlers = [(number, signal.getsignal(number)) for number in changed]
    os.chdir(folder)
    os.environ["HOME"] = str(top / "home")
    try:
        yield folder
    finally:
        os.chdir(before)
        os.environ["HOME"] = home
        for number, handler in handlers:
            signal.signal(number, handler)


def check(case: Case) -> int:
    """Has main.py plan a case in the working directory, a sandbox; its exit code. Raises Broken."""
    for name, content in case.files.items():
        Path(name).write_bytes(content)
    top = Path.cwd().parent.parent.parent
    files = _files(top)
    signal.signal(signal.SIGALRM, _ring)
    signal.alarm(MAX_SECONDS)
    try:
        code = _exit_code(case, case.options)
        in_earnest = tuple(option for option in case.options if option != "--dry-run")
        if code == 2 and _exit_code(case, in_earnest) != 2:
            raise Broken("refused with --dry-run only")
        with contextlib.suppress(ConfigError):
            _check_config(load_config(CONFIG, case.overrides, stages=()))
    except Broken:
        raise
    except (Exception, TooSlow) as error:
        raise Broken(f"{type(error).__name__}: {str(error)[:500]}") from error
    finally:
        signal.alarm(0)
    if changed := sorted(_files(top).items() ^ files.items()):
        raise Broken(f"files were changed: {changed[:3]}")
    for name in case.files:
        os.remove(name)
    return code


def _ring(*_: Any) -> None:
    raise TooSlow(f"more than {MAX_SECONDS} seconds")


def _exit_code(case: Case, options: tuple[str, ...]) -> int:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main.main(["--config", CONFIG, *options, *case.overrides])
        except SystemExit as end:  # of argparse, whose message begins with the usage
            if end.code == 2 and err.getvalue().startswith("usage: "):
                return 2
            raise Broken(f"exit code {end.code}") from end
    lines = err.getvalue().splitlines()
    if code not in (0, 2) or bool(code) != bool(lines):
        raise Broken(f"exit code {code} with the message {err.getvalue()[-500:]!r}")
    keys = tuple(_printed(key)[:100] for key in case.overrides[::2])
    for line in lines:
        if in_one_line(line) != line or len(line) > MAX_LINE or "Traceback" in line:
            raise Broken(f"not one line: {line[:500]!r}")
        if not NAMED.match(line) and not line.startswith(keys):
            raise Broken(f"names neither file nor key: {line[:500]!r}")
    return code


def _printed(key: str) -> str:
    return in_one_line(key).encode(errors="backslashreplace").decode()


def _check_config(config: Any) -> None:
    """What folders are named after is the name of a single, new folder."""
    tasks = config.FINETUNE.CUSTOM_TASKS
    for name in (config.DATASET.ID, config.PRETRAIN.ID, config.MODEL.TYPE, *tasks):
        if name and (not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9._-]*", name) or len(name) > 128):
            raise Broken(f"the name {name!r} was taken")
    json.dumps(flatten(config), allow_nan=False)  # so that a manifest can hold it


def _files(top: Path) -> dict[str, tuple]:
    """Size and time of change of everything below a folder."""
    found = {}
    for folder, _, names in os.walk(top):
        for path in (folder, *(os.path.join(folder, name) for name in names)):
            state = os.lstat(path)
            found[path] = (state.st_size, state.st_mtime_ns)
    return found


def fuzz(numbers: range, seed: int, top: Path) -> Counter[tuple[str, int]]:
    """Checks cases in a new folder `top`; how often each kind had each exit code.

    Raises Broken, which names the case and where it lies, at the first that breaks a promise.
    """
    counts: Counter[tuple[str, int]] = Counter()
    with sandbox(top) as folder:
        for number in numbers:
            kind, case = make_case(seed, number)
            try:
                counts[kind, check(case)] += 1
            except Broken as error:
                words = json.dumps([*case.options, *case.overrides])
                raise Broken(
                    f"case {number} of seed {seed} ({kind}), in {folder}: {error}\n{words}"
                ) from error
    return counts


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Has main.py plan random configs; exit code 1 if it breaks a promise."
    )
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    return parser.parse_args()


def run() -> int:
    args = parse_arguments()
    numbers = range(args.first, args.first + args.cases)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))  # which stays where a promise is broken
    try:
        counts = fuzz(numbers, args.seed, folder / "top")
    except Broken as error:
        print(error)
        return 1
    shutil.rmtree(folder)
    print("| kind of config | cases | planned (exit code 0) | refused (exit code 2) |")
    print("|---|---|---|---|")
    for kind in (kind.__name__ for kind in KINDS):
        done, refused = counts[kind, 0], counts[kind, 2]
        print(f"| {kind.replace('_', ' ')} | {done + refused} | {done} | {refused} |")
    print(f"{counts.total()} cases of seed {args.seed}, no promise broken")
    return 0


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    sys.exit(run())
