"""The text that the benchmark runs on, and runs of the real dataset stage over it."""

import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from pipeline.runtime.memory import PeakMemory

PROJECT = Path(__file__).resolve().parent.parent
SHARED = PROJECT.parent / "shared" / "data"
PYTHON_DOCS = "builtin:python-docs"


@dataclass(frozen=True)
class StageRun:
    """wall and cpu: seconds, the CPU's over all processes; bytes of memory, text and samples."""

    wall: float
    cpu: float
    peak_bytes: int
    text_bytes: int
    sample_bytes: int

    @property
    def cpu_per_mb(self) -> float:
        return self.cpu / (self.text_bytes / 1e6)

    @property
    def mb_per_second(self) -> float:
        return self.text_bytes / 1e6 / self.wall


def text_folders(text: str) -> list[Path | str]:
    """--text, or by default the shared corpora, or the documentation of Python."""
    if text:
        return [Path(text)]
    shared = [SHARED / "corpora" / name for name in ("wikipedia_articles", "books_fiction")]
    return shared if shared[0].is_dir() else [PYTHON_DOCS]


def repeated_text(folders: list[Path | str], folder: Path, num_bytes: float) -> Path:
    """A folder of .txt files with the text over and over, `num_bytes` in all (0: once)."""
    if PYTHON_DOCS in folders:
        from dataset.sources.builtin_text import write_python_docs

        folders = [write_python_docs(folder.with_name("python-docs"))]
    files = [path for source in folders for path in sorted(source.rglob("*.txt"))]
    once = sum(path.stat().st_size for path in files)
    folder.mkdir(parents=True)
    left = num_bytes or once
    for number in count():
        path = files[number % len(files)]
        content = path.read_bytes()[: int(left)]
        (folder / f"{number:06d}.txt").write_bytes(content)
        left -= len(content)
        if left < 1:
            return folder


def read_articles(folder: Path, num_bytes: float) -> Iterator[str]:
    """Articles, parted by blank lines, of about the first `num_bytes` of a folder."""
    for path in sorted(folder.glob("*.txt")):
        for article in path.read_text(encoding="utf-8", errors="ignore").split("\n\n"):
            yield article
            num_bytes -= len(article.encode()) + 2
            if num_bytes <= 0:
                return


def find_vocabulary(text: Path, folder: Path) -> Path:
    """BERT's vocabulary, or where it is not at hand, one trained on a few MB of the text."""
    shared = SHARED / "vocab" / "bert-uncased-vocab.txt"
    if shared.exists():
        return shared
    from tokenizers import BertWordPieceTokenizer

    tokenizer = BertWordPieceTokenizer()
    tokenizer.train_from_iterator(read_articles(text, 5e6), vocab_size=8192, show_progress=False)
    tokenizer.save_model(str(folder))
    return folder / "vocab.txt"


def run_stage(
    text: Path, vocabulary: Path, work_dir: Path, max_memory: float, workers: int, **dataset
) -> StageRun:
    """Runs `main.py --stages dataset` in an empty folder; what it made is deleted again.

    dataset: keys of DATASET. Everything counts, from the start of Python to the manifest.
    """
    config = {
        "SYSTEM": {"MAX_MEMORY_IN_GB": max_memory, "NUM_WORKERS": workers},
        "TOKENIZER": {"NAME_OR_PATH": str(vocabulary)},
        "DATASET": {"ID": "benchmark", "CUSTOMIZED_DATASETS": [str(text)], **dataset},
    }
    root = work_dir / "root"
    root.mkdir(parents=True)
    path = work_dir / "config.yaml"
    path.write_text(json.dumps(config))
    command = [sys.executable, str(PROJECT / "main.py"), "--config", str(path)]
    command += ["--stages", "dataset", "--output-root", str(root)]
    cpu, begin = _cpu_of_children(), time.perf_counter()
    with open(work_dir / "stage.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        with PeakMemory(0.05, process.pid) as memory:
            code = process.wait()
    wall = time.perf_counter() - begin
    if code:
        raise SystemExit((work_dir / "stage.log").read_text())
    run = StageRun(
        wall,
        _cpu_of_children() - cpu,
        memory.peak_bytes,
        _size(text),
        _size(root / "data" / "benchmark"),
    )
    shutil.rmtree(root)
    return run


def _cpu_of_children() -> float:
    """CPU seconds of all children that have ended, and of theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _size(folder: Path) -> int:
    """Bytes on disk: what was never written in a file takes no space."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
