"""Finished searches, without training."""

import pytest

from result_collection.stage import collect_test_result
from tests.plans import result_artifact
from tests.result_collection.finished_search import OWN_TASK, make_finished_search


@pytest.fixture
def make_search(tmp_path_factory):
    """make_search(tasks, ...) -> the config of a finished search in a new folder."""
    return lambda *args, **kwargs: make_finished_search(
        tmp_path_factory.mktemp("search"), *args, **kwargs
    )


@pytest.fixture(scope="session")
def reported(tmp_path_factory):
    """Config and results folder of a collected search by halving over all kinds of tasks."""
    config = make_finished_search(
        tmp_path_factory.mktemp("reported"),
        ["CoLA", "STS-B", "MNLI", "CB", OWN_TASK],
        epochs=(3, 5, 10),
        rates=(1e-5, 3e-5, 5e-5, 8e-5),
        skip={(5, 1e-5), (10, 1e-5), (10, 3e-5), (10, 8e-5)},
        signal=3.0,
    )
    config.RESULT_COLLECTION.ALLOW_PARTIAL = True
    collect_test_result(config)
    return config, result_artifact(config).directory
