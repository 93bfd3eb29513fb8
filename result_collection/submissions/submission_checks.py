"""Checks of submission files; problems name the file and the line."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from finetune.data.tasks import Split, Task, submission_splits
from result_collection.submissions.archive import file_name

HEADER = "index\tprediction"
# Lines of MultiRC's file; the table of tasks counts its answers.
MULTIRC_PASSAGES = 166
# Rows of the test set that QNLI had when GLUE was new.
QNLI_V1_ROWS = 5740
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?")


def find_problems(files: Mapping[str, str | bytes | None], benchmark: str = "GLUE") -> list[str]:
    """Returns a line for each problem of a submission (file name -> content).

    For each kind of mistake in a file, names the first line and counts the others. None stands for
    unreadable content.
    """
    splits = submission_splits(benchmark)
    expected = {file_name(name, benchmark): splits[name] for name in splits}
    meant = _meant_names(files, expected)
    problems = []
    for name, (task, split) in expected.items():
        given = next((given for given in files if meant.get(given) == name), None)
        if given is None:
            problems.append(f"{name} is missing")
            continue
        if given != name:
            note = ", not in a folder" if re.search(r"[/\\]", given) else ""
            problems.append(f"{given} is meant to be {name}{note}")
        content = files[given]
        if content is None:
            continue
        content = content.encode() if isinstance(content, str) else content
        problems += [f"{given}: {problem}" for problem in _file_problems(task, split, content)]
    strays = [name for name in files if name not in meant]
    return problems + [f"{name} does not belong to a submission" for name in strays]


# --- names -----------------------------------------------------------------------------------


def _meant_names(names: Iterable[str], expected: Iterable[str]) -> dict[str, str]:
    """Returns given names by expected names, one for one; exact spellings first."""
    by_plain_name = {_plain_name(name): name for name in expected}
    meant: dict[str, str] = {name: name for name in names if name in expected}
    for name in names:
        right = by_plain_name.get(_plain_name(name))
        if right and right not in meant.values():
            meant[name] = right
    return meant


def _plain_name(name: str) -> str:
    """Returns the test set of a name: MNLI-m for `glue/mnli_m.TSV`, nothing for a folder."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return re.sub("[^a-z0-9]", "", last.split(".")[0].lower())


# --- lines -----------------------------------------------------------------------------------


class _Findings:
    """Problems of lines by kind: the first line of each, and the count of the others."""

    def __init__(self):
        self._first: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def add(self, kind: str, line: int, problem: str) -> None:
        self._first.setdefault(kind, f"line {line}: {problem}")
        self._counts[kind] = self._counts.get(kind, 0) + 1

    def __iter__(self) -> Iterator[str]:
        for kind, problem in self._first.items():
            more = self._counts[kind] - 1
            yield f"{problem} (and {more} more such lines)" if more else problem


class _Order:
    """Follows indices, expected 0, 1, 2 ..., and recovers after each mistake."""

    def __init__(self):
        self._lines: dict[int, int] = {}
        self._next = {0}  # after a wrong row: it was inserted, or it replaced one

    def skip(self) -> None:
        """Counts a row with an unreadable index."""
        self._next = {min(self._next), max(self._next) + 1}

    def problem(self, index: int, line: int) -> str:
        """Returns the problem of the next index, or an empty string."""
        expected = min(self._next)
        if index in self._lines:
            self.skip()
            return f"index {index}, as in line {self._lines[index]}, expected {expected}"
        known, self._next = self._next, {index + 1}
        self._lines[index] = line
        return "" if index in known else f"index {index}, expected {expected}"


def _file_problems(task: Task, split: Split, content: bytes) -> list[str]:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return ["UTF-16, expected UTF-8"]
    if not content.strip():
        return ["the file is empty"]
    problems = []
    if content.startswith(b"\xef\xbb\xbf"):
        problems.append("starts with a byte order mark, expected none")
        content = content[3:]
    if b"\r" in content:
        ending = "CRLF" if b"\r\n" in content else "CR"
        problems.append(f"lines end in {ending}, expected LF")
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    lines = content.removesuffix(b"\n").split(b"\n")
    findings = _Findings()
    texts = [_decoded(line, number, findings) for number, line in enumerate(lines, 1)]
    look = _look_at_objects if task.benchmark == "SuperGLUE" else _look_at_table
    problems += look(task, split, texts, findings)
    return problems + list(findings)


def _decoded(line: bytes, number: int, findings: _Findings) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        findings.add("bytes", number, "not UTF-8")
        return line.decode("utf-8", "replace")


def _count_problem(found: int, expected: int, what: str = "rows") -> list[str]:
    return [] if found == expected else [f"{found} {what}, expected {expected}"]


# --- GLUE ------------------------------------------------------------------------------------


def _look_at_table(task: Task, split: Split, lines: list[str], findings: _Findings) -> list[str]:
    """Yields problems of the whole file; adds those of lines to the findings."""
    problems = []
    header = lines[0]
    has_header = not re.match("[0-9]", header)
    if header != HEADER:
        found = f"the header is {header!r}" if has_header else "there is no header"
        problems.append(f"{found}, expected {HEADER!r}")
    order, rows = _Order(), 0
    for number, line in enumerate(lines[has_header:], 1 + has_header):
        if not line.strip():
            findings.add("empty", number, "empty")
            continue
        rows += 1
        cells = line.split("\t")
        if len(cells) != 2:
            findings.add("columns", number, f"{len(cells)} columns, expected 2")
            order.skip()
            continue
        index = int(cells[0]) if re.fullmatch("0|[1-9][0-9]{0,8}", cells[0]) else None
        _look_at_index(index, f"index {cells[0]!r}", number, order, findings)
        if problem := _value_problem(task, cells[1]):
            findings.add("value", number, problem)
    problems += _count_problem(rows, split.num_rows)
    if task.name == "QNLI" and rows == QNLI_V1_ROWS:
        problems[-1] += " (these are the rows of QNLIv1, which GLUE replaced)"
    return problems


def _look_at_index(
    index: int | None, found: str, number: int, order: _Order, findings: _Findings
) -> None:
    """index: None for anything but a whole number. found: as in the file."""
    if index is None:
        findings.add("no index", number, f"{found}, expected a whole number")
        order.skip()
    elif problem := order.problem(index, number):
        findings.add("index", number, problem)


def _value_problem(task: Task, value: str) -> str:
    if task.is_regression:
        low, high = task.score_range
        valid = _NUMBER.fullmatch(value) and low <= float(value) <= high
        return "" if valid else f"{value!r}, expected one number from {low:g} to {high:g}"
    return _word_problem(task.labels.values(), value)


def _word_problem(words: Iterable[str], value: str) -> str:
    words = list(words)
    return "" if value in words else f"{value!r}, expected one of {', '.join(words)}"


# --- SuperGLUE -------------------------------------------------------------------------------


def _look_at_objects(task: Task, split: Split, lines: list[str], findings: _Findings) -> list[str]:
    """Yields problems of the whole file; adds those of lines to the findings."""
    order, rows, answers = _Order(), 0, 0
    what = "passage" if task.layout == "answers" else "label"
    for number, line in enumerate(lines, 1):
        if not line.strip():
            findings.add("empty", number, "empty")
            continue
        rows += 1
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            findings.add("json", number, "no JSON object")
            order.skip()
            continue
        if set(row) != {"idx", what}:
            shown = ", ".join(row) or "none"
            findings.add("keys", number, f"keys {shown}; expected idx, {what}")
        idx = row.get("idx")
        index = idx if type(idx) is int else None
        _look_at_index(index, f"idx {json.dumps(idx)}", number, order, findings)
        if what == "passage":
            for problem in _passage_problems(row.get(what)):
                findings.add("passage", number, problem)
            answers += sum(len(some) for _, some in _questions(row.get(what)))
        elif what in row and (problem := _label_problem(task, row[what])):
            findings.add("value", number, problem)
    if what == "label":
        return _count_problem(rows, split.num_rows)
    return [
        *_count_problem(rows, MULTIRC_PASSAGES, "passages"),
        *_count_problem(answers, split.num_rows, "answers"),
    ]


def _label_problem(task: Task, label: Any) -> str:
    shown = json.dumps(label)
    if task.layout == "choices":
        right = type(label) is int and label in (0, 1)
        return "" if right else f"label {shown}, expected the number 0 or 1"
    if not isinstance(label, str) or not label.strip():
        kind = "the text of an entity" if task.layout == "entities" else "a word in quotes"
        words = "" if task.layout == "entities" else f", one of {', '.join(task.labels.values())}"
        return f"label {shown}, expected {kind}{words}"
    if task.layout == "entities" or label in task.labels:
        return ""
    return _word_problem(task.labels.values(), label)


def _questions(passage: Any) -> Iterator[tuple[Any, list]]:
    """Yields (idx, answers) of each well-formed question."""
    questions = passage.get("questions") if isinstance(passage, dict) else None
    for question in questions if isinstance(questions, list) else ():
        answers = question.get("answers") if isinstance(question, dict) else None
        if isinstance(answers, list):
            yield question.get("idx"), answers


def _passage_problems(passage: Any) -> Iterator[str]:
    nested = '{"questions": [{"idx": 0, "answers": [{"idx": 0, "label": 0}]}]}'
    questions = list(_questions(passage))
    if not questions or len(questions) != len(passage["questions"]):
        yield f"passage is not nested like {nested}"
        return
    yield from _idx_problems("question", [idx for idx, _ in questions])
    for question, answers in questions:
        if not all(isinstance(answer, dict) for answer in answers):
            yield f"question {question}: passage is not nested like {nested}"
            continue
        yield from _idx_problems("answer", [answer.get("idx") for answer in answers])
        for answer in answers:
            label = answer.get("label")
            if type(label) is not int or label not in (0, 1):
                where = f"question {question}, answer {answer.get('idx')}"
                yield f"{where}: label {json.dumps(label)}, expected the number 0 or 1"


def _idx_problems(kind: str, numbers: list) -> Iterator[str]:
    seen: set[int] = set()
    for number in numbers:
        if type(number) is not int:
            yield f"{kind} idx {json.dumps(number)}, expected a whole number"
        elif number in seen:
            yield f"{kind} idx {number} appears twice"
        else:
            seen.add(number)
