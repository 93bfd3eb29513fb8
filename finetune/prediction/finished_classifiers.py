"""Loads a classifier to predict with: one finetuned here, or any of transformers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.data.encoding import file_stamps, load_tokenizer
from finetune.data.tasks import Split, Task
from finetune.task_types.task_type import Decision
from finetune.task_types.task_types import TASK_TYPES
from finetune.training.classifiers import takes_token_types, usable_length
from finetune.training.finished_model import TASK_KEY
from pipeline.errors import StageError
from pipeline.hub.models import find_model, local_model, refusing_code
from pipeline.hub.requests import first_line
from pipeline.user_files.file_checks import shown, shown_list

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

KEY = "MODEL"  # the argument, in messages
UNLIMITED_LENGTH = 512  # tokens for a model and a tokenizer without a limit
BATCH_TOKENS = 1 << 14  # for models from elsewhere
SEPARATORS, TAB = (",", ";", "|"), "\t"
LAST_COLUMN = -1  # of files with a token in each line


@dataclass(frozen=True)
class FinishedClassifier:
    """A model with a trained head, and its task.

    task: without columns if the model does not say them. max_length: tokens per sample.
    batch_tokens: as in the predictions of its training.
    """

    folder: str
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    task: Task
    decision: Decision
    max_length: int
    batch_tokens: int

    @property
    def token_types(self) -> bool:
        return takes_token_types(self.model)

    @property
    def stamps(self) -> list[list[Any]]:
        """Names, times and sizes of the model's files."""
        return [[Path(name).name, *rest] for name, *rest in file_stamps(Path(self.folder))]


def load_classifier(name: str) -> FinishedClassifier:
    """Loads a model on the CPU. name: a folder, that of a finetuning run, or a name on the Hub.

    Raises ConfigError for a folder without a model, StageError for a model without a trained head,
    of a type that cannot be predicted, or with its own code.
    """
    folder = str(find_model(name, Path(), KEY) or local_model(name, KEY)[0])
    model, facts = _load_model(folder)
    tokenizer = load_tokenizer(folder)
    task = _task(folder, model.config, facts)
    length = usable_length(model, tokenizer.model_max_length)
    return FinishedClassifier(
        folder=folder,
        model=model,
        tokenizer=tokenizer,
        task=task,
        decision=facts.get("decision", {}),
        max_length=length if length < 1 << 24 else UNLIMITED_LENGTH,
        batch_tokens=facts.get("batch_tokens", BATCH_TOKENS),
    )


def _load_model(folder: str) -> tuple["PreTrainedModel", Mapping[str, Any]]:
    """Returns the model, and the facts on its task if it was finetuned here."""
    import torch
    import transformers
    from safetensors import SafetensorError
    from transformers import AutoConfig, logging

    from pretrain.model.modeling_extremebert import register

    register()  # so that our own architecture loads too
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with refusing_code(folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        facts = getattr(config, TASK_KEY, None) or {}
        task_type = TASK_TYPES[_type_name(folder, config, facts)]
        try:
            model, report = getattr(transformers, task_type.auto_class).from_pretrained(
                folder,
                dtype=torch.float32,
                trust_remote_code=False,
                weights_only=True,
                output_loading_info=True,
            )
        except (RuntimeError, SafetensorError) as error:
            raise StageError(
                f"{folder}: its weights are damaged or do not fit its config.json "
                f"({first_line(error)})"
            ) from error
    if missing := sorted(report["missing_keys"]):
        raise StageError(
            f"{folder}: has no trained weights for {shown_list(missing)}, expected a finetuned "
            "classifier; a pretrained model has to be finetuned first (docs/TASKS.md)"
        )
    return model, facts


def _type_name(folder: str, config: "PretrainedConfig", facts: Mapping[str, Any]) -> str:
    """Returns the type of task, of a model from elsewhere by its config.

    Raises StageError for a type that is not known here.
    """
    architecture = (config.architectures or [""])[0]
    if facts:
        name = str(facts.get("type"))
    elif architecture.endswith("ForTokenClassification"):
        name = "token_classification"
    elif config.problem_type == "multi_label_classification":
        name = "multi_label"
    else:
        name = "regression" if config.num_labels == 1 else "classification"
    if name not in TASK_TYPES:
        raise StageError(
            f"{folder}: its task is of the type {shown(name)}, expected one of "
            f"{shown_list(TASK_TYPES)}"
        )
    return name


def _separator(words: Sequence[str]) -> str:
    """Returns a separator of labels that no label contains."""
    return next((mark for mark in SEPARATORS if not any(mark in word for word in words)), TAB)


def _task(folder: str, config: "PretrainedConfig", facts: Mapping[str, Any]) -> Task:
    found: dict[Any, Any] = dict(config.id2label or {})
    words = [str(found[number]) for number in sorted(found)]
    name = _type_name(folder, config, facts)
    if name == "regression":
        words = []
    if len(set(words)) < len(words):
        raise StageError(f"{folder}: several labels have one name in {shown_list(words)}")
    low, high = facts.get("score_range") or (float("-inf"), float("inf"))
    return Task(
        name=facts.get("name", Path(folder).name),
        text_columns=tuple(facts.get("text_columns", ())),
        label_column="",
        metrics=(),
        num_train_rows=0,
        train=Split("", (), tag_column=facts.get("tag_column", LAST_COLUMN)),
        dev=(),
        test=(),
        labels={word: word for word in words},
        score_range=(low, high),
        benchmark="",
        type=name,
        scheme=facts.get("scheme", "IOB2"),
        separator=facts.get("label_separator") or _separator(words),
    )
