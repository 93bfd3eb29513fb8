"""Records of finished files and folders: out of what they were made, and what they are.

What has a record of the right fingerprint, and is still what that says, is not made again. The
record of `a/x` is `a/records/x.json`, written after it.
"""

import json
from pathlib import Path

from pipeline.store.atomic_files import write_sealed
from pipeline.store.checksums import FILES, damage_to, states_of
from pipeline.store.record_files import read_sealed


def record_path(path: Path) -> Path:
    return path.parent / "records" / f"{path.name}.json"


def read_record(path: Path, wanted_fingerprint: str) -> dict | None:
    """The record of a finished file or folder, None if there is none from these inputs.

    Also if the file is damaged: the whole of it is read to know.
    """
    record = read_sealed(record_path(path))
    if not record or record.get("fingerprint") != wanted_fingerprint:
        return None
    return record if path.exists() and not damage_to(path.parent, record.get(FILES, {})) else None


def write_record(path: Path, own_fingerprint: str, **content) -> dict:
    """Writes the record of a file or folder that has just been finished, and returns it."""
    record = {"fingerprint": own_fingerprint, **json.loads(json.dumps(content))}
    write_sealed(record_path(path), record | {FILES: states_of(path.parent, [path.name])})
    return record


def is_as_recorded(path: Path) -> bool:
    """Whether a file is what its record says, whatever it was made from; it is read to know."""
    record = read_sealed(record_path(path))
    return record is not None and read_record(path, record.get("fingerprint", "")) is not None
