"""What the result stage makes and from what."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from finetune.artifact import Search, finetune_artifact, load_search
from finetune.examples import has_split
from finetune.tasks import Split, Task, submission_splits
from pipeline.artifacts import Artifact, submission_dir
from result_collection.archive import ENDINGS, file_name

if TYPE_CHECKING:
    from yacs.config import CfgNode

FORMAT = 2


def result_artifact(config: "CfgNode") -> Artifact:
    """Summary, submissions and report of a search. Raises ConfigError as `finetune_artifact`."""
    search = load_search(config)
    model = search.model
    return Artifact(
        stage="result_collection",
        directory=submission_dir(search.root, model.dataset_id, model.pretrain_id),
        inputs={
            "finetune": finetune_artifact(config).fingerprint,
            "RESULT_COLLECTION.ALLOW_PARTIAL": config.RESULT_COLLECTION.ALLOW_PARTIAL,
            "format": FORMAT,
        },
        notes=tuple(_notes(search, config.RESULT_COLLECTION.ALLOW_PARTIAL)),
        files_in=_files_of,
    )


def _notes(search: Search, allow_partial: bool) -> Iterator[str]:
    """What the submissions will lack, as far as it is known before the search."""
    for benchmark in ENDINGS:
        if not any(task.benchmark == benchmark for task in search.tasks):
            continue
        lacks = [
            file_name(name, benchmark)
            for name, (task, split) in submission_splits(benchmark).items()
            if task not in search.tasks or not _will_be_there(search, task, split)
        ]
        if lacks:
            made = "a zip that cannot be submitted" if allow_partial else "no zip, and an error"
            yield (
                f"{benchmark}: {made}, as {', '.join(lacks)} will be missing "
                f"(RESULT_COLLECTION.ALLOW_PARTIAL is {allow_partial})"
            )


def _will_be_there(search: Search, task: Task, split: Split) -> bool:
    """The built-in benchmark has all test sets, but may not have been written yet."""
    is_demo = search.with_demo and task.benchmark == "GLUE"
    return is_demo or has_split(split, search.data_dir(task))


def _files_of(results: Mapping[str, Any]) -> Iterator[str]:
    """What the folder must hold; a report that could not be drawn is not missed."""
    yield "summary.json"
    if results["report"]:
        yield results["report"]
