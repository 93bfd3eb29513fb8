"""The manual's first example, sizes cut: all that it needs comes from the Hub, through all stages;
without the Hub it makes the same, and the text is that of the same data in folders."""

import json
import shutil

import h5py
import pytest

from configs.defaults import GLUE_TASKS
from tests.dataset.dataset_helpers import files_of
from tests.hub.repositories import write_parquet
from tests.hub.whole_runs import SMALL, SMALL_DATA, run_main
from tests.hub_server import Fault
from tests.small_pipeline import PLANTED, SECRETS
from tests.test_secrets import files_with_secrets

pytestmark = pytest.mark.slow

CONFIG = "configs/24h-bert-simple.yaml"
DATASET_ONLY = ("--stages", "dataset")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("default_home")


@pytest.fixture(scope="module")
def whole_run(hub_of_all, home, tmp_path_factory):
    """(output root, the finished process)."""
    hub_of_all.forget()
    root = tmp_path_factory.mktemp("default_root")
    done = run_main(hub_of_all, home, root, CONFIG, *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    return root, done


def content_of(root):
    """Text shards and arrays of the samples by name; the files also hold the fingerprint, which
    depends on where the text came from."""
    content = files_of(root / "tmp" / "dataset", "*.txt")
    content = {path.rpartition("/")[2]: text for path, text in content.items()}
    for path in root.glob("data/*/*.hdf5"):
        with h5py.File(path) as file:
            arrays = {name: file[name][:].tobytes() for name in file}
        assert {"input_ids", "masked_lm_ids"} <= arrays.keys()
        content[path.name] = arrays
    assert len(content) == 5
    return content


def test_all_stages_run_from_the_hub(whole_run, hub_of_all):
    root, done = whole_run
    assert done.stderr == ""
    home = "is read from its present home [wikimedia/wikipedia, 20231101.en]"
    assert f"dataset: [wikipedia, 20220301.en] {home}\n" in done.stdout
    summary = json.loads(next(root.rglob("output/**/summary.json")).read_text())
    assert sorted(summary["best"]) == sorted(GLUE_TASKS)
    assert list(root.rglob("*-partial-not-for-submission.zip"))
    assert list(root.rglob("report.html"))
    tokens = {request.token for request in hub_of_all.requests if "/resolve/" in request.path}
    assert tokens == {SECRETS["HF_TOKEN"]}


@pytest.mark.slow
def test_the_commits_are_recorded(whole_run, hub_of_all):
    root, _ = whole_run
    folder = hub_of_all.folder
    commits = {
        name: hub_of_all.commit(folder / kind / name)
        for kind, name in (
            ("datasets", "wikimedia/wikipedia"),
            ("datasets", "lucadiliello/bookcorpusopen"),
            ("models", "bert-large-uncased"),
        )
    }
    [manifest] = root.glob("data/*/manifest.json")
    assert json.loads(manifest.read_text())["results"]["commits"] == commits
    card = (manifest.parent / "dataset_card.md").read_text()
    assert all(commit in card for commit in commits.values())


def test_the_token_is_nowhere(whole_run, home):
    root, done = whole_run
    assert PLANTED not in done.stdout + done.stderr
    assert files_with_secrets(root) == []
    assert files_with_secrets(home) == []


def test_offline_it_makes_the_same(whole_run, hub, home, tmp_path):
    arguments = (CONFIG, *DATASET_ONLY, *SMALL_DATA)
    done = run_main(hub, home, tmp_path, *arguments, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert content_of(tmp_path) == content_of(whole_run[0])
    assert hub.requests == []


def test_the_samples_are_those_of_folders(whole_run, hub, home, tmp_path):
    folders = hub.folder / "datasets"
    sources = (
        f"[[{folders / 'wikimedia' / 'wikipedia'}, 20231101.en], "
        f"[{folders / 'lucadiliello' / 'bookcorpusopen'}, '']]"
    )
    tokenizer = str(hub.folder / "models" / "bert-large-uncased")
    arguments = (CONFIG, *DATASET_ONLY, *SMALL_DATA, "DATASET.HUGGINGFACE_DATASETS", sources)
    arguments += ("TOKENIZER.NAME_OR_PATH", tokenizer)
    done = run_main(hub, home, tmp_path, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert content_of(tmp_path) == content_of(whole_run[0])
    assert hub.requests == []


def test_offline_without_a_cache_it_says_what_to_do(hub, tmp_path):
    arguments = (CONFIG, *DATASET_ONLY, *SMALL_DATA)
    done = run_main(hub, tmp_path / "home", tmp_path, *arguments, HF_HUB_OFFLINE="1")
    assert done.returncode == 2  # before anything is touched
    cause = (
        "DATASET.HUGGINGFACE_DATASETS: wikimedia/wikipedia is needed from the Hub as text: "
        "HF_HUB_OFFLINE is set, and it is not in the cache"
    )
    assert cause in done.stderr and "Traceback" not in done.stderr
    assert hub.requests == []


def test_what_is_resumed_is_of_the_same_commit(whole_run, hub, home, tmp_path):
    """The second dataset cannot be fetched at first, and the first one changes meanwhile."""
    arguments = (CONFIG, *DATASET_ONLY, *SMALL_DATA)
    home_of_books = home / "hub" / "datasets--lucadiliello--bookcorpusopen"
    shutil.rmtree(home_of_books)
    hub.faults = [Fault(r"GET .*/bookcorpusopen/.*\.parquet", status=403)]
    failed = run_main(hub, home, tmp_path, *arguments)
    assert failed.returncode == 3
    assert "lucadiliello/bookcorpusopen: the Hub answers 403 Forbidden" in failed.stderr
    hub.faults.clear()
    [changed] = (hub.folder / "datasets").rglob("20231101.en/train-00001-*.parquet")
    content = changed.read_bytes()
    try:
        write_parquet(changed, {"text": ["Something else.", "And this."]})
        done = run_main(hub, home, tmp_path, *arguments)
    finally:
        changed.write_bytes(content)
    assert done.returncode == 0, done.stdout + done.stderr
    assert content_of(tmp_path) == content_of(whole_run[0])
