"""What a run gets wrong on a dev set, as JSON-able tables without any text of a row.

Each kind of predictions has some of these keys:

- `classes`: precision, recall and F1 of each class, label or type of entity, and its rows
- `confusion`: counts by label and prediction, of at most MOST_CLASSES; else `confusions`, the most
  frequent ones
- `reliability`: how often predictions of some probability are right
- `points`: label and prediction of scores
- `mistakes`: those with the highest probability (of scores, with the largest error), and
  `num_mistakes`, the number of all

Undefined values count as 0, as in the metrics.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune.evaluation.dev_predictions import (
    Classes,
    DevPredictions,
    LabelSets,
    Scores,
    TokenTags,
)
from finetune.evaluation.row_metrics import entity_counts

MOST_CLASSES = 12  # of a confusion matrix that fits on a page
MOST_CONFUSIONS = 20
MOST_ROWS = 100  # of a table of classes
MOST_MISTAKES = 40
MOST_POINTS = 500  # of a scatter plot
NUM_BINS = 10
DIGITS = 4

Counts = tuple[np.ndarray, np.ndarray, np.ndarray]  # right, predicted and actual, [C] each


def tables_of(found: DevPredictions) -> dict[str, Any]:
    """Returns the tables of a run's predictions on a dev set."""
    if isinstance(found, Classes):
        tables = _of_classes(found)
    elif isinstance(found, Scores):
        tables = _of_scores(found)
    elif isinstance(found, LabelSets):
        tables = _of_label_sets(found)
    elif isinstance(found, TokenTags):
        tables = _of_tags(found)
    else:  # the answers of ReCoRD are texts, and have no probability
        tables = {}
    return {"num_rows": len(np.unique(found.rows)), **tables}


def _of_classes(found: Classes) -> dict[str, Any]:
    confusion = np.zeros((len(found.words),) * 2, np.int64)
    np.add.at(confusion, (found.labels, found.predictions), 1)
    counts = confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1)
    shares = found.probabilities[np.arange(len(found)), found.predictions]
    is_right = found.labels == found.predictions
    labels, predictions = (
        [found.words[i] for i in part.tolist()] for part in (found.labels, found.predictions)
    )
    return {
        **_classes(found.words, counts),
        **_confusion(found.words, confusion),
        "reliability": reliability(shares, is_right),
        **_mistakes(found, shares, ~is_right, labels, predictions),
    }


def _confusion(words: Sequence[str], counts: np.ndarray) -> dict[str, Any]:
    """counts: [C, C] by label and prediction."""
    present = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
    if len(present) <= MOST_CLASSES:
        table = counts[np.ix_(present, present)].tolist()
        return {"confusion": {"labels": [words[i] for i in present.tolist()], "counts": table}}
    wrong = counts - np.diag(counts.diagonal())
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_CONFUSIONS].tolist()
    pairs = [divmod(place, len(words)) for place in order if wrong.flat[place]]
    return {
        "confusions": [
            {"label": words[i], "prediction": words[j], "rows": int(wrong[i, j])} for i, j in pairs
        ]
    }


def _of_scores(found: Scores) -> dict[str, Any]:
    errors = abs(found.predictions - found.labels)
    stride = -(-len(found) // MOST_POINTS)
    points = np.stack([found.labels, found.predictions], axis=1)[::stride].round(DIGITS)
    labels, predictions = (
        [f"{value:.{DIGITS}f}" for value in part] for part in (found.labels, found.predictions)
    )
    tables = _mistakes(found, errors, errors > 0, labels, predictions)
    for mistake in tables["mistakes"]:
        del mistake["probability"]
    return {
        "points": points.tolist(),
        "mean_absolute_error": round(float(errors.mean()), DIGITS),
        "mistakes": tables["mistakes"],
    }


def _of_label_sets(found: LabelSets) -> dict[str, Any]:
    labels, predictions = (np.asarray(part, bool) for part in (found.labels, found.predictions))
    counts = (labels & predictions).sum(0), predictions.sum(0), labels.sum(0)
    rows, columns = np.divmod(np.arange(labels.size), len(found.words))
    flat = found.taken(rows.tolist())  # an element for each row and label

    def named(is_there: np.ndarray) -> list[str]:
        pairs = zip(columns, is_there.ravel(), strict=True)
        return [found.words[i] if there else f"not {found.words[i]}" for i, there in pairs]

    shares = np.where(predictions, found.probabilities, 1 - found.probabilities).ravel()
    is_wrong = (labels != predictions).ravel()
    return {
        **_classes(found.words, counts),
        "reliability": reliability(found.probabilities.ravel(), labels.ravel()),
        **_mistakes(flat, shares, is_wrong, named(labels), named(predictions)),
    }


def _of_tags(found: TokenTags) -> dict[str, Any]:
    types, counts = entity_counts(found)
    right, predicted, actual = counts.sum(axis=0)
    is_right = found.labels == found.predictions
    tables = _mistakes(
        found, found.probabilities, ~is_right, found.labels.tolist(), found.predictions.tolist()
    )
    return {
        **_classes(types, (right, predicted, actual)),
        "reliability": reliability(found.probabilities, is_right),
        **tables,
    }


# --- parts -------------------------------------------------------------------------------------


def _classes(words: Sequence[str], counts: Counts) -> dict[str, Any]:
    """Returns the classes among labels or predictions: all, or those with most rows."""
    right, predicted, actual = (np.asarray(part, np.float64) for part in counts)
    present = np.flatnonzero(predicted + actual)
    kept = np.sort(present[np.argsort(-actual[present], kind="stable")][:MOST_ROWS])
    columns = {
        "precision": _ratio(right, predicted),
        "recall": _ratio(right, actual),
        "f1": _ratio(2 * right, predicted + actual),
    }
    rows = [
        {
            "label": words[i],
            **{name: round(float(values[i]), 6) for name, values in columns.items()},
            "rows": int(actual[i]),
        }
        for i in kept
    ]
    return {"classes": rows, "num_classes": len(present)}


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def reliability(probabilities: np.ndarray, is_right: np.ndarray) -> dict[str, Any]:
    """Returns the bins, and the expected calibration error: the mean difference of a bin's mean
    probability and its share of right ones (Naeini et al., AAAI 2015), weighted by rows.

    probabilities: [N]. is_right: [N] bool. The NUM_BINS bins have equally many rows (Nguyen and
    O'Connor, EMNLP 2015, D15-1182); equal probabilities are in the same bin.
    """
    order = np.argsort(probabilities, kind="stable")
    ranked, right = probabilities[order], is_right[order]
    cuts = ranked[np.arange(1, NUM_BINS) * len(ranked) // NUM_BINS]
    starts = np.unique(np.searchsorted(ranked, cuts))
    parts = zip(np.split(ranked, starts), np.split(right, starts), strict=True)
    bins = [
        {"probability": float(shares.mean()), "right": float(are_right.mean()), "rows": len(shares)}
        for shares, are_right in parts
        if len(shares)
    ]
    error = sum(abs(one["probability"] - one["right"]) * one["rows"] for one in bins)
    return {"bins": bins, "error": error / len(ranked)}


def _mistakes(
    found: DevPredictions,
    confidence: np.ndarray,
    is_wrong: np.ndarray,
    labels: Sequence[str],
    predictions: Sequence[str],
) -> dict[str, Any]:
    """All arguments have an element for each of the predictions."""
    wrong = np.flatnonzero(is_wrong)
    order = wrong[np.argsort(-confidence[wrong], kind="stable")][:MOST_MISTAKES]
    return {
        "mistakes": [
            {
                **_key(found, i),
                "label": labels[i],
                "prediction": predictions[i],
                "probability": round(float(confidence[i]), DIGITS),
            }
            for i in map(int, order)
        ],
        "num_mistakes": len(wrong),
    }


def _key(found: DevPredictions, place: int) -> dict[str, Any]:
    token = {"token": int(found.tokens[place])} if isinstance(found, TokenTags) else {}
    return {"row": str(found.rows[place]), **token}
