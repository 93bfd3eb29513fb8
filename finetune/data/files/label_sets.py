"""Counts and checks the labels of rows with any number of them.

The functions take the number of rows by set of labels, which are positions in `Task.labels`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

from finetune.data.tasks import Task
from pipeline.user_files.file_checks import shown, shown_list

Sets = Mapping[tuple[int, ...], int]
NAMED_MEANS = {
    "f1_macro": "counts as 0 in f1_macro",
    "average_precision": "is left out of average_precision",
}


def rows_by_label(sets: Sets) -> Counter[int]:
    """Returns the number of rows of each label with any."""
    counts: Counter[int] = Counter()
    for labels, number in sets.items():
        counts.update(dict.fromkeys(labels, number))
    return counts


def problem_with_sets(task: Task, sets: Sets, is_train: bool) -> str:
    """Returns the reason why a split teaches nothing or its score means nothing, or ""."""
    if is_train and len(sets) == 1:
        return f"all rows have {_in_words(task, sets)}, expected different ones"
    if sets and not any(sets):
        return f"no row has a label, with which {task.metrics[0]} is always 0, expected some"
    return ""


def _in_words(task: Task, sets: Sets) -> str:
    """Returns the labels of the only set in words."""
    words = list(task.labels)
    [labels] = sets
    return f"the labels {shown_list(words[i] for i in labels)}" if labels else "no label"


def notes_on_sets(
    task: Task, train: tuple[str, Sets] | None, dev: Mapping[str, Sets]
) -> Iterator[tuple[str, bool]]:
    """Yields notes, each with True for a warning. train, dev: the names and rows of the splits."""
    words = list(task.labels)
    for name, sets in ([train] if train else []) + list(dev.items()):
        yield f"{name}: {_counts(words, sets)}", False
    if train:
        name, sets = train
        if max(map(len, sets), default=0) < 2:
            mark = f"is LABEL_SEPARATOR, {task.separator!r}, the right one?"
            yield f"{name}: no row has several labels; {mark}", True
        if unseen := _without_rows(words, sets):
            yield f"{name}: no row has the label {unseen}, so no model can learn it", True
    for name, sets in dev.items():
        if len(sets) == 1:
            constant = _in_words(task, sets)
            yield (
                f"{name}: all rows have {constant}, so a model that always says so scores 100",
                True,
            )
        if unseen := _without_rows(words, sets):
            means = " and ".join(NAMED_MEANS.values())
            is_of_score = bool(NAMED_MEANS.keys() & set(task.metrics))
            yield f"{name}: no row has the label {unseen}, which {means}", is_of_score
    if task.num_folds:
        yield "with FOLDS, labels are predicted from a probability of 0.5 on", False


def _counts(words: list[str], sets: Sets) -> str:
    """Returns labels per row, rows without any, and the rows of each label, the rarest first."""
    counts, num_rows = rows_by_label(sets), sum(sets.values())
    mean = sum(counts.values()) / max(1, num_rows)
    without = f", none in {sets[()]:,}" if sets.get(()) else ""
    rarest = sorted(range(len(words)), key=lambda label: counts[label])
    by_label = shown_list(f"{shown(words[label])} {counts[label]:,}" for label in rarest)
    return f"{mean:.2f} labels per row{without}; rows by label: {by_label}"


def _without_rows(words: list[str], sets: Sets) -> str:
    counts = rows_by_label(sets)
    return shown_list(word for label, word in enumerate(words) if not counts[label])
