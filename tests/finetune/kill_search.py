"""Kills a finetuning search at random moments and compares its end with that of one left alone.

    python -m tests.finetune.kill_search --kills 10 --seed 0

The nine tasks of the demo benchmark on a tiny model, in two workers on the CPU, by the same command
each time. A kill is SIGKILL to main.py or to one of its workers. Everything must come out the same
byte for byte: the table of scores, all predictions, the weights that are kept.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    from pipeline.environment import enter_environment

    enter_environment()

import yaml

PROJECT = Path(__file__).resolve().parent.parent.parent
TASKS = ("CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI", "QNLI", "RTE", "WNLI")
# The kernel ends the workers at once, but for one that is only just starting.
PATIENCE_SECONDS = 5.0


def write_config(path: Path, model: str, tasks: Sequence[str]) -> None:
    """One setting per task, two for MNLI, which others start from."""
    grid = {name: {"EPOCHS": [1], "BATCH_SIZES": [32], "LEARNING_RATES": [1e-3]} for name in tasks}
    grid["MNLI"]["LEARNING_RATES"] = [1e-3, 2e-3]
    finetune = {
        "MODEL_NAME_OR_PATH": model,
        "GLUE_DIR": "builtin:demo",
        "TASKS": list(tasks),
        "MAX_SEQ_LENGTH": 32,
        "GRID": grid,
    }
    system = {"NUM_GPUS": 0, "NUM_WORKERS": 2}
    path.write_text(yaml.safe_dump({"SYSTEM": system, "FINETUNE": finetune}))


class Search:
    """The command, in a process of its own."""

    def __init__(self, config: Path, root: Path):
        command = ("main.py", "--config", str(config), "--stages", "finetune")
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        self.log = root.with_suffix(".log")
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command, "--output-root", str(root)],
                cwd=PROJECT,
                env=environment,
                stdout=log,
                stderr=log,
            )

    def workers(self) -> list[int]:
        """Its worker processes; multiprocessing has one more child, which tracks resources."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        with suppress(OSError):
            return [int(pid) for pid in children.read_text().split() if is_worker(int(pid))]
        return []

    def kill(self) -> None:
        """Kills main.py; its workers must end by themselves."""
        workers = self.workers()
        self.process.kill()
        self.process.wait()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while any(is_worker(pid) for pid in workers):
            if time.monotonic() > deadline:
                raise AssertionError(f"workers outlive their parent: {workers}")
            time.sleep(0.05)

    def finish(self) -> None:
        if self.process.wait() != 0:
            raise AssertionError(self.log.read_text())


def is_worker(pid: int) -> bool:
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def outcome(root: Path) -> dict[str, bytes]:
    """Content of all that a search leaves, but for what it took."""
    [summary] = root.glob("output/finetune/*/search/*/summary.json")
    table = json.loads(summary.read_text())
    for run in table["runs"]:
        del run["seconds"]
    found = [*root.rglob("predictions_*.tsv"), *root.rglob("model.safetensors")]
    files = {str(path.relative_to(root)): path.read_bytes() for path in found}
    leftovers = [str(path) for path in root.rglob(".*.tmp")]
    if leftovers:
        raise AssertionError(f"half-written files are left: {leftovers}")
    return {"summary": json.dumps(table, sort_keys=True).encode(), **files}


def run_with_kills(
    config: Path, root: Path, kills: int, longest_wait: float, seed: int, say: Callable[[str], None]
) -> int:
    """Runs a search to its end and kills it on the way. Returns how many of the kills it took."""
    rng = random.Random(seed)
    search = Search(config, root)
    for number in range(1, kills + 1):
        wait = rng.uniform(0, longest_wait)
        with suppress(subprocess.TimeoutExpired):
            search.process.wait(wait)
            search.finish()
            say(f"done before kill {number}")
            return number - 1
        workers = search.workers()
        if workers and rng.random() < 0.5:
            os.kill(rng.choice(workers), signal.SIGKILL)
            victim = "a worker"
        else:
            search.kill()
            search = Search(config, root)
            victim = "main.py"
        done = len(list(root.rglob("result.json")))
        say(f"kill {number}: {victim}, after {wait:.1f} s; {done} results so far")
    search.finish()
    return kills


def compare(
    folder: Path, model: str, kills: int, seed: int, say: Callable[[str], None], tasks=TASKS
) -> None:
    """Raises AssertionError if a search that was killed ends with anything else."""
    config = folder / "search.yaml"
    write_config(config, model, tasks)
    begin = time.monotonic()
    Search(config, folder / "undisturbed").finish()
    seconds = time.monotonic() - begin
    expected = outcome(folder / "undisturbed")
    say(f"undisturbed: {len(expected) - 1} files in {seconds:.0f} s")
    left, number, longest_wait = kills, 0, 1.2 * seconds
    while left > 0:
        root = folder / f"killed{number}"
        left -= run_with_kills(config, root, left, longest_wait, seed + number, say)
        found = outcome(root)
        differing = [name for name in expected | found if expected.get(name) != found.get(name)]
        if differing:
            raise AssertionError(f"not as if left alone: {differing}")
        say("the same, byte for byte")
        number += 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    from tests.finetune.conftest import build_tiny_model

    options = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        model = build_tiny_model(Path(folder, "model"))
        compare(Path(folder), model, options.kills, options.seed, partial(print, flush=True))


if __name__ == "__main__":
    main()
