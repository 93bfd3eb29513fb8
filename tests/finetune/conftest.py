"""A checkpoint small enough to be finetuned in seconds, with a tokenizer for the demo's words."""

import re
from pathlib import Path

import pytest

from finetune.data.demo_glue import demo_files


@pytest.fixture(scope="module")
def one_thread():
    """More threads only wait for each other in a small model, for long on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> str:
    return build_tiny_model(tmp_path_factory.mktemp("tiny_model"))


def build_tiny_model(folder: Path) -> str:
    """A random pre-LN model (2 layers x 32) with a WordPiece tokenizer. Returns its folder."""
    folder.mkdir(exist_ok=True)
    from transformers import RobertaPreLayerNormConfig, RobertaPreLayerNormForMaskedLM, set_seed

    tokenizer = build_tokenizer(folder)
    set_seed(0)
    config = RobertaPreLayerNormConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=66,
        type_vocab_size=2,
        pad_token_id=0,
    )
    RobertaPreLayerNormForMaskedLM(config).save_pretrained(folder)
    return str(folder)


def build_tokenizer(folder: Path):
    from transformers import BertTokenizerFast

    words = sorted({w for t in demo_files().values() for w in re.findall(r"\w+|[.,:?]", t.lower())})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    return tokenizer
