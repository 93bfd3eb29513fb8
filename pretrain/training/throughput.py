"""Rates of a run, and their share of the processor's peak."""

import math
import time
from typing import NamedTuple

import torch

from pretrain.engine import distributed
from pretrain.engine.engine import compute_dtype
from pretrain.settings import ModelSettings
from pretrain.training.flops import matmul_peak, training_flops


class Work(NamedTuple):
    """Work done so far over all ranks, except seconds_waited (for data) and num_pairs (of tokens
    attending to each other) of this rank. num_tokens: without padding."""

    num_samples: int
    num_tokens: int
    num_predictions: int
    seconds_waited: float
    num_pairs: int


class Throughput:
    """Rates between two lines of metrics. precision: fp16, bf16 or fp32."""

    def __init__(self, model: ModelSettings, precision: str, device: torch.device):
        self.model, self.precision, self.device = model, precision, device
        self.peak = math.nan  # FLOP/s of large matrix products on this rank

    def measure_peak(self) -> None:
        """Measures the peak on all ranks at once, since those on one CPU share its cores.

        The peak of a CPU for fp16 is that for fp32, since many have no fp16 products.
        """
        dtype = compute_dtype(self.precision)
        if self.device.type == "cpu" and dtype == torch.float16:
            dtype = torch.float32
        distributed.barrier()
        self.peak = matmul_peak(self.device, dtype)

    def restart(self, work: Work) -> None:
        """Begins a new line after this work."""
        self.before, self.begin = work, time.perf_counter()

    def skip(self, seconds: float) -> None:
        """Leaves out time without training."""
        self.begin += seconds

    def line(self, work: Work) -> dict[str, float]:
        """Returns the rates since the last line; begins a new one.

        Samples and tokens per second are over all ranks. peak_share: FLOP/s of this rank's matrix
        products, as a share of its peak. waiting_share: share of the time without a batch.
        """
        seconds = max(1e-9, time.perf_counter() - self.begin)
        done = Work._make(now - then for now, then in zip(work, self.before, strict=True))
        length, ranks = self.model.max_seq_length, distributed.world_size()
        shares = done.num_samples / ranks, length, done.num_predictions / ranks
        flops = training_flops(self.model, *shares, done.num_pairs)  # of this rank
        rates = {
            "samples_per_second": round(done.num_samples / seconds, 2),
            "tokens_per_second": round(done.num_tokens / seconds, 1),
            "peak_share": round(flops / seconds / self.peak, 4),
            "waiting_share": round(done.seconds_waited / seconds, 4),
        }
        self.restart(work)
        return rates
