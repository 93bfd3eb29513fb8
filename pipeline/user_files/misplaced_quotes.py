"""Splits CSV rows with misplaced quotes into their fields and loses no text."""

import re

from pipeline.user_files.csv_dialects import ESCAPED, Dialect

UNCLOSED = "a quote is never closed"
STRAY = "a quote within quotes is not doubled, or text follows a closing quote"
_MARKS, _MARKS_AND_ESCAPES = re.compile('""?'), re.compile(r'\\["\\]|""?')


def split_row(row: str, dialect: Dialect, num_columns: int) -> tuple[list[str], str]:
    """Returns the fields and the problem with them: UNCLOSED, STRAY or an empty string.

    An opening quote is closed only by one before a delimiter or the row's end. If this does not
    give `num_columns` fields, and in a table of one column, fields with stray quotes count as
    unquoted.
    """
    readings = [_split(row, dialect, lenient) for lenient in (num_columns > 1, False)]
    return next((found for found in readings if len(found[0]) == num_columns), readings[0])


def _split(row: str, dialect: Dialect, lenient: bool) -> tuple[list[str], str]:
    fields: list[str] = []
    problem, end = "", -1
    while end < len(row):
        start = dialect.field_start(row, end + 1)
        if quoted := _quoted_field(row, start, dialect, lenient):
            text, end, is_exact = quoted
            problem = problem if is_exact else STRAY
        else:
            if row.startswith('"', start):
                problem, lenient = STRAY, False  # no later quote closes a field, either
            text, end = _bare_field(row, start, dialect.delimiter)
            text = ESCAPED.sub(r"\1", text) if dialect.escapes else text
        fields.append(text)
        if end < 0:
            return fields, UNCLOSED
    return fields, problem


def _quoted_field(
    row: str, start: int, dialect: Dialect, lenient: bool
) -> tuple[str, int, bool] | None:
    """Returns text, end and False for stray quotes in it; None if no quote closes the field.

    lenient: False if the field must not have stray quotes.
    """
    if not row.startswith('"', start):
        return None
    parts, begin, num_stray = [], start + 1, 0
    for mark in (_MARKS_AND_ESCAPES if dialect.escapes else _MARKS).finditer(row, begin):
        parts.append(row[begin : mark.start()])
        begin = mark.end()
        is_last = row[begin : begin + 1] in ("", dialect.delimiter)
        if mark[0] == '"' and is_last:
            return "".join(parts), begin, num_stray == 0
        if mark[0] == '""' and is_last and num_stray % 2:  # a stray quote and the closing one
            return "".join([*parts, '"']), begin, False
        num_stray += mark[0] == '"'
        if num_stray and not lenient:
            break
        parts.append(mark[0][-1])
    return None


def _bare_field(row: str, start: int, delimiter: str) -> tuple[str, int]:
    """Returns text and end of a field that counts as unquoted.

    If it begins with a quote, it ends at a delimiter with an even number of quotes before it; the
    end is -1 if there is none.
    """
    if not row.startswith('"', start):
        end = row.find(delimiter, start)
        end = len(row) if end < 0 else end
        return row[start:end], end
    bare = rf'[^"{re.escape(delimiter)}]*'
    match = re.compile(rf'(?:{bare}"[^"]*")*{bare}').match(row, start)
    end = match.end() if match else start
    if row.startswith('"', end):
        return row[start + 1 :].replace('""', '"'), -1
    text = row[start:end]
    if delimiter in text and text.endswith('"'):
        text = text[1:-1].replace('""', '"')
    return text, end
