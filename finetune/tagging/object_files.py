"""Tagged sentences as objects: lines of JSON, and rows of Parquet (parquet_rows.py).

An object has `tokens` and `tags` (or `ner_tags`, as on the Hub), or a `text` and `spans` of its
characters. Tags or spans may be missing. A text is a document of its own.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.data.tables import iter_lines, parsed_line
from finetune.tagging.char_spans import parsed_spans, spans_of_words, tags_of_words, words_of
from finetune.tagging.parquet_rows import TAG_COLUMNS, Row, iter_rows, write_rows
from finetune.tagging.sentences import Sentence, is_parquet, place_in
from pipeline.errors import StageError
from pipeline.user_files.file_checks import shown


def iter_objects(path: Path, document: int = 0) -> Iterator[Sentence]:
    """Yields the sentences of a file. Tags are as in the file, or in IOB2 for spans.

    document: the number of the first one. Objects without any word are left out. Raises StageError
    for an object without tokens and text, and with malformed tags or spans.
    """
    has_sentences = False
    for number, row in _rows(path):
        if sentence := _sentence(row, path, number):
            document += has_sentences and bool(sentence.offsets)
            yield replace(sentence, document=document)
            has_sentences = True


def write_objects(source: Path, target: Path, predictions: Iterator[Sequence[str]]) -> None:
    """Copies a file with predicted `tags`, or `spans` for a text, in the form of the first there.

    Raises ValueError for missing sentences, and for more or fewer tags than tokens.
    """
    if is_parquet(source):
        write_rows(
            source,
            target,
            lambda number, row: _predicted(row, source, number, predictions)[1],
        )
        return
    spans = (row["spans"] for _, row in _rows(source) if row.get("spans"))
    has_lists = isinstance(next(spans, [{}])[0], list)
    with open(target, "w", encoding="utf-8", newline="\n") as out:
        for number, row in _rows(source):
            name, found = _predicted(row, source, number, predictions)
            if name == "spans" and has_lists:
                found = [list(span.values()) for span in found]
            out.write(json.dumps(row | {name: found}, ensure_ascii=False) + "\n")


def _rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Yields (number from 1, object). Raises StageError for what is no object."""
    if is_parquet(path):
        yield from iter_rows(path)
        return
    for number, line in iter_lines(path):
        try:
            yield number, parsed_line(line)
        except ValueError as error:
            raise StageError(f"{path}:{number}: {error}") from None


def _sentence(row: Row, path: Path, line: int) -> Sentence | None:
    """Returns the sentence of an object, or None if it has no word."""
    try:
        if row.get("tokens") is not None:
            tokens = _tokens(row["tokens"])
            tags = _tags(row, len(tokens))
            return Sentence(tokens, tags, path, line) if tokens else None
        text, spans = row.get("text"), row.get("spans")
        if not isinstance(text, str):
            raise ValueError("no `tokens` and no `text`, expected a list of words or a text")
        offsets, tags, num_widened = words_of(text), None, 0
        if spans is not None:
            tags, num_widened = tags_of_words(parsed_spans(spans, text), offsets, text)
    except ValueError as error:
        raise StageError(f"{place_in(path, line)}: {error}") from None
    if not offsets:
        return None
    words = tuple(text[start:stop] for start, stop in offsets)
    return Sentence(words, tags, path, line, 0, 0, tuple(offsets), num_widened)


def _tokens(tokens: Any) -> tuple[str, ...]:
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise ValueError("tokens are no list of texts")
    if "" in tokens:
        raise ValueError("an empty token")
    return tuple(tokens)


def _tags(row: Row, number: int) -> tuple[str, ...] | None:
    """Returns the tags of an object with `number` tokens."""
    tags = next((row[name] for name in TAG_COLUMNS if row.get(name) is not None), None)
    if tags is None:
        return None
    if not isinstance(tags, list):
        raise ValueError(f"tags are {shown(json.dumps(tags))}, expected a list")
    if len(tags) != number:
        raise ValueError(f"{number} tokens and {len(tags)} tags, expected as many")
    for tag in tags:
        if not isinstance(tag, str) or not tag:
            raise ValueError(f"tag {shown(json.dumps(tag))}, expected a text like B-PER")
    return tuple(map(sys.intern, tags))


def _predicted(
    row: Row, path: Path, number: int, predictions: Iterator[Sequence[str]]
) -> tuple[str, list]:
    """Returns the name and the value of the predictions of an object, spans as objects."""
    sentence = _sentence({name: row.get(name) for name in ("tokens", "text")}, path, number)
    tokens = sentence.tokens if sentence else ()
    tags = next(predictions, None) if sentence else []
    if tags is None or len(tags) != len(tokens):
        found = "no" if tags is None else len(tags)
        raise ValueError(f"{place_in(path, number)}: {found} predicted tags, {len(tokens)} tokens")
    if row.get("tokens") is not None:
        return "tags", list(tags)
    spans = spans_of_words(tags, sentence.offsets if sentence else ())
    return "spans", [{"start": one.start, "end": one.stop, "label": one.label} for one in spans]
