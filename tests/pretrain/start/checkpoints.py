"""Small checkpoints of transformers with random weights, for tests of START_FROM."""

import shutil
from argparse import Namespace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import torch

from configs.defaults import get_default_config
from pretrain.model.vocabulary import read_vocabulary
from pretrain.settings import ModelSettings
from pretrain.start.completion import complete
from pretrain.start.initial_model import build_initial_model, find_start
from pretrain.training.metrics_file import SilentLog
from tests.dataset.dataset_helpers import save_bert_tokenizer
from tests.pretrain.shards import SPECIAL

NUM_ROWS, NUM_ENTRIES = 66, 61  # word embeddings, and entries of the tokenizer
SIZES = {
    "vocab_size": NUM_ROWS,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}
WINDOWS = {
    "local_attention": 6,
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 160000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    },
}
DEBERTA = {
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "position_biased_input": False,
    "position_buckets": 8,
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "type_vocab_size": 0,
}
# Name -> model type, and entries of its config.
CHECKPOINTS = {
    "bert": ("bert", {"layer_norm_eps": 1e-5}),
    "bert, relu, one segment": ("bert", {"hidden_act": "relu", "type_vocab_size": 1}),
    "pre-ln": ("roberta-prelayernorm", {"pad_token_id": 0}),
    "pre-ln, padding 1": ("roberta-prelayernorm", {"pad_token_id": 1}),
    "modernbert": ("modernbert", {**WINDOWS, "norm_eps": 1e-5}),
    "modernbert, biases, no windows": (
        "modernbert",
        {
            **dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"), True),
            "layer_types": ["full_attention"] * 4,
        },
    ),
    "modernbert, a window in every other layer": (
        "modernbert",
        {**WINDOWS, "layer_types": ["full_attention", "sliding_attention"] * 2},
    ),
}
OF_TRANSFORMERS = {
    "deberta-v2": ("deberta-v2", DEBERTA),
    "electra generator": ("electra", {"embedding_size": 16}),
    "roberta": ("roberta", {"pad_token_id": 1}),
    "distilbert": ("distilbert", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}),
    "bert, other segments": ("bert", {"type_vocab_size": 3}),
    "modernbert, some biases": ("modernbert", {"norm_bias": True}),
}


def write_checkpoint(folder: Path, model_type: str, dtype=torch.float32, **entries) -> Path:
    """Saves a model whose norms and biases are random too, with a tokenizer."""
    from transformers import AutoConfig, AutoModelForMaskedLM

    torch.manual_seed(1)
    config = AutoConfig.for_model(model_type, **{**SIZES, **entries})
    model = AutoModelForMaskedLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.to(dtype).save_pretrained(folder)
    write_tokenizer(folder, pad=config.pad_token_id)
    return folder


def write_tokenizer(folder: Path, num_entries: int = NUM_ENTRIES, pad: int = 0) -> Path:
    special = SPECIAL if pad == 0 else [SPECIAL[1], SPECIAL[0], *SPECIAL[2:]]
    entries = [*special, *(f"w{number}" for number in range(num_entries - len(special)))]
    with TemporaryDirectory() as scratch:  # it replaces a folder as a whole
        save_bert_tokenizer(entries, False, Path(scratch) / "tokenizer")
        shutil.copytree(Path(scratch) / "tokenizer", folder, dirs_exist_ok=True)
    return folder


def completed_config(start_from: Path, length: int = 16, **values):
    """The config for a checkpoint; values: of keys of MODEL."""
    config = get_default_config()
    config.PRETRAIN.START_FROM = str(start_from)
    config.DATASET.MAX_SEQ_LENGTH = length
    config.MODEL.update(values)
    problems = complete(config)
    assert problems == [], problems
    return config


def started(start_from: Path, tokenizer: Path | None = None, length: int = 16, **values):
    """The initial model of a run: its start, settings, model, and loaded tensors."""
    config = completed_config(start_from, length, **values)
    vocabulary = read_vocabulary(tokenizer or start_from)
    start = find_start(config.PRETRAIN.START_FROM, vocabulary)
    args = {key.lower(): value for key, value in config.MODEL.items()}
    model_type = args.pop("type")
    found = start.model_values(model_type, vocabulary.size, length)
    settings = ModelSettings.from_args(
        Namespace(**args, model_type=model_type, gradient_checkpointing=False),
        **found,
        max_seq_length=length,
        special_ids=vocabulary.special_ids,
    )
    torch.manual_seed(0)
    initial = build_initial_model(settings, 0, start, vocabulary.directory, [], SilentLog())
    return SimpleNamespace(
        config=config,
        start=start,
        settings=settings,
        model=initial.model.eval(),
        loaded=initial.loaded,
        tokenizer=vocabulary.directory,
    )
