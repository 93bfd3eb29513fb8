"""Adds what a search tells about its best models to their cards."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.kept_models import kept_models
from finetune.search.grid import with_last_runs
from finetune.search.job_folder import RESULT
from finetune.search.search import Search
from finetune.training.task_card import is_unchanged, task_card
from pipeline.store.atomic_files import write_text
from pipeline.store.paths import MODEL_CARD
from pipeline.store.record_files import read_json, read_sealed


def add_to_cards(search: Search, summary: Mapping[str, Any]) -> None:
    """Writes the intervals of the scores and the number of runs into the cards of the kept best
    models; leaves cards alone that somebody has changed."""
    best = {row["task"]: row["submitted"]["setting"] for row in summary["tasks"]}
    models = kept_models(search, best)
    for row in summary["tasks"]:
        if (model := models.get(row["task"])) and _is_ours(model / MODEL_CARD):
            write_text(model / MODEL_CARD, _card(search, row, model))


def _is_ours(card: Path) -> bool:
    try:
        return is_unchanged(card.read_text(encoding="utf-8"))
    except (FileNotFoundError, UnicodeDecodeError):
        return False


def _card(search: Search, row: Mapping[str, Any], model: Path) -> str:
    setting = row["submitted"]["setting"]
    job = next(
        job
        for job in with_last_runs(search.jobs)
        if (job.task, job.setting) == (row["task"], setting)
    )
    run = search.make_run(job, None)
    result = read_sealed(model.parent / RESULT) or {}
    config = read_json(model / "config.json") or {}
    return task_card(run.task, run.settings, result, config, row)
