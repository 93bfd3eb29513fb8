"""Tables with texts to classify or to score: one sample per row, or windows of a long text."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from finetune.data.encoding import encode
from finetune.data.token_counts import TokenCounts, count_tokens
from finetune.data.tokens import Tokens, joined
from finetune.prediction.answers import Answer, answer_columns, answers_of, pooled
from finetune.prediction.finished_classifiers import FinishedClassifier
from finetune.prediction.input_tables import ENDINGS, InputTable
from finetune.prediction.jobs import Facts, Job, Samples, Texts, pieces
from finetune.prediction.lost_text import KEPT_WORDS, LostText
from finetune.prediction.output_tables import Layout, write_table
from finetune.prediction.request import Request
from pipeline.errors import ConfigError
from pipeline.store.atomic_files import written_aside
from pipeline.user_files.file_checks import shown, shown_list

USUAL_COLUMN = "text"  # for models that do not say the columns of their task
OVERLAP = 4  # neighbouring windows share a fourth of their tokens
# Tokenized at once; a tokenizer needs far more memory than the text.
PIECE_ROWS, PIECE_CHARACTERS = 4096, 2 << 20
SHOWN_LABELS = 5


class TableJob(Job):
    """A table whose columns stay, followed by those of the answers. endings: of the output."""

    endings: Sequence[str] = ENDINGS

    def __init__(self, request: Request, classifier: FinishedClassifier):
        super().__init__(request, classifier)
        if request.ending not in self.endings:
            expected = ", ".join(self.endings)
            raise ConfigError([f"--output: got {request.output}, expected one of {expected}"])
        if request.tag_column:
            raise ConfigError(["--tag_column: is for files with a token in each line"])
        self.table = InputTable(request.file, tuple(request.columns))
        self.text_columns = list(request.text_columns) or list(classifier.task.text_columns)
        self.text_columns = self.text_columns or [USUAL_COLUMN]

    def state(self) -> list[Any]:
        return self.table.state

    def options(self) -> dict[str, Any]:
        return {
            "--text_columns": self.text_columns,
            "--columns": list(self.request.columns),
            "--windows": self.request.windows,
        }

    def check(self) -> Facts:
        rows, columns = self.table.check(self.text_columns)
        return {"rows": rows, "columns": columns}

    def added(self) -> list[str]:
        """Returns the names of the answers' columns, without the prefix."""
        return answer_columns(self.classifier.task)

    def _layout(self, facts: Facts) -> Layout:
        return Layout(facts["columns"], [self.request.prefix + name for name in self.added()])

    def check_output(self, facts: Facts) -> None:
        self._layout(facts).check(self.table, self.request.ending)

    def rows(self, start: int) -> Iterator[Any]:
        return self.table.texts(self.text_columns, start)

    def texts(self, row: Any) -> Texts:
        return row

    def write(self, facts: Facts, answers: Iterator[Any], advance: Callable[[int], None]) -> None:
        with written_aside(self.request.output) as aside:
            layout, ending = self._layout(facts), self.request.ending
            write_table(aside, ending, self.table, layout, self.counted(answers), advance)

    def counted(self, answers: Iterator[Any]) -> Iterator[Any]:
        """Yields the answers, and counts them for the summary."""
        return answers


class TextJob(TableJob):
    """Classification, regression and several labels per text."""

    def __init__(self, request: Request, classifier: FinishedClassifier):
        super().__init__(request, classifier)
        self._seen = _Seen()
        expected, columns = classifier.task.text_columns, self.text_columns
        got = f"--text_columns: got {shown_list(columns)}, expected"
        if expected and len(columns) != len(expected):
            raise ConfigError([f"{got} {len(expected)} like {shown_list(expected)}"])
        if len(columns) > 2:
            raise ConfigError([f"{got} one or two"])
        if request.windows and len(columns) == 2:
            raise ConfigError(["--windows: is for single texts, got pairs"])
        if request.windows and not classifier.tokenizer.is_fast:
            raise ConfigError(["--windows: needs a model with a tokenizer.json"])

    def tokenized(self, rows: Sequence[Texts]) -> Samples:
        """about: the number of each row's windows, [rows] int64."""
        tokenize = _windows if self.request.windows else _truncated
        some = pieces(rows, self.texts, PIECE_ROWS, PIECE_CHARACTERS)
        parts = [tokenize(self.classifier, piece) for piece in some]
        return Samples(
            joined([part.tokens for part in parts]),
            sum((part.lost for part in parts), LostText()),
            np.concatenate([part.about for part in parts]),
        )

    def answers(self, samples: Samples, outputs: np.ndarray) -> list[list[Answer]]:
        task = self.classifier.task
        return answers_of(task, pooled(task, outputs, samples.about), self.classifier.decision)

    def way_out(self) -> str:
        is_single = len(self.text_columns) == 1
        return "--windows reads all of it" if is_single else super().way_out()

    def counted(self, answers: Iterator[Any]) -> Iterator[Any]:
        for answer in answers:
            self._seen.add(answer[0])
            yield answer

    def summary(self) -> str:
        return str(self._seen)


def _truncated(classifier: FinishedClassifier, rows: list[Texts]) -> Samples:
    columns, offsets, counts, words = encode(
        classifier.tokenizer, rows, classifier.max_length, classifier.token_types
    )
    lost = LostText(TokenCounts.of(counts), words[:KEPT_WORDS])
    return Samples(Tokens(columns, offsets), lost, np.ones(len(rows), np.int64))


def _windows(classifier: FinishedClassifier, rows: list[Texts]) -> Samples:
    """Returns overlapping windows of single texts."""
    length, names = classifier.max_length, ["input_ids"]
    if classifier.token_types:
        names.append("token_type_ids")
    batch = classifier.tokenizer(
        [text for (text,) in rows],
        truncation=True,
        max_length=length,
        stride=length // OVERLAP,
        return_overflowing_tokens=True,
        return_token_type_ids=classifier.token_types,
        return_attention_mask=False,
    )
    of_row = np.array(batch["overflow_to_sample_mapping"])
    num_windows = np.bincount(of_row, minlength=len(rows))
    firsts = np.cumsum(num_windows) - num_windows
    counts, words = count_tokens(
        classifier.tokenizer, rows, [batch["input_ids"][i] for i in firsts], length
    )
    counts[:, 1] = 0  # the other windows have the rest
    lengths = [0, *map(len, batch["input_ids"])]
    columns = {name: np.array([i for ids in batch[name] for i in ids], np.int32) for name in names}
    lost = LostText(TokenCounts.of(counts), tuple(words)[:KEPT_WORDS])
    return Samples(Tokens(columns, np.cumsum(lengths)), lost, num_windows)


class _Seen:
    """Counts labels, or averages scores."""

    def __init__(self) -> None:
        self.labels: Counter[str] = Counter()
        self.number, self.total = 0, 0.0
        self.low, self.high = float("inf"), float("-inf")

    def add(self, answer: Answer) -> None:
        self.number += 1
        if isinstance(answer, str):
            self.labels[answer] += 1
        else:
            self.total += answer
            self.low, self.high = min(self.low, answer), max(self.high, answer)

    def __str__(self) -> str:
        """Returns `labels: low 7,012 (70.1 %), high 2,988 (29.9 %)`, or the scores' range."""
        if self.number and not self.labels:
            return f"scores: {self.low:.4g} to {self.high:.4g}, mean {self.total / self.number:.4g}"
        most = self.labels.most_common(SHOWN_LABELS)
        shares = [
            f"{shown(label) or 'none'} {number:,} ({100 * number / self.number:.1f} %)"
            for label, number in most
        ]
        more = len(self.labels) - len(most)
        return f"labels: {', '.join(shares) or 'none'}" + (f", and {more:,} more" if more else "")
