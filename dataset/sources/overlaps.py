"""Sources that share text, and sources that lie where the dataset is written to."""

import os
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path

from dataset.sources.registry import Source


def problems_with_overlaps(sources: Sequence[Source]) -> list[str]:
    """A line for each two sources that share text: it would be trained on and held out at once."""
    places = [_place(source) for source in sources]
    problems = []
    for (first, place), (second, other) in combinations(zip(sources, places, strict=True), 2):
        if place == other and _same_part(first, second):
            shared = f"{second.name} and {first.name} are the same text"
        elif place != other and _is_local(first) and _is_local(second) and _nested(place, other):
            shared = f"{second.name} and {first.name} are given, of which one holds the other"
        else:
            continue
        problems.append(f"{second.key}: {shared}, expected each text once")
    return problems


def problems_with_output(sources: Iterable[Source], folders: Iterable[Path]) -> list[str]:
    """A line for each source that lies in a folder that is written to, or holds it."""
    written = [(folder, os.path.realpath(folder)) for folder in folders]
    return [
        f"{source.key}: {source.name} and {folder}, where the results are written to, overlap; "
        "expected text in a folder of its own"
        for source in sources
        for folder, place in written
        if _is_local(source) and _nested(_place(source), place)
    ]


def _is_local(source: Source) -> bool:
    return source.kind in ("folder", "files")


def _place(source: Source) -> str:
    return os.path.realpath(source.name) if _is_local(source) else source.name


def _same_part(first: Source, second: Source) -> bool:
    """Of one place: whether it is the same part of it; a dataset may have several splits."""
    if "folder" in (first.kind, second.kind):
        return True
    return all(
        getattr(first, name) == getattr(second, name) for name in ("subset", "split", "column")
    )


def _nested(place: str, other: str) -> bool:
    """Whether two real paths are the same, or one lies below the other."""
    inner, outer = sorted((place, other), key=len, reverse=True)
    return inner == outer or inner.startswith(outer.rstrip(os.sep) + os.sep)
