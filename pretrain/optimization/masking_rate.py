"""A masking rate, the share of tokens to predict, that falls or rises linearly over a run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from configs.key_rules import predictions_needed
from dataset.samples.hdf5_files import iter_sample_blocks, read_masking
from pretrain.optimization.batch_sizes import BatchSizes
from pretrain.settings import TrainingSettings

if TYPE_CHECKING:
    import numpy as np

MOST_COUNTED = 10_000_000  # tokens, for the mean length of a row


@dataclass(frozen=True)
class MaskingRate:
    """start, end: shares of a sample's tokens, above 0 and below 1.

    num_samples: of the whole run, exact or estimated; the rate then depends on the number of a
    sample alone, for any number of ranks and after any restart. 0: unknown, as the length of the
    run is given in hours; the rate then follows the progress of the run.
    """

    start: float
    end: float
    num_samples: float = 0.0

    def at(self, sample: "int | np.ndarray", progress: float) -> "float | np.ndarray":
        """Returns the rates of samples: start + (end - start) * passed share of the run.

        sample: number of a sample, or int [N]. progress: of the run, from 0 to 1, known when the
        samples are read. Returns a float, or float64 [N]; with num_samples 0 always a float.
        """
        import numpy as np

        passed = sample / self.num_samples if self.num_samples else progress
        return self.start + (self.end - self.start) * np.minimum(passed, 1.0)

    @property
    def largest(self) -> float:
        return max(self.start, self.end)

    def numbers(self, sample: int, progress: float) -> dict[str, float]:
        """Returns the rate of a sample for a line of metrics."""
        return {"masked_lm_prob": round(float(self.at(sample, progress)), 6)}


def rate_of_run(training: TrainingSettings, shards: Sequence[Path]) -> MaskingRate | None:
    """Returns the rate of a run on these shards; None without masked_lm_prob_end.

    Raises ValueError, naming the flag, for samples stored with masks, and for too little room for
    the predictions of the larger rate.
    """
    end = training.masked_lm_prob_end
    if not end:
        return None
    folder, flag = shards[0].parent, "--masked_lm_prob_end"
    rows = next(iter_sample_blocks(shards[0]))
    if "masked_lm_ids" in rows:
        raise ValueError(
            f"{flag}: the samples in {folder} are stored with their masks, got {end:g}, expected "
            "samples for dynamic masking (DATASET.MASKING dynamic), or 0"
        )
    masking = read_masking(folder)
    most, length = masking.max_predictions_per_seq, rows["input_ids"].shape[1]
    for rate in (masking.masked_lm_prob, end):
        needed = predictions_needed(rate, length)
        if most < needed:
            raise ValueError(
                f"{flag}: the samples in {folder} have room for {most} predictions each, got "
                f"{end:g} after a masked_lm_prob of {masking.masked_lm_prob:g}, expected "
                f"max_predictions_per_seq {needed} for {rate:g} of {length} tokens"
            )
    return MaskingRate(masking.masked_lm_prob, end, _samples_of_run(training, shards))


def _samples_of_run(training: TrainingSettings, shards: Sequence[Path]) -> float:
    """Returns the number of samples in a run: exact, estimated from tokens, or 0 for hours."""
    if training.lr_schedule == "step":
        ramp = training.batch_size_ramp_start, training.batch_size_ramp_steps
        return BatchSizes(training.train_batch_size, *ramp).samples_before(training.max_steps)
    if training.lr_schedule == "tokens":
        return training.max_tokens / _mean_tokens(shards)
    return 0.0


def _mean_tokens(shards: Sequence[Path]) -> float:
    """Returns the mean number of tokens of a row, without padding, of the first MOST_COUNTED.

    It depends on the shards alone, unlike a count made during the run.
    """
    num_tokens = num_rows = 0
    for mask in _row_masks(shards):
        num_tokens += int((mask > 0).sum())
        num_rows += len(mask)
        if num_tokens >= MOST_COUNTED:
            break
    return max(1, num_tokens) / max(1, num_rows)  # the provider refuses shards without samples


def _row_masks(shards: Sequence[Path]) -> Iterator["np.ndarray"]:
    blocks = chain.from_iterable(iter_sample_blocks(path) for path in shards)
    return (rows["input_mask"] for rows in blocks)
