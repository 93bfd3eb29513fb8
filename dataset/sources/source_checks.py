"""Checks of the sources before any of them is read whole: beginnings of files, and overlaps."""

import codecs
import os
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from pathlib import Path

from dataset.sources.article_stream import RECODE_HINT, counted
from dataset.sources.corpus_files import HEAD_BYTES, format_of, read_head
from dataset.sources.registry import Source, check_file
from pipeline.errors import StageError
from pipeline.user_files.csv_dialects import escapes_by_backslash

MAX_PROBLEMS = 5  # named for a source
MAX_FILES = 100  # checked in a source, evenly spread
BINARY = ("parquet", "arrow")

FilesOf = Callable[[Source], list[Path]]


# --- beginnings of files ---------------------------------------------------------------------


def problems_with_heads(sources: Sequence[Source], files_of: FilesOf) -> list[str]:
    """Returns a line for each unusable file, for the first few of a source."""
    problems = []
    for source in sources:
        files = _sample_of(source, files_of)
        found = [problem for path in files if (problem := _problem_with(path, source))]
        found = list(dict.fromkeys(found))  # a problem with a folder is found in each of its files
        problems += [f"{source.key}: {problem}" for problem in found[:MAX_PROBLEMS]]
        if num_more := len(found[MAX_PROBLEMS:]):
            problems.append(f"{source.key}: {counted(num_more, 'more files')} like that")
    return problems


def notes_on_heads(sources: Iterable[Source], files_of: FilesOf) -> list[str]:
    """Returns a line for each source with files not in UTF-8, by their beginnings."""
    notes = []
    for source in sources:
        files = _sample_of(source, files_of) if source.kind == "folder" else []
        if found := [path for path in files if not _is_utf8(path)]:
            more = f" (and {counted(len(found) - 1, 'more files')})" if len(found) > 1 else ""
            lost = f"undecodable characters would be lost, {RECODE_HINT}"
            notes.append(f"{found[0]}{more}: {lost}")
    return notes


def _sample_of(source: Source, files_of: FilesOf) -> list[Path]:
    files = files_of(source)
    spread = files[:: -(-len(files) // MAX_FILES) or 1]
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
    """True unless the first bytes of a text cannot be decoded; they may end within a character."""
    if format_of(str(path)) in BINARY:
        return True
    try:
        codecs.getincrementaldecoder("utf-8")().decode(read_head(str(path), HEAD_BYTES))
    except UnicodeDecodeError:
        return False
    except StageError:  # reported as a problem
        pass
    return True


# --- overlaps --------------------------------------------------------------------------------


def problems_with_overlaps(sources: Sequence[Source]) -> list[str]:
    """Returns a line for each two sources sharing text: it would leak into the test split."""
    places = [_place(source) for source in sources]
    problems = []
    for (first, place), (second, other) in combinations(zip(sources, places, strict=True), 2):
        if place == other and _is_same_part(first, second):
            shared = f"{second.name} and {first.name} are the same text"
        elif place != other and _is_local(first) and _is_local(second) and _nested(place, other):
            shared = f"{second.name} and {first.name} are given, one of which contains the other"
        else:
            continue
        problems.append(f"{second.key}: {shared}, expected each text once")
    return problems


def problems_with_output(sources: Iterable[Source], folders: Iterable[Path]) -> list[str]:
    """Returns a line for each source that lies in an output folder or contains it."""
    written = [(folder, os.path.realpath(folder)) for folder in folders]
    return [
        f"{source.key}: {source.name} and the output folder {folder} overlap; "
        "expected text in a folder of its own"
        for source in sources
        for folder, place in written
        if _is_local(source) and _nested(_place(source), place)
    ]


def _is_local(source: Source) -> bool:
    return source.kind in ("folder", "files")


def _place(source: Source) -> str:
    return os.path.realpath(source.name) if _is_local(source) else source.name


def _is_same_part(first: Source, second: Source) -> bool:
    """True if two sources in one place read the same split and column."""
    if "folder" in (first.kind, second.kind):
        return True
    return (first.subset, first.split, first.column) == (second.subset, second.split, second.column)


def _nested(place: str, other: str) -> bool:
    """True if two real paths are equal or one lies below the other."""
    inner, outer = sorted((place, other), key=len, reverse=True)
    return inner == outer or inner.startswith(outer.rstrip(os.sep) + os.sep)
