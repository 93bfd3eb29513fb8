"""CSV files in whose quoted cells a quote is escaped by a backslash: `"she said \\"hello\\""`.

Spark and MySQL write them so; spreadsheets double the quote instead. A backslash stands for itself
unless a quote or another backslash follows.
"""

import csv
import re
from collections.abc import Iterable, Iterator

BACKSLASH = "\\"
ESCAPED = re.compile(r'\\(["\\])')
_PAIR_OR_SINGLE = re.compile(r'\\["\\]?')


def escapes_by_backslash(head: bytes, delimiter: str = ",") -> bool:
    """Whether the rows that a file begins with are better read so than with doubled quotes."""
    if b'\\"' not in head:
        return False
    lines = _lines(head)
    doubled = _num_good_rows(lines, delimiter, None)
    return _num_good_rows(map(with_backslashes_kept, lines), delimiter, BACKSLASH) > doubled


def has_spaced_quotes(head: bytes, delimiter: str = ",") -> bool:
    """Whether the quotes in the rows that a file begins with stand behind a space, as in
    `1, "a, b"`, which is then no part of a cell."""
    if f'{delimiter} "'.encode() not in head or f'{delimiter}"'.encode() in head:
        return False
    lines = _lines(head)
    spaced = _num_good_rows(lines, delimiter, None, skips_spaces=True)
    return spaced >= _num_good_rows(lines, delimiter, None)


def _lines(head: bytes) -> list[str]:
    lines = head.decode(errors="replace").replace("\r\n", "\n").replace("\r", " ").split("\n")
    return [f"{line}\n" for line in lines]


def with_backslashes_kept(line: str) -> str:
    """The line as `csv` has to get it, which drops every backslash that escapes nothing."""
    if BACKSLASH not in line:
        return line
    return _PAIR_OR_SINGLE.sub(lambda found: found[0] if len(found[0]) > 1 else "\\\\", line)


def _num_good_rows(
    lines: Iterable[str], delimiter: str, escape: str | None, skips_spaces: bool = False
) -> int:
    """Rows with as many cells as the first one, less those that are broken."""
    width = good = bad = 0
    for row in _rows(iter(lines), delimiter, escape, skips_spaces):
        width = width or len(row or [])
        if row and (width == 1 or len(row) == width):
            good += 1
        else:
            bad += row != []
    return good - bad


def _rows(
    lines: Iterator[str], delimiter: str, escape: str | None, skips_spaces: bool
) -> Iterator[list[str] | None]:
    """None for a row with quotes in wrong places; reading goes on with the next line."""
    while True:
        try:
            yield from csv.reader(
                lines,
                delimiter=delimiter,
                escapechar=escape,
                skipinitialspace=skips_spaces,
                strict=True,
            )
            return
        except csv.Error:
            yield None
