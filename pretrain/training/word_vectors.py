"""Initialises word embeddings from token co-occurrence, before the first step of training.

Tokens that occur near each other more often than by chance have positive pointwise mutual
information. Factors of its matrix are word vectors as good as word2vec's (Levy and Goldberg, 2014).
They take seconds; a transformer spends the first part of its training on learning similar ones.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from dataset.samples.hdf5_files import iter_sample_blocks
from pretrain.training.data_loader import Shard

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

WINDOW = 5  # tokens on either side; one at distance d counts 1 / d
SMOOTHING = 0.75  # power of a context's frequency (Levy et al., 2015): damps rare contexts
MOST_TOKENS = 20_000_000  # more text changes little
TOKENS_AT_ONCE = 1 << 20  # about 300 MB with all pairs
SVD_ITERATIONS = 2
LENGTH = 0.8  # of the vectors


def word_vectors(
    shards: Sequence[Shard], vocab_size: int, width: int, never: Iterable[int], seed: int
) -> torch.Tensor:
    """Returns float32 [vocab_size, width], vectors of equal length for the tokens of the shards.

    never: ids without meaning for their neighbours, such as [CLS]. Tokens without neighbours get
    random vectors. seed: of these, and of the factorisation.
    """
    generator = np.random.default_rng(seed)
    vectors, norms = neighbour_vectors(shards, vocab_size, width, never, seed)
    # A random rotation makes all components alike.
    turn, _ = np.linalg.qr(generator.standard_normal((width, width)))
    unknown = norms[:, 0] == 0
    norms = np.maximum(norms, np.finfo(np.float32).tiny)
    vectors = LENGTH * vectors / norms @ turn
    vectors[unknown] = generator.normal(0, LENGTH / width**0.5, (unknown.sum(), width))
    return torch.from_numpy(vectors.astype(np.float32))


def neighbour_vectors(
    shards: Sequence[Shard], vocab_size: int, width: int, never: Iterable[int], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns vectors, float32 [vocab_size, width], with similar directions for similar neighbours.

    Also returns their norms [vocab_size, 1], 0 for tokens without neighbours. Arguments as in
    word_vectors.
    """
    information = _positive_information(_count_pairs(shards, vocab_size, list(never)))
    vectors = _factor(information, width, seed)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    norms[norms <= 1e-6 * norms.max()] = 0  # rounding errors
    return vectors, norms


def _count_pairs(shards: Sequence[Shard], vocab_size: int, never: list[int]) -> "csr_matrix":
    """Returns the symmetric co-occurrence counts, weighted by distance."""
    from scipy.sparse import csr_matrix

    counts = csr_matrix((vocab_size, vocab_size), dtype=np.float32)
    for ids, sample in _first_rows(shards):
        counts += _pairs_within(ids, sample, never, vocab_size)
    return (counts + counts.T).tocsr()


def _first_rows(shards: Sequence[Shard]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields `_unmasked` of the first rows, up to MOST_TOKENS, a part at a time."""
    num_tokens = 0
    for shard in shards:
        for block in iter_sample_blocks(shard.path):
            step = max(1, TOKENS_AT_ONCE // block["input_ids"].shape[1])
            for start in range(0, len(block["input_ids"]), step):
                piece = {name: array[start : start + step] for name, array in block.items()}
                ids, sample = _unmasked(piece)
                yield ids, sample
                num_tokens += int(np.count_nonzero(sample))
                if num_tokens >= MOST_TOKENS:
                    return


def _pairs_within(
    ids: np.ndarray, sample: np.ndarray, never: list[int], vocab_size: int
) -> "csr_matrix":
    """Counts each pair of nearby tokens in one sample once. ids, sample: [n, L]."""
    from scipy.sparse import coo_matrix

    sample = np.where(np.isin(ids, never), 0, sample)
    left, right, weights = [], [], []
    for distance in range(1, min(WINDOW, ids.shape[1] - 1) + 1):
        same = sample[:, :-distance] == sample[:, distance:]
        same &= sample[:, :-distance] > 0
        left.append(ids[:, :-distance][same])
        right.append(ids[:, distance:][same])
        weights.append(np.full(len(left[-1]), 1 / distance, dtype=np.float32))
    pairs = np.concatenate(left), np.concatenate(right)
    return coo_matrix((np.concatenate(weights), pairs), (vocab_size, vocab_size)).tocsr()


def _unmasked(rows: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the token ids before masking, int32 [n, L], and each token's sample, 0 in padding."""
    ids = rows["input_ids"].astype(np.int32)
    if "masked_lm_ids" in rows:
        row, column = np.nonzero(rows["masked_lm_positions"])
        ids[row, rows["masked_lm_positions"][row, column]] = rows["masked_lm_ids"][row, column]
    return ids, rows["input_mask"]


def _positive_information(counts: "csr_matrix") -> "csr_matrix":
    """Returns max(0, log p(a, b) / (p(a) p(b))), with b as the context.

    Overwrites the counts, which take hundreds of MB for a large vocabulary.
    """
    frequencies = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    contexts = frequencies**SMOOTHING
    contexts /= max(1.0, contexts.sum())
    known = np.maximum((frequencies, contexts), np.finfo(np.float64).tiny)
    of_token, of_context = np.log(known).astype(np.float32)
    information = np.log(counts.data, out=counts.data)
    information -= np.repeat(of_token, np.diff(counts.indptr))
    information -= of_context[counts.indices]
    np.maximum(information, 0, out=information)
    counts.eliminate_zeros()
    return counts


def _factor(matrix: "csr_matrix", width: int, seed: int) -> np.ndarray:
    """Returns left singular vectors times the roots of the singular values, [rows, width]."""
    from sklearn.utils.extmath import randomized_svd

    found = min(width, matrix.shape[0])
    left, values, _ = randomized_svd(matrix, found, n_iter=SVD_ITERATIONS, random_state=seed)
    return np.pad(left * np.sqrt(values), ((0, 0), (0, width - found)))
