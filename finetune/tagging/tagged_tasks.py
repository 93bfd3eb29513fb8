"""The user's own tasks of named entities."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from configs.finetune_rules import TAGS
from finetune.data.custom_tasks import TaskKeys
from finetune.data.tasks import Split, Task
from finetune.tagging.tag_checks import TagFacts, facts_of_file
from finetune.tagging.tag_schemes import OUTSIDE, Span, tags_of
from finetune.tagging.tagged_files import tag_column_of
from pipeline.errors import ConfigError, StageError
from pipeline.user_files.file_checks import shown


def tagged_task(name: str, keys: TaskKeys) -> Task:
    """Returns FINETUNE.CUSTOM_TASKS.<name> as a task; its data_dir is the working directory.

    Its labels are the tags in IOB2 of the types in `labels`, or of those in `train`. The column of
    the tags is that of `train`, counted from 1, in all files. Reads all sentences; raises
    ConfigError for a file that `read_tagged` refuses, and for one without an entity to learn or to
    score.
    """
    key = f"FINETUNE.CUSTOM_TASKS.{name}"
    files = {"TRAIN": keys.train, "DEV": keys.dev} | ({"TEST": keys.test} if keys.test else {})
    facts, problems, column = {}, [], keys.tag_column
    for part, file in files.items():
        try:
            column = tag_column_of(Path(file), column) if part == "TRAIN" else column
            facts[part] = facts_of_file(file, column, part != "TEST", keys.labels or None)
            if part != "TEST" and not facts[part].entities:
                raise StageError(f"{file}: no entity, all tags are {OUTSIDE}")
        except StageError as error:
            problems.append(f"{key}.{part}: {error.cause}")
            if part == "TRAIN":
                break
    if problems:
        raise ConfigError(problems)
    labels = _labels(sorted(keys.labels or facts["TRAIN"].entities), key)
    split = {part: Split(part.lower(), (file,), tag_column=column) for part, file in files.items()}
    return Task(
        name=name,
        text_columns=(),
        label_column="",
        metrics=tuple(keys.metrics) or ("entity_f1",),
        num_train_rows=0,
        train=split["TRAIN"],
        dev=(split["DEV"],),
        test=(split["TEST"],) if keys.test else (),
        labels=labels,
        benchmark="",
        type=TAGS,
        scheme=_scheme(facts["TRAIN"]),
    )


def _labels(types: Sequence[str], key: str) -> Mapping[str, str]:
    """Returns the tags, and their spelling without blanks, for lines of tags.

    Raises ConfigError if two types are spelled alike.
    """
    spellings: dict[str, str] = {}
    for kind in types:
        spelling = "_".join(kind.split())
        if other := spellings.get(spelling):
            raise ConfigError(
                [f"{key}.LABELS: types {shown(other)!r} and {shown(kind)!r} differ in blanks alone"]
            )
        spellings[spelling] = kind
    tags = [tag for kind in types for tag in tags_of([Span(kind, 0, 2)], 2)]
    return {tag: "_".join(tag.split()) for tag in (OUTSIDE, *tags)}


def _scheme(train: TagFacts) -> str:
    assert train.scheme
    return train.scheme.scheme
