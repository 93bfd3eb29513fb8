"""Shared parts of this package's command lines."""

import re
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from configs.key_rules import problems_of_samples
from configs.keys import RULES
from dataset.plan import FORMAT
from dataset.shards.file_records import is_as_recorded
from dataset.shards.sharding import read_summary
from dataset.sources.corpus_files import checked_head
from pipeline.console import Console, escape_unprintable, print_line, stage_console
from pipeline.errors import ConfigError, StageError
from pipeline.privacy import private_files
from pipeline.store.artifacts import Artifact, no_files

# Config keys with other names than their flags; the others are DATASET.<FLAG>.
KEYS = {
    "max_memory": "SYSTEM.MAX_MEMORY_IN_GB",
    "n_processes": "SYSTEM.NUM_WORKERS",
    "dask_scheduler": "SYSTEM.DASK_SCHEDULER",
}


@private_files()
def run_command(name: str, args: Namespace, run: Callable[[Namespace, Console], None]) -> None:
    """Runs a command, with a log beside its output folder. Exits with 2 or 3, as main.py does."""
    escape_unprintable()
    output_dir = args.output_dir.absolute()
    log = output_dir.with_name(f"{output_dir.name}.log")
    try:
        check_values(args)
        with stage_console(name, log) as console, Artifact(name, output_dir, {}).owned(console.say):
            run(args, console)
    except ConfigError as error:
        print_line(in_flags(str(error)), sys.stderr)
        sys.exit(2)
    except StageError as error:
        cause = in_flags(error.cause)
        print_line(f"{name} failed: {cause} (details: {error.log})", sys.stderr)
        sys.exit(3)


def in_flags(text: str) -> str:
    """Replaces the config keys in a message with flags."""
    for flag, key in KEYS.items():
        text = text.replace(key, f"--{flag}")
    return re.sub(r"\bDATASET\.([A-Z_]+)", lambda key: f"--{key[1].lower()}", text)


def check_values(args: Namespace) -> None:
    """Raises ConfigError for flags with values out of their config keys' range."""
    problems = []
    for flag, value in vars(args).items():
        test, expected = RULES.get(KEYS.get(flag, f"DATASET.{flag.upper()}"), (None, ""))
        if test and not test(value):
            problems.append(f"--{flag}: value out of range, got {value!r}, expected {expected}")
    if "masking" in args:
        samples = {flag.upper(): value for flag, value in vars(args).items()}
        problems += problems_of_samples(samples)
    if problems:
        raise ConfigError(problems)


def claim(
    name: str,
    output_dir: Path,
    flag: str,
    inputs: dict[str, Any],
    console: Console,
    scratch: tuple[str, ...] = (),
    files_in: Callable[[Mapping[str, Any]], Iterable[str]] = no_files,
) -> Artifact | None:
    """Begins the artifact of a command and returns it; None if it is up to date.

    flag: of the output folder. scratch, files_in: see Artifact. Raises ConfigError if the folder
    holds something else.
    """
    inputs = {**inputs, "format": FORMAT}
    artifact = Artifact(
        name, output_dir, inputs, user_named=flag, scratch=scratch, files_in=files_in
    )
    status = artifact.status()
    if status.done:
        console.say(f"up to date ({output_dir})")
        return None
    if status.state == "changed" and not artifact.is_only_begun:
        raise ConfigError(
            [
                f"{flag}: {output_dir} was made with other settings ({status.reason}), "
                "expected a new or an empty folder"
            ]
        )
    artifact.begin()
    return artifact


def list_text_shards(folder: Path) -> list[Path]:
    """Lists the text shards of a folder.

    Raises ConfigError if a split has none, or one is damaged or not a file.
    """
    summary = read_summary(folder)
    if summary:
        listed = [folder / name for name in summary["shards"]]
        if damaged := [path for path in listed if not is_as_recorded(path)]:
            hint = "expected the shard as made by shard_data.py; run it again"
            raise ConfigError([f"--dir: {path} is damaged, {hint}" for path in damaged])
        return listed
    shards = {split: sorted(folder.glob(f"{split}_[0-9]*.txt")) for split in ("train", "test")}
    for split, paths in shards.items():
        if not paths:
            raise ConfigError(
                [f"--dir: no {split}_*.txt in {folder}, expected the shards of shard_data.py"]
            )
    found = [*shards["train"], *shards["test"]]
    problems = [f"--dir: {problem}" for path in found if (problem := problem_with_shard(path))]
    if problems:
        raise ConfigError(problems)
    return found


def problem_with_shard(path: Path) -> str:
    """Returns the problem with a text shard of another program, or an empty string."""
    try:
        head = checked_head(str(path))
    except StageError as error:
        return error.cause
    return f"{path}: lines end with CRLF, expected LF" if b"\r\n" in head else ""
