"""What the result stage makes and from what."""

from typing import TYPE_CHECKING

from finetune.artifact import finetune_artifact, load_search
from pipeline.artifacts import Artifact, submission_dir

if TYPE_CHECKING:
    from yacs.config import CfgNode

FORMAT = 1


def result_artifact(config: "CfgNode") -> Artifact:
    """Summary and submission of a search. Raises ConfigError as `finetune_artifact` does."""
    model = load_search(config).model
    return Artifact(
        stage="result_collection",
        directory=submission_dir(load_search(config).root, model.dataset_id, model.pretrain_id),
        inputs={
            "finetune": finetune_artifact(config).fingerprint,
            "RESULT_COLLECTION.ALLOW_PARTIAL": config.RESULT_COLLECTION.ALLOW_PARTIAL,
            "format": FORMAT,
        },
    )
