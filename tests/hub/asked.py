"""What a child process does that speaks with the Hub of the tests; its libraries read the
environment when they are imported."""

import io
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pipeline.errors import StageError

TIMEOUT = 2  # seconds that the children wait for an answer
KEY = "DATASET.HUGGINGFACE_DATASETS"


@dataclass
class Answer:
    """result: what the function returned. problem: the cause of its StageError. printed: what it
    said on the way."""

    result: Any
    problem: str
    printed: str


class Child:
    """A process with an environment of its own. Its functions take plain values."""

    def __init__(self, address: str, home: Path, **environment: str):
        ours = {
            "HF_ENDPOINT": address,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_DATASETS_OFFLINE": "0",
            "HF_HUB_ETAG_TIMEOUT": str(TIMEOUT),
            "HF_HUB_DOWNLOAD_TIMEOUT": str(TIMEOUT),
        }
        before = dict(os.environ)
        os.environ.update(ours | environment)
        try:
            self.pool = ProcessPoolExecutor(1, get_context("spawn"))
            self.pool.submit(os.getpid).result()
        finally:
            os.environ.clear()
            os.environ.update(before)

    def ask(self, function: Callable, *arguments: Any, token: str = "", waits: Any = ()) -> Answer:
        """token: HF_TOKEN. waits: those of pipeline/hub/repository.py, shorter."""
        return self.pool.submit(answer, function, arguments, token, waits).result()

    def end(self) -> None:
        self.pool.shutdown()


def answer(function: Callable, arguments: tuple, token: str, waits: tuple) -> Answer:
    import pipeline.hub.repository

    printed, before = (
        io.StringIO(),
        (pipeline.hub.repository.WAITS, pipeline.hub.repository.WAITS_FOR_FILES),
    )
    with redirect_stdout(printed), redirect_stderr(printed), with_token(token):
        if waits:
            pipeline.hub.repository.WAITS = pipeline.hub.repository.WAITS_FOR_FILES = waits
        try:
            return Answer(function(*arguments), "", printed.getvalue())
        except StageError as error:
            return Answer(None, error.cause, printed.getvalue())
        finally:
            pipeline.hub.repository.WAITS, pipeline.hub.repository.WAITS_FOR_FILES = before


@contextmanager
def with_token(token: str):
    os.environ.update({"HF_TOKEN": token} if token else {})
    try:
        yield
    finally:
        os.environ.pop("HF_TOKEN", None)


# --- what is asked for -----------------------------------------------------------------------


def read(
    work: Path,
    name: str,
    subset: str = "",
    split: str = "",
    column: str = "text",
    streaming: bool = False,
    commit: str = "",
) -> tuple[list[str], list[str]]:
    """(articles, messages) of a dataset."""
    from dataclasses import replace

    from dataset.sources.article_stream import PIECE_BYTES, Tally
    from dataset.sources.registry import hub_source, open_source

    source = replace(hub_source(name, subset, KEY, split, column, streaming), commit=commit)
    slices, said = open_source((source, "0", work, 1 << 20))
    tally, articles, begun = Tally(), [], False
    for piece in slices:
        for _, text, ends in piece.pieces(PIECE_BYTES, tally):
            articles.append(articles.pop() + text if begun else text)
            begun = not ends
    return articles, said


def text_shards(folder: Path, name: str, subset: str, streaming: bool) -> dict[str, bytes]:
    """Text shards by name."""
    from dataset.sources.registry import hub_source
    from tests.dataset.dataset_helpers import files_of, shard

    shard(hub_source(name, subset, KEY, streaming=streaming), folder)
    return files_of(folder, "*.txt")


def commit_of(name: str, kind: str) -> str:
    from pipeline.hub.repository import Repository, find_commit

    return find_commit(Repository(name, kind))


def tokenizer(name: str, folder: Path) -> str:
    """The tokenizer.json that is made of a name."""
    from dataset.tokenizers.build import build_tokenizer

    build_tokenizer(name, True, folder)
    return (folder / "tokenizer.json").read_text()


def model(name: str) -> tuple[str, dict[str, str], list[str]]:
    """(folder, commits, names of the files) of a checkpoint."""
    from pipeline.hub.models import local_model

    folder, commits = local_model(name, "FINETUNE.MODEL_NAME_OR_PATH")
    files = sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())
    return folder, commits, files


def glue(task: str, split: str) -> tuple[list, list]:
    """(texts, label words or scores) of a split of a task."""
    from finetune.data.examples import load_examples
    from finetune.data.tasks import find_task

    found = find_task(task)
    examples = load_examples(found, next(s for s in found.splits if s.name == split), "")
    words = list(found.labels)
    labels = [words[label] for label in examples.labels] if words else examples.labels
    return examples.texts, labels
