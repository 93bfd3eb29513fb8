"""Puts the project's root on the path and offers the shared data where it is present."""

import fcntl
import os
import pickle
import shutil
import signal
import sys
from pathlib import Path

import hypothesis
import pytest

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

# Tests must not depend on a network, whatever the machine has.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

# The same examples everywhere; how long one takes says something about the machine alone.
hypothesis.settings.register_profile("deterministic", deadline=None, derandomize=True)
hypothesis.settings.load_profile("deterministic")

from tests.small_pipeline import (  # noqa: E402 (needs path and variables)
    WatchedRun,
    state_of_files,
    write_pipeline,
)


@pytest.fixture(autouse=True, scope="session")
def heed_interrupts():
    """A shell that starts the tests in the background has them, and all children, ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real corpora and GLUE files that lie beside the project on some machines."""
    folder = PROJECT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the shared data is not here")
    return folder


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory) -> Path:
    """A corpus and a config for it (tests/small_pipeline.py)."""
    folder = tmp_path_factory.mktemp("pipeline")
    write_pipeline(folder)
    return folder


@pytest.fixture(scope="session")
def finished_pipeline(pipeline_folder, tmp_path_factory):
    """An undisturbed run (a WatchedRun) of the whole pipeline into `root` of its folder.

    Parallel workers copy one run. `root` is for all tests; one that changes files takes `own_root`.
    """
    done = _run_or_copy(pipeline_folder, tmp_path_factory)
    before = state_of_files(pipeline_folder / "root")
    yield done
    changed = state_of_files(pipeline_folder / "root").items() ^ before.items()
    assert not changed, f"a test changed the pipeline of all tests: {sorted(changed)[:5]}"


@pytest.fixture
def own_root(pipeline_folder, finished_pipeline, tmp_path) -> Path:
    """A copy of the finished pipeline that a test may change."""
    return shutil.copytree(pipeline_folder / "root", tmp_path / "root")


def _run_or_copy(pipeline_folder: Path, tmp_path_factory) -> WatchedRun:
    temp = tmp_path_factory.getbasetemp()
    shared = temp.parent if "PYTEST_XDIST_WORKER" in os.environ else temp
    with open(shared / "finished.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        record = shared / "finished.pickle"
        if not record.exists():
            done = WatchedRun(pipeline_folder, "root")
            assert done.returncode == 0, done.stdout + done.stderr
            shutil.copytree(pipeline_folder / "root", shared / "finished")
            record.write_bytes(pickle.dumps((done, pipeline_folder)))
            return done
    done, origin = pickle.loads(record.read_bytes())
    shutil.copytree(shared / "finished", pipeline_folder / "root")
    done.stdout = done.stdout.replace(str(origin), str(pipeline_folder))
    return done


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Starts with the slow tests, so that parallel workers end together."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="module")
def device():
    """This process as the one rank of its own runs, by the rank's torch.device.

    Its variables are not for its children.
    """
    import torch

    from pretrain.engine.distributed import leave_ranks, start_ranks

    before = set(os.environ)
    device = start_ranks()
    torch.set_num_threads(1)
    for name in os.environ.keys() - before - {"LOCAL_RANK"}:  # DeepSpeed asks for this one
        del os.environ[name]
    yield device
    leave_ranks()
    os.environ.pop("LOCAL_RANK", None)
