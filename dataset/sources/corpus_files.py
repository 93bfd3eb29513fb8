"""Files of a corpus: formats by name, listing of folders, opening of compressed files."""

import bz2
import gzip
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from operator import attrgetter
from pathlib import Path
from typing import IO, Any

from dataset.sources.article_stream import BLOCK_BYTES
from dataset.sources.saved_datasets import (
    DEFAULT_SPLIT,
    INFO,
    SPLITS,
    STATE,
    data_files,
    read_small_json,
    splits_in,
)
from pipeline.errors import StageError
from pipeline.store.record_files import MANIFEST, STARTED
from pipeline.user_files.file_checks import (
    has_bare_carriage_returns,
    problem_with_encoding,
    problem_with_file,
)

FORMATS = {
    ".txt": "txt",
    ".jsonl": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
COMPRESSIONS = (".gz", ".bz2", ".zst")
COMPRESSION_FACTOR = 3  # of text, roughly: planning must not decompress files
WIKIEXTRACTOR_NAME = re.compile(r"wiki_\d+")
DOC_TAG = b"<doc "
TEXT_STAGES = ("process_data", "merge_shards", "shard_data")
DIGESTS = "digests.json"
# Files and folders of records and unfinished work, in folders of text made by this program.
OWN_NAMES = {STARTED, MANIFEST, DIGESTS, "shards.json", "records", "runs", "sources"}
HEAD_BYTES = 64 << 10  # checked before a file is read
EXPECTED = (
    ".txt, .jsonl, .csv, .tsv or .parquet files, or what WikiExtractor or Dataset.save_to_disk "
    "writes"
)


def format_of(path: str) -> str:
    """Returns txt, json, csv, tsv, parquet, arrow, wiki (WikiExtractor), or an empty string.

    Depends on the name alone, except for files without suffix, which must begin with `<doc `.
    """
    stem, suffix = os.path.splitext(os.path.basename(path).lower())
    if suffix in COMPRESSIONS:
        stem, suffix = os.path.splitext(stem)
        if suffix in (".parquet", ".arrow"):
            return ""
    if suffix:
        return FORMATS.get(suffix, "")
    if WIKIEXTRACTOR_NAME.fullmatch(stem) or _begins_with_tag(path):
        return "wiki"
    return ""


def is_compressed(path: str) -> bool:
    return path.lower().endswith(COMPRESSIONS)


def text_size(path: str) -> int:
    """Returns the size of the content in bytes, estimated for compressed files."""
    return os.path.getsize(path) * (COMPRESSION_FACTOR if is_compressed(path) else 1)


def _begins_with_tag(path: str) -> bool:
    try:
        return os.path.isfile(path) and read_head(path, len(DOC_TAG)) == DOC_TAG
    except StageError:
        return False


def list_files(path: Path) -> tuple[list[Path], list[Path]]:
    """Returns (files with text, other files) below a folder or of a single file, sorted by name.

    Skips hidden files and folders and this program's own. Other files include broken links and the
    like, and the splits of a saved DatasetDict except `train`.
    """
    if not path.is_dir():
        return ([path], []) if path.is_file() and format_of(str(path)) else ([], [path])
    known: list[str] = []
    others: list[str] = []
    for file, is_file in _iter_files(str(path)):
        (known if is_file and format_of(file) else others).append(file)
    for files in (known, others):
        files.sort(key=lambda file: file.split(os.sep))
    return list(map(Path, known)), list(map(Path, others))


def _iter_files(top: str) -> Iterator[tuple[str, bool]]:
    """Yields (path, True for a readable file) of everything except folders."""
    visited = set()
    folders = [top]
    while folders:
        folder = folders.pop()
        try:
            state = os.stat(folder)
            entries = sorted(os.scandir(folder), key=attrgetter("name"))
        except OSError:  # no permission, or just deleted
            yield folder, False
            continue
        if (state.st_dev, state.st_ino) in visited:  # links can form cycles
            continue
        visited.add((state.st_dev, state.st_ino))
        shown = [entry for entry in entries if not entry.name.startswith(".")]
        kinds = {entry.name: _kind_of(entry) for entry in shown}
        own = _own_names(folder, kinds)
        found = [(entry.path, kinds[entry.name]) for entry in shown if entry.name not in own]
        found = _of_saved_datasets(folder, kinds, found)
        folders += [path for path, kind in reversed(found) if kind == "folder"]
        yield from ((path, kind == "file") for path, kind in found if kind != "folder")


def _of_saved_datasets(
    folder: str, kinds: Mapping[str, str], found: list[tuple[str, str]]
) -> list[tuple[str, str]]:
    """Drops a saved dataset's records; turns unnamed Arrow files and other splits into `other`."""
    has_info = kinds.get(INFO) == "file" and kinds.get(STATE) == "file"
    files = data_files(folder) if has_info else None
    splits = splits_in(folder) if kinds.get(SPLITS) == "file" else None
    kept = []
    for path, kind in found:
        name = os.path.basename(path)
        if (files is not None and name in (INFO, STATE)) or (splits is not None and name == SPLITS):
            continue
        is_stray = kind == "file" and name.lower().endswith(".arrow") and name not in (files or ())
        is_other_split = kind == "folder" and name in (splits or ()) and name != DEFAULT_SPLIT
        kept.append((path, "other" if is_stray or is_other_split else kind))
    return kept


def _kind_of(entry: os.DirEntry) -> str:
    """Returns folder, file or other (a broken link, a pipe)."""
    with suppress(OSError):  # a link to itself
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
    return "other"


def _own_names(folder: str, kinds: Mapping[str, str]) -> set[str]:
    """Returns this program's own names in a folder, without the user's text.

    In the folder of a stage these are all names; if the stage makes text, only the records.
    kinds: by name, see `_kind_of`.
    """
    for name in (STARTED, MANIFEST):
        record = read_small_json(Path(folder, name)) if kinds.get(name) == "file" else {}
        if {"fingerprint", "inputs"} <= record.keys():
            return OWN_NAMES if record.get("stage") in TEXT_STAGES else set(kinds)
    return {DIGESTS}


def relative_name(path: Path, folder: Path) -> str:
    """Returns the name of a file within its source; `folder` may be the file itself."""
    if path == folder:
        return path.name
    return str(path)[len(str(folder)) :].lstrip(os.sep)


# --- reading ---------------------------------------------------------------------------------


@contextmanager
def opened(path: str) -> Iterator[IO[bytes]]:
    """Opens a file for reading its decompressed bytes.

    Raises StageError, naming the file, if it is not a file (a pipe, say), unreadable or damaged.
    """
    if problem := problem_with_file(path):
        raise StageError(f"{path}: {problem}")
    try:
        with _open(path) as file:
            yield file
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = (str(error).strip() or "cut off").splitlines()[0]
        cause = "damaged or cut off" if is_compressed(path) else "cannot be read"
        raise StageError(f"{path}: {cause} ({reason})") from error


def _open(path: str) -> IO[bytes]:
    suffix = os.path.splitext(path.lower())[1]
    if suffix == ".zst":
        import pyarrow

        # pyarrow takes names that are not UTF-8 only as bytes.
        return pyarrow.input_stream(pyarrow.OSFile(os.fsencode(path)), compression="zstd")
    openers: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open}
    return openers.get(suffix, open)(path, "rb")


def iter_blocks(path: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """Yields bytes [start, end) of the decompressed file in blocks of up to 1 MiB.

    Raises StageError if the file ends before `end`.
    """
    with opened(path) as file:
        if start:
            file.seek(start)
        left = BLOCK_BYTES if end is None else end - start
        while left > 0 and (block := file.read(min(BLOCK_BYTES, left))):
            yield block
            left -= len(block) if end is not None else 0
    if end is not None and left > 0:
        raise StageError(f"{path}: has become shorter since this stage began")


def read_head(path: str, num_bytes: int = BLOCK_BYTES) -> bytes:
    """Returns the first bytes of a decompressed file, without a byte order mark.

    Raises StageError if the text is UTF-16 or UTF-32.
    """
    with opened(path) as file:
        head = bytes(file.read(num_bytes))
    if problem := problem_with_encoding(head):
        raise StageError(f"{path}: the text {problem}")
    return head.removeprefix(b"\xef\xbb\xbf")


def checked_head(path: str) -> bytes:
    """Returns the first bytes of a text. Raises StageError as read_head, and for CR line ends."""
    head = read_head(path, HEAD_BYTES)
    if has_bare_carriage_returns(head):
        raise StageError(f"{path}: lines end with CR alone, expected LF or CRLF")
    return head
