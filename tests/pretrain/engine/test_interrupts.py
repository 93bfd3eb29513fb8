"""Ranks agree on a signal in the same call, about once a second."""

import signal
import threading

import pytest

from pretrain.engine import interrupts
from pretrain.engine.interrupts import Interrupted, Interrupts


class Ranks:
    """Ranks as threads, each with a clock of its own."""

    def __init__(self, monkeypatch, number):
        self.number, self.exchanges = number, 0
        self._here, self._values = threading.local(), [()] * number
        self._barrier = threading.Barrier(number, timeout=60)
        monkeypatch.setattr(interrupts.distributed, "rank", lambda: self._here.rank)
        monkeypatch.setattr(interrupts.distributed, "world_size", lambda: number)
        monkeypatch.setattr(interrupts.distributed, "sum_numbers", self._sum)
        monkeypatch.setattr(interrupts.time, "monotonic", lambda: self._here.now)

    def _sum(self, *values):
        self._values[self._here.rank] = values
        if self._barrier.wait() == 0:
            self.exchanges += 1
        sums = [sum(column) for column in zip(*self._values, strict=True)]
        self._barrier.wait()
        return sums

    def run(self, work):
        """What work(rank, pass_) returns on each of them; pass_(seconds) is called between."""
        results = [None] * self.number

        def one(rank):
            self._here.rank, self._here.now = rank, 100.0 * rank
            results[rank] = work(rank, self._pass)

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.number)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    def _pass(self, seconds):
        self._here.now += seconds * (1 + self._here.rank)  # clocks that run apart


def test_ranks_agree_in_the_same_call_about_once_a_second(monkeypatch):
    ranks = Ranks(monkeypatch, 3)

    def work(rank, pass_):
        noted = Interrupts()
        for call in range(1, 5000):
            pass_(0.01)
            if rank == 1 and call == 1234:
                noted._note(signal.SIGINT, None)
            try:
                noted.check()
            except Interrupted as interrupted:
                return call, interrupted.signum

    found = ranks.run(work)
    calls = {call for call, _ in found}
    assert len(calls) == 1 and 1234 <= calls.pop() <= 1334
    assert [signum for _, signum in found] == [signal.SIGTERM, signal.SIGINT, signal.SIGTERM]
    assert ranks.exchanges <= 14 + 7  # in 13 s, and before the interval is known


def test_where_micro_batches_take_seconds_each_of_them_is_asked(monkeypatch):
    ranks = Ranks(monkeypatch, 2)

    def work(rank, pass_):
        noted = Interrupts()
        for _ in range(20):
            pass_(3.0)
            noted.check()

    ranks.run(work)
    assert ranks.exchanges == 20


def test_a_single_rank_knows_at_once():
    noted = Interrupts()
    for _ in range(100):
        noted.check()
    noted._note(signal.SIGTERM, None)
    with pytest.raises(Interrupted, match="interrupted by SIGTERM"):
        noted.check()
