"""Files of tagged sentences, and folders of them, in three formats by the ending.

.jsonl and .parquet hold objects (object_files.py). .csv, .json and compressed files are refused.
All others hold a token in each line (conll_files.py). In a folder, each file is a document, in the
order of the names; hidden files do not count.

A tag column is counted from 1, which holds the token; -1 is the last one. Only training files show
what the last one is: `tag_column_of` gives its number for all other files.
"""

import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from finetune.tagging.conll_files import find_layout, iter_conll, write_conll
from finetune.tagging.object_files import iter_objects, write_objects
from finetune.tagging.sentences import Sentence, is_parquet
from finetune.tagging.tag_schemes import OUTSIDE, FoundScheme, SchemeCount, in_scheme, split_tag
from pipeline.errors import StageError
from pipeline.store.atomic_files import written_aside
from pipeline.user_files.file_checks import problem_with_file, shown, shown_list

REFUSED = (".csv", ".json", ".gz", ".bz2", ".xz", ".zst", ".zip")


@dataclass(frozen=True)
class TaggedSentences:
    """sentences: with tags in IOB2. scheme: that of the files, with their types and invalid tags.
    num_widened, first_widened: spans that ended within a word, and the `file:line` of the first."""

    sentences: list[Sentence]
    scheme: FoundScheme
    num_widened: int = 0
    first_widened: str = ""


def read_tagged(
    path: Path, tag_column: int = -1, types: Collection[str] | None = None
) -> TaggedSentences:
    """Reads a file or a folder with tags into memory. types: the known ones, if not all are.

    Raises StageError for a sentence without tags, a file without a sentence, a malformed line, tags
    of no known scheme, and an unknown type.
    """
    count, sentences = SchemeCount(), []
    for sentence in iter_sentences(path, tag_column):
        if sentence.tags is None:
            column = f" in column {tag_column}" if tag_column > 0 and not _has_objects(path) else ""
            raise StageError(f"{sentence.place()}: no tags{column}")
        count.add(sentence.tags, sentence.place)
        if types is not None:
            _check_types(sentence, types)
        tags = tuple(map(sys.intern, in_scheme(sentence.tags, "IOB2")))
        sentences.append(replace(sentence, tags=tags))
    not_empty = {sentence.path for sentence in sentences}
    if empty := [file for file in tagged_files(path) if file not in not_empty]:
        raise StageError(f"{empty[0]}: no sentence")
    widened = [sentence for sentence in sentences if sentence.num_widened]
    return TaggedSentences(
        sentences,
        count.found(),
        sum(sentence.num_widened for sentence in widened),
        widened[0].place() if widened else "",
    )


def _check_types(sentence: Sentence, types: Collection[str]) -> None:
    for i, tag in enumerate(sentence.tags or ()):
        prefix, kind = split_tag(tag)
        if prefix != OUTSIDE and kind not in types:
            expected = f"expected O or one of the type {shown_list(types)}"
            raise StageError(f"{sentence.place(i)}: tag {shown(tag)!r}, {expected}")


def iter_sentences(path: Path, tag_column: int = -1) -> Iterator[Sentence]:
    """Yields the sentences of a file or a folder, in constant memory, with or without tags.

    Raises StageError for a malformed line, and if files of a folder have other numbers of columns
    and `tag_column` counts from the end.
    """
    files = tagged_files(path)
    _check_columns(files, tag_column)
    document, last = 0, -1
    for file in files:
        found = iter_objects(file, document)
        if not _has_objects(file):
            found = iter_conll(file, tag_column, document)
        for sentence in found:
            yield sentence
            last = sentence.document
        document = last + 1


def running_texts(
    path: Path, tag_column: int, has_tags: bool
) -> tuple[list[tuple[str, ...]], list[np.ndarray], list[tuple[str, ...]], list[int]]:
    """Returns each sentence as a text, the characters of its words (see `Sentence.running_text`),
    its tags in IOB2 if `has_tags`, and its line. Raises StageError as `read_tagged`."""
    found = (
        read_tagged(path, tag_column).sentences if has_tags else iter_sentences(path, tag_column)
    )
    texts: list[tuple[str, ...]] = []
    words, tags, lines = [], [], []
    for sentence in found:
        text, places = sentence.running_text()
        texts.append((text,))
        words.append(places)
        lines.append(sentence.line)
        if sentence.tags and has_tags:
            tags.append(sentence.tags)
    return texts, words, tags, lines


def write_predictions(
    source: Path,
    target: Path,
    predictions: Iterable[Sequence[str]],
    scheme: str = "IOB2",
    tag_column: int = -1,
) -> None:
    """Writes a copy of a file or a folder with predicted tags, in constant memory.

    predictions: the tags of each of `iter_sentences`, in IOB2. scheme: of the written tags.
    Raises ValueError unless there is a tag for each token, and none more.
    """
    tags = (in_scheme(one, scheme) for one in predictions)
    for file in tagged_files(source):
        with written_aside(target if file == source else target / file.name) as aside:
            if _has_objects(file):
                write_objects(file, aside, tags)
            else:
                write_conll(file, aside, tags, tag_column)
    if next(tags, None) is not None:
        raise ValueError(f"{source}: more predictions than sentences")


def tagged_files(path: Path) -> list[Path]:
    """Returns the file, or the files of a folder.

    Raises StageError for a file that cannot be read or is of another format, and for an empty
    folder or one within it.
    """
    files = [path]
    if path.is_dir():
        files = sorted(one for one in path.iterdir() if not one.name.startswith("."))
        if not files:
            raise StageError(f"{path}: no file in this folder")
    for file in files:
        if problem := problem_with_file(file):
            raise StageError(f"{file}: {problem}")
        if file.suffix.lower() in REFUSED:
            raise StageError(
                f"{file}: expected .jsonl, .parquet, or another ending for a token in each line"
            )
    return files


def tag_column_of(path: Path, tag_column: int) -> int:
    """Returns the number from 1 of the tag column in files with a token in each line.

    If the column is missing, and for objects, it is `tag_column` as it is.
    """
    for file in tagged_files(path):
        layout = None if _has_objects(file) else find_layout(file)
        place = layout.tag_place(tag_column) if layout else None
        if place is not None:
            return place + 1
    return tag_column


def _has_objects(path: Path) -> bool:
    return path.suffix.lower() == ".jsonl" or is_parquet(path)


def _check_columns(files: Sequence[Path], tag_column: int) -> None:
    """Raises StageError if the last column of some of the files may be another one."""
    if tag_column > 0 or len(files) == 1:
        return
    layouts = {file: find_layout(file) for file in files if not _has_objects(file)}
    numbers = {file: layout.num_columns for file, layout in layouts.items() if layout}
    for file, number in numbers.items():
        first = next(iter(numbers))
        if number != numbers[first]:
            raise StageError(
                f"{file}: has {number} columns, and {first} has {numbers[first]}, "
                f"expected the number of the column with the tags, got {tag_column}"
            )
