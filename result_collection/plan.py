"""The plan of the result stage: folder and identity."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.data.tasks import submission_splits
from finetune.plan import FinetunePlan
from finetune.plan import plan as plan_finetuning
from finetune.search.search import Search
from pipeline.stage_plan import StagePlan
from pipeline.store.artifacts import Artifact
from pipeline.store.paths import DEV_PREDICTIONS, REPORT_JSON, SUMMARY, submission_dir
from result_collection.submissions.archive import SUMMARY_TABLE, file_name

if TYPE_CHECKING:
    from yacs.config import CfgNode

FORMAT = 4
SHOW_TEXT = "RESULT_COLLECTION.SHOW_TEXT"
# A warning about a search of the same name.
REPLACES = (
    "writes over the summary, zips and report of the other search (set FINETUNE.ID to keep both)"
)


@dataclass(frozen=True)
class ResultPlan(StagePlan):
    """upstream: the search."""

    upstream: FinetunePlan

    @property
    def search(self) -> Search:
        return self.upstream.search


def plan(config: "CfgNode", upstream: FinetunePlan | None = None) -> ResultPlan:
    """Plans summary, submissions and report of a search."""
    upstream = upstream or plan_finetuning(config)
    search = upstream.search
    directory = submission_dir(search.root, search.model.dataset_id, search.name)
    artifact = Artifact(
        stage="result_collection",
        directory=directory,
        inputs={
            "finetune": upstream.artifact.fingerprint,
            "RESULT_COLLECTION.ALLOW_PARTIAL": config.RESULT_COLLECTION.ALLOW_PARTIAL,
            "format": FORMAT,
            **({SHOW_TEXT: True} if config.RESULT_COLLECTION.SHOW_TEXT else {}),
        },
        made_from="finetune",
        files_in=lambda results: _files_of(directory, results),
        replaces={} if search.finetune_id else {"finetune": REPLACES},
    )
    return ResultPlan(artifact, upstream)


def _files_of(directory: Path, results: Mapping[str, Any]) -> Iterator[str]:
    """Yields summary, submissions, predictions, and the report if it could be drawn."""
    yield from (SUMMARY, SUMMARY_TABLE)
    for path in map(directory.joinpath, results["own_predictions"].values()):
        if path.parent == directory:  # others belong to the search
            files = sorted(path.iterdir()) if path.is_dir() else [path]
            yield from (str(file.relative_to(directory)) for file in files)
    for made in results["zips"]:
        benchmark = made["benchmark"]
        names = (file_name(name, benchmark) for name in submission_splits(benchmark))
        yield from (name for name in names if (directory / name).exists())
        if made["zip"]:
            yield f"../{made['zip']}"
    if (directory / DEV_PREDICTIONS).exists():
        yield DEV_PREDICTIONS
    if results["report"]:
        yield from (results["report"], REPORT_JSON)
