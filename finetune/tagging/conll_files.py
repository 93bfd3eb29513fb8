"""CoNLL-like files: a token in each line, a blank line after each sentence.

Columns are separated by TABs, or by spaces if the first line has no TAB within. The first column
holds the token; a user counts from 1. All lines have as many columns as the first one. Blanks at a
line's end do not count, and a line of blanks is blank. `-DOCSTART-` in the first column ends a
document.

A line that begins with `# ` is a comment if no token can be meant (`#` is one in tweets): it comes
before a sentence's first token, and has no TAB in a file with TABs; in a file with spaces, it has
another number of columns, and its last one is no tag.
"""

import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from finetune.data.tables import iter_lines
from finetune.tagging.sentences import Sentence
from pipeline.errors import StageError
from pipeline.user_files.delimited_files import BARE_CR, TOO_LONG
from pipeline.user_files.file_checks import shown

TAB, BLANKS, NUL = "\t", " \t", "\0"
MAX_COLUMNS = 16  # with more, it is running text
MAX_TOKENS = 100_000  # of a sentence, which is held in memory
COUNTED_TOKENS = 5  # a sentence of so many shows if the first column counts them
_DOCUMENT_END = re.compile(r"[ \t]*-DOCSTART-(?:[ \t]|$)")
_TAG = re.compile(r"O|[BIESLU](?:-.+)?", re.DOTALL)
_SPACED_CELL = re.compile("[^ ]+")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Layout:
    """The columns of a file, as in its line `first`."""

    first: int
    has_tabs: bool
    num_columns: int

    def columns(self, text: str) -> list[str]:
        """Returns the cells of a line; those after a TAB without the spaces around them."""
        body = text.rstrip(BLANKS)
        if not self.has_tabs:
            return _SPACED_CELL.findall(body)
        token, *others = body.split(TAB)
        return [token, *(cell.strip(" ") for cell in others)]

    def problem_with(self, text: str, columns: Sequence[str], tag_column: int) -> str:
        """Returns the reason why a line holds no token, or an empty string."""
        if not self.has_tabs and TAB in text.rstrip(BLANKS):
            return f"a TAB, but line {self.first} has none, expected spaces between the columns"
        if (number := len(columns)) != self.num_columns:
            by = "TABs" if self.has_tabs else "spaces"
            return (
                f"{number} column{'s' * (number != 1)}, "
                f"expected {self.num_columns} separated by {by}, as in line {self.first}"
            )
        if number > MAX_COLUMNS:
            return f"{number} columns, expected a token in each line, with a few columns"
        if not columns[0]:
            return "no token in the first column"
        place = self.tag_place(tag_column)
        return "" if place is None or columns[place] else f"no tag in column {place + 1}"

    def tag_place(self, tag_column: int) -> int | None:
        """Returns the tags' position from 0, or None if the file lacks their column.

        tag_column: from 2 on, or negative: -1 is the last one, unless only the token is there.
        """
        if tag_column in (0, 1):
            raise ValueError(f"tag_column {tag_column}: the token's")
        place = tag_column - 1 if tag_column > 0 else self.num_columns + tag_column
        return place if 0 < place < self.num_columns else None

    def is_comment(self, text: str) -> bool:
        """True if no token can be meant by the line, which comes before a sentence."""
        if not text.startswith("# "):
            return False
        if self.has_tabs:
            return TAB not in text.rstrip(BLANKS)
        columns = self.columns(text)
        return len(columns) != self.num_columns and not _TAG.fullmatch(columns[-1])

    def with_tag(self, text: str, tag_column: int, tag: str) -> str:
        """Returns the line with another tag, or with one more column."""
        body = text.rstrip(BLANKS)
        place = self.tag_place(tag_column)
        if place is None:
            return f"{body}{' ' if self.num_columns > 1 and not self.has_tabs else TAB}{tag}"
        blanks = text[len(body) :]
        if self.has_tabs:
            cells = body.split(TAB)
            cells[place] = tag
            return TAB.join(cells) + blanks
        start, stop = list(_SPACED_CELL.finditer(body))[place].span()
        return body[:start] + tag + body[stop:] + blanks


class _Line(NamedTuple):
    """columns: empty if the line holds no token."""

    number: int
    text: str
    columns: Sequence[str]
    ends_document: bool = False


def find_layout(path: Path) -> Layout | None:
    """Returns the layout of a file, by its first line with a token, or None if there is none.

    Raises StageError if the file cannot be read.
    """
    looks_like_comment = None
    for number, text in _texts(path):
        if not text.strip(BLANKS) or _DOCUMENT_END.match(text):
            continue
        has_tabs = TAB in text.rstrip(BLANKS)
        layout = Layout(number, has_tabs, len(Layout(number, has_tabs, 0).columns(text)))
        if not text.startswith("# "):
            return layout
        looks_like_comment = looks_like_comment or layout
    return looks_like_comment


def iter_conll(path: Path, tag_column: int = -1, document: int = 0) -> Iterator[Sentence]:
    """Yields the sentences of a file; document: the number of its first one.

    Raises StageError for a malformed line and for a sentence of more than 100,000 tokens.
    """
    layout = find_layout(path)
    if layout is None:
        return
    place = layout.tag_place(tag_column)
    tokens: list[str] = []
    tags: list[str] = []
    first, has_sentences, is_checked = 0, False, False
    for line in chain(_lines(path, layout, tag_column), [_Line(0, "", ())]):
        if line.columns:
            first = first or line.number
            tokens.append(line.columns[0])
            if place is not None:
                tags.append(sys.intern(line.columns[place]))
            if len(tokens) > MAX_TOKENS:
                raise StageError(
                    f"{path}:{first}: a sentence of more than {MAX_TOKENS:,} tokens, "
                    "expected blank lines between sentences"
                )
        elif tokens:
            if not is_checked and len(tokens) >= COUNTED_TOKENS:
                _check_not_counted(tokens, f"{path}:{first}")
                is_checked = True
            found = None if place is None else tuple(tags)
            yield Sentence(tuple(tokens), found, path, first, 1, document)
            tokens, tags, first, has_sentences = [], [], 0, True
        if line.ends_document and has_sentences:
            document, has_sentences = document + 1, False


def _check_not_counted(tokens: Sequence[str], place: str) -> None:
    """Raises StageError if the tokens are 1, 2, 3 ..., as in files with the words in column 2."""
    if all(token == str(number) for number, token in enumerate(tokens, 1)):
        raise StageError(f"{place}: the first column counts the tokens, expected the tokens")


def write_conll(
    source: Path, target: Path, predictions: Iterator[Sequence[str]], tag_column: int = -1
) -> None:
    """Copies a file with predicted tags, the tags of a sentence after another.

    A column is added to a file without one for tags. All else stays, byte for byte. Raises
    ValueError for missing sentences, and for more or fewer tags than tokens.
    """
    layout = find_layout(source)
    with open(source, "rb") as whole_lines, open(target, "wb") as out:
        lines = _lines(source, layout, tag_column) if layout else iter(())
        tags: Iterator[str] | None = None
        for line, whole in zip(lines, whole_lines, strict=False):  # blank lines may follow
            if layout and line.columns:
                if tags is None:
                    tags = iter(next(predictions, ()))
                if not (tag := next(tags, "")):
                    raise ValueError(f"{source}:{line.number}: no predicted tag")
                whole = _replaced(whole, line.text, layout.with_tag(line.text, tag_column, tag))
            elif tags is not None:
                _check_used_up(tags, source, line.number)
                tags = None
            out.write(whole)
        if tags is not None:
            _check_used_up(tags, source, line.number)
        shutil.copyfileobj(whole_lines, out)


def _replaced(whole: bytes, old: str, new: str) -> bytes:
    """Returns a line of a file with another text between its byte order mark and its end."""
    start = whole.index(old.encode())
    return whole[:start] + new.encode() + whole[start + len(old.encode()) :]


def _check_used_up(tags: Iterator[str], path: Path, number: int) -> None:
    if next(tags, ""):
        raise ValueError(f"{path}:{number}: more predicted tags than tokens in the sentence before")


# --- lines ------------------------------------------------------------------------------------


def _lines(path: Path, layout: Layout, tag_column: int) -> Iterator[_Line]:
    """Yields all lines, but blank ones at the end. Raises StageError for a malformed one."""
    before_sentence = True
    for number, text in _texts(path):
        if not text.strip(BLANKS) or (before_sentence and layout.is_comment(text)):
            line = _Line(number, text, ())
        elif _DOCUMENT_END.match(text):
            line = _Line(number, text, (), True)
        else:
            line = _Line(number, text, layout.columns(text))
            if problem := layout.problem_with(text, line.columns, tag_column):
                raise StageError(f"{path}:{number}: {problem}")
        before_sentence = not line.columns
        yield line


def _texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yields (number from 1, line). Raises StageError if a line is no text."""
    for number, line in iter_lines(path):
        if line is None:
            raise StageError(f"{path}:{number}: {TOO_LONG}")
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise StageError(f"{path}:{number}: not UTF-8 ({shown(repr(line))})") from None
        if NUL in text or "\r" in text:
            raise StageError(f"{path}:{number}: {'NUL byte' if NUL in text else BARE_CR}")
        yield number, text
