"""A task of words with accents: what pretraining knows is known in finetuning, so it is learnt.

A class that is called after a model would drop the tokenizer's own normalisation, make [UNK] of
the words that matter, and leave a task at chance that is easy.
"""

import json
import random
from dataclasses import replace

import pytest

from dataset.tokenizers.build import build_tokenizer
from finetune.data.custom_tasks import TaskKeys, custom_task
from finetune.search.job_folder import InputPaths
from finetune.training.training import finetune_task
from pretrain.model.export import _write_tokenizer
from tests.dataset.tokenizer_folders import BERT, BERT_NAMES, KEEPS_ACCENTS, saved, wordpiece, write
from tests.finetune.training.test_training import SETTINGS

pytestmark = pytest.mark.usefixtures("one_thread")
WORDS = ["größe", "schön", "haus", "läuft", "müller", "şehir"]
CONFIGS = {
    "tokenizer.json alone": {},
    "the plain class": {"tokenizer_class": "PreTrainedTokenizerFast", **BERT_NAMES},
    "BERT's class": {"tokenizer_class": "BertTokenizer", **BERT_NAMES},
}


def words_tokenizer() -> dict:
    content = json.loads(saved(wordpiece(KEEPS_ACCENTS)))
    content["model"]["vocab"] = {entry: i for i, entry in enumerate([*BERT, *WORDS])}
    return content


def write_rows(path, number: int, seed: int) -> str:
    """The label is which of the first two words a text has."""
    rng, lines = random.Random(seed), []
    for row in range(number):
        words = rng.choices(WORDS[2:], k=6)
        words[rng.randrange(6)] = WORDS[row % 2].capitalize()
        lines.append(json.dumps({"text": " ".join(words), "label": "ab"[row % 2]}))
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_an_easy_task_is_learnt_whatever_class_is_named(name, tmp_path):
    from transformers import RobertaPreLayerNormConfig, RobertaPreLayerNormForMaskedLM, set_seed

    settings = {"tokenizer_config__json": CONFIGS[name]} if CONFIGS[name] else {}
    write(tmp_path / "source", tokenizer__json=words_tokenizer(), **settings)
    build_tokenizer(str(tmp_path / "source"), True, tmp_path / "tokenizer")
    set_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = RobertaPreLayerNormConfig(
        vocab_size=11, intermediate_size=64, max_position_embeddings=66, pad_token_id=0, **sizes
    )
    model = tmp_path / "model"
    RobertaPreLayerNormForMaskedLM(config).save_pretrained(model)
    _write_tokenizer(tmp_path / "tokenizer", model, 64, True)
    train = write_rows(tmp_path / "train.jsonl", 600, 1)
    dev = write_rows(tmp_path / "dev.jsonl", 60, 2)
    task = custom_task("mine", TaskKeys(train, dev, ["text"]))
    source = InputPaths(str(model), str(model), ".")
    run = replace(SETTINGS, epochs=6, batch_size=16)
    outcome = finetune_task(task, source, run, lambda line: None)
    assert outcome.dev["dev"] == {"accuracy": 1.0}
