"""Tasks with a tag per word: named entities."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.data.examples import Examples
from finetune.data.tasks import Task
from finetune.data.tokens import Encoded, Padding, Tokens
from finetune.evaluation.dev_predictions import TokenTags, softmax
from finetune.tagging.tag_schemes import OUTSIDE, in_scheme, split_tag, tags_of
from finetune.task_types.entity_metrics import WORD_LIST, WordList, count_entities, total
from finetune.task_types.task_type import Decision, Predictions, TaskType
from finetune.task_types.windows import EncodedWords, encode_words

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label of tokens without a loss, as in transformers


class TokenClassification(TaskType):
    """A tag in IOB2 per word. Its first token has the label; labels: [T] int64."""

    auto_class = "AutoModelForTokenClassification"
    problem_type = None
    is_per_token = True

    # --- data ---

    def encode(
        self,
        task: Task,
        examples: Examples,
        tokenizer: "PreTrainedTokenizerBase",
        max_length: int,
        token_types: bool,
    ) -> EncodedWords:
        """Returns the windows of the texts.

        Words without tokens have no label: an entity begins at the first word that has one. Tags
        that no training text has, have none either.
        """
        data = encode_words(tokenizer, examples, max_length, token_types)
        if not examples.tags:
            return data
        numbers = {tag: number for number, tag in enumerate(task.labels)}
        labels = np.full(data.offsets[-1], IGNORED, np.int64)
        for places, tags in zip(_by_text(data, data.firsts), examples.tags, strict=True):
            there = np.flatnonzero(places >= 0)
            seen = in_scheme([tags[word] for word in there], "IOB2")
            labels[places[there]] = [numbers.get(tag, IGNORED) for tag in seen]
        return replace(data, labels=labels)

    def batch_labels(self, data: Encoded, indices: np.ndarray, padding: Padding) -> np.ndarray:
        """Returns [n, length] int64 labels, -100 for padding."""
        labels = Tokens({"labels": data.labels}, data.offsets)
        return replace(padding, values={"labels": IGNORED}).batch(labels, indices)["labels"]

    # --- loss ---

    def summed_loss(
        self, logits: "Tensor", labels: "Tensor", weights: "Tensor | None" = None
    ) -> "Tensor":
        """Returns the sum of the cross entropies. logits: [..., num_labels]; labels: [...]."""
        from torch.nn.functional import cross_entropy

        flat = logits.flatten(0, -2)
        return cross_entropy(flat, labels.flatten(), weights, ignore_index=IGNORED, reduction="sum")

    def num_targets(self, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
        return int((labels != IGNORED).sum())

    # --- scores ---

    def score(
        self, task: Task, outputs: np.ndarray, data: Encoded, decision: Decision
    ) -> dict[str, float]:
        counts = count_entities(data.examples.tags, predicted_tags(task, outputs, data))
        return {"entity_f1": total(counts).f1}

    def details(
        self, task: Task, outputs: np.ndarray, data: Encoded, decision: Decision
    ) -> dict[str, Any]:
        """Returns `precision`, `recall`, and those with `f1` and the `entities` of each type."""
        counts = count_entities(data.examples.tags, predicted_tags(task, outputs, data))
        of_all = total(counts)
        return {
            "precision": of_all.precision,
            "recall": of_all.recall,
            "per_type": {
                kind: {
                    "precision": found.precision,
                    "recall": found.recall,
                    "f1": found.f1,
                    "entities": found.true,
                }
                for kind, found in counts.items()
            },
        }

    def predictions(
        self, task: Task, outputs: np.ndarray, data: Encoded, decision: Decision
    ) -> Predictions:
        """Returns the tags of each text, joined by blanks, spelled as in `task.labels`."""
        return [
            (str(number), " ".join(task.labels[tag] for tag in tags))
            for number, tags in enumerate(predicted_tags(task, outputs, data))
        ]

    def dev_predictions(
        self, task: Task, outputs: np.ndarray, data: Encoded, decision: Decision
    ) -> TokenTags:
        """Returns the tags of all words; the probability is 0 for a word without tokens."""
        assert isinstance(data, EncodedWords)
        there, lengths = data.firsts >= 0, [len(tags) for tags in data.examples.tags]
        probabilities = np.zeros(len(there))
        probabilities[there] = softmax(outputs[data.firsts[there]]).max(axis=1)
        return TokenTags(
            rows=np.repeat(np.arange(len(lengths)).astype(str), lengths),
            tokens=np.concatenate([np.arange(length) for length in lengths]),
            labels=np.array([tag for tags in data.examples.tags for tag in tags]),
            predictions=np.array([t for tags in predicted_tags(task, outputs, data) for t in tags]),
            probabilities=probabilities,
        )

    def majority_baseline(
        self, task: Task, train: Encoded, dev: Mapping[str, Encoded]
    ) -> dict[str, Any]:
        """Returns the score of looking up the entities of the training texts, see `WordList`."""
        known = WordList(zip(_words(train.examples), train.examples.tags, strict=True))
        scores = []
        for data in dev.values():
            found = [tags_of(known.spans(words), len(words)) for words in _words(data.examples)]
            scores.append(total(count_entities(data.examples.tags, found)).f1)
        return {"label": WORD_LIST, "score": sum(scores) / len(scores)}


def predicted_tags(task: Task, outputs: np.ndarray, data: Encoded) -> list[list[str]]:
    """Returns the tags of each text in valid IOB2, one per word. outputs: [T, num_labels].

    A word without tokens is O, or inside of the entity around it.
    """
    assert isinstance(data, EncodedWords)
    names = list(task.labels)
    there = data.firsts >= 0
    classes = np.full(len(there), -1)
    classes[there] = outputs[data.firsts[there]].argmax(axis=1)
    return [
        in_scheme(_filled([names[number] if number >= 0 else "" for number in text]), "IOB2")
        for text in _by_text(data, classes)
    ]


def _filled(tags: list[str]) -> list[str]:
    """Returns tags with those of the words without tokens, which are empty."""
    filled, before, following = list(tags), [OUTSIDE], OUTSIDE
    for tag in tags:
        before.append(tag or before[-1])
    for place in reversed(range(len(tags))):
        if tags[place]:
            following = tags[place]
        else:
            prefix, kind = split_tag(following)
            goes_on = prefix == "I" and kind == split_tag(before[place])[1]
            filled[place] = following if goes_on else OUTSIDE
    return filled


def _by_text(data: EncodedWords, of_words: np.ndarray) -> list[np.ndarray]:
    return np.split(of_words, data.texts[1:-1])


def _words(examples: Examples) -> Iterator[Sequence[str]]:
    """Yields the words of each text."""
    for (text,), words in zip(examples.texts, examples.words, strict=True):
        yield [text[start:stop] for start, stop in words.tolist()]
