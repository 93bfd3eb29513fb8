"""Folders of Arrow files written by `Dataset.save_to_disk` and `DatasetDict.save_to_disk`.

A dataset's folder holds data-00000-of-00001.arrow and so on, named in state.json; others are left
from an earlier dataset. A DatasetDict's folder holds a dataset for each split, named in
dataset_dict.json.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.store.record_files import read_json
from pipeline.user_files.file_checks import shown_list

STATE, INFO, SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
DEFAULT_SPLIT = "train"
MAX_BYTES = 64 << 20  # of such a file; a larger one is text of the user's


def read_small_json(path: Path) -> Mapping[str, Any]:
    """Returns the object in a JSON file; an empty one if there is none or the file is too large."""
    try:
        return (path.stat().st_size <= MAX_BYTES and path.is_file() and read_json(path)) or {}
    except OSError:
        return {}


def data_files(folder: str | Path) -> list[str] | None:
    """Returns the names of the Arrow files of a dataset's folder; None for other folders."""
    if not os.path.isfile(os.path.join(folder, INFO)):
        return None
    return file_names(read_small_json(Path(folder, STATE)).get("_data_files"))


def file_names(files: Any) -> list[str] | None:
    """Returns the names in a list of state.json; None for anything else."""
    if not isinstance(files, list) or not all(isinstance(file, dict) for file in files):
        return None
    # Names, not paths: they could lead out of the folder.
    return [os.path.basename(str(file.get("filename"))) for file in files]


def splits_in(folder: str | Path) -> list[str] | None:
    """Returns the split names of a DatasetDict's folder; None for other folders."""
    splits = read_small_json(Path(folder, SPLITS)).get("splits")
    return [os.path.basename(str(name)) for name in splits] if isinstance(splits, list) else None


def folder_of_split(folder: Path, split: str) -> Path:
    """Returns the folder of a split of a DatasetDict; for other folders the folder itself."""
    return folder / split if split in (splits_in(folder) or ()) else folder


def problem_with_split(folder: Path, split: str) -> str:
    """Returns the reason why a saved dataset lacks the split, or an empty string."""
    if (splits := splits_in(folder)) is not None:
        return f"{folder} has no split {split}, it has {shown_list(splits) or 'none'}"
    state = read_small_json(folder / STATE) if data_files(folder) is not None else {}
    if state and split not in (DEFAULT_SPLIT, state.get("_split")):
        return f"{folder} is one Dataset, without split {split}, expected the folder of that split"
    return ""


def split_in_words(folder: Path) -> str:
    """Returns a line on the split of a DatasetDict; an empty string for other folders."""
    splits = splits_in(folder.parent) or []
    if folder.name not in splits:
        return ""
    others = shown_list(name for name in splits if name != folder.name)
    return f"{folder.parent}: split {folder.name} is read{others and f', not {others}'}"
