"""Checks the user's files, and shortens their text for messages."""

import os
import stat
from collections.abc import Iterable

from pipeline.errors import in_one_line

UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
UTF32_MARKS = (b"\xff\xfe\0\0", b"\0\0\xfe\xff")
LOOKED_AT = 4096  # bytes checked for NULs
MAX_SHOWN = 60  # characters of a word in a message
MAX_WORDS = 12


def problem_with_file(path: str | os.PathLike) -> str:
    """Returns the reason why this is no readable file, or an empty string. Reading a pipe would
    block."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if stat.S_ISDIR(mode):
        return "is a folder, expected a file"
    return "" if stat.S_ISREG(mode) else "is a pipe or a device, expected a file"


def problem_with_encoding(head: bytes) -> str:
    """Names the encoding of a text that begins with `head`, or returns "" if it may be UTF-8.

    UTF-16 and UTF-32 without a byte order mark have a NUL in every second or fourth byte in most
    scripts. Read as UTF-8, each letter would be a word.
    """
    if head.startswith(UTF32_MARKS):
        return "is UTF-32, expected UTF-8"
    if head.startswith(UTF16_MARKS):
        return "is UTF-16, expected UTF-8"
    sample = head[:LOOKED_AT]
    if len(sample) < 16:
        return ""
    shares = [4 * sample[place::4].count(0) / len(sample) for place in range(4)]
    all_or_none = all(share < 0.1 or share > 0.7 for share in shares)
    is_wide = all_or_none and min(shares) < 0.1 and max(shares) > 0.7
    return "is UTF-16 or UTF-32, expected UTF-8" if is_wide else ""


def has_bare_carriage_returns(head: bytes) -> bool:
    """True if lines end with CR alone, as on old Macs."""
    return b"\n" not in head and b"\r" in head.rstrip(b"\r")


def shown(text: str) -> str:
    """Returns one line of at most 60 characters of a user's text."""
    return in_one_line(text[:MAX_SHOWN]) + ("..." if len(text) > MAX_SHOWN else "")


def shown_list(words: Iterable[str]) -> str:
    """Returns `a, b, c`, or the first words and the number of others."""
    words = list(map(shown, words))
    more = len(words) - MAX_WORDS
    return ", ".join(words[:MAX_WORDS]) + (f" and {more:,} more" if more > 0 else "")
