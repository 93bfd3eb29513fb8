"""A port for the ranks to meet at."""

import socket


def free_port() -> int:
    """A TCP port that nobody listens on, so that two runs on one machine do not clash."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
