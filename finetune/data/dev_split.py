"""Splits the rows of a train file into a train and a dev part, or into folds.

Each part has about the same mix of strata (classes, say), and no group is on two sides. The parts
depend on nothing but the rows and the seed: strata and groups count in the order of appearance, and
the random numbers are those of `RandomState`, which numpy keeps as they are.
"""

import heapq
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from finetune.data.tasks import SPLIT_SEED, Part, Task
from pipeline.user_files.file_checks import shown_list

BINS = 10  # of scores, with equal numbers of rows
MAX_FOLDS = 100
DIGITS = 9  # of sums; smaller differences decide nothing: they are not the same on each machine


def held_out(strata: np.ndarray, groups: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Returns a mask of the rows for dev, [N] bool: `share` of them, of all groups or none.

    strata, groups: [N] integers. Without groups of several rows, the number of dev rows is exact,
    and that of each stratum is off by less than one, if no stratum is a single row: each keeps one
    for training. Groups that would not fit into the dev part are for training, so it may be
    smaller. Raises ValueError if it would be empty.
    """
    rows = _Rows(strata, groups, seed)
    wanted = math.floor(share * len(rows.strata) + 0.5)
    if not 0 < wanted < len(rows.strata):
        raise ValueError(f"{share:g} of {len(rows.strata):,} rows is no row, or all of them")
    mask = np.zeros(len(rows.strata), bool)
    taken, kept = np.zeros(len(rows.counts)), np.zeros(len(rows.counts))
    for group in rows.groups:
        found, numbers = np.unique(rows.strata[group], return_counts=True)
        all_rows = rows.counts[found]
        # Which part has less of these strata, relative to its size? The rarest counts most.
        lack = kept[found] / (all_rows * (1 - share)) - taken[found] / (all_rows * share)
        if taken.sum() + len(group) <= wanted and (lack * numbers / all_rows).sum() > 10**-DIGITS:
            mask[group] = True
            taken[found] += numbers
        else:
            kept[found] += numbers
    mask[_singles_held_out(rows, taken, share, wanted)] = True
    if not mask.any():
        least = min(map(len, rows.groups))
        raise ValueError(
            f"the smallest group has {least:,} rows, more than the {wanted:,} to hold out "
            "(rows of the same text are one group)"
        )
    return mask


def _singles_held_out(rows: "_Rows", taken: np.ndarray, share: float, wanted: int) -> Sequence[int]:
    """taken: rows held out already, by stratum. Rounding errors move on to the next stratum."""
    most = np.minimum([len(single) for single in rows.singles], rows.counts - taken - 1)
    numbers, rest = np.zeros(len(most), int), 0.0
    for stratum, count in enumerate(rows.counts):
        rest += share * count - taken[stratum]
        numbers[stratum] = min(max(math.floor(rest + 0.5), 0), max(most[stratum], 0))
        rest -= numbers[stratum]
    lack = wanted - int(taken.sum() + numbers.sum())
    for stratum in np.argsort(numbers - most, kind="stable"):  # those with most rows left first
        more = min(max(lack, -numbers[stratum]), max(int(most[stratum]) - numbers[stratum], 0))
        numbers[stratum] += more
        lack -= more
    return [
        row for single, number in zip(rows.singles, numbers, strict=True) for row in single[:number]
    ]


def folds(strata: np.ndarray, groups: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Returns the fold of each row, [N] int8 from 0 to k - 1.

    strata, groups: [N] integers. Without groups of several rows, the sizes of folds differ by one
    at most, and so do their rows of each stratum. Raises ValueError if a fold would be empty.
    """
    rows = _Rows(strata, groups, seed)
    if not 2 <= k <= MAX_FOLDS:
        raise ValueError(f"{k} folds, expected 2 to {MAX_FOLDS}")
    fold_of = np.zeros(len(rows.strata), np.int8)
    sizes, counts = np.zeros(k), np.zeros((k, len(rows.counts)))
    for group in rows.groups:
        found, numbers = np.unique(rows.strata[group], return_counts=True)
        have = (counts[:, found] / rows.counts[found] ** 2 * numbers).sum(axis=1)
        overflows = sizes + len(group) > math.ceil(len(rows.strata) / k)
        fold = np.lexsort((sizes, have.round(DIGITS), sizes * overflows, overflows))[0]
        fold_of[group] = fold
        sizes[fold] += len(group)
        counts[fold, found] += numbers
    for stratum, single in enumerate(rows.singles):
        queue = [(counts[fold, stratum], sizes[fold], fold) for fold in range(k)]
        heapq.heapify(queue)
        for row in single:
            count, size, fold = queue[0]
            fold_of[row] = fold
            heapq.heapreplace(queue, (count + 1, size + 1, fold))
        sizes += np.bincount(fold_of[single], minlength=k)
    if not sizes.all():
        num_groups = len(rows.groups) + sum(map(len, rows.singles))
        raise ValueError(
            f"{k} folds of {len(rows.strata):,} rows in {num_groups:,} groups, expected a group or "
            "more for each fold (rows of the same text are one group)"
        )
    return fold_of


class _Rows:
    """Rows in the order of their distribution.

    strata: [N], numbered by appearance. counts: [C] rows by stratum. groups: the rows of each group
    of several, the largest first. singles: the other rows by stratum. Both are shuffled otherwise.
    """

    def __init__(self, strata: np.ndarray, groups: np.ndarray, seed: int):
        self.strata = _by_appearance(strata)
        self.counts = np.bincount(self.strata)
        numbers = _by_appearance(groups)
        sizes = np.bincount(numbers)
        place = np.random.RandomState(seed).permutation(len(sizes))  # of each group
        order = np.lexsort((place[numbers], -sizes[numbers]))
        ends = np.cumsum(np.sort(sizes[sizes > 1])[::-1], dtype=int)
        *self.groups, singles = np.split(order, ends)
        by_stratum = singles[np.argsort(self.strata[singles], kind="stable")]
        num_singles = np.bincount(self.strata[singles], minlength=len(self.counts))
        self.singles = np.split(by_stratum, np.cumsum(num_singles)[:-1])


def _by_appearance(values: np.ndarray) -> np.ndarray:
    """Returns 0 for the first value and its equals, 1 for the next other one, and so on."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def rows_of_part(task: Task, part: Part, labels: Sequence, groups: np.ndarray) -> list[int]:
    """Returns the rows of a part of a task's train file in ascending order.

    labels: of all rows, as `Examples.labels`. groups: [N], the numbers of their groups. Raises
    ValueError as `held_out` and `folds`.
    """
    if task.has_label_sets:
        strata = strata_of_sets(labels)
    else:
        strata = strata_of_scores(labels) if task.is_regression else np.array(labels, np.int64)
    if part.num_folds:
        is_dev = folds(strata, groups, part.num_folds, SPLIT_SEED) == part.fold - 1
    else:
        is_dev = held_out(strata, groups, part.share, SPLIT_SEED)
    return np.flatnonzero(is_dev == part.is_dev).tolist()


# --- strata and groups ------------------------------------------------------------------------


def strata_of_scores(scores: Sequence[float]) -> np.ndarray:
    """Returns the bins of scores, [N] int64: about ten, equal scores in the same one."""
    levels = np.arange(1, BINS) / BINS
    edges = np.quantile(np.asarray(scores), levels, method="inverted_cdf")  # exact on any machine
    return np.searchsorted(np.unique(edges), scores)


def strata_of_sets(rows: Sequence[Iterable[Hashable]]) -> np.ndarray:
    """Returns the rarest label of each row, as [N] int64; rows without a label are one stratum.

    rows: the labels of each, or the types of the entities in it.
    """
    sets = [tuple(dict.fromkeys(row)) for row in rows]
    counts = Counter(label for labels in sets for label in labels)
    rank = {label: (count, number) for number, (label, count) in enumerate(counts.items())}
    rarest = (min((rank[label] for label in labels), default=(0, -1)) for labels in sets)
    return np.array([number for _, number in rarest], np.int64)


def linked_rows(texts: Sequence[Hashable], groups: Sequence[Hashable] = ()) -> np.ndarray:
    """Returns the number of each row's group, [N] int64.

    Rows with the same text or the same group belong together, over any number of steps.
    """
    parents = list(range(len(texts)))

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = row = parents[parents[row]]
        return row

    for values in (texts, groups):
        first: dict[Hashable, int] = {}
        for row, value in enumerate(values):
            one, other = root(row), root(first.setdefault(value, row))
            parents[max(one, other)] = min(one, other)
    return np.array([root(row) for row in range(len(texts))], np.int64)


def classes_missing(
    parts: Mapping[str, Mapping[float, int]], names: Sequence[str]
) -> Iterator[str]:
    """Yields a warning for each part without a row of a class of other parts.

    parts: the number of rows by class of each part, by its name.
    """
    present = {label for part in parts.values() for label in part}
    for name, part in parts.items():
        if lacks := [names[int(label)] for label in sorted(present - part.keys())]:
            yield f"{name} has no row with the label {shown_list(lacks)}, as there are too few"
