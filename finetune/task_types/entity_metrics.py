"""Scores of named entities, as seqeval and conlleval compute them, and a baseline without a model.

A predicted entity counts only with exactly the words and the type of a true one.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from finetune.tagging.tag_schemes import Span, spans_of

WORD_LIST = "entities of TRAIN"  # in place of the label that a baseline always predicts
Tags = Sequence[str]
Words = Sequence[str]


class EntityCounts(NamedTuple):
    """Numbers of entities: predicted as they are, predicted at all, and true ones."""

    correct: int = 0
    predicted: int = 0
    true: int = 0

    @property
    def precision(self) -> float:
        return self.correct / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        return self.correct / self.true if self.true else 0.0

    @property
    def f1(self) -> float:
        """2 PR / (P + R); 0 without entities."""
        found = self.predicted + self.true
        return 2 * self.correct / found if found else 0.0


def count_entities(true: Iterable[Tags], predicted: Iterable[Tags]) -> dict[str, EntityCounts]:
    """Returns the counts of each type of true or predicted entities, sorted. Any scheme of tags."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for of_true, of_predicted in zip(true, predicted, strict=True):
        spans, found = set(spans_of(of_true)), set(spans_of(of_predicted))
        for place, some in enumerate((spans & found, found, spans)):
            for span in some:
                counts[span.kind][place] += 1
    return {kind: EntityCounts(*counts[kind]) for kind in sorted(counts)}


def total(counts: Mapping[str, EntityCounts]) -> EntityCounts:
    """Returns the sums over all types: their scores are micro averages."""
    return EntityCounts(*map(sum, zip(*counts.values(), strict=True)))


# --- a baseline -------------------------------------------------------------------------------


class WordList:
    """Finds the entities of a training set in other texts, word by word and without a model.

    It is the baseline of CoNLL-2003 (Tjong Kim Sang and De Meulder, section 2.4): an entity with a
    single type in the training set is found wherever its words are; the longest one counts.
    """

    def __init__(self, texts: Iterable[tuple[Words, Tags]]):
        """texts: words and tags."""
        types: dict[tuple[str, ...], set[str]] = defaultdict(set)
        for words, tags in texts:
            for kind, start, stop in spans_of(tags):
                types[tuple(words[start:stop])].add(kind)
        self._types = {words: min(kinds) for words, kinds in types.items() if len(kinds) == 1}
        lengths: dict[str, set[int]] = defaultdict(set)
        for words in self._types:
            lengths[words[0]].add(len(words))
        self._lengths = {word: sorted(found, reverse=True) for word, found in lengths.items()}

    def spans(self, words: Words) -> Iterator[Span]:
        """Yields the entities of a text."""
        place = 0
        while place < len(words):
            stop = place + 1
            for length in self._lengths.get(words[place], ()):
                phrase = tuple(words[place : place + length])
                if len(phrase) == length and phrase in self._types:
                    stop = place + length
                    yield Span(self._types[phrase], place, stop)
                    break
            place = stop
