"""Checks before the results are collected."""

from typing import TYPE_CHECKING

from pipeline.errors import ConfigError
from result_collection.plan import ResultPlan
from result_collection.submissions.archive import all_zips

if TYPE_CHECKING:
    from yacs.config import CfgNode


def check_machine(config: "CfgNode", plan: ResultPlan) -> None:
    """Raises ConfigError if a zip would overwrite that of another search."""
    directory = plan.artifact.directory
    names = {archive.stem for archive in all_zips(directory)}
    for other in (path for path in directory.parent.glob("*/") if path.name != directory.name):
        if other.name in names or directory.name in {path.stem for path in all_zips(other)}:
            raise ConfigError(
                [
                    f"FINETUNE.ID: the zips of {directory} would have the names of those of "
                    f"{other}, got {plan.search.finetune_id or 'no name'}, expected another one"
                ]
            )
