"""Run by test_ranks.py on each rank: an undisturbed run, and one that is interrupted and resumed.

Prints, on each rank, a line of JSON: how far this rank was when each of the signals ended it.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from pretrain.engine import interrupts
from pretrain.engine.distributed import leave_ranks, rank, start_ranks
from pretrain.engine.interrupts import Interrupted, Interrupts
from pretrain.flags import parse_flags
from pretrain.run_pretraining import run
from pretrain.training.metrics_file import MetricsLog, SilentLog

interrupts.BETWEEN_AGREEMENTS = 0.0  # at every call


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


def main(folder, calls, flags):
    device = start_ranks()
    torch.set_num_threads(1)
    train(flags, folder / "undisturbed", device)
    found = [interrupted_at(call, flags, folder / "interrupted", device) for call in calls]
    train(flags, folder / "interrupted", device)
    print(json.dumps(found), flush=True)
    leave_ranks()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:])
