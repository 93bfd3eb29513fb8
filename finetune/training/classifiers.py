"""Loads a checkpoint as a model for a task, and limits the length of its samples."""

from typing import TYPE_CHECKING

from finetune.data.tasks import Task
from finetune.task_types.task_types import type_of
from pipeline.hub.models import refusing_code

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def build_classifier(model: str, task: Task, seed: int) -> "PreTrainedModel":
    """Returns the checkpoint's encoder with a head for the task; missing weights are random.

    The head of a checkpoint that is a classifier itself is kept if its labels have the same
    words, or no words. Raises StageError, as `refusing_code` does, for one with its own code.
    """
    import torch
    import transformers
    from transformers import AutoConfig, logging, set_seed

    from pretrain.model.modeling_extremebert import register

    register()  # so that our own architecture loads too
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    set_seed(seed)
    words, task_type = list(task.labels) or ["score"], type_of(task)
    auto_class = getattr(transformers, task_type.auto_class)
    with refusing_code(model):
        found = AutoConfig.from_pretrained(model, trust_remote_code=False).id2label
        built = auto_class.from_pretrained(
            model,
            num_labels=len(words),
            id2label=dict(enumerate(words)),
            label2id={word: i for i, word in enumerate(words)},
            problem_type=task_type.problem_type,
            ignore_mismatched_sizes=True,  # MNLI's head does not fit a task with two labels
            dtype=torch.float32,
            trust_remote_code=False,
            weights_only=True,
        )
    _match_head(built, [found[i] for i in sorted(found)], words)
    return built


def _match_head(model: "PreTrainedModel", found: list[str], words: list[str]) -> None:
    """Reorders the outputs of a head to the task's labels, or resets it if the labels differ.

    found: the checkpoint's labels; without names of their own they are taken as ours, in order.
    """
    import torch
    from torch import nn

    if len(found) != len(words) or found == words or found[0] == "LABEL_0":
        return
    linear = (module for module in model.modules() if isinstance(module, nn.Linear))
    head = [module for module in linear if module.out_features == len(words)][-1]
    if set(found) != set(words):
        nn.init.normal_(head.weight, std=getattr(model.config, "initializer_range", 0.02))
        if head.bias is not None:
            nn.init.zeros_(head.bias)
        return
    order = torch.tensor([found.index(word) for word in words])
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(parameter[order])


def usable_length(model: "PreTrainedModel", wanted: int) -> int:
    """Returns the wanted tokens per sample, or the model's number of positions if lower."""
    positions = getattr(model.config, "max_position_embeddings", None) or 0
    return min(wanted, positions - _reserved_positions(model)) if positions > 0 else wanted


def takes_token_types(model: "PreTrainedModel") -> bool:
    """True if a model tells the two texts of a pair apart by `token_type_ids`."""
    return (getattr(model.config, "type_vocab_size", 0) or 0) > 1


def _reserved_positions(model: "PreTrainedModel") -> int:
    """Returns the number of positions before the first token's.

    RoBERTa and its many relatives number their tokens from the padding's id + 1. Their position
    embeddings, unlike others, have a padding row.
    """
    for name, module in model.named_modules():
        row = getattr(module, "padding_idx", None)
        if name.split(".")[-1] == "position_embeddings" and row is not None:
            return row + 1
    return 0
