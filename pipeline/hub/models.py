"""Finds models by their names: in folders, among the runs of pretraining, and on the Hub."""

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

from pipeline.errors import ConfigError, StageError
from pipeline.hub.repository import (
    Repository,
    cached_commit,
    cached_folder,
    fetch_matching,
    fetch_model,
)
from pipeline.store.paths import MODEL, pretrain_dir
from pipeline.store.record_files import read_json

CONFIG = "config.json"
# Files that a model's folder must have.
MODEL_FILES = {
    "config": (CONFIG,),
    "weights": ("*.safetensors", "*.bin"),
    "tokenizer": ("tokenizer*", "vocab*", "*.model"),
}
WEIGHT_NAMES = ("model.safetensors", "pytorch_model.bin")
# The files of a repository that describe a model: everything but its weights.
DESCRIPTION = (CONFIG, "README.md", "*token*", "vocab*", "merges*", "*.model")


def can_only_be_a_folder(name: str) -> bool:
    """True for paths; names on the Hub are like `bert-base-uncased`, `google/electra-small`."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1 or name.endswith("/")


def local_model(name: str, key: str, with_card: bool = False) -> tuple[str, dict[str, str]]:
    """Returns (folder of a model, {name: commit} of a model on the Hub), after a download.

    name: a folder, or a name on the Hub. key: the config key or flag with this name. with_card:
    fetches README.md too. Raises StageError if the model does not exist or cannot be downloaded.
    """
    if os.path.exists(name):
        return name, {}
    if can_only_be_a_folder(name):
        raise StageError(f"{key}: no such folder, got {os.path.abspath(name)}")
    repository = Repository(name, "model")
    try:
        folder = fetch_model(repository)
        if with_card:
            fetch_matching(repository, ("README.md",))
    except StageError as error:
        raise StageError(f"{key}: {error.cause}") from error
    return str(folder), {name: cached_commit(repository)}


def find_model(name: str, root: Path, key: str) -> Path | None:
    """Returns the folder of a model in Hugging Face form; None for a name on the Hub.

    name: such a folder, the folder of a pretraining run, the ID of a run under `root`, or a name on
    the Hub. Raises ConfigError, naming the key, if the folder has no model or the run is ambiguous.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _model_in(folder, key)
    runs = sorted(Path(path) for path in glob.glob(str(_run_dir(root, name))))
    if len(runs) > 1:
        listed = ", ".join(map(str, runs))
        raise ConfigError([f"{key}: several runs have the ID {name}, expected one of {listed}"])
    if runs:
        return _model_in(runs[0], key)
    if can_only_be_a_folder(name):
        raise ConfigError([f"{key}: no such folder, got {folder.absolute()}"])
    return None


def _run_dir(root: Path, run: str) -> Path:
    """Returns a pattern for the folders of a run, one for each data set."""
    return pretrain_dir(Path(glob.escape(str(root))), "*", glob.escape(run))


def _model_in(folder: Path, key: str) -> Path:
    for place in (folder, folder / MODEL):
        if (place / CONFIG).is_file():
            return place
    raise ConfigError(
        [
            f"{key}: no {CONFIG} in {folder.absolute()} nor in its folder {MODEL}, expected a "
            "model in Hugging Face form, or a finished run"
        ]
    )


def fetch_description(name: str, key: str) -> Path:
    """Returns the folder of the cached files that describe a model on the Hub, without weights.

    Fetches them unless the cache has them. Raises ConfigError, naming the key, if that fails.
    """
    repository = Repository(name, "model")
    folder = cached_folder(repository)
    if folder is None or not _is_described(folder):
        try:
            folder = fetch_matching(repository, DESCRIPTION)
        except StageError as error:
            raise ConfigError([f"{key}: {error.cause}"]) from error
    if not (folder / CONFIG).is_file():
        raise ConfigError([f"{key}: {name} has no {CONFIG} on the Hub, expected a model"])
    return folder


def described_model(name: str, root: Path, key: str) -> tuple[str, Path]:
    """Returns (folder, or name on the Hub, of a model; folder with the files that describe it).

    Arguments and errors as of `find_model` and `fetch_description`.
    """
    folder = find_model(name, root, key)
    return (str(folder), folder) if folder else (name, fetch_description(name, key))


def hub_name(folder: Path) -> str:
    """Returns the name on the Hub of a folder of its cache, "" for any other folder."""
    repository, snapshots = folder.parent.parent, folder.parent
    kind, found, name = repository.name.partition("--")
    is_cached = found and kind == "models" and snapshots.name == "snapshots"
    return name.replace("--", "/") if is_cached else ""


def weight_files(folder: Path) -> list[Path]:
    """Returns the files of a model's weights, of the first format present; an index comes first.

    Each format is a single file, or an index of several.
    """
    for name in WEIGHT_NAMES:
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return [folder / name]
        if index.is_file():
            places = (read_json(index) or {}).get("weight_map", {})
            return [index, *(folder / name for name in sorted({*places.values()}))]
    return []


def _is_described(folder: Path) -> bool:
    tokenizer = (any(folder.glob(pattern)) for pattern in MODEL_FILES["tokenizer"])
    return (folder / CONFIG).is_file() and any(tokenizer)


def problem_with_places(folder: Path) -> str:
    """Returns an error message if an index of weights names files of other folders, else ""."""
    inside = os.path.normpath(folder)
    for index in sorted(folder.glob("*.index.json")):
        names = (read_json(index) or {}).get("weight_map", {})
        for name in map(str, names.values() if isinstance(names, dict) else ()):
            if not Path(os.path.normpath(folder / name)).is_relative_to(inside):
                return f"{index} names {name}, expected files of that folder"
    return ""


@contextmanager
def refusing_code(model: str) -> Iterator[None]:
    """Turns refusals of transformers (trust_remote_code=False) into StageError.

    Weights in pickles (pytorch_model.bin) are loaded if they hold nothing but tensors.
    """
    try:
        yield
    except UnpicklingError as error:
        raise StageError(
            f"{model}: its weights are a pickle that holds more than tensors, which may be code "
            "and is not loaded; expected model.safetensors, or tensors alone"
        ) from error
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise StageError(
            f"{model}: needs code of its own, which is not run; expected an architecture of "
            "transformers, or a model exported here"
        ) from error
