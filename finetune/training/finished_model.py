"""Saves a finetuned model: with its tokenizer, the task's facts and a card, ready to use."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.data.encoding import load_tokenizer
from finetune.data.tasks import Task
from finetune.kept_models import has_tags
from finetune.search.job_folder import TrainingSettings, new_model
from finetune.training.task_card import task_card
from finetune.training.training import Outcome
from pipeline.store.atomic_files import write_json, write_text
from pipeline.store.paths import MODEL_CARD
from pipeline.store.record_files import read_json
from pretrain.model.exported_code import write_code

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TASK_KEY = "finetuned_task"  # of config.json: facts on the task beside the labels' names


def save_finished(
    outcome: Outcome, task: Task, settings: TrainingSettings, tokenizer: str, folder: Path
) -> None:
    """Writes `model/` into a run's folder. tokenizer: its folder or its name on the Hub."""
    model, length = outcome.model, outcome.tokenization.max_seq_length
    setattr(model.config, TASK_KEY, _facts(task, outcome, settings))
    with new_model(folder) as aside:
        model.save_pretrained(aside)
        if type(model).__module__.startswith("pretrain."):  # our architecture, not a stock one
            write_code(aside)  # transformers copies only files with relative imports
        _save_tokenizer(load_tokenizer(tokenizer), aside)
        _limit_length(aside / "tokenizer_config.json", length)
        config = read_json(aside / "config.json") or {}
        card = task_card(task, settings, outcome.as_json(), config)
        write_text(aside / MODEL_CARD, card)


def _facts(task: Task, outcome: Outcome, settings: TrainingSettings) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "name": task.name,
        "type": task.type,
        "text_columns": list(task.text_columns),
        "decision": dict(outcome.decision),
        "batch_tokens": settings.eval_batch_size * settings.max_seq_length,
    }
    if task.is_regression:
        facts["score_range"] = list(task.score_range)
    if task.has_label_sets:
        facts["label_separator"] = task.separator
    if has_tags(task):
        facts |= {"scheme": task.scheme, "tag_column": task.train.tag_column}
    return facts


def _save_tokenizer(tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Saves a tokenizer without the truncation and padding of its last call, which it keeps."""
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(folder)


def _limit_length(path: Path, length: int) -> None:
    """Sets the length of the training, at which pipelines and `finetune.predict` truncate."""
    write_json(path, {**(read_json(path) or {}), "model_max_length": length})
