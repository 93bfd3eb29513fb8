"""Groups samples of similar length into batches, to pad little."""

import numpy as np

# Batches sorted together: enough for similar lengths within a batch, few enough to keep the epochs
# of large data sets well mixed.
MEGABATCH = 50
# Samples in a row that share batches of predictions. A long file can be predicted in pieces of so
# many: the last digits of a sample's logits depend on its batch.
TOGETHER = 4096


def epoch_batches(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Returns the sample indices of each batch, longest first; the batches are in random order.

    Every sample is in one batch; one batch may be smaller than the others. Deterministic.
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
    """Splits a batch into `number` parts of nearly equal size, or one per sample."""
    return [part for part in np.array_split(batch, number) if len(part)]


def sorted_batches(lengths: np.ndarray, max_tokens: int) -> list[np.ndarray]:
    """Returns batches of at most `max_tokens` tokens with padding, or of one sample.

    Only samples of the same TOGETHER share a batch. The longest of them come first: a lack of
    memory shows early.
    """
    batches = []
    for first in range(0, len(lengths), TOGETHER):
        order = first + np.argsort(-lengths[first : first + TOGETHER], kind="stable")
        start = 0
        while start < len(order):
            stop = start + max(1, max_tokens // max(1, int(lengths[order[start]])))
            batches.append(order[start:stop])
            start = stop
    return batches
