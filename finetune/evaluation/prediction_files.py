"""Files with a run's predictions on a dev set, written beside its result.

Lines of cells between tabs, the first with the columns' names:

| task                | columns                                                   |
|---------------------|-----------------------------------------------------------|
| one label per row   | row, label, prediction, a probability for each label      |
| regression          | row, label, prediction (scores)                           |
| any labels per row  | row, labels, predictions, a probability for each label    |
| tags of tokens      | row, token, label, prediction, probability                |
| ReCoRD              | row, and each metric of the query                         |

`row` is the `index` of the files with test predictions. Columns of probabilities have the label as
name. Several labels in a cell are separated by `|`. Tab, line break, `|` and backslash in a label
are written as a backslash and a letter. Numbers have 6 decimals.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from finetune.evaluation.dev_predictions import (
    Classes,
    DevPredictions,
    LabelSets,
    Matches,
    Scores,
    TokenTags,
)
from pipeline.errors import StageError
from pipeline.store.atomic_files import write_text
from pipeline.user_files.file_checks import shown

ONE_LABEL = ("row", "label", "prediction")
ANY_LABELS = ("row", "labels", "predictions")
TAGS = ("row", "token", "label", "prediction", "probability")
_BETWEEN = "|"
_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", _BETWEEN: "\\p"}
_MEANINGS = {escape: char for char, escape in _ESCAPES.items()}


# --- writing -----------------------------------------------------------------------------------


def write_dev_predictions(path: Path, predictions: DevPredictions) -> None:
    """Writes the file of a dev set."""
    header, lines = _WRITERS[type(predictions)](predictions)
    rows = ["\t".join(cells) for cells in (header, *lines)]
    write_text(path, "\n".join(rows) + "\n")


def _class_lines(found: Classes) -> tuple[Sequence[str], Iterator[Sequence[str]]]:
    words = list(map(_escaped, found.words))
    parts = (found.rows, found.labels, found.predictions, found.probabilities)
    return (*ONE_LABEL, *words), (
        (row, words[label], words[value], *map(_number, shares))
        for row, label, value, shares in zip(*parts, strict=True)
    )


def _score_lines(found: Scores) -> tuple[Sequence[str], Iterator[Sequence[str]]]:
    parts = (found.rows, found.labels, found.predictions)
    return ONE_LABEL, (
        (row, _number(label), _number(value)) for row, label, value in zip(*parts, strict=True)
    )


def _set_lines(found: LabelSets) -> tuple[Sequence[str], Iterator[Sequence[str]]]:
    words = list(map(_escaped, found.words))
    parts = (found.rows, found.labels, found.predictions, found.probabilities)

    def cell(is_there: np.ndarray) -> str:
        return _BETWEEN.join(words[i] for i in np.flatnonzero(is_there))

    return (*ANY_LABELS, *words), (
        (row, cell(labels), cell(values), *map(_number, shares))
        for row, labels, values, shares in zip(*parts, strict=True)
    )


def _tag_lines(found: TokenTags) -> tuple[Sequence[str], Iterator[Sequence[str]]]:
    parts = (found.rows, found.tokens, found.labels, found.predictions, found.probabilities)
    return TAGS, (
        (row, str(token), _escaped(label), _escaped(value), _number(share))
        for row, token, label, value, share in zip(*parts, strict=True)
    )


def _match_lines(found: Matches) -> tuple[Sequence[str], Iterator[Sequence[str]]]:
    lines = zip(found.rows, found.values, strict=True)
    return ("row", *found.names), ((row, *map(_number, values)) for row, values in lines)


_WRITERS: dict[type, Callable] = {
    Classes: _class_lines,
    Scores: _score_lines,
    LabelSets: _set_lines,
    TokenTags: _tag_lines,
    Matches: _match_lines,
}


def _number(value: float) -> str:
    return f"{value:.6f}"


def _escaped(word: str) -> str:
    """Returns a label as a cell. Raises ValueError for an empty one, which no cell can hold."""
    if not word:
        raise ValueError("an empty label")
    return "".join(_ESCAPES.get(char, char) for char in word)


def _unescaped(cell: str) -> str:
    """Raises ValueError if a label is never written so."""
    if not re.fullmatch(r"(?:[^\\]|\\[\\tnrp])+", cell):
        raise ValueError(cell)
    return re.sub(r"\\.", lambda found: _MEANINGS[found[0]], cell)


# --- reading -----------------------------------------------------------------------------------


def read_dev_predictions(path: Path) -> DevPredictions:
    """Returns what `write_dev_predictions` has written.

    Raises StageError with the file and line if the file is missing or damaged.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StageError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StageError(f"{path}: cannot be read ({error})") from error
    lines = text.split("\n")  # splitlines would cut a label at U+2028
    if lines.pop() or len(lines) < 2:
        raise StageError(f"{path}: is cut off, expected a header and at least one row")
    header = lines[0].split("\t")
    table = _Table(path, header, [line.split("\t") for line in lines[1:]])
    return table.predictions()


class _Table:
    """The cells of a file; each method raises StageError for a damaged one."""

    def __init__(self, path: Path, header: list[str], cells: list[list[str]]):
        self.path, self.header = path, header
        for number, row in enumerate(cells, 2):
            if len(row) != len(header):
                raise self._error(number, f"{len(row)} cells, expected {len(header)}")
        self.columns = list(zip(*cells, strict=True))

    def _error(self, number: int, problem: str) -> StageError:
        return StageError(f"{self.path}:{number}: {problem}; the file is damaged")

    def predictions(self) -> DevPredictions:
        start, rest = tuple(self.header[:3]), tuple(self.header[3:])
        found: DevPredictions
        if tuple(self.header) == TAGS:
            labels, predictions = (np.array(list(self._words(i))) for i in (2, 3))
            shares = self._numbers(slice(4, 5), 0, 1)[:, 0]
            found = TokenTags(self._rows(), self._whole(1), labels, predictions, shares)
        elif start == ONE_LABEL and not rest:
            scores = self._numbers(slice(1, 3))
            found = Scores(self._rows(), scores[:, 0], scores[:, 1])
        elif start == ONE_LABEL:
            places = self._places()
            labels, predictions = (
                np.array([places[word] for word in self._words(i, places)]) for i in (1, 2)
            )
            shares = self._numbers(slice(3, None), 0, 1)
            found = Classes(self._rows(), tuple(places), labels, predictions, shares)
        elif start == ANY_LABELS and rest:
            places, shares = self._places(), self._numbers(slice(3, None), 0, 1)
            sets = [self._sets(i, places) for i in (1, 2)]
            found = LabelSets(self._rows(), tuple(places), sets[0], sets[1], shares)
        elif self.header[0] == "row" and len(self.header) > 1:
            values = self._numbers(slice(1, None), 0, 1)
            found = Matches(self._rows(), tuple(self.header[1:]), values)
        else:
            raise self._error(1, f"columns {shown(', '.join(self.header))!r}")
        self._check_keys(found.keys)
        return found

    def _rows(self) -> np.ndarray:
        return np.array(self.columns[0])

    def _check_keys(self, keys: Iterable[tuple]) -> None:
        seen: dict[tuple, int] = {}
        for number, key in enumerate(keys, 2):
            if seen.setdefault(key, number) != number:
                raise self._error(number, f"the same row as in line {seen[key]}")

    def _places(self) -> dict[str, int]:
        """Returns the position of each label."""
        cells = self.header[3:]
        places = {self._word(1, cell): place for place, cell in enumerate(cells)}
        if len(places) < len(cells):
            raise self._error(1, "a label appears twice")
        return places

    def _words(self, column: int, known: dict[str, int] | None = None) -> Iterator[str]:
        for number, cell in enumerate(self.columns[column], 2):
            word = self._word(number, cell)
            if known is not None and word not in known:
                raise self._error(number, f"label {shown(cell)!r} is none of the header's")
            yield word

    def _word(self, number: int, cell: str) -> str:
        try:
            return _unescaped(cell)
        except ValueError:
            raise self._error(number, f"label {shown(cell)!r}") from None

    def _sets(self, column: int, places: dict[str, int]) -> np.ndarray:
        found = np.zeros((len(self.columns[column]), len(places)), bool)
        for i, cell in enumerate(self.columns[column]):
            for part in cell.split(_BETWEEN) if cell else ():
                word = self._word(i + 2, part)
                if word not in places:
                    raise self._error(i + 2, f"label {shown(part)!r} is none of the header's")
                found[i, places[word]] = True
        return found

    def _whole(self, column: int) -> np.ndarray:
        for number, cell in enumerate(self.columns[column], 2):
            if not re.fullmatch("[0-9]{1,9}", cell):
                raise self._error(number, f"token {shown(cell)!r}, expected a whole number")
        return np.array(self.columns[column], np.int64)

    def _numbers(self, columns: slice, low: float = -np.inf, high: float = np.inf) -> np.ndarray:
        """Returns [N, columns] float64."""
        cells = np.array(self.columns[columns])
        try:
            found = cells.astype(np.float64)
        except ValueError:
            found = np.array([[_parsed(cell) for cell in column] for column in cells.tolist()])
        is_bad = ~(np.isfinite(found) & (found >= low) & (found <= high))
        if is_bad.any():
            number = int(is_bad.any(axis=0).argmax())
            cell = str(cells[is_bad[:, number], number][0])
            limits = f" from {low} to {high}" if np.isfinite(low) else ""
            raise self._error(number + 2, f"{shown(cell)!r}, expected a number{limits}")
        return found.T


def _parsed(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return np.nan
