"""CSV dialects: finds the delimiter, the escapes and the spaces of a file in its first rows.

A quote within a quoted field is doubled, as in spreadsheets, or escaped by a backslash, as in Spark
and MySQL. A backslash before any other character is text.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

ESCAPED = re.compile(r'\\(["\\])')
MAX_FIELD = (16 << 20) + 1  # characters; Python's own limit is shorter than articles
_MARKS = re.compile('""?')
_PAIR_OR_SINGLE = re.compile(r'\\["\\]?')
_QUOTED = re.compile(r'"[^"]*"')
_SEPARATOR_LINE = re.compile(r'"?sep=([^"\\\w])"?', re.IGNORECASE)  # Excel's, before the header


@dataclass(frozen=True, slots=True)
class Dialect:
    """quotes: False if quotes are text. escapes: True if backslashes escape quotes. skips_spaces:
    True if spaces between a delimiter and a field are not part of the field."""

    delimiter: str
    quotes: bool = True
    escapes: bool = False
    skips_spaces: bool = False

    def reader(self, lines: Iterable[str]) -> Iterator[list[str]]:
        """Yields the fields of each row; raises csv.Error for misplaced quotes."""
        csv.field_size_limit(MAX_FIELD)
        return csv.reader(
            map(_with_backslashes_kept, lines) if self.escapes else lines,
            delimiter=self.delimiter,
            escapechar="\\" if self.escapes else None,
            skipinitialspace=self.skips_spaces,
            strict=True,
        )

    def field_start(self, line: str, place: int) -> int:
        """Returns the start of the field after the delimiter that ends at `place`."""
        while self.skips_spaces and line.startswith(" ", place):
            place += 1
        return place

    def opens_field(self, line: str) -> bool:
        """True if the first single quote opens a field, in a line that may begin within quotes."""
        mark = next((mark for mark in _MARKS.finditer(line) if mark[0] == '"'), None)
        if not mark or line[mark.end() : mark.end() + 1] in ("\n", self.delimiter):
            return False
        before = line[: mark.start()]
        before = before.rstrip(" ") if self.skips_spaces else before
        return not before or before.endswith(self.delimiter)

    def looks_like_row(self, line: str, width: int) -> bool:
        """True if an unquoted line has `width` fields; the commas of sentences do not count."""
        found = line.count(self.delimiter)
        return found - (0 if self.skips_spaces else line.count(f"{self.delimiter} ")) == width - 1


TABS = Dialect("\t", quotes=False)


def separator_of(line: str) -> str:
    """Returns the delimiter in a line like `sep=;`, or an empty string."""
    found = _SEPARATOR_LINE.fullmatch(line.rstrip("\r\n"))
    return found[1] if found else ""


def find_dialect(head: bytes, header: str, delimiter: str) -> Dialect:
    """Returns the dialect that fits the first rows best.

    head: the first bytes of the file. delimiter: from a `sep=` line, or empty; then it is a
    semicolon if the header has one outside quotes and no comma there, else a comma.
    """
    bare = _QUOTED.sub("", header)
    delimiter = delimiter or (";" if ";" in bare and "," not in bare else ",")
    first, _, rest = head.partition(b"\n")
    head = rest if separator_of(first.decode(errors="replace")) else head
    return Dialect(
        delimiter,
        escapes=escapes_by_backslash(head, delimiter),
        skips_spaces=_has_spaced_quotes(head, delimiter),
    )


def escapes_by_backslash(head: bytes, delimiter: str = ",") -> bool:
    """True if more rows of `head` are well-formed with escaped quotes than with doubled ones."""
    if b'\\"' not in head:
        return False
    escaped = _num_good_rows(head, Dialect(delimiter, escapes=True))
    return escaped > _num_good_rows(head, Dialect(delimiter))


def _has_spaced_quotes(head: bytes, delimiter: str) -> bool:
    """True if fields are quoted after a space, as in `1, "a, b"`."""
    if f'{delimiter} "'.encode() not in head or f'{delimiter}"'.encode() in head:
        return False
    spaced = _num_good_rows(head, Dialect(delimiter, skips_spaces=True))
    return spaced >= _num_good_rows(head, Dialect(delimiter))


def _num_good_rows(head: bytes, dialect: Dialect) -> int:
    """Counts the rows as wide as the first one, minus the others; blank lines do not count."""
    text = head.decode(errors="replace").replace("\r\n", "\n").replace("\r", " ")
    reader = dialect.reader(f"{line}\n" for line in text.split("\n"))
    width = balance = 0
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return balance
        except csv.Error:  # reading resumes with the next line
            balance -= 1
            continue
        width = width or len(row)
        if row:
            balance += 1 if width in (1, len(row)) else -1


def _with_backslashes_kept(line: str) -> str:
    """Doubles the backslashes before other characters, which `csv` would drop."""
    if "\\" not in line:
        return line
    return _PAIR_OR_SINGLE.sub(lambda found: found[0] if len(found[0]) > 1 else "\\\\", line)
