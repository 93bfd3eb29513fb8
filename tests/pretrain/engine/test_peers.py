"""A rank that dies takes the others with it at once; one that leaves takes nobody."""

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from pretrain.engine import peers
from pretrain.engine.peers import EXIT_CODE
from pretrain.engine.ports import free_port, interface_to
from pretrain.engine.time_limits import FOR_OTHER_RANKS, LOST_SERVER
from pretrain.failures import CODES_OF_KILL

PROJECT = Path(__file__).resolve().parents[3]
# A rank whose main thread does what a line on stdin says; it never returns from `sleep`, as from a
# collective with a rank that has died.
RANK = """
import os, sys, time
from pathlib import Path
from pretrain.engine import peers
peers.BEFORE_SURVIVORS_END = float(sys.argv[4])
rank, world_size, told = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])

def from_first_rank(value):
    if rank == 0:
        told.with_suffix(".new").write_text(repr(value))
        os.rename(told.with_suffix(".new"), told)
    while not told.exists():
        time.sleep(0.01)
    return eval(told.read_text())

us = peers.connect_ranks(rank, world_size, from_first_rank)
us.finish = lambda: print("finished", flush=True)
print("connected", flush=True)
for line in sys.stdin:
    if line == "leave\\n":
        us.leave()
        sys.exit(0)
    if line == "fail\\n":
        us.wait_for_earlier_death()
        os._exit(7)
    time.sleep(1000)
"""


@pytest.fixture
def start(tmp_path):
    """Starts that many ranks, which are connected then."""
    ranks = []

    def start(number, wait_behind=0.0, stranger=False):
        told = tmp_path / "told"
        for rank in range(number):
            words = ["-c", RANK, *map(str, (rank, number, told, wait_behind))]
            pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
            environment = {**os.environ, "PYTHONPATH": str(PROJECT), "MASTER_ADDR": "127.0.0.1"}
            environment["LOCAL_SIZE"] = str(number)
            if rank == 1 and stranger:
                _connect_and_go(told)
            ranks.append(
                subprocess.Popen([sys.executable, *words], text=True, env=environment, **pipes)
            )
        assert [rank.stdout.readline() for rank in ranks] == ["connected\n"] * number
        return ranks

    yield start
    for rank in ranks:
        rank.kill()
        rank.communicate()


def _connect_and_go(told):
    """As a port scanner does, or another run."""
    while not told.exists():
        pass
    port, token = eval(told.read_text())
    for words in (b"", bytes(len(token)) + b"\0\0\0\1"):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(words)


def order(ranks, word):
    for rank in ranks:
        rank.stdin.write(f"{word}\n")
        rank.stdin.flush()


@pytest.mark.parametrize("dead", [0, 2])
def test_when_one_is_killed_the_others_end_though_they_are_blocked(start, dead):
    ranks = start(3)
    order(ranks, "sleep")
    ranks[dead].kill()
    for number, rank in enumerate(ranks):
        out, errors = rank.communicate(timeout=60)
        if number != dead:
            assert rank.returncode == EXIT_CODE and out == "finished\n"
            assert errors == f"rank {dead} has ended; so does rank {number}\n"
    assert ranks[dead].returncode == -signal.SIGKILL


@pytest.mark.slow
def test_the_first_to_end_is_seen_first(start):
    """By the launcher, which looks once a second, and passes on the code of whom it sees first."""
    ranks = start(3, wait_behind=1000.0)
    order(ranks[1:], "sleep")
    ranks[2].kill()
    for rank in ranks[:2]:
        assert rank.stderr.readline().startswith("rank 2 has ended; so does rank ")
    order(ranks[:1], "fail")  # as in a collective whose peer is gone
    assert ranks[2].wait(60) == -signal.SIGKILL
    with pytest.raises(subprocess.TimeoutExpired):
        ranks[0].wait(2)


def test_a_rank_that_lost_another_may_have_lost_it_to_the_kernel():
    assert EXIT_CODE in CODES_OF_KILL


@pytest.mark.slow
def test_a_rank_that_fails_by_itself_ends_with_its_own_code(start):
    ranks = start(2)
    order(ranks[1:], "fail")
    assert ranks[1].wait(60) == 7
    assert ranks[0].wait(60) == EXIT_CODE


@pytest.mark.parametrize("first", [0, 1])
def test_a_rank_that_leaves_ends_nobody(start, first):
    ranks = start(3)
    order([ranks[first]], "leave")
    assert ranks[first].wait(60) == 0
    rest = [rank for rank in ranks if rank is not ranks[first]]
    order(rest, "leave")
    for rank in rest:
        out, errors = rank.communicate(timeout=60)
        assert (rank.returncode, out, errors) == (0, "", "")


def test_strangers_are_left_out(start):
    ranks = start(2, stranger=True)
    order(ranks, "leave")
    assert [rank.wait(60) for rank in ranks] == [0, 0]


def connect_here(monkeypatch, numbers=(0, 1), world_size=2, port=0):
    """Those ranks as threads of this process; port: a wrong one, as behind a firewall."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("LOCAL_SIZE", str(world_size))
    told = Future()

    def from_first_rank(value):
        if value:
            told.set_result(value)
        return (port, told.result(30)[1]) if port else told.result(30)

    with ThreadPoolExecutor() as pool:
        started = [
            pool.submit(peers.connect_ranks, number, world_size, from_first_rank)
            for number in numbers
        ]
    return [future.exception() or future.result() for future in started]


def test_a_server_that_lost_power_is_noticed(monkeypatch):
    """It closes no connection. Here, the kernel is asked what it will do."""
    ranks = connect_here(monkeypatch)
    try:
        for rank in ranks:
            (connection,) = rank._connections.values()
            names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            idle, between, count = (connection.getsockopt(socket.IPPROTO_TCP, n) for n in names)
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert idle + between * count == LOST_SERVER < FOR_OTHER_RANKS
    finally:
        for rank in ranks:
            rank.leave()


@pytest.mark.slow
def test_ranks_that_cannot_connect_say_where_to(monkeypatch):
    monkeypatch.setattr(peers, "TO_CONNECT", 0.5)
    closed = free_port()
    first, second = connect_here(monkeypatch, port=closed)
    assert str(second).startswith(f"rank 1 cannot reach rank 0 at 127.0.0.1, port {closed} ([Errno")
    assert str(first).startswith("1 of 1 ranks could not reach rank 0 at port ")
    assert isinstance(first, OSError) and isinstance(second, OSError)


def test_the_interface_that_leads_to_a_server():
    """gloo is told it, as the name of a server may be an address that others cannot reach."""
    assert interface_to("127.0.0.1") == "lo"
