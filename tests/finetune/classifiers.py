"""Classifiers as others publish them."""

import re
from collections.abc import Sequence
from pathlib import Path

from finetune.data.demo_glue import demo_files
from tests.finetune.conftest import build_tokenizer

WORDS = sorted({w for t in demo_files().values() for w in re.findall(r"\w+", t.lower())})


def build_classifier_of_transformers(
    folder: Path, labels: Sequence[str], kind: str = "SequenceClassification", **config
) -> str:
    """A stock BERT (2 layers x 32) with large random weights: its logits differ. Returns its
    folder."""
    import transformers

    folder.mkdir(exist_ok=True)
    tokenizer = build_tokenizer(folder)
    tokenizer.model_max_length = 40
    tokenizer.save_pretrained(folder)
    transformers.set_seed(0)
    settings = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.3,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
        **config,
    )
    getattr(transformers, f"BertFor{kind}")(settings).save_pretrained(folder)
    return str(folder)
