"""The zip of a submission: written flat and deterministically, read with limits."""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from pipeline.store.atomic_files import written_aside

PARTIAL_SUFFIX = "-partial-not-for-submission"
ENDINGS = {"GLUE": ".tsv", "SuperGLUE": ".jsonl"}
# Fixed date of all files in the zip: the same predictions give the same bytes.
ZIP_DATE = (1980, 1, 1, 0, 0, 0)
# Limit of the unpacked size; a whole submission has less than a tenth of it.
MAX_BYTES = 200_000_000
SUMMARY_TABLE = "summary.tsv"  # beside the files to be submitted


def file_name(name: str, benchmark: str = "GLUE") -> str:
    """Returns the file of a test set: `CoLA.tsv`, `CB.jsonl`."""
    return name + ENDINGS[benchmark]


def zip_path(directory: Path, partial: bool, benchmark: str = "GLUE") -> Path:
    """Returns the path of the zip, beside the folder of its files."""
    which = "" if benchmark == "GLUE" else f"-{benchmark.lower()}"
    return directory.with_name(f"{directory.name}{which}{PARTIAL_SUFFIX if partial else ''}.zip")


def write_zip(path: Path, files: Mapping[str, str]) -> None:
    """Writes files (name -> text) in the given order; the same content gives the same bytes."""
    with written_aside(path) as aside, zipfile.ZipFile(aside, "w") as archive:
        for name, text in files.items():
            member = zipfile.ZipInfo(name, ZIP_DATE)
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = 0o644 << 16
            archive.writestr(member, text.encode())


def read_submission(path: Path) -> tuple[dict[str, bytes | None], list[str]]:
    """Returns the files of a zip, or the .tsv and .jsonl files of a folder, and the problems.

    An unreadable file has the content None. Raises OSError if `path` is missing, and
    zipfile.BadZipFile if it is neither a folder nor a readable zip.
    """
    if path.is_dir():
        found = [file for file in sorted(path.iterdir()) if _is_submitted(file)]
        return {file.name: file.read_bytes() for file in found}, []
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_members(archive)
    except (UnicodeDecodeError, NotImplementedError) as error:  # a name, the version of the format
        raise zipfile.BadZipFile(str(error)) from error


def _is_submitted(file: Path) -> bool:
    ending = file.suffix.lower() in ENDINGS.values()
    return ending and file.is_file() and file.name != SUMMARY_TABLE


def _read_members(archive: zipfile.ZipFile) -> tuple[dict[str, bytes | None], list[str]]:
    files: dict[str, bytes | None] = {}
    problems, left = [], MAX_BYTES
    for member in archive.infolist():
        name = member.filename
        if name in files:
            problems.append(f"{name} is in the zip twice")
            continue
        files[name] = None
        try:
            content = _read_member(archive, member, left)
            files[name], left = content, left - len(content)
        except ValueError as error:
            problems.append(f"{name}: {error}")
    return files, problems


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int) -> bytes:
    """Returns the content. Raises ValueError for bad data; does not trust the recorded size."""
    too_large = f"more than {limit / 1e6:.0f} MB unpacked, no submission is that large"
    if member.flag_bits & 1:
        raise ValueError("encrypted, expected a zip without password")
    if member.file_size > limit:
        raise ValueError(too_large)
    try:
        with archive.open(member) as file:
            content = file.read(limit + 1)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError) as error:
        raise ValueError(f"cannot be unpacked: {error}") from error
    if len(content) > limit:
        raise ValueError(too_large)
    return content


def all_zips(directory: Path) -> list[Path]:
    """Returns the paths of all possible zips of a search."""
    return [
        zip_path(directory, partial, benchmark)
        for benchmark in ENDINGS
        for partial in (False, True)
    ]
