"""Reads the names of labels from a file, one per line, and finds the label of a cell."""

from collections.abc import Sequence
from pathlib import Path

from finetune.data.files.cells import problem_of_text
from finetune.data.tables import iter_lines
from pipeline.errors import StageError
from pipeline.user_files.delimited_files import TOO_LONG
from pipeline.user_files.file_checks import shown


def label_names(path: Path) -> tuple[str, ...]:
    """Returns the names in the file's order, without the spaces around them.

    Raises StageError for a line without a name, with a tab or with the name of an earlier line, for
    fewer than two names, and a name that is the number of another label.
    """
    lines: dict[str, int] = {}
    for number, line in iter_lines(path):
        name = (line or b"").decode("utf-8", "surrogateescape").strip()
        problem = TOO_LONG if line is None else problem_of_text(name)
        if not name and not problem:
            problem = "no name, expected one in every line: their order numbers the labels"
        elif "\t" in name or "\r" in name:
            problem = f"{name!r}, expected a name without tabs"
        elif name in lines:
            problem = f"label {shown(name)}, as in line {lines[name]}"
        elif _is_number(name) and int(name) != len(lines):
            problem = (
                f"{shown(name)} is the name of the label with the number {len(lines)}, expected "
                "other names than numbers, as cells may hold the labels' numbers"
            )
        if problem:
            raise StageError(f"{path}:{number}: {problem}")
        lines[name] = number
    if len(lines) < 2:
        raise StageError(f"{path}: {len(lines)} names of labels, expected at least two")
    return tuple(lines)


def label_position(text: str, names: Sequence[str], may_be_number: bool = False) -> int | None:
    """Returns the position of a label's name, or of its number if that is allowed, else None."""
    if text in names:
        return names.index(text)
    is_number = may_be_number and _is_number(text) and int(text) < len(names)
    return int(text) if is_number else None


def _is_number(text: str) -> bool:
    """True for 0, 1, 2 and so on, without leading zeros."""
    return text.isascii() and text.isdecimal() and (text == "0" or not text.startswith("0"))
