"""SIGTERM, Ctrl-C and a lost terminal end a run between two steps, not in the middle of one."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


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
