"""Reads articles from text files: plain text, JSON lines and WikiExtractor's output.

An article is:

- .txt: articles are separated by blank lines, and a file's end ends an article. Line ends inside
  an article are white space: the lines may be sentences, paragraphs or wrapped text.
- A .txt file that has no blank line in its first MiB, but lines of 1000 bytes or more on average
  there, holds one article per line.
- .jsonl and .json: each line is an object, the value of its text column an article.
- A file that begins with `<doc ` comes from WikiExtractor: each element is an article; the title
  in its first line is dropped, as it is no sentence, and HTML entities are resolved. Files named
  wiki_00 and the like may also be WikiExtractor's JSON lines.
"""

import html
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from dataset.sources.article_stream import (
    BLOCK_BYTES,
    MAX_ROW_BYTES,
    NULL_ROWS,
    Piece,
    RawPiece,
    Tally,
    clean_characters,
    clean_text,
    iter_raw_pieces,
    row_pieces,
)
from dataset.sources.blanks import BLANKS, is_blank, with_plain_blank_lines
from dataset.sources.corpus_files import (
    DOC_TAG,
    checked_head,
    format_of,
    is_compressed,
    iter_blocks,
    read_head,
    text_size,
)
from pipeline.errors import StageError
from pipeline.user_files.file_checks import shown_list
from pipeline.user_files.json_lines import parsed_object

ARTICLE_LINE_BYTES = 1000  # from this mean length on, a line is a whole article
KINDS = {list: "a list", dict: "an object", bool: "true or false"}
FIRST_ROWS = 10  # checked before a file is read
LINE_END = re.compile(rb"\n")
SEPARATORS = {
    "blocks": re.compile(rb"\n(?:[ \t\r\v\f\0]*\n)+"),
    "lines": LINE_END,
    "json": LINE_END,
    "wiki": re.compile(rb"</doc>"),
}
# The tag of an element, and the line end behind it; a tag that is cut off takes its whole line.
DOC_LINE = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*<doc "
    rb"(?:[^\r\n]*title=\"([^\r\n]*)\"[^\r\n\">]*>|[^\r\n>]*>|[^\r\n]*)[ \t]*(?:\r\n?|\n)?"
)
LINE_BREAK = re.compile(rb"\r\n?|\n")


@dataclass(frozen=True, slots=True)
class TextSlice:
    """Bytes [start, end) of a file, cut between articles; of a compressed file, all.

    name: the file's name within its source, a part of the articles' identity. column: JSON key.
    """

    name: str
    path: str
    num_bytes: int
    column: str
    start: int = 0
    end: int | None = None

    def pieces(self, limit: int, tally: Tally) -> Iterator[Piece]:
        """Yields (position, text, True at the article's end), of at most `limit` bytes each.

        position: the byte at which the article begins in the (decompressed) file.
        """
        content = content_of(self.path)
        raw_limit = MAX_ROW_BYTES if content == "json" else limit
        blocks = iter_blocks(self.path, self.start, self.end)
        separator = SEPARATORS[content]
        raw_pieces = iter_raw_pieces(blocks, self.start, separator, raw_limit, tally)
        if content == "json":
            yield from json_pieces(raw_pieces, self, limit, tally)
        elif content == "wiki":
            yield from wiki_pieces(raw_pieces, tally)
        else:
            for position, raw, ends in raw_pieces:
                yield position, clean_text(raw, tally), ends


# --- content of a file -----------------------------------------------------------------------


def content_of(path: str) -> str:
    """blocks (articles between blank lines) | lines (an article each) | json | wiki."""
    if format_of(path) == "json":
        return "json"
    head = read_head(path)
    if head.startswith(DOC_TAG):
        return "wiki"
    if format_of(path) == "wiki" and head.startswith(b"{"):
        return "json"
    return "lines" if holds_one_article_per_line(head) else "blocks"


def holds_one_article_per_line(head: bytes) -> bool:
    """True if a file beginning with `head` (at most 1 MiB) holds one article per line."""
    lines = b"".join(with_plain_blank_lines([head], Counter())).splitlines()
    if len(lines) < 2 or not all(line.strip(BLANKS) for line in lines):
        return False
    return len(head) / len(lines) >= ARTICLE_LINE_BYTES


def check_text_file(path: str, column: str) -> None:
    """Raises StageError for a text or for JSON lines of no use.

    These are UTF-16, lines ending with CR alone, a JSON array, a first row without the column, and
    first lines without an object or without a text in the column.
    """
    head = checked_head(path)
    is_json = format_of(path) == "json" or (format_of(path) == "wiki" and head.startswith(b"{"))
    if not is_json:
        return
    first = next(iter_raw_pieces(iter_blocks(path), 0, LINE_END, MAX_ROW_BYTES, Tally()), None)
    first_line = clean_text(first[1], Tally()) if first else ""
    if first_line.startswith("["):
        raise StageError(f"{path}: is a JSON array, expected JSON lines: an object in each line")
    first_row = next(_objects([first_line]), None)
    if first_row is not None and column not in first_row:
        raise StageError(missing_column(path, column, first_row))
    # The last line may be cut off; the first one is complete, however long it is.
    others = head.split(b"\n", FIRST_ROWS)[1:-1]
    lines = [first_line, *(clean_text(line, Tally()) for line in others)]
    rows = list(_objects(lines))
    if not rows and sum(not is_blank(line) for line in lines) > 1:
        raise StageError(f"{path}: none of its first lines is a JSON object, expected one per line")
    problems = [_problem_of_row(row, column) for row in rows]
    if rows and all(problems):
        these = f"each of its first {len(rows):,} rows" if len(rows) > 1 else "its first row"
        raise StageError(f"{path}: {these} has {problems[0]}")
    if len(rows) == FIRST_ROWS and all(row.get(column) is None for row in rows):
        raise StageError(f"{path}: each of its first {FIRST_ROWS} rows has null in `{column}`")


def missing_column(path: str, column: str, there: Iterable[str]) -> str:
    found = shown_list(map(str, there)) or "none"
    return f"{path}: has no column `{column}`, it has {found} (DATASET.TEXT_COLUMN names it)"


# --- JSON lines and WikiExtractor ------------------------------------------------------------


def _objects(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yields the objects in lines of JSON and skips malformed lines."""
    for line in lines:
        with suppress(ValueError):
            yield parsed_object(line)


def _problem_of_row(row: dict[str, Any], column: str) -> str:
    """Names the value in place of a text, or returns an empty string."""
    if column not in row:
        return f"no `{column}`"
    if row[column] is None or isinstance(row[column], str):
        return ""
    return f"{KINDS.get(type(row[column]), 'a number')} in `{column}`, expected text"


def _has_twice(line: str, column: str) -> bool:
    """True if an object in JSON repeats the column; `json` takes the last value."""
    if line.count(f'"{column}"') < 2:
        return False
    pairs = json.loads(line, strict=False, object_pairs_hook=list)
    return [key for key, _ in pairs].count(column) > 1


def json_pieces(
    raw_pieces: Iterable[RawPiece], piece: TextSlice, limit: int, tally: Tally
) -> Iterator[Piece]:
    """Yields the articles of JSON lines; drops and counts malformed and oversized lines."""
    is_rest, column = False, piece.column
    for position, raw, ends in raw_pieces:
        place = f"{piece.path}: row at byte {position}"
        if ends and is_rest:
            tally.note("oversized_rows", f"{place}: longer than {MAX_ROW_BYTES >> 20} MiB")
        elif ends:
            line = clean_text(raw, tally)
            try:
                row = parsed_object(line)
                problem = _problem_of_row(row, column)
            except ValueError as error:
                problem = str(error)
            if problem:
                tally.note("malformed_rows", f"{place}: {problem}")
            else:
                if _has_twice(line, column):
                    tally.note("repeated_keys", f"{place}: `{column}` twice, the first is lost")
                if row[column] is None:
                    tally.counts[NULL_ROWS] += 1
                yield from row_pieces(position, row[column] or "", limit, tally)
        is_rest = not ends


def wiki_pieces(raw_pieces: Iterable[RawPiece], tally: Tally) -> Iterator[Piece]:
    begins = True
    for position, raw, ends in raw_pieces:
        text = without_title(raw) if begins else raw
        yield position, clean_characters(html.unescape(clean_text(text, tally)), tally), ends
        begins = ends


def without_title(raw: bytes) -> bytes:
    """Removes an element's tag, and the line after it if it repeats the title."""
    tag = DOC_LINE.match(raw)
    if not tag:
        return raw
    body = raw[tag.end() :]
    first, rest = (*LINE_BREAK.split(body, maxsplit=1), b"")[:2]
    title = html.unescape((tag[1] or b"").decode(errors="replace")).strip()
    is_title = html.unescape(first.decode(errors="replace")).strip() == title
    return rest if is_title else body


# --- cutting files ---------------------------------------------------------------------------


def cut_file(path: Path, name: str, column: str, slice_bytes: int) -> list[TextSlice]:
    """Cuts a file between articles into slices of about `slice_bytes`.

    Reads only around the cuts, unless articles are longer than a slice.
    """
    size = path.stat().st_size
    if is_compressed(str(path)):
        return [TextSlice(name, str(path), text_size(str(path)), column)]
    borders = [0]
    while (target := borders[-1] + slice_bytes) < size:
        borders.append(find_border(str(path), target, size))
    if borders[-1] < size:
        borders.append(size)
    return [
        TextSlice(name, str(path), end - start, column, start, end)
        for start, end in pairwise(borders)
    ]


def find_border(path: str, target: int, size: int) -> int:
    """Returns the start of an article after `target`, or the file's end.

    Read from `target` on, the second article is complete; the first one may not be.
    """
    blocks = iter_blocks(path, target, size)
    separator = SEPARATORS[content_of(path)]
    ended = False
    for position, _, ends in iter_raw_pieces(blocks, target, separator, BLOCK_BYTES, Tally()):
        if ended:
            return position
        ended = ends
    return size
