"""Tags in, labels of tokens, tags out; the loss is that of transformers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.tasks import Split, Task
from finetune.data.tokens import padding_of
from finetune.tagging.tag_schemes import in_scheme, spans_of
from finetune.task_types.task_types import TASK_TYPES
from finetune.task_types.token_labels import IGNORED, predicted_tags
from tests.finetune.task_types.test_windows import SENTENCE
from tests.finetune.task_types.tokenizers_of_words import TOKENIZERS, examples_of

TYPE = TASK_TYPES["token_classification"]
TAGS = ("O", "B-PER", "I-PER", "B-a place", "I-a place")
SPLIT = Split("train", ("x",), tag_column=2)
TASK = Task(
    name="mine",
    text_columns=(),
    label_column="",
    metrics=("entity_f1",),
    num_train_rows=0,
    train=SPLIT,
    dev=(SPLIT,),
    test=(),
    labels={tag: tag.replace(" ", "_") for tag in TAGS},
    benchmark="",
    type="token_classification",
)


def encoded(name: str, sentences, tags, length: int = 12):
    examples = examples_of(sentences, map(tuple, tags))
    return TYPE.encode(TASK, examples, TOKENIZERS[name], length, token_types=False)


def right_outputs(data) -> np.ndarray:
    """Logits of a model that makes no mistake where there are labels, and many elsewhere."""
    outputs = np.zeros((data.offsets[-1], len(TAGS)), np.float32)
    outputs[:, 3] = 1
    known = np.flatnonzero(data.labels != IGNORED)
    outputs[known, data.labels[known]] = 2
    return outputs


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(sorted(TOKENIZERS)), st.lists(SENTENCE, min_size=1, max_size=3))
def test_any_sentence_comes_back_with_a_tag_per_word_in_order(data, name, sentences):
    draw = st.lists(st.sampled_from(TAGS), min_size=7, max_size=7)
    tags = [in_scheme((data.draw(draw) * 50)[: len(words)], "IOB2") for words in sentences]
    split = encoded(name, sentences, tags)
    found = predicted_tags(TASK, right_outputs(split), split)
    assert list(map(len, found)) == list(map(len, sentences))
    assert found == [in_scheme(one, "IOB2") for one in found]
    there = np.split(split.firsts >= 0, split.texts[1:-1])
    for given_tags, predicted, seen in zip(tags, found, there, strict=True):
        if seen.all():
            assert predicted == given_tags
        kept = [tag for tag, is_there in zip(predicted, seen, strict=True) if is_there]
        expected = [tag for tag, is_there in zip(given_tags, seen, strict=True) if is_there]
        assert spans_of(kept) == spans_of(expected)  # as far as the model can see
    lines = TYPE.predictions(TASK, right_outputs(split), split, {})
    assert [index for index, _ in lines] == list(map(str, range(len(sentences))))
    assert [len(line.split(" ")) for _, line in lines] == list(map(len, sentences))


@pytest.mark.parametrize(
    ("tags", "labels", "back"),
    [
        ("B-PER I-PER I-PER", "B-PER - I-PER", "B-PER I-PER I-PER"),
        ("B-PER I-PER O", "B-PER - O", "B-PER O O"),
        ("O B-PER I-PER", "O - B-PER", "O O B-PER"),
        ("O B-PER O", "O - O", "O O O"),
        ("B-PER O B-PER", "B-PER - B-PER", "B-PER O B-PER"),
    ],
)
def test_a_word_without_tokens_is_within_an_entity_or_outside(tags, labels, back):
    data = encoded("word_piece", [["Mary", "\u200b", "Lee"]], [tags.split()])
    words = [TAGS[data.labels[place]] if place >= 0 else "-" for place in data.firsts]
    assert words == labels.split()
    assert (data.labels != IGNORED).sum() == 2
    assert predicted_tags(TASK, right_outputs(data), data) == [back.split()]


def test_each_word_has_one_label_in_all_windows_together():
    words = ["Mary", "lives", "in", "Oslo,"] * 50
    data = encoded("byte_level", [words], [["B-PER", "O", "O", "B-a place"] * 50])
    assert len(data) > 30
    labelled = data.labels[data.labels != IGNORED]
    assert sorted(labelled) == [0] * 100 + [1] * 50 + [3] * 50


def test_tags_of_no_label_are_not_learned_but_scored():
    data = encoded("word_piece", [["Mary", "lives"]], [["B-new", "O"]])
    assert data.labels[data.firsts].tolist() == [IGNORED, 0]
    assert TYPE.score(TASK, right_outputs(data), data, {}) == {"entity_f1": 0.0}
    details = TYPE.details(TASK, right_outputs(data), data, {})
    assert details["per_type"]["new"] == {
        **dict.fromkeys(("precision", "recall", "f1"), 0.0),
        "entities": 1,
    }


def test_the_baseline_looks_up_entities_of_the_training_set():
    train = encoded("word_piece", [["Mary", "Ann", "sang"]], [["B-PER", "I-PER", "O"]])
    dev = encoded("word_piece", [["Ann", "Mary", "Ann"]], [["B-PER", "B-PER", "I-PER"]])
    found = TYPE.majority_baseline(TASK, train, {"dev": dev})
    assert found["score"] == pytest.approx(2 / 3)  # one of two, and nothing wrong


# --- the loss ---------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_loss_is_that_of_transformers(side):
    from transformers import BertConfig, BertForTokenClassification

    sentences = [["Mary", "Ann", "lives", "in", "Oslo"] * 4, ["not", "Mary"], ["\u200b"]]
    tags = [["B-PER", "I-PER", "O", "O", "B-a place"] * 4, ["O", "B-new"], ["O"]]
    data = encoded("word_piece", sentences, tags)
    tokenizer = TOKENIZERS["word_piece"]
    tokenizer.padding_side = side
    padding = padding_of(tokenizer, 8)
    tokenizer.padding_side = "right"
    samples = np.arange(len(data))
    batch = {k: torch.from_numpy(v) for k, v in padding.batch(data, samples).items()}
    labels = TYPE.batch_labels(data, samples, padding)
    assert labels.shape == batch["input_ids"].shape
    assert TYPE.num_targets(labels) == TYPE.num_targets(data.labels) == 21  # all but two words
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=60, num_labels=5, intermediate_size=16, **sizes)
    torch.manual_seed(0)
    model = BertForTokenClassification(config).eval()
    output = model(**batch, labels=torch.from_numpy(labels))
    ours = TYPE.summed_loss(output.logits, torch.from_numpy(labels)) / TYPE.num_targets(labels)
    torch.testing.assert_close(ours, output.loss)
    flat = output.logits[batch["attention_mask"].bool()]  # as predictions have them
    summed = TYPE.summed_loss(flat, torch.from_numpy(data.labels)).item()
    assert summed == pytest.approx(21 * ours.item())
