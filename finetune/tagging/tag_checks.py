"""Reads the tagged files of a task before it runs: counts entities, finds what misleads a score."""

import functools
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from finetune.data.encoding import file_stamps
from finetune.data.tasks import Split, Task
from finetune.tagging.tag_schemes import FoundScheme, spans_of, split_tag
from finetune.tagging.tagged_files import iter_sentences, read_tagged
from pipeline.errors import StageError
from pipeline.user_files.file_checks import shown_list

FEW_ENTITIES = 100  # in a smaller dev set, one entity changes the score by more than half a point
MANY_SHARED = 0.5  # of the sentences of a dev set: worth a warning


class TagNote(NamedTuple):
    """warns: True if the user must not overlook it."""

    text: str
    warns: bool = False


@dataclass(frozen=True)
class TagFacts:
    """Facts about a file, or a folder of files.

    entities: number by type. scheme: None for a test set, where tags do not count. num_widened,
    first_widened: see `TaggedSentences`. texts: [num_rows] int64 hashes of the sentences,
    comparable within this process.
    """

    num_rows: int
    num_words: int
    entities: Mapping[str, int]
    scheme: FoundScheme | None
    num_widened: int
    first_widened: str
    texts: np.ndarray


def tag_facts(task: Task) -> dict[Split, TagFacts]:
    """Returns the facts of each split. Raises StageError as `facts_of_file`."""
    return {
        split: facts_of_file(split.files[0], split.tag_column, split not in task.test)
        for split in task.splits
    }


def facts_of_file(
    path: str, tag_column: int, has_tags: bool, types: Collection[str] | None = None
) -> TagFacts:
    """Reads a file, or a folder of files, unless this process has read it as it is.

    types: the known ones, if not all are. Raises StageError as `read_tagged`, and for a test set
    as `iter_sentences`; both need a sentence.
    """
    known = None if types is None else tuple(types)
    return _facts(path, tag_column, has_tags, known, file_stamps(Path(path)))


@functools.cache
def _facts(
    path: str, tag_column: int, has_tags: bool, types: tuple[str, ...] | None, _stamps: tuple
) -> TagFacts:
    read = read_tagged(Path(path), tag_column, types) if has_tags else None
    entities: Counter[str] = Counter()
    num_words, texts = 0, []
    for sentence in read.sentences if read else iter_sentences(Path(path), tag_column):
        num_words += len(sentence.tokens)
        texts.append(hash(sentence.tokens))
        if read:
            entities.update(span.kind for span in spans_of(sentence.tags or ()))
    if not texts:
        raise StageError(f"{path}: no sentence")
    return TagFacts(
        len(texts),
        num_words,
        dict(sorted(entities.items())),
        read.scheme if read else None,
        read.num_widened if read else 0,
        read.first_widened if read else "",
        np.array(texts, np.int64),
    )


# --- notes ------------------------------------------------------------------------------------


def notes_on_tags(task: Task) -> Iterator[TagNote]:
    """Yields numbers of sentences and entities, and reasons for misleading scores."""
    facts = tag_facts(task)
    for split, found in facts.items():
        words = f"{_counted(found.num_rows, 'sentence')}, {_counted(found.num_words, 'word')}"
        listed = shown_list(f"{kind} {number:,}" for kind, number in found.entities.items())
        yield TagNote(f"{split.name} {words}{f', entities: {listed}' if listed else ''}")
    for split, found in facts.items():
        yield from _notes_on_scheme(task, split, found)
    train = facts[task.train]
    for split in task.dev:
        yield from _notes_on_dev(task, split, facts[split], train)
    if unseen := [kind for kind in types_of(task) if kind not in train.entities]:
        yield TagNote(f"{task.train.files[0]}: no entity of {shown_list(unseen)} of LABELS", True)


def types_of(task: Task) -> list[str]:
    """Returns the types of entities that the task's tags name."""
    return list(dict.fromkeys(kind for _, kind in map(split_tag, task.labels) if kind))


def _notes_on_scheme(task: Task, split: Split, found: TagFacts) -> Iterator[TagNote]:
    file, scheme = split.files[0], found.scheme
    if scheme and (split == task.train or scheme.scheme != task.scheme):
        column = f" in column {split.tag_column}" if split.tag_column > 0 else ""
        yield TagNote(f"{file}: tags{column} are {scheme.scheme}")
    if scheme and scheme.num_invalid:
        yield TagNote(
            f"{file}: {_counted(scheme.num_invalid, 'tag')} against {scheme.scheme}, the first at "
            f"{scheme.first_invalid}; they are read as conlleval and seqeval do",
            True,
        )
    if found.num_widened:
        yield TagNote(
            f"{file}: widened to whole words, {_counted(found.num_widened, 'span')}, the first at "
            f"{found.first_widened}"
        )


def _notes_on_dev(task: Task, split: Split, found: TagFacts, train: TagFacts) -> Iterator[TagNote]:
    file, number = split.files[0], sum(found.entities.values())
    unknown = {kind: count for kind, count in found.entities.items() if kind not in types_of(task)}
    if unknown:
        yield TagNote(
            f"{file}: {_counted(sum(unknown.values()), 'entity', 'entities')} of "
            f"{shown_list(unknown)}, which {task.train.files[0]} lacks, so no model can find them",
            True,
        )
    num_shared = int(np.isin(found.texts, train.texts).sum())
    if num_shared:
        yield TagNote(
            f"{file}: {num_shared:,} of {_counted(found.num_rows, 'sentence')} are also in "
            f"{task.train.files[0]}, which makes scores too high",
            num_shared >= MANY_SHARED * found.num_rows,
        )
    if number < FEW_ENTITIES:
        yield TagNote(
            f"{file}: {_counted(number, 'entity', 'entities')} only, so entity_f1 moves in steps "
            f"of about {50 / number:.1f} points"
        )


def _counted(number: int, one: str, several: str = "") -> str:
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"
