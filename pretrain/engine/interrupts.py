"""Ends a run between two micro batches, on all ranks, after SIGTERM, SIGINT or SIGHUP."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pretrain.engine import distributed
from pretrain.engine.time_limits import BETWEEN_AGREEMENTS


class Interrupted(Exception):
    """A signal ended the run, after a checkpoint. signum: its number."""

    def __init__(self, signum: int):
        super().__init__(f"interrupted by {signal.Signals(signum).name}")
        self.signum = signum
        self.exit_code = 128 + signum  # as of shells


class Interrupts:
    """Signals received inside `caught`. A second SIGINT ends the process immediately.

    signum: the first signal, 0 before it.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._calls = 0  # of `check` since the last agreement
        self._interval = 1  # calls between two agreements
        self._agreed_at = time.monotonic()

    def check(self) -> None:
        """Raises Interrupted, on all ranks in the same call, if one of them received a signal.

        All ranks must call it between the same micro batches. Since an exchange takes about 0.1 ms,
        they agree once per BETWEEN_AGREEMENTS, by the clock of rank 0; a single rank checks in
        every call.
        """
        self._calls += 1
        if distributed.world_size() > 1 and self._calls < self._interval:
            return
        now = time.monotonic()
        seconds = now - self._agreed_at if distributed.rank() == 0 else 0.0
        signals, seconds = distributed.sum_numbers(self.signum, seconds)
        fitting = int(self._calls * BETWEEN_AGREEMENTS / max(seconds, 1e-9))
        # At most doubled, since the next micro batches may be slower.
        self._interval = max(1, min(fitting, 2 * self._interval))
        self._calls, self._agreed_at = 0, now
        if signals:
            raise Interrupted(self.signum or signal.SIGTERM)

    def _note(self, signum: int, frame: object) -> None:
        if self.signum and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = self.signum or signum


@contextmanager
def caught() -> Iterator[Interrupts]:
    """Catches SIGTERM, SIGINT and SIGHUP. Only for the main thread.

    SIGHUP remains ignored under nohup.
    """
    interrupts = Interrupts()
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, interrupts._note) for number in numbers}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
