"""Computes the benchmarks' metrics. An undefined value (of a constant prediction) counts as 0, as
on GLUE's leaderboard.

Tasks with several samples per row are scored per row (COPA), question (MultiRC) or query
(ReCoRD), as SuperGLUE's paper (arXiv 1905.00537, section 3.2) and the papers of the tasks say.
"""

import math
import re
import string
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np

from finetune.data.examples import Examples
from finetune.data.tasks import Task


def score_predictions(task: Task, outputs: np.ndarray, examples: Examples) -> dict[str, float]:
    """Returns the task's metrics, each within [-1, 1]. outputs: [N, num_labels] logits."""
    if task.layout == "choices":
        return {"accuracy": _choice_accuracy(outputs, examples)}
    if task.layout == "entities":
        return _entity_scores(outputs, examples)
    functions = _functions(examples)
    predictions = predicted_values(task, outputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about constant predictions, handled below
        values = {
            name: float(functions[name](examples.labels, predictions)) for name in task.metrics
        }
    return {name: value if math.isfinite(value) else 0.0 for name, value in values.items()}


def _functions(examples: Examples) -> dict[str, Callable[[Sequence, np.ndarray], float]]:
    """Returns functions of (labels, predictions), with one value per sample."""
    from scipy import stats
    from sklearn import metrics

    return {
        "accuracy": metrics.accuracy_score,
        "f1": metrics.f1_score,  # of class 1
        "f1_macro": lambda labels, values: metrics.f1_score(labels, values, average="macro"),
        "matthews_correlation": metrics.matthews_corrcoef,
        "pearson": lambda labels, scores: _correlation(stats.pearsonr, labels, scores),
        "spearman": lambda labels, scores: _correlation(stats.spearmanr, labels, scores),
        "f1a": metrics.f1_score,  # over all answers of all questions
        "exact_match": lambda labels, values: _question_matches(labels, values, examples.keys),
    }


def _correlation(function: Callable, labels: Sequence, scores: np.ndarray) -> float:
    return function(labels, scores).statistic if len(labels) > 1 else math.nan


def task_score(dev_metrics: Mapping[str, Mapping[str, float]]) -> float:
    """Returns the mean of a task's metrics over its dev sets. dev_metrics: split -> metrics."""
    return mean(mean(metrics.values()) for metrics in dev_metrics.values())


def majority_baseline(task: Task, train: Examples, dev: Mapping[str, Examples]) -> dict[str, Any]:
    """Returns the most frequent label in `train`, and the score of predicting nothing else.

    Of equally frequent labels, and for tasks with F1, the label with the highest score counts: F1
    of always predicting class 0 is 0, a baseline that any model beats. Returns {} for regressions
    and for tasks with several samples per row.
    """
    if task.is_regression or task.has_several_samples:
        return {}
    counts = np.bincount(np.array(train.labels, int), minlength=len(task.labels))
    labels = range(len(counts)) if "f1" in task.metrics else np.flatnonzero(counts == counts.max())
    scores = {int(label): _score_of_always(task, int(label), dev) for label in labels}
    winner = max(scores, key=lambda label: (scores[label], counts[label]))
    return {"label": list(task.labels)[winner], "score": scores[winner]}


def _score_of_always(task: Task, label: int, dev: Mapping[str, Examples]) -> float:
    scores = {}
    for split, examples in dev.items():
        outputs = np.zeros((len(examples.labels), len(task.labels)), np.float32)
        outputs[:, label] = 1
        scores[split] = score_predictions(task, outputs, examples)
    return task_score(scores)


def only_label(task: Task, outputs: Iterable[np.ndarray]) -> str:
    """Returns the label if a model predicts the same for all dev rows, else "".

    outputs: [N, num_labels] of each dev set. Returns "" for a single row, for regressions and for
    tasks with several samples per row.
    """
    if task.is_regression or task.has_several_samples:
        return ""
    found = [label for split in outputs for label in predicted_values(task, split)]
    return list(task.labels)[found[0]] if len(found) > 1 and len(set(found)) == 1 else ""


# --- predictions ------------------------------------------------------------------------------


def predicted_values(task: Task, outputs: np.ndarray) -> np.ndarray:
    """Returns [N] classes, or [N] scores within the task's range. outputs: [N, num_labels]."""
    if task.is_regression:
        return np.clip(outputs[:, 0], *task.score_range)
    return outputs.argmax(axis=1)


def predicted_rows(task: Task, outputs: np.ndarray, examples: Examples) -> list[tuple[str, str]]:
    """Returns (index, prediction) of each row of a test set; for MultiRC, of each answer.

    index: the row's position from 0 or its `idx` (see `Examples.keys`), MultiRC's
    `passage-question-answer`, ReCoRD's `idx` of the query. prediction: label word, score with 6
    decimals, COPA's choice (0 or 1), ReCoRD's entity.
    """
    if task.layout in ("choices", "entities"):
        winners = chosen_samples(outputs, examples.keys)
        return [(str(row), _one_line(examples.keys[i][1])) for row, i in winners.items()]
    values, words = predicted_values(task, outputs), list(task.labels)
    cells = [f"{value:.6f}" if task.is_regression else words[value] for value in values]
    keys = examples.keys or [(i,) for i in range(len(values))]
    return [("-".join(map(str, key)), cell) for key, cell in zip(keys, cells, strict=True)]


def _one_line(value: int | str) -> str:
    """Returns a cell of a TSV file; entities may span a line break of the passage."""
    return " ".join(str(value).split())


def chosen_samples(outputs: np.ndarray, keys: Sequence[tuple]) -> dict[int, int]:
    """Returns row -> position of its sample with the largest margin of class 1 over class 0.

    outputs: [N, 2]. Of equal margins the first counts.
    """
    margins = outputs[:, 1] - outputs[:, 0]
    best: dict[int, int] = {}
    for position, (row, _) in enumerate(keys):
        if row not in best or margins[position] > margins[best[row]]:
            best[row] = position
    return best


# --- metrics per row --------------------------------------------------------------------------


def _choice_accuracy(outputs: np.ndarray, examples: Examples) -> float:
    chosen = chosen_samples(outputs, examples.keys).values()
    return mean(float(examples.labels[position]) for position in chosen)


def _question_matches(labels: Sequence, values: np.ndarray, keys: Sequence[tuple]) -> float:
    """Returns the share of questions with no wrongly judged answer."""
    correct: dict[tuple, bool] = defaultdict(lambda: True)
    for key, label, value in zip(keys, labels, values, strict=True):
        correct[key[:2]] &= bool(label == value)
    return mean(map(float, correct.values()))


def _entity_scores(outputs: np.ndarray, examples: Examples) -> dict[str, float]:
    return {name: mean(values) for name, values in entity_matches(outputs, examples).items()}


def entity_matches(outputs: np.ndarray, examples: Examples) -> dict[str, list[float]]:
    """Returns the best match of each query with any of its right answers, by metric.

    The queries are in the order of `examples.answers`. A query without entities in its passage
    counts as 0.
    """
    chosen = chosen_samples(outputs, examples.keys)
    f1, exact = [], []
    for query, answers in examples.answers.items():
        entity = examples.keys[chosen[query]][1] if query in chosen else ""
        f1.append(max((token_f1(entity, answer) for answer in answers), default=0.0))
        exact.append(float(any(normalised(entity) == normalised(a) for a in answers)))
    return {"token_f1": f1, "exact_match": exact}


def token_f1(prediction: str, answer: str) -> float:
    """Returns the F1 of the words of two texts, after normalisation."""
    predicted, right = normalised(prediction).split(), normalised(answer).split()
    common = sum((Counter(predicted) & Counter(right)).values())
    return 2 * common / (len(predicted) + len(right)) if common else 0.0


def normalised(text: str) -> str:
    """Lower-cases, removes punctuation, articles and extra spaces (arXiv 1606.05250, section 6)."""
    kept = "".join(char for char in text.lower() if char not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())
