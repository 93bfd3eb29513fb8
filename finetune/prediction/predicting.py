"""Predicts a table: answers its rows, then writes the table with the answers."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.prediction.answering import answer_rows
from finetune.prediction.answers import Answer, answer_columns
from finetune.prediction.finished_classifiers import FinishedClassifier, load_classifier
from finetune.prediction.input_tables import InputTable
from finetune.prediction.output_tables import Layout, write_table
from finetune.prediction.samples import LostText
from finetune.prediction.unfinished import Position, Unfinished, read_unfinished
from pipeline.console import WARNING_PREFIX, Console, duration
from pipeline.errors import ConfigError, StageError
from pipeline.runtime.devices import device_type
from pipeline.store.atomic_files import written_aside
from pipeline.store.record_files import delete_tree, delete_unfinished_file
from pipeline.user_files.file_checks import shown, shown_list

USUAL_COLUMN = "text"  # for models that do not say the columns of their task
SHOWN_LABELS = 5


@dataclass(frozen=True)
class Request:
    """The arguments of the command; folder: of the unfinished prediction, which may be there."""

    folder: Path
    model: str
    file: Path
    output: Path
    text_columns: Sequence[str] = ()
    columns: Sequence[str] = ()
    prefix: str = ""
    windows: bool = False


def predict(request: Request, console: Console) -> None:
    """Goes on with the folder's prediction, or begins it; deletes the folder at the end.

    Raises ConfigError if the arguments do not fit the file, the model or the folder, StageError for
    a malformed row, and for a model or a tokenizer of no use.
    """
    begin, table = time.monotonic(), InputTable(request.file, tuple(request.columns))
    delete_unfinished_file(request.output)
    classifier = load_classifier(request.model)
    text_columns = _text_columns(request, classifier)
    unfinished = _unfinished(request, table, classifier, text_columns, console)
    added = [request.prefix + name for name in answer_columns(classifier.task)]
    layout = Layout(unfinished.facts["columns"], added)
    layout.check(table, request.output.suffix.lower())
    unfinished.cut()
    before, total = unfinished.position.rows, unfinished.facts["rows"]
    if before:
        console.say(f"goes on after {before:,} of {total:,} rows")
    try:
        with console.progress("predicting", total, "rows") as progress:
            told = progress.update
            answer_rows(classifier, table, text_columns, request.windows, unfinished, told)
        unfinished.position.lost.check(str(table.path), classifier.tokenizer)
    except Exception:
        unfinished.drop_if_empty()
        raise
    summary = _write(request.output, table, layout, unfinished, console)
    for warning in _warnings(table, classifier, text_columns, unfinished.position.lost):
        console.say(WARNING_PREFIX + warning)
    console.say(str(summary))
    seconds = duration(time.monotonic() - begin)
    console.say(f"{total - before:,} rows in {seconds}, written to {request.output}")


def _text_columns(request: Request, classifier: FinishedClassifier) -> list[str]:
    """Returns the columns with the texts.

    Raises ConfigError for another number than the model's.
    """
    expected = list(classifier.task.text_columns)
    columns = list(request.text_columns) or expected or [USUAL_COLUMN]
    if expected and len(columns) != len(expected):
        raise ConfigError(
            [
                f"--text_columns: the model takes {len(expected)} ({shown_list(expected)}), got "
                f"{shown_list(columns)}"
            ]
        )
    if len(columns) > 2:
        raise ConfigError([f"--text_columns: got {shown_list(columns)}, expected one or two"])
    if request.windows and len(columns) == 2:
        raise ConfigError(["--windows: is for single texts, the model takes pairs"])
    if request.windows and not classifier.tokenizer.is_fast:
        raise ConfigError(["--windows: needs a tokenizer.json, which the model has not"])
    return columns


def _unfinished(
    request: Request,
    table: InputTable,
    classifier: FinishedClassifier,
    text_columns: Sequence[str],
    console: Console,
) -> Unfinished:
    """Returns the begun prediction, or a new one after a check of all rows."""
    inputs = {
        "FILE": table.state,
        "MODEL": classifier.stamps,
        "--text_columns": text_columns,
        "--columns": list(request.columns),
        "--windows": request.windows,
        "device": device_type(),
    }
    found = read_unfinished(request.folder, inputs)
    if found:
        return found
    console.say(f"checking all rows of {table.path}")
    num_rows, columns = table.check(text_columns)
    start = Position(0, 0, classifier.batch_tokens, LostText())
    return Unfinished(request.folder, inputs, {"rows": num_rows, "columns": columns}, start)


class _Summary:
    """Counts the labels, or averages the scores, of passing answers."""

    def __init__(self) -> None:
        self.labels: Counter[str] = Counter()
        self.scores: list[float] = []  # lowest, highest, sum
        self.number = 0

    def watched(self, answers: Iterator[Sequence[Answer]]) -> Iterator[Sequence[Answer]]:
        for answer in answers:
            first = answer[0]
            self.number += 1
            if isinstance(first, str):
                self.labels[first] += 1
            else:
                low, high, total = self.scores or (first, first, 0.0)
                self.scores = [min(low, first), max(high, first), total + first]
            yield answer

    def __str__(self) -> str:
        """Returns `labels: low 7,012 (70.1 %), high 2,988 (29.9 %)`, or the scores' range."""
        if self.scores:
            low, high, total = self.scores
            return f"scores: {low:.4g} to {high:.4g}, mean {total / self.number:.4g}"
        most = self.labels.most_common(SHOWN_LABELS)
        shares = [
            f"{shown(label) or 'none'} {number:,} ({100 * number / self.number:.1f} %)"
            for label, number in most
        ]
        more = len(self.labels) - len(most)
        return f"labels: {', '.join(shares) or 'none'}" + (f", and {more:,} more" if more else "")


def _write(
    output: Path, table: InputTable, layout: Layout, unfinished: Unfinished, console: Console
) -> _Summary:
    """Writes the output, and deletes the unfinished prediction."""
    summary, total = _Summary(), unfinished.facts["rows"]
    with (
        written_aside(output) as aside,
        console.progress("writing", total, "rows") as progress,
    ):
        answers = summary.watched(unfinished.answers())
        write_table(aside, output.suffix.lower(), table, layout, answers, progress.advance)
        if table.state != unfinished.inputs["FILE"]:
            raise StageError(f"{table.path}: has changed while it was read")
    delete_tree(unfinished.folder)
    return summary


def _warnings(
    table: InputTable,
    classifier: FinishedClassifier,
    text_columns: Sequence[str],
    lost: LostText,
) -> Iterator[str]:
    way_out = "--windows reads all of it" if len(text_columns) == 1 else "shorter texts lose less"
    return lost.warnings(str(table.path), classifier.tokenizer, classifier.max_length, way_out)
