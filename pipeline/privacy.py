"""What is nobody else's business: files for the user alone, and messages without secrets.

Standard library only: every process of ours passes here.
"""

import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

HIDDEN = "***"
SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
LOGIN = re.compile(r"(?<=://)[^/\s]+(?=@)")  # of https://user:password@server
SHORTEST_SECRET = 8  # what is shorter, like `on`, may be a word that a message needs


@contextmanager
def private_files() -> Iterator[None]:
    """What is made meanwhile, by child processes too, only this user can read; also a decorator.

    Files and folders that are there already keep their permissions.
    """
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def is_secret(name: str) -> bool:
    """Whether a config key or an environment variable of this name holds a secret."""
    return SECRET_NAME.search(name) is not None


def hidden(text: str) -> str:
    """A message with `***` for each secret of this process's environment and login of an address.

    Libraries quote what they were given: a proxy that they cannot read, a header that is none.
    """
    for secret in _secrets():
        text = text.replace(secret, HIDDEN)
    return LOGIN.sub(HIDDEN, text)


def print_crash(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """For sys.excepthook: what Python prints when a process crashes, without secrets."""
    print(hidden("".join(traceback.format_exception(kind, error, trace))), file=sys.stderr, end="")


def _secrets() -> list[str]:
    """Longest first, as one may be part of another."""
    secrets = {value for name, value in os.environ.items() if is_secret(name)}
    for login in (login for value in os.environ.values() for login in LOGIN.findall(value)):
        secrets |= {login, login.partition(":")[2]}
    return sorted(filter(_is_long, secrets), key=len, reverse=True)


def _is_long(secret: str) -> bool:
    return len(secret) >= SHORTEST_SECRET
