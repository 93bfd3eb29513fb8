"""How fast a run is, and how far from what the processor can do."""

import math
import time
from argparse import Namespace
from typing import NamedTuple

import torch

from pretrain.engine import distributed
from pretrain.engine.engine import compute_dtype
from pretrain.training.flops import matmul_peak, training_flops


class Work(NamedTuple):
    """What has been done up to some moment, over all ranks, and how long this one waited for data.

    num_tokens is without padding. num_pairs: of tokens that attend to each other, on this rank.
    """

    num_samples: int
    num_tokens: int
    num_predictions: int
    seconds_waited: float
    num_pairs: int


class Throughput:
    """Rates between two lines of metrics. args: run_pretraining's flags, with max_seq_length."""

    def __init__(self, args: Namespace, device: torch.device):
        self.args, self.device = args, device
        self.peak = math.nan  # FLOP/s of large matrix products on this rank

    def measure_peak(self) -> None:
        """On all ranks at once: those on one CPU share its cores.

        A CPU that knows no fp16 is told how far it is from what it can do in fp32.
        """
        dtype = compute_dtype(self.args.precision)
        if self.device.type == "cpu" and dtype == torch.float16:
            dtype = torch.float32
        distributed.barrier()
        self.peak = matmul_peak(self.device, dtype)

    def restart(self, work: Work) -> None:
        """A new line begins, after that work."""
        self.before, self.begin = work, time.perf_counter()

    def skip(self, seconds: float) -> None:
        """Leaves out time that went into something else, like validation."""
        self.begin += seconds

    def line(self, work: Work) -> dict[str, float]:
        """The rates up to that work; a new line begins.

        Samples and tokens per second are over all ranks. peak_share: this rank's matrix products
        against its peak. waiting_share: share of the time in which it had no batch.
        """
        seconds = max(1e-9, time.perf_counter() - self.begin)
        done = Work(*(now - then for now, then in zip(work, self.before, strict=True)))
        rates = {
            "samples_per_second": round(done.num_samples / seconds, 2),
            "tokens_per_second": round(done.num_tokens / seconds, 1),
            "peak_share": round(self._flops(done) / seconds / self.peak, 4),
            "waiting_share": round(done.seconds_waited / seconds, 4),
        }
        self.restart(work)
        return rates

    def _flops(self, done: Work) -> float:
        """Floating point operations of this rank's matrix products."""
        length, ranks = self.args.max_seq_length, distributed.world_size()
        shares = done.num_samples / ranks, length, done.num_predictions / ranks
        return training_flops(self.args, *shares, done.num_pairs)
