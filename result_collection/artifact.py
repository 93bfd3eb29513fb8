"""What the result stage makes and from what."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from finetune.artifact import finetune_artifact, load_search
from pipeline.artifacts import Artifact, submission_dir

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
        files_in=_files_of,
    )


def _files_of(results: Mapping[str, Any]) -> Iterator[str]:
    """What the folder must hold; a report that could not be drawn is not missed."""
    yield "summary.json"
    if results["report"]:
        yield results["report"]
