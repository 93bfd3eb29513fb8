"""Records of finished files and folders: fingerprint of the inputs, checksum of the content.

Intact files with a record of the same fingerprint are not made again. The record of `a/x` is
`a/records/x.json`, written after it.
"""

import json
from pathlib import Path

from pipeline.store.atomic_files import write_sealed
from pipeline.store.checksums import FILES, damage_to, states_of
from pipeline.store.record_files import read_sealed


def record_path(path: Path) -> Path:
    return path.parent / "records" / f"{path.name}.json"


def read_record(path: Path, wanted_fingerprint: str) -> dict | None:
    """Returns the record of a finished file or folder, None without one from these inputs.

    Reads the whole file; None if it is damaged.
    """
    record = read_sealed(record_path(path))
    if not record or record.get("fingerprint") != wanted_fingerprint:
        return None
    return record if path.exists() and not damage_to(path.parent, record.get(FILES, {})) else None


def write_record(path: Path, own_fingerprint: str, **content) -> dict:
    """Writes and returns the record of a file or folder just finished."""
    record = {"fingerprint": own_fingerprint, **json.loads(json.dumps(content))}
    write_sealed(record_path(path), record | {FILES: states_of(path.parent, [path.name])})
    return record


def is_as_recorded(path: Path) -> bool:
    """True if a file matches its record, whatever its inputs were; reads the whole file."""
    record = read_sealed(record_path(path))
    return record is not None and read_record(path, record.get("fingerprint", "")) is not None
