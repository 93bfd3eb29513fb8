"""Folders that `Dataset.save_to_disk` and `DatasetDict.save_to_disk` write, of Arrow files.

A dataset's folder holds data-00000-of-00001.arrow and so on; state.json names them, and those that
it does not name are left from an earlier dataset. A DatasetDict's folder holds a dataset for each
split, and dataset_dict.json names the splits.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import StageError
from pipeline.store.record_files import read_json
from pipeline.user_files.file_checks import shown_list

STATE, INFO, SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
DEFAULT_SPLIT = "train"
MAX_BYTES = 64 << 20  # of each of these files
TEXT_TYPES = ("string", "large_string", "string_view")


def _read(folder: str | Path, name: str) -> Mapping[str, Any]:
    """A file of JSON; empty if it is missing or something else."""
    path = Path(folder, name)
    try:
        content = read_json(path) if path.is_file() and path.stat().st_size <= MAX_BYTES else None
    except OSError:
        return {}
    return content if isinstance(content, dict) else {}


def data_files(folder: str | Path) -> list[str] | None:
    """Names of the Arrow files of a dataset's folder; None for other folders."""
    if not os.path.isfile(os.path.join(folder, INFO)):
        return None
    return _names(_read(folder, STATE).get("_data_files"))


def _names(files: Any) -> list[str] | None:
    if not isinstance(files, list) or not all(isinstance(file, dict) for file in files):
        return None
    # Names, not paths: they could lead out of the folder.
    return [os.path.basename(str(file.get("filename"))) for file in files]


def splits_in(folder: str | Path) -> list[str] | None:
    """Names of the splits of a DatasetDict's folder; None for other folders."""
    splits = _read(folder, SPLITS).get("splits")
    return [os.path.basename(str(name)) for name in splits] if isinstance(splits, list) else None


def folder_of_split(folder: Path, split: str) -> Path:
    """The folder of a split, if this is a DatasetDict with it; else the folder itself."""
    return folder / split if split in (splits_in(folder) or ()) else folder


def problem_with_split(folder: Path, split: str) -> str:
    """Why a folder has no such split, or an empty string; other folders have none to be named."""
    if (splits := splits_in(folder)) is not None:
        there = shown_list(splits) or "none"
        return f"{folder} has no split {split}, it has {there}"
    state = _read(folder, STATE) if data_files(folder) is not None else {}
    if state and split not in (DEFAULT_SPLIT, state.get("_split")):
        return f"{folder} is one Dataset, without split {split}, expected the folder of that split"
    return ""


def split_in_words(folder: Path) -> str:
    """Which of a DatasetDict's splits this folder is; an empty string for other folders."""
    splits = splits_in(folder.parent) or []
    if folder.name not in splits:
        return ""
    others = shown_list(name for name in splits if name != folder.name)
    return f"{folder.parent}: split {folder.name} is read{others and f', not {others}'}"


def check_arrow_file(path: str, column: str) -> None:
    """Raises StageError if the records beside a dataset's file tell that it is no use: files that
    are missing, rows that were picked by a list, no such column of text."""
    folder = os.path.dirname(path)
    files = data_files(folder)
    if files is None:
        return
    if missing := [name for name in files if not os.path.isfile(os.path.join(folder, name))]:
        raise StageError(f"{folder}: {missing[0]} is missing, {STATE} names it")
    if _names(_read(folder, STATE).get("_indices_data_files")):
        raise StageError(
            f"{folder}: its rows are picked by another file (_indices_data_files in {STATE}), "
            "expected a dataset that today's `datasets` has loaded and saved again"
        )
    features = _read(folder, INFO).get("features")
    if not isinstance(features, dict):
        return
    if column not in features:
        there = shown_list(features) or "none"
        raise StageError(
            f"{folder}: has no column `{column}`, it has {there} (DATASET.TEXT_COLUMN names it)"
        )
    feature = features[column]
    kind = feature.get("dtype") or feature.get("_type") if isinstance(feature, dict) else "a list"
    kind = kind if isinstance(kind, str) else f"an object of {shown_list(feature)}"
    if kind not in TEXT_TYPES:
        raise StageError(f"{folder}: column `{column}` holds {kind}, expected text")
