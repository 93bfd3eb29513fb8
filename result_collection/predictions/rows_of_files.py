"""Where the rows of a dev set are in their file, and what they say."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from finetune.data.examples import Examples, find_file, load_examples
from finetune.data.tables import place
from finetune.data.tasks import Split, Task

LONGEST_TEXT = 1000  # characters; of longer texts the beginning


@dataclass(frozen=True)
class FileRow:
    """place: `dev.csv:17`, empty on the Hub. texts: those of all samples of the row."""

    place: str
    texts: tuple[str, ...]


def rows_by_name(task: Task, split: Split, data_dir: str) -> dict[str, FileRow]:
    """Returns the rows of a dev set by their name in `DevPredictions.rows`.

    Reads the file, or the Hub's cache. Raises StageError if it is not there or not readable.
    """
    examples = load_examples(task, split, data_dir)
    path = find_file(split, Path(data_dir)) if data_dir else None
    lines: list[int | None] = [*examples.lines] or [None] * len(examples.texts)
    found: dict[str, FileRow] = {}
    for name, line, texts in zip(_names(task, examples), lines, examples.texts, strict=True):
        where = place(Path(path.name), line) if path and line is not None else ""
        known = found[name].texts if name in found else ()
        shown = (text for text in map(_shortened, texts) if text not in known)
        found[name] = FileRow(where, (*known, *shown))
    return found


def _names(task: Task, examples: Examples) -> Iterator[str]:
    for number in range(len(examples.texts)):
        key = examples.keys[number] if examples.keys else (number,)
        yield str(key[0]) if task.layout in ("choices", "entities") else "-".join(map(str, key))


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} \N{HORIZONTAL ELLIPSIS}"
