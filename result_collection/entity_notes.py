"""Notes of the summary on tasks of named entities."""

from collections.abc import Iterator, Mapping
from typing import Any

from finetune.task_types.entity_metrics import WORD_LIST
from pipeline.user_files.file_checks import shown_list
from result_collection.pages.numbers import points


def notes_on_entities(row: Mapping[str, Any]) -> Iterator[str]:
    """Yields the scores of the submitted run by type of entity, and the meaning of `majority`."""
    for found in row.get("details", {}).values():
        if "per_type" not in found:
            continue
        types = [
            f"{kind} {points(scores['f1'])} ({scores['entities']:,})"
            for kind, scores in found["per_type"].items()
        ]
        yield (
            f"{row['task']}: precision {points(found['precision'])}, recall "
            f"{points(found['recall'])}; f1 by type (and its entities): {shown_list(types)}"
        )
    if row["majority"] and row["majority"]["label"] == WORD_LIST:
        yield (
            f"{row['task']}: in place of a majority label, the entities of TRAIN are looked up in "
            f"the dev set, which scores {points(row['majority']['score'])}"
        )
