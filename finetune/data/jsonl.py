"""Reads files with a JSON object per line."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.data.tsv import decoded, leave_out, numbered_lines
from pipeline.errors import StageError


@dataclass(frozen=True)
class Objects:
    """rows: (line number, object). malformed: `file:line: what is wrong`, for lines left out."""

    path: Path
    rows: list[tuple[int, dict[str, Any]]]
    malformed: list[str] = field(default_factory=list)


def read_objects(path: Path) -> Objects:
    """All lines of a file; one is malformed if it is no JSON object in UTF-8.

    Raises StageError if the file is missing, and if there are too many malformed lines.
    """
    objects = Objects(path, [])
    for number, line in numbered_lines(path):
        try:
            objects.rows.append((number, _parsed(line)))
        except ValueError as error:
            leave_out(objects.malformed, f"{path}:{number}: {error}")
    return objects


def first_keys(path: Path, wanted: Iterable[str]) -> list[str]:
    """Keys of the first objects, as many as have all `wanted` ones; none for an empty file.

    Raises StageError if there are lines but none can be read.
    """
    keys: dict[str, None] = {}
    problem, missing = "", set(wanted)
    for number, line in numbered_lines(path):
        try:
            found = _parsed(line)
        except ValueError as error:
            problem = problem or f"{path}:{number}: {error}, expected an object per line"
            continue
        keys |= dict.fromkeys(found)
        if not (missing := missing - found.keys()):
            break
    if problem and not keys:
        raise StageError(problem)
    return list(keys)


def _parsed(line: bytes) -> dict[str, Any]:
    """Raises ValueError with what is wrong with the line."""
    text = decoded(line)
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON, {error.msg} in column {error.colno}") from None
    except RecursionError:
        raise ValueError("not JSON, nested too deeply") from None
    if not isinstance(row, dict):
        raise ValueError("no JSON object")
    if "\\u" in text:
        _check_surrogates(row)
    return row


def _check_surrogates(row: dict[str, Any]) -> None:
    """JSON can spell half a character, which no tokenizer takes."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair") from None
