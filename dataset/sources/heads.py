"""What the beginnings of files tell before anything else is read: for the plan."""

import codecs
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from dataset.sources.article_stream import RECODE_HINT, counted
from dataset.sources.blanks import is_blank
from dataset.sources.corpus_files import HEAD_BYTES, format_of, read_head
from dataset.sources.registry import Source, check_file
from pipeline.errors import StageError
from pipeline.user_files.csv_dialects import escapes_by_backslash

MAX_TOLD = 5  # problems of a source
MAX_LOOKED_AT = 100  # files of a source, spread over all of it

FilesOf = Callable[[Source], list[Path]]


def problems_with_heads(sources: Iterable[Source], files_of: FilesOf) -> list[str]:
    """A line for each file that cannot be used; of many of a source, for the first ones. If there
    is nothing but blanks in all files of all sources, a line for each of these."""
    sources = list(sources)
    if sources and all(_is_blank_source(source, files_of) for source in sources):
        return [
            f"{source.key}: {files[0]}{_more(files)}: only blanks, expected text"
            for source in sources
            if (files := files_of(source))
        ]
    problems = []
    for source in sources:
        files = _looked_at(source, files_of)
        found = [problem for path in files if (problem := _problem_with(path, source))]
        told = list(dict.fromkeys(found))  # what is wrong with a folder is told once
        problems += [f"{source.key}: {problem}" for problem in told[:MAX_TOLD]]
        if told[MAX_TOLD:]:
            problems.append(
                f"{source.key}: {counted(len(told) - MAX_TOLD, 'more files')} like that"
            )
    return problems


def notes_on_heads(sources: Iterable[Source], files_of: FilesOf) -> list[str]:
    """A line for each source with files that begin with other bytes than those of UTF-8."""
    notes = []
    for source in sources:
        files = _looked_at(source, files_of) if source.kind == "folder" else []
        found = [path for path in files if not _is_utf8(path)]
        if found:
            notes.append(
                f"{found[0]}{_more(found)}: undecodable characters would be lost, {RECODE_HINT}"
            )
    return notes


def _is_blank_source(source: Source, files_of: FilesOf) -> bool:
    """Whether all of its files are known to be empty or of blanks."""
    return source.kind == "folder" and all(map(_is_blank_file, files_of(source)))


def _is_blank_file(path: Path) -> bool:
    if path.stat().st_size == 0:
        return True
    if format_of(str(path)) in ("parquet", "arrow"):
        return False
    try:
        head = read_head(str(path), HEAD_BYTES)
    except StageError:
        return False
    return len(head) < HEAD_BYTES and is_blank(head.decode(errors="replace"))


def _more(found: Sequence[object]) -> str:
    return f" (and {counted(len(found) - 1, 'more files')})" if len(found) > 1 else ""


def _looked_at(source: Source, files_of: FilesOf) -> list[Path]:
    files = files_of(source)
    spread = files[:: -(-len(files) // MAX_LOOKED_AT) or 1]
    return [path for path in spread if path.stat().st_size > 0]


def _problem_with(path: Path, source: Source) -> str:
    try:
        if source.kind == "folder":
            check_file(path, source.column)
        elif path.suffix.lower() == ".csv" and escapes_by_backslash(read_head(str(path))):
            return (
                f"{path}: quotes are escaped by backslashes, which `datasets` does not know, "
                "expected under DATASET.CUSTOMIZED_DATASETS"
            )
    except StageError as error:
        return error.cause
    return ""


def _is_utf8(path: Path) -> bool:
    """Of the first bytes of a text; the last of them may be a part of a character."""
    if format_of(str(path)) in ("parquet", "arrow"):
        return True
    try:
        codecs.getincrementaldecoder("utf-8")().decode(read_head(str(path), HEAD_BYTES))
    except UnicodeDecodeError:
        return False
    except StageError:  # a problem of its own
        return True
    return True
