"""Which samples make up a batch: of similar length, so that little is padded."""

import numpy as np

# Batches whose samples are sorted among each other: enough for similar lengths within a batch, few
# enough for an epoch of large data sets to stay well mixed.
MEGABATCH = 50


def epoch_batches(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Indices of the samples of each batch, longest first, in random order.

    Every sample is in one batch; one batch may be smaller than the others. A function of the
    arguments alone.
    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(lengths))
    size = MEGABATCH * batch_size
    batches = []
    for start in range(0, len(order), size):
        some = order[start : start + size]
        some = some[np.argsort(-lengths[some], kind="stable")]
        batches += [some[first : first + batch_size] for first in range(0, len(some), batch_size)]
    return [batches[number] for number in random.permutation(len(batches))]


def micro_batches(batch: np.ndarray, number: int) -> list[np.ndarray]:
    """A batch in so many parts of nearly equal size; fewer if it has fewer samples."""
    return [part for part in np.array_split(batch, number) if len(part)]


def sorted_batches(lengths: np.ndarray, max_tokens: int) -> list[np.ndarray]:
    """Indices of all samples, sorted by length; a batch has at most so many tokens with padding,
    or one sample. The longest come first: if memory is too small, that shows at once."""
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        stop = start + max(1, max_tokens // max(1, int(lengths[order[start]])))
        batches.append(order[start:stop])
        start = stop
    return batches
