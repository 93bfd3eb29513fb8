"""Where the text comes from: folders of text files, Hub datasets, Python's own documentation.

Slices (of a file, of an Arrow table) are what articles are read from, each with a `name`, its
size `num_bytes` and `articles(tally)`. (name, position) identifies an article.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset.hub import ArrowSlice, cut_arrow_file, load_arrow_files
from dataset.text_files import TextSlice, cut_file
from pipeline.errors import StageError

PYTHON_DOCS = "builtin:python-docs"
Slice = TextSlice | ArrowSlice


@dataclass(frozen=True)
class Source:
    """One entry of the config.

    kind: folder (of .txt files) | files (local, read by `datasets`) | hub | python-docs.
    name: path or Hub name. key: the config key or flag that it was given by, for messages.
    """

    kind: str
    name: str
    key: str
    subset: str = ""


def hub_source(name: str, subset: str, key: str) -> Source:
    """A Hub dataset, or a local folder or file in its place. A folder of .txt files is one."""
    path = Path(name).expanduser()
    if not path.exists():
        return Source("hub", name, key, subset)
    if text_files(path):
        return Source("folder", str(path), key)
    return Source("files", str(path), key, subset)


def customized_source(name: str, key: str) -> Source:
    if name == PYTHON_DOCS:
        return Source("python-docs", name, key)
    return Source("folder", str(Path(name).expanduser()), key)


def configured_sources(
    hub_pairs: Sequence[Sequence[str]], customized: Iterable[str]
) -> list[Source]:
    """DATASET.HUGGINGFACE_DATASETS and DATASET.CUSTOMIZED_DATASETS as a list of Source."""
    pairs = [(*pair, "")[:2] for pair in hub_pairs]
    return [
        *(hub_source(name, subset, "DATASET.HUGGINGFACE_DATASETS") for name, subset in pairs),
        *(customized_source(name, "DATASET.CUSTOMIZED_DATASETS") for name in customized),
    ]


def text_files(path: Path) -> list[Path]:
    """All .txt files below a folder (or the one file itself), sorted by relative name."""
    found = path.rglob("*") if path.is_dir() else [path]
    return sorted(file for file in found if file.suffix.lower() == ".txt" and file.is_file())


def local_files(source: Source) -> list[Path]:
    """The files that a source's content depends on; none for the Hub and the builtin."""
    path = Path(source.name)
    if source.kind == "folder":
        return text_files(path)
    if source.kind == "files" and path.is_file():
        return [path]
    if source.kind == "files":
        return sorted(file for file in path.rglob("*") if file.is_file())
    return []


def problem_with(source: Source) -> str:
    """What is wrong with a source, or an empty string."""
    path = Path(source.name)
    if source.kind == "python-docs" or source.kind == "hub":
        if source.name.startswith((".", "/", "~")):
            return f"{source.key}: {source.name} does not exist, expected a folder or a Hub name"
        return ""
    if not path.exists():
        return f"{source.key}: folder {source.name} does not exist, expected a folder of .txt files"
    if not local_files(source):
        return f"{source.key}: folder {source.name} has no .txt file"
    return ""


def slug(sources: Sequence[Source]) -> str:
    """A short name for a list of sources, fit for a folder."""
    words = [Path(source.name.removeprefix("builtin:")).name for source in sources]
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")[:40].strip("-") or "text"


def open_sources(
    sources: Sequence[Source], work_dir: Path, slice_bytes: int, say: Callable[[str], None]
) -> list[Slice]:
    """All slices of all sources, in order; downloads and converts what is not text yet.

    Raises StageError if there is no text at all.
    """
    slices = []
    for index, source in enumerate(sources):
        slices += _open_source(source, str(index), work_dir / str(index), slice_bytes, say)
    if not slices:
        raise StageError("the sources hold no text")
    return slices


def _open_source(
    source: Source, prefix: str, work_dir: Path, slice_bytes: int, say: Callable[[str], None]
) -> list[Slice]:
    if source.kind == "folder":
        return _open_folder(Path(source.name), prefix, slice_bytes)
    if source.kind == "python-docs":
        from dataset.python_docs import write_python_docs

        return _open_folder(write_python_docs(work_dir), prefix, slice_bytes)
    return [
        piece
        for number, path in enumerate(load_arrow_files(source.name, source.subset, work_dir, say))
        for piece in cut_arrow_file(path, f"{prefix}/{number}", slice_bytes)
    ]


def _open_folder(folder: Path, prefix: str, slice_bytes: int) -> list[TextSlice]:
    return [
        piece
        for path in text_files(folder)
        for piece in cut_file(path, f"{prefix}/{relative_name(path, folder)}", slice_bytes)
    ]


def relative_name(path: Path, folder: Path) -> str:
    return path.name if path == folder else path.relative_to(folder).as_posix()


def group_slices(slices: Iterable[Slice], part_bytes: int) -> list[tuple[Slice, ...]]:
    """Consecutive slices in parts of about `part_bytes`: many small files make one part."""
    parts: list[tuple[Slice, ...]] = []
    part: list[Slice] = []
    size = 0
    for piece in slices:
        if part and size + piece.num_bytes > part_bytes:
            parts.append(tuple(part))
            part, size = [], 0
        part.append(piece)
        size += piece.num_bytes
    return [*parts, tuple(part)] if part else parts
