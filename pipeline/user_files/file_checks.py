"""What files of a user's text may not be, and how pieces of them stand in messages."""

import os
import stat
from collections.abc import Iterable

from pipeline.errors import in_one_line

UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
UTF32_MARKS = (b"\xff\xfe\0\0", b"\0\0\xfe\xff")
LOOKED_AT = 4096  # bytes in which the NULs are counted
MAX_SHOWN = 60  # characters of a word in a message
MAX_WORDS = 12


def problem_with_file(path: str | os.PathLike) -> str:
    """Why a file cannot be read as one, or an empty string: reading a pipe would wait for ever."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if stat.S_ISDIR(mode):
        return "is a folder, expected a file"
    return "" if stat.S_ISREG(mode) else "is a pipe or a device, expected a file"


def problem_with_encoding(head: bytes) -> str:
    """Why what begins with `head` is no UTF-8, or an empty string.

    Of UTF-16 and UTF-32 without a byte order mark, every second or fourth byte tells, as it is NUL
    in most scripts: read as UTF-8, each letter would be a word.
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
    """Whether lines end with CR alone, as on old Macs: what is a line could not be told."""
    return b"\n" not in head and b"\r" in head.rstrip(b"\r")


def shown(text: str) -> str:
    """Text out of a user's file as it may stand in a message: one line of at most 60 characters."""
    return in_one_line(text[:MAX_SHOWN]) + ("..." if len(text) > MAX_SHOWN else "")


def shown_list(words: Iterable[str]) -> str:
    """`a, b, c`; of many words the first ones, and how many there are besides."""
    words = list(map(shown, words))
    more = len(words) - MAX_WORDS
    return ", ".join(words[:MAX_WORDS]) + (f" and {more:,} more" if more > 0 else "")
