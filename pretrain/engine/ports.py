"""Port and network interface for the ranks to meet."""

import socket

import psutil


def free_port() -> int:
    """Returns an unused TCP port, different for each run on a machine."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def interface_to(address: str) -> str:
    """Returns the name of the network interface to a server, or "" if unknown."""
    family, kind, _, _, target = socket.getaddrinfo(address, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(target)  # sends nothing
        ours = probe.getsockname()[0]
    interfaces = psutil.net_if_addrs().items()
    named = (name for name, found in interfaces if ours in (entry.address for entry in found))
    return next(named, "")
