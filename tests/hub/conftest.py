"""One Hub for all tests of this folder, with small repositories, and processes that speak to it."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hub.asked import Child
from tests.hub.repositories import (
    write_books,
    write_glue,
    write_model,
    write_tokenizer,
    write_wikipedia,
)
from tests.hub_server import HubServer, serve


@pytest.fixture(scope="session")
def hub_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    subsets = {"20231101.en": 30, "20231101.frr": 10}
    write_wikipedia(folder / "datasets" / "wikimedia" / "wikipedia", subsets)
    write_books(folder / "datasets" / "lucadiliello" / "bookcorpusopen")
    write_glue(folder / "datasets" / "nyu-mll" / "glue")
    write_tokenizer(folder / "models" / "bert-large-uncased")
    return folder


@pytest.fixture(scope="session")
def tiny_model(hub_folder) -> str:
    """The name of a checkpoint."""
    write_model(hub_folder / "models" / "org" / "tiny")
    return "org/tiny"


@pytest.fixture(scope="session")
def hub_of_all(hub_folder) -> HubServer:
    with serve(hub_folder) as server:
        yield server


@pytest.fixture
def hub(hub_of_all) -> HubServer:
    hub_of_all.forget()
    yield hub_of_all
    hub_of_all.forget()


@pytest.fixture(scope="session")
def hub_home(tmp_path_factory) -> Path:
    """The Hub's cache, which fills from test to test."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def online(hub_of_all, hub_home) -> Child:
    child = Child(hub_of_all.address, hub_home)
    yield child
    child.end()


@pytest.fixture(scope="module")
def offline(hub_of_all, hub_home) -> Child:
    child = Child(hub_of_all.address, hub_home, HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    yield child
    child.end()


@pytest.fixture
def new_repository(hub, request) -> Callable[[str], tuple[str, Path]]:
    """Makes a repository that no cache has; `datasets` or `models` is its kind."""
    made = []

    def make(kind: str, like: str = "") -> tuple[str, Path]:
        owner = "of-" + hashlib.sha1(request.node.nodeid.encode()).hexdigest()[:16]
        name = f"{owner}/number{len(made)}"
        folder = hub.folder / kind / name
        if like:
            shutil.copytree(hub.folder / kind / like, folder)
        else:
            folder.mkdir(parents=True)
        made.append(folder)
        return name, folder

    yield make
    for folder in made:
        shutil.rmtree(folder.parent, ignore_errors=True)
