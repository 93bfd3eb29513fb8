"""Notes of the summary on tasks with several labels per text."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.user_files.file_checks import shown_list
from result_collection.pages.numbers import points

MEANS = ("f1_micro", "f1_macro", "average_precision")


def notes_on_label_sets(row: Mapping[str, Any]) -> Iterator[str]:
    """Yields the threshold, all mean scores, and the scores of the worst labels."""
    for found in row.get("details", {}).values():
        if "per_label" not in found:
            continue
        labels = found["per_label"]
        means = ", ".join(f"{name} {points(found[name])}" for name in MEANS)
        worst = sorted(labels, key=lambda name: labels[name]["f1"])
        scores = [
            f"{name} {points(labels[name]['f1'])} ({labels[name]['rows']:,})" for name in worst
        ]
        yield (
            f"{row['task']}: {means}; labels are predicted from a probability of "
            f"{found['threshold']:.4g} on; f1 by label (and its rows), the lowest first: "
            f"{shown_list(scores)}"
        )
        if without := [name for name in labels if not labels[name]["rows"]]:
            yield (
                f"{row['task']}: no dev row has the label {shown_list(without)}, which counts as 0 "
                "in f1_macro and is left out of average_precision"
            )
