"""An undisturbed run on each rank, and one that is interrupted and resumed."""

import os
import signal

from pretrain.engine import interrupts
from pretrain.engine.distributed import leave_ranks, rank, start_ranks
from pretrain.engine.interrupts import Interrupted, Interrupts
from pretrain.flags import parse_flags
from pretrain.run_pretraining import run
from pretrain.training.metrics_file import MetricsLog, SilentLog


class Counted(Interrupts):
    """Counts the calls, and sends rank 1 a signal just before one of them."""

    def __init__(self, last):
        super().__init__()
        self.last, self.calls = last, 0

    def check(self):
        self.calls += 1
        if rank() == 1 and self.calls == self.last:
            os.kill(os.getpid(), signal.SIGTERM)
        super().check()


def train(flags, output, device, noted=None):
    args = parse_flags([*flags, f"--output_dir={output}"])
    log = SilentLog() if rank() else MetricsLog(output / "metrics.jsonl")
    try:
        run(args, device, log, noted)
    finally:
        log.close()


def interrupted_at(call, flags, output, device):
    """(calls of `check` that this rank has made, its exit code)."""
    noted = Counted(call)
    signal.signal(signal.SIGTERM, noted._note)
    try:
        train(flags, output, device, noted)
    except Interrupted as interrupted:
        return noted.calls, interrupted.exit_code
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return "not interrupted"


def run_and_interrupt(folder, calls, flags):
    """Returns how far this rank was when each of the signals ended it."""
    interrupts.BETWEEN_AGREEMENTS = 0.0  # at every call
    device = start_ranks()
    train(flags, folder / "undisturbed", device)
    found = [interrupted_at(call, flags, folder / "interrupted", device) for call in calls]
    train(flags, folder / "interrupted", device)
    leave_ranks()
    return found
