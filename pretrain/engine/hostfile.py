"""DeepSpeed's hostfile: the servers of a run and their numbers of GPUs."""

import re
import socket
from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import ConfigError

# ssh would take a name with a leading hyphen for an option.
LINE = re.compile(r"(\w[\w.:@-]*)\s+slots=([1-9]\d*)$")


def is_this_machine(servers: Iterable[str]) -> bool:
    """True if the only server is this machine, by its name, with or without domain, or localhost.

    It then needs no ssh.
    """
    names = list(servers)
    own = socket.gethostname()
    if len(names) != 1:
        return False
    [name] = names
    is_short = "." not in name or "." not in own
    same = name == own or (is_short and name.partition(".")[0] == own.partition(".")[0])
    return same or name in ("localhost", "127.0.0.1")


def read_hostfile(path: Path) -> dict[str, int]:
    """Returns `{server: slots}`. Raises ConfigError naming a line other than `server slots=N`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"SYSTEM.HOSTFILE: {path} cannot be read ({error})"]) from error
    servers: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        found = LINE.match(text)
        if not found or found[1] in servers:
            where = f"SYSTEM.HOSTFILE: {path}, line {number}: got {text!r}"
            raise ConfigError([f"{where}, expected `server slots=N`, each server once"])
        servers[found[1]] = int(found[2])
    if not servers:
        raise ConfigError([f"SYSTEM.HOSTFILE: {path} names no server"])
    return servers
