"""SIGTERM, Ctrl-C and a lost terminal end a run between two micro batches, on all ranks at once."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pretrain.engine import distributed
from pretrain.engine.time_limits import BETWEEN_AGREEMENTS


class Interrupted(Exception):
    """The run was asked to end, and has saved a checkpoint; signum: by which signal."""

    def __init__(self, signum: int):
        super().__init__(f"interrupted by {signal.Signals(signum).name}")
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """What a shell calls a process that died of the signal: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.signum


class Interrupts:
    """The first signal of `caught` that came; 0: none so far. A second SIGINT ends us at once."""

    def __init__(self) -> None:
        self.signum = 0
        self._calls, self._interval = 0, 1  # calls of `check` since the last agreement, and to it
        self._agreed_at = time.monotonic()

    def check(self) -> None:
        """Raises Interrupted, on all ranks in the same call, if one of them was sent a signal.

        To be called between micro batches, by all ranks between the same ones. An exchange of the
        ranks takes some 0.1 ms, so they agree on a signal about once in BETWEEN_AGREEMENTS, by the
        clock of rank 0. A single rank knows at once.
        """
        self._calls += 1
        if distributed.world_size() > 1 and self._calls < self._interval:
            return
        now = time.monotonic()
        seconds = now - self._agreed_at if distributed.rank() == 0 else 0.0
        signals, seconds = distributed.sum_numbers(self.signum, seconds)
        fitting = int(self._calls * BETWEEN_AGREEMENTS / max(seconds, 1e-9))
        # At most twice as many as before: the next micro batches may be slower ones.
        self._interval = max(1, min(fitting, 2 * self._interval))
        self._calls, self._agreed_at = 0, now
        if signals:
            raise Interrupted(self.signum or signal.SIGTERM)

    def _note(self, signum: int, frame) -> None:
        if self.signum and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = self.signum or signum


@contextmanager
def caught() -> Iterator[Interrupts]:
    """Notes SIGTERM, SIGINT and SIGHUP instead of dying of them. Only for the main thread.

    A SIGHUP that is ignored, as nohup has it, stays so.
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
