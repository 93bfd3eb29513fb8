"""Metrics as functions of how often each row counts, for resampling.

Most metrics are functions of sums over rows: of right, predicted and actual rows per class
(accuracy, F1, Matthews correlation), of products (Pearson), or of values per row. For these, the
sums of many resamples are one matrix product of weights and contributions of the rows. Spearman's
correlation and the average precision are computed on the weighted rows instead.

What is drawn together is a unit: a row, MultiRC's question with all its answers, a sentence with
all its tokens.

Beside the units, a metric of labels has DOUBTS rows in doubt: labels of randomly drawn units with
the prediction right or wrong by the toss of a coin. They have weight 0 in the metric itself. Why
resampling needs them: finetune/evaluation/resampling.py.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from finetune.evaluation.dev_predictions import (
    Classes,
    DevPredictions,
    LabelSets,
    Matches,
    Scores,
    TokenTags,
)
from finetune.evaluation.weighted_ranks import mean_average_precision, spearman
from finetune.tagging.tag_schemes import spans_of

SEED = 1729
DOUBTS = 100
Statistic = Callable[[np.ndarray], np.ndarray]
SIGNED = ("matthews_correlation", "pearson", "spearman")  # may be negative, down to -1


@dataclass(frozen=True)
class RowMetric:
    """A metric of a run on a dev set of `num_units` units.

    of: maps weights [B, num_units + DOUBTS] to the metric's values [B].
    """

    num_units: int
    of: Statistic

    @property
    def value(self) -> float:
        weights = np.zeros((1, self.num_units + DOUBTS))
        weights[:, : self.num_units] = 1
        return float(self.of(weights)[0])


def row_metrics(
    names: Iterable[str], predictions: DevPredictions, run: int = 0
) -> dict[str, RowMetric]:
    """Returns the metrics of these names (see `Task.metrics`) of a run on a dev set.

    run: its number among those compared; their coins are tossed separately. Raises KeyError for
    metrics of another kind of task.
    """
    if isinstance(predictions, Scores):
        found = _of_scores(predictions)
    elif isinstance(predictions, LabelSets):
        found = _of_label_sets(predictions, run)
    elif isinstance(predictions, Matches):
        found = _of_matches(predictions, run)
    elif isinstance(predictions, Classes):
        found = _of_classes(predictions, run)
    elif isinstance(predictions, TokenTags):
        found = _of_tags(predictions, run)
    else:
        raise TypeError(type(predictions).__name__)
    return {name: found[name] for name in names}


def _of_sums(contributions: np.ndarray, function: Statistic) -> RowMetric:
    """contributions: [num_units + DOUBTS, K]. function: maps sums [B, K] to values [B]."""
    return RowMetric(len(contributions) - DOUBTS, lambda weights: function(weights @ contributions))


def _doubts(num_units: int, run: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the units in doubt [DOUBTS], the same for all runs, and the coins [DOUBTS]."""
    units = np.random.default_rng([SEED, num_units]).integers(num_units, size=DOUBTS)
    return units, np.random.default_rng([SEED, num_units, run]).random(DOUBTS) < 0.5


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divides; x / 0 is 0, as GLUE counts undefined values."""
    is_defined = denominator > 0
    return np.where(is_defined, numerator / np.where(is_defined, denominator, 1), 0.0)


# --- one label per row -------------------------------------------------------------------------


def _of_classes(found: Classes, run: int) -> dict[str, RowMetric]:
    units = np.arange(len(found))
    if _is_multirc(found):
        questions = [row.rsplit("-", 1)[0] for row in found.rows.tolist()]
        units = np.unique(questions, return_inverse=True)[1]
    labels, predictions, units = _with_doubts(found, units, run)
    count = int(units[-1]) + 1
    is_wrong = np.bincount(units, labels != predictions, count) > 0
    matches = np.stack([~is_wrong, np.ones(count)], axis=1)
    sums = _class_sums(labels, predictions, units, len(found.words))
    f1 = _of_sums(sums, lambda total: _f1_by_class(_split(total))[:, 1])
    return {
        "accuracy": _of_sums(sums, lambda total: _accuracy(_split(total))),
        "f1": f1,  # of class 1
        "f1a": f1,  # over all answers of all questions
        "f1_macro": _of_sums(sums, lambda total: _macro_f1(_split(total))),
        "matthews_correlation": _of_sums(sums, lambda total: _matthews(_split(total))),
        "exact_match": _of_sums(matches, lambda total: _ratio(total[:, 0], total[:, 1])),
    }


def _is_multirc(found: Classes) -> bool:
    """True if rows are `passage-question-answer`."""
    return str(found.rows[0]).count("-") == 2


def _with_doubts(
    found: Classes, units: np.ndarray, run: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns labels, predictions and units of all samples, and then of the units in doubt.

    All samples of a doubtful unit are right, or all are wrong: of another label of the dev set.
    """
    num_units = int(units.max()) + 1
    doubted, coins = _doubts(num_units, run)
    samples = [np.flatnonzero(units == unit) for unit in doubted]
    places = np.concatenate(samples)
    owners = np.repeat(np.arange(DOUBTS), list(map(len, samples)))
    labels = found.labels[places]
    known = np.unique([found.labels, found.predictions])
    known = known if len(known) > 1 else np.arange(len(found.words))
    shift = np.random.default_rng([SEED, run]).integers(1, len(known), size=len(labels))
    others = known[(np.searchsorted(known, labels) + shift) % len(known)]
    predictions = np.where(coins[owners], labels, others)
    return (
        np.concatenate([found.labels, labels]),
        np.concatenate([found.predictions, predictions]),
        np.concatenate([units, num_units + owners]),
    )


def _class_sums(
    labels: np.ndarray, predictions: np.ndarray, units: np.ndarray, num_classes: int
) -> np.ndarray:
    """Returns [units, 3 C]: the right, the predicted and the actual samples of each class."""
    shape = (int(units.max()) + 1, num_classes)

    def counted(classes: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        places = np.ravel_multi_index((units, classes), shape)
        return np.bincount(places, weights, shape[0] * shape[1]).reshape(shape)

    right = counted(labels, labels == predictions)
    return np.concatenate([right, counted(predictions), counted(labels)], axis=1)


def _split(total: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns right, predicted and actual [B, C] of sums [B, 3 C]."""
    right, predicted, actual = np.split(total, 3, axis=1)
    return right, predicted, actual


Counts = tuple[np.ndarray, np.ndarray, np.ndarray]  # right, predicted and actual, [B, C] each


def _accuracy(counts: Counts) -> np.ndarray:
    right, _, actual = counts
    return _ratio(right.sum(axis=1), actual.sum(axis=1))


def _f1_by_class(counts: Counts) -> np.ndarray:
    right, predicted, actual = counts
    return _ratio(2 * right, predicted + actual)


def _macro_f1(counts: Counts) -> np.ndarray:
    """Returns the mean over the classes among labels or predictions."""
    _, predicted, actual = counts
    return _ratio(_f1_by_class(counts).sum(axis=1), (predicted + actual > 0).sum(axis=1))


def _micro_f1(counts: Counts) -> np.ndarray:
    right, predicted, actual = (count.sum(axis=1) for count in counts)
    return _ratio(2 * right, predicted + actual)


def _matthews(counts: Counts) -> np.ndarray:
    """Returns Gorodkin's R_K (doi 10.1016/j.compbiolchem.2004.09.006), as scikit-learn does."""
    right, predicted, actual = counts
    total = actual.sum(axis=1)
    covariance = right.sum(axis=1) * total - (predicted * actual).sum(axis=1)
    spread = (total**2 - (predicted**2).sum(axis=1)) * (total**2 - (actual**2).sum(axis=1))
    return _ratio(covariance, np.sqrt(spread))


# --- scores and values -------------------------------------------------------------------------


def _of_scores(found: Scores) -> dict[str, RowMetric]:
    """Without doubts: continuous scores are never all right."""
    count, labels, scores = len(found), found.labels, found.predictions
    x, y = labels - labels.mean(), scores - scores.mean()
    products = np.stack([np.ones(count), x, y, x * x, y * y, x * y], axis=1)
    none = np.zeros((DOUBTS, products.shape[1]))
    return {
        "pearson": _of_sums(np.concatenate([products, none]), _pearson),
        "spearman": RowMetric(count, lambda w: spearman(labels, scores, w[:, :count])),
    }


def _pearson(sums: np.ndarray) -> np.ndarray:
    """sums: [B, 6] of 1, x, y, x x, y y, x y."""
    n, x, y, xx, yy, xy = sums.T
    spread_x, spread_y = n * xx - x * x, n * yy - y * y
    # Differences of rounded sums: of a constant they are nearly, not exactly, 0.
    is_constant = (spread_x <= 1e-12 * n * xx) | (spread_y <= 1e-12 * n * yy)
    return np.where(is_constant, 0.0, _ratio(n * xy - x * y, np.sqrt(abs(spread_x * spread_y))))


def _of_matches(found: Matches, run: int) -> dict[str, RowMetric]:
    coins = np.repeat(_doubts(len(found), run)[1][:, None], len(found.names), axis=1)
    values = np.concatenate([found.values, coins])
    ones = np.ones(len(values))
    return {
        name: _of_sums(
            np.stack([values[:, i], ones], axis=1), lambda total: _ratio(total[:, 0], total[:, 1])
        )
        for i, name in enumerate(found.names)
    }


# --- any labels per row ------------------------------------------------------------------------


def _of_label_sets(found: LabelSets, run: int) -> dict[str, RowMetric]:
    """A doubtful row is predicted right, or with the labels of another row."""
    count, labels = len(found), np.asarray(found.labels, bool)
    doubted, coins = _doubts(count, run)
    strange = np.random.default_rng([SEED, run]).permutation(doubted)
    guesses = np.where(coins[:, None], labels[doubted], labels[strange])
    actual = np.concatenate([labels, labels[doubted]])
    predicted = np.concatenate([np.asarray(found.predictions, bool), guesses])
    sums = np.concatenate([actual & predicted, predicted, actual], axis=1).astype(np.float64)
    return {
        "f1_micro": _of_sums(sums, lambda total: _micro_f1(_split(total))),
        "f1_macro": _of_sums(sums, lambda total: _f1_by_class(_split(total)).mean(axis=1)),
        "average_precision": RowMetric(
            count, lambda w: mean_average_precision(labels, found.probabilities, w[:, :count])
        ),
    }


# --- tags of tokens ----------------------------------------------------------------------------


def _of_tags(found: TokenTags, run: int) -> dict[str, RowMetric]:
    """Returns `entity_f1` and the F1 of each type, `entity_f1:PER` say.

    An entity is right if its type, start and end are. A doubtful sentence has all its entities
    found, or as many wrong ones instead.
    """
    types, counts = entity_counts(found)
    doubted, coins = _doubts(len(counts), run)
    guesses = np.repeat(counts[doubted, 2:], 3, axis=1)  # as many as there are
    guesses[:, 0] *= coins[:, None]
    flat = np.concatenate([counts, guesses]).reshape(len(counts) + DOUBTS, -1)

    def of_type(i: int) -> RowMetric:
        return _of_sums(flat, lambda total: _f1_by_class(_split(total))[:, i])

    by_type = {f"entity_f1:{name}": of_type(i) for i, name in enumerate(types)}
    return {"entity_f1": _of_sums(flat, lambda total: _micro_f1(_split(total))), **by_type}


def entity_counts(found: TokenTags) -> tuple[list[str], np.ndarray]:
    """Returns the types of entities, and the right, the predicted and the actual ones of each
    sentence and type, [sentences, 3, types]."""
    sentences, units = np.unique(found.rows, return_inverse=True)
    order = np.lexsort((found.tokens, units))
    ends = np.cumsum(np.bincount(units))[:-1]
    actual, predicted = (
        [set(spans_of(part.tolist())) for part in np.split(tags[order], ends)]
        for tags in (found.labels, found.predictions)
    )
    types = sorted({span.kind for spans in (*actual, *predicted) for span in spans})
    place = {name: i for i, name in enumerate(types)}
    counts = np.zeros((len(sentences), 3, len(types)))
    for i, (right, guessed) in enumerate(zip(actual, predicted, strict=True)):
        for column, spans in enumerate((right & guessed, guessed, right)):
            for span in spans:
                counts[i, column, place[span.kind]] += 1
    return types, counts
