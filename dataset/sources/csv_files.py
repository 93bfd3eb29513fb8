"""Reads articles from .csv and .tsv files. A row is an article.

See pipeline/user_files/delimited_files.py for misplaced and unclosed quotes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from dataset.sources.article_stream import Piece, Tally, clean_text, row_pieces
from dataset.sources.blanks import is_blank
from dataset.sources.corpus_files import checked_head, format_of, iter_blocks
from dataset.sources.text_files import missing_column
from pipeline.errors import StageError
from pipeline.user_files.delimited_files import STRAY, TOO_LONG, UNCLOSED, DelimitedFile, Row
from pipeline.user_files.file_checks import shown_list

# Problem of a row: its count, and the consequence.
PROBLEMS = {
    UNCLOSED: ("unclosed_quotes", "the line is a row"),
    STRAY: ("stray_quotes", "both are text"),
    TOO_LONG: ("oversized_rows", "the line is dropped"),
}


@dataclass(frozen=True, slots=True)
class CsvSlice:
    """A whole .csv file (with commas, with semicolons if its header has no comma outside quotes,
    or with the delimiter of Excel's first line `sep=;`) or .tsv file (with tabs)."""

    name: str
    path: str
    num_bytes: int
    column: str

    def pieces(self, limit: int, tally: Tally) -> Iterator[Piece]:
        """Yields (number of the row's last line, text, True if the article ends).

        Drops and counts rows that end before the text's column or have text after the header's
        last column, and lines after an unclosed quote that are not whole rows. In a table of one
        column, lines with delimiters are text.
        """
        table = _open_table(self.path, tally)
        header = table.header.fields
        if not header:
            return
        place, width = header.index(self.column), len(header)
        for row in table.rows():
            line = f"{self.path}:{row.first}"
            if row.problem:
                count, consequence = PROBLEMS[row.problem]
                tally.note(count, f"{line}: {row.problem}; {consequence}")
            if _is_blank_row(row):
                continue
            if width == 1:
                text = row.fields[0] if len(row.fields) == 1 else table.text
                yield from row_pieces(row.last, text, limit, tally)
            elif problem := _problem_of_row(row, place, width):
                tally.note("malformed_rows", f"{line}: {problem}; the row is dropped")
            else:
                yield from row_pieces(row.last, row.fields[place], limit, tally)


def check_csv_file(path: str, column: str) -> None:
    """Raises StageError if the text is UTF-16, lines end with CR alone, or the header lacks the
    column or has it twice."""
    checked_head(path)
    header = _open_table(path, Tally()).header.fields
    if header and column not in header:
        raise StageError(missing_column(path, column, header))
    if header.count(column) > 1:
        raise StageError(f"{path}: column `{column}` appears twice in {shown_list(header)}")


def _open_table(path: str, tally: Tally) -> DelimitedFile:
    def decode(line: bytes) -> str:
        return clean_text(line, tally).rstrip("\r").replace("\r", " ")

    table = DelimitedFile(iter_blocks(path), decode, is_blank, format_of(path) == "tsv")
    if table.dialect.escapes:
        tally.counts["files_with_backslash_escapes"] += 1
    return table


def _is_blank_row(row: Row) -> bool:
    return len(row.fields) < 2 and all(map(is_blank, row.fields))


def _problem_of_row(row: Row, place: int, width: int) -> str:
    """Returns the reason to drop a row, for the text in column `place`, or an empty string."""
    if len(row.fields) <= place or any(row.fields[width:]):
        return f"{len(row.fields)} fields, expected {width}"
    return ""
