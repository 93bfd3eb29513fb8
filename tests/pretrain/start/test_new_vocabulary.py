"""A checkpoint with another tokenizer than the data."""

from types import SimpleNamespace

import pytest
import torch

from configs.defaults import get_default_config
from dataset.tokenizers.load import load_tokenizer
from pipeline.errors import StageError
from pretrain.start.completion import notes_on_vocabulary, problems_of_vocabulary
from tests.dataset.dataset_helpers import save_bert_tokenizer
from tests.pretrain.shards import SPECIAL
from tests.pretrain.start.checkpoints import (
    CHECKPOINTS,
    NUM_ENTRIES,
    OF_TRANSFORMERS,
    started,
    write_checkpoint,
    write_tokenizer,
)
from tests.pretrain.start.test_exactness import loss_of_transformers, masked_batch

KINDS = {
    name: (CHECKPOINTS | OF_TRANSFORMERS)[name]
    for name in ("bert", "modernbert", "deberta-v2", "electra generator")
}


def _tokenizer(folder, words):
    save_bert_tokenizer([*SPECIAL, *words], False, folder)
    return folder


@pytest.mark.parametrize("name", KINDS)
def test_the_same_words_in_another_order_give_the_same_loss(tmp_path, name):
    model_type, entries = KINDS[name]
    old = write_checkpoint(tmp_path / "old", model_type, **entries)
    words = [f"w{number}" for number in range(NUM_ENTRIES - len(SPECIAL))]
    new = _tokenizer(tmp_path / "new", words[::-1])
    input_ids, segments, mask, index, labels = batch = masked_batch(0)
    ids = load_tokenizer(new).tokenizer.get_vocab()
    moved = torch.tensor([ids[entry] for entry in [*SPECIAL, *words]])
    run = started(old, new)
    assert not run.start.own_vocabulary and run.settings.vocab_size == NUM_ENTRIES
    found = run.model(moved[input_ids], segments, mask, index, moved[labels]).item()
    # The checkpoint has rows without an entry, which the new model has not.
    assert found < loss_of_transformers(old, batch)
    assert found == pytest.approx(_loss_of_entries(old, batch), abs=1e-5)


def _loss_of_entries(folder, batch):
    """Returns the loss of transformers over the entries of the tokenizer alone."""
    from transformers import AutoModelForMaskedLM

    input_ids, segments, mask, index, labels = batch
    model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = {"input_ids": input_ids, "attention_mask": mask.long()}
    if getattr(model.config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = segments
    with torch.no_grad():
        logits = model(**inputs).logits.flatten(0, 1)[index, :NUM_ENTRIES]
    return torch.nn.functional.cross_entropy(logits, labels).item()


def test_new_words_are_means_of_their_pieces(tmp_path):
    old = write_checkpoint(tmp_path / "old", "bert")
    new = _tokenizer(tmp_path / "new", ["w7", "w1.w2", "w3"])
    run = started(old, new, VOCABULARY_TRANSFER="mean")
    same = started(old).model.encoder.embeddings.word.weight
    rows = run.model.encoder.embeddings.word.weight
    first = len(SPECIAL)
    assert torch.equal(rows[first], same[first + 7])
    # "." is unknown to the old tokenizer.
    torch.testing.assert_close(rows[first + 1], same[[first + 1, first + 2]].mean(0))


def test_a_checkpoint_with_fewer_rows_than_entries_is_an_error(tmp_path):
    old = write_checkpoint(tmp_path / "old", "bert", vocab_size=NUM_ENTRIES)
    write_tokenizer(old, num_entries=NUM_ENTRIES + 1)
    with pytest.raises(StageError, match="has 61 word embeddings, fewer than the 62 entries"):
        started(old, _tokenizer(tmp_path / "new", ["w1"]))


# --- the plan ----------------------------------------------------------------------------------


def _config(old, **tokenizer):
    config = get_default_config()
    config.PRETRAIN.START_FROM = str(old)
    config.TOKENIZER.update(tokenizer)
    return config, SimpleNamespace(folder=old)


def test_the_plan_says_how_many_entries_are_shared(tmp_path):
    old = write_tokenizer(tmp_path / "old")
    new = _tokenizer(tmp_path / "new", ["w7", "w8", "W9"])
    config, checkpoint = _config(old, NAME_OR_PATH=str(new))
    expected = "another vocabulary than the checkpoint's: 7 of 8 entries are shared, others: focus"
    assert [*notes_on_vocabulary(config, checkpoint, None)] == [expected]
    trained, _ = _config(old, TRAIN=True)
    assert [*notes_on_vocabulary(trained, checkpoint, new)] == [expected]
    (before,) = notes_on_vocabulary(trained, checkpoint, None)
    assert before.startswith("entries that the new vocabulary shares")
    assert not [*problems_of_vocabulary(config, checkpoint)]


def test_the_plan_says_nothing_of_the_same_vocabulary(tmp_path):
    old = write_tokenizer(tmp_path / "old")
    for tokenizer in ({"NAME_OR_PATH": str(old)}, {"TRAIN": True}):
        config, checkpoint = _config(old, **tokenizer)
        assert not [*notes_on_vocabulary(config, checkpoint, old)]


def test_a_checkpoint_without_tokenizer_takes_no_trained_one(tmp_path):
    config, checkpoint = _config(tmp_path, TRAIN=True)
    (problem,) = problems_of_vocabulary(config, checkpoint)
    assert problem.startswith("TOKENIZER.TRAIN: PRETRAIN.START_FROM") and "no tokenizer" in problem
