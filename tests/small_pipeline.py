"""A small pipeline, run as a user runs it, with secrets in its environment and its YAML."""

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import psutil

PROJECT = Path(__file__).resolve().parent.parent
# A word of every secret. No file, no output and no command line may have it.
PLANTED = "planted"
SECRETS = {
    "WANDB_API_KEY": "planted-wandb-0123456789abcdef",
    "HF_TOKEN": "hf_planted0123456789ABCDEF",
    "HTTPS_PROXY": "http://planted-user:planted-password@127.0.0.1:9",
}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **SECRETS}

CONFIG = """
SYSTEM: {{NUM_GPUS: 0, NUM_WORKERS: 2, MAX_MEMORY_IN_GB: 2}}
WANDB: {{API_KEY: planted-yaml-0123456789abcdef}}
TOKENIZER: {{TRAIN: True, VOCAB_SIZE: 600}}
DATASET:
  CUSTOMIZED_DATASETS: [{text}]
  MAX_SEQ_LENGTH: 32
  MAX_PREDICTIONS_PER_SEQ: 5
  DUP_FACTOR: 2
  FRAC_TEST: 0.05
MODEL: {{HIDDEN_SIZE: 32, NUM_HIDDEN_LAYERS: 2, NUM_ATTENTION_HEADS: 2, INTERMEDIATE_SIZE: 64}}
PRETRAIN:
  NUM_STEPS: 40
  BATCH_SIZE: 16
  CHECKPOINT_STEPS: 5
  VALIDATION_STEPS: 20
  PRINT_STEPS: 10
FINETUNE:
  GLUE_DIR: builtin:demo
  TASKS: [CoLA, MNLI, RTE]
  STILT_TASKS: [RTE]
  MAX_SEQ_LENGTH: 32
  GRID:
    DEFAULT: {{EPOCHS: [1], BATCH_SIZES: [32], LEARNING_RATES: [1e-3]}}
    MNLI: {{EPOCHS: [1], BATCH_SIZES: [32], LEARNING_RATES: [1e-3]}}
RESULT_COLLECTION: {{ALLOW_PARTIAL: True}}
"""


def write_pipeline(folder: Path) -> None:
    """A corpus, `text`, and a config for it, `config.yaml`."""
    (folder / "text").mkdir()
    rng = random.Random(0)
    words = ["the", "a", "small", "old", "river", "house", "sees", "finds", "under", "quiet"]
    articles = [
        "\n".join(
            " ".join(rng.choices(words, k=rng.randint(4, 12))).capitalize() + "." for _ in range(8)
        )
        for _ in range(60)
    ]
    (folder / "text" / "corpus.txt").write_text("\n\n".join(articles))
    (folder / "config.yaml").write_text(CONFIG.format(text=folder / "text"))


def command(folder: Path, root: str | Path, *arguments: str) -> list[str]:
    config, output = str(folder / "config.yaml"), str(folder / root)
    return [sys.executable, "main.py", "--config", config, "--output-root", output, *arguments]


def run(folder: Path, root: str | Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(folder, root, *arguments),
        cwd=PROJECT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )


def state_of_files(root: Path) -> dict[str, tuple[int, int]]:
    """Sizes in bytes and times in ns of all files under a folder."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


class WatchedRun:
    """A run under the usual umask, and the command lines of all processes that it started.

    `stdout`, `stderr`, `returncode`: as of a CompletedProcess. `command_lines`: a set of strings.
    """

    def __init__(self, folder: Path, root: str | Path, *arguments: str):
        self.command_lines: set[str] = set()
        child = subprocess.Popen(
            command(folder, root, *arguments),
            cwd=PROJECT,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            umask=0o022,
        )
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(child.pid, over), daemon=True)
        watcher.start()
        self.stdout, self.stderr = child.communicate()
        self.returncode = child.returncode
        over.set()
        watcher.join()

    def _watch(self, pid: int, over: threading.Event) -> None:
        while not over.wait(0.1):
            try:
                for process in psutil.Process(pid).children(recursive=True):
                    self.command_lines.add(" ".join(process.cmdline()))
            except psutil.Error:
                continue
