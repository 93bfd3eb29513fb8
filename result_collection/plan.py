"""What the result stage makes and from what."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.data.demo_glue import DEMO_NAME
from finetune.data.examples import find_file, has_split, num_rows
from finetune.data.tasks import Split, Task, submission_splits
from finetune.plan import Search, finetune_artifact, load_search
from pipeline.errors import ConfigError
from pipeline.store.artifacts import Artifact
from pipeline.store.paths import submission_dir
from result_collection.pages.report_data import REPORT_JSON
from result_collection.submissions.archive import ENDINGS, file_name, zip_path

if TYPE_CHECKING:
    from yacs.config import CfgNode

FORMAT = 3
# What a search under the same name does, and the way out.
REPLACES = (
    "writes over the summary, zips and report of the other search (set FINETUNE.ID to keep both)"
)


def result_artifact(config: "CfgNode") -> Artifact:
    """Summary, submissions and report of a search. Raises ConfigError as `finetune_artifact`."""
    search = load_search(config)
    directory = submission_dir(search.root, search.model.dataset_id, search.name)
    return Artifact(
        stage="result_collection",
        directory=directory,
        inputs={
            "finetune": finetune_artifact(config).fingerprint,
            "RESULT_COLLECTION.ALLOW_PARTIAL": config.RESULT_COLLECTION.ALLOW_PARTIAL,
            "format": FORMAT,
        },
        made_from="finetune",
        notes=tuple(_notes(search, config.RESULT_COLLECTION.ALLOW_PARTIAL)),
        files_in=lambda results: _files_of(directory, results),
        replaces={} if search.finetune_id else {"finetune": REPLACES},
    )


def check_machine(config: "CfgNode") -> None:
    """Raises ConfigError if a zip would have the name of another search's."""
    search = load_search(config)
    directory = submission_dir(search.root, search.model.dataset_id, search.name)
    names = {archive.stem for archive in all_zips(directory)}
    for other in (path for path in directory.parent.glob("*/") if path.name != directory.name):
        if other.name in names or directory.name in {path.stem for path in all_zips(other)}:
            raise ConfigError(
                [
                    f"FINETUNE.ID: the zips of {directory} would have the names of those of "
                    f"{other}, got {search.finetune_id or 'no name'}, expected another one"
                ]
            )


def all_zips(directory: Path) -> list[Path]:
    """Returns the paths of all zips that a search can have."""
    return [
        zip_path(directory, partial, benchmark)
        for benchmark in ENDINGS
        for partial in (False, True)
    ]


def tasks_not_searched(search: Search, benchmark: str) -> list[str]:
    """Returns the tasks that a submission needs and the search lacks."""
    needed = dict.fromkeys(task.name for task, _ in submission_splits(benchmark).values())
    return [name for name in needed if name not in {task.name for task in search.tasks}]


def _notes(search: Search, allow_partial: bool) -> Iterator[str]:
    """What the submissions will lack, as far as it is known before the search."""
    for benchmark in ENDINGS:
        if not any(task.benchmark == benchmark for task in search.tasks):
            continue
        not_searched = tasks_not_searched(search, benchmark)
        if not_searched and not allow_partial:
            yield f"{benchmark}: no zip, as {', '.join(not_searched)} are not in FINETUNE.TASKS"
            continue
        lacks = [
            file_name(name, benchmark)
            for name, (task, split) in submission_splits(benchmark).items()
            if task not in search.tasks or not _will_be_there(search, task, split)
        ]
        if lacks:
            why = f"{', '.join(lacks)} will be missing"
            yield f"{benchmark}: {_refused(why, allow_partial)}"
        elif search.with_demo and benchmark == "GLUE":
            why = f"{DEMO_NAME} (FINETUNE.GLUE_DIR) has fewer rows than GLUE"
            yield f"GLUE: {_refused(why, allow_partial)}"


def _refused(why: str, allow_partial: bool) -> str:
    made = "a zip that cannot be submitted" if allow_partial else "no zip, and an error at the end"
    way_out = "" if allow_partial else "; True makes one for trying out"
    return f"{made}, as {why} (RESULT_COLLECTION.ALLOW_PARTIAL is {allow_partial}{way_out})"


def row_notes(config: "CfgNode") -> Iterator[str]:
    """For the plan: test files that have other rows than the server expects."""
    search, allow_partial = load_search(config), config.RESULT_COLLECTION.ALLOW_PARTIAL
    for benchmark in ENDINGS:
        wrong = list(_wrong_counts(search, benchmark))
        if wrong and (allow_partial or not tasks_not_searched(search, benchmark)):
            more = f" (and {len(wrong) - 1} more such files)" if wrong[1:] else ""
            yield f"{benchmark}: {_refused(wrong[0] + more, allow_partial)}"


def _wrong_counts(search: Search, benchmark: str) -> Iterator[str]:
    for task, split in submission_splits(benchmark).values():
        folder = search.data_dir(task)
        is_demo = search.with_demo and benchmark == "GLUE"  # of which the artifact's notes tell
        # MultiRC's test answers are not counted by a quick look, as they have no labels.
        if task not in search.tasks or not folder or is_demo or task.layout == "answers":
            continue
        path = find_file(split, Path(folder))
        if path and (found := num_rows(task, split, path)) != split.num_rows:
            yield f"{path} has {found:,} rows, expected {split.num_rows:,}"


def _will_be_there(search: Search, task: Task, split: Split) -> bool:
    """The built-in benchmark has all test sets, but may not have been written yet."""
    is_demo = search.with_demo and task.benchmark == "GLUE"
    return is_demo or has_split(split, search.data_dir(task))


def _files_of(directory: Path, results: Mapping[str, Any]) -> Iterator[str]:
    """The tables, the submissions, and the report, which is not missed if it could not be drawn."""
    yield from ("summary.json", "summary.tsv")
    for made in results["zips"]:
        benchmark = made["benchmark"]
        names = (file_name(name, benchmark) for name in submission_splits(benchmark))
        yield from (name for name in names if (directory / name).exists())
        if made["zip"]:
            yield f"../{made['zip']}"
    if results["report"]:
        yield from (results["report"], REPORT_JSON)
