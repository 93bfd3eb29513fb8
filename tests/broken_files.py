"""Broken files, the same in every run, and what readers make of them.

    python tests/broken_files.py    how many there are, and with which outcomes

A reader may refuse a file, with one line that names it; leave something out and say so; or find
all that the whole file holds. What it must not do is to hang, to fail by itself, or to lose text
without a word. Where nothing could tell (text that is cut is text, too), it may find other things.
"""

import os
import random
import signal
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[:0] = [
        str(PROJECT),
        *(str(PROJECT / "tests" / name) for name in ("dataset", "finetune")),
    ]
    from pipeline.environment import enter_environment

    enter_environment()

from pipeline.errors import ConfigError, StageError  # noqa: E402 (behind the path to it)

REFUSED, REPORTED, COMPLETE, CHANGED = "refused", "reported", "complete", "changed"
SECONDS = 10  # after which a case counts as one that hangs
LONGEST_MESSAGE = 1000
Damage = Callable[[bytes], bytes]


# --- damage -----------------------------------------------------------------------------------


def _cuts() -> dict[str, Damage]:
    """What is left after a full disk, or of a copy that was interrupted."""
    return {
        "first_byte": lambda content: content[:1],
        "first_bytes": lambda content: content[:10],
        "a_quarter": lambda content: content[: len(content) // 4],
        "half": lambda content: content[: len(content) // 2],
        "without_last_bytes": lambda content: content[:-9],
        "without_last_byte": lambda content: content[:-1],
        "without_first_byte": lambda content: content[1:],
    }


def _flips() -> dict[str, Damage]:
    """What failing disks, and other programs, make of bytes."""

    def flip(share: float) -> Damage:
        def damaged(content: bytes) -> bytes:
            place = int(share * (len(content) - 1))
            return content[:place] + bytes([content[place] ^ 0x41]) + content[place + 1 :]

        return damaged

    def zeroed(content: bytes) -> bytes:
        half = len(content) // 2
        return content[:half] + bytes(32) + content[half + 32 :]

    shares = (0.0, 0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0)
    return {f"flipped_at_{share}": flip(share) for share in shares} | {"zeros_inside": zeroed}


def _nothing() -> dict[str, Damage]:
    return {"empty": lambda content: b"", "blank": lambda content: b" \n\t\r\n\n  "}


def _others() -> dict[str, Damage]:
    """Something else under this name."""
    return {
        "a_zero": lambda content: b"\0",
        "zeros": lambda content: bytes(5000),
        "noise": lambda content: random.Random(0).randbytes(3000),
        "a_web_page": lambda content: b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n",
        "an_archive": lambda content: b"PK\3\4\x14\0\0\0\x08\0" + random.Random(1).randbytes(500),
    }


def _encodings() -> dict[str, Damage]:
    """The same text as another program writes it."""

    def to(encoding: str) -> Damage:
        return lambda content: content.decode().encode(encoding, "replace")

    def mixed(ends: Sequence[bytes]) -> Damage:
        def damaged(content: bytes) -> bytes:
            lines = content.split(b"\n")
            pairs = (line + ends[number % len(ends)] for number, line in enumerate(lines[:-1]))
            return b"".join(pairs) + lines[-1]

        return damaged

    def inserted(what: bytes) -> Damage:
        def damaged(content: bytes) -> bytes:
            place = content.find(b" ", len(content) // 2)
            return content[:place] + what + content[place:]

        return damaged

    return {
        "byte_order_mark": lambda content: b"\xef\xbb\xbf" + content,
        "utf16": to("utf-16"),
        "utf16_le": to("utf-16-le"),
        "utf16_be": to("utf-16-be"),
        "utf32": to("utf-32"),
        "utf32_le": to("utf-32-le"),
        "latin1": to("latin-1"),
        "cp437": to("cp437"),
        "crlf": mixed((b"\r\n",)),
        "cr": mixed((b"\r",)),
        "lf_and_crlf": mixed((b"\n", b"\r\n")),
        "lf_and_cr": mixed((b"\n", b"\n", b"\r")),
        "no_line_end_at_the_end": lambda content: content.rstrip(b"\n"),
        "blank_lines_at_the_end": lambda content: content + b"\n\n\r\n",
        "a_zero_inside": inserted(b"\0"),
        "no_utf8_inside": inserted(b"\xff\xfe"),
        "half_a_character": inserted(b"\xe4\xb8"),
        "a_surrogate": inserted(b"\xed\xa0\x80"),
        "an_overlong_zero": inserted(b"\xc0\x80"),
    }


CUTS, FLIPS, NOTHING, OTHERS, ENCODINGS = _cuts(), _flips(), _nothing(), _others(), _encodings()


def _unreadable(path: Path) -> None:
    path.write_bytes(b"text")
    path.chmod(0)


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # addresses are short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)
    os.chdir(here)


def _odd() -> dict[str, Callable[[Path], None]]:
    """Makes what is no file under the name of one."""
    odd = {
        "a_folder": Path.mkdir,
        "a_link_to_nothing": lambda path: path.symlink_to("nothing"),
        "a_link_to_itself": lambda path: path.symlink_to(path.name),
        "a_pipe": os.mkfifo,
        "a_link_to_a_pipe": lambda path: (
            os.mkfifo(path.parent / ".pipe"),
            path.symlink_to(".pipe"),
        ),
        "a_socket": _socket,
        "a_device": lambda path: path.symlink_to("/dev/zero"),
    }
    return odd if os.geteuid() == 0 else odd | {"unreadable": _unreadable}


ODD = _odd()


# --- cases ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """items: what a reader found, comparable. reports: what it said it has left out."""

    items: Any
    reports: Sequence[str] = ()


@dataclass(frozen=True)
class Reader:
    """file: name of the file it reads. content: text of a whole one. pack: makes a file of it.

    has_end: whether the format tells that something is cut off; has_checksum: that a byte is
    another one. names_folder: whether its messages name just the folder of the file.
    """

    name: str
    file: str
    content: bytes
    read: Callable[[Path], Found]
    pack: Callable[[bytes], bytes] = bytes
    has_end: bool = False
    has_checksum: bool = False
    names_folder: bool = False

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Case:
    """A file in place of the whole one, made by `write`, and the outcomes that are as promised."""

    reader: Reader
    name: str
    write: Callable[[Path], object]
    allowed: frozenset[str] = field(default=frozenset((REFUSED, REPORTED, COMPLETE)))

    def __str__(self) -> str:
        return f"{self.reader.name}-{self.name}"

    def outcome(self, folder: Path) -> str:
        """What the reader makes of it. Raises AssertionError for a message that is of no use."""
        path = folder / self.reader.file
        path.parent.mkdir(parents=True, exist_ok=True)
        self.write(path)
        with deadline(SECONDS):
            try:
                found = self.reader.read(path)
            except (ConfigError, StageError) as error:
                check_message(str(error), path, self.reader.names_folder)
                return REFUSED
        if any(found.reports):
            return REPORTED
        return COMPLETE if found.items == items_of_whole(self.reader) else CHANGED


@cache
def items_of_whole(reader: Reader) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / reader.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(reader.pack(reader.content))
        found = reader.read(path)
    assert not any(found.reports), found.reports
    return found.items


def check_message(message: str, path: Path, names_folder: bool) -> None:
    assert len(message.splitlines()) == 1, message
    assert len(message) <= LONGEST_MESSAGE, message
    assert str(path.parent if names_folder else path) in message, message


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    def stop(*_) -> None:
        raise TimeoutError(f"no answer in {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def cases_of(
    reader: Reader, damages: Sequence[dict[str, Damage]] = (CUTS, FLIPS, NOTHING, OTHERS)
) -> Iterator[Case]:
    """A case for each damage to the bytes of the file, or, of ENCODINGS, to its text."""
    told = frozenset((REFUSED, REPORTED, COMPLETE))
    allowed = {
        id(CUTS): told if reader.has_end else told | {CHANGED},
        id(FLIPS): told if reader.has_checksum else told | {CHANGED},
        id(ENCODINGS): told,
        id(NOTHING): frozenset((REFUSED, REPORTED, CHANGED)),  # no items
        id(OTHERS): frozenset((REFUSED, REPORTED, CHANGED)),
    }
    for group in damages:
        for name, damage in group.items():
            text = damage(reader.content) if group is ENCODINGS else reader.content
            content = reader.pack(text)
            content = content if group is ENCODINGS else damage(content)
            yield Case(reader, name, writing(content), allowed[id(group)])


def writing(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def odd_cases_of(reader: Reader, allowed: Sequence[str] = (REFUSED,)) -> Iterator[Case]:
    for name, make in ODD.items():
        yield Case(reader, name, make, frozenset(allowed))


def rows_of(reader: Reader, rows: dict[str, tuple[bytes, str]]) -> Iterator[Case]:
    """Whole contents by name, each with the one outcome that it must have."""
    for name, (content, outcome) in rows.items():
        yield Case(reader, name, writing(reader.pack(content)), frozenset((outcome,)))


def die(job: object) -> None:
    """What a library does that meets what it cannot bear."""
    os.abort()


# --- the figure -------------------------------------------------------------------------------


def main() -> None:
    import test_broken_corpora
    import test_broken_tables

    outcomes: dict[str, Counter] = {}
    for case in (*test_broken_corpora.CASES, *test_broken_tables.CASES):
        with tempfile.TemporaryDirectory() as folder:
            outcome = case.outcome(Path(folder))
        if outcome not in case.allowed:
            print(f"{case}: {outcome}, expected {' or '.join(sorted(case.allowed))}")
        outcomes.setdefault(case.reader.name, Counter())[outcome] += 1
    for name, counts in outcomes.items():
        print(f"{name:30} {', '.join(f'{outcome} {n}' for outcome, n in sorted(counts.items()))}")
    total = sum(outcomes.values(), Counter())
    print(f"{total.total()} broken files: {dict(total)}")


if __name__ == "__main__":
    main()
