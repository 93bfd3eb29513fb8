"""Private files, and messages without secrets.

Standard library only: every process imports this.
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
SHORTEST_SECRET = 8  # characters; shorter values, like `on`, are also common words


@contextmanager
def private_files() -> Iterator[None]:
    """Makes new files of this process and its children private; also a decorator.

    Existing files and folders keep their permissions.
    """
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def is_secret(name: str) -> bool:
    """True if a config key or an environment variable of this name holds a secret."""
    return SECRET_NAME.search(name) is not None


def hidden(text: str) -> str:
    """Replaces secrets of the environment, and logins in addresses, by `***`.

    Libraries quote their input in error messages: a malformed proxy, an invalid header.
    """
    for secret in _secrets():
        text = text.replace(secret, HIDDEN)
    return LOGIN.sub(HIDDEN, text)


def print_crash(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Prints Python's traceback without secrets, as sys.excepthook."""
    print(hidden("".join(traceback.format_exception(kind, error, trace))), file=sys.stderr, end="")


def _secrets() -> list[str]:
    """Returns the secrets, longest first: one can be part of another."""
    secrets = {value for name, value in os.environ.items() if is_secret(name)}
    for login in (login for value in os.environ.values() for login in LOGIN.findall(value)):
        secrets |= {login, login.partition(":")[2]}
    long = [secret for secret in secrets if len(secret) >= SHORTEST_SECRET]
    return sorted(long, key=len, reverse=True)
