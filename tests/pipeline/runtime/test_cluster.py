"""A Dask cluster as executor: real schedulers and workers, which know nothing of this project."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("distributed")

from configs.defaults import get_default_config
from dataset.stage import prepare_dataset
from pipeline.console import duration
from pipeline.errors import StageError
from pipeline.runtime import cluster as cluster_module
from pipeline.runtime import cluster_worker
from pipeline.runtime.cluster import cluster
from pipeline.runtime.executor import run_unordered
from tests.pipeline import dask_cluster

PROJECT = Path(__file__).resolve().parent.parent.parent.parent
RUN = """
import sys, time
from pathlib import Path
from pipeline.runtime.cluster import cluster
from pipeline.runtime.executor import run_unordered
with cluster(sys.argv[1], Path("shared")) as executor:
    print("ready", flush=True)
    print(sum(1 for _ in run_unordered(executor, time.sleep, [float(sys.argv[2])] * 4)), flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("dask")


@pytest.fixture(scope="module")
def address(folder):
    """One scheduler with two workers that live through the whole module."""
    from distributed import Client

    with dask_cluster.scheduler(folder) as (address, _), dask_cluster.workers(folder, address):
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        yield address


@pytest.mark.slow
def test_jobs_run_with_the_code_from_here(address, tmp_path):
    jobs = [7.0**i for i in range(10)]
    with cluster(address, tmp_path) as executor:
        assert executor.workers_per_host == {socket.gethostname(): 2}
        assert executor.num_workers == 2
        assert dict(run_unordered(executor, duration, jobs)) == {job: duration(job) for job in jobs}
        with pytest.raises(ZeroDivisionError):
            list(run_unordered(executor, (1).__truediv__, [0]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_changed_code_is_taken_over(address, tmp_path):
    """Workers live for weeks; the project's files change in between."""
    package = tmp_path / "project" / "some_new_package"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    sys.path.insert(0, str(package.parent))
    try:
        for answer in ("old", "new one"):
            (package / "words.py").write_text(f"def answer(_):\n    return {answer!r}\n")
            sys.modules.pop("some_new_package.words", None)
            from some_new_package.words import answer as function

            with cluster(address, tmp_path, project=package.parent) as executor:
                assert list(run_unordered(executor, function, [0])) == [(0, answer)]
    finally:
        sys.path.remove(str(package.parent))


def test_a_checkout_of_that_name_is_not_deleted(tmp_path, monkeypatch):
    from pipeline.runtime.cluster_worker import FOLDER, ProjectPlugin, pack_project

    checkout, old = tmp_path / f"{FOLDER}fork", tmp_path / "worker" / f"{FOLDER}0"
    for folder in (checkout, old):
        folder.mkdir(parents=True)
        monkeypatch.syspath_prepend(str(folder))
    plugin = ProjectPlugin(pack_project(checkout), None, ())
    plugin.unpack(tmp_path / "worker" / f"{FOLDER}1")
    assert checkout.exists() and str(checkout) in sys.path
    assert not old.exists() and str(old) not in sys.path


def test_what_workers_write_is_for_the_user_alone(address, tmp_path):
    with cluster(address, tmp_path) as executor:
        list(run_unordered(executor, Path.touch, [tmp_path / "file"]))
    assert (tmp_path / "file").stat().st_mode & 0o077 == 0


def test_initializer_runs_in_every_worker(address, tmp_path):
    with cluster(address, tmp_path, os.putenv, ("UNUSED", "1")) as executor:
        assert list(run_unordered(executor, abs, [-1])) == [(-1, 1)]
    with (
        pytest.raises(StageError, match="take over this project's code: ZeroDivisionError"),
        cluster(address, tmp_path, divmod, (1, 0)),
    ):
        pass


def test_text_must_be_seen_everywhere(address, tmp_path, monkeypatch):
    here = tmp_path / "text"
    here.touch()
    with cluster(address, tmp_path) as executor:
        executor.check_sees([here, tmp_path / "neither here nor there"])
        monkeypatch.setattr(Path, "exists", lambda path: True)  # as if only this machine had it
        with pytest.raises(StageError, match=r"does not see .*neither here"):
            executor.check_sees([tmp_path / "neither here nor there"])


def test_folder_must_be_shared(address, tmp_path, monkeypatch):
    """A folder of this machine alone looks to the workers like one without the probe."""
    monkeypatch.setattr(Path, "touch", lambda path: None)
    monkeypatch.setattr("pipeline.runtime.cluster_worker.answer_probe.__defaults__", (0.1,))
    with pytest.raises(StageError, match=r"is not shared: worker tcp:.* does not see it"):
        open_cluster(address, tmp_path)


def open_cluster(*arguments) -> None:
    with cluster(*arguments):
        pass


def test_versions_must_agree(address, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda package: "1.0")
    with pytest.raises(StageError, match=r"has distributed 20\d\d\S+, this machine 1\.0; install"):
        open_cluster(address, tmp_path)


def test_builds_of_a_release_agree(monkeypatch):
    """Servers with other drivers have a torch for another CUDA."""
    builds = {"torch": "2.13.0+cu126", "numpy": "2.4.6"}
    monkeypatch.setattr(cluster_worker.metadata, "version", builds.get)
    found = cluster_worker.installed_versions(("torch", "numpy"))
    assert {"torch": "2.13.0", "numpy": "2.4.6"}.items() <= found.items()


@pytest.mark.slow
def test_a_killed_worker_is_replaced(tmp_path, monkeypatch):
    with (
        dask_cluster.scheduler(tmp_path) as (address, _),
        dask_cluster.workers(tmp_path, address) as processes,
        cluster(address, tmp_path / "shared") as executor,
    ):
        done = 0
        for _ in run_unordered(executor, time.sleep, [0.1] * 12):
            done += 1
            if done == 1:
                processes[0].kill()
        assert done == 12 and processes[1].poll() is None
        processes[1].kill()
        monkeypatch.setattr(cluster_module, "NO_WORKER_SECONDS", 0.5)
        monkeypatch.setattr("pipeline.runtime.executor.CHECK_SECONDS", 0.2)
        with pytest.raises(StageError, match=r"all workers of tcp:.* are gone"):
            list(run_unordered(executor, abs, [1]))


@pytest.mark.slow
def test_a_lost_scheduler_ends_the_run(tmp_path, capfd):
    import dask

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        dask_cluster.scheduler(tmp_path) as (address, process),
        dask_cluster.workers(tmp_path, address, 1),
        pytest.raises(StageError, match=r"scheduler at tcp:.* went away"),
        cluster(address, tmp_path / "shared") as executor,
    ):
        for _ in run_unordered(executor, time.sleep, [0.1] * 9):
            process.kill()
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_the_dataset_is_the_same_as_here(address, tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "one", "two", "three", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    (tmp_path / "text").mkdir()
    for name in "ab":
        articles = (f"One two. Three {name}. " * (i % 9 + 1) for i in range(400))
        (tmp_path / "text" / f"{name}.txt").write_text("\n\n".join(articles))
    made = [
        made_dataset(tmp_path / f"root{bool(where)}", tmp_path, where) for where in ("", address)
    ]
    assert len(made[0]) > 4 and made[0] == made[1]


def made_dataset(root: Path, inputs: Path, scheduler: str) -> dict[str, bytes]:
    config = get_default_config()
    config.SYSTEM.OUTPUT_ROOT, config.SYSTEM.DASK_SCHEDULER = str(root), scheduler
    config.SYSTEM.NUM_WORKERS = 1
    config.TOKENIZER.NAME_OR_PATH = str(inputs / "vocab.txt")
    config.DATASET.CUSTOMIZED_DATASETS = [str(inputs / "text")]
    config.DATASET.NUM_TRAIN_SHARDS = config.DATASET.DUP_FACTOR = 2
    prepare_dataset(config)
    found = [*root.rglob("*.hdf5"), *root.rglob("*_0*.txt")]
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


@pytest.mark.slow
def test_no_scheduler(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(cluster_module, "CONNECT_SECONDS", 0.5)
    with pytest.raises(StageError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        open_cluster("tcp://127.0.0.1:9", tmp_path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_no_workers_and_workers_with_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_module, "FIRST_WORKER_SECONDS", 0.2)
    with dask_cluster.scheduler(tmp_path) as (address, _):
        with pytest.raises(StageError, match="has no workers; start some"):
            open_cluster(address, tmp_path)
        monkeypatch.setattr(cluster_module, "FIRST_WORKER_SECONDS", 10)
        with (
            dask_cluster.workers(tmp_path, address, 1, "--nthreads", "3"),
            pytest.raises(StageError, match="has 3 threads, expected 1"),
        ):
            open_cluster(address, tmp_path)


def test_missing_package_names_the_file(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(StageError, match=r"distributed is missing: .*requirements-dask\.txt"):
        open_cluster("tcp://127.0.0.1:9", tmp_path)


def run_elsewhere(folder: Path, address: str, seconds: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, address, seconds],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    return process


@pytest.mark.slow
def test_a_run_prints_nothing_of_its_own(address, tmp_path):
    process = run_elsewhere(tmp_path, address, "0.01")
    assert process.communicate(timeout=20) == ("4\n", "")


@pytest.mark.slow
def test_interrupt_ends_it_cleanly(address, tmp_path):
    process = run_elsewhere(tmp_path, address, "1")
    time.sleep(0.3)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert time.monotonic() - begin < 4
    assert output == "" and errors.rstrip().endswith("KeyboardInterrupt")
    assert errors.count("Traceback") == 1, errors
