"""Finds the columns of a table and turns values of any format into its cells."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import StageError
from pipeline.user_files.file_checks import shown_list


def column_positions(path: Path, names: Sequence[str], columns: Sequence[str]) -> list[int]:
    """Returns the positions of the columns in the header `names`.

    Raises StageError if a column is missing or appears twice.
    """
    missing = [column for column in columns if column not in names]
    if missing:
        found = shown_list(names) if any(names) else "none, the file is empty"
        raise StageError(f"{path}: no column {', '.join(missing)}; it has {found}{_hint(names)}")
    for column in columns:
        if names.count(column) > 1:
            raise StageError(f"{path}: column {column} appears twice in {shown_list(names)}")
    return [names.index(column) for column in columns]


def _hint(names: Sequence[str]) -> str:
    """Explains a header with another delimiter."""
    other = [mark for mark in ",;\t" if len(names) == 1 and mark in names[0]]
    expected = "commas or semicolons in .csv, tabs in .tsv"
    return f" (columns are separated by {expected}, not by {other[0]!r})" if other else ""


def cell_of(value: Any, is_optional: bool = False) -> str | None:
    """Returns a string, number, true or false as a cell (1.0 as `1`), None for other values.

    An optional null, or the NaN that pandas writes for a missing cell, is an empty cell.
    """
    if isinstance(value, str):
        return value
    if _is_missing(value):
        return "" if is_optional else None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, (int, float)) else None


def list_of(value: Any, separator: str) -> tuple[str, ...] | None:
    """Returns a list of strings, numbers, true or false, or the parts of a text, as a list cell.

    Parts lose the spaces around them, and empty ones are dropped; a single number is a list of one.
    Returns None for a null or NaN. Raises ValueError for other values.
    """
    if _is_missing(value):
        return None
    if isinstance(value, str):
        return tuple(filter(None, map(str.strip, value.split(separator))))
    cells = [cell_of(part) for part in (value if isinstance(value, list) else [value])]
    found = tuple(cell for cell in cells if cell is not None)
    if len(found) < len(cells):
        raise ValueError("no list of texts or numbers")
    return found


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def problem_of_text(text: str) -> str:
    """Returns the reason why no cell has this text, or ""; half a character counts as not UTF-8."""
    if "\0" in text:  # left by a crash; no text has one
        return "NUL byte"
    try:
        text.encode()  # far faster than a look at each character
    except UnicodeEncodeError:
        return "not UTF-8"
    return ""
