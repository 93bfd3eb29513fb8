"""What the two command lines of this package share."""

import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from configs.rules import RULES
from dataset.artifact import FORMAT
from dataset.sharding import read_summary
from pipeline.artifacts import Artifact
from pipeline.console import Console, stage_console
from pipeline.errors import ConfigError, StageError

# Flags whose range is that of a config key of another name; the others are DATASET.<FLAG>.
KEYS = {
    "max_memory": "SYSTEM.MAX_MEMORY_IN_GB",
    "n_processes": "SYSTEM.NUM_WORKERS",
    "dask_scheduler": "SYSTEM.DASK_SCHEDULER",
}


def run_command(name: str, args: Namespace, run: Callable[[Console], None]) -> None:
    """Runs a command with its log beside what it makes. Exits with 2 or 3, as main.py does."""
    output_dir = args.output_dir.absolute()
    try:
        check_ranges(args)
        with stage_console(name, output_dir.with_name(f"{output_dir.name}.log")) as console:
            run(console)
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except StageError as error:
        print(f"{name} failed: {error.cause} (details: {error.log})", file=sys.stderr)
        sys.exit(3)


def check_ranges(args: Namespace) -> None:
    """Raises ConfigError for every flag whose value is outside the range of its config key."""
    problems = []
    for flag, value in vars(args).items():
        test, expected = RULES.get(KEYS.get(flag, f"DATASET.{flag.upper()}"), (None, ""))
        if test and not test(value):
            problems.append(f"--{flag}: value out of range, got {value!r}, expected {expected}")
    if problems:
        raise ConfigError(problems)


def claim(
    name: str, output_dir: Path, flag: str, inputs: dict[str, Any], console: Console
) -> Artifact | None:
    """The artifact of this command, begun; None if it is finished already.

    Raises ConfigError if the folder holds something else.
    """
    artifact = Artifact(name, output_dir, {**inputs, "format": FORMAT})
    status = artifact.status()
    if status.done:
        console.say(f"up to date ({output_dir})")
        return None
    if status.state == "changed":
        raise ConfigError(
            [
                f"{flag}: {output_dir} was made with other settings ({status.reason}), "
                "expected a new or an empty folder"
            ]
        )
    artifact.begin()
    return artifact


def list_text_shards(folder: Path) -> list[Path]:
    """The text shards of a folder; other files in it are left alone.

    Raises ConfigError if there are none, or one split is missing.
    """
    summary = read_summary(folder)
    if summary:
        return [folder / name for name in summary["shards"]]
    shards = {split: sorted(folder.glob(f"{split}_[0-9]*.txt")) for split in ("train", "test")}
    for split, paths in shards.items():
        if not paths:
            raise ConfigError(
                [f"--dir: no {split}_*.txt in {folder}, expected what shard_data.py makes"]
            )
    return [*shards["train"], *shards["test"]]
