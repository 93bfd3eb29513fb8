"""Loads and tokenizes splits, and caches them for all jobs of a worker process."""

import functools
from pathlib import Path

from finetune.data.encoding import file_stamps, load_tokenizer
from finetune.data.examples import find_file, load_examples
from finetune.data.model_tokenizer import check_agreement
from finetune.data.tasks import Split, Task
from finetune.data.tokens import Encoded
from finetune.task_types.task_types import type_of

CACHED_SPLITS = 32  # in a process: those of all tasks that it is likely to need again


def load_encoded(
    task: Task, split_name: str, data_dir: str, model: str, max_length: int, token_types: bool
) -> Encoded:
    """Returns a tokenized split. token_types: True for `token_type_ids`.

    Caches it until its file or the tokenizer changes: workers outlive searches.
    """
    split = next(split for split in task.splits if split.name == split_name)
    path = find_file(split, Path(data_dir)) if data_dir else None
    stamps = file_stamps(Path(model)), file_stamps(path) if path else ()
    return _load_encoded(task, split, data_dir, model, max_length, token_types, stamps)


@functools.lru_cache(maxsize=CACHED_SPLITS)
def _load_encoded(
    task: Task,
    split: Split,
    data_dir: str,
    model: str,
    max_length: int,
    token_types: bool,
    _stamps: tuple,
) -> Encoded:
    examples, tokenizer = load_examples(task, split, data_dir), load_tokenizer(model)
    check_agreement(model, tokenizer, examples.texts)
    return type_of(task).encode(task, examples, tokenizer, max_length, token_types)
