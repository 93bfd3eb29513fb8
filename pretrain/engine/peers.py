"""Ends all ranks as soon as one has died.

In a collective, a rank would wait for a dead one up to torch's time limit, and DeepSpeed's launcher
gives each waiting rank another 30 s. Therefore each rank has a connection to rank 0, used only to
say goodbye: the kernel closes the connections of a process, however it ends. A thread waits for
this, since the main thread may be blocked in a collective. A server without power closes nothing,
nor does a firewall that drops an idle connection: the kernels also probe the connections.
"""

import hmac
import os
import secrets
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pretrain.engine.time_limits import (
    BEFORE_SURVIVORS_END,
    BETWEEN_PROBES,
    LOST_SERVER,
    TO_CONNECT,
    TO_NOTICE_A_DEATH,
)

NUMBER = struct.Struct(">i")  # of a dead rank, or GOODBYE
GOODBYE = -1
TOKEN_BYTES = 16
EXIT_CODE = 1  # of a rank that lost another; the stage prefers other reasons


class Peers:
    """The connections of a rank: rank 0 has one to each other rank, the others one to rank 0."""

    def __init__(self, rank: int, connections: dict[int, socket.socket]):
        self.rank, self._connections = rank, connections
        for connection in connections.values():
            _probe(connection)
        # Called before this rank ends because of another; DeepSpeed's launcher limits its time.
        self.finish: Callable[[], None] = lambda: None
        self._left, self._lost = False, threading.Event()
        threading.Thread(target=self._watch, name="peers", daemon=True).start()

    def leave(self) -> None:
        """Says goodbye: from now on, the end of a rank ends no other."""
        self._left = True
        self._tell(GOODBYE)

    def wait_for_earlier_death(self) -> None:
        """Waits briefly after a failure; does not return if another rank died before."""
        if self._lost.wait(TO_NOTICE_A_DEATH):
            threading.Event().wait()  # the thread ends the process

    def _tell(self, number: int) -> None:
        for connection in self._connections.values():
            with suppress(OSError):
                connection.sendall(NUMBER.pack(number))

    def _watch(self) -> None:
        with selectors.DefaultSelector() as selector:
            for rank, connection in self._connections.items():
                selector.register(connection, selectors.EVENT_READ, (rank, connection))
            while selector.get_map():
                for key, _ in selector.select():
                    dead = _read_end(*key.data)
                    if dead != GOODBYE and not self._left:
                        self._end(dead)
                    selector.unregister(key.fileobj)

    def _end(self, dead: int) -> None:
        self._lost.set()
        end = time.monotonic() + BEFORE_SURVIVORS_END
        if self.rank == 0:
            self._tell(dead)
        try:
            # Not by sys.stderr, since the main thread may hold its lock.
            os.write(2, f"rank {dead} has ended; so does rank {self.rank}\n".encode())
            self.finish()
        finally:
            time.sleep(max(0.0, end - time.monotonic()))
            os._exit(EXIT_CODE)


def connect_ranks(rank: int, world_size: int, from_first_rank: Callable[[Any], Any]) -> Peers:
    """Connects all ranks at MASTER_ADDR; each of them must call it.

    from_first_rank: broadcasts the argument of rank 0. Raises OSError, on both sides, if a rank
    cannot connect.
    """
    address = os.environ["MASTER_ADDR"]
    if rank:
        port, token = from_first_rank(None)
        try:
            connection = socket.create_connection((address, port), TO_CONNECT)
        except OSError as error:
            raise OSError(
                f"rank {rank} cannot reach rank 0 at {address}, port {port} ({error}); allow the "
                "servers to connect to each other at any port"
            ) from error
        connection.sendall(token + NUMBER.pack(rank))
        connection.settimeout(None)
        return Peers(rank, {0: connection})
    family = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)[0][0]
    on_one_server = os.environ.get("LOCAL_SIZE") == str(world_size)
    with socket.create_server((address if on_one_server else "", 0), family=family) as listener:
        token = secrets.token_bytes(TOKEN_BYTES)
        from_first_rank((listener.getsockname()[1], token))
        return Peers(0, _accept(listener, token, world_size - 1))


def _accept(listener: socket.socket, token: bytes, number: int) -> dict[int, socket.socket]:
    """Returns the connections of that many ranks, by rank; rejects clients without the token."""
    connections: dict[int, socket.socket] = {}
    end = time.monotonic() + TO_CONNECT
    while len(connections) < number:
        listener.settimeout(max(0.1, end - time.monotonic()))
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            raise OSError(
                f"{number - len(connections)} of {number} ranks could not reach rank 0 at port "
                f"{listener.getsockname()[1]}"
            ) from None
        connection.settimeout(max(0.1, end - time.monotonic()))
        with suppress(OSError):
            words = _received(connection, TOKEN_BYTES + NUMBER.size)
            is_whole = len(words) == TOKEN_BYTES + NUMBER.size
            if is_whole and hmac.compare_digest(words[:TOKEN_BYTES], token):
                connection.settimeout(None)
                connections[NUMBER.unpack(words[TOKEN_BYTES:])[0]] = connection
                continue
        connection.close()
    return connections


def _probe(connection: socket.socket) -> None:
    """Makes the kernel close it after LOST_SERVER seconds without an answer."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, BETWEEN_PROBES)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, BETWEEN_PROBES)
    probes = LOST_SERVER // BETWEEN_PROBES - 1
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes)


def _read_end(other: int, connection: socket.socket) -> int:
    """Returns GOODBYE or the number of a dead rank. other: rank at the other end."""
    words = b""
    with suppress(OSError):
        words = _received(connection, NUMBER.size)
    return NUMBER.unpack(words)[0] if len(words) == NUMBER.size else other


def _received(connection: socket.socket, count: int) -> bytes:
    """Returns `count` bytes, or fewer if the other end has closed the connection."""
    words = b""
    while len(words) < count and (more := connection.recv(count - len(words))):
        words += more
    return words
