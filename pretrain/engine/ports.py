"""A port for the ranks to meet at, and the network on which they do."""

import socket

import psutil


def free_port() -> int:
    """A TCP port that nobody listens on, so that two runs on one machine do not clash."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def interface_to(address: str) -> str:
    """Name of the network interface that leads to a server, this one included; "": not known."""
    family, kind, _, _, target = socket.getaddrinfo(address, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(target)  # sends nothing
        ours = probe.getsockname()[0]
    interfaces = psutil.net_if_addrs().items()
    named = (name for name, found in interfaces if ours in (entry.address for entry in found))
    return next(named, "")
