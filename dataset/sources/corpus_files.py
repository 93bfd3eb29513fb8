"""Files of a corpus: which of them hold text, in what format, and how they are opened."""

import os
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO

from dataset.sources.article_stream import BLOCK_BYTES
from dataset.sources.saved_datasets import DEFAULT_SPLIT, INFO, SPLITS, STATE, data_files, splits_in
from pipeline.errors import StageError
from pipeline.store.record_files import MANIFEST, STARTED, read_json
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
COMPRESSION_FACTOR = 3  # of text, roughly; sizes that are planned with must not need a look inside
WIKIEXTRACTOR_NAME = re.compile(r"wiki_\d+")
DOC_TAG = b"<doc "
TEXT_STAGES = ("process_data", "merge_shards", "shard_data")
DIGESTS = "digests.json"
# In folders with text: files, and the folders of records and of unfinished work.
OWN_NAMES = {STARTED, MANIFEST, DIGESTS, "shards.json", "records", "runs", "sources"}
MAX_RECORD_BYTES = 64 << 20  # a larger manifest.json is a text of the user's
HEAD_BYTES = 64 << 10  # looked at before a file is read
EXPECTED = (
    ".txt, .jsonl, .csv, .tsv or .parquet files, or what WikiExtractor or Dataset.save_to_disk "
    "writes"
)


def format_of(path: str) -> str:
    """txt | json | csv | tsv | parquet | arrow | wiki (of WikiExtractor), or an empty string.

    By the name alone, but for files without suffix, which have to begin with `<doc `.
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
    """Size of the content in bytes; of compressed files a guess."""
    return os.path.getsize(path) * (COMPRESSION_FACTOR if is_compressed(path) else 1)


def _begins_with_tag(path: str) -> bool:
    try:
        return os.path.isfile(path) and read_head(path, len(DOC_TAG)) == DOC_TAG
    except StageError:
        return False


def list_files(path: Path) -> tuple[list[Path], list[Path]]:
    """(files with text, other files) below a folder, each sorted by its name.

    Hidden files and folders and what this program keeps for itself are passed over; what is no
    file, like a broken link, counts with the others. A file stands for itself. Of a saved
    DatasetDict the split `train` is listed; the others count with the other files.
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
    """Yields (path, whether it is a file that can be read) of all but folders."""
    visited = set()
    folders = [top]
    while folders:
        folder = folders.pop()
        try:
            state = os.stat(folder)
            entries = sorted(os.scandir(folder), key=attrgetter("name"))
        except OSError:  # it may not be looked into, or has just gone
            yield folder, False
            continue
        if (state.st_dev, state.st_ino) in visited:  # links may run in circles
            continue
        visited.add((state.st_dev, state.st_ino))
        shown = [entry for entry in entries if not entry.name.startswith(".")]
        kinds = {entry.name: kind_of(entry) for entry in shown}
        own = own_names(folder, kinds)
        found = [(entry.path, kinds[entry.name]) for entry in shown if entry.name not in own]
        found = _of_saved_datasets(folder, kinds, found)
        folders += [path for path, kind in reversed(found) if kind == "folder"]
        yield from ((path, kind == "file") for path, kind in found if kind != "folder")


def _of_saved_datasets(
    folder: str, kinds: Mapping[str, str], found: list[tuple[str, str]]
) -> list[tuple[str, str]]:
    """Without Arrow files that no saved dataset names (`other`), records and other splits."""
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


def kind_of(entry: os.DirEntry) -> str:
    """folder | file | other, like a broken link or a pipe."""
    with suppress(OSError):  # a link to itself
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
    return "other"


def own_names(folder: str, kinds: Mapping[str, str]) -> set[str]:
    """Those of the names in a folder that are this program's and no text of the user's.

    Of a folder that a stage made: all, unless the stage makes text for the user; then the records.
    kinds: see `kind_of`, by name.
    """
    names = [name for name in (STARTED, MANIFEST) if kinds.get(name) == "file"]
    records = (record_in(Path(folder, name)) for name in names)
    record = next(filter(is_record, records), None)
    if record is None:
        return {DIGESTS} & kinds.keys()
    return OWN_NAMES if makes_text(record) else set(kinds)


def record_in(path: Path) -> Any:
    """The JSON of a file that may be a record; None of one that cannot be."""
    try:
        return read_json(path) if path.stat().st_size <= MAX_RECORD_BYTES else None
    except OSError:
        return None


def is_record(content: Any) -> bool:
    """Whether this is what `Artifact` writes into the folders that it owns."""
    return isinstance(content, dict) and {"fingerprint", "inputs"} <= content.keys()


def makes_text(record: dict) -> bool:
    """Of records without a stage (older ones): those of text have neither keys nor a tokenizer."""
    if "stage" in record:
        return record["stage"] in TEXT_STAGES
    return not any("." in name or name == "tokenizer" for name in record["inputs"])


def relative_name(path: Path, folder: Path) -> str:
    """The name of a file within its source; `folder` may be the file itself."""
    if path == folder:
        return path.name
    return str(path)[len(str(folder)) :].lstrip(os.sep)


# --- reading ---------------------------------------------------------------------------------


@contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """Opens a file for reading its decompressed bytes.

    Raises StageError, naming the file, if it is none (a pipe, say), cannot be read, is damaged or
    cut off.
    """
    if problem := problem_with_file(path):
        raise StageError(f"{path}: {problem}")
    try:
        with _open(path) as file:
            yield file
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "cut off"
        cause = "damaged or cut off" if is_compressed(path) else "cannot be read"
        raise StageError(f"{path}: {cause} ({reason})") from error


def _open(path: str) -> BinaryIO:
    suffix = os.path.splitext(path.lower())[1]
    if suffix == ".gz":
        import gzip

        return gzip.open(path, "rb")
    if suffix == ".bz2":
        import bz2

        return bz2.open(path, "rb")
    if suffix == ".zst":
        import pyarrow

        # As bytes, for names that are not UTF-8.
        return pyarrow.input_stream(pyarrow.OSFile(os.fsencode(path)), compression="zstd")
    return open(path, "rb")


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
        raise StageError(f"{path}: has become shorter than it was when this stage began")


def read_head(path: str, num_bytes: int = BLOCK_BYTES) -> bytes:
    """The first bytes of a decompressed file, without a byte order mark.

    Raises StageError if the text is UTF-16 or UTF-32.
    """
    with opened(path) as file:
        head = bytes(file.read(num_bytes))
    if problem := problem_with_encoding(head):
        raise StageError(f"{path}: the text {problem}")
    return head.removeprefix(b"\xef\xbb\xbf")


def checked_head(path: str) -> bytes:
    """The first bytes of a text. Raises StageError if lines end with CR alone, or as read_head."""
    head = read_head(path, HEAD_BYTES)
    if has_bare_carriage_returns(head):
        raise StageError(f"{path}: lines end with CR alone, expected LF or CRLF")
    return head
