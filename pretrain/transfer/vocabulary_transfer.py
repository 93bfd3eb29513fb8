"""Rows of the embedding table and of the output bias for another vocabulary.

Entries in both vocabularies keep their row. A row of any other entry is a mixture of old rows:

- focus: of shared entries with similar neighbours in the new text, weighted by the sparsemax
  (Martins and Astudillo, 2016) of the cosines between co-occurrence vectors. This is FOCUS (Dobler
  and de Melo, 2023), with our own vectors in place of fastText's.
- mean: of the entries with which the old tokenizer spells the new one, in equal parts. Also for
  entries that focus has not seen in the text, and for entries without a spelling the mean of all
  old rows.
- random: none; the rows are drawn from a normal distribution with the mean and the standard
  deviation of each column of the old table.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dataset.tokenizers.entries import read_entries
from dataset.tokenizers.load import CorpusTokenizer
from pretrain.training.data_loader import Shard
from pretrain.training.word_vectors import neighbour_vectors
from pretrain.transfer.matching import Matches, OldWords, match_entries

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

WIDTH = 300  # of the co-occurrence vectors, as fastText's
BLOCK = 1 << 22  # cosines at once: with the sorted ones and their thresholds at most 200 MB
CANDIDATES = 128  # of a mixture at first; more only where they do not hold the support


@dataclass(frozen=True)
class RowMixtures:
    """weights: of the old rows in each new row, float32 [new size, old size]; a row without weights
    is drawn (random) or the mean of all old rows. matches: the shared entries. num_mixed: entries
    mixed by their neighbours. num_spelled: by their spelling. num_unknown: with neither."""

    how: str
    weights: "csr_matrix"
    matches: Matches
    num_mixed: int
    num_spelled: int
    num_unknown: int

    def __str__(self) -> str:
        counts = {
            "mixed by their neighbours": self.num_mixed,
            "by their spelling": self.num_spelled,
            "drawn" if self.how == "random" else "the mean of all": self.num_unknown,
        }
        parts = [f"{count:,} {name}" for name, count in counts.items() if count]
        return ", ".join([str(self.matches), *parts])

    def table(self, old: Tensor, seed: int) -> Tensor:
        """Returns the new rows of a table, fp32 [new size, width]. old: [old size, width].

        seed: of drawn rows.
        """
        rows = old.detach().float().cpu().numpy()
        found = self.weights @ rows
        empty = np.diff(self.weights.indptr) == 0
        mean, deviation = rows.mean(axis=0), rows.std(axis=0)
        if self.how == "random":
            generator = np.random.default_rng(seed)
            found[empty] = generator.normal(mean, deviation, (empty.sum(), rows.shape[1]))
        else:
            found[empty] = mean
        # Exact, with the sign of zeros.
        shared = self.matches.is_shared
        found[shared] = rows[self.matches.rows[shared]]
        return torch.from_numpy(found.astype(np.float32))

    def bias(self, old: Tensor) -> Tensor:
        """Returns the new output bias, fp32 [new size]; drawn rows have the mean of all.

        old: [old size]. Entries with the same old row, as `Heart` and `heart` may have, share its
        probability in equal parts.
        """
        column = old.detach().float().cpu()[:, None]
        bias = replace(self, how="mean").table(column, seed=0)[:, 0]
        shared = torch.from_numpy(self.matches.is_shared)
        rows = torch.from_numpy(self.matches.rows)[shared]
        bias[shared] -= torch.bincount(rows, minlength=len(old))[rows].log()
        return bias


def mix_rows(
    how: str, new: CorpusTokenizer, old: CorpusTokenizer, shards: Sequence[Shard], seed: int
) -> RowMixtures:
    """Returns the mixtures for the entries of `new`, the tokenizer of the shards.

    how: focus | mean | random. seed: of the co-occurrence vectors' factorisation.
    """
    matches = match_entries(new, old)
    size = len(matches.rows), old.vocab_size
    missing = ~matches.is_shared
    shared = np.flatnonzero(matches.is_shared)
    weights = _csr(shared, matches.rows[shared], np.ones(len(shared)), size)
    mixed = np.zeros(size[0], bool)
    if how == "focus" and missing.any():
        special = list(new.special_ids.values())
        width = min(WIDTH, size[0])
        vectors, norms = neighbour_vectors(shards, size[0], width, special, seed)
        seen = norms[:, 0] > 0
        anchors = np.setdiff1d(np.flatnonzero(matches.is_shared & seen), new.banned_ids)
        mixed = missing & seen if len(anchors) else mixed
        directions = vectors / np.where(norms, norms, 1)
        weights += similar_rows(directions, np.flatnonzero(mixed), anchors, matches.rows, size[1])
    spelled = np.zeros(size[0], bool)
    if how != "random":
        by_spelling = _spellings(new, old, np.flatnonzero(missing & ~mixed))
        weights += by_spelling
        spelled = np.diff(by_spelling.indptr) > 0
    unknown = missing & ~mixed & ~spelled
    numbers = (int(some.sum()) for some in (mixed, spelled, unknown))
    return RowMixtures(how, weights.tocsr(), matches, *numbers)


def similar_rows(
    directions: np.ndarray, mixed: np.ndarray, anchors: np.ndarray, rows: np.ndarray, old_size: int
) -> "csr_matrix":
    """Returns sparsemax weights of the anchors' old rows for the mixed entries.

    directions: unit vectors [new size, width]. mixed, anchors: new ids. rows: old id by new id.
    Computed a block at a time, so memory does not grow with both vocabularies.
    """
    table, known = torch.from_numpy(directions), torch.from_numpy(directions[anchors])
    step = max(1, BLOCK // max(len(anchors), CANDIDATES))
    parts = []
    for start in range(0, len(mixed), step):
        block = mixed[start : start + step]
        cosines = table[torch.from_numpy(block)] @ known.T
        row, column, weight = sparsemax(cosines)
        parts.append((block[row], rows[anchors[column]], weight))
    empty = np.zeros(0, np.int64)
    joined = [np.concatenate(column) for column in zip((empty,) * 3, *parts, strict=True)]
    rows_of, columns, weights = joined
    return _csr(rows_of, columns, weights, (len(directions), old_size))


def sparsemax(scores: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (row, column, weight) of the positive weights of each row of scores [n, m].

    The weights are the nearest point to the scores in the simplex: max(0, score - t), with the
    threshold t for which they sum to 1. t = (sum of the k largest - 1) / k for the largest k whose
    k-th score exceeds it.
    """
    most = scores.shape[1]
    count = min(CANDIDATES, most)
    while True:
        best, columns = scores.topk(count, dim=1)
        ranks = torch.arange(1, count + 1)
        thresholds = (best.double().cumsum(1) - 1) / ranks
        size = (best > thresholds).sum(1, keepdim=True)
        if count == most or int(size.max()) < count:
            break
        count = min(4 * count, most)
    weights = (best - thresholds.gather(1, size - 1)).clamp(min=0).float()
    row, place = weights.nonzero(as_tuple=True)
    return row.numpy(), columns[row, place].numpy(), weights[row, place].numpy()


def _spellings(new: CorpusTokenizer, old: CorpusTokenizer, ids: np.ndarray) -> "csr_matrix":
    """Returns equal weights of the old rows that spell each of these new entries."""
    words, entries = OldWords(old), read_entries(new.tokenizer)
    found = {i: words.pieces(entries[i]) for i in ids.tolist() if i in entries}
    counts = [len(rows) for rows in found.values()]
    columns = np.array([row for rows in found.values() for row in rows], np.int64)
    values = np.repeat([1 / max(1, count) for count in counts], counts)
    return _csr(np.repeat([*found], counts), columns, values, (new.vocab_size, old.vocab_size))


def _csr(
    rows: np.ndarray, columns: np.ndarray, values: np.ndarray, shape: tuple[int, int]
) -> "csr_matrix":
    """Returns a sparse float32 matrix; values of the same place are added."""
    from scipy.sparse import csr_matrix

    pairs = rows.astype(np.int64), columns.astype(np.int64)
    return csr_matrix((values.astype(np.float32), pairs), shape)
